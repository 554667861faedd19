//! What a handler reads, and what keeps it from reading: its own unread replies, and the limits.

use std::task::{Context, Poll};

use super::{HIGH_WATER, Io, Phase};
use crate::{close::CloseReason, frame::Message, wire::Inbound};

impl Io {
    /// The next message, or `None` once the connection is closing.
    pub(crate) fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        loop {
            let message = self.try_recv();
            if message.is_some() || self.phase != Phase::Open {
                return Poll::Ready(message);
            }
            if self.poll_read(cx).is_pending() {
                return self.wait(cx);
            }
        }
    }

    /// A message that has been read already.
    #[expect(clippy::inline_always, reason = "a call copies the message once more")]
    #[inline(always)]
    pub(crate) fn try_recv(&mut self) -> Option<Message> {
        while self.phase == Phase::Open && self.wire.replies() <= HIGH_WATER {
            match self.wire.decode() {
                Ok(Some(Inbound::Message(message))) => {
                    if self.is_within_rate() {
                        return Some(message);
                    }
                }
                Ok(Some(control)) => self.take_in(control),
                Ok(None) => return None,
                Err(reason) => self.begin_close(reason),
            }
        }
        None
    }

    /// Reads what has come, unless too much of what it was answered with is unwritten.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.listening = false;
        if self.wire.replies() > HIGH_WATER {
            return Poll::Pending;
        }
        let read = self.wire.poll_read(cx, &self.config, &self.registration.peer.about);
        self.listening = read.is_pending() && self.wire.resumes_at().is_none();
        read.map(|read| read.unwrap_or_else(|reason| self.begin_close(reason)))
    }

    /// Ready when there is room for one more reply, or `Err` once the connection is closing.
    pub(crate) fn poll_room(&mut self, cx: &Context<'_>) -> Poll<Result<(), ()>> {
        if self.phase != Phase::Open {
            Poll::Ready(Err(()))
        } else if self.wire.replies() > HIGH_WATER {
            self.listening = false;
            self.wait(cx)
        } else {
            Poll::Ready(Ok(()))
        }
    }

    #[cold]
    fn take_in(&mut self, control: Inbound) {
        self.limit_control_frames();
        match control {
            Inbound::Close(frame) => {
                let frame =
                    frame.map(|frame| (frame.code.into(), frame.reason.as_str().to_owned()));
                let (code, reason) = frame.unwrap_or((1005, String::new()));
                self.begin_close(CloseReason::Peer { code, reason });
            }
            Inbound::Pong => {
                if let Some(at) = self.pinged_at.take() {
                    self.registration.peer.about.set_round_trip(at.elapsed());
                }
            }
            Inbound::Ping | Inbound::Message(_) => {}
        }
    }

    /// Counts one message; closes the connection if that is one too many.
    fn is_within_rate(&mut self) -> bool {
        self.registration.peer.about.count_in();
        let rate = self.config.messages_per_second;
        let within = rate == 0 || self.messages.take(1, rate, rate);
        if !within {
            self.begin_close(CloseReason::Policy("too many messages"));
        }
        within
    }

    /// A message that has begun counts against the budget of the process until it is whole.
    pub(super) fn count_held(&mut self) {
        let held = if self.phase == Phase::Open { self.wire.held() } else { 0 };
        if held != self.held {
            self.held = held;
            self.registration.hold(held);
        }
    }

    fn limit_control_frames(&mut self) {
        let count = self.wire.take_control_frames();
        let rate = self.config.control_frames_per_second;
        let burst = self.config.control_frames_burst;
        if count > 0 && !self.control_frames.take(count, rate, burst) {
            self.begin_close(CloseReason::Policy("too many control frames"));
        }
    }
}
