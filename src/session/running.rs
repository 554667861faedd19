//! What a connection's task polls: its handler, then everything else.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use tokio::time::{Sleep, sleep_until};

use super::{HandlerFuture, Opened, Shared, desk, summons};
use crate::{close::CloseReason, peer::ConnectionId};

/// An open connection: ready once both its closing handshake and its handler are over.
///
/// Written by hand, so that what a delivery looks at stands in one place.
pub(crate) struct Running {
    shared: Arc<Shared>,
    /// None once it is over.
    handler: Option<HandlerFuture>,
    /// What the handler is polled with. None until the task is known.
    summons: Option<Waker>,
    /// Apart, for it is seldom looked at.
    timer: Pin<Box<Sleep>>,
}

impl Running {
    pub(crate) fn new(opened: Opened) -> Self {
        let Opened { shared, handler } = opened;
        let timer = Box::pin(sleep_until(shared.lock().keepalive_at));
        Self { shared, handler: Some(handler), summons: None, timer }
    }

    fn end(&self) -> (ConnectionId, CloseReason) {
        let reason = self.shared.lock().end();
        #[cfg(feature = "control")]
        if let Some(line) = &self.shared.line {
            line.closed(&reason);
        }
        (self.shared.peer.id, reason)
    }
}

impl Future for Running {
    type Output = (ConnectionId, CloseReason);

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let peer = &this.shared.peer;
        let summons = this.summons.get_or_insert_with(|| {
            let summons = summons::waker(cx, peer);
            this.shared.lock().task = Some(summons.clone());
            // Both are copies: wakers are compared by where their functions stand, too, and those of
            // an original may stand elsewhere.
            summons.clone()
        });
        let (mut handler, mut left) = (Poll::Pending, None);
        if peer.take_summons()
            && let Some(future) = &mut this.handler
        {
            (handler, left) = desk::seat(peer.id, || poll_handler(future, summons));
        }
        let mut io = this.shared.lock_alone();
        if let Some(output) = left {
            io.wire.take_back_output(output);
        }
        if let Poll::Ready(end) = handler {
            // Not under the lock: what it drops may look at the connection.
            drop(io);
            this.handler = None;
            io = this.shared.lock_alone();
            io.handler_ended(end);
        }
        let connection = io.poll_drive(cx, this.timer.as_mut());
        drop(io);
        if this.handler.is_some() || connection.is_pending() {
            return Poll::Pending;
        }
        Poll::Ready(this.end())
    }
}

/// How a handler ended.
pub(super) enum End {
    Returned,
    /// With an error: the text is for the log.
    Failed(String),
    Panicked,
}

/// A handler that has panicked before there was a future of it.
pub(crate) fn panicked() -> HandlerFuture {
    Box::pin(async { std::panic::resume_unwind(Box::new("the handler panicked")) })
}

fn poll_handler(handler: &mut HandlerFuture, waker: &Waker) -> Poll<End> {
    let mut cx = Context::from_waker(waker);
    match catch_unwind(AssertUnwindSafe(|| handler.as_mut().poll(&mut cx))) {
        Ok(polled) => polled.map(|result| result.map_or_else(End::Failed, |()| End::Returned)),
        // The panic hook has said what and where.
        Err(_) => Poll::Ready(End::Panicked),
    }
}
