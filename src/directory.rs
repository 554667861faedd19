//! What is asked of the hub from outside its connections: who is there, and what a backend does
//! with them.
//!
//! Everything is one hold of the hub's lock. A page costs what stands on it: members lie in order.

use std::{
    net::SocketAddr,
    ops::Bound,
    sync::Arc,
    time::{Duration, SystemTime},
};

#[cfg(feature = "control")]
use crate::{close::CloseReason, peer::Peer, question::Newest, rights::Rights, target::Target};
use crate::{
    hub::Hub,
    metrics::Traffic,
    peer::ConnectionId,
    state::{Peers, State},
};

/// One member of a hub, as an operator sees it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// The connection's name.
    pub id: ConnectionId,
    /// The user, or `None` for an anonymous member.
    pub user: Option<Arc<str>>,
    /// The groups that it is in, in the order in which it joined them.
    pub groups: Vec<Arc<str>>,
    /// When its opening handshake was done, to the second.
    pub opened_at: SystemTime,
    /// The client's address, with port 0 behind a trusted proxy; `None` for a Unix socket.
    pub address: Option<SocketAddr>,
    /// The subprotocol that was selected.
    pub subprotocol: Option<Arc<str>>,
    /// Bytes that wait for it.
    pub queued_bytes: usize,
    /// Messages that it has sent.
    pub messages_in: u64,
    /// Messages that were written to it, or are about to be.
    pub messages_out: u64,
    /// How long its last pong took to come; `None` if it was never pinged.
    pub round_trip: Option<Duration>,
}

impl Hub {
    /// The members of this hub in the order in which they came: those behind `after`, `limit` of
    /// them at most. To have all of them, ask again behind the last one.
    #[must_use]
    pub fn connections(&self, after: Option<ConnectionId>, limit: usize) -> Vec<ConnectionInfo> {
        let state = self.shared.lock();
        let Some(here) = state.members(&self.name) else { return Vec::new() };
        let ids = page(&here.all, after).take(limit);
        ids.filter_map(|id| state.info(&self.name, id)).collect()
    }

    /// What went through all connections of the process, and the most bytes that wait for one of
    /// those that are open. The lock is held while each of them is looked at.
    #[must_use]
    pub fn traffic(&self) -> (Traffic, usize) {
        let state = self.shared.lock();
        let mut traffic = self.metrics().past.traffic();
        let mut largest = 0;
        for peer in state.peers() {
            traffic.add(&peer.about);
            largest = largest.max(peer.queued());
        }
        (traffic, largest)
    }
}

/// What a backend asks. Each function takes those of a target that are `wanted`, a question that
/// is asked under the lock and must not take long.
#[cfg(feature = "control")]
impl Hub {
    /// Whether a target has any connection.
    pub(crate) fn has(&self, target: Target<'_>) -> bool {
        let state = self.shared.lock();
        state.members(&self.name).is_some_and(|here| here.count(target) > 0)
    }

    /// The members of a group, or of the hub, and their users, paged like [`Hub::connections`].
    pub(crate) fn page(
        &self,
        target: Target<'_>,
        after: Option<ConnectionId>,
        limit: usize,
    ) -> Vec<(ConnectionId, Option<Arc<str>>)> {
        let state = self.shared.lock();
        let crowd = state.members(&self.name).and_then(|here| here.crowd(target));
        let ids = crowd.into_iter().flat_map(|peers| page(peers, after)).take(limit);
        ids.filter_map(|id| Some((id, state.membership(id)?.user.clone()))).collect()
    }

    /// Asks connections to close once they have written what is queued for them; returns how
    /// many there were.
    pub(crate) fn close_where(
        &self,
        target: Target<'_>,
        reason: &CloseReason,
        wanted: impl Fn(&State, &Peer) -> bool,
    ) -> usize {
        let (mut count, state) = (0, self.shared.lock());
        let Some(here) = state.members(&self.name) else { return count };
        here.receivers(target, |peer| {
            if wanted(&state, peer) {
                peer.close(reason.clone());
                count += 1;
            }
        });
        count
    }

    /// Closes the connections of a user that are older than this one; returns how many there were,
    /// and one that is newer, if there is one.
    pub(crate) fn replace_older(&self, user: &str, by: &Newest) -> (usize, Option<Newest>) {
        let mut state = self.shared.lock();
        let here = state.members(&self.name).and_then(|here| here.users.get(user));
        let peers = here.cloned().unwrap_or_default();
        let (mut count, mut newest) = (0, None);
        for peer in peers {
            let this = Newest::of(&peer);
            if this > *by {
                newest = newest.max(Some(this));
            } else if this != *by {
                count += 1;
                peer.close(CloseReason::Replaced);
                state.leave(peer.id);
            }
        }
        (count, newest)
    }

    /// Puts connections into groups; returns how many there were.
    ///
    /// # Errors
    /// The limit of groups, if at least one of them could not join all; the others have.
    pub(crate) fn join_where(
        &self,
        target: Target<'_>,
        groups: &[String],
        wanted: impl Fn(&State, &Peer) -> bool,
    ) -> Result<usize, usize> {
        let limit = self.shared.max_groups;
        let mut all_joined = true;
        let mut state = self.shared.lock();
        let ids = state.ids(&self.name, target, wanted);
        for id in &ids {
            let Some(mut place) = state.place(*id) else { continue };
            for group in groups {
                all_joined &= place.join_group(group, limit).is_ok();
            }
        }
        if all_joined { Ok(ids.len()) } else { Err(limit) }
    }

    /// Takes connections out of these groups, or with `None` out of all; returns how many there
    /// were.
    pub(crate) fn leave_where(
        &self,
        target: Target<'_>,
        groups: Option<&[String]>,
        wanted: impl Fn(&State, &Peer) -> bool,
    ) -> usize {
        let mut state = self.shared.lock();
        let ids = state.ids(&self.name, target, wanted);
        for id in &ids {
            let Some(mut place) = state.place(*id) else { continue };
            match groups {
                Some(groups) => groups.iter().for_each(|group| place.leave_group(group)),
                None => {
                    for group in place.membership.groups.clone() {
                        place.leave_group(&group);
                    }
                }
            }
        }
        ids.len()
    }

    /// Reads or changes what a connection may do; `None` if it is not there.
    pub(crate) fn with_rights<T>(
        &self,
        id: ConnectionId,
        look: impl FnOnce(&mut Rights) -> T,
    ) -> Option<T> {
        let peer = self.shared.lock().members(&self.name)?.all.get(&id).map(Arc::clone)?;
        Some(peer.with_rights(look))
    }
}

impl State {
    #[cfg(feature = "control")]
    fn ids(
        &self,
        hub: &str,
        target: Target<'_>,
        wanted: impl Fn(&Self, &Peer) -> bool,
    ) -> Vec<ConnectionId> {
        let mut ids = Vec::new();
        let Some(here) = self.members(hub) else { return ids };
        here.receivers(target, |peer| {
            if wanted(self, peer) {
                ids.push(peer.id);
            }
        });
        ids
    }

    fn info(&self, hub: &str, id: ConnectionId) -> Option<ConnectionInfo> {
        let peer = self.members(hub)?.all.get(&id)?;
        let membership = self.membership(id)?;
        Some(ConnectionInfo {
            id,
            user: membership.user.clone(),
            groups: membership.groups.clone(),
            opened_at: peer.about.opened_at(),
            address: peer.about.address(),
            subprotocol: peer.about.subprotocol(),
            queued_bytes: peer.queued(),
            messages_in: peer.about.messages_in(),
            messages_out: peer.about.messages_out(),
            round_trip: peer.about.round_trip(),
        })
    }
}

/// The ids above `after`, in order. They are given out in order, so whoever comes while pages are
/// asked for stands on the last one.
fn page(peers: &Peers, after: Option<ConnectionId>) -> impl Iterator<Item = ConnectionId> {
    let first = after.map_or(Bound::Unbounded, Bound::Excluded);
    peers.range((first, Bound::Unbounded)).map(|(id, _)| *id)
}
