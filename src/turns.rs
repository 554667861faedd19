//! Many receivers of one message, woken a few at a time.
//!
//! Woken all at once, ten thousand tasks would stand in the runtime's queue, and behind them
//! whoever else has something to do. So a few are woken, and those that have taken the message
//! wake the next.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::Waker,
    vec,
};

/// So many receivers are under way at once, or not quite a [`STEP`] less: enough for every thread,
/// and written to in a fraction of a millisecond.
pub(crate) const AT_ONCE: usize = 32;

/// When so many have taken the message, as many are woken: one hold of the lock for all of them.
const STEP: usize = 8;

/// Who is woken next.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    /// Receivers that have taken the message.
    taken: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    /// The message is not in all queues yet; so many have taken it already, to the last [`STEP`].
    Queueing(usize),
    /// It is; these have not been woken.
    Waiting(vec::IntoIter<Waker>),
}

impl Default for State {
    fn default() -> Self {
        Self::Queueing(0)
    }
}

impl Turns {
    /// Wakes the first of them, once the message is in the queues of all.
    pub(crate) fn begin(&self, receivers: Vec<Waker>) {
        let mut state = self.lock();
        // Whoever was early is woken in vain and will not wake another.
        let early = if let State::Queueing(early) = *state { early } else { 0 };
        *state = State::Waiting(receivers.into_iter());
        drop(state);
        (0..AT_ONCE + early).step_by(STEP).for_each(|_| self.wake_some());
    }

    /// One receiver has taken the message: wakes others, if that makes a [`STEP`].
    pub(crate) fn next(&self) {
        if (self.taken.fetch_add(1, Relaxed) + 1).is_multiple_of(STEP) {
            self.wake_some();
        }
    }

    fn wake_some(&self) {
        let mut next = [const { None }; STEP];
        let mut state = self.lock();
        match &mut *state {
            State::Queueing(early) => *early += STEP,
            State::Waiting(receivers) => {
                next.fill_with(|| receivers.next());
                // The message may be kept for long by one who does not read, and this with it.
                if receivers.len() == 0 {
                    *receivers = Vec::new().into_iter();
                }
            }
        }
        drop(state);
        next.into_iter().flatten().for_each(Waker::wake);
    }

    /// Survives a panic under the lock: what is there is whole between any two lines.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering::Relaxed},
        },
        task::Wake,
    };

    use super::*;

    /// Counts how often it is woken.
    #[derive(Default)]
    pub(crate) struct Wakes(pub(crate) AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    fn crowd(count: usize) -> (Arc<Wakes>, Vec<Waker>) {
        let wakes = Arc::new(Wakes::default());
        let receivers = (0..count).map(|_| Waker::from(Arc::clone(&wakes))).collect();
        (wakes, receivers)
    }

    #[test]
    fn a_few_are_woken_and_they_wake_the_next() {
        let (turns, (wakes, receivers)) = (Turns::default(), crowd(1000));
        turns.begin(receivers);
        for taken in 0..1000 {
            assert_eq!(wakes.0.load(Relaxed), (AT_ONCE + taken / STEP * STEP).min(1000));
            turns.next();
        }
        assert_eq!(Arc::strong_count(&wakes), 1, "nothing is kept of those who have had it");
    }

    /// They take it because of something else, before there is anybody to wake. What they are
    /// woken for then is gone, so that nobody would go on.
    #[test]
    fn who_takes_it_early_costs_nobody_a_turn() {
        for early in [1, STEP - 1, STEP, AT_ONCE, AT_ONCE + STEP + 1] {
            let (turns, (wakes, receivers)) = (Turns::default(), crowd(1000));
            (0..early).for_each(|_| turns.next());
            turns.begin(receivers);
            let mut taken = early;
            while taken < wakes.0.load(Relaxed) {
                turns.next();
                taken += 1;
            }
            assert_eq!(wakes.0.load(Relaxed), 1000, "{early} early");
        }
    }
}
