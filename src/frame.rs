//! Messages, and their encoding into shared wire bytes.
//!
//! A server's frames carry no mask (RFC 6455 section 5.1), so a message to a thousand receivers
//! is encoded once and its bytes, header included, are shared by reference count.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
pub use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::{close::CloseReason, turns::Turns};

/// One whole message, however many frames it came in (RFC 6455 section 5.6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// UTF-8 text.
    Text(Utf8Bytes),
    /// Any bytes.
    Binary(Bytes),
}

impl Message {
    /// The text, or `None` for a binary message.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text.as_str()),
            Self::Binary(_) => None,
        }
    }

    /// The payload's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }

    pub(crate) fn opcode(&self) -> Opcode {
        match self {
            Self::Text(_) => Opcode::Text,
            Self::Binary(_) => Opcode::Binary,
        }
    }

    pub(crate) fn into_bytes(self) -> Bytes {
        match self {
            Self::Text(text) => text.into(),
            Self::Binary(bytes) => bytes,
        }
    }
}

impl From<&str> for Message {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Message {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<Vec<u8>> for Message {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Binary(bytes.into())
    }
}

impl From<Bytes> for Message {
    fn from(bytes: Bytes) -> Self {
        Self::Binary(bytes)
    }
}

/// The opcodes of the data frames that we write (RFC 6455 section 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opcode {
    Text = 0x1,
    Binary = 0x2,
}

/// Appends the header of one whole, unmasked message of `length` bytes: 2, 4 or 10 bytes.
pub(crate) fn push_header(out: &mut Vec<u8>, opcode: Opcode, length: usize) {
    const FIN: u8 = 0x80;
    let first = FIN | opcode as u8;
    if let Ok(short @ 0..=125) = u8::try_from(length) {
        out.extend_from_slice(&[first, short]);
    } else if let Ok(medium) = u16::try_from(length) {
        out.extend_from_slice(&[first, 126]);
        out.extend_from_slice(&medium.to_be_bytes());
    } else {
        out.extend_from_slice(&[first, 127]);
        out.extend_from_slice(&(length as u64).to_be_bytes());
    }
}

/// Appends one whole frame.
pub(crate) fn push_frame(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    push_header(out, opcode, payload.len());
    out.extend_from_slice(payload);
}

/// The payloads of frames that [`push_header`] has begun.
pub(crate) fn payloads(mut wire: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (header, length) = match wire.get(1)? {
            126 => (4, u64::from(u16::from_be_bytes(wire.get(2..4)?.try_into().ok()?))),
            127 => (10, u64::from_be_bytes(wire.get(2..10)?.try_into().ok()?)),
            short => (2, u64::from(*short)),
        };
        let end = header + usize::try_from(length).ok()?;
        let payload = wire.get(header..end)?;
        wire = &wire[end..];
        Some(payload)
    })
}

/// What waits in a connection's queue: one reference, however large the message is.
pub(crate) type Delivery = Arc<Item>;

/// See [`Delivery`].
#[derive(Debug)]
pub(crate) enum Item {
    /// One or more whole frames.
    Frames {
        wire: Vec<u8>,
        /// Counted once, not by each receiver.
        messages: usize,
        /// Who is woken next, if there are many receivers.
        turns: Option<Arc<Turns>>,
    },
    /// Write what came before (or throw it away, as the reason says), then close.
    Close(CloseReason),
}

impl Item {
    /// Whole frames; `turns` if there may be many receivers.
    pub(crate) fn frames(wire: Vec<u8>, turns: Option<Arc<Turns>>) -> Delivery {
        let messages = payloads(&wire).count();
        Arc::new(Self::Frames { wire, messages, turns })
    }

    /// The wire bytes; none for a request to close.
    pub(crate) fn wire(&self) -> &[u8] {
        match self {
            Self::Frames { wire, .. } => wire,
            Self::Close(_) => &[],
        }
    }

    /// Takes note that one receiver has it.
    pub(crate) fn taken(&self) {
        if let Self::Frames { turns: Some(turns), .. } = self {
            turns.next();
        }
    }

    /// What this item counts against the byte budgets: its bytes, and what holding it costs.
    pub(crate) fn weight(&self) -> usize {
        const BOOKKEEPING: usize = 64;
        match self {
            Self::Frames { wire, .. } => wire.len() + BOOKKEEPING,
            Self::Close(_) => 0,
        }
    }
}

/// How a receiver wants its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As JSON objects that say where they come from.
    Envelope,
    /// The payload alone.
    Bare,
}

/// What the payloads of a publication are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// JSON objects that say where they come from.
    #[default]
    Message,
    /// A program's own text, the same to everybody.
    Text,
    /// A program's own bytes.
    Binary,
}

/// Messages that can be encoded in each [`Form`]. The hub asks once for each form that some
/// receiver wants.
pub(crate) trait Publication {
    /// The wire bytes.
    fn encode(&mut self, form: Form) -> Vec<u8>;

    /// What its payloads are.
    fn kind(&self) -> Kind;
}

/// A program's own message is the same to everybody.
impl Publication for Message {
    fn encode(&mut self, _: Form) -> Vec<u8> {
        let payload = self.as_bytes();
        let mut wire = Vec::with_capacity(payload.len() + 10);
        push_frame(&mut wire, self.opcode(), payload);
        wire
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Text(_) => Kind::Text,
            Self::Binary(_) => Kind::Binary,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_lengths_are_the_shortest_that_fit() {
        for (length, header) in [
            (0, vec![0x81, 0]),
            (125, vec![0x81, 125]),
            (126, vec![0x81, 126, 0, 126]),
            (65_535, vec![0x81, 126, 0xff, 0xff]),
            (65_536, vec![0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let mut out = Vec::new();
            push_header(&mut out, Opcode::Text, length);
            assert_eq!(out, header, "{length}");
        }
    }

    #[test]
    fn payloads_are_found_again() {
        let mut wire = Vec::new();
        let sizes = [0, 1, 125, 126, 65_535, 65_536, 3];
        for size in sizes {
            push_frame(&mut wire, Opcode::Binary, &vec![7; size]);
        }
        assert!(payloads(&wire).map(<[u8]>::len).eq(sizes));
    }
}
