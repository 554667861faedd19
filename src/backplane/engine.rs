//! What an engine does for the nodes that share it: it carries bytes by subject, and nothing else.
//!
//! An engine is written against this page alone. It keeps no queue of its own, retries nothing and
//! logs nothing: whoever drives it has the queue, the deadlines and the patience.

use std::{future::Future, io, pin::Pin};

use bytes::Bytes;

use super::subject::Subject;

/// What an engine is asked to do, and what comes of it.
pub(crate) type Io<'a, T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send + 'a>>;

/// An engine's address, and how it is spoken to.
pub(crate) trait Engine: Send + Sync + 'static {
    /// Connects in both directions. The caller sets the deadline.
    ///
    /// # Errors
    /// What went wrong, in words for an operator and without a credential.
    fn connect(&self) -> Io<'_, Link>;

    /// Where it is, for the log: without a credential.
    fn address(&self) -> &str;
}

/// One connection to an engine. It ends with the first error of either half; then both are dropped,
/// and everything is subscribed anew on the next.
pub(crate) struct Link {
    pub(crate) outbound: Box<dyn Outbound>,
    pub(crate) inbound: Box<dyn Inbound>,
}

/// The half that speaks.
pub(crate) trait Outbound: Send {
    /// Carries out all of them, in this order and in as few round trips as it can. Done once the
    /// engine has taken every message and confirmed every subscription: what is published to one
    /// from then on is received. Not cancel safe: who drops it has to connect anew.
    fn carry<'a>(&'a mut self, commands: &'a [Command]) -> Io<'a, ()>;

    /// The most bytes that the engine takes in one message.
    fn max_message(&self) -> usize;
}

/// The half that listens.
pub(crate) trait Inbound: Send {
    /// The next message to any subject that is subscribed, the node's own among them. Cancel safe.
    fn receive(&mut self) -> Io<'_, Bytes>;
}

/// One thing that an engine is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    Publish(Subject, Bytes),
    Subscribe(Subject),
    Unsubscribe(Subject),
}
