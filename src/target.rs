//! Whom a message is for.

#[cfg(feature = "control")]
use crate::peer::ConnectionId;

/// Who a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target<'a> {
    All,
    Group(&'a str),
    User(&'a str),
    /// Each named once, or its connections get the message twice.
    Users(&'a [String]),
    #[cfg(feature = "control")]
    Connection(ConnectionId),
    /// A connection by its name, which no connection of this process has.
    #[cfg(feature = "control")]
    Foreign(&'a str),
}
