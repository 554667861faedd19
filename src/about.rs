//! What is known of one connection beside its place in the hub, in few bytes: each connection
//! pays for them.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

/// Since when a connection is there, where from, and what has passed through it.
///
/// Only who has the connection's lock counts here, or its handler while its task waits for that: so
/// a count is a plain store and never waits for another core.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct About {
    messages_out: AtomicU64,
    bytes_out: AtomicU64,
    messages_in: AtomicU64,
    bytes_in: AtomicU64,
    subprotocol: Option<Arc<str>>,
    /// An IPv4 address is kept as the IPv6 address that stands for it.
    address: Ipv6Addr,
    /// Seconds since 1970.
    opened_at: u32,
    /// Microseconds; 0 until a pong has come.
    round_trip: AtomicU32,
    /// What `opened_at` leaves out.
    #[cfg(feature = "control")]
    milliseconds: u16,
    port: u16,
}

/// Where a connection comes from: what [`About`] is made of.
#[derive(Debug, Clone, Default)]
pub(crate) struct Origin {
    /// The client's address; `None` for a Unix socket.
    pub(crate) address: Option<SocketAddr>,
    /// The one that was selected.
    pub(crate) subprotocol: Option<Arc<str>>,
}

impl About {
    pub(crate) fn new(origin: Origin) -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let address = origin.address.map_or(Ipv6Addr::UNSPECIFIED, |address| match address.ip() {
            IpAddr::V4(four) => four.to_ipv6_mapped(),
            IpAddr::V6(six) => six,
        });
        Self {
            messages_in: AtomicU64::new(0),
            messages_out: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            subprotocol: origin.subprotocol,
            address,
            opened_at: u32::try_from(since.as_secs()).unwrap_or(u32::MAX),
            round_trip: AtomicU32::new(0),
            #[cfg(feature = "control")]
            milliseconds: u16::try_from(since.subsec_millis()).unwrap_or_default(),
            port: origin.address.map_or(0, |address| address.port()),
        }
    }

    /// Counts messages that the peer has sent.
    pub(crate) fn count_in(&self, count: usize) {
        add(&self.messages_in, count);
    }

    /// Counts messages that go to the peer.
    pub(crate) fn count_out(&self, count: usize) {
        add(&self.messages_out, count);
    }

    /// Counts what was read from the socket.
    pub(crate) fn count_bytes_in(&self, count: usize) {
        add(&self.bytes_in, count);
    }

    /// Counts what was written to the socket.
    pub(crate) fn count_bytes_out(&self, count: usize) {
        add(&self.bytes_out, count);
    }

    /// Notes how long the last pong took to come.
    pub(crate) fn set_round_trip(&self, time: Duration) {
        let micros = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        self.round_trip.store(micros.max(1), Relaxed);
    }

    pub(crate) fn messages_in(&self) -> u64 {
        self.messages_in.load(Relaxed)
    }

    pub(crate) fn messages_out(&self) -> u64 {
        self.messages_out.load(Relaxed)
    }

    pub(crate) fn bytes_in(&self) -> u64 {
        self.bytes_in.load(Relaxed)
    }

    pub(crate) fn bytes_out(&self) -> u64 {
        self.bytes_out.load(Relaxed)
    }

    pub(crate) fn opened_at(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.opened_at.into())
    }

    /// The same to the millisecond, since 1970.
    #[cfg(feature = "control")]
    pub(crate) fn opened_at_milliseconds(&self) -> u64 {
        u64::from(self.opened_at) * 1000 + u64::from(self.milliseconds)
    }

    /// `None` for a Unix socket.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        let known = !self.address.is_unspecified();
        known.then(|| SocketAddr::new(self.address.to_canonical(), self.port))
    }

    pub(crate) fn subprotocol(&self) -> Option<Arc<str>> {
        self.subprotocol.clone()
    }

    /// `None` until a pong has come.
    pub(crate) fn round_trip(&self) -> Option<Duration> {
        let micros = self.round_trip.load(Relaxed);
        (micros > 0).then(|| Duration::from_micros(micros.into()))
    }
}

/// Not one step for other cores, and nobody else counts here.
fn add(counter: &AtomicU64, count: usize) {
    counter.store(counter.load(Relaxed) + count as u64, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_comes_back_as_it_was() {
        for text in ["192.0.2.1:4711", "[2001:db8::1]:80"] {
            let address = text.parse().ok();
            let about = About::new(Origin { address, subprotocol: Some("chat".into()) });
            assert_eq!((about.address(), about.subprotocol().as_deref()), (address, Some("chat")));
        }
        let about = About::new(Origin::default());
        assert_eq!((about.address(), about.subprotocol()), (None, None));
    }

    /// Every connection has one; more has to be worth it.
    #[test]
    fn it_takes_80_bytes() {
        assert_eq!(size_of::<About>(), 80);
    }
}
