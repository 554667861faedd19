//! The task of one open connection: its handler and its socket, and the one place where both wait.
//!
//! Each time the task is polled, the handler goes first, if it was woken. Once it waits, for
//! whatever it may be, everything that it and others have queued is written in one go. So replies
//! to a batch of messages leave in one system call, and pings, deliveries and the closing handshake
//! go on while a handler waits for something else.

mod ahead;
mod closing;
mod deadlines;
pub(crate) mod desk;
mod reading;
mod running;
mod summons;

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use futures_util::future::BoxFuture;
use tokio::{
    task::JoinSet,
    time::{Instant, Sleep},
};

use self::running::End;
pub(crate) use self::{
    ahead::Ahead,
    running::{Running, panicked},
};
#[cfg(feature = "control")]
use crate::events::Line;
use crate::{
    bucket::Bucket, close::CloseReason, config::Config, evictions::Registration, frame::Item,
    hub::Hub, peer::Peer, wire::Wire,
};

/// With more than this of its own replies unwritten, a handler waits before it sends on, and nothing
/// more is decoded for it: a peer that does not read its replies is not read from either.
pub(crate) const HIGH_WATER: usize = 64 << 10;

/// What a connection's task and the handle that its handler holds share: one allocation.
#[repr(C)]
pub(crate) struct Shared {
    pub(crate) peer: Arc<Peer>,
    pub(crate) io: Mutex<Io>,
    pub(crate) hub: Hub,
    /// What the event handler is told of this connection, if it is told anything.
    #[cfg(feature = "control")]
    pub(crate) line: Option<Arc<Line>>,
}

impl Shared {
    /// Takes the lock. What the handler was lent comes back with it, if it is polled here.
    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, Io> {
        let mut io = self.lock_alone();
        if let Some(output) = desk::take(self.peer.id) {
            io.wire.take_back_output(output);
        }
        io
    }

    /// Takes the lock and nothing else. A poisoned one is as good as any: what a panic leaves behind
    /// is a connection to be closed.
    fn lock_alone(&self) -> MutexGuard<'_, Io> {
        self.io.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection whose opening handshake is done.
pub(crate) struct Opened {
    pub(crate) shared: Arc<Shared>,
    pub(crate) handler: HandlerFuture,
}

/// What a handler comes to. The text of an error is for the log, never for the peer.
pub(crate) type HandlerFuture = BoxFuture<'static, Result<(), String>>;

/// The state that a connection's task shares with the handle that its handler holds. In the order
/// in which it is needed: a delivery looks at all down to `held`, on three cache lines.
#[repr(C)]
pub(crate) struct Io {
    wire: Wire,
    registration: Registration,
    phase: Phase,
    /// Whether the handler waits for a message: only then does silence mean anything.
    listening: bool,
    /// Whether the timer will wake the task that drives the connection.
    timer_knows_us: bool,
    /// Since when the peer has taken nothing of what waits for it.
    stalled_since: Option<Instant>,
    /// Since when a message has been half read, and which one.
    half_read: Option<(Instant, u32)>,
    /// What is counted for a message that is half read.
    held: usize,
    /// Where the handler waits, to read or to send.
    handler: Option<Waker>,
    /// Wakes the connection's own task: a handler may use the connection in another one.
    task: Option<Waker>,
    config: Arc<Config>,
    control_frames: Bucket,
    messages: Bucket,
    reason: Option<CloseReason>,
    /// When it was pinged, if nothing has come since.
    pinged_at: Option<Instant>,
    /// When it is looked next whether anything has come.
    keepalive_at: Instant,
    /// By when the closing handshake has to be over: known once all is written, and at once for a
    /// peer that takes nothing.
    closing_until: Option<Instant>,
    /// When the token ends with which the connection was opened, if that ends it too.
    expires_at: Option<Instant>,
    /// Bytes that came behind our close frame.
    discarded: usize,
    /// What [`Io::spawn`] has started.
    tasks: Option<Box<JoinSet<()>>>,
}

/// Every connection has one. Who adds to it says here what that costs.
const _: () = assert!(size_of::<Io>() <= 320);

/// How far a connection has come towards its end (RFC 6455 section 7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// Our close frame is queued or sent, the peer's has not come.
    AwaitingClose,
    /// Nothing more will be read as frames; what is queued is being written.
    Finishing,
    /// All is written and our side is shut down; the peer's side is read until its end, because
    /// to close with bytes unread would reset the connection and take our close frame with it.
    Lingering,
    Over,
}

impl Io {
    pub(crate) fn new(wire: Wire, registration: Registration, config: Arc<Config>) -> Self {
        Self {
            keepalive_at: Instant::now() + deadlines::keepalive_tick(&config),
            control_frames: Bucket::new(config.control_frames_burst),
            messages: Bucket::new(config.messages_per_second),
            expires_at: None,
            wire,
            registration,
            config,
            phase: Phase::Open,
            reason: None,
            handler: None,
            listening: false,
            pinged_at: None,
            half_read: None,
            task: None,
            stalled_since: None,
            closing_until: None,
            timer_knows_us: false,
            discarded: 0,
            held: 0,
            tasks: None,
        }
    }

    /// Ends the connection then, with 1008.
    pub(crate) fn expire_at(&mut self, at: Instant) {
        self.expires_at = Some(at);
    }

    pub(crate) fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    pub(crate) fn reason(&self) -> Option<&CloseReason> {
        self.reason.as_ref()
    }

    /// Starts a task that is aborted when the connection begins to close.
    pub(crate) fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        if self.phase == Phase::Open {
            let tasks = self.tasks.get_or_insert_default();
            while tasks.try_join_next().is_some() {}
            tasks.spawn(task);
        }
    }

    fn wait<T>(&mut self, cx: &Context<'_>) -> Poll<T> {
        remember(&mut self.handler, cx);
        self.wake_task(cx);
        Poll::Pending
    }

    /// What was put into the output is written by the connection's own task. That is most likely
    /// the one that runs now, and comes to it by itself.
    pub(crate) fn wake_task(&self, cx: &Context<'_>) {
        if let Some(task) = self.task.as_ref().filter(|task| !task.will_wake(cx.waker())) {
            task.wake_by_ref();
        }
    }

    fn wake_handler(&mut self) {
        if let Some(waker) = self.handler.take() {
            waker.wake();
        }
    }

    /// An error of a handler whose connection is closing is most likely the news of that.
    fn handler_ended(&mut self, end: End) {
        let failed = match end {
            End::Returned => false,
            End::Failed(error) => {
                log::debug!("a handler failed: {}", error.escape_debug());
                self.phase == Phase::Open
            }
            End::Panicked => true,
        };
        if failed {
            self.registration.metrics().handler_failures.add(1);
            self.begin_close(CloseReason::HandlerFailed);
        }
        self.begin_close(CloseReason::Local { code: 1000, reason: String::new() });
    }

    /// Nobody takes anything from here on: a program may keep the handle, and whoever is to be woken
    /// behind this connection must not wait for it.
    fn end(&mut self) -> CloseReason {
        self.registration.peer.queue.close();
        self.take_queue(None);
        self.reason.clone().unwrap_or(CloseReason::Lost(io::ErrorKind::NotConnected))
    }

    /// Moves everything that is queued into the output; returns the first request to close in it.
    fn take_queue(&mut self, cx: Option<&Context<'_>>) -> Option<CloseReason> {
        let (registration, is_open) = (&self.registration, self.phase == Phase::Open);
        let mut asked = None;
        registration.peer.queue.take(cx, |delivery| match &*delivery {
            Item::Close(reason) => asked = asked.take().or_else(|| Some(reason.clone())),
            Item::Frames { messages, .. } if is_open => {
                delivery.taken();
                registration.peer.about.count_out(*messages);
                self.wire.push_delivery(delivery);
            }
            Item::Frames { .. } => {
                delivery.taken();
                registration.release(delivery.weight());
                registration.metrics().dropped.add(1);
            }
        });
        asked
    }

    /// Everything but the handler: deliveries, writing, deadlines, the closing handshake. Ready
    /// when the connection is over.
    fn poll_drive(&mut self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<()> {
        loop {
            if let Some(reason) = self.take_queue(Some(cx)) {
                self.begin_close(reason);
            }
            let flushed = self.poll_flush(cx);
            if flushed && self.phase != Phase::Open && self.closing_until.is_none() {
                // What was queued is written, however long that took; now it is the peer's turn.
                self.closing_until = Some(Instant::now() + self.config.close_timeout);
            }
            let moved = match self.phase {
                Phase::Open => false,
                Phase::AwaitingClose => self.poll_peer_close(cx),
                Phase::Finishing => flushed && self.poll_shutdown(cx),
                Phase::Lingering => self.poll_linger(cx),
                Phase::Over => return Poll::Ready(()),
            };
            if !moved && !self.poll_timer(timer.as_mut()) {
                break;
            }
        }
        self.count_held();
        self.wire.park();
        Poll::Pending
    }

    /// Writes what waits; says whether nothing waits any more.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> bool {
        let mut written = 0;
        let flushed = self.wire.poll_flush(cx, &mut written).map_err(|error| error.kind());
        self.has_written(written);
        match flushed {
            Poll::Pending if self.stalled_since.is_none() => {
                self.stalled_since = Some(Instant::now());
            }
            Poll::Pending => {}
            Poll::Ready(result) => {
                self.stalled_since = None;
                result.unwrap_or_else(|kind| self.lose(kind));
            }
        }
        flushed.is_ready()
    }

    /// The peer has taken so much of what waits.
    fn has_written(&mut self, bytes: usize) {
        self.registration.peer.about.count_bytes_out(bytes);
        let released = self.wire.take_released();
        if released > 0 {
            self.registration.release(released);
        }
        if bytes > 0 {
            self.stalled_since = None;
            if !self.listening && self.wire.replies() <= HIGH_WATER {
                self.wake_handler();
            }
        }
    }
}

/// Keeps the waker of who waits now.
fn remember(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *slot = Some(cx.waker().clone()),
    }
}

/// What nobody will write any more is given back to the budgets.
impl Drop for Io {
    fn drop(&mut self) {
        self.registration.peer.queue.close();
        self.take_queue(None);
        self.registration.metrics().dropped.add(self.wire.drop_all());
        let released = self.wire.take_released();
        self.registration.release(released);
    }
}
