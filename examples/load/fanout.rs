//! Mode `fanout`: publishers send, and every subscriber gets every message.
//!
//! A publisher keeps a window of messages under way; one is done when the last subscriber has it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::board::Board;
use crate::echo::LOOK;
use crate::fault::Fault;
use crate::frame::{DIGITS, Digits, Payload, TEXT, Template, mask_key, masked};
use crate::inbound::Piece;
use crate::opener::Opener;
use crate::options::{self, Common};
use crate::pool::Pool;
use crate::protocol::{Mark, Protocol};
use crate::recorder::Recorder;
use crate::run::{Measured, Outcome, Shared, Stage, conduct};
use crate::session::{Mode, Session};
use crate::target::{Target, spread};

/// What does not change during a run.
struct Plan {
    common: Common,
    options: options::Fanout,
    protocol: Protocol,
    mark: Mark,
    /// By publisher.
    payloads: Vec<Payload>,
    templates: Vec<Template>,
    board: Board,
}

/// Runs the mode.
pub(crate) fn run(common: &Common, options: &options::Fanout) -> Result<Outcome, Fault> {
    let protocol = Protocol::new(options);
    let headers: Vec<_> = protocol
        .header
        .iter()
        .map(|&header| header.to_owned())
        .chain(common.header.clone())
        .collect();
    let target = Target::new(&options.url, &headers, common.remote)?
        .with_sources(common.sources.unwrap_or(spread(options.subscribers)));
    let prefix = target.path.trim_end_matches('/').to_owned();
    let subscribers = Arc::new(target.at(&format!("{prefix}{}", protocol.subscriber_path)));
    let publishers = Arc::new(target.at(&format!("{prefix}{}", protocol.publisher_path)));
    let mark = Mark::new();
    let payloads: Vec<_> = (0..options.publishers as usize)
        .map(|number| mark.payload(number, options.size))
        .collect::<Result<_, _>>()?;
    let frames = payloads.iter().enumerate();
    let templates = frames
        .map(|(number, payload)| {
            protocol.frame(payload).map(|frame| Template::new(TEXT, &frame, number))
        })
        .collect::<Result<_, _>>()?;
    let board = Board::new(common.threads as usize, options);
    let plan = Plan {
        common: common.clone(),
        options: options.clone(),
        protocol,
        mark,
        payloads,
        templates,
        board,
    };
    let connections = (options.subscribers + options.publishers) as usize;
    conduct(common, connections, |thread, shared| {
        let pool = Pool::new(Arc::clone(&subscribers), plan.templates.clone())?;
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
    subscribers: Opener,
    publishers: Opener,
    publisher_target: Arc<Target>,
    /// Subscribers of this thread: they are the first in the pool.
    share: usize,
    subscribed: Vec<bool>,
    /// By subscriber and publisher: what comes next.
    expected: Vec<Digits>,
    /// By subscriber and publisher: messages received.
    received: Vec<u64>,
    /// By publisher and message modulo the window: subscribers that do not have it yet.
    lacking: Vec<Vec<usize>>,
    mine: Vec<Publisher>,
    /// Messages that reads have cut, by subscriber.
    halves: Vec<Vec<u8>>,
    /// Where in a message the last payload was found.
    hint: usize,
    subscribe: String,
}

impl<'a> Fanout<'a> {
    fn new(
        plan: &'a Plan,
        publisher_target: Arc<Target>,
        thread: usize,
        shared: &Arc<Shared>,
    ) -> Self {
        let (common, options) = (&plan.common, &plan.options);
        let subscribers = Opener::new(common, thread, options.subscribers);
        let share = subscribers.share();
        let publishers = options.publishers as usize;
        Self {
            plan,
            recorder: Recorder::new(shared, thread),
            thread,
            subscribers,
            publishers: Opener::new(common, thread, options.publishers),
            publisher_target,
            share,
            subscribed: vec![false; share],
            expected: vec![Digits::new(0); share * publishers],
            received: vec![0; share * publishers],
            lacking: vec![vec![share; options.window as usize]; publishers],
            mine: Vec::new(),
            halves: vec![Vec::new(); share],
            hint: 0,
            subscribe: plan.protocol.subscribe.clone(),
        }
    }

    fn subscribed(&mut self, index: usize) {
        if !std::mem::replace(&mut self.subscribed[index], true) {
            self.recorder.ready();
        }
    }

    /// Opens subscribers first, so that no publisher sends before anybody listens.
    fn open(&mut self, pool: &mut Pool) -> Result<(), Fault> {
        if self.subscribers.open_more(pool, |_| ())? || pool.opening > 0 && self.mine.is_empty() {
            return Ok(());
        }
        pool.target = Arc::clone(&self.publisher_target);
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

    /// A whole message to a subscriber.
    #[inline]
    fn message(&mut self, session: &Session, message: &[u8], now: Instant) -> Result<(), Fault> {
        let Some((at, publisher)) = self.plan.mark.find(message, self.hint) else {
            if contains(message, self.plan.protocol.ready.as_bytes()) {
                self.subscribed(session.index);
            }
            return Ok(());
        };
        self.hint = at;
        let Some(payload) = self.plan.payloads.get(publisher) else {
            return Err(self.surprise(session, publisher, None, message));
        };
        let row = session.index * self.plan.payloads.len() + publisher;
        let end = (at + payload.bytes.len()).min(message.len());
        let whole = end - at == payload.bytes.len();
        if !whole || !payload.agrees(&self.expected[row], 0, &message[at..end]) {
            return Err(self.surprise(session, publisher, Some(row), message));
        }
        self.expected[row].count_up();
        let sequence = self.received[row];
        self.received[row] += 1;
        self.deliver(publisher, sequence, now);
        Ok(())
    }

    /// One subscriber more has this message.
    #[inline]
    fn deliver(&mut self, publisher: usize, sequence: u64, now: Instant) {
        let board = &self.plan.board;
        let slot = board.slot(sequence);
        let sent = self.recorder.shared.origin + board.sent(publisher, slot);
        self.recorder.record(now.saturating_duration_since(sent));
        let lacking = &mut self.lacking[publisher][slot];
        *lacking -= 1;
        if *lacking == 0 {
            *lacking = self.share;
            board.set_done(self.thread, publisher, sequence + 1);
        }
    }

    #[cold]
    fn surprise(
        &self,
        session: &Session,
        publisher: usize,
        row: Option<usize>,
        message: &[u8],
    ) -> Fault {
        let expected = row.map_or_else(String::new, |row| {
            String::from_utf8_lossy(self.expected[row].low(DIGITS)).into_owned()
        });
        let start = &message[..message.len().min(200)];
        Fault::Message {
            connection: session.number,
            expected: format!("{expected} of publisher {publisher}"),
            got: format!("{:?}", String::from_utf8_lossy(start)),
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
        let publishers = self.plan.payloads.len();
        let lacks = |(row, received): (usize, &u64)| board.total(row % publishers) - received;
        let missing: u64 = self.received.iter().enumerate().map(lacks).fold(0, u64::saturating_add);
        let patience = self.plan.common.patience;
        if missing > 0 && self.recorder.has_drained_for(patience) {
            return Err(Fault::Missing { missing, seconds: patience.as_secs() });
        }
        Ok((missing > 0).then_some(LOOK))
    }
}

/// Whether `part` is not empty and stands somewhere in `whole`.
fn contains(whole: &[u8], part: &[u8]) -> bool {
    !part.is_empty() && whole.windows(part.len()).any(|window| window == part)
}

impl Mode for Fanout<'_> {
    fn opened(&mut self, session: &mut Session, _: Instant) -> Result<(), Fault> {
        if session.index >= self.share {
            self.recorder.ready();
            return Ok(());
        }
        if !self.subscribe.is_empty() {
            let text = self.subscribe.replace("{id}", &session.number.to_string());
            session.outbound.put_first(&masked(TEXT, text.as_bytes(), mask_key(session.number)));
        }
        if self.plan.protocol.ready.is_empty() {
            self.subscribed(session.index);
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
        if session.index >= self.share {
            // What a publisher is told (acknowledgements, statistics) is its server's business.
            return Ok(());
        }
        if piece.whole() {
            return self.message(session, piece.bytes, now);
        }
        self.halves[session.index].extend_from_slice(piece.bytes);
        if piece.last {
            let mut message = std::mem::take(&mut self.halves[session.index]);
            self.message(session, &message, now)?;
            message.clear();
            self.halves[session.index] = message;
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
