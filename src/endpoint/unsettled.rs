//! What a client is told only after other nodes have said something.

#[cfg(feature = "backplane")]
use crate::protocol::{self, ErrorName};
use crate::{
    connection::Connection,
    relay::{self, Settling},
};

/// What a client is told once it hears what is sent to its groups on other nodes: as much as it
/// has asked for in one read.
#[derive(Default)]
pub(super) struct Unsettled {
    /// Joins that other nodes do not know of yet.
    pub(super) joins: Vec<Settling>,
    /// What was said to it behind them.
    pub(super) replies: Vec<String>,
    /// Asked for before anything else of this client is read.
    #[cfg(feature = "backplane")]
    pub(super) elsewhere: Option<Elsewhere>,
}

impl Unsettled {
    /// Waits until the joins are known everywhere, and tells the client what waits for them.
    pub(super) async fn settle(self, connection: &mut Connection) {
        if let Some(relay) = connection.hub().relay() {
            relay::settled(self.joins, relay).await;
        }
        self.replies.iter().for_each(|reply| connection.push_encoded(reply));
    }
}

/// Users of whom none is here, and the frame whose ack says whether one is on another node.
#[cfg(feature = "backplane")]
pub(super) struct Elsewhere {
    pub(super) ack_id: u64,
    pub(super) users: Vec<String>,
}

/// What a client is told of users who were not found.
#[cfg(feature = "backplane")]
pub(super) fn not_found(ack_id: u64, silent: usize) -> String {
    let (name, message) = match silent {
        0 => (ErrorName::NotFound, "no such user is connected"),
        _ => (
            ErrorName::InternalServerError,
            "not all nodes have said whether the user is connected",
        ),
    };
    protocol::failure(Some(ack_id), name, message)
}
