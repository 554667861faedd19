//! Checks that what comes back is what was sent: every message once, in order, unaltered.

use crate::fault::Fault;
use crate::frame::{Digits, Payload};
use crate::inbound::Piece;
use crate::session::Session;

/// So many messages that we did not cause are taken for a greeting, before the first answer on a connection.
const MOST_GREETINGS: u32 = 8;

/// What one connection still expects.
#[derive(Debug, Clone)]
struct Entry {
    expected: Digits,
    received: u64,
    /// Inside a message that is skipped.
    skips: bool,
    greetings: u32,
}

/// The expectations of all connections of one thread.
#[derive(Debug)]
pub(crate) struct Ledger {
    payload: Payload,
    text: bool,
    entries: Vec<Entry>,
}

impl Ledger {
    pub(crate) fn new(payload: Payload, text: bool) -> Self {
        Self { payload, text, entries: Vec::new() }
    }

    /// A connection begins, in a place of its own or in that of one that has ended.
    pub(crate) fn begin(&mut self, index: usize) {
        let fresh = Entry { expected: Digits::new(0), received: 0, skips: false, greetings: 0 };
        if self.entries.len() <= index {
            self.entries.resize(index + 1, fresh.clone());
        }
        self.entries[index] = fresh;
    }

    /// Messages received on a connection.
    pub(crate) fn received(&self, index: usize) -> u64 {
        self.entries[index].received
    }

    /// Checks a piece; `Some(sequence)` when it was the last of a message that was expected.
    #[inline]
    pub(crate) fn check(
        &mut self,
        session: &Session,
        piece: &Piece<'_>,
    ) -> Result<Option<u64>, Fault> {
        let entry = &mut self.entries[session.index];
        let end = piece.offset + piece.bytes.len();
        let agrees = !entry.skips
            && (piece.text == self.text)
            && self.payload.agrees(&entry.expected, piece.offset, piece.bytes)
            && (!piece.last || end == self.payload.bytes.len())
            && entry.received < session.outbound.allowed();
        if !agrees {
            return self.excuse(session, piece).map(|()| None);
        }
        if !piece.last {
            return Ok(None);
        }
        let sequence = entry.received;
        entry.received += 1;
        entry.expected.count_up();
        Ok(Some(sequence))
    }

    /// Skips a greeting; anything else that was not expected is a fault.
    #[cold]
    fn excuse(&mut self, session: &Session, piece: &Piece<'_>) -> Result<(), Fault> {
        let entry = &mut self.entries[session.index];
        let may_greet = entry.received == 0 && entry.greetings < MOST_GREETINGS;
        if entry.skips || (piece.offset == 0 && may_greet) {
            entry.skips = !piece.last;
            entry.greetings += u32::from(piece.last);
            return Ok(());
        }
        let expected = entry.expected.low(self.payload.width);
        let start = String::from_utf8_lossy(&piece.bytes[..piece.bytes.len().min(48)]);
        let what = if piece.text != self.text {
            "a message of the other type"
        } else if entry.received == session.outbound.allowed() {
            "one that nobody sent"
        } else if piece.offset > 0 || piece.bytes.starts_with(expected) {
            "it altered"
        } else {
            "another (one is lost, doubled or out of order)"
        };
        Err(Fault::Message {
            connection: session.number,
            expected: String::from_utf8_lossy(expected).into_owned(),
            got: format!("{what}: {start:?} at byte {}", piece.offset),
        })
    }
}
