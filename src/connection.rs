//! What a handler holds: one open connection.

use std::{
    fmt,
    future::{Future, poll_fn},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;

#[cfg(feature = "control")]
use crate::events::Line;
use crate::{
    about::About,
    auth::Identity,
    close::{CloseReason, is_sendable},
    frame::{Form, Item, Message, Publication, Utf8Bytes},
    hub::Hub,
    member::{Member, UserTaken},
    output::Output,
    peer::{ConnectionId, Peer},
    queue::Push,
    session::{Ahead, HIGH_WATER, Io, Shared, desk},
};

/// One open connection, as its handler sees it.
///
/// When the handler returns, the connection is closed: with 1000, or with 1011 if the handler
/// failed or panicked. A handler may wait for anything else meanwhile: what is queued is written,
/// pings are sent and the closing handshake is done whether it is in [`recv`](Self::recv) or not.
/// Only reading waits for it, and with it the peer, by TCP's own means.
pub struct Connection {
    shared: Arc<Shared>,
    /// What comes next, if it is decoded already.
    ahead: Option<Box<Ahead>>,
    /// The place in the hub that the opening handshake took, if the route asks for one. Boxed,
    /// because a handler's future holds a connection more than once.
    member: Option<Box<Member>>,
}

/// The connection is closed or about to be; [`Connection::close_reason`] says why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the connection is closed")]
pub struct Closed;

impl Connection {
    pub(crate) fn new(shared: Arc<Shared>, member: Option<Member>) -> Self {
        Self { shared, ahead: None, member: member.map(Box::new) }
    }

    /// The next message, or `None` once the connection is closed or about to be.
    ///
    /// Pings are answered and pongs are taken in on the way. Cancel safe: a call that is dropped
    /// has lost nothing.
    pub fn recv(&mut self) -> impl Future<Output = Option<Message>> {
        poll_fn(|cx| match self.next_ahead() {
            None => self.poll_fetch(cx),
            next => Poll::Ready(next),
        })
    }

    /// Apart, so that the way of a message that is at hand is short.
    #[inline(never)]
    fn poll_fetch(&mut self, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        ready!(self.fetch(|io, ahead| io.poll_recv(cx, ahead)));
        Poll::Ready(self.next_ahead())
    }

    /// A message that has come already, if there is one: `None` says that [`recv`](Self::recv)
    /// would have to look at the socket. Lets a handler do something once for a whole batch.
    pub fn try_recv(&mut self) -> Option<Message> {
        self.next_ahead().or_else(|| {
            self.fetch(Io::try_recv);
            self.next_ahead()
        })
    }

    fn next_ahead(&mut self) -> Option<Message> {
        let ahead = self.ahead.as_mut()?;
        if self.shared.peer.is_closing() { self.forget_ahead() } else { ahead.next() }
    }

    #[cold]
    fn forget_ahead(&mut self) -> Option<Message> {
        self.ahead = None;
        None
    }

    /// Takes the lock for the next messages, and has the output lent for what they are answered
    /// with.
    fn fetch<T>(&mut self, messages: impl FnOnce(&mut Io, &mut Ahead) -> T) -> T {
        let mut io = self.shared.lock();
        let mut ahead = self.ahead.take().unwrap_or_else(Ahead::lend);
        let fetched = messages(&mut io, &mut ahead);
        let lend = || io.wire().lend_output();
        ahead.is_at_desk = !ahead.is_empty() && desk::lend(self.shared.peer.id, lend);
        self.ahead = ahead.keep();
        fetched
    }

    /// Queues a message; it is written when the handler waits next. Waits itself only while more
    /// than 64 KiB of earlier messages are unwritten. Cancel safe: a call that is dropped while it
    /// waits has queued nothing.
    ///
    /// # Errors
    /// [`Closed`] once the connection is closed or about to be.
    pub fn send(
        &mut self,
        message: impl Into<Message>,
    ) -> impl Future<Output = Result<(), Closed>> {
        let mut message = Some(message.into());
        poll_fn(move |cx| {
            self.poll_reply(cx, |output, about| {
                if let Some(message) = message.take() {
                    about.count_out(1);
                    output.push_message(message);
                }
            })
        })
    }

    /// [`send`](Self::send) for text.
    ///
    /// # Errors
    /// [`Closed`] once the connection is closed or about to be.
    pub async fn send_text(&mut self, text: impl Into<Utf8Bytes>) -> Result<(), Closed> {
        self.send(Message::Text(text.into())).await
    }

    /// [`send`](Self::send) for bytes.
    ///
    /// # Errors
    /// [`Closed`] once the connection is closed or about to be.
    pub async fn send_binary(&mut self, bytes: impl Into<Bytes>) -> Result<(), Closed> {
        self.send(Message::Binary(bytes.into())).await
    }

    /// Queues text that is at hand as bytes, without a copy of its own. Whoever does so waits for
    /// [`room`](Self::room) before the next message.
    pub(crate) fn push_encoded(&mut self, text: &str) {
        let put = |output: &mut Output, about: &About| {
            about.count_out(1);
            output.push_text(text);
        };
        if self.with_output(put).is_none() {
            self.leave_desk();
            let mut io = self.shared.lock();
            if io.reason().is_none() {
                put(io.wire().output(), &self.shared.peer.about);
            }
        }
    }

    /// Waits while too much of what was queued is unwritten; [`Closed`] once the connection is.
    pub(crate) async fn room(&mut self) -> Result<(), Closed> {
        poll_fn(|cx| self.poll_reply(cx, |_, _| ())).await
    }

    /// Puts a reply behind what waits, once there is room.
    #[expect(clippy::inline_always, reason = "a call is a tenth of what a small reply costs here")]
    #[inline(always)]
    fn poll_reply(
        &mut self,
        cx: &Context<'_>,
        mut put: impl FnMut(&mut Output, &About),
    ) -> Poll<Result<(), Closed>> {
        let has_room = self.with_output(|output, about| {
            let has_room = output.replies() <= HIGH_WATER;
            if has_room {
                put(output, about);
            }
            has_room
        });
        if has_room == Some(true) {
            return Poll::Ready(Ok(()));
        }
        self.leave_desk();
        self.poll_reply_away(cx, &mut put)
    }

    #[cold]
    fn poll_reply_away(
        &self,
        cx: &Context<'_>,
        put: &mut dyn FnMut(&mut Output, &About),
    ) -> Poll<Result<(), Closed>> {
        let mut io = self.shared.lock();
        io.wake_task(cx);
        let room = ready!(io.poll_room(cx));
        if room.is_ok() {
            put(io.wire().output(), &self.shared.peer.about);
        }
        Poll::Ready(room.map_err(|()| Closed))
    }

    /// The output, if it lies on the desk.
    fn with_output<T>(&self, on_it: impl FnOnce(&mut Output, &About) -> T) -> Option<T> {
        let peer = &self.shared.peer;
        let is_at_desk = self.ahead.as_ref().is_some_and(|ahead| ahead.is_at_desk);
        let on_it = |output: &mut Output| on_it(output, &peer.about);
        if is_at_desk { desk::with_output(peer.id, on_it) } else { None }
    }

    /// Before something is written under the lock. This may be another thread than the one with the
    /// desk: what lies there is written first, and nothing is added to it any more.
    fn leave_desk(&mut self) {
        if let Some(mut ahead) = self.ahead.take() {
            ahead.is_at_desk = false;
            self.ahead = ahead.keep();
        }
    }

    /// Begins the closing handshake behind everything that is queued. Does nothing if it has
    /// begun already.
    ///
    /// # Panics
    /// If `code` is one that may not be sent: anything but 1000 to 1003, 1007 to 1014 and 3000 to
    /// 4999 (RFC 6455 section 7.4). A reason is cut to 123 bytes.
    pub fn close(&mut self, code: u16, reason: impl Into<String>) {
        assert!(is_sendable(code), "close code {code} may not be sent");
        self.end(CloseReason::Local { code, reason: reason.into() });
    }

    pub(crate) fn end(&mut self, reason: CloseReason) {
        self.ahead = None;
        self.shared.lock().begin_close(reason);
    }

    /// Why the connection is closed or about to be; `None` while it is open.
    #[must_use]
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.shared.lock().reason().cloned()
    }

    /// Starts a task of its own that ends with the connection at the latest: it is aborted when
    /// the connection begins to close. To send its result back, move a [`Sender`] into it. A panic
    /// in it ends it and nothing else.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.shared.lock().spawn(task);
    }

    /// A handle that queues messages for this connection from anywhere.
    #[must_use]
    pub fn sender(&self) -> Sender {
        Sender { hub: self.shared.hub.clone(), peer: Arc::clone(&self.shared.peer) }
    }

    /// Makes this connection a member of a hub, under this name if one is given. It leaves when
    /// the [`Member`] is dropped.
    ///
    /// # Errors
    /// [`UserTaken`] if the user is connected and `same_user` is `Reject`.
    ///
    /// # Panics
    /// If the hub belongs to another server.
    pub fn join(&self, hub: &Hub, user: Option<&str>) -> Result<Member, UserTaken> {
        assert!(hub.is_beside(&self.shared.hub), "the hub belongs to another server");
        Member::join(hub.clone(), &self.shared.peer, user.map(Into::into))
    }

    /// The member that the opening handshake made of this connection.
    pub(crate) fn take_member(&mut self) -> Option<Box<Member>> {
        self.member.take()
    }

    /// What the event handler is told of this connection, if it is told anything.
    #[cfg(feature = "control")]
    pub(crate) fn line(&self) -> Option<&Arc<Line>> {
        self.shared.line.as_ref()
    }

    /// Waits until the event handler has kept up with this connection, or it is closing.
    #[cfg(feature = "control")]
    pub(crate) async fn room_for_events(&self) {
        let Some(line) = &self.shared.line else { return };
        poll_fn(|cx| {
            let room = line.poll_room(cx);
            let is_closing = room.is_pending() && self.shared.lock().reason().is_some();
            if is_closing { Poll::Ready(()) } else { room }
        })
        .await;
    }

    /// The server's hub.
    #[must_use]
    pub fn hub(&self) -> &Hub {
        &self.shared.hub
    }

    /// This connection's name.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.shared.peer.id
    }

    /// Who the guard said this is; anonymous without a guard.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.shared.peer.identity
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("id", &self.id()).finish_non_exhaustive()
    }
}

/// Queues messages for one connection from anywhere. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sender {
    hub: Hub,
    peer: Arc<Peer>,
}

impl Sender {
    /// Queues a message. The connection's byte budget holds here too: past it the connection is
    /// closed with 1013.
    ///
    /// # Errors
    /// [`Closed`] once the connection is closed, or if this message was too much for it.
    pub fn send(&self, message: impl Into<Message>) -> Result<(), Closed> {
        let delivery = Item::frames(message.into().encode(Form::Bare), None);
        match self.hub.push(&self.peer, &delivery) {
            Push::Queued => Ok(()),
            Push::Gone | Push::PastBudget => Err(Closed),
        }
    }

    /// The connection's name.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.peer.id
    }
}
