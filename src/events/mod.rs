//! Event handlers: a backend that hears over HTTP what clients do, and has a say in it.
//!
//! An event is a `CloudEvents` request in the published Web `PubSub` form, so that the SDKs written
//! for it work unchanged. `connect` is asked before the 101; what users send is asked for an
//! answer; `connected` and `disconnected` are told.

mod client;
mod cloud_event;
mod connect;
mod permission;
#[cfg(feature = "backplane")]
mod stream;
mod upstream;
mod url;
mod webhook;
mod worker;

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use tokio_tungstenite::tungstenite::http::StatusCode;

#[cfg(feature = "backplane")]
pub use self::stream::EventStream;
pub use self::url::EventUrl;
pub(crate) use self::{
    cloud_event::Source,
    upstream::Upstream,
    worker::{Line, NotRaised},
};
use crate::{error::Error, metrics::EventOutcome, server::Server};

/// A backend that is told of events.
///
/// ```
/// use hubnerite::{EventHandler, Server};
///
/// let url = "http://127.0.0.1:8080/hubs/{hub}".parse().unwrap();
/// let server = Server::new().event_handler(EventHandler::new(url))?;
/// # Ok::<(), hubnerite::Error>(())
/// ```
#[derive(Clone)]
pub struct EventHandler {
    target: Target,
    events: Vec<String>,
    origin: Option<String>,
    access_keys: Vec<String>,
    timeout: Duration,
    concurrency: NonZeroUsize,
}

impl EventHandler {
    /// How long an event may take. Default 5 s.
    pub const TIMEOUT: Duration = Duration::from_secs(5);

    /// How many events may be on their way at once. Default 128: half of the open files that the
    /// limit of connections leaves.
    pub const CONCURRENCY: NonZeroUsize = NonZeroUsize::new(128).unwrap();

    /// Takes all events.
    #[must_use]
    pub fn new(url: EventUrl) -> Self {
        Self::of(Target::Url(url), &["connect", "connected", "disconnected", "*"])
    }

    /// Writes user events to a stream instead of sending them: one is acknowledged to its client
    /// once it is kept, and nobody answers it.
    #[cfg(feature = "backplane")]
    #[must_use]
    pub fn stream(stream: EventStream) -> Self {
        Self::of(Target::Stream(stream), &["*"])
    }

    fn of(target: Target, events: &[&str]) -> Self {
        Self {
            target,
            events: events.iter().copied().map(str::to_owned).collect(),
            origin: None,
            access_keys: Vec::new(),
            timeout: Self::TIMEOUT,
            concurrency: Self::CONCURRENCY,
        }
    }

    /// Takes these events instead: `connect`, `connected`, `disconnected`, the names of user
    /// events, and `*` for all of those.
    #[must_use]
    pub fn events(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.events = names.into_iter().map(Into::into).collect();
        self
    }

    /// What we call ourselves in `WebHook-Request-Origin`: a host, with its port if it is not the
    /// usual one. Default: the address of the control port, or `localhost`.
    #[must_use]
    pub fn origin(mut self, host: impl Into<String>) -> Self {
        self.origin = Some(host.into());
        self
    }

    /// The keys that events are signed with, each on its own. Default none: no signature.
    #[must_use]
    pub fn access_keys(mut self, keys: Vec<String>) -> Self {
        self.access_keys = keys;
        self
    }

    /// How long an event may take, from its turn to the end of its answer.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How many events may be on their way at once; others wait for their turn.
    #[must_use]
    pub fn concurrency(mut self, concurrency: NonZeroUsize) -> Self {
        self.concurrency = concurrency;
        self
    }

    /// Nobody answers from behind a stream, and it is for what users say.
    fn takes_system(&self, name: &str) -> bool {
        matches!(self.target, Target::Url(_)) && self.events.iter().any(|taken| taken == name)
    }

    /// A user event that is called like a system event is taken by `*` only.
    fn takes_user(&self, name: &str) -> bool {
        let is_system = matches!(name, "connect" | "connected" | "disconnected");
        self.events.iter().any(|taken| taken == "*" || taken == name && !is_system)
    }
}

/// Without the keys.
impl std::fmt::Debug for EventHandler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("EventHandler");
        debug.field("target", &self.target).field("events", &self.events).finish_non_exhaustive()
    }
}

/// Where events go.
#[derive(Debug, Clone)]
enum Target {
    Url(EventUrl),
    #[cfg(feature = "backplane")]
    Stream(EventStream),
}

impl Server {
    /// Tells this handler of events on the routes that are in a hub: those that
    /// [`daemon_routes`](Self::daemon_routes) adds for users.
    ///
    /// To be called behind [`control`](Self::control), if there is a control port.
    ///
    /// # Errors
    /// [`Error::EventHandler`] if its URL is `https` and the system's certificates cannot be read.
    pub fn event_handler(self, mut handler: EventHandler) -> Result<Self, Error> {
        handler.origin = handler.origin.or_else(|| self.control_address());
        let upstream = Arc::new(Upstream::new(handler, self.hub())?);
        Ok(self.with_upstream(upstream))
    }
}

/// Why an event was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Nothing was written to anybody.
    Unreachable,
    TimedOut,
    /// What is wrong with the answer.
    Invalid(&'static str),
    /// The answer's status, and its body if it is short text.
    Refused(StatusCode, String),
    /// `OPTIONS` was not answered with our name.
    NotAllowed,
}

impl Failure {
    fn outcome(&self) -> EventOutcome {
        match self {
            Self::Unreachable => EventOutcome::Unreachable,
            Self::TimedOut => EventOutcome::TimedOut,
            Self::Invalid(_) => EventOutcome::Invalid,
            Self::Refused(..) => EventOutcome::Refused,
            Self::NotAllowed => EventOutcome::NotAllowed,
        }
    }

    /// For clients: what they may know.
    fn text(&self) -> &'static str {
        match self {
            Self::Unreachable => "the event handler cannot be reached",
            Self::TimedOut => "the event handler took too long",
            Self::Invalid(what) => what,
            Self::Refused(..) => "the event handler refused",
            Self::NotAllowed => "the event handler takes no events from here",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handler(events: &[&str]) -> EventHandler {
        EventHandler::new("http://h".parse().unwrap()).events(events.iter().copied())
    }

    #[test]
    fn a_star_is_for_all_user_events_and_no_system_event() {
        let handler = handler(&["connect", "*"]);
        assert!(handler.takes_system("connect") && !handler.takes_system("connected"));
        assert!(handler.takes_user("message") && handler.takes_user("connect"));
    }

    #[test]
    fn a_name_is_for_that_event_alone() {
        let handler = handler(&["connect", "order"]);
        assert!(handler.takes_user("order"));
        assert!(!handler.takes_user("message") && !handler.takes_user("connect"));
    }

    #[test]
    fn keys_are_not_shown() {
        let handler = handler(&["*"]).access_keys(vec!["secret".to_owned()]);
        assert!(!format!("{handler:?}").contains("secret"));
    }
}
