//! The way out of a server: nothing new is accepted, what was accepted is written, and everybody
//! is told when to come back.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, timeout, timeout_at},
};

#[cfg(feature = "control")]
use crate::control::Control;
use crate::{close::CloseReason, server::Shared};

/// How long it may take until all that was accepted is queued.
const ACCEPTED_TIMEOUT: Duration = Duration::from_secs(1);

/// How a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were still there when `shutdown_grace` ran out.
    pub left: usize,
}

/// How far a server has come towards its end.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    is_announced: AtomicBool,
    has_begun: watch::Sender<bool>,
}

impl Ending {
    /// Whoever asks for readiness is told from now on; everything else goes on until [`drain`].
    pub(crate) fn announce(&self) {
        self.is_announced.store(true, Relaxed);
    }

    pub(crate) fn is_announced(&self) -> bool {
        self.is_announced.load(Relaxed)
    }

    fn begin(&self) {
        self.has_begun.send_replace(true);
    }

    pub(crate) fn has_begun(&self) -> bool {
        *self.has_begun.borrow()
    }

    /// Ready once the end has begun.
    pub(crate) async fn begun(&self) {
        // The sender lives in `self`: it cannot be gone.
        let _ = self.has_begun.subscribe().wait_for(|has_begun| *has_begun).await;
    }
}

/// Tells every connection to go and waits until they have gone.
pub(crate) async fn drain(shared: &Shared, limit: usize) -> Drained {
    shared.ending.begin();
    // What is accepted is queued within one poll of a connection's task.
    let _ = timeout(ACCEPTED_TIMEOUT, shared.hub.gate().shut()).await;
    let open = || limit - shared.permits.available_permits();
    let count = open();
    let (mut index, spread) = (0, shared.config.drain_spread);
    shared.hub.close_all(|| {
        index += 1;
        CloseReason::Restart { reconnect_after: reconnect_after(index, count, spread) }
    });
    let all = u32::try_from(limit).unwrap_or(u32::MAX);
    let deadline = Instant::now() + shared.config.shutdown_grace;
    let gone = timeout_at(deadline, async {
        let _connections = shared.permits.acquire_many(all).await;
        #[cfg(feature = "control")]
        if let Some(control) = &shared.control {
            control.gone().await;
        }
    });
    let left = if gone.await.is_ok() { 0 } else { open() };
    #[cfg(feature = "control")]
    let left = left + shared.control.as_ref().map_or(0, Control::connections);
    #[cfg(feature = "control")]
    if let Some(upstream) = &shared.upstream {
        upstream.flush(deadline).await;
    }
    #[cfg(feature = "backplane")]
    if let Some(node) = &shared.node {
        node.leave();
        node.flush(deadline).await;
    }
    Drained { left }
}

/// A different moment for each connection: evenly over `spread`, and a millisecond apart at least.
fn reconnect_after(index: usize, count: usize, spread: Duration) -> Duration {
    let millis = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let share = u32::try_from(index).unwrap_or(u32::MAX);
    let step = spread / u32::try_from(count.max(1)).unwrap_or(u32::MAX);
    (step * share).max(Duration::from_millis(millis(index)))
}
