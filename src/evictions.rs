//! What each connection holds of the byte budgets, and who has to go when that is too much.

use std::{cmp::Reverse, sync::Arc};

use crate::{
    about::Origin,
    auth::Identity,
    close::CloseReason,
    frame::Form,
    hub::{Hub, Shared},
    metrics::Metrics,
    peer::{ConnectionId, Peer},
    state::State,
};

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
        if state.remove(self.peer.id) {
            // Under the lock, so that it counts as open or as past, and never as both.
            self.shared.metrics.past.take_over(&self.peer.about);
        }
    }
}

impl Hub {
    /// Makes the queue of a new connection and enters it in the list of all connections.
    pub(crate) fn register(
        &self,
        id: ConnectionId,
        form: Form,
        identity: Arc<Identity>,
        origin: Origin,
    ) -> Registration {
        let peer = Peer::new(id, form, identity, origin);
        self.shared.lock().insert(Arc::clone(&peer));
        Registration { shared: Arc::clone(&self.shared), peer }
    }
}

impl Shared {
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
        let peers = state.peers().map(Arc::clone);
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
