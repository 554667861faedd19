//! Many receivers of one message, woken a few at a time.
//!
//! Woken all at once, ten thousand tasks would stand in the runtime's queue, and behind them
//! whoever else has something to do. So a few are woken, and each that has taken the message
//! wakes the next.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    task::Waker,
    vec,
};

/// So many receivers are under way at once: enough for every thread, and written to in a fraction
/// of a millisecond.
pub(crate) const AT_ONCE: usize = 32;

/// Who is woken next.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<State>);

#[derive(Debug)]
enum State {
    /// The message is not in all queues yet; so many have taken it already.
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
        (0..AT_ONCE + early).for_each(|_| self.next());
    }

    /// One receiver has taken the message: wakes the next.
    pub(crate) fn next(&self) {
        let mut state = self.lock();
        let next = match &mut *state {
            State::Queueing(early) => {
                *early += 1;
                None
            }
            State::Waiting(receivers) => receivers.next(),
        };
        // The message may be kept for long by one who does not read, and this with it.
        if next.is_none() && matches!(*state, State::Waiting(_)) {
            *state = State::Waiting(Vec::new().into_iter());
        }
        drop(state);
        if let Some(receiver) = next {
            receiver.wake();
        }
    }

    /// Survives a panic under the lock: what is there is whole between any two lines.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering::Relaxed},
        },
        task::Wake,
    };

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

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
    fn a_few_are_woken_and_each_wakes_the_next() {
        let (turns, (wakes, receivers)) = (Turns::default(), crowd(1000));
        turns.begin(receivers);
        for taken in 0..1000 {
            assert_eq!(wakes.0.load(Relaxed), (AT_ONCE + taken).min(1000));
            turns.next();
        }
        assert_eq!(Arc::strong_count(&wakes), 1, "nothing is kept of those who have had it");
    }

    /// They take it because of something else, before there is anybody to wake. What they are
    /// woken for then is gone, so that nobody would go on.
    #[test]
    fn who_takes_it_early_costs_nobody_a_turn() {
        let (turns, (wakes, receivers)) = (Turns::default(), crowd(1000));
        (0..AT_ONCE).for_each(|_| turns.next());
        turns.begin(receivers);
        let mut taken = AT_ONCE;
        while taken < wakes.0.load(Relaxed) {
            turns.next();
            taken += 1;
        }
        assert_eq!(wakes.0.load(Relaxed), 1000);
    }
}
