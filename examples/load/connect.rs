//! Modes `connect` and `churn`: connections that come and go.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::echo::LOOK;
use crate::fault::{End, Fault};
use crate::frame::{Payload, TEXT, Template, mask_key, masked};
use crate::inbound::Piece;
use crate::ledger::Ledger;
use crate::options::{self, Common};
use crate::pool::Pool;
use crate::recorder::Recorder;
use crate::run::{Measured, Outcome, Stage, conduct};
use crate::session::{Mode, Phase, Session};
use crate::target::Target;

/// Source addresses, unless told otherwise: 64 times 28,000 ports outlast `TIME_WAIT`.
const SOURCES: u32 = 64;

/// Messages that are under way when a connection is reset.
const UNREAD: u64 = 16;

/// How a connection of `churn` ends; they take turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Half of the request's head, then a reset.
    HalfRequest,
    /// A message, its answer, then a reset.
    Answered,
    /// Several messages, then a reset without reading the answers.
    Unread,
    /// Half a frame, then a reset.
    HalfFrame,
    /// Nothing but the opening handshake, then a reset or a closing handshake: mode `connect`.
    Opened,
}

const CHURN: [Manner; 4] =
    [Manner::HalfRequest, Manner::Answered, Manner::Unread, Manner::HalfFrame];

/// Runs mode `connect`: opening handshakes a second.
pub(crate) fn run(common: &Common, options: &options::Connect) -> Result<Outcome, Fault> {
    come_and_go(common, options, &[Manner::Opened])
}

/// Runs mode `churn`: connect, talk, abort.
pub(crate) fn churn(common: &Common, options: &options::Connect) -> Result<Outcome, Fault> {
    if options.close {
        return Err(Fault::Usage("--close is for connect: churn always resets".to_owned()));
    }
    come_and_go(common, options, &CHURN)
}

fn come_and_go(
    common: &Common,
    options: &options::Connect,
    manners: &'static [Manner],
) -> Result<Outcome, Fault> {
    let target = Target::new(&options.url, &common.header, common.remote)?;
    let target = target.with_sources(common.sources.unwrap_or(SOURCES));
    let target = Arc::new(if options.close { target } else { target.resetting() });
    let payload = Payload::numbered(64);
    // Nothing is opened before the warm-up, so that there is nothing to wait for.
    conduct(common, 0, |thread, shared| {
        let pool = Pool::new(Arc::clone(&target), vec![Template::new(TEXT, &payload, thread)])?;
        let threads = common.threads as usize;
        let mode = Coming {
            recorder: Recorder::new(shared, thread),
            ledger: Ledger::new(payload.clone(), true),
            manners,
            closes: options.close,
            share: (options.connections as usize).saturating_sub(thread).div_ceil(threads),
            next: thread,
            step: threads,
            free: Vec::new(),
            patience: common.patience,
        };
        Ok((pool, mode))
    })
}

struct Coming {
    recorder: Recorder,
    ledger: Ledger,
    manners: &'static [Manner],
    closes: bool,
    /// Connections at once.
    share: usize,
    next: usize,
    step: usize,
    /// Places whose connections have ended.
    free: Vec<usize>,
    patience: Duration,
}

impl Coming {
    fn manner(&self, number: usize) -> Manner {
        self.manners[number / self.step % self.manners.len()]
    }

    fn open(&mut self, pool: &mut Pool) -> Result<(), Fault> {
        while pool.sessions.len() < self.share {
            let index = pool.reserve();
            self.free.push(index);
        }
        for index in std::mem::take(&mut self.free) {
            let number = self.next;
            self.next += self.step;
            self.ledger.begin(index);
            let request = pool.target.request(number);
            if self.manner(number) == Manner::HalfRequest {
                pool.open(index, number, &request[..request.len() / 2])?;
                pool.sessions[index].hang_up();
            } else {
                pool.open(index, number, &request)?;
            }
        }
        Ok(())
    }

    /// The oldest connection may not be older than patience allows: a server that forgets one is at fault.
    fn look_for_forgotten(&self, pool: &Pool) -> Result<(), Fault> {
        let alive = pool.sessions.iter().filter(|session| session.phase != Phase::Gone);
        match alive.min_by_key(|session| session.began) {
            Some(oldest) if oldest.began.elapsed() > self.patience => Err(Fault::Stuck(format!(
                "connection {} waits for {} s in phase {:?}",
                oldest.number,
                oldest.began.elapsed().as_secs(),
                oldest.phase
            ))),
            _ => Ok(()),
        }
    }
}

impl Mode for Coming {
    fn opened(&mut self, session: &mut Session, now: Instant) -> Result<(), Fault> {
        match self.manner(session.number) {
            Manner::HalfRequest => session.hang_up(),
            Manner::Opened => {
                self.recorder.record(session.began, now);
                if self.closes { session.outbound.put_close(1000) } else { session.hang_up() }
            }
            Manner::Answered => session.outbound.allow(1),
            Manner::Unread => {
                session.outbound.allow(UNREAD);
                session.hang_up();
            }
            Manner::HalfFrame => {
                let frame = masked(TEXT, &[b'x'; 100], mask_key(session.number));
                session.outbound.put_first(&frame[..frame.len() / 2]);
                session.hang_up();
            }
        }
        Ok(())
    }

    fn piece(&mut self, session: &mut Session, piece: &Piece<'_>, _: Instant) -> Result<(), Fault> {
        if self.manner(session.number) == Manner::Answered
            && self.ledger.check(session, piece)?.is_some()
        {
            session.hang_up();
        }
        Ok(())
    }

    fn ended(&mut self, session: &mut Session, end: End) -> Result<(), Fault> {
        let manner = self.manner(session.number);
        match end {
            End::Ours => {}
            End::Closed(1000, _) if self.closes => {}
            end => return Err(Fault::Ended { connection: session.number, end }),
        }
        if manner != Manner::Opened {
            self.recorder.record(session.began, Instant::now());
        }
        self.free.push(session.index);
        Ok(())
    }

    fn turn(&mut self, pool: &mut Pool) -> Result<Option<Duration>, Fault> {
        match self.recorder.turn() {
            Stage::Opening => return Ok(Some(LOOK)),
            Stage::WarmUp | Stage::Measure => self.open(pool)?,
            Stage::Drain if !pool.is_alive() => return Ok(None),
            Stage::Drain => {}
            Stage::End => return Ok(None),
        }
        self.look_for_forgotten(pool)?;
        Ok(Some(LOOK))
    }
}

impl Measured for Coming {
    fn recorder(self) -> Recorder {
        self.recorder
    }
}
