//! What a connection's task polls: its handler, then everything else.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use futures_util::future::poll_fn;
use tokio::time::{Sleep, sleep_until};

use super::{HandlerFuture, Opened, Shared, desk, summons::Summons};
use crate::{close::CloseReason, peer::ConnectionId};

/// Runs an open connection until both its closing handshake and its handler are over.
///
/// An `async fn` would keep its argument beside what is taken out of it, for as long as it runs.
pub(crate) fn run(opened: Opened) -> impl Future<Output = (ConnectionId, CloseReason)> + Send {
    let Opened { shared, handler } = opened;
    let mut running = Running { shared, handler: Some(handler), summons: None };
    async move {
        let mut timer = pin!(sleep_until(running.shared.lock().keepalive_at));
        poll_fn(|cx| running.poll(cx, timer.as_mut())).await;
        running.end()
    }
}

/// What a connection's task polls.
struct Running {
    shared: Arc<Shared>,
    /// None once it is over.
    handler: Option<HandlerFuture>,
    /// None until the task is known.
    summons: Option<Arc<Summons>>,
}

impl Running {
    fn poll(&mut self, cx: &mut Context<'_>, timer: Pin<&mut Sleep>) -> Poll<()> {
        let summons = self.summons.get_or_insert_with(|| {
            let summons = Summons::new(cx, &self.shared.peer);
            self.shared.lock().task = Some(summons.waker());
            summons
        });
        let peer = &self.shared.peer;
        let (mut handler, mut left) = (Poll::Pending, None);
        if peer.take_summons()
            && let Some(future) = &mut self.handler
        {
            (handler, left) = desk::seat(peer.id, || poll_handler(future, &summons.waker()));
        }
        let mut io = self.shared.lock_alone();
        if let Some(output) = left {
            io.wire.take_back_output(output);
        }
        if let Poll::Ready(end) = handler {
            // Not under the lock: what it drops may look at the connection.
            drop(io);
            self.handler = None;
            io = self.shared.lock_alone();
            io.handler_ended(end);
        }
        let connection = io.poll_drive(cx, timer);
        if self.handler.is_some() { Poll::Pending } else { connection }
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
