//! What a handler reads, and what keeps it from reading: its own unread replies, and the limits.

use std::task::{Context, Poll};

use super::{Ahead, HIGH_WATER, Io, Phase, ahead::MOST};
use crate::{close::CloseReason, wire::Control};

impl Io {
    /// Ready once there are messages, or the connection is closing.
    pub(crate) fn poll_recv(&mut self, cx: &mut Context<'_>, ahead: &mut Ahead) -> Poll<()> {
        loop {
            if self.wire.may_hold_messages() {
                self.try_recv(ahead);
            }
            if !ahead.is_empty() || self.phase != Phase::Open {
                return Poll::Ready(());
            }
            if self.poll_read(cx).is_pending() {
                return self.wait(cx);
            }
        }
    }

    /// Decodes messages of what has been read already, if there are any. The handler has had all
    /// that were decoded before.
    pub(crate) fn try_recv(&mut self, ahead: &mut Ahead) {
        let most = if self.config.messages_per_second > 0 { 1 } else { MOST };
        while self.phase == Phase::Open && self.wire.replies() <= HIGH_WATER {
            match self.wire.decode(&mut ahead.messages, most) {
                Ok(None) => break,
                Ok(Some(control)) => self.take_in(control),
                Err(reason) => self.begin_close(reason),
            }
        }
        if !ahead.is_empty() {
            self.count_in(ahead);
        }
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
    fn take_in(&mut self, control: Control) {
        self.limit_control_frames();
        match control {
            Control::Close(frame) => {
                let frame =
                    frame.map(|frame| (frame.code.into(), frame.reason.as_str().to_owned()));
                let (code, reason) = frame.unwrap_or((1005, String::new()));
                self.begin_close(CloseReason::Peer { code, reason });
            }
            Control::Pong => {
                if let Some(at) = self.pinged_at.take() {
                    self.registration.peer.about.set_round_trip(at.elapsed());
                }
            }
            Control::Ping => {}
        }
    }

    /// Counts messages. Where their rate is limited it is one, and if that is one too many, the
    /// connection is closed.
    fn count_in(&mut self, ahead: &mut Ahead) {
        self.registration.peer.about.count_in(ahead.messages.len());
        let rate = self.config.messages_per_second;
        if rate > 0 && !self.messages.take(1, rate, rate) {
            ahead.messages.clear();
            self.begin_close(CloseReason::Policy("too many messages"));
        }
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
