//! What an accept loop does when it cannot accept: wait, longer each time, and say so seldom.

use std::{fs::File, io, time::Duration};

use tokio::time::{Instant, sleep, timeout};

use crate::listener::Listener;

/// What the accept loop does when it cannot accept.
pub(crate) struct Pause {
    length: Duration,
    logged_at: Option<Instant>,
    /// One open file to give up when there are no more: with it, whoever waits can be told no
    /// instead of being left to wait.
    spare: Option<File>,
}

impl Pause {
    const FIRST: Duration = Duration::from_millis(10);
    const LONGEST: Duration = Duration::from_secs(1);
    const LOG_INTERVAL: Duration = Duration::from_mins(1);

    pub(crate) fn new() -> Self {
        Self { length: Duration::ZERO, logged_at: None, spare: File::open("/dev/null").ok() }
    }

    /// It could again.
    pub(crate) fn reset(&mut self) {
        self.length = Duration::ZERO;
    }

    /// A connection that was lost while it waited is no reason to wait. For anything else, out of
    /// files above all, trying on at once would cost a whole core.
    pub(crate) async fn after(&mut self, error: &io::Error, listener: &Listener) {
        use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
        if matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
            return;
        }
        if self.logged_at.is_none_or(|at| at.elapsed() >= Self::LOG_INTERVAL) {
            log::error!("cannot accept connections: {error}");
            self.logged_at = Some(Instant::now());
        }
        if self.spare.take().is_some() {
            // Closed as soon as it is accepted: its peer learns at once that this is no time.
            drop(timeout(Self::FIRST, listener.accept()).await);
            self.spare = File::open("/dev/null").ok();
        }
        self.length = (self.length * 2).clamp(Self::FIRST, Self::LONGEST);
        sleep(self.length).await;
    }
}
