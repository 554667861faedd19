//! The byte stream under tungstenite.
//!
//! tungstenite reads and judges what comes in and answers pings and closes; it works on bytes
//! that we hand it and never sees the socket.

use std::{
    collections::VecDeque,
    io, mem,
    task::{Context, Poll, ready},
};

use bytes::BufMut;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::{self, Utf8Bytes, error::ProtocolError, protocol::CloseFrame};

use crate::{
    about::About,
    close::CloseReason,
    config::Config,
    frame::{Delivery, Message},
    inflow::Inflow,
    input::{Input, READ_AHEAD, give_scratch, take_scratch},
    output::Output,
    socket::Socket,
    watch::{FrameWatch, Violation},
};

/// One socket after its opening handshake.
pub(crate) struct Wire {
    socket: Socket,
    /// Present while read bytes wait to be decoded, a message is half read, or the connection
    /// is closing.
    input: Option<Box<Input>>,
    /// Present while something waits to be written.
    output: Option<Box<Output>>,
    /// Present where the rate of bytes is limited.
    inflow: Option<Box<Inflow>>,
    /// Bytes that came since [`Wire::take_read`].
    read: usize,
}

/// A control frame that came in.
#[derive(Debug)]
pub(crate) enum Control {
    /// It is answered already.
    Ping,
    Pong,
    /// The peer's close frame, which is answered already.
    Close(Option<CloseFrame>),
}

impl Wire {
    /// `early` is what came behind the request head.
    pub(crate) fn new(socket: Socket, early: Vec<u8>, config: &Config) -> Self {
        let input = (!early.is_empty()).then(|| {
            let mut input = Input::lend(config);
            input.fill(early);
            input
        });
        Self { socket, input, output: None, inflow: Inflow::new(config), read: 0 }
    }

    /// The next control frame that the peer sent, or `None` for a message, which is thrown away.
    /// Cancel safe: what was read stays here.
    pub(crate) fn poll_control(
        &mut self,
        cx: &mut Context<'_>,
        config: &Config,
        about: &About,
    ) -> Poll<Result<Option<Control>, CloseReason>> {
        let mut messages = VecDeque::new();
        loop {
            let control = self.decode(&mut messages, 1)?;
            if control.is_some() || !messages.is_empty() {
                return Poll::Ready(Ok(control));
            }
            ready!(self.poll_read(cx, config, about))?;
        }
    }

    /// Reads from the socket; all that was read before is decoded. Where the rate of bytes is
    /// limited, nobody wakes the task but [`Wire::resumes_at`].
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        config: &Config,
        about: &About,
    ) -> Poll<Result<(), CloseReason>> {
        let room = self.inflow.as_mut().map_or(Ok(usize::MAX), |inflow| inflow.room())?;
        if room == 0 {
            return Poll::Pending;
        }
        let count = match self.input.as_mut().and_then(|input| input.rest_of_large(room)) {
            Some(rest) => self.socket.poll_read_buf(cx, rest),
            None => self.poll_read_ahead(cx, room, config),
        };
        let count = ready!(count).map_err(|error| CloseReason::Lost(error.kind()))?;
        if count == 0 {
            return Poll::Ready(Err(CloseReason::Lost(io::ErrorKind::UnexpectedEof)));
        }
        if let Some(input) = &mut self.input {
            input.has_read_large();
        }
        self.read += count;
        about.count_bytes_in(count);
        if let Some(inflow) = &mut self.inflow {
            inflow.take(count);
        }
        Poll::Ready(Ok(()))
    }

    /// Reads into the thread's buffer.
    fn poll_read_ahead(
        &mut self,
        cx: &mut Context<'_>,
        room: usize,
        config: &Config,
    ) -> Poll<io::Result<usize>> {
        if self.input.as_mut().is_some_and(|input| mem::take(&mut input.had_room)) {
            ready!(self.socket.poll_readable(cx))?;
        }
        let mut bytes = take_scratch();
        let room = room.min(READ_AHEAD);
        let read = self.socket.poll_read_buf(cx, (&mut bytes).limit(room));
        if let Poll::Ready(Ok(count @ 1..)) = read {
            let input = self.input.get_or_insert_with(|| Input::lend(config));
            input.fill(bytes);
            input.had_room = count < room;
        } else {
            give_scratch(bytes);
        }
        read
    }

    /// Whether there is something that was read and not decoded, as far as a glance can tell.
    pub(crate) fn may_hold_messages(&self) -> bool {
        self.input.as_ref().is_some_and(|input| !input.is_drained())
    }

    /// Decodes what was read already: a control frame, or up to `most` messages that tungstenite
    /// holds one behind the other; neither when more has to be read. What is wrong behind messages
    /// is told by the next call.
    pub(crate) fn decode(
        &mut self,
        messages: &mut VecDeque<Message>,
        most: usize,
    ) -> Result<Option<Control>, CloseReason> {
        let Some(input) = &mut self.input else { return Ok(None) };
        if let Some(verdict) = input.take_verdict() {
            return Err(verdict);
        }
        if !input.is_ready(self.output.as_deref()) {
            return Ok(None);
        }
        loop {
            let (protocol, mut pipe) = input.split(&mut self.output);
            let message = match protocol.read(&mut pipe) {
                Ok(message) => message,
                Err(error) => {
                    let Some(verdict) = verdict(error, input) else { return Ok(None) };
                    if messages.is_empty() {
                        return Err(verdict);
                    }
                    input.put_off(verdict);
                    return Ok(None);
                }
            };
            input.has_decoded();
            messages.push_back(match message {
                tungstenite::Message::Text(text) => Message::Text(text),
                tungstenite::Message::Binary(bytes) => Message::Binary(bytes),
                control => return Ok(Some(self.take_in(control))),
            });
            if messages.len() == most || !input.watch.holds_message() {
                input.drain_if_done();
                return Ok(None);
            }
        }
    }

    #[cold]
    fn take_in(&mut self, control: tungstenite::Message) -> Control {
        if let Some(input) = &mut self.input {
            input.watch.has_read_control_frame();
        }
        match control {
            tungstenite::Message::Close(frame) => {
                self.answer();
                Control::Close(frame)
            }
            tungstenite::Message::Pong(_) => Control::Pong,
            // A raw frame is only ever sent, never received; a message is none of these.
            _ => {
                self.answer();
                Control::Ping
            }
        }
    }

    /// Puts tungstenite's answer to a ping or a close frame into the output.
    fn answer(&mut self) {
        if let Some(input) = &mut self.input {
            let (protocol, mut pipe) = input.split(&mut self.output);
            // It says `ConnectionClosed` once the answer to a close is written, as it should.
            let _ = protocol.flush(&mut pipe);
        }
    }

    /// Puts our close frame behind what waits; nothing can be sent after it.
    pub(crate) fn close(&mut self, code: u16, text: &str, config: &Config) {
        let input = self.input.get_or_insert_with(|| Input::lend(config));
        let frame = CloseFrame { code: code.into(), reason: Utf8Bytes::from(text) };
        let (protocol, mut pipe) = input.split(&mut self.output);
        // It cannot fail: the pipe takes everything, and a second close is ignored.
        let _ = protocol.close(&mut pipe, Some(frame));
    }

    /// Puts a ping behind what waits.
    pub(crate) fn ping(&mut self) {
        const EMPTY_PING: [u8; 2] = [0x89, 0];
        self.output().push_with(|own| own.extend_from_slice(&EMPTY_PING));
    }

    /// Puts a delivery behind what waits.
    pub(crate) fn push_delivery(&mut self, delivery: Delivery) {
        self.output().push_delivery(delivery);
    }

    /// Throws away the deliveries that are not on their way yet; returns how many that were.
    pub(crate) fn drop_deliveries(&mut self) -> u64 {
        self.output.as_mut().map_or(0, |output| output.drop_deliveries())
    }

    /// Throws away everything; returns how many deliveries that were.
    pub(crate) fn drop_all(&mut self) -> u64 {
        self.output.as_mut().map_or(0, |output| output.drop_all())
    }

    /// Bytes of our own replies that wait to be written.
    pub(crate) fn replies(&self) -> usize {
        self.output.as_ref().map_or(0, |output| output.replies())
    }

    /// What the deliveries written or dropped since the last call weighed.
    pub(crate) fn take_released(&mut self) -> usize {
        self.output.as_mut().map_or(0, |output| output.take_released())
    }

    /// Writes what waits, and adds to `written` how many bytes of it the peer took.
    pub(crate) fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        written: &mut usize,
    ) -> Poll<io::Result<()>> {
        let Some(output) = &mut self.output else { return Poll::Ready(Ok(())) };
        output.poll_write(cx, &mut self.socket, written)
    }

    /// See [`Output::try_write`].
    pub(crate) fn try_write(&mut self) -> usize {
        self.output.as_mut().map_or(0, |output| output.try_write(&self.socket))
    }

    /// Gives back what belongs to the thread, before the task waits. What cannot be given back
    /// is cut to the size of what it holds.
    pub(crate) fn park(&mut self) {
        if let Some(output) = self.output.take_if(|output| output.is_lendable()) {
            output.give_back();
        }
        if let Some(input) = &mut self.input
            && !input.drain_if_done()
        {
            input.keep_only_the_rest();
        }
        if let Some(input) = self.input.take_if(|input| input.is_between_messages()) {
            input.give_back();
        }
    }

    /// The number of the message that has begun and not ended, if one has.
    pub(crate) fn half_read_message(&self) -> Option<u32> {
        let watch = self.input.as_ref().map(|input| &input.watch);
        watch.filter(|watch| !watch.is_between_messages()).map(FrameWatch::message)
    }

    /// What the message that has begun takes: tungstenite makes room for all that a header
    /// announces as soon as it has come.
    pub(crate) fn held(&self) -> usize {
        let announced = self.input.as_ref().map_or(0, |input| input.watch.announced());
        usize::try_from(announced).unwrap_or(usize::MAX)
    }

    /// When more may be read, where the rate of bytes has stopped the reading.
    pub(crate) fn resumes_at(&self) -> Option<Instant> {
        self.inflow.as_ref()?.resumes_at()
    }

    /// More may be read now.
    pub(crate) fn resume(&mut self) {
        if let Some(inflow) = &mut self.inflow {
            inflow.resume();
        }
    }

    /// Reads as fast as it comes from now on.
    pub(crate) fn read_freely(&mut self) {
        self.inflow = None;
    }

    /// How many bytes came since the last call.
    pub(crate) fn take_read(&mut self) -> usize {
        mem::take(&mut self.read)
    }

    /// Control frames that came since the last call.
    pub(crate) fn take_control_frames(&mut self) -> u32 {
        self.input.as_mut().map_or(0, |input| input.watch.take_control_frames())
    }

    /// Reads and forgets, until the peer closes its side. Returns how much it was.
    pub(crate) fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut bytes = take_scratch();
        let read = self.socket.poll_read_buf(cx, &mut bytes);
        give_scratch(bytes);
        read
    }

    /// Says that nothing more will be written.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_shutdown(cx)
    }

    /// See [`Socket::reset_on_close`].
    pub(crate) fn reset_on_close(&self) {
        self.socket.reset_on_close();
    }

    /// Lends what waits to be written.
    #[expect(clippy::unnecessary_box_returns, reason = "the box is what is lent")]
    pub(crate) fn lend_output(&mut self) -> Box<Output> {
        self.output.take().unwrap_or_else(Output::lend)
    }

    /// Takes it back. What has come to wait since then stands behind it.
    pub(crate) fn take_back_output(&mut self, mut output: Box<Output>) {
        if let Some(mut later) = self.output.take() {
            output.append(&mut later);
            later.give_back();
        }
        if output.is_lendable() {
            output.give_back();
        } else {
            self.output = Some(output);
        }
    }

    /// What is put there is written behind what waits.
    pub(crate) fn output(&mut self) -> &mut Output {
        self.output.get_or_insert_with(Output::lend)
    }
}

impl From<Violation> for CloseReason {
    fn from(violation: Violation) -> Self {
        match violation {
            Violation::TooManyFragments => Self::Policy("too many fragments"),
            Violation::TooBig => Self::TooBig,
            Violation::Header(rule) => Self::Protocol(rule.to_owned()),
        }
    }
}

/// `None` if all there is to say is that more has to be read.
#[cold]
fn verdict(error: tungstenite::Error, input: &mut Input) -> Option<CloseReason> {
    input.forget_whole();
    if !matches!(&error, tungstenite::Error::Io(io) if io.kind() == io::ErrorKind::WouldBlock) {
        return Some(reason_of(error));
    }
    // All that stands before a violation is judged before it.
    let violation = input.watch.take_violation();
    if violation.is_none() {
        input.drain();
    }
    violation.map(CloseReason::from)
}

/// What the peer is told of tungstenite's verdict (RFC 6455 section 7.4.1).
fn reason_of(error: tungstenite::Error) -> CloseReason {
    match error {
        tungstenite::Error::Utf8(_) => CloseReason::InvalidUtf8,
        tungstenite::Error::Capacity(_) => CloseReason::TooBig,
        tungstenite::Error::Protocol(ProtocolError::ReceivedAfterClosing) => {
            CloseReason::Lost(io::ErrorKind::ConnectionAborted)
        }
        tungstenite::Error::Protocol(error) => CloseReason::Protocol(error.to_string()),
        tungstenite::Error::Io(error) => CloseReason::Lost(error.kind()),
        other => CloseReason::Protocol(other.to_string()),
    }
}
