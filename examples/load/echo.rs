//! Mode `echo`: each connection keeps a number of messages in flight and gets every one back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::fault::Fault;
use crate::frame::{BINARY, Payload, TEXT, Template};
use crate::inbound::Piece;
use crate::ledger::Ledger;
use crate::opener::Opener;
use crate::options::{self, Common, Messages};
use crate::pool::Pool;
use crate::recorder::Recorder;
use crate::run::{Measured, Outcome, Shared, Stage, conduct};
use crate::session::{Mode, Session};
use crate::target::{Target, spread};

/// How often a loop without events looks at the stage.
pub(crate) const LOOK: Duration = Duration::from_millis(20);

/// Templates of a message under several mask keys; a large one under a single key, so that it stays in the cache.
pub(crate) fn templates(messages: &Messages, payload: &Payload) -> Vec<Template> {
    let opcode = if messages.binary { BINARY } else { TEXT };
    let variants = if payload.bytes.len() > 4096 { 1 } else { 16 };
    (0..variants).map(|variant| Template::new(opcode, payload, variant)).collect()
}

/// Runs the mode.
pub(crate) fn run(common: &Common, options: &options::Echo) -> Result<Outcome, Fault> {
    let messages = &options.messages;
    let target = Target::new(&messages.url, &common.header, common.remote)?;
    let target =
        Arc::new(target.with_sources(common.sources.unwrap_or(spread(messages.connections))));
    let payload = Payload::numbered(messages.size);
    conduct(common, messages.connections as usize, |thread, shared| {
        let pool = Pool::new(Arc::clone(&target), templates(messages, &payload))?;
        Ok((pool, Echo::new(common, options, thread, shared, payload.clone())))
    })
}

struct Echo {
    recorder: Recorder,
    ledger: Ledger,
    opener: Opener,
    patience: Duration,
    in_flight: usize,
    /// When each message under way was sent: of connection c, message n at `c * in_flight + n % in_flight`.
    sent: Vec<Instant>,
    started: bool,
}

impl Echo {
    fn new(
        common: &Common,
        options: &options::Echo,
        thread: usize,
        shared: &Arc<Shared>,
        payload: Payload,
    ) -> Self {
        Self {
            recorder: Recorder::new(shared, thread),
            ledger: Ledger::new(payload, !options.messages.binary),
            opener: Opener::new(common, thread, options.messages.connections),
            patience: common.patience,
            in_flight: options.in_flight as usize,
            sent: Vec::new(),
            started: false,
        }
    }

    fn start(&mut self, pool: &mut Pool) -> Result<(), Fault> {
        self.started = true;
        let variants = pool.templates.len();
        self.sent = vec![Instant::now(); pool.sessions.len() * self.in_flight];
        for index in 0..pool.sessions.len() {
            pool.sessions[index].outbound.template = index % variants;
            pool.sessions[index].outbound.allow(self.in_flight as u64);
            pool.flush(index, self)?;
        }
        Ok(())
    }
}

impl Mode for Echo {
    fn opened(&mut self, _: &mut Session, _: Instant) -> Result<(), Fault> {
        self.recorder.ready();
        Ok(())
    }

    #[inline]
    fn piece(
        &mut self,
        session: &mut Session,
        piece: &Piece<'_>,
        now: Instant,
    ) -> Result<(), Fault> {
        let Some(sequence) = self.ledger.check(session, piece)? else { return Ok(()) };
        #[allow(clippy::cast_possible_truncation, reason = "a remainder of a usize")]
        let slot = session.index * self.in_flight + (sequence % self.in_flight as u64) as usize;
        self.recorder.record(self.sent[slot], now);
        if self.recorder.is_running() {
            self.sent[slot] = now;
            session.outbound.allow(1);
        }
        Ok(())
    }

    fn turn(&mut self, pool: &mut Pool) -> Result<Option<Duration>, Fault> {
        match self.recorder.turn() {
            Stage::Opening => {
                self.opener.open_more(pool, |index| self.ledger.begin(index))?;
            }
            Stage::WarmUp | Stage::Measure if !self.started => self.start(pool)?,
            Stage::WarmUp | Stage::Measure => {}
            Stage::Drain => return drain(pool, &self.ledger, &self.recorder, self.patience),
            Stage::End => return Ok(None),
        }
        Ok(Some(LOOK))
    }
}

/// Goes on until every message that was sent is back.
pub(crate) fn drain(
    pool: &Pool,
    ledger: &Ledger,
    recorder: &Recorder,
    patience: Duration,
) -> Result<Option<Duration>, Fault> {
    let under_way = |session: &Session| session.outbound.allowed() - ledger.received(session.index);
    let missing: u64 = pool.sessions.iter().map(under_way).sum();
    if missing > 0 && recorder.has_drained_for(patience) {
        return Err(Fault::Missing { missing, seconds: patience.as_secs() });
    }
    Ok((missing > 0).then_some(LOOK))
}

impl Measured for Echo {
    fn recorder(self) -> Recorder {
        self.recorder
    }
}
