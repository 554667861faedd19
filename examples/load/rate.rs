//! Mode `rate`: messages at fixed times, whether or not the answers keep up.
//!
//! Latency counts from the moment at which a message was due. A server that stalls thus cannot hide the messages that
//! had to wait because of it (coordinated omission). Between two messages less than a millisecond apart the loop does not sleep.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::echo::{LOOK, drain, templates};
use crate::fault::Fault;
use crate::frame::Payload;
use crate::inbound::Piece;
use crate::ledger::Ledger;
use crate::opener::Opener;
use crate::options::{self, Common};
use crate::pool::Pool;
use crate::recorder::Recorder;
use crate::run::{Measured, Outcome, Stage, conduct};
use crate::session::{Mode, Session};
use crate::target::{Target, spread};

/// The loop sleeps to a millisecond, and looks for sockets without sleeping nearer than that.
const TICK: Duration = Duration::from_millis(1);

/// Runs the mode.
pub(crate) fn run(common: &Common, options: &options::Rate) -> Result<Outcome, Fault> {
    let messages = &options.messages;
    let target = Target::new(&messages.url, &common.header, common.remote)?;
    let target =
        Arc::new(target.with_sources(common.sources.unwrap_or(spread(messages.connections))));
    let payload = Payload::numbered(messages.size);
    conduct(common, messages.connections as usize, |thread, shared| {
        let pool = Pool::new(Arc::clone(&target), templates(messages, &payload))?;
        let opener = Opener::new(common, thread, messages.connections);
        let share = opener.share() as u64;
        let mode = Rate {
            recorder: Recorder::new(shared, thread),
            ledger: Ledger::new(payload.clone(), !messages.binary),
            opener,
            patience: common.patience,
            connections: share,
            per_second: f64::from(options.rate) * share_of(share, messages.connections),
            start: None,
            sent: 0,
        };
        Ok((pool, mode))
    })
}

#[allow(clippy::cast_precision_loss, reason = "a share of less than 2^52 connections")]
fn share_of(part: u64, whole: u32) -> f64 {
    part as f64 / f64::from(whole)
}

/// How long the loop may sleep where something is due after `wait`.
pub(crate) fn pause(wait: Duration) -> Duration {
    if wait < TICK { Duration::ZERO } else { wait.saturating_sub(TICK).clamp(TICK, LOOK) }
}

struct Rate {
    recorder: Recorder,
    ledger: Ledger,
    opener: Opener,
    patience: Duration,
    /// Connections of this thread; message n goes over connection n % connections.
    connections: u64,
    per_second: f64,
    start: Option<Instant>,
    sent: u64,
}

impl Rate {
    /// When message `number` of this thread is due, after the start.
    #[allow(clippy::cast_precision_loss, reason = "exact below 2^52 messages")]
    fn due(&self, number: u64) -> Duration {
        Duration::from_secs_f64(number as f64 / self.per_second)
    }

    /// Sends what is due, and says how long nothing else will be.
    fn send_due(&mut self, pool: &mut Pool) -> Result<Duration, Fault> {
        if self.connections == 0 {
            return Ok(LOOK);
        }
        let start = *self.start.get_or_insert_with(Instant::now);
        let passed = start.elapsed();
        while self.due(self.sent) <= passed {
            let index = usize::try_from(self.sent % self.connections).unwrap_or(0);
            self.sent += 1;
            pool.sessions[index].outbound.allow(1);
            pool.flush(index, self)?;
        }
        Ok(pause(self.due(self.sent).saturating_sub(start.elapsed())))
    }
}

impl Mode for Rate {
    fn opened(&mut self, _: &mut Session, _: Instant) -> Result<(), Fault> {
        self.recorder.ready();
        Ok(())
    }

    fn piece(
        &mut self,
        session: &mut Session,
        piece: &Piece<'_>,
        now: Instant,
    ) -> Result<(), Fault> {
        let Some(sequence) = self.ledger.check(session, piece)? else { return Ok(()) };
        let number = sequence * self.connections + session.index as u64;
        let start = self.start.unwrap_or(now);
        self.recorder.record(start + self.due(number), now);
        Ok(())
    }

    fn turn(&mut self, pool: &mut Pool) -> Result<Option<Duration>, Fault> {
        match self.recorder.turn() {
            Stage::Opening => {
                let variants = pool.templates.len();
                self.opener.open_more(pool, |index| self.ledger.begin(index))?;
                for session in &mut pool.sessions {
                    session.outbound.template = session.index % variants;
                }
                Ok(Some(LOOK))
            }
            Stage::WarmUp | Stage::Measure => self.send_due(pool).map(Some),
            Stage::Drain => drain(pool, &self.ledger, &self.recorder, self.patience),
            Stage::End => Ok(None),
        }
    }
}

impl Measured for Rate {
    fn recorder(self) -> Recorder {
        self.recorder
    }
}
