//! Who was woken: a connection's task for its handler, or only to write what was queued.

use std::{
    sync::Arc,
    task::{Context, Wake, Waker},
};

use crate::peer::Peer;

/// What wakes a handler wakes its connection's task, and says for whom. A delivery wakes the task
/// alone: to ask a handler that waits for something else is most of what a delivery would cost.
struct Summons {
    task: Waker,
    peer: Arc<Peer>,
}

/// For the task that runs, and the handler of this connection.
pub(super) fn waker(cx: &Context<'_>, peer: &Arc<Peer>) -> Waker {
    Waker::from(Arc::new(Summons { task: cx.waker().clone(), peer: Arc::clone(peer) }))
}

impl Wake for Summons {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.peer.summon_handler();
        self.task.wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::SeqCst;

    use super::*;
    use crate::{
        about::Origin, auth::Identity, frame::Form, peer::ConnectionId, turns::tests::Wakes,
    };

    #[test]
    fn a_handler_is_due_at_first_and_then_whenever_it_is_woken() {
        let (identity, task) = (Identity::anonymous().into(), Arc::new(Wakes::default()));
        let peer = Peer::new(ConnectionId::next(), Form::Bare, identity, Origin::default());
        let waker = Waker::from(Arc::clone(&task));
        let handler = super::waker(&Context::from_waker(&waker), &peer);
        assert!(handler.clone().will_wake(&handler.clone()));
        assert!(peer.take_summons());
        assert!(!peer.take_summons());
        waker.wake_by_ref();
        assert!(!peer.take_summons(), "only the task was woken");
        handler.wake_by_ref();
        handler.wake();
        assert_eq!(task.0.load(SeqCst), 3);
        assert!(peer.take_summons());
        assert!(!peer.take_summons());
    }
}
