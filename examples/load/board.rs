//! What the threads of a fan-out tell each other.
//!
//! Each thread counts for its own subscribers, and writes on the board only how many messages all of them have.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use mio::Waker;

use crate::options::Fanout;

pub(crate) struct Board {
    window: u64,
    /// By thread and publisher: messages that all subscribers of that thread have.
    done: Vec<Vec<AtomicU64>>,
    /// By publisher and slot: when the message was sent, in nanoseconds after the run's origin.
    sent: Vec<Vec<AtomicU64>>,
    /// By publisher: how many messages it has sent in all; known at the end.
    total: Vec<AtomicU64>,
    wakers: Vec<OnceLock<Arc<Waker>>>,
}

impl Board {
    pub(crate) fn new(threads: usize, options: &Fanout) -> Self {
        let row = |length: u32, value: u64| (0..length).map(|_| AtomicU64::new(value)).collect();
        let publishers = options.publishers;
        // A thread without subscribers holds nobody up.
        let start =
            |thread| if thread < options.audience.subscribers as usize { 0 } else { u64::MAX };
        Self {
            window: u64::from(options.window),
            done: (0..threads).map(|thread| row(publishers, start(thread))).collect(),
            sent: (0..publishers).map(|_| row(options.window, 0)).collect(),
            total: row(publishers, u64::MAX),
            wakers: (0..threads).map(|_| OnceLock::new()).collect(),
        }
    }

    /// By this waker others end the waiting of a thread.
    pub(crate) fn set_waker(&self, thread: usize, waker: Arc<Waker>) {
        // A thread sets it once.
        let _ = self.wakers[thread].set(waker);
    }

    /// Where in a ring of one window a message stands.
    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "a remainder of a u32")]
    pub(crate) fn slot(&self, sequence: u64) -> usize {
        (sequence % self.window) as usize
    }

    /// When a message was sent, after the run's origin.
    #[inline]
    pub(crate) fn sent(&self, publisher: usize, slot: usize) -> Duration {
        Duration::from_nanos(self.sent[publisher][slot].load(Ordering::Relaxed))
    }

    pub(crate) fn set_sent(&self, publisher: usize, sequence: u64, when: Duration) {
        let nanoseconds = u64::try_from(when.as_nanos()).unwrap_or(u64::MAX);
        self.sent[publisher][self.slot(sequence)].store(nanoseconds, Ordering::Relaxed);
    }

    /// All subscribers of a thread have so many messages of a publisher; the publisher's thread is woken.
    pub(crate) fn set_done(&self, thread: usize, publisher: usize, messages: u64) {
        self.done[thread][publisher].store(messages, Ordering::Release);
        let owner = publisher % self.wakers.len();
        if owner != thread
            && let Some(waker) = self.wakers[owner].get()
        {
            // A thread that has gone needs no waking.
            let _ = waker.wake();
        }
    }

    /// Up to which message a publisher may send: a window beyond what every subscriber has.
    pub(crate) fn limit(&self, publisher: usize) -> u64 {
        let rows = self.done.iter();
        let done = rows.map(|row| row[publisher].load(Ordering::Acquire)).min();
        done.unwrap_or(0) + self.window
    }

    /// A publisher is done, after so many messages.
    pub(crate) fn set_total(&self, publisher: usize, messages: u64) {
        self.total[publisher].store(messages, Ordering::Release);
    }

    /// How many messages there are in all; more than ever come while the publisher is not done.
    pub(crate) fn total(&self, publisher: usize) -> u64 {
        self.total[publisher].load(Ordering::Acquire)
    }
}
