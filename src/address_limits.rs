//! How much one internet address may ask for.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{bucket::Bucket, config::Config};

/// Connections and handshakes of each address. Off, it keeps nothing.
#[derive(Debug)]
pub(crate) struct AddressLimits {
    max_connections: u32,
    handshakes_per_second: u32,
    addresses: Mutex<Addresses>,
}

#[derive(Debug, Default)]
struct Addresses {
    entries: HashMap<Ipv6Addr, Entry>,
    sweep_at: usize,
}

#[derive(Debug)]
struct Entry {
    connections: u32,
    handshakes: Bucket,
}

/// An address's permission for one connection. Dropped, the connection no longer counts.
#[derive(Debug)]
pub(crate) struct Admitted {
    limits: Arc<AddressLimits>,
    address: Ipv6Addr,
}

impl AddressLimits {
    pub(crate) fn new(config: &Config) -> Arc<Self> {
        Arc::new(Self {
            max_connections: config.max_per_ip,
            handshakes_per_second: config.handshakes_per_second,
            addresses: Mutex::default(),
        })
    }

    /// Counts one more connection of an address; `Err` if that is too many or too soon. `None`
    /// where nothing is limited.
    pub(crate) fn admit(self: &Arc<Self>, address: IpAddr) -> Result<Option<Admitted>, TooMany> {
        let rate = self.handshakes_per_second;
        if self.max_connections == 0 && rate == 0 {
            return Ok(None);
        }
        let address = network(address);
        let mut addresses = self.lock();
        addresses.sweep();
        let entry = addresses
            .entries
            .entry(address)
            .or_insert_with(|| Entry { connections: 0, handshakes: Bucket::new(rate) });
        let crowded = self.max_connections > 0 && entry.connections >= self.max_connections;
        if crowded || rate > 0 && !entry.handshakes.take(1, rate, rate) {
            return Err(TooMany);
        }
        entry.connections += 1;
        drop(addresses);
        Ok(Some(Admitted { limits: Arc::clone(self), address }))
    }

    fn lock(&self) -> MutexGuard<'_, Addresses> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The address has had what it may have for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooMany;

impl Addresses {
    /// Forgets who is gone and has its full rate again: after a second, the bucket is full.
    fn sweep(&mut self) {
        const SMALL: usize = 1024;
        if self.entries.len() >= self.sweep_at.max(SMALL) {
            self.entries.retain(|_, entry| entry.connections > 0 || entry.handshakes.age() < 1000);
            self.sweep_at = self.entries.len() * 2;
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut addresses = self.limits.lock();
        if let Some(entry) = addresses.entries.get_mut(&self.address) {
            entry.connections -= 1;
            if entry.connections == 0 && self.limits.handshakes_per_second == 0 {
                addresses.entries.remove(&self.address);
            }
        }
    }
}

/// What is counted as one address: an IPv4 address, or the /64 that one IPv6 customer has.
fn network(address: IpAddr) -> Ipv6Addr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(max_per_ip: u32, handshakes_per_second: u32) -> Arc<AddressLimits> {
        AddressLimits::new(&Config { max_per_ip, handshakes_per_second, ..Config::default() })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn connections_count_while_they_are_held() {
        let limits = limits(2, 0);
        let held: Vec<_> = (0..2).map(|_| limits.admit(ip("10.0.0.1")).unwrap()).collect();
        assert_eq!(limits.admit(ip("10.0.0.1")).unwrap_err(), TooMany);
        assert_eq!(limits.admit(ip("::ffff:10.0.0.1")).unwrap_err(), TooMany);
        assert!(limits.admit(ip("10.0.0.2")).is_ok());
        drop(held);
        assert!(limits.admit(ip("10.0.0.1")).is_ok());
        assert!(limits.lock().entries.is_empty());
    }

    #[tokio::test]
    async fn a_v6_customer_is_one_address() {
        let limits = limits(1, 0);
        let _held = limits.admit(ip("2001:db8::1")).unwrap();
        assert!(limits.admit(ip("2001:db8::ffff:1")).is_err());
        assert!(limits.admit(ip("2001:db8:0:1::1")).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn handshakes_have_a_rate_and_are_forgotten() {
        let limits = limits(0, 2);
        for _ in 0..2 {
            assert!(limits.admit(ip("10.0.0.1")).is_ok());
        }
        assert!(limits.admit(ip("10.0.0.1")).is_err());
        tokio::time::advance(std::time::Duration::from_secs(2)).await;
        assert!(limits.admit(ip("10.0.0.1")).is_ok());
        for last in 0..3000_u32 {
            let _ = limits.admit(IpAddr::from(std::net::Ipv4Addr::from_bits(last)));
            if last % 500 == 0 {
                tokio::time::advance(std::time::Duration::from_secs(2)).await;
            }
        }
        assert!(limits.lock().entries.len() <= 2048);
    }
}
