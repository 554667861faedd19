//! Mode `publish`: messages are posted by HTTP at fixed times, and every subscriber gets every one.
//!
//! Message n is due n / rate seconds after the start, whether or not the server keeps up, and publisher n modulo their
//! number posts it: so each has an order, which is verified. One that has not been answered yet posts late, even when measuring is
//! over, and that lateness is in the latency, which counts from when a message was due to each of its deliveries.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::audience::{Audience, Delivery, Programme};
use crate::echo::LOOK;
use crate::fault::{End, Fault};
use crate::frame::Template;
use crate::inbound::Piece;
use crate::opener::Opener;
use crate::options::{self, Common};
use crate::pool::Pool;
use crate::protocol::{Protocol, fill};
use crate::rate::pause;
use crate::recorder::Recorder;
use crate::run::{Measured, Outcome, Stage, conduct};
use crate::session::{Mode, Session};
use crate::target::Target;

/// More messages than anybody posts.
const UNKNOWN: u64 = u64::MAX;

/// What does not change during a run, and what its threads tell each other.
struct Plan {
    common: Common,
    options: options::Publish,
    programme: Programme,
    /// When the first message is due.
    start: OnceLock<Instant>,
    /// By publisher: how many messages it has posted in all; [`UNKNOWN`] until all that were due are.
    totals: Vec<AtomicU64>,
}

impl Plan {
    /// When a message is due, after the start.
    #[allow(clippy::cast_precision_loss, reason = "exact below 2^52 messages")]
    fn due(&self, publisher: usize, sequence: u64) -> Duration {
        let number = sequence * u64::from(self.options.publishers) + publisher as u64;
        Duration::from_secs_f64(number as f64 / f64::from(self.options.rate))
    }
}

/// Runs the mode.
pub(crate) fn run(common: &Common, options: &options::Publish) -> Result<Outcome, Fault> {
    let protocol = Protocol::new(&options.audience);
    let programme = Programme::new(protocol, &options.audience, options.publishers)?;
    let target = programme.target(common, &options.audience)?;
    let subscribers = Arc::new(target.below(&programme.protocol.subscriber_path));
    let publishers = Arc::new(Target::http(&options.post, &options.post_header, common.remote)?);
    let templates: Vec<_> = programme
        .payloads
        .iter()
        .map(|payload| {
            let length = fill("--body", &options.body, payload)?.bytes.len();
            let request = publishers.post(&options.body, length);
            Ok(Template::plain(&fill("--body", &request, payload)?))
        })
        .collect::<Result<_, Fault>>()?;
    let plan = Plan {
        common: common.clone(),
        options: options.clone(),
        programme,
        start: OnceLock::new(),
        totals: (0..options.publishers).map(|_| AtomicU64::new(UNKNOWN)).collect(),
    };
    let connections = (options.audience.subscribers + options.publishers) as usize;
    conduct(common, connections, |thread, shared| {
        let pool = Pool::new(Arc::clone(&subscribers), templates.clone())?;
        let mode = Publish {
            plan: &plan,
            recorder: Recorder::new(shared, thread),
            thread,
            audience: Audience::new(&plan.programme, common, &options.audience, thread),
            opener: Opener::new(common, thread, options.publishers),
            target: Arc::clone(&publishers),
            mine: Vec::new(),
        };
        Ok((pool, mode))
    })
}

/// A connection that publishes.
#[derive(Clone, Copy)]
struct Publisher {
    number: usize,
    /// Its place in the pool.
    index: usize,
    /// Requests that are answered.
    answered: u64,
}

struct Publish<'a> {
    plan: &'a Plan,
    recorder: Recorder,
    thread: usize,
    audience: Audience<'a>,
    opener: Opener,
    target: Arc<Target>,
    /// Behind the subscribers in the pool, in this order.
    mine: Vec<Publisher>,
}

impl Publish<'_> {
    fn open(&mut self, pool: &mut Pool) -> Result<(), Fault> {
        if !self.audience.open(pool, &self.target)? {
            return Ok(());
        }
        let (mine, thread) = (&mut self.mine, self.thread);
        let step = self.plan.common.threads as usize;
        self.opener.open_more(pool, |index| {
            let number = thread + mine.len() * step;
            mine.push(Publisher { number, index, answered: 0 });
        })?;
        Ok(())
    }

    /// Whether a message falls into this run: with the draining it ends.
    fn is_wanted(&self, publisher: usize, sequence: u64) -> bool {
        let due = |start: Instant| start + self.plan.due(publisher, sequence);
        let ends = self.plan.start.get().zip(self.recorder.drained_since);
        ends.is_none_or(|(start, end)| due(*start) < end)
    }

    /// Posts what is due where nothing is under way, and says how long nothing else will be due.
    fn post_due(&mut self, pool: &mut Pool) -> Result<Duration, Fault> {
        let start = *self.plan.start.get_or_init(Instant::now);
        let mut next = LOOK;
        for place in 0..self.mine.len() {
            let Publisher { number, index, answered } = self.mine[place];
            let outbound = &mut pool.sessions[index].outbound;
            outbound.template = number;
            if answered < outbound.allowed() || !self.is_wanted(number, outbound.allowed()) {
                continue;
            }
            let wait = self.plan.due(number, outbound.allowed()).saturating_sub(start.elapsed());
            if wait.is_zero() {
                outbound.allow(1);
                pool.flush(index, self)?;
            } else {
                next = next.min(wait);
            }
        }
        Ok(pause(next))
    }

    /// Goes on until everything that was due is posted and answered, and all subscribers of this thread have all messages.
    fn drain(&mut self, pool: &mut Pool) -> Result<Option<Duration>, Fault> {
        self.post_due(pool)?;
        let (totals, patience) = (&self.plan.totals, self.plan.common.patience);
        let total = |publisher: usize| totals[publisher].load(Ordering::Acquire);
        let mut missing = 0;
        for &Publisher { number, index, answered } in &self.mine {
            let posted = pool.sessions[index].outbound.allowed();
            if !self.is_wanted(number, posted) {
                totals[number].store(posted, Ordering::Release);
            }
            missing += posted - answered;
        }
        let is_late = (0..totals.len()).any(|publisher| total(publisher) == UNKNOWN);
        if !is_late {
            missing += self.audience.missing(total);
        }
        if !is_late && missing == 0 {
            return Ok(None);
        }
        match self.recorder.has_drained_for(patience) {
            false => Ok(Some(LOOK)),
            true if is_late => Err(Fault::Stuck(format!(
                "messages that were due could not be posted in {} s: the server is that far behind",
                patience.as_secs()
            ))),
            true => Err(Fault::Missing { missing, seconds: patience.as_secs() }),
        }
    }
}

impl Mode for Publish<'_> {
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
        let delivery = self.audience.check(session, piece, &self.recorder)?;
        if let Some(Delivery { publisher, sequence }) = delivery {
            let start = self.plan.start.get().copied().unwrap_or(now);
            self.recorder.record(start + self.plan.due(publisher, sequence), now);
        }
        Ok(())
    }

    fn answered(&mut self, session: &mut Session) -> Result<(), Fault> {
        let publisher = &mut self.mine[session.index - self.audience.share()];
        publisher.answered += 1;
        if publisher.answered > session.outbound.allowed() {
            let end = End::Refused("it answers what nobody asked".to_owned());
            return Err(Fault::Ended { connection: session.number, end });
        }
        Ok(())
    }

    fn turn(&mut self, pool: &mut Pool) -> Result<Option<Duration>, Fault> {
        match self.recorder.turn() {
            Stage::Opening => self.open(pool).map(|()| Some(LOOK)),
            Stage::WarmUp | Stage::Measure => self.post_due(pool).map(Some),
            Stage::Drain => self.drain(pool),
            Stage::End => Ok(None),
        }
    }
}

impl Measured for Publish<'_> {
    fn recorder(self) -> Recorder {
        self.recorder
    }
}
