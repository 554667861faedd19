//! One message on its way to many: encoded once for each form, queued for each receiver.

use std::{mem, sync::Arc, task::Waker};

use crate::{
    frame::{Delivery, Item, Publication},
    peer::{Budget, Peer},
    queue::Push,
    turns::{AT_ONCE, Turns},
};

/// What came of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sent {
    /// Connections that it was queued for.
    pub recipients: usize,
    /// Connections that were closed because of it: their queue was past its budget.
    pub evicted: usize,
    /// Connections on other nodes were not reached: too much waits for the backplane, or the
    /// message is larger than it takes. Always `false` without one.
    pub unreached: bool,
}

/// One publication on its way into many queues.
pub(crate) struct FanOut<'a, P> {
    publication: &'a mut P,
    budget: &'a Budget,
    encoded: [Option<(Delivery, usize)>; 2],
    awaited: Awaited,
    queued: usize,
    sent: Sent,
    slow: Vec<Arc<Peer>>,
}

impl<'a, P: Publication> FanOut<'a, P> {
    /// `most` says how many receivers there can be.
    pub(crate) fn new(publication: &'a mut P, budget: &'a Budget, most: usize) -> Self {
        let (encoded, slow) = ([None, None], Vec::new());
        let awaited = Awaited::new(most);
        Self { publication, budget, encoded, awaited, queued: 0, sent: Sent::default(), slow }
    }

    /// Queues it for one more receiver.
    pub(crate) fn push(&mut self, peer: &Arc<Peer>) {
        let (delivery, weight) = self.encoded[peer.form as usize].get_or_insert_with(|| {
            let wire = self.publication.encode(peer.form);
            let delivery = Item::frames(wire, self.awaited.turns.clone());
            let weight = delivery.weight();
            (delivery, weight)
        });
        let wait = |receiver| self.awaited.receivers.push(receiver);
        match peer.push(delivery, *weight, self.budget, wait) {
            Push::Queued => {
                self.queued += *weight;
                self.sent.recipients += 1;
            }
            Push::Gone => {}
            Push::PastBudget => {
                self.sent.evicted += 1;
                self.slow.push(Arc::clone(peer));
            }
        }
    }

    /// What came of it, who has to be evicted, and who is to be woken once the lock is gone.
    pub(crate) fn finish(self) -> (Sent, Vec<Arc<Peer>>, Awaited) {
        self.budget.add(self.queued);
        (self.sent, self.slow, self.awaited)
    }
}

/// The receivers that wait for a message, until it is in the queues of all. Dropped, it wakes them.
pub(crate) struct Awaited {
    receivers: Vec<Waker>,
    /// There if they are many.
    turns: Option<Arc<Turns>>,
}

impl Awaited {
    fn new(most: usize) -> Self {
        let turns = (most > AT_ONCE).then(Arc::default);
        Self { receivers: Vec::with_capacity(most), turns }
    }
}

/// Wakes them, a few at a time if they are many. Nobody else has these wakers, so it happens here,
/// even if the fan-out panics.
impl Drop for Awaited {
    fn drop(&mut self) {
        let receivers = mem::take(&mut self.receivers);
        match &self.turns {
            Some(turns) => turns.begin(receivers),
            None => receivers.into_iter().for_each(Waker::wake),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::Ordering::Relaxed, task::Context};

    use super::*;
    use crate::{
        about::Origin,
        auth::Identity,
        frame::{Form, Message},
        peer::ConnectionId,
        turns::tests::Wakes,
    };

    #[test]
    fn who_waits_is_woken_though_the_fan_out_is_not_finished() {
        let (task, budget) = (Arc::new(Wakes::default()), Budget::new(100, 1000));
        let (identity, origin) = (Identity::anonymous().into(), Origin::default());
        let peer = Peer::new(ConnectionId::next(), Form::Bare, identity, origin);
        for most in [1, AT_ONCE + 1] {
            peer.queue.take(Some(&Context::from_waker(&Arc::clone(&task).into())), drop);
            let mut message = Message::from("hello");
            let mut fan_out = FanOut::new(&mut message, &budget, most);
            fan_out.push(&peer);
            assert_eq!(task.0.swap(0, Relaxed), 0);
            drop(fan_out);
            assert_eq!(task.0.swap(0, Relaxed), 1, "of {most}");
        }
    }
}
