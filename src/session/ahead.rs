//! Messages that are decoded before the handler asks for them.

use std::{cell::RefCell, collections::VecDeque};

use crate::frame::Message;

/// The most that are decoded at a time: a handler that waits elsewhere keeps at most two and a half
/// KiB for the list of them.
pub(super) const MOST: usize = 64;

/// What a handler is given next: messages that were decoded under one hold of the connection's
/// lock.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    pub(super) messages: VecDeque<Message>,
    /// The output was lent with them, and nothing was written beside the [desk](super::desk) since.
    pub(crate) is_at_desk: bool,
}

thread_local! {
    static LENT: RefCell<Option<Box<Ahead>>> = const { RefCell::new(None) };
}

impl Ahead {
    /// Takes this thread's, or a new one if another connection keeps it.
    #[expect(clippy::unnecessary_box_returns, reason = "the box is what is lent")]
    pub(crate) fn lend() -> Box<Self> {
        LENT.with_borrow_mut(Option::take).unwrap_or_default()
    }

    /// The next message.
    pub(crate) fn next(&mut self) -> Option<Message> {
        self.messages.pop_front()
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Keeps what there is; if nothing is, it goes back to the thread.
    pub(crate) fn keep(self: Box<Self>) -> Option<Box<Self>> {
        if !self.is_empty() {
            return Some(self);
        }
        LENT.with_borrow_mut(|slot| *slot = Some(self));
        None
    }
}
