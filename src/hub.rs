//! Who is connected, who they are, and which groups they are in.
//!
//! One lock over plain maps of unbounded senders. Nothing here is async, nothing is awaited and no
//! I/O is done under the lock: to deliver a message is to push a reference to its wire bytes into
//! the queue of each receiver. The hub knows neither sockets nor backplanes.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    fmt,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError},
    task::Waker,
    time::Instant,
};

use crate::{
    about::Origin,
    auth::Identity,
    close::CloseReason,
    config::{Config, SameUser},
    fan_out::Sent,
    frame::{Delivery, Form, Message},
    gate::{Entered, Gate},
    metrics::Metrics,
    peer::{Budget, ConnectionId, Peer, Push},
    place::Place,
    relay::{Relay, Teller},
    target::Target,
};

/// Every connection, user and group of this process. Cheap to clone; every clone is the same hub.
///
/// ```
/// let hub = hubnerite::Hub::default();
/// assert_eq!(hub.send_to_user("alice", "hello").recipients, 0);
/// ```
#[derive(Clone)]
pub struct Hub {
    pub(crate) shared: Arc<Shared>,
    pub(crate) name: Arc<str>,
}

/// How many entries there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Open connections of the process, members of a hub or not.
    pub connections: usize,
    /// Hubs with at least one member.
    pub hubs: usize,
    /// Members of this hub.
    pub members: usize,
    /// Users of this hub with at least one connection.
    pub users: usize,
    /// Groups of this hub with at least one member.
    pub groups: usize,
    /// Bytes that wait for all connections of the process, or are half read from them.
    pub queued_bytes: usize,
}

pub(crate) struct Shared {
    state: Mutex<State>,
    pub(crate) budget: Budget,
    pub(crate) max_groups: usize,
    pub(crate) same_user: SameUser,
    pub(crate) metrics: Metrics,
    gate: Gate,
    /// Whoever joins this hub with others. Its place in [`State`] is filled with it.
    relay: OnceLock<Arc<dyn Relay>>,
}

/// What the one lock guards.
#[derive(Default)]
pub(crate) struct State {
    last_ticket: Ticket,
    connections: HashMap<ConnectionId, Entry>,
    hubs: HashMap<Arc<str>, Members>,
    relay: Option<Arc<dyn Relay>>,
}

/// One connection, and where it has to be taken out of.
struct Entry {
    peer: Arc<Peer>,
    /// Boxed: not every connection is a member, and maps have room for more than they hold.
    membership: Option<Box<Membership>>,
}

/// Every connection has one, and the map has room for up to twice as many.
const _: () = assert!(size_of::<(ConnectionId, Entry)>() <= 24);

pub(crate) struct Membership {
    /// Which [`Member`](crate::Member) this is: a connection may be one, and later another.
    pub(crate) ticket: Ticket,
    pub(crate) hub: Arc<str>,
    pub(crate) user: Option<Arc<str>>,
    pub(crate) groups: Vec<Arc<str>>,
}

/// A number that no other membership has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Ticket(u64);

/// The members of one hub.
#[derive(Default)]
pub(crate) struct Members {
    pub(crate) all: Peers,
    pub(crate) users: HashMap<Arc<str>, Vec<Arc<Peer>>>,
    pub(crate) groups: HashMap<Arc<str>, Peers>,
}

/// In the order in which they came: a message to many is written to one after the other, and those
/// who came together lie together, here and in the kernel.
pub(crate) type Peers = BTreeMap<ConnectionId, Arc<Peer>>;

impl Hub {
    /// A hub with the limits of `config`. [`Server::hub`](crate::Server::hub) has made one.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let shared = Shared {
            state: Mutex::default(),
            budget: Budget::new(config.max_backlog, config.max_total_backlog),
            max_groups: config.max_groups,
            same_user: config.same_user,
            metrics: Metrics::default(),
            gate: Gate::default(),
            relay: OnceLock::new(),
        };
        Self { shared: Arc::new(shared), name: "default".into() }
    }

    /// The hub of that name beside this one: the same process and budgets, users and groups of
    /// its own. It exists while it has members; naming one costs nothing.
    #[must_use]
    pub fn named(&self, name: &str) -> Self {
        if *self.name == *name {
            return self.clone();
        }
        Self { shared: Arc::clone(&self.shared), name: name.into() }
    }

    /// The name of this hub: `default` unless it comes from [`Hub::named`].
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Queues a message for every connection of a user.
    pub fn send_to_user(&self, user: &str, message: impl Into<Message>) -> Sent {
        self.publish(Target::User(user), None, &mut message.into())
    }

    /// Queues a message for every member of a group. All its members see one order.
    pub fn send_to_group(&self, group: &str, message: impl Into<Message>) -> Sent {
        self.publish(Target::Group(group), None, &mut message.into())
    }

    /// Queues a message for every member of this hub.
    pub fn send_to_all(&self, message: impl Into<Message>) -> Sent {
        self.publish(Target::All, None, &mut message.into())
    }

    /// Asks a connection to close once it has written what is queued for it. `false` if there is
    /// no such connection.
    #[allow(clippy::must_use_candidate, reason = "it is called for what it does")]
    pub fn close_connection(&self, id: ConnectionId, reason: CloseReason) -> bool {
        let state = self.shared.lock();
        state.connections.get(&id).inspect(|entry| entry.peer.close(reason)).is_some()
    }

    /// How many entries there are now.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let state = self.shared.lock();
        let here = state.hubs.get(&self.name);
        Counts {
            connections: state.connections.len(),
            hubs: state.hubs.len(),
            members: here.map_or(0, |here| here.all.len()),
            users: here.map_or(0, |here| here.users.len()),
            groups: here.map_or(0, |here| here.groups.len()),
            queued_bytes: self.shared.budget.queued(),
        }
    }

    /// The counters of this process.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Whether both are hubs of one process.
    pub(crate) fn is_beside(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Queues a delivery for one connection, member or not.
    pub(crate) fn push(&self, peer: &Arc<Peer>, delivery: &Delivery) -> Push {
        let weight = delivery.weight();
        let push = peer.push(delivery, weight, &self.shared.budget, Waker::wake);
        match push {
            Push::Queued => self.shared.budget.add(weight),
            Push::PastBudget => {
                self.shared.evict(&mut self.shared.lock(), peer, CloseReason::SlowReader);
            }
            Push::Gone => {}
        }
        push
    }

    /// Makes the queue of a new connection and enters it in the list of all connections.
    pub(crate) fn register(
        &self,
        id: ConnectionId,
        form: Form,
        identity: Arc<Identity>,
        origin: Origin,
    ) -> Registration {
        let peer = Peer::new(id, form, identity, origin);
        let entry = Entry { peer: Arc::clone(&peer), membership: None };
        self.shared.lock().connections.insert(peer.id, entry);
        Registration { shared: Arc::clone(&self.shared), peer }
    }

    /// Accepts something that will be queued before what is returned is dropped; `None` once
    /// nothing is accepted any more.
    pub(crate) fn accept(&self) -> Option<Entered<'_>> {
        self.shared.gate.enter()
    }

    /// The gate before all hubs of this process.
    pub(crate) fn gate(&self) -> &Gate {
        &self.shared.gate
    }

    /// Tells this relay what happens here from now on. Called once, before there are members.
    #[cfg(feature = "backplane")]
    pub(crate) fn set_relay(&self, relay: Arc<dyn Relay>) {
        self.shared.lock().relay = Some(Arc::clone(&relay));
        // There is one server to a hub, and it calls this once.
        let _ = self.shared.relay.set(relay);
    }

    /// Whoever joins this hub with others.
    pub(crate) fn relay(&self) -> Option<&dyn Relay> {
        self.shared.relay.get().map(|relay| &**relay)
    }

    /// Asks every connection of the process to close, each with a reason of its own.
    pub(crate) fn close_all(&self, mut reason: impl FnMut() -> CloseReason) {
        self.shared.lock().connections.values().for_each(|entry| entry.peer.close(reason()));
    }
}

impl Default for Hub {
    fn default() -> Self {
        Self::new(&Config::default())
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Shared {
    /// Survives a panic under the lock: every change of the maps is one call of theirs.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        let (state, waited) = match self.state.try_lock() {
            Ok(state) => (state, 0),
            Err(TryLockError::Poisoned(state)) => (state.into_inner(), 0),
            Err(TryLockError::WouldBlock) => {
                let since = Instant::now();
                let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                (state, since.elapsed().as_micros().max(1))
            }
        };
        self.metrics.lock_waits.record(u64::try_from(waited).unwrap_or(u64::MAX));
        state
    }

    /// Takes a connection out of its hub and asks its task to close at once.
    pub(crate) fn evict(&self, state: &mut State, peer: &Peer, reason: CloseReason) {
        let text = reason.text();
        let overloaded = reason == CloseReason::Overloaded;
        if peer.evict(reason) {
            self.metrics.evicted.add(1);
            self.metrics.overloaded.add(u64::from(overloaded));
            log::warn!(
                "connection {} is closed with {} bytes queued or half read: {text}",
                peer.id,
                peer.weight()
            );
        }
        state.leave(peer.id);
    }

    /// Evicts those who cost most until the process is within its budget. Who is about to go counts
    /// as gone.
    pub(crate) fn relieve(&self, state: &mut State) {
        let excess = self.budget.excess();
        if excess == 0 {
            return;
        }
        let peers = state.connections.values().map(|entry| Arc::clone(&entry.peer));
        let (doomed, mut peers): (Vec<_>, Vec<_>) = peers.partition(|peer| peer.is_evicted());
        let mut excess = excess.saturating_sub(doomed.iter().map(|peer| peer.weight()).sum());
        peers.sort_by_cached_key(|peer| Reverse(peer.weight()));
        for peer in peers {
            if excess == 0 {
                break;
            }
            excess = excess.saturating_sub(peer.weight());
            self.evict(state, &peer, CloseReason::Overloaded);
        }
    }
}

impl State {
    /// All connections of the process, members of a hub or not.
    pub(crate) fn peers(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.connections.values().map(|entry| &entry.peer)
    }

    /// A hub, if it has members.
    pub(crate) fn members(&self, hub: &str) -> Option<&Members> {
        self.hubs.get(hub)
    }

    /// A connection's membership, while it is a member.
    pub(crate) fn membership(&self, id: ConnectionId) -> Option<&Membership> {
        self.connections.get(&id)?.membership.as_deref()
    }

    /// The same, and the hub around it, to change both.
    pub(crate) fn place(&mut self, id: ConnectionId) -> Option<Place<'_>> {
        let Entry { peer, membership } = self.connections.get_mut(&id)?;
        let membership = membership.as_deref_mut()?;
        let here = self.hubs.get_mut(&membership.hub)?;
        Some(Place { peer, membership, here, relay: self.relay.as_deref() })
    }

    /// Makes a registered connection a member.
    pub(crate) fn enter(
        &mut self,
        hub: &Arc<str>,
        peer: &Arc<Peer>,
        user: Option<Arc<str>>,
    ) -> Ticket {
        self.last_ticket.0 += 1;
        let ticket = self.last_ticket;
        let Some(entry) = self.connections.get_mut(&peer.id) else { return ticket };
        let teller = Teller { relay: self.relay.as_deref(), hub };
        let here = self.hubs.entry(Arc::clone(hub)).or_insert_with(|| {
            teller.first_came(Target::All);
            Members::default()
        });
        here.all.insert(peer.id, Arc::clone(peer));
        if let Some(user) = &user {
            let peers = here.users.entry(Arc::clone(user)).or_insert_with(|| {
                teller.first_came(Target::User(user));
                Vec::with_capacity(1)
            });
            peers.push(Arc::clone(peer));
        }
        let hub = Arc::clone(hub);
        let membership = Membership { ticket, hub, user, groups: Vec::new() };
        entry.membership = Some(Box::new(membership));
        ticket
    }

    /// Takes a connection out of its hub, its user and its groups; empty ones go with it.
    pub(crate) fn leave(&mut self, id: ConnectionId) {
        let Some(entry) = self.connections.get_mut(&id) else { return };
        let Some(membership) = entry.membership.take() else { return };
        let Some(here) = self.hubs.get_mut(&membership.hub) else { return };
        let teller = Teller { relay: self.relay.as_deref(), hub: &membership.hub };
        here.all.remove(&id);
        if let Some(user) = membership.user {
            here.leave_user(&user, id, teller);
        }
        for group in membership.groups {
            here.leave_group(&group, id, teller);
        }
        if here.all.is_empty() {
            teller.last_left(Target::All);
            self.hubs.remove(&membership.hub);
        } else {
            shrink(&mut here.users);
            shrink(&mut here.groups);
        }
    }
}

impl Members {
    /// How many receivers there are.
    pub(crate) fn count(&self, target: Target<'_>) -> usize {
        let users = |user: &str| self.users.get(user).map_or(0, Vec::len);
        match target {
            Target::User(user) => users(user),
            Target::Users(list) => list.iter().map(|user| users(user)).sum(),
            Target::All => self.all.len(),
            #[cfg(feature = "control")]
            Target::Connection(id) => usize::from(self.all.contains_key(&id)),
            #[cfg(feature = "control")]
            Target::Foreign(_) => 0,
            Target::Group(group) => self.groups.get(group).map_or(0, Peers::len),
        }
    }

    /// The receivers in their order, where a target may have many.
    #[cfg(feature = "control")]
    pub(crate) fn crowd(&self, target: Target<'_>) -> Option<&Peers> {
        match target {
            Target::All => Some(&self.all),
            Target::Group(group) => self.groups.get(group),
            _ => None,
        }
    }

    pub(crate) fn receivers(&self, target: Target<'_>, mut each: impl FnMut(&Arc<Peer>)) {
        let mut users = |user: &str| self.users.get(user).into_iter().flatten().for_each(&mut each);
        match target {
            Target::User(user) => users(user),
            Target::Users(list) => list.iter().for_each(|user| users(user)),
            Target::All => self.all.values().for_each(each),
            #[cfg(feature = "control")]
            Target::Connection(id) => self.all.get(&id).into_iter().for_each(each),
            #[cfg(feature = "control")]
            Target::Foreign(_) => {}
            Target::Group(group) => {
                self.groups.get(group).into_iter().flat_map(Peers::values).for_each(each);
            }
        }
    }

    fn leave_user(&mut self, user: &str, id: ConnectionId, teller: Teller<'_>) {
        let Some(peers) = self.users.get_mut(user) else { return };
        peers.retain(|peer| peer.id != id);
        if peers.is_empty() {
            teller.last_left(Target::User(user));
            self.users.remove(user);
        }
    }

    pub(crate) fn leave_group(&mut self, group: &str, id: ConnectionId, teller: Teller<'_>) {
        let Some(peers) = self.groups.get_mut(group) else { return };
        peers.remove(&id);
        if peers.is_empty() {
            teller.last_left(Target::Group(group));
            self.groups.remove(group);
        }
    }
}

/// Maps keep their room when entries go; after a crowd has left, give it back. A quarter full
/// leaves half of what remains free, so that this happens once per halving.
fn shrink<K: Eq + Hash, V>(map: &mut HashMap<K, V>) {
    const SMALL: usize = 64;
    if map.capacity() > SMALL && map.len() < map.capacity() / 4 {
        map.shrink_to(map.len() * 2);
    }
}

/// A connection's place in the list of all of them. Dropped, it takes the connection out, and
/// out of its hub if it is still there.
pub(crate) struct Registration {
    shared: Arc<Shared>,
    pub(crate) peer: Arc<Peer>,
}

impl Registration {
    /// Gives back what a delivery counted against the budgets.
    pub(crate) fn release(&self, weight: usize) {
        self.peer.release(weight, &self.shared.budget);
    }

    /// Counts what a half-read message takes, which may be more than the process has left.
    pub(crate) fn hold(&self, bytes: usize) {
        self.peer.hold(bytes, &self.shared.budget);
        if bytes > 0 && self.shared.budget.excess() > 0 {
            self.shared.relieve(&mut self.shared.lock());
        }
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.hold(0);
        let mut state = self.shared.lock();
        state.leave(self.peer.id);
        if state.connections.remove(&self.peer.id).is_some() {
            self.shared.metrics.past.take_over(&self.peer.about);
        }
        shrink(&mut state.connections);
    }
}
