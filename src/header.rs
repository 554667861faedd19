//! The header of a client's frame: where it ends, what it announces, and what is wrong with it.

/// 2 bytes, 8 of extended length, 4 of masking key (RFC 6455 section 5.2).
pub(crate) const MAX_HEADER: usize = 14;

/// The bit of a header's second byte that every client has to set.
pub(crate) const MASKED: u8 = 0x80;

/// The opcode of every frame of a message but the first.
pub(crate) const CONTINUATION: u8 = 0x00;

/// The bit that control frames' opcodes have.
pub(crate) const CONTROL: u8 = 0x08;

/// What can be said of a client's frame by its first two bytes; or which rule they break.
pub(crate) fn judge(first: u8, second: u8) -> Result<(), &'static str> {
    const MAX_CONTROL_PAYLOAD: u8 = 125;
    const CLOSE: u8 = 0x08;
    let (opcode, is_final, reserved) = (first & 0x0f, first & 0x80 != 0, first & 0x70);
    let rule = if reserved != 0 {
        "reserved bits must be 0"
    } else if !matches!(opcode, 0..=2 | 8..=10) {
        "the opcode is reserved"
    } else if second & MASKED == 0 {
        "a client's frames must be masked"
    } else if opcode & CONTROL != 0 && !is_final {
        "control frames must not be fragmented"
    } else if opcode & CONTROL != 0 && second & 0x7f > MAX_CONTROL_PAYLOAD {
        "control frames carry at most 125 bytes"
    } else if opcode == CLOSE && second & 0x7f == 1 {
        "a close frame carries a whole code or none"
    } else {
        return Ok(());
    };
    Err(rule)
}

/// The header at the beginning of `bytes`, if all of it is there.
pub(crate) fn whole_header(bytes: &[u8]) -> Option<&[u8]> {
    let second = *bytes.get(1)?;
    bytes.get(..2 + extended_length(second) + 4 * usize::from(second >> 7))
}

/// The length of the payload behind a whole header.
pub(crate) fn payload_length(header: &[u8]) -> u64 {
    match &header[2..2 + extended_length(header[1])] {
        [] => u64::from(header[1] & !MASKED),
        length => length.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
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

    #[test]
    fn headers_are_judged_before_their_payload() {
        for (first, second) in [
            (0xc1, 0x81), // RSV1
            (0x83, 0x81), // a reserved opcode
            (0x81, 0x01), // no mask
            (0x09, 0x80), // a fragmented ping
            (0x89, 0xfe), // a ping with an extended length
        ] {
            assert!(judge(first, second).is_err(), "{first:x}");
        }
        for (first, second) in
            [(0x81, 0x80), (0x02, 0xff), (0x00, 0x80), (0x89, 0xfd), (0x88, 0x80)]
        {
            assert_eq!(judge(first, second), Ok(()), "{first:x}");
        }
    }
}
