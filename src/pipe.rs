//! What tungstenite takes for its stream.

use std::io::{self, Read, Write};

use crate::{output::Output, watch::FrameWatch};

/// Reads what was read, and writes behind what waits.
pub(crate) struct Pipe<'a> {
    pub(crate) unread: &'a [u8],
    pub(crate) start: &'a mut usize,
    pub(crate) watch: &'a mut FrameWatch,
    /// The most of a frame that tungstenite has waited for.
    pub(crate) awaited: &'a mut u64,
    pub(crate) output: &'a mut Option<Box<Output>>,
}

impl Read for Pipe<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.unread.read(into)?;
        if count == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        *self.start += count;
        let right = self.watch.advance(&into[..count]);
        *self.awaited = self.watch.payload_left().max(*self.awaited);
        match right {
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
