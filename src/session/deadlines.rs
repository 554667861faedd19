//! One timer for everything that a connection waits for.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use tokio::{
    task::coop::unconstrained,
    time::{Instant, Sleep},
};

use super::{Io, Phase};
use crate::{close::CloseReason, config::Config};

/// Later than any deadline.
const NEVER: Duration = Duration::from_hours(24 * 365 * 10);

impl Io {
    /// Sees to it that the task wakes up at the next deadline; says whether one has passed. The
    /// timer, which stands elsewhere in memory, is looked at only if it matters.
    pub(super) fn poll_timer(&mut self, timer: Pin<&mut Sleep>) -> bool {
        let message = self.wire.half_read_message().filter(|_| self.listening);
        if message != self.half_read.map(|(_, message)| message) {
            self.half_read = message.map(|message| (Instant::now(), message));
        }
        let is_set = self.timer_knows_us && !self.has_new_deadline();
        (self.registration.peer.take_alarm() || !is_set) && self.look_at(timer)
    }

    /// Whether there may be a deadline that the timer has not been told of.
    fn has_new_deadline(&self) -> bool {
        self.phase != Phase::Open
            || self.half_read.is_some()
            || self.stalled_since.is_some()
            || self.wire.resumes_at().is_some()
    }

    fn look_at(&mut self, mut timer: Pin<&mut Sleep>) -> bool {
        let passed = timer.is_elapsed();
        if passed {
            self.act(Instant::now());
        }
        let deadline = self.deadline();
        // A deadline that moved away is left for the timer to find out.
        if passed || deadline < timer.deadline() {
            timer.as_mut().reset(deadline);
            self.timer_knows_us = false;
        }
        if !self.timer_knows_us {
            let alarm = Waker::from(Arc::clone(&self.registration.peer));
            // A task that has used up its turn is told to wait by a timer that knows nothing of it.
            let timer = pin!(unconstrained(timer));
            self.timer_knows_us = timer.poll(&mut Context::from_waker(&alarm)).is_pending();
        }
        passed || !self.timer_knows_us
    }

    fn deadline(&self) -> Instant {
        let stalled = self.stalled_since.map(|since| since + self.config.send_timeout);
        if self.phase != Phase::Open {
            return self.closing_until.or(stalled).unwrap_or(self.keepalive_at);
        }
        let half_read = self.half_read.map(|(since, _)| since + self.config.message_timeout);
        let unanswered = self.pinged_at.map(|since| since + self.config.ping_timeout);
        let paused = self.wire.resumes_at();
        let all = half_read.into_iter().chain(stalled).chain(unanswered).chain(self.expires_at);
        let all = all.chain(paused);
        all.fold(self.keepalive_at, Instant::min)
    }

    /// Does what is due.
    fn act(&mut self, now: Instant) {
        let due = |since: Option<Instant>, wait| since.is_some_and(|since| since + wait <= now);
        let stalled = due(self.stalled_since, self.config.send_timeout) && !self.takes_some();
        if self.phase != Phase::Open {
            if due(self.closing_until, Duration::ZERO) || self.closing_until.is_none() && stalled {
                self.give_up();
            }
            self.keepalive_at = now + NEVER;
        } else if due(self.half_read.map(|(since, _)| since), self.config.message_timeout) {
            self.begin_close(CloseReason::Policy("the message took too long"));
        } else if stalled {
            self.registration.metrics().evicted.add(1);
            self.begin_close(CloseReason::SlowReader);
        } else if due(self.expires_at, Duration::ZERO) {
            self.begin_close(CloseReason::Policy("the token has expired"));
        } else if due(self.wire.resumes_at(), Duration::ZERO) {
            self.wire.resume();
            self.wake_handler();
        } else {
            self.keep_alive(now);
        }
    }

    /// Whether the peer takes some of what waits, after all: less than makes the socket say so.
    fn takes_some(&mut self) -> bool {
        let written = self.wire.try_write();
        self.has_written(written);
        written > 0
    }

    /// A handler that does not read leaves the pong unread too: then its absence says nothing.
    fn keep_alive(&mut self, now: Instant) {
        if self.wire.take_read() > 0 || !self.listening && self.pinged_at.is_some() {
            self.pinged_at = None;
        } else if self.pinged_at.is_some_and(|at| at + self.config.ping_timeout <= now) {
            return self.begin_close(CloseReason::PingTimeout);
        } else if self.pinged_at.is_none() && self.keepalive_at <= now {
            self.wire.ping();
            self.pinged_at = Some(now);
        }
        if self.keepalive_at <= now {
            self.keepalive_at = now + keepalive_tick(&self.config);
        }
    }
}

/// Twice in a `ping_interval` it is looked whether anything came: a connection that was silent
/// all that time is pinged, one that was not costs nothing and is not asked for the time.
pub(super) fn keepalive_tick(config: &Config) -> Duration {
    if config.ping_interval.is_zero() { NEVER } else { config.ping_interval / 2 }
}
