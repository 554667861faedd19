//! Who is asked and told: tries, deadlines, how many at once, and what is counted.

use std::time::Duration;

use bytes::Bytes;
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_tungstenite::tungstenite::http::{HeaderMap, HeaderValue};

#[cfg(feature = "backplane")]
use super::EventStream;
use super::{
    EventHandler, Failure, Target,
    cloud_event::{Event, Source},
    webhook::Webhook,
};
use crate::{
    error::Error,
    hub::Hub,
    metrics::{EventCounters, EventKind, EventOutcome},
};

/// Before each further try of what nobody waits for: it is told at least once, if it can be.
const NOTICE_PAUSES: &[Duration] =
    &[Duration::from_millis(100), Duration::from_millis(500), Duration::from_secs(2)];

/// Before each further try of what somebody waits for. Only an event that was not written is tried
/// again: what was may have been acted on.
const QUESTION_PAUSES: &[Duration] = &[Duration::from_millis(50), Duration::from_millis(250)];

/// Events of all connections that may wait at once, and their bytes; further ones are dropped and
/// counted. A connection's own events are few, but they outlive it: a crowd that comes and goes
/// would fill the memory while the handler is slow.
const MAX_UNFINISHED: usize = 16 << 10;
const MAX_UNFINISHED_BYTES: usize = 64 << 20;

/// The event handler of a running server.
pub(crate) struct Upstream {
    handler: EventHandler,
    hub: Hub,
    backend: Backend,
    slots: Semaphore,
    unfinished: watch::Sender<Unfinished>,
}

/// Where events go.
enum Backend {
    Webhook(Box<Webhook>),
    #[cfg(feature = "backplane")]
    Stream(EventStream),
}

/// Events of connections that are not done with.
#[derive(Debug, Clone, Copy, Default)]
struct Unfinished {
    events: usize,
    bytes: usize,
}

impl Upstream {
    /// # Errors
    /// If the URL is `https` and the system's certificates cannot be read.
    pub(crate) fn new(handler: EventHandler, hub: Hub) -> Result<Self, Error> {
        Ok(Self {
            backend: match &handler.target {
                Target::Url(url) => Backend::Webhook(Box::new(Webhook::new(url, &handler)?)),
                #[cfg(feature = "backplane")]
                Target::Stream(stream) => Backend::Stream(stream.clone()),
            },
            slots: Semaphore::new(handler.concurrency.get().min(Semaphore::MAX_PERMITS)),
            unfinished: watch::Sender::default(),
            hub,
            handler,
        })
    }

    pub(crate) fn takes(&self, kind: EventKind, name: &str) -> bool {
        match kind {
            EventKind::User => self.handler.takes_user(name),
            system => self.handler.takes_system(system.name()),
        }
    }

    /// Whether connections have anything to tell once they are open.
    pub(crate) fn follows_connections(&self) -> bool {
        self.handler.events.iter().any(|name| name != EventKind::Connect.name())
    }

    pub(crate) fn counters(&self) -> &EventCounters {
        &self.hub.metrics().events
    }

    /// Takes an event of a connection in; `false` if there are too many, which is counted.
    pub(crate) fn begin(&self, event: &Event) -> bool {
        let begun = self.unfinished.send_if_modified(|unfinished| {
            let bytes = unfinished.bytes + event.body.len();
            let room = unfinished.events < MAX_UNFINISHED && bytes <= MAX_UNFINISHED_BYTES;
            if room {
                *unfinished = Unfinished { events: unfinished.events + 1, bytes };
            }
            room
        });
        self.counters().dropped.add(u64::from(!begun));
        begun
    }

    /// An event that was taken in is done with.
    pub(crate) fn finish(&self, event: &Event) {
        self.unfinished.send_modify(|unfinished| {
            unfinished.events -= 1;
            unfinished.bytes -= event.body.len();
        });
    }

    /// Waits until all events are done with, and counts those that are not by then.
    pub(crate) async fn flush(&self, deadline: Instant) {
        let mut unfinished = self.unfinished.subscribe();
        let all = unfinished.wait_for(|unfinished| unfinished.events == 0);
        if timeout_at(deadline, all).await.is_err() {
            let left = unfinished.borrow().events;
            self.counters().dropped.add(left as u64);
            log::warn!("{left} events were not delivered to the event handler");
        }
    }

    /// By when an event that is sent now has to be answered.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.handler.timeout
    }

    /// Sends an event, as often as is right for its kind, and makes of the answer what `read` finds
    /// in it. A notice, which nobody waits for, has more time than until the deadline.
    ///
    /// # Errors
    /// What the last try came to, if not to 2xx.
    pub(crate) async fn send<T>(
        &self,
        source: &Source,
        event: &Event,
        deadline: Instant,
        read: impl FnOnce(Answer) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let begun = Instant::now();
        let answer = match event.kind {
            EventKind::Connect | EventKind::User => {
                let tries = self.try_often(source, event, QUESTION_PAUSES);
                timeout_at(deadline, tries).await.unwrap_or(Err(Failure::TimedOut))
            }
            EventKind::Connected | EventKind::Disconnected => {
                self.try_often(source, event, NOTICE_PAUSES).await
            }
        };
        let answer = answer.and_then(read);
        let outcome = answer.as_ref().map_or_else(Failure::outcome, |_| EventOutcome::Accepted);
        self.counters().add(event.kind, outcome, begun.elapsed());
        if let Err(failure) = &answer {
            let (id, name) = (source.connection, event.kind.name());
            log::debug!("connection {id}: {name} event: {}", failure.text());
        }
        answer
    }

    async fn try_often(
        &self,
        source: &Source,
        event: &Event,
        pauses: &[Duration],
    ) -> Result<Answer, Failure> {
        for pause in pauses {
            match self.try_once(source, event).await {
                Err(failure) if may_be_repeated(event.kind, &failure) => sleep(*pause).await,
                answer => return answer,
            }
            self.counters().retries.add(1);
        }
        self.try_once(source, event).await
    }

    async fn try_once(&self, source: &Source, event: &Event) -> Result<Answer, Failure> {
        let exchange = async {
            // The semaphore is never closed.
            let _slot = self.slots.acquire().await;
            match &self.backend {
                Backend::Webhook(webhook) => webhook.ask(source, event).await,
                #[cfg(feature = "backplane")]
                Backend::Stream(stream) => {
                    stream.keep(source, event).await.map(|()| Answer::default())
                }
            }
        };
        timeout(self.handler.timeout, exchange).await.unwrap_or(Err(Failure::TimedOut))
    }
}

/// What the handler says to an event that it accepts.
#[derive(Default)]
pub(crate) struct Answer {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// What the connection carries round from now on, if that changes.
    pub(crate) state: Option<HeaderValue>,
}

/// A notice may be heard twice, a question may not.
fn may_be_repeated(kind: EventKind, failure: &Failure) -> bool {
    match (kind, failure) {
        (_, Failure::Unreachable) => true,
        (EventKind::Connect | EventKind::User, _) => false,
        (_, Failure::Refused(status, _)) => status.is_server_error(),
        (_, Failure::TimedOut | Failure::Invalid(_) | Failure::NotAllowed) => true,
    }
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.handler.fmt(f)
    }
}
