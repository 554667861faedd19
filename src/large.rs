//! A large message in one frame, read from the socket into the place where it stays.
//!
//! tungstenite clears memory before it takes bytes into it, and takes them from a buffer of ours. A
//! frame that it is given whole, header and all, it takes as it is: so a large message is not
//! cleared for, and of it is copied only what was read before it was known to be one.

use bytes::{BufMut, buf::Limit};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};

/// As much of the frame as has come.
#[derive(Debug)]
pub(crate) struct Large {
    frame: Vec<u8>,
    length: usize,
}

impl Large {
    /// Takes from the front of `unread` what there is of a frame of this `length`.
    ///
    /// Once tungstenite has read the header it wants room for a payload, even with all of it there:
    /// it would copy what it has to a larger place. The second half is never written to.
    pub(crate) fn begin(unread: &[u8], length: usize) -> Self {
        let mut frame = Vec::with_capacity(2 * length);
        frame.extend_from_slice(&unread[..unread.len().min(length)]);
        Self { frame, length }
    }

    /// Whether a buffer that holds a frame and nothing else may stay with it: it has the room that
    /// tungstenite wants, and is not much larger.
    pub(crate) fn may_keep(frame: &Vec<u8>) -> bool {
        (2 * frame.len()..=4 * frame.len()).contains(&frame.capacity())
    }

    /// Takes a frame, all of which is there.
    pub(crate) fn whole(frame: Vec<u8>) -> Self {
        let length = frame.len();
        Self { frame, length }
    }

    /// How much has come.
    pub(crate) fn len(&self) -> usize {
        self.frame.len()
    }

    /// How much is still to come.
    pub(crate) fn left(&self) -> usize {
        self.length - self.frame.len()
    }

    /// The place of at most `room` bytes of what is still to come.
    pub(crate) fn rest(&mut self, room: usize) -> Limit<&mut Vec<u8>> {
        let room = room.min(self.left());
        (&mut self.frame).limit(room)
    }

    /// What reads and judges the whole frame.
    pub(crate) fn into_protocol(self, config: WebSocketConfig) -> WebSocketContext {
        debug_assert_eq!(self.left(), 0);
        let config = config.read_buffer_size(0);
        WebSocketContext::from_partially_read(self.frame, Role::Server, Some(config))
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use bytes::BufMut;

    use super::*;

    /// Whether tungstenite leaves the payload where it was read to.
    #[test]
    fn the_payload_stays_where_it_is() {
        for payload in [4_096, 65_535, 65_536, 1 << 20] {
            let mut frame = vec![0x81, 0xff];
            frame.extend((payload as u64).to_be_bytes());
            frame.extend([0; 4]);
            let header = frame.len();
            frame.resize(header + payload, b'x');
            let mut large = Large::begin(&frame[..100], frame.len());
            let place = large.frame.as_ptr();
            assert_eq!((large.len(), large.left()), (100, frame.len() - 100));
            large.rest(usize::MAX).put(&frame[100..]);
            let mut protocol = large.into_protocol(WebSocketConfig::default());
            let message = protocol.read(&mut io::empty()).unwrap();
            assert_eq!(message.len(), payload);
            assert_eq!(message.into_data().as_ptr(), place.wrapping_add(header));
        }
    }

    #[test]
    fn it_takes_no_more_than_its_own() {
        let mut large = Large::begin(&[0; 30], 20);
        assert_eq!((large.len(), large.left(), large.rest(9).remaining_mut()), (20, 0, 0));
    }

    #[test]
    fn a_buffer_that_stays_is_at_most_four_times_as_large() {
        let may_keep = |length| {
            let mut frame = Vec::with_capacity(100);
            frame.resize(length, 0);
            Large::may_keep(&frame)
        };
        assert_eq!([24, 25, 50, 51].map(may_keep), [false, true, true, false]);
    }
}
