//! What a connection sends: a run of numbered frames made from one template, with control frames between them.
//!
//! Nothing is queued: what a short write cut off is made again from its sequence number. So a connection that is a
//! million messages behind costs no more memory than an idle one.

use std::io::{self, Write};

use crate::frame::{CLOSE, Digits, PONG, Template, mask_key, masked};

/// Frames up to this size are copied next to each other for one write; larger ones are written one by one in place.
const SMALL: usize = 4 * 1024;

/// The most that is put together for one write, in bytes.
const BATCH: usize = 64 * 1024;

/// The state between two writes.
#[derive(Debug, Default)]
pub(crate) struct Outbound {
    /// Which of the worker's templates this connection uses.
    pub(crate) template: usize,
    /// Sequence number of the frame at the front.
    next: u64,
    /// Bytes of it that are written.
    offset: usize,
    /// Frames with a sequence number below this one may be sent.
    limit: u64,
    /// Bytes that go out before the next frame: the opening handshake, first messages, control frames.
    urgent: Vec<u8>,
}

impl Outbound {
    /// Lets so many further messages be sent.
    #[inline]
    pub(crate) fn allow(&mut self, messages: u64) {
        self.limit += messages;
    }

    /// Messages allowed so far, sent or not.
    #[inline]
    pub(crate) fn allowed(&self) -> u64 {
        self.limit
    }

    /// Whether a write would have something to do.
    #[inline]
    pub(crate) fn is_pending(&self) -> bool {
        self.next < self.limit || !self.urgent.is_empty()
    }

    /// Puts bytes (the opening handshake, or whole masked frames) in front of all frames not yet begun.
    pub(crate) fn put_first(&mut self, bytes: &[u8]) {
        self.urgent.extend_from_slice(bytes);
    }

    pub(crate) fn put_pong(&mut self, payload: &[u8]) {
        self.put_first(&masked(PONG, payload, mask_key(0)));
    }

    pub(crate) fn put_close(&mut self, code: u16) {
        self.put_first(&masked(CLOSE, &code.to_be_bytes(), mask_key(0)));
    }

    /// Writes until nothing is left or the socket takes no more. `scratch` is one buffer for all connections.
    pub(crate) fn write(
        &mut self,
        to: &mut impl Write,
        templates: &mut [Template],
        scratch: &mut Vec<u8>,
    ) -> io::Result<()> {
        while self.is_pending() {
            let length = templates.get(self.template).map_or(usize::MAX, Template::len);
            let written = if self.offset == 0 && !self.urgent.is_empty() {
                attempt(to, &self.urgent)?.map(|count| drop(self.urgent.drain(..count)))
            } else if length <= SMALL {
                self.write_batch(to, &templates[self.template], scratch)?
            } else {
                let frame = templates[self.template].patched(&Digits::new(self.next));
                attempt(to, &frame[self.offset..])?.map(|count| self.advance(count, length))
            };
            if written.is_none() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn write_batch(
        &mut self,
        to: &mut impl Write,
        template: &Template,
        scratch: &mut Vec<u8>,
    ) -> io::Result<Option<()>> {
        scratch.clear();
        let mut digits = Digits::new(self.next);
        // Where a control frame waits behind a frame that was cut, only that frame goes out before it.
        let frames = if self.urgent.is_empty() { self.limit - self.next } else { 1 };
        for _ in 0..frames {
            if scratch.len() + template.len() > BATCH {
                break;
            }
            template.append(&digits, scratch);
            digits.count_up();
        }
        Ok(attempt(to, &scratch[self.offset..])?.map(|count| self.advance(count, template.len())))
    }

    /// All frames of a template have one length, so that a byte count says which frame is at the front now.
    fn advance(&mut self, written: usize, length: usize) {
        let total = self.offset + written;
        self.next += (total / length) as u64;
        self.offset = total % length;
    }
}

/// One write; `None` when the socket is full.
fn attempt(to: &mut impl Write, bytes: &[u8]) -> io::Result<Option<usize>> {
    loop {
        match to.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => return Ok(Some(count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{BINARY, Payload};

    /// Takes so many bytes, then refuses once.
    struct Narrow(Vec<u8>, usize, bool);

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.2 = !self.2;
            if self.2 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let count = bytes.len().min(self.1);
            self.0.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn short_writes_change_nothing_of_what_is_sent() {
        for size in [0, 3, 64, 5000] {
            let mut templates = [Template::new(BINARY, &Payload::numbered(size), 1)];
            let (mut whole, mut outbound) = (Vec::new(), Outbound::default());
            outbound.allow(20);
            outbound.write(&mut whole, &mut templates, &mut Vec::new()).expect("memory takes all");
            for step in [1, 7, 1000, 5003] {
                let (mut narrow, mut outbound) =
                    (Narrow(Vec::new(), step, false), Outbound::default());
                outbound.allow(20);
                while outbound.is_pending() {
                    outbound
                        .write(&mut narrow, &mut templates, &mut Vec::new())
                        .expect("it only refuses");
                }
                assert_eq!(narrow.0, whole);
            }
        }
    }

    #[test]
    fn a_pong_goes_between_frames_and_never_inside_one() {
        let mut templates = [Template::new(BINARY, &Payload::numbered(64), 1)];
        let length = templates[0].len();
        let (mut narrow, mut outbound) = (Narrow(Vec::new(), 10, true), Outbound::default());
        outbound.allow(2);
        outbound.write(&mut narrow, &mut templates, &mut Vec::new()).expect("it only refuses");
        outbound.put_pong(b"");
        while outbound.is_pending() {
            outbound.write(&mut narrow, &mut templates, &mut Vec::new()).expect("it only refuses");
        }
        assert_eq!(narrow.0[length], 0x8A);
        assert_eq!(narrow.0.len(), 2 * length + 6);
    }
}
