//! One connection's place in a hub: a user's name, and groups.

use std::sync::Arc;

use crate::{
    close::CloseReason,
    config::SameUser,
    fan_out::Sent,
    frame::{Form, Message},
    hub::Hub,
    peer::{ConnectionId, Peer},
    place::{JoinError, Place},
    relay,
    rights::Action,
    state::{State, Ticket},
    target::Target,
};

/// The user is connected, and [`SameUser::Reject`] lets nobody be connected twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the user is connected already")]
pub struct UserTaken;

/// One connection's membership of a hub. Dropped, it leaves the hub and all its groups.
#[derive(Debug)]
#[must_use = "dropping a member leaves the hub"]
pub struct Member {
    hub: Hub,
    user: Option<Arc<str>>,
    peer: Arc<Peer>,
    ticket: Ticket,
}

impl Member {
    /// Makes a registered connection a member, as `same_user` allows. Leaves the hub that it was
    /// a member of before.
    pub(crate) fn join(
        hub: Hub,
        peer: &Arc<Peer>,
        user: Option<Arc<str>>,
    ) -> Result<Self, UserTaken> {
        let mut state = hub.shared.lock();
        state.leave(peer.id);
        let here = state.members(&hub.name).zip(user.as_ref());
        let others = here.and_then(|(here, user)| here.users.get(user)).cloned();
        match (hub.shared.same_user, others) {
            (SameUser::Reject, Some(_)) => return Err(UserTaken),
            (SameUser::Replace, Some(others)) => {
                for other in others {
                    other.close(CloseReason::Replaced);
                    state.leave(other.id);
                }
            }
            (SameUser::Allow, _) | (_, None) => {}
        }
        let ticket = state.enter(&hub.name, peer, user.clone());
        drop(state);
        #[cfg(feature = "control")]
        if let Some(user) = &user {
            hub.tell_of(user, peer);
        }
        Ok(Self { hub, user, peer: Arc::clone(peer), ticket })
    }

    /// The hub.
    #[must_use]
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// The user, or `None` for an anonymous member.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// Joins a group; to be in it already changes nothing.
    ///
    /// # Errors
    /// [`JoinError::TooMany`] at the limit of `max_groups`, [`JoinError::Closed`] once the
    /// connection was evicted or replaced.
    pub fn join_group(&self, group: &str) -> Result<(), JoinError> {
        let mut state = self.hub.shared.lock();
        let mut place = self.place(&mut state).ok_or(JoinError::Closed)?;
        place.join_group(group, self.hub.shared.max_groups)
    }

    /// Joins the groups that the guard has given, as far as the limit goes.
    pub(crate) fn join_all(&self, groups: &[String]) {
        for group in groups {
            // Past the limit, the token has asked for more than there is.
            if let Err(error) = self.join_group(group) {
                log::debug!("connection {}: {error}", self.peer.id);
            }
        }
    }

    /// Waits until what other nodes send to this member is heard here, as far as that is known.
    pub(crate) async fn settled(&self) {
        let Some(relay) = self.hub.relay() else { return };
        let settling = |target| self.hub.settling(target);
        let user = self.user().and_then(|user| settling(Target::User(user)));
        let groups = self.peer.identity.groups().iter();
        let groups = groups.filter_map(|group| settling(Target::Group(group)));
        let all = settling(Target::All).into_iter().chain(user).chain(groups);
        relay::settled(all.collect(), relay).await;
    }

    /// Leaves a group; not to be in it changes nothing.
    pub fn leave_group(&self, group: &str) {
        if let Some(mut place) = self.place(&mut self.hub.shared.lock()) {
            place.leave_group(group);
        }
    }

    /// `None` once the connection was evicted or replaced.
    fn place<'a>(&self, state: &'a mut State) -> Option<Place<'a>> {
        state.place(self.peer.id).filter(|place| place.membership.ticket == self.ticket)
    }

    /// The connection's name.
    #[must_use]
    pub fn connection_id(&self) -> ConnectionId {
        self.peer.id
    }

    pub(crate) fn form(&self) -> Form {
        self.peer.form
    }

    /// Whether the connection may do this now.
    pub(crate) fn may(&self, action: Action<'_>) -> bool {
        self.peer.may(action)
    }

    /// Queues a message for every other member of a group.
    pub fn send_to_others(&self, group: &str, message: impl Into<Message>) -> Sent {
        self.hub.publish(Target::Group(group), Some(self.peer.id), &mut message.into())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut state = self.hub.shared.lock();
        if self.place(&mut state).is_some() {
            state.leave(self.peer.id);
        }
    }
}
