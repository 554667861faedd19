//! Mode `fanout`: publishers send, and every subscriber gets every message.
//!
//! A publisher keeps a window of messages under way; one is done when the last subscriber has it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::audience::{Audience, Delivery, Programme};
use crate::board::Board;
use crate::echo::LOOK;
use crate::fault::Fault;
use crate::frame::{TEXT, Template};
use crate::inbound::Piece;
use crate::opener::Opener;
use crate::options::{self, Common};
use crate::pool::Pool;
use crate::protocol::{Protocol, fill};
use crate::recorder::Recorder;
use crate::run::{Measured, Outcome, Shared, Stage, conduct};
use crate::session::{Mode, Session};
use crate::target::Target;

/// What does not change during a run.
struct Plan {
    common: Common,
    options: options::Fanout,
    programme: Programme,
    board: Board,
}

/// Runs the mode.
pub(crate) fn run(common: &Common, options: &options::Fanout) -> Result<Outcome, Fault> {
    let protocol = Protocol::new(&options.audience).for_publishers(options);
    let programme = Programme::new(protocol, &options.audience, options.publishers)?;
    let protocol = &programme.protocol;
    let target = programme.target(common, &options.audience)?;
    let subscribers = Arc::new(target.below(&protocol.subscriber_path));
    let publishers = Arc::new(target.below(&protocol.publisher_path));
    let frames = programme.payloads.iter().enumerate();
    let templates: Vec<_> = frames
        .map(|(number, payload)| {
            let frame = fill("--publish", &protocol.publish, payload)?;
            Ok(Template::new(TEXT, &frame, number))
        })
        .collect::<Result<_, Fault>>()?;
    let board = Board::new(common.threads as usize, options);
    let plan = Plan { common: common.clone(), options: options.clone(), programme, board };
    let connections = (options.audience.subscribers + options.publishers) as usize;
    conduct(common, connections, |thread, shared| {
        let pool = Pool::new(Arc::clone(&subscribers), templates.clone())?;
        plan.board.set_waker(thread, pool.waker()?);
        Ok((pool, Fanout::new(&plan, Arc::clone(&publishers), thread, shared)))
    })
}

/// A connection that publishes.
struct Publisher {
    number: usize,
    /// Its place in the pool.
    index: usize,
    not_before: Instant,
}

struct Fanout<'a> {
    plan: &'a Plan,
    recorder: Recorder,
    thread: usize,
    audience: Audience<'a>,
    publishers: Opener,
    publisher_target: Arc<Target>,
    /// By publisher and message modulo the window: subscribers that do not have it yet.
    lacking: Vec<Vec<usize>>,
    mine: Vec<Publisher>,
}

impl<'a> Fanout<'a> {
    fn new(
        plan: &'a Plan,
        publisher_target: Arc<Target>,
        thread: usize,
        shared: &Arc<Shared>,
    ) -> Self {
        let (common, options) = (&plan.common, &plan.options);
        let audience = Audience::new(&plan.programme, common, &options.audience, thread);
        let slots = vec![audience.share(); options.window as usize];
        Self {
            plan,
            recorder: Recorder::new(shared, thread),
            thread,
            audience,
            publishers: Opener::new(common, thread, options.publishers),
            publisher_target,
            lacking: vec![slots; options.publishers as usize],
            mine: Vec::new(),
        }
    }

    fn open(&mut self, pool: &mut Pool) -> Result<(), Fault> {
        if !self.audience.open(pool, &self.publisher_target)? {
            return Ok(());
        }
        let (mine, step) = (&mut self.mine, self.plan.common.threads as usize);
        let thread = self.thread;
        self.publishers.open_more(pool, |index| {
            mine.push(Publisher {
                number: thread + mine.len() * step,
                index,
                not_before: Instant::now(),
            });
        })?;
        Ok(())
    }

    /// One subscriber more has this message.
    #[inline]
    fn deliver(&mut self, Delivery { publisher, sequence }: Delivery, now: Instant) {
        let board = &self.plan.board;
        let slot = board.slot(sequence);
        let sent = self.recorder.shared.origin + board.sent(publisher, slot);
        self.recorder.record(sent, now);
        let lacking = &mut self.lacking[publisher][slot];
        *lacking -= 1;
        if *lacking == 0 {
            *lacking = self.audience.share();
            board.set_done(self.thread, publisher, sequence + 1);
        }
    }

    /// Publishes what the windows allow.
    fn publish(&mut self, pool: &mut Pool) -> Result<Duration, Fault> {
        let plan = self.plan;
        let now = Instant::now();
        let since = now - self.recorder.shared.origin;
        let mut wait = LOOK;
        for place in 0..self.mine.len() {
            let Publisher { number, index, not_before } = &mut self.mine[place];
            let outbound = &mut pool.sessions[*index].outbound;
            outbound.template = *number;
            let limit = plan.board.limit(*number);
            while outbound.allowed() < limit {
                if let Some(every) = plan.options.every {
                    if *not_before > now {
                        wait = wait.min(*not_before - now);
                        break;
                    }
                    *not_before = now + every;
                }
                plan.board.set_sent(*number, outbound.allowed(), since);
                outbound.allow(1);
            }
            let index = *index;
            pool.flush(index, self)?;
        }
        Ok(wait)
    }

    /// Goes on until all subscribers of this thread have all messages of all publishers.
    fn drain(&self, pool: &Pool) -> Result<Option<Duration>, Fault> {
        let board = &self.plan.board;
        for Publisher { number, index, .. } in &self.mine {
            board.set_total(*number, pool.sessions[*index].outbound.allowed());
        }
        let missing = self.audience.missing(|publisher| board.total(publisher));
        let patience = self.plan.common.patience;
        if missing > 0 && self.recorder.has_drained_for(patience) {
            return Err(Fault::Missing { missing, seconds: patience.as_secs() });
        }
        Ok((missing > 0).then_some(LOOK))
    }
}

impl Mode for Fanout<'_> {
    fn opened(&mut self, session: &mut Session, _: Instant) -> Result<(), Fault> {
        if self.audience.has(session) {
            self.audience.opened(session, &self.recorder);
        } else {
            self.recorder.ready();
        }
        Ok(())
    }

    #[inline]
    fn piece(
        &mut self,
        session: &mut Session,
        piece: &Piece<'_>,
        now: Instant,
    ) -> Result<(), Fault> {
        // What a publisher is told (acknowledgements, statistics) is its server's business.
        if self.audience.has(session)
            && let Some(delivery) = self.audience.check(session, piece, &self.recorder)?
        {
            self.deliver(delivery, now);
        }
        Ok(())
    }

    fn turn(&mut self, pool: &mut Pool) -> Result<Option<Duration>, Fault> {
        match self.recorder.turn() {
            Stage::Opening => self.open(pool).map(|()| Some(LOOK)),
            Stage::WarmUp | Stage::Measure => self.publish(pool).map(Some),
            Stage::Drain => self.drain(pool),
            Stage::End => Ok(None),
        }
    }
}

impl Measured for Fanout<'_> {
    fn recorder(self) -> Recorder {
        self.recorder
    }
}
