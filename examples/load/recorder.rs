//! What one thread counts and times.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::run::{Shared, Stage};

/// Latencies up to a minute, to three digits, in nanoseconds.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3)
        .unwrap_or_else(|_| unreachable!("the bounds are valid"))
}

/// Counts and times for one thread; others see the count once per turn of its loop.
#[derive(Debug)]
pub(crate) struct Recorder {
    pub(crate) latency: Histogram<u64>,
    /// The stage as of this turn of the loop.
    pub(crate) stage: Stage,
    /// When measuring began, for this thread.
    pub(crate) since: Option<Instant>,
    /// When draining began, for this thread.
    pub(crate) drained_since: Option<Instant>,
    pub(crate) shared: Arc<Shared>,
    thread: usize,
    count: u64,
}

impl Recorder {
    pub(crate) fn new(shared: &Arc<Shared>, thread: usize) -> Self {
        Self {
            latency: histogram(),
            stage: Stage::Opening,
            since: None,
            drained_since: None,
            shared: Arc::clone(shared),
            thread,
            count: 0,
        }
    }

    /// To be called once per turn: tells the others the count and learns the stage.
    #[inline]
    pub(crate) fn turn(&mut self) -> Stage {
        self.shared.counts[self.thread].store(self.count, Ordering::Relaxed);
        let stage = self.shared.stage();
        if stage != self.stage {
            self.stage = stage;
            match stage {
                Stage::Measure => self.since = Some(Instant::now()),
                Stage::Drain => self.drained_since = Some(Instant::now()),
                _ => {}
            }
        }
        stage
    }

    /// Whether messages are to be sent.
    #[inline]
    pub(crate) fn is_running(&self) -> bool {
        matches!(self.stage, Stage::WarmUp | Stage::Measure)
    }

    /// Whether draining has lasted longer than this.
    pub(crate) fn has_drained_for(&self, patience: Duration) -> bool {
        self.drained_since.is_some_and(|since| since.elapsed() > patience)
    }

    /// A connection is ready.
    pub(crate) fn ready(&self) {
        self.shared.ready.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a message, and its latency if it was sent (or due) while measuring, whenever it came: the slowest come last.
    #[inline]
    pub(crate) fn record(&mut self, sent: Instant, now: Instant) {
        self.count += 1;
        if self.since.is_some_and(|since| sent >= since) {
            self.time(now.saturating_duration_since(sent));
        }
    }

    /// A latency at any stage.
    pub(crate) fn time(&mut self, latency: Duration) {
        self.latency.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }
}
