//! Frames prepared beforehand: masked once, and afterwards only the sequence number in them changes.
//!
//! A sequence number is ten decimal digits whose first one is never zero. Thus it has one width for a whole run, every
//! frame of a template has one length, and it is a valid number in JSON too.

/// Digits of a sequence number.
pub(crate) const DIGITS: usize = 10;

/// What sequence number 0 looks like; at a million messages a second it grows an eleventh digit after two and a half hours.
const FIRST: u64 = 1_000_000_000;

/// RFC 6455, section 5.2: the opcodes that a load generator meets.
pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// First bit of a header: this frame ends its message.
const FINAL: u8 = 0x80;

/// First bit of the second byte: the payload is masked.
const MASKED: u8 = 0x80;

/// A sequence number as it stands in a message. Counting up touches 1.1 digits on average, printing one would touch all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Digits([u8; DIGITS]);

impl Digits {
    pub(crate) fn new(sequence: u64) -> Self {
        let mut number = FIRST + sequence;
        let mut digits = [b'0'; DIGITS];
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + u8::try_from(number % 10).unwrap_or(0);
            number /= 10;
        }
        Self(digits)
    }

    #[inline]
    pub(crate) fn count_up(&mut self) {
        for digit in self.0.iter_mut().rev() {
            if *digit != b'9' {
                *digit += 1;
                return;
            }
            *digit = b'0';
        }
    }

    /// The lowest `width` digits: all of them, unless the message is too short for that.
    #[inline]
    pub(crate) fn low(&self, width: usize) -> &[u8] {
        &self.0[DIGITS - width..]
    }
}

/// What a message says before it is masked.
#[derive(Clone, Debug)]
pub(crate) struct Payload {
    pub(crate) bytes: Vec<u8>,
    /// Where in `bytes` the sequence number stands.
    pub(crate) places: Vec<usize>,
    /// How many of its digits stand there.
    pub(crate) width: usize,
}

impl Payload {
    /// A sequence number followed by letters: what echo and rate send.
    pub(crate) fn numbered(size: usize) -> Self {
        let width = size.min(DIGITS);
        let mut bytes = filler(size);
        bytes[..width].copy_from_slice(Digits::new(0).low(width));
        Self { bytes, places: if width > 0 { vec![0] } else { Vec::new() }, width }
    }

    /// Whether `bytes`, found `offset` bytes into a message, are what message `digits` has there.
    #[inline]
    pub(crate) fn agrees(&self, digits: &Digits, offset: usize, bytes: &[u8]) -> bool {
        let end = offset + bytes.len();
        let Some(expected) = self.bytes.get(offset..end) else { return false };
        let Some(&place) = self.places.first() else { return expected == bytes };
        let (from, to) = (place.clamp(offset, end), (place + self.width).clamp(offset, end));
        expected[..from - offset] == bytes[..from - offset]
            && expected[to - offset..] == bytes[to - offset..]
            && (from == to
                || digits.low(self.width)[from - place..to - place]
                    == bytes[from - offset..to - offset])
    }
}

/// Letters that need no escape in any format, and whose period of 26 shows a shift by a power of two.
pub(crate) fn filler(size: usize) -> Vec<u8> {
    (b'a'..=b'z').cycle().take(size).collect()
}

/// One masked client frame, or what else a connection says over and over, whose sequence number can be changed in place.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    frame: Vec<u8>,
    places: Vec<usize>,
    width: usize,
    start: usize,
    key: [u8; 4],
}

impl Template {
    /// `variant` chooses one of several fixed mask keys: a real client's are random, which would cost time here and
    /// change nothing for the server.
    pub(crate) fn new(opcode: u8, payload: &Payload, variant: usize) -> Self {
        let key = mask_key(variant);
        let frame = masked(opcode, &payload.bytes, key);
        let start = frame.len() - payload.bytes.len();
        let places = payload.places.iter().map(|place| place + start).collect();
        Self { frame, places, width: payload.width, start, key }
    }

    /// What is sent as it stands, such as an HTTP request.
    pub(crate) fn plain(payload: &Payload) -> Self {
        let Payload { bytes, places, width } = payload.clone();
        // A mask of zeroes changes nothing.
        Self { frame: bytes, places, width, start: 0, key: [0; 4] }
    }

    /// Length of each frame made from this template, in bytes.
    pub(crate) fn len(&self) -> usize {
        self.frame.len()
    }

    /// The frame with this sequence number, without a copy: for large ones.
    pub(crate) fn patched(&mut self, digits: &Digits) -> &[u8] {
        for &place in &self.places {
            patch(&mut self.frame[place..], digits.low(self.width), place - self.start, self.key);
        }
        &self.frame
    }

    /// Appends the frame with this sequence number: for small ones, many to a write.
    #[inline]
    pub(crate) fn append(&self, digits: &Digits, output: &mut Vec<u8>) {
        let at = output.len();
        output.extend_from_slice(&self.frame);
        for &place in &self.places {
            patch(&mut output[at + place..], digits.low(self.width), place - self.start, self.key);
        }
    }
}

#[inline]
fn patch(target: &mut [u8], digits: &[u8], position: usize, key: [u8; 4]) {
    for (index, (byte, digit)) in target.iter_mut().zip(digits).enumerate() {
        *byte = digit ^ key[(position + index) & 3];
    }
}

/// One masked frame, final and whole (RFC 6455, section 5.2).
pub(crate) fn masked(opcode: u8, payload: &[u8], key: [u8; 4]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(payload.len() + 14);
    frame.push(FINAL | opcode);
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(short @ 0..=125), _) => frame.push(0x80 | short),
        (_, Ok(medium)) => {
            frame.push(MASKED | 0x7E);
            frame.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            frame.push(MASKED | 0x7F);
            frame.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&key);
    frame.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// Spreads small numbers over all four bytes (a multiplication by 2^32 divided by the golden ratio).
pub(crate) fn mask_key(variant: usize) -> [u8; 4] {
    #[allow(clippy::cast_possible_truncation, reason = "the low bits are as good as all of them")]
    let number = (variant as u32).wrapping_add(1).wrapping_mul(0x9E37_79B9);
    number.to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counting_up_equals_printing() {
        let mut digits = Digits::new(0);
        for sequence in 0..12_345 {
            assert_eq!(digits, Digits::new(sequence));
            digits.count_up();
        }
    }

    #[test]
    fn a_patched_frame_equals_one_made_anew() {
        let mut payload = Payload::numbered(300);
        let mut template = Template::new(BINARY, &payload, 7);
        payload.bytes[..DIGITS].copy_from_slice(Digits::new(4711).low(DIGITS));
        let expected = masked(BINARY, &payload.bytes, mask_key(7));
        assert_eq!(template.patched(&Digits::new(4711)), expected);
        let mut output = vec![1];
        template.append(&Digits::new(4711), &mut output);
        assert_eq!(output[1..], expected);
        let mut plain = Template::plain(&Payload::numbered(300));
        assert_eq!(plain.patched(&Digits::new(4711)), payload.bytes);
    }

    #[test]
    fn a_changed_byte_is_seen_wherever_the_message_is_cut() {
        let payload = Payload::numbered(40);
        let mut message = payload.bytes.clone();
        message[..DIGITS].copy_from_slice(Digits::new(5).low(DIGITS));
        for cut in 0..=40 {
            assert!(payload.agrees(&Digits::new(5), 0, &message[..cut]));
            assert!(payload.agrees(&Digits::new(5), cut, &message[cut..]));
        }
        for byte in 0..40 {
            message[byte] ^= 1;
            assert!(!payload.agrees(&Digits::new(5), 0, &message));
            message[byte] ^= 1;
        }
        assert!(!payload.agrees(&Digits::new(6), 0, &message));
        assert!(!payload.agrees(&Digits::new(5), 1, &message));
    }
}
