//! What the process counts. Nothing is dropped in silence: what is dropped is counted here.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
#[cfg(feature = "control")]
use std::time::Duration;

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
    /// Events for the event handler.
    #[cfg(feature = "control")]
    pub events: EventCounters,
}

/// The four kinds of events of the published protocol.
#[cfg(feature = "control")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// A client asks for a connection.
    Connect,
    /// A connection is open.
    Connected,
    /// A connection has ended.
    Disconnected,
    /// A client said something.
    User,
}

#[cfg(feature = "control")]
impl EventKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Connect, Self::Connected, Self::Disconnected, Self::User];

    /// The name: that of the system event, or `user`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
            Self::User => "user",
        }
    }
}

/// What an event for the event handler came to in the end.
#[cfg(feature = "control")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventOutcome {
    /// It was answered with 2xx.
    Accepted,
    /// It was answered with another status.
    Refused,
    /// It was not answered in time.
    TimedOut,
    /// The handler could not be connected to.
    Unreachable,
    /// The answer was no HTTP, too long, or not what it said that it was.
    Invalid,
    /// The handler has not allowed us to send events.
    NotAllowed,
}

#[cfg(feature = "control")]
impl EventOutcome {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Accepted,
        Self::Refused,
        Self::TimedOut,
        Self::Unreachable,
        Self::Invalid,
        Self::NotAllowed,
    ];

    /// The name, as a label of a metric.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::Unreachable => "unreachable",
            Self::Invalid => "invalid",
            Self::NotAllowed => "not_allowed",
        }
    }
}

/// Events for the event handler, all since the start of the process.
#[cfg(feature = "control")]
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct EventCounters {
    outcomes: [[Counter; EventOutcome::ALL.len()]; EventKind::ALL.len()],
    micros: [Counter; EventKind::ALL.len()],
    /// Attempts beyond an event's first.
    pub retries: Counter,
    /// Events that were given up before the handler could have heard of them.
    pub dropped: Counter,
}

#[cfg(feature = "control")]
impl EventCounters {
    /// Events of this kind with this outcome.
    #[must_use]
    pub fn count(&self, kind: EventKind, outcome: EventOutcome) -> u64 {
        self.outcomes[kind as usize][outcome as usize].get()
    }

    /// Microseconds that all events of this kind took, retries and waiting for a slot included.
    #[must_use]
    pub fn micros(&self, kind: EventKind) -> u64 {
        self.micros[kind as usize].get()
    }

    pub(crate) fn add(&self, kind: EventKind, outcome: EventOutcome, took: Duration) {
        self.outcomes[kind as usize][outcome as usize].add(1);
        self.micros[kind as usize].add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }
}
