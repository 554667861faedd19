//! Messages of one client that are accepted and not queued yet.

use crate::{
    fan_out::Sent,
    gate::Entered,
    hub::Hub,
    peer::ConnectionId,
    protocol::{Batch, Payload, Source},
    relay::{Room, Unreached},
    target::Target,
};

/// Messages to the same receivers are queued together up to this many bytes.
const MAX_BATCH: usize = 64 << 10;

/// Messages to the same receivers.
pub(super) struct Outbox<'a> {
    target: Receivers,
    exclude: Option<ConnectionId>,
    batch: Batch,
    /// For the messages to other nodes, if there are any.
    room: Option<Room>,
    /// Held until all of it is queued.
    _accepted: Entered<'a>,
}

/// [`Target`], kept for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Receivers {
    All,
    Group(String),
    Users(Vec<String>),
}

impl<'a> Outbox<'a> {
    pub(super) fn new(
        target: Receivers,
        exclude: Option<ConnectionId>,
        accepted: Entered<'a>,
    ) -> Self {
        Self { target, exclude, batch: Batch::default(), room: None, _accepted: accepted }
    }

    /// Whether a message to these may be queued with the others.
    pub(super) fn takes(&self, target: &Receivers, exclude: Option<ConnectionId>) -> bool {
        self.target == *target && self.exclude == exclude && self.batch.len() < MAX_BATCH
    }

    /// Adds a message, with room on its way to other nodes.
    ///
    /// # Errors
    /// The message, if other nodes will not be reached: it is not added.
    pub(super) fn push(
        &mut self,
        hub: &Hub,
        source: Source<'_>,
        from_user: Option<&str>,
        payload: Payload<'_>,
    ) -> Result<(), (Batch, Unreached)> {
        let before = self.batch.len();
        self.batch.push(source, from_user, payload);
        let bytes = self.batch.len() - before;
        match hub.reserve(self.target.as_target(), bytes) {
            Ok(room) => self.room = merged(self.room.take(), room),
            Err(unreached) => return Err((self.batch.split_off(before), unreached)),
        }
        Ok(())
    }

    /// Queues all of them.
    pub(super) fn publish(mut self, hub: &Hub) -> Sent {
        if self.batch.len() == 0 {
            return Sent::default();
        }
        hub.publish_in(self.room, self.target.as_target(), self.exclude, &mut self.batch)
    }
}

impl Receivers {
    pub(super) fn as_target(&self) -> Target<'_> {
        match self {
            Self::All => Target::All,
            Self::Group(group) => Target::Group(group),
            Self::Users(users) => Target::Users(users),
        }
    }
}

fn merged(one: Option<Room>, other: Option<Room>) -> Option<Room> {
    match (one, other) {
        (Some(mut one), Some(other)) => {
            one.merge(other);
            Some(one)
        }
        (one, other) => one.or(other),
    }
}
