//! One connection's events, handled one after another in the order that they came.
//!
//! There is a task only while there is something to do, so a connection that says nothing costs
//! no more than its place here.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use serde_json::json;
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode};

use super::{
    Failure,
    cloud_event::{Event, Source},
    upstream::{Answer, Upstream},
};
use crate::{
    close::CloseReason,
    frame::{Form, Item, Publication},
    hub::Hub,
    metrics::EventKind,
    peer::Peer,
    protocol::{self, Batch, DataType, ErrorName, OwnedPayload},
    queue::Push,
};

/// Events that one connection may have waiting, and their bytes. With more it is not read from.
const MAX_WAITING: usize = 16;
const MAX_WAITING_BYTES: usize = 64 << 10;

/// The queue of events of one connection.
pub(crate) struct Line {
    upstream: Arc<Upstream>,
    hub: Hub,
    peer: Arc<Peer>,
    state: Mutex<State>,
}

struct State {
    source: Source,
    last_id: u64,
    waiting: VecDeque<Entry>,
    bytes: usize,
    is_working: bool,
    /// `connected` has not reached the handler, so it shall not hear of the end either.
    is_unknown: bool,
    /// Where the connection's handler waits for room.
    handler: Option<Waker>,
    /// Events that have failed and may be sent under the same `ackId` again.
    failed: Vec<u64>,
}

struct Entry {
    event: Event,
    ack_id: Option<u64>,
}

/// Why an event does not come to the handler.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotRaised {
    /// The handler does not take this one.
    NotTaken,
    /// Too many of all connections wait already.
    Busy,
}

impl Line {
    /// `None` if no event of a connection that is open would be taken.
    pub(crate) fn new(
        upstream: &Arc<Upstream>,
        hub: Hub,
        peer: Arc<Peer>,
        source: Source,
    ) -> Option<Arc<Self>> {
        let state = Mutex::new(State {
            source,
            // `connect` was the first.
            last_id: 1,
            waiting: VecDeque::new(),
            bytes: 0,
            is_working: false,
            is_unknown: false,
            handler: None,
            failed: Vec::new(),
        });
        let follows = upstream.follows_connections();
        follows.then(|| Arc::new(Self { upstream: Arc::clone(upstream), hub, peer, state }))
    }

    /// The connection is open.
    pub(crate) fn opened(self: &Arc<Self>) {
        self.notify(EventKind::Connected, "{}".to_owned());
    }

    /// The connection has ended.
    pub(crate) fn closed(self: &Arc<Self>, reason: &CloseReason) {
        let reason = match reason {
            CloseReason::Lost(kind) => kind.to_string(),
            other => other.text(),
        };
        self.notify(EventKind::Disconnected, json!({ "reason": reason }).to_string());
    }

    /// The client says something. The answer is queued for it behind those to what it said before.
    ///
    /// # Errors
    /// If the handler does not take this event, or too many wait.
    pub(crate) fn raise(
        self: &Arc<Self>,
        name: &str,
        data_type: DataType,
        body: Bytes,
        ack_id: Option<u64>,
    ) -> Result<(), NotRaised> {
        if !self.upstream.takes(EventKind::User, name) {
            return Err(NotRaised::NotTaken);
        }
        let mut state = self.lock();
        state.last_id += 1;
        let (kind, name, id) = (EventKind::User, name.to_owned().into(), state.last_id);
        let content_type = data_type.media_type();
        let event = Event { kind, name, id, content_type, body };
        if self.push(state, Entry { event, ack_id }) { Ok(()) } else { Err(NotRaised::Busy) }
    }

    /// Ready when there is room for one more event.
    pub(crate) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.waiting.len() < MAX_WAITING && state.bytes < MAX_WAITING_BYTES {
            return Poll::Ready(());
        }
        state.handler = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The `ackId`s of events that have failed since the last call.
    pub(crate) fn take_failed(&self) -> Vec<u64> {
        std::mem::take(&mut self.lock().failed)
    }

    fn notify(self: &Arc<Self>, kind: EventKind, body: String) {
        if !self.upstream.takes(kind, kind.name()) {
            return;
        }
        let mut state = self.lock();
        state.last_id += 1;
        let event = Event::system(kind, state.last_id, body);
        if !self.push(state, Entry { event, ack_id: None }) && kind == EventKind::Connected {
            self.lock().is_unknown = true;
        }
    }

    /// `false` if there is no room.
    fn push(self: &Arc<Self>, mut state: MutexGuard<'_, State>, entry: Entry) -> bool {
        if !self.upstream.begin(&entry.event) {
            return false;
        }
        state.bytes += entry.event.body.len();
        state.waiting.push_back(entry);
        if !std::mem::replace(&mut state.is_working, true) {
            tokio::spawn(Arc::clone(self).work());
        }
        true
    }

    async fn work(self: Arc<Self>) {
        while let Some((source, entry)) = self.next() {
            self.handle(&source, &entry).await;
            self.upstream.finish(&entry.event);
        }
    }

    /// The next event, with what the connection carries round by now.
    fn next(&self) -> Option<(Source, Entry)> {
        let mut state = self.lock();
        let Some(entry) = state.waiting.pop_front() else {
            state.waiting = VecDeque::new();
            state.is_working = false;
            return None;
        };
        state.bytes -= entry.event.body.len();
        if let Some(handler) = state.handler.take() {
            handler.wake();
        }
        Some((state.source.clone(), entry))
    }

    async fn handle(&self, source: &Source, Entry { event, ack_id }: &Entry) {
        match event.kind {
            EventKind::User => {
                let answer =
                    self.upstream.send(source, event, self.upstream.deadline(), read_reply).await;
                self.reply(answer, *ack_id);
            }
            EventKind::Disconnected if self.lock().is_unknown => {
                self.upstream.counters().dropped.add(1);
            }
            _ => {
                let told =
                    self.upstream.send(source, event, self.upstream.deadline(), |_| Ok(())).await;
                if event.kind == EventKind::Connected
                    && matches!(told, Err(Failure::Unreachable | Failure::NotAllowed))
                {
                    self.lock().is_unknown = true;
                }
            }
        }
    }

    /// Tells the client what came of its event.
    fn reply(&self, answer: Result<Reply, Failure>, ack_id: Option<u64>) {
        let mut batch = Batch::default();
        match answer {
            Ok(Reply { payload, state }) => {
                if let Some(payload) = &payload {
                    batch.push(protocol::Source::Server, None, payload.as_payload());
                }
                if let Some(id) = ack_id {
                    batch.push_frame(&protocol::ack(id));
                }
                if state.is_some() {
                    self.lock().source.state = state;
                }
            }
            // As published: without acks there is no other way to say that something was lost.
            Err(_) if self.peer.form == Form::Bare => self.peer.close(CloseReason::HandlerFailed),
            Err(failure) => {
                self.lock().failed.extend(ack_id);
                batch.push_frame(&protocol::failure(ack_id, error_name(&failure), failure.text()));
            }
        }
        if batch.len() > 0
            && self.hub.push(&self.peer, &Item::frames(batch.encode(self.peer.form), None))
                == Push::Gone
        {
            self.hub.metrics().dropped.add(1);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the handler has to say to a user event.
struct Reply {
    payload: Option<OwnedPayload>,
    state: Option<HeaderValue>,
}

/// Without a body there is nothing to pass on, whatever the status.
fn read_reply(answer: Answer) -> Result<Reply, Failure> {
    let Answer { headers, body, state } = answer;
    if body.is_empty() {
        return Ok(Reply { payload: None, state });
    }
    let data_type = match headers.get("content-type") {
        Some(value) => value.to_str().ok().and_then(DataType::of_media_type),
        None => Some(DataType::Binary),
    };
    let unknown = Failure::Invalid("the event handler's answer has a content type that is unknown");
    let wrong = Failure::Invalid("the event handler's answer is not of its content type");
    let payload = OwnedPayload::from_plain(data_type.ok_or(unknown)?, &body).map_err(|_| wrong)?;
    Ok(Reply { payload: Some(payload), state })
}

/// A client tries again what failed by an internal error; a refusal it does not.
fn error_name(failure: &Failure) -> ErrorName {
    match failure {
        Failure::Refused(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => {
            ErrorName::Forbidden
        }
        _ => ErrorName::InternalServerError,
    }
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line").field("peer", &self.peer.id).finish_non_exhaustive()
    }
}
