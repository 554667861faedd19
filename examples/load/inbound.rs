//! What a server sends, taken apart frame by frame without a copy (RFC 6455, section 5).
//!
//! A message is handed on in pieces as the reads cut it, so that a message of a mebibyte needs no memory either.

use crate::fault::Breach;
use crate::frame::{BINARY, CLOSE, PING, PONG, TEXT};

/// Longest header of a frame without a mask: two bytes and a length of eight.
const LONGEST_HEADER: usize = 10;

/// A part of a data message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Piece<'a> {
    /// Where in the message it stands.
    pub(crate) offset: usize,
    pub(crate) bytes: &'a [u8],
    /// Whether the message ends with it.
    pub(crate) last: bool,
    /// Whether it is of a text message.
    pub(crate) text: bool,
}

impl Piece<'_> {
    /// Whether it is a whole message.
    pub(crate) fn whole(&self) -> bool {
        self.offset == 0 && self.last
    }
}

/// What the next bytes are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrival<'a> {
    Piece(Piece<'a>),
    /// To be answered with a pong of the same payload.
    Ping(Vec<u8>),
    Pong,
    /// Code (1005 where there is none) and reason.
    Close(u16, String),
}

/// The state between two reads.
#[derive(Debug, Default)]
pub(crate) struct Inbound {
    header: [u8; LONGEST_HEADER],
    /// Bytes of the header that have come; 0 between frames.
    have: usize,
    /// Bytes of this frame's payload that are still to come.
    remaining: usize,
    inside: bool,
    opcode: u8,
    last_frame: bool,
    /// Opcode of the message that is under way, 0 for none.
    message: u8,
    /// Bytes of it that have come.
    offset: usize,
    control: Vec<u8>,
}

impl Inbound {
    /// Takes the next frame, or the next piece of one, off the front of `bytes`; `None` when they are used up.
    #[inline]
    pub(crate) fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<Arrival<'a>>, Breach> {
        loop {
            if !self.inside {
                if bytes.is_empty() || !self.take_header(bytes)? {
                    return Ok(None);
                }
            } else if bytes.is_empty() {
                return Ok(None);
            }
            let (part, rest) = bytes.split_at(self.remaining.min(bytes.len()));
            *bytes = rest;
            self.remaining -= part.len();
            self.inside = self.remaining > 0;
            if self.opcode < CLOSE {
                return Ok(Some(Arrival::Piece(self.piece(part))));
            }
            self.control.extend_from_slice(part);
            if !self.inside {
                return Ok(Some(self.control()));
            }
        }
    }

    fn piece<'a>(&mut self, bytes: &'a [u8]) -> Piece<'a> {
        let last = self.last_frame && !self.inside;
        let piece = Piece { offset: self.offset, bytes, last, text: self.message == TEXT };
        self.offset += bytes.len();
        if last {
            self.offset = 0;
            self.message = 0;
        }
        piece
    }

    fn control<'a>(&mut self) -> Arrival<'a> {
        let payload = std::mem::take(&mut self.control);
        match (self.opcode, payload.as_slice()) {
            (PING, _) => Arrival::Ping(payload),
            (PONG, _) => Arrival::Pong,
            (_, [high, low, reason @ ..]) => Arrival::Close(
                u16::from_be_bytes([*high, *low]),
                String::from_utf8_lossy(reason).into_owned(),
            ),
            _ => Arrival::Close(1005, String::new()),
        }
    }

    /// Reads a header, which several reads may have cut; false when it is not whole yet.
    #[inline]
    fn take_header(&mut self, bytes: &mut &[u8]) -> Result<bool, Breach> {
        if let ([first, short @ 0..=125, rest @ ..], 0) = (*bytes, self.have) {
            *bytes = rest;
            return self.begin(*first, usize::from(*short)).map(|()| true);
        }
        while let [byte, rest @ ..] = *bytes {
            self.header[self.have] = *byte;
            self.have += 1;
            *bytes = rest;
            if let Some(length) = announced(&self.header[..self.have])? {
                self.have = 0;
                return self.begin(self.header[0], length).map(|()| true);
            }
        }
        Ok(false)
    }

    #[inline]
    fn begin(&mut self, first: u8, length: usize) -> Result<(), Breach> {
        let (opcode, last_frame) = (first & 0x0f, first & 0x80 != 0);
        if first & 0x70 != 0 {
            return Err(Breach("a reserved bit is set though no extension was agreed on"));
        }
        match opcode {
            0 if self.message == 0 => return Err(Breach("a continuation of nothing")),
            TEXT | BINARY if self.message != 0 => return Err(Breach("a message inside a message")),
            0 => self.last_frame = last_frame,
            TEXT | BINARY => {
                self.message = opcode;
                self.last_frame = last_frame;
            }
            CLOSE..=PONG if last_frame && length <= 125 => {}
            CLOSE..=PONG => return Err(Breach("a control frame that is cut or too long")),
            _ => return Err(Breach("an unknown opcode")),
        }
        self.opcode = opcode;
        self.remaining = length;
        self.inside = true;
        Ok(())
    }
}

/// The payload's length once the header is whole.
fn announced(header: &[u8]) -> Result<Option<usize>, Breach> {
    match *header {
        [_, second, ..] if second & 0x80 != 0 => Err(Breach("a server's frame with a mask")),
        [_, 126, high, low] => Ok(Some(usize::from(u16::from_be_bytes([high, low])))),
        [_, 127, ref length @ ..] => {
            match <[u8; 8]>::try_from(length).map(u64::from_be_bytes).map(usize::try_from) {
                Ok(Ok(length)) => Ok(Some(length)),
                Ok(Err(_)) => Err(Breach("a frame longer than memory")),
                Err(_) => Ok(None),
            }
        }
        [_, short @ 0..=125] => Ok(Some(usize::from(short))),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A text message in two frames with a ping between them, then a long one, then a close.
    fn stream() -> Vec<u8> {
        let mut bytes =
            vec![0x01, 2, b'a', b'b', 0x89, 1, b'p', 0x80, 1, b'c', 0x82, 126, 0x01, 0x00];
        bytes.extend(std::iter::repeat_n(7, 256));
        bytes.extend([0x88, 4, 0x03, 0xE8, b'o', b'k']);
        bytes
    }

    fn read(cut: usize) -> (Vec<Vec<u8>>, usize, (u16, String)) {
        let (mut inbound, mut messages, mut pings) = (Inbound::default(), vec![Vec::new()], 0);
        for mut bytes in stream().chunks(cut) {
            while let Some(arrival) = inbound.next(&mut bytes).expect("a valid stream") {
                match arrival {
                    Arrival::Piece(piece) => {
                        messages.last_mut().expect("never empty").extend_from_slice(piece.bytes);
                        if piece.last {
                            messages.push(Vec::new());
                        }
                    }
                    Arrival::Ping(payload) => pings += payload.len(),
                    Arrival::Pong => {}
                    Arrival::Close(code, reason) => return (messages, pings, (code, reason)),
                }
            }
        }
        panic!("no close frame came");
    }

    #[test]
    fn it_does_not_matter_where_reads_cut_the_stream() {
        for cut in 1..=stream().len() {
            let (messages, pings, close) = read(cut);
            assert_eq!(messages, [b"abc".to_vec(), vec![7; 256], Vec::new()]);
            assert_eq!((pings, close), (1, (1000, "ok".to_owned())));
        }
    }

    #[test]
    fn a_masked_frame_and_a_reserved_bit_are_breaches() {
        for bytes in [[0x82, 0x80], [0xC2, 0x00], [0x80, 0x00], [0x83, 0x00], [0x09, 0x00]] {
            assert!(Inbound::default().next(&mut &bytes[..]).is_err());
        }
    }
}
