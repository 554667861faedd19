//! Why one connection ended, and what its peer is told (RFC 6455 section 7.4).

use std::{fmt, io, time::Duration};

/// The longest reason that fits a close frame beside its code (RFC 6455 section 5.5).
const MAX_REASON: usize = 123;

/// Why a connection ended. Every connection has exactly one, logged once at debug level.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer sent a close frame, with this code and reason.
    Peer {
        /// The code as it was sent. 1005 stands for a close frame without one, and 1002 for a code
        /// that may not be sent, which is answered with 1002 too. tungstenite knows the codes of
        /// RFC 6455, 1012 and 1013; it takes 1014, which the IANA registry has as well, for one of
        /// those that may not be sent.
        code: u16,
        /// The peer's own words, as they came; tungstenite's if the code may not be sent.
        reason: String,
    },
    /// Our side asked for it: the handler, or whoever called a `close` function.
    Local {
        /// The code that the peer was sent.
        code: u16,
        /// The reason that the peer was sent.
        reason: String,
    },
    /// The peer broke RFC 6455 (1002).
    Protocol(String),
    /// A kind of message that the endpoint does not take (1003).
    Unsupported(&'static str),
    /// Text that is not UTF-8 (1007).
    InvalidUtf8,
    /// A frame or message above the limit (1009).
    TooBig,
    /// A limit or a rule of this server was broken (1008).
    Policy(&'static str),
    /// The handler failed, by an error or a panic (1011).
    HandlerFailed,
    /// The same user connected again and the policy is `replace` (4000).
    Replaced,
    /// More bytes waited for this reader than its budget allows, or it took nothing for the
    /// whole of `send_timeout` (1013).
    SlowReader,
    /// The process holds more queued bytes than its budget allows, and this was the largest
    /// queue (1013).
    Overloaded,
    /// Nothing came back within `ping_timeout` (1011).
    PingTimeout,
    /// The node stops; the peer may come back after this long (1012).
    Restart {
        /// How long the peer is asked to wait.
        reconnect_after: Duration,
    },
    /// The connection was lost without a closing handshake (never sent; 1006 in RFC 6455).
    Lost(io::ErrorKind),
}

impl CloseReason {
    /// The code of the close frame: the one sent, or for [`CloseReason::Peer`] the one received.
    /// 1006 where there was none (RFC 6455 section 7.4.1).
    #[must_use]
    pub fn code(&self) -> u16 {
        match self {
            Self::Peer { code, .. } | Self::Local { code, .. } => *code,
            Self::Protocol(_) => 1002,
            Self::Unsupported(_) => 1003,
            Self::InvalidUtf8 => 1007,
            Self::Policy(_) => 1008,
            Self::TooBig => 1009,
            Self::HandlerFailed | Self::PingTimeout => 1011,
            Self::Restart { .. } => 1012,
            Self::SlowReader | Self::Overloaded => 1013,
            Self::Replaced => 4000,
            Self::Lost(_) => 1006,
        }
    }

    /// The text of the close frame, at most 123 bytes.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Peer { reason, .. } | Self::Local { reason, .. } => cut(reason).to_owned(),
            Self::Protocol(what) => cut(what).to_owned(),
            Self::Unsupported(what) | Self::Policy(what) => cut(what).to_owned(),
            Self::InvalidUtf8 => "text is not UTF-8".to_owned(),
            Self::TooBig => "message too big".to_owned(),
            Self::HandlerFailed => "internal error".to_owned(),
            Self::Replaced => "the same user connected again".to_owned(),
            Self::SlowReader => "reads too slowly".to_owned(),
            Self::Overloaded => "overloaded".to_owned(),
            Self::PingTimeout => "ping timeout".to_owned(),
            Self::Restart { reconnect_after } => {
                format!("reconnect-after-ms={}", reconnect_after.as_millis())
            }
            Self::Lost(_) => String::new(),
        }
    }

    /// Whether what was queued for the peer is thrown away rather than written first: a peer
    /// that does not read would only hold the memory for longer.
    pub(crate) fn drops_queue(&self) -> bool {
        matches!(self, Self::SlowReader | Self::Overloaded | Self::PingTimeout | Self::Lost(_))
    }

    /// Whether the peer's bytes can still be read as frames after this.
    pub(crate) fn ends_reading(&self) -> bool {
        matches!(
            self,
            Self::Protocol(_)
                | Self::InvalidUtf8
                | Self::TooBig
                | Self::Policy(_)
                | Self::Lost(_)
                | Self::PingTimeout
        )
    }
}

/// For logs: what a peer wrote is escaped and cut.
impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer { code, reason } => {
                write!(f, "closed by the peer, {code} \"{}\"", reason.escape_debug())
            }
            Self::Lost(kind) => write!(f, "lost, {kind}"),
            ours => write!(f, "closed by us, {} \"{}\"", ours.code(), ours.text().escape_debug()),
        }
    }
}

/// Whether a program may send this code (RFC 6455 section 7.4 and the IANA registry).
#[must_use]
pub fn is_sendable(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// `text` up to the last character that ends within [`MAX_REASON`] bytes.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_REASON)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_reasons_are_cut_between_characters() {
        let reason = CloseReason::Local { code: 1000, reason: "ä".repeat(100) };
        assert_eq!(reason.text(), "ä".repeat(61));
    }

    #[test]
    fn what_a_peer_wrote_is_escaped_for_the_log() {
        let reason = CloseReason::Peer { code: 1000, reason: "\x1b[2J\r\nerror \u{202e}".into() };
        let line = reason.to_string();
        assert!(!line.contains(['\x1b', '\r', '\n', '\u{202e}']), "{line}");
    }

    #[test]
    fn reserved_codes_cannot_be_sent() {
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000] {
            assert!(!is_sendable(code), "{code}");
        }
        for code in [1000, 1003, 1008, 1013, 1014, 3000, 4000, 4999] {
            assert!(is_sendable(code), "{code}");
        }
    }
}
