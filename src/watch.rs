//! Frame headers, seen passing by.
//!
//! tungstenite does not tell how many frames a message came in, nor whether one is half read;
//! this does, for a few nanoseconds a frame. It judges nothing but its own limit: what is wrong
//! with a frame is for tungstenite to say.

/// A limit that tungstenite does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Violation {
    TooManyFragments,
}

#[derive(Debug, Default)]
pub(crate) struct FrameWatch {
    /// Bytes of the current frame's payload that are still to come.
    payload_left: u64,
    /// The part of a header that has come.
    header: [u8; MAX_HEADER],
    header_length: u8,
    max_fragments: u32,
    fragments: u32,
    control_frames: u32,
    mid_message: bool,
    largest: u64,
    violation: Option<Violation>,
}

/// 2 bytes, 8 of extended length, 4 of masking key (RFC 6455 section 5.2).
const MAX_HEADER: usize = 14;

impl FrameWatch {
    pub(crate) fn new(max_fragments: u32) -> Self {
        Self { max_fragments, ..Self::default() }
    }

    /// Follows the stream through `bytes`, however they are cut.
    pub(crate) fn advance(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.payload_left > 0 {
                let here =
                    usize::try_from(self.payload_left).unwrap_or(usize::MAX).min(bytes.len());
                self.payload_left -= here as u64;
                bytes = &bytes[here..];
            } else {
                self.header[usize::from(self.header_length)] = bytes[0];
                self.header_length += 1;
                bytes = &bytes[1..];
                self.finish_header();
            }
        }
    }

    fn finish_header(&mut self) {
        let have = usize::from(self.header_length);
        let header = &self.header[..have];
        if have < 2 {
            return;
        }
        let (extended, mask) = (extended_length(header[1]), 4 * usize::from(header[1] >> 7));
        if have < 2 + extended + mask {
            return;
        }
        let length = &header[2..2 + extended];
        self.payload_left = match extended {
            0 => u64::from(header[1] & 0x7f),
            _ => length.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
        };
        self.largest = self.largest.max(self.payload_left);
        self.header_length = 0;
        self.count(header[0]);
    }

    fn count(&mut self, first: u8) {
        const FIN: u8 = 0x80;
        const CONTROL: u8 = 0x08;
        if first & CONTROL != 0 {
            self.control_frames = self.control_frames.saturating_add(1);
            return;
        }
        self.mid_message = first & FIN == 0;
        self.fragments = self.fragments.saturating_add(1);
        if self.fragments > self.max_fragments {
            self.violation = Some(Violation::TooManyFragments);
        }
        if !self.mid_message {
            self.fragments = 0;
        }
    }

    /// Whether the stream stands between two whole messages.
    pub(crate) fn is_between_messages(&self) -> bool {
        self.payload_left == 0 && self.header_length == 0 && !self.mid_message
    }

    /// The largest payload of a frame so far.
    pub(crate) fn largest(&self) -> u64 {
        self.largest
    }

    /// Control frames since the last call.
    pub(crate) fn take_control_frames(&mut self) -> u32 {
        std::mem::take(&mut self.control_frames)
    }

    pub(crate) fn take_violation(&mut self) -> Option<Violation> {
        self.violation.take()
    }
}

/// How many bytes of extended length follow the second byte of a header.
fn extended_length(second: u8) -> usize {
    match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whole messages and the state behind each of their bytes, however the stream is cut.
    #[test]
    fn cuts_do_not_matter() {
        let mut stream = vec![0x81, 0x83, 1, 2, 3, 4, b'a', b'b', b'c'];
        stream.extend([0x01, 0x80, 0, 0, 0, 0]); // an empty first fragment
        stream.extend([0x89, 0x81, 0, 0, 0, 0, b'p']); // a ping in between
        stream.extend([0x80, 0xfe, 0, 126, 0, 0, 0, 0]); // the last fragment
        stream.extend([0; 126]);
        for cut in 1..stream.len() {
            let mut watch = FrameWatch::new(2);
            for part in stream.chunks(cut) {
                watch.advance(part);
            }
            assert!(watch.is_between_messages(), "cut at {cut}");
            assert_eq!((watch.take_control_frames(), watch.largest()), (1, 126));
            assert_eq!(watch.take_violation(), None);
        }
    }

    #[test]
    fn half_a_message_is_mid_message() {
        for part in [&[0x81][..], &[0x81, 0x81, 0, 0, 0, 0], &[0x01, 0x80, 0, 0, 0, 0]] {
            let mut watch = FrameWatch::new(9);
            watch.advance(part);
            assert!(!watch.is_between_messages(), "{part:?}");
        }
    }

    #[test]
    fn the_fragment_after_the_last_allowed_one_is_a_violation() {
        let mut watch = FrameWatch::new(3);
        let empty = [0x00, 0x80, 0, 0, 0, 0];
        watch.advance(&[0x01, 0x80, 0, 0, 0, 0]);
        watch.advance(&empty);
        watch.advance(&empty);
        assert_eq!(watch.take_violation(), None);
        watch.advance(&empty);
        assert_eq!(watch.take_violation(), Some(Violation::TooManyFragments));
    }
}
