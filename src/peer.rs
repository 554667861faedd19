//! How one connection is reached from outside its task: its queue, and what may wait in it.

#[cfg(feature = "control")]
use std::cmp::Ordering;
use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{
            AtomicBool, AtomicIsize, AtomicU64, AtomicUsize,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    task::{Wake, Waker},
};

use crate::{
    about::{About, Origin},
    auth::Identity,
    close::CloseReason,
    frame::{Delivery, Form, Item},
    queue::{Push, Queue},
    rights::{Action, Rights},
};

/// One connection of one process. Its text form names the process too.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(u64);

impl ConnectionId {
    pub(crate) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Relaxed))
    }

    /// The connection of that name; `None` if no connection of this process could have it.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let (process, number) = numbers(name)?;
        (process == process_number()).then_some(Self(number))
    }

    /// The place of a name among those of this process, whichever it is of: behind it are those
    /// that are greater. `None` if no process gives out such a name.
    #[cfg(feature = "control")]
    pub(crate) fn floor(name: &str) -> Option<Self> {
        let (process, number) = numbers(name)?;
        Some(Self(match process.cmp(&process_number()) {
            Ordering::Less => 0,
            Ordering::Equal => number,
            Ordering::Greater => u64::MAX,
        }))
    }
}

/// The two numbers of a name.
fn numbers(name: &str) -> Option<(u64, u64)> {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let (head, tail) = name.split_at_checked(16)?;
    let right = name.len() == 32 && name.bytes().all(is_digit);
    let process = u64::from_str_radix(head, 16).ok().filter(|_| right)?;
    u64::from_str_radix(tail, 16).ok().map(|number| (process, number))
}

/// A number that no other process has, most likely.
pub(crate) fn process_number() -> u64 {
    static NUMBER: OnceLock<u64> = OnceLock::new();
    *NUMBER.get_or_init(|| RandomState::new().hash_one(0))
}

/// 32 hexadecimal digits: 16 drawn at random by this process, 16 of this connection.
impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", process_number(), self.0)
    }
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// How many bytes may wait, for one connection and for all of them together.
#[derive(Debug)]
pub(crate) struct Budget {
    per_connection: usize,
    total: isize,
    /// Signed: a receiver may be done with a message before its publisher has counted it.
    queued: AtomicIsize,
}

impl Budget {
    pub(crate) fn new(per_connection: usize, total: usize) -> Self {
        let total = isize::try_from(total).unwrap_or(isize::MAX);
        Self { per_connection, total, queued: AtomicIsize::new(0) }
    }

    /// Bytes that wait for all connections, or are half read from them.
    pub(crate) fn queued(&self) -> usize {
        usize::try_from(self.queued.load(Relaxed)).unwrap_or(0)
    }

    /// How many bytes too many that is.
    pub(crate) fn excess(&self) -> usize {
        usize::try_from(self.queued.load(Relaxed) - self.total).unwrap_or(0)
    }

    /// Counts what [`Peer::push`] has queued, one call for a whole fan-out, or what is held.
    pub(crate) fn add(&self, bytes: usize) {
        self.queued.fetch_add(bytes.cast_signed(), Relaxed);
    }

    fn release(&self, bytes: usize) {
        self.queued.fetch_sub(bytes.cast_signed(), Relaxed);
    }
}

/// One connection's queue, and who it belongs to. In this order, for a delivery looks at all from
/// the queue to the first counts of `about`, and at nothing else.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Peer {
    pub(crate) queue: Queue,
    /// What of the queue's [weight](Queue::weigh) is written or thrown away. Only who has the
    /// connection's lock adds to it.
    released: AtomicUsize,
    pub(crate) id: ConnectionId,
    pub(crate) form: Form,
    evicted: AtomicBool,
    /// Its handler is given no more messages.
    is_closing: AtomicBool,
    /// Whether its handler was woken.
    handler_is_due: AtomicBool,
    /// Whether its timer has rung.
    alarm: AtomicBool,
    pub(crate) about: About,
    pub(crate) identity: Arc<Identity>,
    /// What a message takes that is half read from this connection.
    held: AtomicUsize,
    /// The rights of now, once they are others than those of the identity. Few ever are.
    rights: OnceLock<Box<Mutex<Rights>>>,
}

/// Every connection has one. Who adds to it says here what that costs.
const _: () = assert!(size_of::<Peer>() <= 192);

impl Peer {
    pub(crate) fn new(
        id: ConnectionId,
        form: Form,
        identity: Arc<Identity>,
        origin: Origin,
    ) -> Arc<Self> {
        let (queue, released, held, evicted, is_closing, alarm, rights) = Default::default();
        let (about, handler_is_due) = (About::new(origin), AtomicBool::new(true));
        let peer = Self {
            queue,
            released,
            id,
            form,
            evicted,
            is_closing,
            handler_is_due,
            alarm,
            about,
            identity,
            held,
            rights,
        };
        Arc::new(peer)
    }

    /// Whether it may do this now.
    pub(crate) fn may(&self, action: Action<'_>) -> bool {
        self.changed_rights()
            .map_or_else(|| self.identity.rights().allow(action), |rights| rights.allow(action))
    }

    fn changed_rights(&self) -> Option<MutexGuard<'_, Rights>> {
        self.rights.get().map(|rights| rights.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads or changes what it may do from now on.
    #[cfg(feature = "control")]
    pub(crate) fn with_rights<T>(&self, look: impl FnOnce(&mut Rights) -> T) -> T {
        let rights = self.rights.get_or_init(|| Box::new(self.identity.rights().clone().into()));
        look(&mut rights.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether it is asked to close already; what waits for it is about to be thrown away.
    pub(crate) fn is_evicted(&self) -> bool {
        self.evicted.load(Relaxed)
    }

    /// Takes note that the connection begins to close.
    pub(crate) fn set_closing(&self) {
        self.is_closing.store(true, Relaxed);
    }

    /// Whether it has begun to, as a glance without its lock can tell.
    pub(crate) fn is_closing(&self) -> bool {
        self.is_closing.load(Relaxed)
    }

    /// Bytes that wait for this connection.
    pub(crate) fn queued(&self) -> usize {
        self.queue.weigh(|all| self.waiting_of(all))
    }

    /// What waits of all that was ever queued. Only under the queue's lock: what is queued later may be
    /// released before one looks.
    fn waiting_of(&self, all: usize) -> usize {
        all.wrapping_sub(self.released.load(Relaxed))
    }

    /// Bytes that it costs the process: those that wait, and those that are half read.
    pub(crate) fn weight(&self) -> usize {
        self.queued() + self.held.load(Relaxed)
    }

    /// Counts that so many bytes are half read now. The connection's own budget does not ask for
    /// them: who sends a large message may hear others meanwhile.
    pub(crate) fn hold(&self, bytes: usize, budget: &Budget) {
        budget.add(bytes);
        budget.release(self.held.swap(bytes, Relaxed));
    }

    /// Queues one reference. The budget asks what waited before, so that one message larger than
    /// the budget still reaches a reader who keeps up.
    pub(crate) fn push(
        &self,
        delivery: &Delivery,
        weight: usize,
        budget: &Budget,
        wake: impl FnOnce(Waker),
    ) -> Push {
        if self.evicted.load(Relaxed) {
            return Push::Gone;
        }
        let lets_in = |all| self.waiting_of(all) <= budget.per_connection;
        self.queue.push(delivery, weight, lets_in, wake)
    }

    /// Gives back what a delivery counted, once it is written or thrown away.
    pub(crate) fn release(&self, weight: usize, budget: &Budget) {
        let released = self.released.load(Relaxed).wrapping_add(weight);
        self.released.store(released, Relaxed);
        budget.release(weight);
    }

    /// Its handler is to be polled, the next time that its task is.
    pub(crate) fn summon_handler(&self) {
        self.handler_is_due.store(true, Release);
    }

    /// Whether its handler was woken since the last call. Only its task asks.
    pub(crate) fn take_summons(&self) -> bool {
        self.handler_is_due.load(Relaxed) && self.handler_is_due.swap(false, Acquire)
    }

    /// Whether its timer has rung since the last call. Only its task asks, once it waits for the
    /// queue: what rings behind that wakes it.
    pub(crate) fn take_alarm(&self) -> bool {
        self.alarm.load(Relaxed) && self.alarm.swap(false, Acquire)
    }

    /// Asks the connection's task to close. It finds the request behind what was queued before.
    pub(crate) fn close(&self, reason: CloseReason) {
        // If nobody listens any more, it is closed already.
        self.queue.push(&Arc::new(Item::Close(reason)), 0, |_| true, Waker::wake);
    }

    /// Like [`Peer::close`], at most once, and nothing is queued after it. `false` if it was
    /// evicted before.
    pub(crate) fn evict(&self, reason: CloseReason) -> bool {
        let first = !self.evicted.swap(true, Relaxed);
        if first {
            self.close(reason);
        }
        first
    }
}

/// The timer of its connection has rung: wakes the task, which waits for the queue, or is on its
/// way already, if need be behind [others](crate::turns) who hear the same.
impl Wake for Peer {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.alarm.store(true, Release);
        self.queue.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::task::Context;

    use super::*;
    use crate::turns::tests::Wakes;

    fn peer() -> Arc<Peer> {
        let identity = Identity::anonymous().into();
        Peer::new(ConnectionId::next(), Form::Bare, identity, Origin::default())
    }

    fn frames(length: usize) -> (Delivery, usize) {
        let delivery = Item::frames(vec![0; length], None);
        let weight = delivery.weight();
        (delivery, weight)
    }

    #[test]
    fn one_message_above_the_budget_reaches_a_reader_who_keeps_up() {
        let (peer, budget) = (peer(), Budget::new(100, 1000));
        let (large, weight) = frames(500);
        assert_eq!(peer.push(&large, weight, &budget, Waker::wake), Push::Queued);
        assert_eq!(peer.push(&large, weight, &budget, Waker::wake), Push::PastBudget);
        assert_eq!(peer.queued(), weight);
        peer.release(weight, &budget);
        assert_eq!(peer.push(&large, weight, &budget, Waker::wake), Push::Queued);
    }

    #[test]
    fn an_evicted_connection_is_asked_to_close_once_and_takes_nothing_more() {
        let (peer, budget) = (peer(), Budget::new(100, 1000));
        assert!(peer.evict(CloseReason::SlowReader));
        assert!(!peer.evict(CloseReason::SlowReader));
        let (small, weight) = frames(1);
        assert_eq!(peer.push(&small, weight, &budget, Waker::wake), Push::Gone);
        let mut queued = Vec::new();
        peer.queue.take(None, |delivery| queued.push(delivery));
        assert_eq!(queued.len(), 1);
        assert!(matches!(*queued[0], Item::Close(CloseReason::SlowReader)));
    }

    #[test]
    fn a_timer_that_rings_wakes_the_task_once_and_says_that_it_was_the_timer() {
        let (peer, task) = (peer(), Arc::new(Wakes::default()));
        let (timer, waker) = (Waker::from(Arc::clone(&peer)), Waker::from(Arc::clone(&task)));
        timer.wake_by_ref();
        assert!(peer.take_alarm() && !peer.take_alarm(), "nobody waits yet");
        peer.queue.take(Some(&Context::from_waker(&waker)), drop);
        timer.wake_by_ref();
        timer.wake();
        assert_eq!(task.0.load(Relaxed), 1, "it is on its way");
        assert!(peer.take_alarm() && !peer.take_alarm());
    }

    #[test]
    fn ids_differ_and_print_32_digits() {
        let (one, other) = (ConnectionId::next(), ConnectionId::next());
        assert_ne!(one, other);
        assert_eq!(one.to_string().len(), 32);
        assert_eq!(ConnectionId::parse(&one.to_string()), Some(one));
        for wrong in ["", "0", &"0".repeat(32), &one.to_string().to_uppercase().replace('0', "A")] {
            assert_eq!(ConnectionId::parse(wrong), None, "{wrong}");
        }
        assert_eq!(ConnectionId::parse(&format!("{one}0")), None);
    }

    #[cfg(feature = "control")]
    #[test]
    fn names_of_other_processes_stand_before_or_behind_all_of_ours() {
        let (first, one) = (ConnectionId::next(), ConnectionId::next());
        assert_eq!(ConnectionId::floor(&one.to_string()), Some(one));
        let of = |process: u64| ConnectionId::floor(&format!("{process:016x}{:016x}", 7));
        assert!(of(process_number() - 1).is_some_and(|floor| floor < first));
        assert!(of(process_number() + 1).is_some_and(|floor| floor > one));
        assert_eq!(ConnectionId::floor("x"), None);
    }
}
