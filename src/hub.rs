//! A handle to everybody who is connected.
//!
//! One lock over plain maps of unbounded senders. Nothing here is async, nothing is awaited and no
//! I/O is done under the lock: to deliver a message is to push a reference to its wire bytes into
//! the queue of each receiver. The hub knows neither sockets nor backplanes.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError},
    task::Waker,
    time::Instant,
};

use crate::{
    close::CloseReason,
    config::{Config, SameUser},
    fan_out::Sent,
    frame::{Delivery, Message},
    gate::{Entered, Gate},
    metrics::Metrics,
    peer::{Budget, ConnectionId, Peer},
    queue::Push,
    relay::Relay,
    state::State,
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
        self.shared.lock().peer(id).inspect(|peer| peer.close(reason)).is_some()
    }

    /// How many entries there are now.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let state = self.shared.lock();
        let here = state.members(&self.name);
        Counts {
            connections: state.peers().len(),
            hubs: state.hubs(),
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
        self.shared.lock().set_relay(Arc::clone(&relay));
        // There is one server to a hub, and it calls this once.
        let _ = self.shared.relay.set(relay);
    }

    /// Whoever joins this hub with others.
    pub(crate) fn relay(&self) -> Option<&dyn Relay> {
        self.shared.relay.get().map(|relay| &**relay)
    }

    /// Asks every connection of the process to close, each with a reason of its own.
    pub(crate) fn close_all(&self, mut reason: impl FnMut() -> CloseReason) {
        self.shared.lock().peers().for_each(|peer| peer.close(reason()));
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
}
