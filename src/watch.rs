//! Frame headers, seen passing by.
//!
//! tungstenite does not tell how many frames a message came in, nor whether one is half read;
//! this does, for a few nanoseconds a frame. And it judges a header as soon as it has come, where
//! tungstenite waits for the payload, which may never come.

use crate::header::{
    CONTINUATION, CONTROL, MASKED, MAX_HEADER, judge, payload_length, whole_header,
};

/// What is wrong with a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Violation {
    TooManyFragments,
    /// The message will be above the limit.
    TooBig,
    /// RFC 6455 section 5.2 or 5.5 is broken, in these words.
    Header(&'static str),
}

#[derive(Debug, Default)]
pub(crate) struct FrameWatch {
    /// Bytes of the current frame's payload that are still to come.
    payload_left: u64,
    /// The part of a header that has come.
    header: [u8; MAX_HEADER],
    header_length: u8,
    max_fragments: u32,
    max_message_size: u64,
    fragments: u32,
    /// The payloads of the current message so far, and its number.
    message_size: u64,
    message: u32,
    control_frames: u32,
    /// Messages and control frames whose last header has passed, and that have not been read.
    unread: u32,
    /// How many of those are control frames.
    unread_control_frames: u32,
    mid_message: bool,
    violation: Option<Violation>,
}

/// Payloads from this size on make a message [large](crate::large): below, it is cheaper to copy.
const LARGE: u64 = 4 << 10;

/// A header without an extended length.
const SHORT_HEADER: usize = 6;
const FINAL_TEXT: u8 = 0x81;
const FINAL_BINARY: u8 = 0x82;

/// The second byte of a masked frame with the longest payload that needs no extended length.
const LONGEST_SHORT: u8 = MASKED + 125;

impl FrameWatch {
    pub(crate) fn new(max_fragments: u32, max_message_size: u64) -> Self {
        Self { max_fragments, max_message_size, ..Self::default() }
    }

    /// Follows the stream through `bytes`, however they are cut. Returns how many of them stand
    /// before the end of a header with something wrong: the rest is for nobody.
    pub(crate) fn advance(&mut self, mut bytes: &[u8]) -> usize {
        let all = bytes.len();
        while !bytes.is_empty() && self.violation.is_none() {
            let passed = if self.payload_left > 0 {
                self.pass_payload(bytes.len())
            } else {
                match self.pass_short_messages(bytes) {
                    0 => self.pass_header(bytes),
                    passed => passed,
                }
            };
            bytes = &bytes[passed..];
        }
        (all - bytes.len()).saturating_sub(usize::from(self.violation.is_some()))
    }

    /// Passes all short messages in one frame that `bytes` begin with, as nearly all do: there is
    /// nothing in their headers to judge. Returns their length.
    fn pass_short_messages(&mut self, bytes: &[u8]) -> usize {
        if self.header_length > 0 || self.mid_message || self.max_fragments == 0 {
            return 0;
        }
        let (mut rest, mut messages) = (bytes, 0);
        while let [FINAL_TEXT | FINAL_BINARY, second @ MASKED..=LONGEST_SHORT, ..] = *rest
            && let payload = usize::from(second & !MASKED)
            && payload as u64 <= self.max_message_size
            && let Some(behind) = rest.get(SHORT_HEADER + payload..)
        {
            rest = behind;
            messages += 1;
        }
        self.message = self.message.wrapping_add(messages);
        self.unread += messages;
        bytes.len() - rest.len()
    }

    /// Passes the header of a large message in one frame, if `bytes` begin with one that may come;
    /// returns the length of the frame, header and all.
    pub(crate) fn begin_large(&mut self, bytes: &[u8]) -> Option<usize> {
        let header = whole_header(bytes).filter(|header| Self::may_be_large(header))?;
        let payload = payload_length(header);
        let is_allowed = payload <= self.max_message_size && self.max_fragments > 0;
        if payload < LARGE || !is_allowed || !self.is_between_messages() {
            return None;
        }
        let length = usize::try_from(payload).ok()?.checked_add(header.len())?;
        self.finish_header(header);
        Some(length)
    }

    /// Whether `bytes` begin like a large message in one frame: with an extended length.
    pub(crate) fn may_be_large(bytes: &[u8]) -> bool {
        matches!(bytes, [FINAL_TEXT | FINAL_BINARY, second, ..] if *second > LONGEST_SHORT)
    }

    /// All but so much of it has come.
    pub(crate) fn pass_large(&mut self, left: usize) {
        self.payload_left = left as u64;
    }

    fn pass_payload(&mut self, available: usize) -> usize {
        let here = usize::try_from(self.payload_left).unwrap_or(usize::MAX).min(available);
        self.payload_left -= here as u64;
        here
    }

    /// A header nearly always comes in one piece; one that does not is put together byte by byte.
    fn pass_header(&mut self, bytes: &[u8]) -> usize {
        let have = usize::from(self.header_length);
        if have == 0
            && let Some(whole) = whole_header(bytes)
        {
            self.finish_header(whole);
            return whole.len();
        }
        self.header[have] = bytes[0];
        self.header_length += 1;
        let header = self.header;
        if let Some(whole) = whole_header(&header[..=have]) {
            self.header_length = 0;
            self.finish_header(whole);
        }
        1
    }

    fn finish_header(&mut self, header: &[u8]) {
        let (first, second) = (header[0], header[1]);
        self.payload_left = payload_length(header);
        self.violation = self.count(first, second).err();
    }

    fn count(&mut self, first: u8, second: u8) -> Result<(), Violation> {
        let (opcode, is_final) = (first & 0x0f, first & 0x80 != 0);
        judge(first, second).map_err(Violation::Header)?;
        if opcode & CONTROL == 0 && (opcode == CONTINUATION) != self.mid_message {
            return Err(Violation::Header("a message must end before the next begins"));
        }
        self.unread += u32::from(is_final);
        if opcode & CONTROL != 0 {
            self.control_frames = self.control_frames.saturating_add(1);
            self.unread_control_frames += 1;
            if !self.mid_message {
                self.message_size = 0;
            }
            return Ok(());
        }
        if !self.mid_message {
            self.message = self.message.wrapping_add(1);
            (self.fragments, self.message_size) = (0, 0);
        }
        self.mid_message = !is_final;
        self.fragments += 1;
        self.message_size = self.message_size.saturating_add(self.payload_left);
        if self.message_size > self.max_message_size {
            return Err(Violation::TooBig);
        }
        if self.fragments > self.max_fragments {
            return Err(Violation::TooManyFragments);
        }
        Ok(())
    }

    /// The number of the current message, or else of the last one.
    pub(crate) fn message(&self) -> u32 {
        self.message
    }

    /// Whether the stream stands between two whole messages.
    pub(crate) fn is_between_messages(&self) -> bool {
        self.payload_left == 0 && self.header_length == 0 && !self.mid_message
    }

    /// The payloads of the message that has begun, what the current header announces of them
    /// included; 0 between two messages, and for one that will not be taken.
    pub(crate) fn announced(&self) -> u64 {
        let begun = self.payload_left > 0 || self.mid_message;
        if begun && self.violation.is_none() { self.message_size } else { 0 }
    }

    /// Takes note that one message or control frame was read.
    pub(crate) fn has_read_one(&mut self) {
        self.unread = self.unread.saturating_sub(1);
    }

    /// Takes note that it was a control frame.
    pub(crate) fn has_read_control_frame(&mut self) {
        self.unread_control_frames = self.unread_control_frames.saturating_sub(1);
    }

    /// Whether a message has passed to its end that was not read, and no control frame that was not:
    /// it can be had without waiting for more.
    pub(crate) fn holds_message(&self) -> bool {
        let half = u32::from(self.payload_left > 0);
        self.unread > half && self.unread_control_frames == 0
    }

    /// Whether all that has passed was read, too: nothing is left to be had of it.
    pub(crate) fn is_all_read(&self) -> bool {
        self.unread == 0 && self.is_between_messages() && self.violation.is_none()
    }

    /// What has not passed yet of the payload of a frame.
    pub(crate) fn payload_left(&self) -> u64 {
        self.payload_left
    }

    /// Control frames since the last call.
    pub(crate) fn take_control_frames(&mut self) -> u32 {
        std::mem::take(&mut self.control_frames)
    }

    pub(crate) fn take_violation(&mut self) -> Option<Violation> {
        self.violation.take()
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
            let mut watch = FrameWatch::new(2, 1000);
            for part in stream.chunks(cut) {
                watch.advance(part);
            }
            assert!(watch.is_between_messages(), "cut at {cut}");
            assert_eq!(watch.take_control_frames(), 1);
            assert_eq!(watch.take_violation(), None);
            for _ in ["abc", "p", "the fragments"] {
                assert!(!watch.is_all_read());
                watch.has_read_one();
            }
            assert!(watch.is_all_read());
        }
    }

    #[test]
    fn half_a_message_is_mid_message() {
        for part in [&[0x81][..], &[0x81, 0x81, 0, 0, 0, 0], &[0x01, 0x80, 0, 0, 0, 0]] {
            let mut watch = FrameWatch::new(9, 1000);
            watch.advance(part);
            assert!(!watch.is_between_messages(), "{part:?}");
        }
    }

    #[test]
    fn a_message_is_held_from_its_last_byte_on() {
        let mut watch = FrameWatch::new(9, 1000);
        let mut holds = |bytes: &[u8]| {
            watch.advance(bytes);
            let holds = watch.holds_message();
            if holds {
                watch.has_read_one();
            }
            holds
        };
        let whole = [0x81, 0x82, 0, 0, 0, 0, b'a', b'b'];
        let (begun, rest) = whole.split_at(7);
        assert!(!holds(begun));
        assert!(holds(rest));
        assert!(holds(&[&whole, begun].concat()));
        assert!(!holds(&[]), "only begun");
        let ping = [0x89, 0x80, 0, 0, 0, 0];
        assert!(
            !holds(&[&b"b"[..], &ping, &whole, &ping, &whole].concat()),
            "with pings behind it"
        );
        let holds_after_reading = |is_ping| {
            watch.has_read_one();
            if is_ping {
                watch.has_read_control_frame();
                watch.take_control_frames();
            }
            watch.holds_message()
        };
        let read = [false, true, false, true];
        assert_eq!(read.map(holds_after_reading), [false, false, false, true]);
    }

    #[test]
    fn a_message_counts_from_its_header_to_its_last_byte() {
        let mut watch = FrameWatch::new(9, 1000);
        let mut announced = |bytes: &[u8]| {
            watch.advance(bytes);
            watch.announced()
        };
        assert_eq!(announced(&[0x01, 0x82, 0, 0, 0, 0]), 2);
        assert_eq!(announced(b"ab"), 2);
        assert_eq!(announced(&[0x89, 0x81, 0, 0, 0, 0]), 2); // a ping in between
        assert_eq!(announced(b"p"), 2);
        assert_eq!(announced(&[0x80, 0x83, 0, 0, 0, 0, b'c']), 5);
        assert_eq!(announced(b"de"), 0);
        assert_eq!(announced(&[0x89, 0x81, 0, 0, 0, 0]), 0); // a ping behind it
        assert_eq!(announced(b"p"), 0);
        assert_eq!(announced(&[0x82, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), 0);
    }

    #[test]
    fn the_fragment_after_the_last_allowed_one_is_a_violation() {
        let mut watch = FrameWatch::new(3, 1000);
        let empty = [0x00, 0x80, 0, 0, 0, 0];
        watch.advance(&[0x01, 0x80, 0, 0, 0, 0]);
        watch.advance(&empty);
        watch.advance(&empty);
        assert_eq!(watch.take_violation(), None);
        watch.advance(&empty);
        assert_eq!(watch.take_violation(), Some(Violation::TooManyFragments));
    }

    #[test]
    fn a_sum_above_the_limit_is_a_violation_by_its_headers() {
        let mut watch = FrameWatch::new(9, 10);
        watch.advance(&[0x01, 0x88, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(watch.take_violation(), None);
        watch.advance(&[0x80, 0x83, 0, 0, 0, 0]);
        assert_eq!(watch.take_violation(), Some(Violation::TooBig));
    }

    #[test]
    fn a_whole_short_message_is_judged_like_any_other() {
        let whole = [0x81, 0x83, 0, 0, 0, 0, b'a', b'b', b'c'];
        let judged = |before: &[u8], max_fragments, max_size| {
            let mut watch = FrameWatch::new(max_fragments, max_size);
            watch.advance(before);
            watch.advance(&whole);
            watch.take_violation()
        };
        let half = [0x01, 0x80, 0, 0, 0, 0];
        let early = Violation::Header("a message must end before the next begins");
        assert_eq!(judged(&[], 1, 3), None);
        assert_eq!(judged(&[], 1, 2), Some(Violation::TooBig));
        assert_eq!(judged(&[], 0, 3), Some(Violation::TooManyFragments));
        assert_eq!(judged(&half, 9, 9), Some(early));
        // Its first byte is the second one of a header here, and what follows is no frame.
        let reserved = Violation::Header("reserved bits must be 0");
        assert_eq!(judged(&whole[..1], 9, 9), Some(reserved));
    }

    #[test]
    fn only_what_may_come_begins_a_large_message() {
        let mut header = [0x82, 0xfe, 0x10, 0, 0, 0, 0, 0];
        let begin = |max_fragments, max_size, bytes: &[u8]| {
            let mut watch = FrameWatch::new(max_fragments, max_size);
            (watch.begin_large(bytes), watch.payload_left(), watch.take_violation())
        };
        assert_eq!(begin(1, 4096, &header), (Some(8 + 4096), 4096, None));
        let none = (None, 0, None);
        assert_eq!(begin(0, 4096, &header), none);
        assert_eq!(begin(1, 4095, &header), none);
        assert_eq!(begin(1, 4096, &header[..7]), none);
        for first in [0x02, 0x00, 0x80, 0x89, 0xc2] {
            header[0] = first;
            assert_eq!(begin(1, 4096, &header), none, "{first:x}");
        }
        assert_eq!(begin(1, 4096, &[0x82, 0x7e, 0x10, 0]), none, "no mask");
        assert_eq!(begin(1, 4096, &[0x82, 0xfe, 0x0f, 0xff, 0, 0, 0, 0]), none, "not large");
        let endless = [0x82, 0xff, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0];
        assert_eq!(begin(1, u64::MAX, &endless), none, "its end has no number");
    }
}
