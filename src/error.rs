//! Why the process cannot go on. Why one connection ended is a [`CloseReason`](crate::CloseReason).

use std::{io, path::PathBuf};

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
    /// A token key could not be used.
    #[error("cannot use the token key {path}: {reason}")]
    TokenKey {
        /// The file.
        path: PathBuf,
        /// What is wrong with it; never what is in it.
        reason: String,
    },
    /// The access keys could not be used; says what is wrong, never what they are.
    #[error("cannot use the access keys: {0}")]
    AccessKey(&'static str),
    /// A certificate or its key could not be used.
    #[error("cannot use {path} for TLS: {reason}")]
    Tls {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Events cannot be sent.
    #[cfg(feature = "control")]
    #[error("cannot use the event handler: {reason}")]
    EventHandler {
        /// What is wrong.
        reason: String,
    },
    /// The server cannot be joined with others; says what is wrong, never the URL.
    #[cfg(feature = "backplane")]
    #[error("cannot use the backplane: {reason}")]
    Backplane {
        /// What is wrong.
        reason: String,
    },
    /// Events cannot be kept; says what is wrong, never the URL.
    #[cfg(feature = "backplane")]
    #[error("cannot keep events: {reason}")]
    EventStream {
        /// What is wrong.
        reason: String,
    },
    /// Commands cannot be read; says what is wrong, never the URL.
    #[cfg(feature = "backplane")]
    #[error("cannot read commands: {reason}")]
    Commands {
        /// What is wrong.
        reason: String,
    },
    /// Signals could not be listened for.
    #[error("cannot listen for signals: {0}")]
    Signal(#[source] io::Error),
}
