//! Who is asked and told: tries, deadlines, how many at once, and what is counted.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_tungstenite::tungstenite::http::{HeaderMap, HeaderValue, Request, Response, Uri};

use super::{
    EventHandler, Failure,
    client::Client,
    cloud_event::{self, Event, Signer, Source},
    permission::{self, Permissions},
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

/// The text of a refusal that is passed on to whoever asked for a connection.
const MAX_REASON: usize = 1 << 10;

/// The event handler of a running server.
pub(crate) struct Upstream {
    handler: EventHandler,
    hub: Hub,
    client: Client,
    signer: Signer,
    permissions: Permissions,
    slots: Semaphore,
    unfinished: watch::Sender<Unfinished>,
}

/// Events of connections that are not done with.
#[derive(Debug, Clone, Copy, Default)]
struct Unfinished {
    events: usize,
    bytes: usize,
}

impl Upstream {
    pub(crate) fn new(handler: EventHandler, hub: Hub) -> Result<Self, Error> {
        Ok(Self {
            client: Client::new(&handler.url)?,
            signer: Signer::new(&handler.access_keys),
            permissions: Permissions::default(),
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
            self.ask_permission(&source.hub).await?;
            let url = self.url(&source.hub, &event.name)?;
            let request = cloud_event::request(url, self.origin(), &self.signer, source, event);
            judge(self.client.send(request).await?)
        };
        timeout(self.handler.timeout, exchange).await.unwrap_or(Err(Failure::TimedOut))
    }

    /// Half of the time that an event has, so that one that waits for it learns what came of it.
    async fn ask_permission(&self, hub: &str) -> Result<(), Failure> {
        let patience = self.handler.timeout / 2;
        let asked = async {
            timeout(patience, self.negotiate(hub)).await.unwrap_or(Err(Failure::TimedOut))
        };
        let target = if self.handler.url.names_hub() { hub } else { "" };
        self.permissions.require(target, asked).await
    }

    async fn negotiate(&self, hub: &str) -> Result<(), Failure> {
        // As published, `{event}` stands for `validate` here.
        let url = self.url(hub, "validate")?;
        let origin = self.origin();
        let request: Request<Full<Bytes>> = cloud_event::permission_request(url, origin);
        let answer = self.client.send(request).await?;
        let allowed = answer.status().is_success() && permission::allows(answer.headers(), origin);
        if allowed { Ok(()) } else { Err(Failure::NotAllowed) }
    }

    fn origin(&self) -> &str {
        self.handler.origin.as_deref().unwrap_or("localhost")
    }

    fn url(&self, hub: &str, event: &str) -> Result<Uri, Failure> {
        let too_long = Failure::Invalid("the event handler's address becomes too long");
        self.handler.url.resolve(hub, event).ok_or(too_long)
    }
}

/// What the handler says to an event that it accepts.
pub(crate) struct Answer {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// What the connection carries round from now on, if that changes.
    pub(crate) state: Option<HeaderValue>,
}

fn judge(answer: Response<Bytes>) -> Result<Answer, Failure> {
    let (head, body) = answer.into_parts();
    let status = head.status;
    if status.is_client_error() || status.is_server_error() {
        let text = String::from_utf8(body.to_vec()).unwrap_or_default();
        let is_short = text.len() <= MAX_REASON && !text.contains(char::is_control);
        return Err(Failure::Refused(status, if is_short { text } else { String::new() }));
    }
    if !status.is_success() {
        return Err(Failure::Invalid("the event handler answers neither yes nor no"));
    }
    let state = cloud_event::state_in(&head.headers).map_err(Failure::Invalid)?;
    Ok(Answer { headers: head.headers, body, state })
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
