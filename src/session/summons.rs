//! Who was woken: a connection's task for its handler, or only to write what was queued.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake, Waker},
};

/// What wakes a handler wakes its connection's task, and says for whom. A delivery wakes the task
/// alone: to ask a handler that waits for something else is most of what a delivery would cost.
pub(super) struct Summons {
    task: Waker,
    is_due: AtomicBool,
}

impl Summons {
    /// For the task that runs. The handler is due at first.
    pub(super) fn new(cx: &Context<'_>) -> Arc<Self> {
        Arc::new(Self { task: cx.waker().clone(), is_due: AtomicBool::new(true) })
    }

    /// Whether the handler was woken since the last call.
    pub(super) fn take(&self) -> bool {
        self.is_due.swap(false, Ordering::Acquire)
    }
}

impl Wake for Summons {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_due.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Task(AtomicBool);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_handler_is_due_at_first_and_then_whenever_it_is_woken() {
        let task = Arc::new(Task::default());
        let waker = Waker::from(Arc::clone(&task));
        let summons = Summons::new(&Context::from_waker(&waker));
        assert!(summons.take());
        assert!(!summons.take());
        waker.wake_by_ref();
        assert!(!summons.take(), "only the task was woken");
        let handler = Waker::from(Arc::clone(&summons));
        task.0.store(false, Ordering::SeqCst);
        handler.wake_by_ref();
        assert!(task.0.load(Ordering::SeqCst));
        handler.wake();
        assert!(summons.take());
        assert!(!summons.take());
    }
}
