//! What was read and is not decoded yet, and what decodes it.
//!
//! Reading goes through one large buffer per thread, and the protocol object itself is lent by the
//! thread as well: between messages there is nothing in it worth keeping, so an idle connection
//! owns neither.

use std::{cell::RefCell, mem};

use bytes::buf::Limit;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};

use crate::{
    close::CloseReason, config::Config, large::Large, output::Output, pipe::Pipe, watch::FrameWatch,
};

/// What one read of a socket may bring of what is not a large message's: a handler may leave that
/// undecoded for as long as it likes.
pub(crate) const READ_AHEAD: usize = 64 << 10;

/// What tungstenite allocates for reading, and takes from us at a time. It clears as much before
/// each take.
const CHUNK: usize = 2 << 10;

/// A protocol object that has waited for more of a frame than this is not lent again: tungstenite
/// never gives its buffer back.
const KEEP: u64 = 64 << 10;

/// What a connection that is read from owns for that time.
pub(crate) struct Input {
    protocol: WebSocketContext,
    pub(crate) watch: FrameWatch,
    /// What was read, and how much of it is decoded.
    bytes: Vec<u8>,
    start: usize,
    /// A large message that is half read: all before it is decoded.
    large: Option<Large>,
    /// What decodes a large message that is whole.
    whole: Option<WebSocketContext>,
    /// Why the connection is to be closed, once the messages in front of that are answered.
    verdict: Option<Box<CloseReason>>,
    /// All that was read is decoded, or belongs to what is half read: tungstenite holds no whole frame
    /// of its own either.
    drained: bool,
    /// The last read has brought less than there was room for: most likely no more has come.
    pub(crate) had_room: bool,
    /// The most of a frame that tungstenite has waited for.
    awaited: u64,
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
            Box::new(Self {
                protocol,
                watch,
                bytes,
                start: 0,
                large: None,
                whole: None,
                verdict: None,
                drained: true,
                had_room: false,
                awaited: 0,
            })
        });
        input.watch = FrameWatch::new(config.max_fragments, config.max_message_size as u64);
        input.had_room = false;
        input
    }

    /// Puts in what was read; all that was read before is decoded.
    pub(crate) fn fill(&mut self, bytes: Vec<u8>) {
        (self.bytes, self.start, self.drained) = (bytes, 0, false);
    }

    /// Whether there is something to decode; a large message is, once all of it has come.
    ///
    /// The thread's buffer stays with it only where nothing else waits: a peer that reads no replies
    /// would hold one for each.
    pub(crate) fn is_ready(&mut self, output: Option<&Output>) -> bool {
        if self.watch.is_all_read() {
            if self.start == self.bytes.len() {
                self.drain();
                return false;
            }
            self.begin_large(output.is_none());
        }
        self.large.is_none() || self.end_large()
    }

    /// Behind our close frame a large message is thrown away like anything else.
    fn begin_large(&mut self, may_keep: bool) {
        let unread = &self.bytes[self.start..];
        if !FrameWatch::may_be_large(unread) || !self.protocol.can_write() {
            return;
        }
        let Some(length) = self.watch.begin_large(unread) else { return };
        let is_alone = self.start == 0 && self.bytes.len() == length;
        let large = if may_keep && is_alone && Large::may_keep(&self.bytes) {
            Large::whole(mem::take(&mut self.bytes))
        } else {
            let large = Large::begin(unread, length);
            self.start += large.len();
            large
        };
        self.watch.pass_large(large.left());
        self.large = Some(large);
    }

    #[cold]
    fn end_large(&mut self) -> bool {
        let whole = self.large.take_if(|large| large.left() == 0);
        self.whole = whole.map(|large| large.into_protocol(*self.protocol.get_config()));
        if self.whole.is_none() {
            self.drain();
        }
        self.whole.is_some()
    }

    /// Where the next read puts up to `room` bytes of a large message. Behind our close frame nobody
    /// waits for it any more, and no more of it is read at a time than of anything else.
    pub(crate) fn rest_of_large(&mut self, room: usize) -> Option<Limit<&mut Vec<u8>>> {
        let most = if self.protocol.can_write() { usize::MAX } else { READ_AHEAD };
        Some(self.large.as_mut()?.rest(room.min(most)))
    }

    /// Takes note of what has come of it.
    pub(crate) fn has_read_large(&mut self) {
        if let Some(large) = &self.large {
            self.watch.pass_large(large.left());
            self.drained = large.left() > 0;
        }
    }

    /// Takes note that what was next is decoded.
    pub(crate) fn has_decoded(&mut self) {
        self.forget_whole();
        self.watch.has_read_one();
    }

    /// Keeps for later what is wrong behind the messages that were decoded.
    #[cold]
    pub(crate) fn put_off(&mut self, verdict: CloseReason) {
        self.verdict = Some(Box::new(verdict));
    }

    /// Takes that out again.
    pub(crate) fn take_verdict(&mut self) -> Option<CloseReason> {
        self.verdict.take().map(|verdict| *verdict)
    }

    /// What comes next is for the connection's own protocol object again.
    pub(crate) fn forget_whole(&mut self) {
        self.whole = None;
    }

    /// Gives it back to the thread, between two messages.
    pub(crate) fn give_back(self: Box<Self>) {
        if self.awaited <= KEEP {
            INPUT.with_borrow_mut(|slot| *slot = Some(self));
        }
    }

    /// Nothing of what was read is to be decoded, nor told.
    pub(crate) fn is_drained(&self) -> bool {
        self.drained && self.verdict.is_none()
    }

    /// Nothing in it that another connection must not get.
    pub(crate) fn is_between_messages(&self) -> bool {
        self.is_drained()
            && self.large.is_none()
            && self.watch.is_between_messages()
            && self.protocol.can_write()
    }

    /// The protocol object for what is next, and what it takes for its stream.
    pub(crate) fn split<'a>(
        &'a mut self,
        output: &'a mut Option<Box<Output>>,
    ) -> (&'a mut WebSocketContext, Pipe<'a>) {
        let unread = &self.bytes[self.start..];
        (
            self.whole.as_mut().unwrap_or(&mut self.protocol),
            Pipe {
                unread,
                start: &mut self.start,
                watch: &mut self.watch,
                awaited: &mut self.awaited,
                output,
            },
        )
    }

    /// [Drains](Self::drain) it if all that was read is decoded, so that tungstenite need not be
    /// asked; says whether that is so.
    pub(crate) fn drain_if_done(&mut self) -> bool {
        let is_done = self.start == self.bytes.len() && self.watch.is_all_read();
        if is_done {
            self.drain();
        }
        is_done
    }

    /// There is nothing more to decode until more is read: the scratch buffer goes back to the thread.
    pub(crate) fn drain(&mut self) {
        self.drained = true;
        if self.bytes.capacity() == READ_AHEAD {
            give_scratch(mem::take(&mut self.bytes));
            self.start = 0;
        }
    }

    /// It goes back even if the handler has not come to all of it.
    pub(crate) fn keep_only_the_rest(&mut self) {
        if self.bytes.capacity() == READ_AHEAD {
            let rest = self.bytes[self.start..].to_vec();
            self.start = 0;
            give_scratch(mem::replace(&mut self.bytes, rest));
        }
    }
}

/// This thread's buffer for reading, or a new one if another connection keeps it; empty.
pub(crate) fn take_scratch() -> Vec<u8> {
    let bytes = BYTES.take();
    if bytes.capacity() == 0 { Vec::with_capacity(READ_AHEAD) } else { bytes }
}

pub(crate) fn give_scratch(mut bytes: Vec<u8>) {
    bytes.clear();
    BYTES.set(bytes);
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;
    use tokio_tungstenite::tungstenite;

    use super::*;

    fn read(input: &mut Input) -> Option<tungstenite::Message> {
        let mut output = None;
        if !input.is_ready(None) {
            return None;
        }
        let (protocol, mut pipe) = input.split(&mut output);
        let message = protocol.read(&mut pipe).ok()?;
        input.has_decoded();
        Some(message)
    }

    /// A masked frame, with a key of zeros.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u64).to_be_bytes();
        [&[first, 0xff][..], &length, &[0; 4], payload].concat()
    }

    fn is_message(message: Option<tungstenite::Message>, payload: &[u8]) -> bool {
        message.is_some_and(|message| message.is_binary() && message.into_data() == payload)
    }

    #[test]
    fn after_the_last_message_nothing_is_left_to_ask_for() {
        let mut input = Input::lend(&Config::default());
        let two_empty_messages = [0x82, 0x80, 0, 0, 0, 0, 0x82, 0x80, 0, 0, 0, 0];
        input.fill(two_empty_messages.to_vec());
        assert!(read(&mut input).is_some());
        assert!(!input.drain_if_done());
        assert!(read(&mut input).is_some());
        assert!(!input.is_between_messages());
        assert!(input.drain_if_done());
        assert!(input.is_between_messages());
    }

    #[test]
    fn the_rest_of_a_large_message_has_a_place_of_its_own() {
        let mut input = Input::lend(&Config::default());
        let payload: Vec<u8> = (0..=250).cycle().take(100_000).collect();
        let large = frame(0x82, &payload);
        let (begun, rest) = large.split_at(50_000);
        input.fill(begun.to_vec());
        assert!(read(&mut input).is_none());
        for part in rest.chunks(30_000) {
            assert!(!input.is_between_messages() && !input.drain_if_done());
            assert!(read(&mut input).is_none());
            input.rest_of_large(part.len()).unwrap().put(part);
            input.has_read_large();
        }
        assert!(!input.is_between_messages() && !input.drain_if_done());
        assert!(is_message(read(&mut input), &payload));
        assert!(input.drain_if_done() && input.is_between_messages());
        assert!(input.large.is_none());
    }

    #[test]
    fn a_buffer_with_one_large_message_and_no_more_stays_with_it() {
        let payload = vec![7; READ_AHEAD / 3];
        let mut input = Input::lend(&Config::default());
        for is_alone in [true, false] {
            let mut scratch = take_scratch();
            scratch.extend(frame(0x82, &payload));
            if !is_alone {
                scratch.extend(frame(0x82, b"another"));
            }
            let place = scratch.as_ptr_range();
            input.fill(scratch);
            let message = read(&mut input).unwrap().into_data();
            assert_eq!(place.contains(&message.as_ptr()), is_alone);
            assert_eq!(message, payload);
        }
        assert!(is_message(read(&mut input), b"another"));
        assert!(input.drain_if_done());
        let mut scratch = take_scratch();
        scratch.extend(frame(0x82, &payload));
        input.fill(scratch);
        assert!(input.is_ready(Some(&Output::default())));
        assert_eq!(input.bytes.capacity(), READ_AHEAD, "while a reply waits");
    }

    #[test]
    fn large_frames_of_a_fragmented_message_stay_in_order() {
        let part = [vec![1; 5_000], vec![2; 5_000], vec![3; 5_000]];
        let mut input = Input::lend(&Config::default());
        let begin = [frame(0x02, &part[0]), frame(0x00, &part[1])].concat();
        input.fill([begin, frame(0x80, &part[2]), frame(0x82, &part[0])].concat());
        assert!(is_message(read(&mut input), &part.concat()));
        assert!(is_message(read(&mut input), &part[0]));
        assert!(input.drain_if_done());
    }

    #[test]
    fn a_large_message_is_judged_like_any_other() {
        let not_text = frame(0x81, &[0xff; 5_000]);
        let mut input = Input::lend(&Config::default());
        input.fill(not_text);
        assert!(input.is_ready(None));
        let mut output = None;
        let (protocol, mut pipe) = input.split(&mut output);
        assert!(matches!(protocol.read(&mut pipe), Err(tungstenite::Error::Utf8(_))));
    }

    #[test]
    fn behind_our_close_frame_a_large_message_gets_no_place() {
        let mut input = Input::lend(&Config::default());
        let mut output = None;
        let (protocol, mut pipe) = input.split(&mut output);
        protocol.close(&mut pipe, None).unwrap();
        input.fill(frame(0x82, &[0; 5_000])[..4_000].to_vec());
        assert!(read(&mut input).is_none());
        assert!(input.large.is_none());
    }

    #[test]
    fn of_a_large_message_that_is_half_read_when_we_close_no_more_is_read_at_a_time() {
        let mut input = Input::lend(&Config::default());
        input.fill(frame(0x82, &vec![0; 4 * READ_AHEAD])[..1_000].to_vec());
        assert!(read(&mut input).is_none());
        let rest = |input: &mut Input| input.rest_of_large(usize::MAX).unwrap().remaining_mut();
        assert_eq!(rest(&mut input), 14 + 4 * READ_AHEAD - 1_000);
        let mut output = None;
        let (protocol, mut pipe) = input.split(&mut output);
        protocol.close(&mut pipe, None).unwrap();
        assert_eq!(rest(&mut input), READ_AHEAD);
    }

    /// Behind a small message, as much as the buffer holds is not all of a large one.
    #[test]
    fn a_large_message_that_begins_in_the_middle_of_a_buffer_is_waited_for() {
        let (first, payload) = (frame(0x82, &[1; 5_000]), vec![2; 20_000]);
        let large = frame(0x82, &payload);
        let begun = &large[..large.len() - first.len()];
        let mut input = Input::lend(&Config::default());
        let mut scratch = take_scratch();
        scratch.extend([&first, begun].concat());
        assert_eq!(scratch.len(), large.len());
        input.fill(scratch);
        assert!(is_message(read(&mut input), &[1; 5_000]));
        assert!(read(&mut input).is_none());
        input.rest_of_large(usize::MAX).unwrap().put(&large[begun.len()..]);
        input.has_read_large();
        assert!(is_message(read(&mut input), &payload));
    }
}
