//! Whether an engine carries anything: what a node sends to itself has to come back.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

/// Probes come back every second. When none has for so long, nothing else has come either.
const BREAK: Duration = Duration::from_secs(2);

/// How the engine is.
#[derive(Debug)]
pub(super) struct Health {
    grace: Duration,
    probes: Mutex<Probes>,
    /// Somebody here may have missed something, and was not told.
    gap: AtomicBool,
}

#[derive(Debug, Default)]
struct Probes {
    /// Those that have not come back, in order.
    under_way: VecDeque<(u64, Instant)>,
    returned_at: Option<Instant>,
    /// The first one that came back after a break.
    steady_since: Option<Instant>,
}

impl Health {
    pub(super) fn new(grace: Duration) -> Self {
        Self { grace, probes: Mutex::default(), gap: AtomicBool::new(false) }
    }

    pub(super) fn grace(&self) -> Duration {
        self.grace
    }

    /// A probe is on its way.
    pub(super) fn probe(&self, id: u64, now: Instant) {
        self.lock().under_way.push_back((id, now));
    }

    /// A probe has come back: how long it took, if it is one of this connection.
    pub(super) fn returned(&self, id: u64, now: Instant) -> Option<Duration> {
        let mut probes = self.lock();
        let place = probes.under_way.iter().position(|(probe, _)| *probe == id)?;
        let (_, sent_at) = probes.under_way.drain(..=place).next_back()?;
        let before = probes.returned_at.replace(now);
        if before.is_none_or(|before| now.duration_since(before) > BREAK) {
            probes.steady_since = Some(now);
        }
        if before.is_some_and(|before| now.duration_since(before) > self.grace) {
            // It was not lost, but for as long as this nobody could know.
            self.miss();
        }
        Some(now.duration_since(sent_at))
    }

    /// The connection is lost: its probes will not come back.
    pub(super) fn lose(&self) {
        self.lock().under_way.clear();
        self.miss();
    }

    /// Whether the oldest probe should have come back long ago.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        let oldest = self.lock().under_way.front().map(|(_, sent_at)| *sent_at);
        oldest.is_some_and(|sent_at| now.duration_since(sent_at) >= self.grace)
    }

    /// Whether a probe has come back a short while ago.
    pub(super) fn is_ready(&self, now: Instant) -> bool {
        let returned_at = self.lock().returned_at;
        returned_at.is_some_and(|at| now.duration_since(at) <= self.grace)
    }

    /// Since when probes come back one after another; `None` while they do not.
    pub(super) fn steady_since(&self, now: Instant) -> Option<Instant> {
        let probes = self.lock();
        probes.returned_at.filter(|at| now.duration_since(*at) <= BREAK)?;
        probes.steady_since
    }

    /// Somebody here may miss something from now on.
    pub(super) fn miss(&self) {
        self.gap.store(true, Relaxed);
    }

    /// Whether somebody may have missed something since this was asked last.
    pub(super) fn take_gap(&self) -> bool {
        self.gap.swap(false, Relaxed)
    }

    /// Survives a panic under the lock: what is there is whole between any two lines.
    fn lock(&self) -> MutexGuard<'_, Probes> {
        self.probes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn it_is_ready_while_probes_come_back() {
        let (health, start) = (Health::new(GRACE), Instant::now());
        assert!(!health.is_ready(start), "nothing has come back yet");
        health.probe(1, start);
        let later = start + Duration::from_millis(3);
        assert_eq!(health.returned(1, later), Some(Duration::from_millis(3)));
        assert_eq!(health.returned(1, later), None, "twice");
        assert!(health.is_ready(later + GRACE));
        let late = later + GRACE + Duration::from_millis(1);
        assert!(!health.is_ready(late) && !health.take_gap());
        health.probe(2, late);
        assert!(health.returned(2, late).is_some());
        assert!(health.is_ready(late) && health.take_gap());
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_steady_since_the_last_break() {
        let (health, start) = (Health::new(GRACE), Instant::now());
        assert_eq!(health.steady_since(start), None, "nothing has come back yet");
        let come_back = |id, now| {
            health.probe(id, now);
            assert!(health.returned(id, now).is_some());
        };
        come_back(1, start);
        come_back(2, start + BREAK);
        assert_eq!(health.steady_since(start + BREAK * 2), Some(start));
        let late = start + BREAK * 2 + Duration::from_millis(1);
        assert_eq!(health.steady_since(late), None);
        come_back(3, late);
        assert_eq!(health.steady_since(late), Some(late));
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_does_not_come_back_is_overdue() {
        let (health, start) = (Health::new(GRACE), Instant::now());
        assert!(!health.is_overdue(start + GRACE), "nothing is under way");
        health.probe(1, start);
        health.probe(2, start + GRACE / 2);
        assert!(health.is_overdue(start + GRACE));
        health.returned(1, start + GRACE);
        assert!(!health.is_overdue(start + GRACE));
        health.lose();
        assert!(!health.is_overdue(start + GRACE * 2), "it was of another connection");
        assert!(health.take_gap() && !health.take_gap());
    }
}
