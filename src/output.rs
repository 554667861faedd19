//! What waits to be written to one socket, in order.
//!
//! Small frames of our own are copied side by side into one buffer, so that a batch of replies
//! leaves in one piece. Large payloads and shared deliveries are only referred to. An idle
//! connection has no output at all: the buffers belong to the thread and are lent.

use std::{
    cell::RefCell,
    collections::VecDeque,
    io::{self, IoSlice},
    task::{Context, Poll, ready},
};

use bytes::Bytes;

use crate::{
    frame::{Delivery, Message, Opcode, push_frame, push_header},
    socket::Socket,
};

/// Payloads from this size on are referred to instead of copied: the copy would cost more than
/// one more slice in a vectored write.
const BY_REFERENCE: usize = 4 << 10;

/// Slices in one vectored write. The kernel takes 1,024; filling the array costs time too.
const SLICES: usize = 32;

/// A lent buffer that has grown beyond this is freed instead of kept.
const KEEP: usize = 64 << 10;

#[derive(Debug, Default)]
pub(crate) struct Output {
    segments: VecDeque<Segment>,
    /// The bytes of all `Segment::Own`, one behind the other.
    own: Vec<u8>,
    /// How much of `own` belongs to segments that are gone.
    own_done: usize,
    /// How much of the first segment is written.
    written: usize,
    /// Bytes of our own replies that wait, deliveries not counted.
    replies: usize,
    /// What the deliveries written since [`Output::take_released`] weighed.
    released: usize,
    /// The socket took no more the last time.
    is_blocked: bool,
    /// What was written may still wait inside the socket, encrypted.
    unflushed: bool,
}

#[derive(Debug)]
enum Segment {
    Own(usize),
    Payload(Bytes),
    Shared(Delivery),
}

impl Segment {
    fn len(&self) -> usize {
        match self {
            Self::Own(length) => *length,
            Self::Payload(payload) => payload.len(),
            Self::Shared(delivery) => delivery.wire().len(),
        }
    }
}

thread_local! {
    static LENT: RefCell<Option<Box<Output>>> = const { RefCell::new(None) };
}

impl Output {
    /// Takes this thread's output, or a new one if another connection keeps it.
    #[expect(clippy::unnecessary_box_returns, reason = "the box is what is lent")]
    pub(crate) fn lend() -> Box<Self> {
        LENT.with_borrow_mut(Option::take).unwrap_or_default()
    }

    /// Gives an empty output back to the thread.
    pub(crate) fn give_back(mut self: Box<Self>) {
        debug_assert!(self.is_lendable());
        self.own.clear();
        (self.own_done, self.is_blocked) = (0, false);
        if self.own.capacity() <= KEEP && self.segments.capacity() <= KEEP / size_of::<Segment>() {
            LENT.with_borrow_mut(|slot| *slot = Some(self));
        }
    }

    /// Nothing waits, and nothing is left to be told.
    pub(crate) fn is_lendable(&self) -> bool {
        self.segments.is_empty() && self.released == 0 && !self.unflushed
    }

    /// Bytes of our own replies that wait.
    pub(crate) fn replies(&self) -> usize {
        self.replies
    }

    /// What the deliveries written since the last call weighed.
    pub(crate) fn take_released(&mut self) -> usize {
        std::mem::take(&mut self.released)
    }

    /// Appends bytes that `write` puts into the buffer: whole frames.
    pub(crate) fn push_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.own.len();
        write(&mut self.own);
        let added = self.own.len() - before;
        self.replies += added;
        if let Some(Segment::Own(length)) = self.segments.back_mut() {
            *length += added;
        } else {
            self.segments.push_back(Segment::Own(added));
        }
    }

    /// Appends a text as one frame.
    pub(crate) fn push_text(&mut self, text: &str) {
        self.push_with(|own| push_frame(own, Opcode::Text, text.as_bytes()));
    }

    /// Appends one message as one frame.
    #[expect(clippy::inline_always, reason = "a call is a tenth of what a small reply costs here")]
    #[inline(always)]
    pub(crate) fn push_message(&mut self, message: Message) {
        let opcode = message.opcode();
        let payload = message.into_bytes();
        if payload.len() < BY_REFERENCE {
            self.push_with(|own| {
                push_header(own, opcode, payload.len());
                own.extend_from_slice(&payload);
            });
        } else {
            self.push_with(|own| push_header(own, opcode, payload.len()));
            self.replies += payload.len();
            self.segments.push_back(Segment::Payload(payload));
        }
    }

    /// Appends all that waits in another, of which nothing was written yet.
    pub(crate) fn append(&mut self, later: &mut Self) {
        debug_assert_eq!((later.own_done, later.written), (0, 0));
        self.segments.append(&mut later.segments);
        self.own.append(&mut later.own);
        self.replies += std::mem::take(&mut later.replies);
        self.released += later.take_released();
    }

    /// Appends a delivery of [`Item::Frames`].
    pub(crate) fn push_delivery(&mut self, delivery: Delivery) {
        self.segments.push_back(Segment::Shared(delivery));
    }

    /// Throws away the deliveries that are not on their way yet. One that the peer has begun to
    /// receive stays: cut there, the close frame would be taken for its payload. Returns how many
    /// were dropped.
    pub(crate) fn drop_deliveries(&mut self) -> u64 {
        let begun = usize::from(self.written > 0);
        let (mut index, mut dropped) = (0, 0);
        self.segments.retain(|segment| {
            index += 1;
            let Segment::Shared(delivery) = segment else { return true };
            if index <= begun {
                return true;
            }
            dropped += 1;
            self.released += delivery.weight();
            false
        });
        dropped
    }

    /// Throws everything away; returns how many deliveries that were.
    pub(crate) fn drop_all(&mut self) -> u64 {
        self.written = 0;
        let dropped = self.drop_deliveries();
        self.segments.clear();
        self.own.clear();
        (self.own_done, self.replies) = (0, 0);
        dropped
    }

    /// Writes until everything is written or the socket takes no more, and adds to
    /// `written` how many bytes it took.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut Socket,
        written: &mut usize,
    ) -> Poll<io::Result<()>> {
        while !self.segments.is_empty() {
            let some = self.poll_write_some(cx, socket);
            self.is_blocked = some.is_pending();
            let count = ready!(some)?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            *written += count;
            self.unflushed = true;
            self.consume(count);
        }
        if self.unflushed {
            ready!(socket.poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_some(
        &self,
        cx: &mut Context<'_>,
        socket: &mut Socket,
    ) -> Poll<io::Result<usize>> {
        let mut unwritten = self.unwritten();
        if self.segments.len() == 1
            && let Some(bytes) = unwritten.next()
        {
            let at_once = if self.is_blocked { None } else { socket.write_now(bytes) };
            return at_once.map_or_else(|| socket.poll_write(cx, bytes), Poll::Ready);
        }
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut used = 0;
        for (slice, bytes) in slices.iter_mut().zip(unwritten) {
            *slice = IoSlice::new(bytes);
            used += 1;
        }
        socket.poll_write_vectored(cx, &slices[..used])
    }

    /// Tries a socket that has not said that there is room, as it does only once much of what it
    /// holds is gone. Returns how many bytes it took.
    pub(crate) fn try_write(&mut self, socket: &Socket) -> usize {
        let taken = self.unwritten().next().and_then(|bytes| socket.write_now(bytes)?.ok());
        let count = taken.unwrap_or_default();
        self.consume(count);
        count
    }

    /// The rest of the first segment, then the others.
    fn unwritten(&self) -> impl Iterator<Item = &[u8]> {
        let mut own = &self.own[self.own_done..];
        let mut skip = self.written;
        self.segments.iter().map(move |segment| {
            let all: &[u8] = match segment {
                &Segment::Own(length) => {
                    let (this, rest) = own.split_at(length);
                    own = rest;
                    this
                }
                Segment::Payload(payload) => payload,
                Segment::Shared(delivery) => delivery.wire(),
            };
            &all[std::mem::take(&mut skip)..]
        })
    }

    /// Forgets `count` bytes from the front.
    fn consume(&mut self, count: usize) {
        self.written += count;
        while let Some(length) = self.segments.front().map(Segment::len) {
            if self.written < length {
                break;
            }
            self.written -= length;
            match self.segments.pop_front() {
                Some(Segment::Own(length)) => {
                    self.own_done += length;
                    self.replies -= length;
                }
                Some(Segment::Payload(payload)) => self.replies -= payload.len(),
                Some(Segment::Shared(delivery)) => self.released += delivery.weight(),
                None => {}
            }
        }
        if self.own_done == self.own.len() {
            self.own.clear();
            self.own_done = 0;
        } else if self.own_done > KEEP {
            // A peer that never quite catches up must not make this grow.
            self.own.drain(..self.own_done);
            self.own_done = 0;
        }
    }
}
