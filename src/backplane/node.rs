//! This process as one of several nodes: what it has to say to the others, and what it is to hear.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};

use super::{
    cluster::Cluster,
    engine::Command,
    envelope::{Header, To, Yes},
    health::Health,
    interest::{Interest, Settled},
    node_id::NodeId,
    outbox::Outbox,
    subject::Subject,
};
use crate::{
    frame::Kind,
    metrics::BackplaneCounters,
    question::{Answer, Ask, Newest, Told},
    relay::{Post, Relay, RelayFigures, Room, Settling, Unreached},
    target::Target,
};

/// It is looked at every second.
const SHORTEST_GRACE: Duration = Duration::from_secs(2);

/// One of the nodes that share an engine.
pub(crate) struct Node {
    pub(super) id: NodeId,
    pub(super) prefix: String,
    pub(super) outbox: Outbox,
    pub(super) health: Health,
    pub(super) counters: Arc<BackplaneCounters>,
    pub(super) cluster: Cluster,
    interest: Mutex<Interest>,
    /// The bytes that may wait.
    buffer: Arc<Semaphore>,
    buffer_size: usize,
    /// What the engine takes in one message.
    pub(super) max_message: AtomicUsize,
    last_id: AtomicU64,
}

impl Node {
    pub(super) fn new(
        prefix: &str,
        buffer: usize,
        grace: Duration,
        counters: Arc<BackplaneCounters>,
    ) -> Self {
        // All of it is waited for at the end, by a number of 32 bits.
        let buffer_size = buffer.min(u32::MAX as usize);
        Self {
            id: NodeId::next(),
            prefix: prefix.to_owned(),
            outbox: Outbox::default(),
            health: Health::new(grace.max(SHORTEST_GRACE)),
            counters,
            cluster: Cluster::default(),
            interest: Mutex::default(),
            buffer: Arc::new(Semaphore::new(buffer_size)),
            buffer_size,
            max_message: AtomicUsize::new(usize::MAX),
            last_id: AtomicU64::new(0),
        }
    }

    /// Whether what is sent through the engine has come back a short while ago.
    pub(crate) fn is_ready(&self) -> bool {
        self.health.is_ready(Instant::now())
    }

    /// Waits until nothing waits for the engine any more, or for the deadline.
    pub(crate) async fn flush(&self, deadline: Instant) {
        let all = u32::try_from(self.buffer_size).unwrap_or(u32::MAX);
        if timeout_at(deadline, self.buffer.acquire_many(all)).await.is_err() {
            let bytes = self.buffer_size - self.buffer.available_permits();
            log::warn!("backplane: {bytes} bytes of messages were not carried to other nodes");
        }
    }

    /// Says something to all nodes, or to one, before all that waits. It is lost if there is no
    /// engine.
    pub(super) fn tell(&self, to: To<'_>, payload: &[u8]) -> u64 {
        let (id, subject) = (self.next_id(), self.subject_for(&to));
        self.outbox.push_first(Command::Publish(subject, self.seal_note(id, to, payload)));
        id
    }

    /// The same, behind all that waits, and in its room.
    ///
    /// # Errors
    /// If there is no room or no engine, or no single message may be so large.
    pub(super) fn tell_in_order(&self, to: To<'_>, payload: &[u8]) -> Result<(), Unreached> {
        let subject = self.subject_for(&to);
        self.tell_those(subject, to, payload)
    }

    /// Tells the nodes that a user is connected to.
    pub(super) fn tell_nodes_of(
        &self,
        hub: &str,
        user: &str,
        payload: &[u8],
    ) -> Result<(), Unreached> {
        self.tell_those(Subject::user(&self.prefix, hub, user), To::Nodes(Yes), payload)
    }

    fn tell_those(&self, subject: Subject, to: To<'_>, payload: &[u8]) -> Result<(), Unreached> {
        if !self.fits(payload.len()) {
            return Err(Unreached);
        }
        let bytes = self.seal_note(self.next_id(), to, payload);
        let room = self.room(bytes.len())?;
        let is_taken = self.outbox.push_question(Command::Publish(subject, bytes), room);
        if is_taken { Ok(()) } else { Err(Unreached) }
    }

    fn subject_for(&self, to: &To<'_>) -> Subject {
        match to {
            To::Node(node) => self.subject_of(*node),
            _ => Subject::nodes(&self.prefix),
        }
    }

    fn seal_note(&self, id: u64, to: To<'_>, payload: &[u8]) -> Bytes {
        let mut header = Header::new(self.id, "default", to, Kind::Message);
        header.id = Some(id);
        header.seal(&[payload])
    }

    /// Sends a message to itself.
    pub(super) fn probe(&self) {
        let id = self.tell(To::Node(self.id), &[]);
        self.health.probe(id, Instant::now());
    }

    /// There is an engine: everything that has to be subscribed, the node's own subjects first.
    pub(super) fn begin(&self, max_message: usize) -> Vec<Command> {
        self.max_message.store(max_message, Relaxed);
        let own = NodeId::of_process();
        let mut subjects = vec![Subject::nodes(&self.prefix), self.subject_of(self.id)];
        if own != self.id {
            // Several nodes of one process: each hears what is sent to its connections.
            subjects.push(self.subject_of(own));
        }
        let mut interest = self.interest();
        // Who comes from now on is subscribed behind these.
        self.outbox.open();
        subjects.extend(interest.renew());
        drop(interest);
        subjects.into_iter().map(Command::Subscribe).collect()
    }

    /// The engine has carried these.
    pub(super) fn carried(&self, commands: &[Command]) {
        let mut interest = self.interest();
        for command in commands {
            if let Command::Subscribe(subject) = command {
                interest.confirm(subject);
            }
        }
    }

    /// There is no engine.
    pub(super) fn lose(&self) {
        let mut interest = self.interest();
        self.outbox.close();
        interest.unsettle();
        drop(interest);
        self.health.lose();
        self.cluster.lose(Instant::now());
    }

    /// There is an engine again. Messages wait for those who were there before, until then.
    pub(super) fn wait_for_others(&self, until: Instant) {
        if self.cluster.wait_until(until) {
            self.outbox.hold(until);
        }
    }

    /// Unsubscribes what nobody hears any more.
    pub(super) fn expire(&self) {
        let mut interest = self.interest();
        for subject in interest.expire(Instant::now()) {
            self.outbox.push_first(Command::Unsubscribe(subject));
        }
    }

    /// How many other nodes are left. While an engine carries nothing, nobody is silent.
    pub(super) fn forget_silent(&self) -> usize {
        let now = Instant::now();
        self.cluster.expire(now, self.health.steady_since(now))
    }

    pub(super) fn next_id(&self) -> u64 {
        self.last_id.fetch_add(1, Relaxed) + 1
    }

    fn room(&self, bytes: usize) -> Result<Room, Unreached> {
        let bytes = u32::try_from(bytes).map_err(|_| Unreached)?;
        Arc::clone(&self.buffer).try_acquire_many_owned(bytes).map_err(|_| Unreached)
    }

    fn try_publish(&self, post: &Post<'_>, room: Option<Room>) -> Result<(), Unreached> {
        let messages = self.seal(post, Some(self.id)).ok_or(Unreached)?;
        let room = match room {
            Some(room) => room,
            None => self.room(messages.iter().map(|(_, bytes)| bytes.len()).sum())?,
        };
        let (mut room, mut left) = (Some(room), messages.len());
        for (subject, bytes) in messages {
            left -= 1;
            let room = if left == 0 { room.take() } else { None };
            self.outbox.push(Command::Publish(subject, bytes), room);
        }
        Ok(())
    }

    /// Survives a panic under the lock: every change is one call of a map's.
    fn interest(&self) -> MutexGuard<'_, Interest> {
        self.interest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Relay for Node {
    fn first_came(&self, hub: &str, target: Target<'_>) {
        let Some(subject) = self.subject(hub, target) else { return };
        let mut interest = self.interest();
        if interest.come(&subject) {
            // Under the lock: the engine has to hear of it in this order.
            self.outbox.push_first(Command::Subscribe(subject));
        }
    }

    fn last_left(&self, hub: &str, target: Target<'_>) {
        let Some(subject) = self.subject(hub, target) else { return };
        self.interest().leave(&subject, Instant::now());
    }

    fn settling(&self, hub: &str, target: Target<'_>) -> Option<Settling> {
        let subject = self.subject(hub, target)?;
        let settled = self.interest().settled(&subject);
        match settled {
            Settled::Yes => None,
            Settled::Soon(settling) => Some(settling),
            Settled::Unknown => {
                self.not_settled();
                None
            }
        }
    }

    fn not_settled(&self) {
        self.counters.unconfirmed.add(1);
        self.health.miss();
    }

    fn reserve(&self, target: Target<'_>, bytes: usize) -> Result<Room, Unreached> {
        let copies = if let Target::Users(users) = target { users.len() } else { 1 };
        let room =
            if self.fits(bytes) { self.room(bytes.saturating_mul(copies)) } else { Err(Unreached) };
        room.inspect_err(|Unreached| self.counters.refused.add(1))
    }

    fn publish(&self, post: &Post<'_>, room: Option<Room>) -> Result<(), Unreached> {
        self.try_publish(post, room).inspect_err(|Unreached| self.counters.refused.add(1))
    }

    fn ask<'a>(&'a self, hub: &'a str, ask: Ask, own: Answer) -> BoxFuture<'a, Told> {
        self.gather(hub, ask, own).boxed()
    }

    fn replace(&self, hub: &str, user: &str, by: &Newest) {
        self.demand(hub, user, by);
    }

    fn figures(&self) -> RelayFigures {
        RelayFigures {
            nodes: self.forget_silent() + 1,
            is_up: self.is_ready(),
            waiting_bytes: self.buffer_size.saturating_sub(self.buffer.available_permits()),
            subscriptions: self.interest().len(),
        }
    }
}
