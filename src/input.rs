//! What was read and is not decoded yet, and what decodes it.
//!
//! Reading goes through one large buffer per thread, and the protocol object itself is lent by the
//! thread as well: between messages there is nothing in it worth keeping, so an idle connection
//! owns neither.

use std::{
    cell::RefCell,
    io::{self, Read, Write},
    mem,
};

use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};

use crate::{config::Config, output::Output, watch::FrameWatch};

/// What one read of a socket may bring in the middle of a large frame, which is decoded at once.
/// Large messages cost few system calls this way.
const SCRATCH: usize = 128 << 10;

/// What it may bring elsewhere: a handler may leave that undecoded for as long as it likes.
pub(crate) const READ_AHEAD: usize = 64 << 10;

/// What tungstenite allocates for reading, and takes from us at a time. It clears as much before
/// each take, so more would cost small messages, less would cost large ones.
const CHUNK: usize = 1 << 10;

/// A protocol object that has read a frame larger than this is not lent again: tungstenite never
/// gives its buffer back.
const KEEP: u64 = 64 << 10;

/// What a connection that is read from owns for that time.
pub(crate) struct Input {
    protocol: WebSocketContext,
    pub(crate) watch: FrameWatch,
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// tungstenite has asked for more than there is: it holds no whole frame of its own either.
    drained: bool,
}

thread_local! {
    static INPUT: RefCell<Option<Box<Input>>> = const { RefCell::new(None) };
    static BYTES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Input {
    /// Takes this thread's protocol object, or a new one if another connection keeps it.
    pub(crate) fn lend(config: &Config) -> Box<Self> {
        let limit = Some(config.max_message_size);
        let lent = INPUT.with_borrow_mut(Option::take);
        let lent = lent.filter(|input| input.protocol.get_config().max_message_size == limit);
        let mut input = lent.unwrap_or_else(|| {
            let settings = WebSocketConfig::default()
                .read_buffer_size(CHUNK)
                .write_buffer_size(0)
                .max_message_size(limit)
                .max_frame_size(limit);
            let protocol = WebSocketContext::new(Role::Server, Some(settings));
            let (watch, bytes) = (FrameWatch::default(), Vec::new());
            Box::new(Self { protocol, watch, bytes, start: 0, end: 0, drained: true })
        });
        input.watch = FrameWatch::new(config.max_fragments, config.max_message_size as u64);
        input
    }

    /// Puts in what was read; all that was read before is decoded.
    pub(crate) fn fill(&mut self, bytes: Vec<u8>, count: usize) {
        (self.bytes, self.start, self.end, self.drained) = (bytes, 0, count, false);
    }

    /// What the next read may bring. Behind our close frame a large frame is thrown away like
    /// anything else, and no more of it is read at a time.
    pub(crate) fn room(&self) -> usize {
        let left = if self.protocol.can_write() { self.watch.payload_left() } else { 0 };
        usize::try_from(left).unwrap_or(usize::MAX).clamp(READ_AHEAD, SCRATCH)
    }

    /// Gives it back to the thread, between two messages.
    pub(crate) fn give_back(self: Box<Self>) {
        if self.watch.largest() <= KEEP {
            INPUT.with_borrow_mut(|slot| *slot = Some(self));
        }
    }

    /// Nothing in it that another connection must not get.
    pub(crate) fn is_between_messages(&self) -> bool {
        self.drained && self.watch.is_between_messages() && self.protocol.can_write()
    }

    /// The protocol object, and what it takes for its stream.
    pub(crate) fn split<'a>(
        &'a mut self,
        output: &'a mut Option<Box<Output>>,
    ) -> (&'a mut WebSocketContext, Pipe<'a>) {
        let unread = &self.bytes[self.start..self.end];
        (
            &mut self.protocol,
            Pipe { unread, start: &mut self.start, watch: &mut self.watch, output },
        )
    }

    /// [Drains](Self::drain) it if all that was read is decoded, so that tungstenite need not be
    /// asked; says whether that is so.
    pub(crate) fn drain_if_done(&mut self) -> bool {
        let is_done = self.start == self.end && self.watch.is_all_read();
        if is_done {
            self.drain();
        }
        is_done
    }

    /// tungstenite has had all that was read, and wants more: the scratch buffer goes back to the
    /// thread.
    pub(crate) fn drain(&mut self) {
        self.drained = true;
        if self.bytes.len() == SCRATCH {
            give_scratch(mem::take(&mut self.bytes));
            (self.start, self.end) = (0, 0);
        }
    }

    /// It goes back even if the handler has not come to all of it.
    pub(crate) fn keep_only_the_rest(&mut self) {
        if self.bytes.len() == SCRATCH {
            let rest = self.bytes[self.start..self.end].to_vec();
            (self.start, self.end) = (0, rest.len());
            give_scratch(mem::replace(&mut self.bytes, rest));
        }
    }
}

/// This thread's buffer for reading, or a new one if another connection keeps it.
pub(crate) fn take_scratch() -> Vec<u8> {
    let mut bytes = BYTES.take();
    if bytes.is_empty() {
        bytes = vec![0; SCRATCH];
    }
    bytes
}

pub(crate) fn give_scratch(bytes: Vec<u8>) {
    BYTES.set(bytes);
}

/// What tungstenite takes for its stream: it reads what was read, and writes behind what waits.
pub(crate) struct Pipe<'a> {
    unread: &'a [u8],
    start: &'a mut usize,
    watch: &'a mut FrameWatch,
    output: &'a mut Option<Box<Output>>,
}

impl Read for Pipe<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.unread.read(into)?;
        if count == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        *self.start += count;
        match self.watch.advance(&into[..count]) {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            right => Ok(right),
        }
    }
}

/// Whole frames only: tungstenite hands over its buffer after each frame that it encodes.
impl Write for Pipe<'_> {
    fn write(&mut self, frames: &[u8]) -> io::Result<usize> {
        let output = self.output.get_or_insert_with(Output::lend);
        output.push_with(|own| own.extend_from_slice(frames));
        Ok(frames.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(input: &mut Input) -> bool {
        let mut output = None;
        let (protocol, mut pipe) = input.split(&mut output);
        let is_read = protocol.read(&mut pipe).is_ok();
        if is_read {
            input.watch.has_read_one();
        }
        is_read
    }

    #[test]
    fn after_the_last_message_nothing_is_left_to_ask_for() {
        let mut input = Input::lend(&Config::default());
        let two_empty_messages = [0x82, 0x80, 0, 0, 0, 0, 0x82, 0x80, 0, 0, 0, 0];
        input.fill(two_empty_messages.to_vec(), 12);
        assert!(read(&mut input));
        assert!(!input.drain_if_done());
        assert!(read(&mut input));
        assert!(!input.is_between_messages());
        assert!(input.drain_if_done());
        assert!(input.is_between_messages());
    }

    #[test]
    fn a_read_brings_more_in_the_middle_of_a_large_frame_only() {
        let mut input = Input::lend(&Config::default());
        assert_eq!(input.room(), READ_AHEAD);
        let header_of_100_kib = [0x82, 0xff, 0, 0, 0, 0, 0, 1, 0x90, 0, 0, 0, 0, 0];
        input.fill(header_of_100_kib.to_vec(), 14);
        assert!(!read(&mut input));
        assert_eq!(input.room(), 100 << 10);
        input.fill(vec![0; 99 << 10], 99 << 10);
        assert!(!read(&mut input));
        assert_eq!(input.room(), READ_AHEAD);
        input.fill(vec![0; 1 << 10], 1 << 10);
        assert!(read(&mut input));
        assert_eq!(input.room(), READ_AHEAD);

        let header_of_1_mib = [0x82, 0xff, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0];
        input.fill(header_of_1_mib.to_vec(), 14);
        assert!(!read(&mut input));
        assert_eq!(input.room(), SCRATCH);

        let mut output = None;
        let (protocol, mut pipe) = input.split(&mut output);
        protocol.close(&mut pipe, None).unwrap();
        assert_eq!(input.room(), READ_AHEAD, "behind our close frame");
    }
}
