//! Why the process cannot go on. Why one connection ended is a [`CloseReason`](crate::CloseReason).

use std::io;

/// Why a server could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An address could not be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// As it was given.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// Signals could not be listened for.
    #[error("cannot listen for signals: {0}")]
    Signal(#[source] io::Error),
}
