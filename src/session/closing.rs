//! The closing handshake, in both directions (RFC 6455 section 7).

use std::{
    io,
    task::{Context, Poll},
};

use tokio::time::Instant;

use super::{Io, Phase};
use crate::{close::CloseReason, frame::Form, protocol, wire::Control};

/// What is read and thrown away after our close frame, before the connection is reset.
const MAX_DISCARDED: usize = 64 << 10;

impl Io {
    /// The connection begins to end, for this reason, unless it has begun already.
    #[cold]
    pub(crate) fn begin_close(&mut self, reason: CloseReason) {
        if self.phase != Phase::Open {
            return;
        }
        self.registration.peer.set_closing();
        self.phase = match &reason {
            CloseReason::Lost(_) => Phase::Over,
            // Our close frame is in the output already: nothing may follow it.
            CloseReason::Peer { .. } => Phase::Finishing,
            ours => {
                self.take_queue(None);
                if ours.drops_queue() {
                    self.registration.metrics().dropped.add(self.wire.drop_deliveries());
                }
                if self.registration.peer.form == Form::Envelope {
                    self.wire.output().push_text(&protocol::disconnected(&ours.text()));
                }
                self.wire.close(ours.code(), &ours.text(), &self.config);
                if ours.ends_reading() { Phase::Finishing } else { Phase::AwaitingClose }
            }
        };
        if reason.drops_queue() {
            self.closing_until = Some(Instant::now() + self.config.close_timeout);
        }
        // What is read from here on is what it sends behind our close frame.
        self.wire.take_read();
        self.wire.read_freely();
        self.reason = Some(reason);
        self.tasks = None;
        self.wake_handler();
        if let Some(task) = &self.task {
            task.wake_by_ref();
        }
    }

    /// The socket is of no more use.
    pub(super) fn lose(&mut self, kind: io::ErrorKind) {
        self.begin_close(CloseReason::Lost(kind));
        self.phase = Phase::Over;
    }

    /// Reads up to the peer's close frame; says whether that got any further.
    pub(super) fn poll_peer_close(&mut self, cx: &mut Context<'_>) -> bool {
        let next = self.wire.poll_control(cx, &self.config, &self.registration.peer.about);
        let read = self.wire.take_read();
        self.discard(read);
        if self.phase == Phase::Over {
            return true;
        }
        match next {
            Poll::Pending => return false,
            Poll::Ready(Ok(None | Some(Control::Ping | Control::Pong))) => {}
            Poll::Ready(Err(CloseReason::Lost(_))) => self.phase = Phase::Over,
            Poll::Ready(Ok(Some(Control::Close(_))) | Err(_)) => self.phase = Phase::Finishing,
        }
        true
    }

    /// Closes our side; says whether that is done.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> bool {
        let shutdown = self.wire.poll_shutdown(cx);
        match shutdown {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => self.phase = Phase::Lingering,
            Poll::Ready(Err(_)) => self.phase = Phase::Over,
        }
        shutdown.is_ready()
    }

    /// Reads up to the end of the peer's side; says whether that got any further.
    pub(super) fn poll_linger(&mut self, cx: &mut Context<'_>) -> bool {
        let read = self.wire.poll_discard(cx);
        match read {
            Poll::Pending => {}
            Poll::Ready(Ok(count @ 1..)) => self.discard(count),
            Poll::Ready(Ok(0) | Err(_)) => self.phase = Phase::Over,
        }
        read.is_ready()
    }

    /// Whoever sends on and on behind our close frame is not listened to for ever.
    fn discard(&mut self, count: usize) {
        self.discarded += count;
        if self.discarded > MAX_DISCARDED {
            self.wire.reset_on_close();
            self.phase = Phase::Over;
        }
    }

    /// The peer had its time. What the kernel still holds for it is thrown away too, unless we are
    /// the ones who leave: then it may still read that.
    pub(super) fn give_up(&mut self) {
        let written = self.closing_until.is_some();
        if !(written && matches!(self.reason, Some(CloseReason::Restart { .. }))) {
            self.wire.reset_on_close();
        }
        self.phase = Phase::Over;
    }
}
