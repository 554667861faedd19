//! What a hub tells whoever joins it with the hubs of other nodes.
//!
//! The hub knows nothing of them: it says who here is to be heard for, and what was said here.
//! Without a relay, that costs the look at an empty place.

use std::time::Duration;

#[cfg(feature = "control")]
use futures_util::future::BoxFuture;
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time::{Instant, timeout_at},
};

#[cfg(feature = "control")]
use crate::question::{Answer, Ask, Newest, Told};
use crate::{frame::Kind, target::Target};

/// How long somebody waits until what others send can be heard.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(2);

/// Whoever joins the hubs of this process with those of others. Nothing here waits.
#[cfg_attr(not(feature = "backplane"), expect(dead_code, reason = "nobody is a relay"))]
pub(crate) trait Relay: Send + Sync {
    /// From now on, what is sent to this target is to be heard here: the first member of a hub or
    /// a group has come, or the first connection of a user. Called under the hub's lock.
    fn first_came(&self, hub: &str, target: Target<'_>);

    /// The last of them has left. Called under the hub's lock.
    fn last_left(&self, hub: &str, target: Target<'_>);

    /// Ready once what others send to this target is heard here; `None` if there is nothing to
    /// wait for.
    fn settling(&self, hub: &str, target: Target<'_>) -> Option<Settling>;

    /// Somebody was told that they hear what others send, and it is not sure.
    fn not_settled(&self);

    /// Makes room for messages of so many bytes to this target.
    ///
    /// # Errors
    /// If there is none, or no single message may be so large.
    fn reserve(&self, target: Target<'_>, bytes: usize) -> Result<Room, Unreached>;

    /// Takes a message for the other nodes. For one that has room it cannot fail for lack of it.
    ///
    /// # Errors
    /// If they will not be reached.
    fn publish(&self, post: &Post<'_>, room: Option<Room>) -> Result<(), Unreached>;

    /// Asks the other nodes, and puts what they say together with what this one has said.
    #[cfg(feature = "control")]
    fn ask<'a>(&'a self, hub: &'a str, ask: Ask, own: Answer) -> BoxFuture<'a, Told>;

    /// Tells the other nodes that a user has connected again, and may be connected only once.
    #[cfg(feature = "control")]
    fn replace(&self, hub: &str, user: &str, by: &Newest);

    /// How it is now.
    fn figures(&self) -> RelayFigures;
}

/// A part of the bytes that may wait for the other nodes. Dropped, it is free again.
pub(crate) type Room = OwnedSemaphorePermit;

/// See [`Relay::settling`].
pub(crate) type Settling = oneshot::Receiver<()>;

/// The other nodes are not reached: too much waits for them, or the message is too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("connections on other nodes were not reached")]
pub(crate) struct Unreached;

/// What was said on a hub.
#[cfg_attr(not(feature = "backplane"), expect(dead_code, reason = "nobody is a relay"))]
pub(crate) struct Post<'a> {
    pub(crate) hub: &'a str,
    pub(crate) target: Target<'a>,
    /// The names of connections that do not get it.
    pub(crate) excluded: &'a [String],
    /// An expression that a connection has to fulfil; each node asks its own.
    pub(crate) filter: Option<&'a str>,
    pub(crate) kind: Kind,
    /// Whole frames, as receivers of [`Form::Envelope`](crate::frame::Form::Envelope) get them.
    pub(crate) wire: &'a [u8],
}

/// How a relay is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct RelayFigures {
    /// Whether it is connected, and what it sends to itself comes back.
    pub(crate) is_up: bool,
    /// Bytes that wait for the other nodes.
    pub(crate) waiting_bytes: usize,
    /// Targets that are heard for.
    pub(crate) subscriptions: usize,
    /// Nodes that are there, this one among them.
    pub(crate) nodes: usize,
}

/// Waits until all of them are ready, or for [`SETTLE_TIMEOUT`]: whoever waits is told then what
/// holds on this node at least. Not cancel safe: who drops it does not know.
pub(crate) async fn settled(all: Vec<Settling>, relay: &dyn Relay) {
    let deadline = Instant::now() + SETTLE_TIMEOUT;
    for one in all {
        // Its other end is dropped when the connection to the other nodes is lost.
        if !matches!(timeout_at(deadline, one).await, Ok(Ok(()))) {
            relay.not_settled();
        }
    }
}

/// What a hub says of one of its own, if anybody listens.
#[derive(Clone, Copy)]
pub(crate) struct Teller<'a> {
    pub(crate) relay: Option<&'a dyn Relay>,
    pub(crate) hub: &'a str,
}

impl Teller<'_> {
    pub(crate) fn first_came(self, target: Target<'_>) {
        if let Some(relay) = self.relay {
            relay.first_came(self.hub, target);
        }
    }

    pub(crate) fn last_left(self, target: Target<'_>) {
        if let Some(relay) = self.relay {
            relay.last_left(self.hub, target);
        }
    }
}
