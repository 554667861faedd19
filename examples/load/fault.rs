//! Why a run is not a measurement: each of these ends it with exit code 1.

use std::{fmt, io};

/// What a peer did that RFC 6455 forbids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Breach(pub(crate) &'static str);

/// How a connection ended.
#[derive(Debug)]
pub(crate) enum End {
    /// We hung up, as the mode wanted it.
    Ours,
    /// The server sent a close frame with this code and reason.
    Closed(u16, String),
    /// The server closed TCP without a close frame.
    Silent,
    /// TCP failed.
    Broken(io::Error),
    /// The server answered the opening handshake with this.
    Refused(String),
}

impl fmt::Display for End {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ours => write!(formatter, "ended by the load generator"),
            Self::Closed(code, reason) => {
                write!(formatter, "closed by the server: {code} {reason}")
            }
            Self::Silent => write!(formatter, "ended by the server without a close frame"),
            Self::Broken(error) => write!(formatter, "broken: {error}"),
            Self::Refused(answer) => write!(formatter, "refused: {answer}"),
        }
    }
}

/// The first thing that went wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error("{0}")]
    Usage(String),
    #[error("{doing}: {source}")]
    Io { doing: String, source: io::Error },
    #[error("connection {connection} was {end}")]
    Ended { connection: usize, end: End },
    #[error("connection {connection}: the server sent {breach}", breach = .breach.0)]
    Breach { connection: usize, breach: Breach },
    #[error("connection {connection}: expected message {expected}, got {got}")]
    Message { connection: usize, expected: String, got: String },
    #[error(
        "{missing} messages did not come back within {seconds} s of the last one sent: lost, or the server is that far behind"
    )]
    Missing { missing: u64, seconds: u64 },
    #[error("{0}")]
    Stuck(String),
}

impl Fault {
    /// For `map_err`: an input or output error with what was being done.
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }
}
