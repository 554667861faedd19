//! A Redis Cluster: which of its servers a channel belongs to.

use std::io;

use ::redis::{Value, aio::MultiplexedConnection, cmd, from_redis_value};
use futures_util::future::try_join_all;

use super::{Listener, failed, servers::Servers};
use crate::backplane::{address::Host, subject::Subject};

const SLOTS: u16 = 16384;

/// The node of each slot, as an index. The map is as old as the connection: a server that is
/// asked for a slot which it does not have any more answers with an error, and that ends the link.
pub(super) struct Slots(Vec<u16>);

impl Slots {
    pub(super) fn node(&self, subject: &Subject) -> usize {
        // No subject has braces, which would name the part that counts.
        usize::from(self.0[usize::from(crc16(subject.as_str().as_bytes()) % SLOTS)])
    }
}

/// Connects to all primaries of the cluster that `first` is in.
pub(super) async fn connect(
    servers: &Servers,
    mut first: MultiplexedConnection,
    listener: &Listener,
) -> io::Result<(Vec<MultiplexedConnection>, Slots)> {
    let ranges = cmd("CLUSTER").arg("SLOTS").query_async(&mut first).await.map_err(failed)?;
    let (hosts, slots) = primaries(ranges)?;
    let nodes = hosts.iter().map(|host| servers.connect_to(host, listener));
    Ok((try_join_all(nodes).await?, slots))
}

/// Each range is its first and last slot, the primary and its replicas; a server its address, its
/// port and more.
fn primaries(ranges: Vec<Vec<Value>>) -> io::Result<(Vec<Host>, Slots)> {
    let mut hosts: Vec<Host> = Vec::new();
    let mut slots = vec![u16::MAX; usize::from(SLOTS)];
    for range in ranges {
        let (first, last, host) = read_range(range).ok_or_else(not_understood)?;
        let index = hosts.iter().position(|known| *known == host).unwrap_or(hosts.len());
        if index == hosts.len() {
            hosts.push(host);
        }
        let served = slots.get_mut(first..=last).ok_or_else(not_understood)?;
        served.fill(u16::try_from(index).map_err(|_| not_understood())?);
    }
    if slots.contains(&u16::MAX) {
        return Err(io::Error::other("the cluster does not serve all of its slots"));
    }
    Ok((hosts, Slots(slots)))
}

fn read_range(range: Vec<Value>) -> Option<(usize, usize, Host)> {
    let mut range = range.into_iter();
    let first = from_redis_value(range.next()?).ok()?;
    let last = from_redis_value(range.next()?).ok()?;
    let Value::Array(server) = range.next()? else { return None };
    let mut server = server.into_iter();
    let name = from_redis_value(server.next()?).ok()?;
    let port = Some(from_redis_value(server.next()?).ok()?);
    Some((first, last, Host { name, port }))
}

fn not_understood() -> io::Error {
    io::Error::other("the cluster's answer to CLUSTER SLOTS is not understood")
}

/// CRC-16/XMODEM, as the cluster's specification has it.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: i64, last: i64, port: i64) -> Vec<Value> {
        let name = Value::BulkString(b"127.0.0.1".to_vec());
        let server = Value::Array(vec![name, Value::Int(port), Value::BulkString(b"id".to_vec())]);
        vec![Value::Int(first), Value::Int(last), server]
    }

    #[test]
    fn a_channel_belongs_to_the_primary_of_its_slot() {
        // The example of the cluster's specification.
        assert_eq!(crc16(b"123456789"), 0x31c3);
        let ranges =
            vec![range(0, 8191, 7000), range(8192, 12000, 7001), range(12001, 16383, 7000)];
        let (hosts, slots) = primaries(ranges).unwrap();
        assert_eq!(
            hosts.iter().map(|host| host.port).collect::<Vec<_>>(),
            [Some(7000), Some(7001)]
        );
        assert_eq!((slots.0[8191], slots.0[8192], slots.0[16383]), (0, 1, 0));
    }

    #[test]
    fn a_cluster_that_is_not_whole_is_not_used() {
        for ranges in [vec![], vec![range(0, 16382, 1)], vec![range(0, 16384, 1)], vec![vec![]]] {
            assert!(primaries(ranges).is_err());
        }
    }
}
