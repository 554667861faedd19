//! The moment from which nothing more is accepted.
//!
//! A message is accepted, and its sender may be told so, before it is queued for its receivers. A
//! server that stops asks its connections to close only when all that was accepted is queued:
//! then it is written to every receiver before their close frames are.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use tokio::sync::Notify;

/// Open at first, and later shut for good.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    shut: AtomicBool,
    inside: AtomicUsize,
    empty: Notify,
}

/// Something was accepted and is not queued yet. Dropped, it is.
#[derive(Debug)]
pub(crate) struct Entered<'a>(&'a Gate);

impl Gate {
    /// `None` once the gate is shut.
    pub(crate) fn enter(&self) -> Option<Entered<'_>> {
        // Counted before it is looked: whoever shuts the gate in between waits for one in vain,
        // and never misses one.
        self.inside.fetch_add(1, SeqCst);
        let entered = Entered(self);
        (!self.shut.load(SeqCst)).then_some(entered)
    }

    /// Shuts the gate and waits until nobody is inside.
    pub(crate) async fn shut(&self) {
        self.shut.store(true, SeqCst);
        while self.inside.load(SeqCst) > 0 {
            self.empty.notified().await;
        }
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if self.0.inside.fetch_sub(1, SeqCst) == 1 && self.0.shut.load(SeqCst) {
            self.0.empty.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn it_is_shut_for_those_who_come_and_waits_for_those_who_are_inside() {
        let gate = Gate::default();
        let (one, other) = (gate.enter().unwrap(), gate.enter().unwrap());
        assert!(gate.shut().now_or_never().is_none());
        assert!(gate.enter().is_none());
        drop(one);
        assert!(gate.shut().now_or_never().is_none());
        drop(other);
        gate.shut().await;
        assert!(gate.enter().is_none());
    }

    #[tokio::test]
    async fn who_shuts_it_is_woken_by_the_last_to_leave() {
        let gate = Gate::default();
        let entered = gate.enter().unwrap();
        tokio::join!(gate.shut(), async move {
            tokio::task::yield_now().await;
            drop(entered);
        });
    }
}
