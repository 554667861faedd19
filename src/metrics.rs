//! What the process counts. Nothing is dropped in silence: what is dropped is counted here.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    /// The number now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Counters of one process, all since its start.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Metrics {
    /// Opening handshakes answered with 101.
    pub opened: Counter,
    /// Opened connections that have ended.
    pub closed: Counter,
    /// Requests answered with an HTTP error, or not at all.
    pub refused: Counter,
    /// Connections closed because a byte budget was exceeded.
    pub evicted: Counter,
    /// Deliveries that were queued for a connection and thrown away when it closed.
    pub dropped: Counter,
    /// Messages for a user, a group or everybody that reached nobody.
    pub unheard: Counter,
    /// Handlers that panicked or returned an error.
    pub handler_failures: Counter,
}
