//! One member of a hub and the hub around it: both change when it joins or leaves a group.

use std::sync::Arc;

use crate::{
    peer::Peer,
    relay::{Relay, Teller},
    state::{Members, Membership, Peers},
    target::Target,
};

/// One member, and the hub around it.
pub(crate) struct Place<'a> {
    pub(crate) peer: &'a Arc<Peer>,
    pub(crate) membership: &'a mut Membership,
    pub(crate) here: &'a mut Members,
    pub(crate) relay: Option<&'a dyn Relay>,
}

/// Why a group could not be joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The connection is in as many groups as it may be.
    #[error("a connection can be in at most {0} groups")]
    TooMany(usize),
    /// The connection is no longer a member: it was evicted or replaced.
    #[error("the connection is about to close")]
    Closed,
}

impl Place<'_> {
    /// Joins a group, within the limit; to be in it already changes nothing.
    pub(crate) fn join_group(&mut self, group: &str, limit: usize) -> Result<(), JoinError> {
        let teller = Teller { relay: self.relay, hub: &self.membership.hub };
        let (groups, here) = (&mut self.membership.groups, &mut self.here.groups);
        if groups.iter().any(|joined| **joined == *group) {
            return Ok(());
        }
        if groups.len() >= limit {
            return Err(JoinError::TooMany(limit));
        }
        let name = here.get_key_value(group).map_or_else(|| group.into(), |(k, _)| Arc::clone(k));
        let members = here.entry(Arc::clone(&name)).or_insert_with(|| {
            teller.first_came(Target::Group(group));
            Peers::new()
        });
        members.insert(self.peer.id, Arc::clone(self.peer));
        groups.push(name);
        Ok(())
    }

    /// Leaves a group; not to be in it changes nothing.
    pub(crate) fn leave_group(&mut self, group: &str) {
        self.membership.groups.retain(|joined| **joined != *group);
        let teller = Teller { relay: self.relay, hub: &self.membership.hub };
        self.here.leave_group(group, self.peer.id, teller);
    }
}
