//! The queue of one connection: an unbounded channel whose receiver takes everything at once.
//!
//! A channel for general use has a first block of slots and ends on cache lines of their own: 900
//! bytes for a connection that hears nothing. Here nothing is there until something waits, and a
//! batch costs its receiver one lock.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Waker},
};

use crate::frame::Delivery;

/// What came of one push.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Push {
    Queued,
    /// The connection has ended or is about to.
    Gone,
    /// Its reader is too slow: it has to be evicted.
    PastBudget,
}

/// Deliveries that wait for one connection, in the order in which they were pushed.
#[derive(Debug, Default)]
pub(crate) struct Queue(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Stands here, because most often it is the only one.
    first: Option<Delivery>,
    /// Boxed, because every connection has room for it and few ever need that.
    #[expect(clippy::box_collection, reason = "a third of the size where nothing waits")]
    others: Option<Box<Vec<Delivery>>>,
    /// What all that was ever queued weighs.
    weight: usize,
    /// Where the receiver waits; none while it is on its way already.
    receiver: Option<Waker>,
    is_closed: bool,
}

/// Room for so many deliveries stays when all are taken, so that a connection which is written to
/// all the time costs no allocations.
const KEEP: usize = 16;

impl Queue {
    /// Queues one reference if `lets_in` agrees, which is told what all before it weighed. If the
    /// receiver waits, `wake` gets it, and has to see to it that it is woken.
    pub(crate) fn push(
        &self,
        delivery: &Delivery,
        weight: usize,
        lets_in: impl FnOnce(usize) -> bool,
        wake: impl FnOnce(Waker),
    ) -> Push {
        let mut state = self.lock();
        if state.is_closed {
            return Push::Gone;
        }
        if !lets_in(state.weight) {
            return Push::PastBudget;
        }
        state.weight = state.weight.wrapping_add(weight);
        let delivery = Delivery::clone(delivery);
        if state.first.is_none() {
            state.first = Some(delivery);
        } else {
            state.others.get_or_insert_default().push(delivery);
        }
        let receiver = state.receiver.take();
        drop(state);
        if let Some(receiver) = receiver {
            wake(receiver);
        }
        Push::Queued
    }

    /// Hands over what all that was ever queued weighs, which begins anew at 0 after the greatest
    /// number. Nothing is queued or taken meanwhile; `look` must not use this queue.
    pub(crate) fn weigh<T>(&self, look: impl FnOnce(usize) -> T) -> T {
        let state = self.lock();
        look(state.weight)
    }

    /// Wakes the receiver, if it waits.
    pub(crate) fn wake(&self) {
        let receiver = self.lock().receiver.take();
        if let Some(receiver) = receiver {
            receiver.wake();
        }
    }

    /// Hands over everything that waits; `each` must not use this queue. A task that gives its
    /// context is woken when there is something again.
    pub(crate) fn take(&self, cx: Option<&Context<'_>>, each: impl FnMut(Delivery)) {
        let mut state = self.lock();
        let State { first, others, .. } = &mut *state;
        if first.is_some() {
            let rest = others.as_mut().map(|others| others.drain(..));
            first.take().into_iter().chain(rest.into_iter().flatten()).for_each(each);
            others.take_if(|others| others.capacity() > KEEP);
        }
        match (&mut state.receiver, cx) {
            (Some(receiver), Some(cx)) => receiver.clone_from(cx.waker()),
            (none, Some(cx)) => *none = Some(cx.waker().clone()),
            (_, None) => {}
        }
    }

    /// From now on nothing is queued. What waits can still be taken.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        state.receiver = None;
    }

    /// Survives a panic under the lock: what is there is whole between any two lines.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::frame::Item;

    fn delivery(number: u8) -> Delivery {
        Item::frames(vec![number], None)
    }

    fn taken(queue: &Queue) -> Vec<u8> {
        let mut numbers = Vec::new();
        queue.take(None, |delivery| numbers.extend_from_slice(delivery.wire()));
        numbers
    }

    #[test]
    fn a_receiver_that_waits_is_woken_once_for_a_batch() {
        let (queue, woken) = (Queue::default(), Cell::new(0));
        let push = |number| {
            let wake = |_| woken.set(woken.get() + 1);
            queue.push(&delivery(number), 0, |_| true, wake) == Push::Queued
        };
        push(0);
        queue.take(Some(&Context::from_waker(Waker::noop())), drop);
        assert_eq!(woken.get(), 0);
        assert!((1..=3).all(push));
        assert_eq!((woken.get(), taken(&queue)), (1, vec![1, 2, 3]));
        push(4);
        assert_eq!(woken.get(), 1, "it has not waited again");
    }

    #[test]
    fn what_was_queued_before_the_end_can_be_taken_and_nothing_more_is() {
        let queue = Queue::default();
        let push = |number| queue.push(&delivery(number), 0, |_| true, Waker::wake);
        assert_eq!(push(1), Push::Queued);
        queue.close();
        assert_eq!(push(2), Push::Gone);
        assert_eq!(taken(&queue), [1]);
    }

    #[test]
    fn a_long_queue_leaves_no_room_behind() {
        let queue = Queue::default();
        let push = |number| queue.push(&delivery(number), 0, |_| true, Waker::wake);
        assert!((0..100).all(|number| push(number) == Push::Queued));
        assert_eq!(taken(&queue).len(), 100);
        assert!(queue.lock().others.is_none());
    }

    #[test]
    fn what_was_queued_is_weighed_and_what_was_not_let_in_is_not() {
        let queue = Queue::default();
        let push =
            |weight, most| queue.push(&delivery(0), weight, |before| before <= most, Waker::wake);
        assert_eq!(push(3, 0), Push::Queued);
        assert_eq!(push(4, 2), Push::PastBudget);
        assert_eq!(push(5, 3), Push::Queued);
        assert_eq!((queue.weigh(|weight| weight), taken(&queue).len()), (8, 2));
    }
}
