//! What the process counts. Nothing is dropped in silence: what is dropped is counted here.

#[cfg(feature = "backplane")]
use std::sync::Arc;
#[cfg(feature = "control")]
use std::time::Duration;

use crate::{
    about::About,
    counter::{ByNumber, Counter, Histogram},
};

/// Every status that a request for a connection is answered with, unless a guard or an event
/// handler has others of its own.
const STATUSES: &[u16] =
    &[101, 200, 400, 401, 403, 404, 405, 408, 409, 414, 421, 426, 429, 431, 500, 502, 503, 504];

/// The close codes of RFC 6455 section 7.4.1, and ours.
const CLOSE_CODES: &[u16] =
    &[1000, 1001, 1002, 1003, 1005, 1006, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 4000];

/// Receivers of a message.
const RECEIVERS: &[u64] = &[0, 1, 10, 100, 1_000, 10_000, 100_000];

/// Microseconds; 0 is for a lock that was free.
const LOCK_WAITS: &[u64] = &[0, 1, 10, 100, 1_000, 10_000, 100_000];

/// Counters of one process, all since its start.
#[derive(Debug)]
#[non_exhaustive]
pub struct Metrics {
    /// Opening handshakes answered with 101.
    pub opened: Counter,
    /// Opened connections that have ended.
    pub closed: Counter,
    /// The same by close code; 1006 stands for none.
    pub closed_with: ByNumber,
    /// Requests answered with an HTTP error, or not at all.
    pub refused: Counter,
    /// Answers to requests on the port for clients, by status.
    pub answered: ByNumber,
    /// Connections closed because a byte budget was exceeded, or nothing was read for too long.
    pub evicted: Counter,
    /// Those of them that were closed because too much waited for all connections together.
    pub overloaded: Counter,
    /// Deliveries that were queued for a connection and thrown away when it closed.
    pub dropped: Counter,
    /// Messages for a user, a group or everybody that reached nobody.
    pub unheard: Counter,
    /// Handlers that panicked or returned an error.
    pub handler_failures: Counter,
    /// Connections that each publication was queued for.
    pub fan_out: Histogram,
    /// Microseconds that a task has waited for the hub's lock.
    pub lock_waits: Histogram,
    /// What went through the connections that have ended.
    pub(crate) past: PastTraffic,
    /// Events for the event handler.
    #[cfg(feature = "control")]
    pub events: EventCounters,
    /// What goes through the backplane.
    #[cfg(feature = "backplane")]
    pub backplane: Arc<BackplaneCounters>,
}

impl Metrics {
    /// Counts the answer to a request that was not 101.
    pub(crate) fn answer(&self, status: u16) {
        self.answered.add(status);
        if status >= 400 {
            self.refused.add(1);
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            opened: Counter::default(),
            closed: Counter::default(),
            closed_with: ByNumber::new(CLOSE_CODES),
            refused: Counter::default(),
            answered: ByNumber::new(STATUSES),
            evicted: Counter::default(),
            overloaded: Counter::default(),
            dropped: Counter::default(),
            unheard: Counter::default(),
            handler_failures: Counter::default(),
            fan_out: Histogram::new(RECEIVERS),
            lock_waits: Histogram::new(LOCK_WAITS),
            past: PastTraffic::default(),
            #[cfg(feature = "control")]
            events: EventCounters::default(),
            #[cfg(feature = "backplane")]
            backplane: Arc::default(),
        }
    }
}

/// What went through the connections that have ended. Those that are open count for themselves.
#[derive(Debug, Default)]
pub(crate) struct PastTraffic {
    messages_in: Counter,
    messages_out: Counter,
    bytes_in: Counter,
    bytes_out: Counter,
}

impl PastTraffic {
    /// Adds what went through one that ends now.
    pub(crate) fn take_over(&self, about: &About) {
        self.messages_in.add(about.messages_in());
        self.messages_out.add(about.messages_out());
        self.bytes_in.add(about.bytes_in());
        self.bytes_out.add(about.bytes_out());
    }

    pub(crate) fn traffic(&self) -> Traffic {
        Traffic {
            messages_in: self.messages_in.get(),
            messages_out: self.messages_out.get(),
            bytes_in: self.bytes_in.get(),
            bytes_out: self.bytes_out.get(),
        }
    }
}

/// What went through all connections of a process, those that have ended included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Traffic {
    /// Messages that peers have sent.
    pub messages_in: u64,
    /// Messages that were written to peers, or are about to be.
    pub messages_out: u64,
    /// Bytes that were read from sockets, below TLS and behind the opening handshake.
    pub bytes_in: u64,
    /// Bytes that were written to sockets, likewise.
    pub bytes_out: u64,
}

impl Traffic {
    /// Adds what has gone through one that is open.
    pub(crate) fn add(&mut self, about: &About) {
        self.messages_in += about.messages_in();
        self.messages_out += about.messages_out();
        self.bytes_in += about.bytes_in();
        self.bytes_out += about.bytes_out();
    }
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
#[derive(Debug)]
#[non_exhaustive]
pub struct EventCounters {
    outcomes: [[Counter; EventOutcome::ALL.len()]; EventKind::ALL.len()],
    micros: [Histogram; EventKind::ALL.len()],
    /// Attempts beyond an event's first.
    pub retries: Counter,
    /// Events that were given up before the handler could have heard of them.
    pub dropped: Counter,
}

/// Microseconds that an event takes.
#[cfg(feature = "control")]
const EVENT_TIMES: &[u64] =
    &[1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000];

#[cfg(feature = "control")]
impl Default for EventCounters {
    fn default() -> Self {
        Self {
            outcomes: Default::default(),
            micros: [(); EventKind::ALL.len()].map(|()| Histogram::new(EVENT_TIMES)),
            retries: Counter::default(),
            dropped: Counter::default(),
        }
    }
}

#[cfg(feature = "control")]
impl EventCounters {
    /// Events of this kind with this outcome.
    #[must_use]
    pub fn count(&self, kind: EventKind, outcome: EventOutcome) -> u64 {
        self.outcomes[kind as usize][outcome as usize].get()
    }

    /// Microseconds that events of this kind took, retries and waiting for a slot included.
    #[must_use]
    pub fn micros(&self, kind: EventKind) -> &Histogram {
        &self.micros[kind as usize]
    }

    pub(crate) fn add(&self, kind: EventKind, outcome: EventOutcome, took: Duration) {
        self.outcomes[kind as usize][outcome as usize].add(1);
        self.micros[kind as usize].record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }
}

/// What goes through the backplane, all since the start of the process.
#[cfg(feature = "backplane")]
#[derive(Debug)]
#[non_exhaustive]
pub struct BackplaneCounters {
    /// Messages that the engine has taken.
    pub published: Counter,
    /// Messages of others that the engine has brought.
    pub received: Counter,
    /// Those of them that had come before: the engine was lost while it took them.
    pub repeated: Counter,
    /// Publications for other nodes that were refused: too much waited, or they were too large.
    pub refused: Counter,
    /// Messages of the engine that made no sense.
    pub malformed: Counter,
    /// Joins that were acknowledged although the engine had not confirmed them.
    pub unconfirmed: Counter,
    /// Questions that not all nodes have answered in time.
    pub unanswered: Counter,
    /// Commands of backends that were carried out, or rejected.
    pub commands: Counter,
    /// Those of them that made no sense.
    pub rejected_commands: Counter,
    /// Connections to the engine that were made.
    pub connected: Counter,
    /// Connections to the engine that were lost, or given up because they carried nothing.
    pub lost: Counter,
    /// Microseconds that a message of the node to itself took through the engine.
    pub round_trips: Histogram,
}

/// Microseconds that a message takes through an engine.
#[cfg(feature = "backplane")]
const ROUND_TRIPS: &[u64] =
    &[100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000];

#[cfg(feature = "backplane")]
impl Default for BackplaneCounters {
    fn default() -> Self {
        Self {
            published: Counter::default(),
            received: Counter::default(),
            repeated: Counter::default(),
            refused: Counter::default(),
            malformed: Counter::default(),
            unconfirmed: Counter::default(),
            unanswered: Counter::default(),
            commands: Counter::default(),
            rejected_commands: Counter::default(),
            connected: Counter::default(),
            lost: Counter::default(),
            round_trips: Histogram::new(ROUND_TRIPS),
        }
    }
}
