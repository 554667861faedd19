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

/// What one read of a socket may bring. Large messages cost few system calls this way.
pub(crate) const SCRATCH: usize = 64 << 10;

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

    /// Whether tungstenite has taken all that was read.
    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
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
