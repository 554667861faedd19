//! Who is connected, who they are, and which groups they are in: what the hub's lock guards.
//!
//! Plain maps that name each other. Every change of one is made here or in [`place`](crate::place),
//! so that an empty group or user never stays behind.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    sync::Arc,
};

use crate::{
    peer::{ConnectionId, Peer},
    place::Place,
    relay::{Relay, Teller},
    target::Target,
};

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

impl State {
    /// All connections of the process, members of a hub or not.
    pub(crate) fn peers(&self) -> impl ExactSizeIterator<Item = &Arc<Peer>> {
        self.connections.values().map(|entry| &entry.peer)
    }

    /// A connection, member of a hub or not.
    pub(crate) fn peer(&self, id: ConnectionId) -> Option<&Arc<Peer>> {
        self.connections.get(&id).map(|entry| &entry.peer)
    }

    /// How many hubs have members.
    pub(crate) fn hubs(&self) -> usize {
        self.hubs.len()
    }

    /// Tells this relay what changes from now on.
    #[cfg(feature = "backplane")]
    pub(crate) fn set_relay(&mut self, relay: Arc<dyn Relay>) {
        self.relay = Some(relay);
    }

    /// Enters a connection that is a member of no hub yet.
    pub(crate) fn insert(&mut self, peer: Arc<Peer>) {
        self.connections.insert(peer.id, Entry { peer, membership: None });
    }

    /// Takes a connection out, of its hub too if it is still there; `false` if there is none.
    pub(crate) fn remove(&mut self, id: ConnectionId) -> bool {
        self.leave(id);
        let is_removed = self.connections.remove(&id).is_some();
        shrink(&mut self.connections);
        is_removed
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
