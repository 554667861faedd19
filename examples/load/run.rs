//! One run: threads that open, warm up, are measured and drain, each stage begun by the conductor.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::fault::Fault;
use crate::options::Common;
use crate::pool::Pool;
use crate::process::{Memory, Processes};
use crate::recorder::Recorder;
use crate::session::Mode;

/// How often throughput is sampled for the picture.
const SAMPLE: Duration = Duration::from_millis(100);

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    Opening,
    WarmUp,
    Measure,
    /// Nothing new is sent; what is under way comes back.
    Drain,
    /// Somebody failed: stop at once.
    End,
}

const STAGES: [Stage; 5] =
    [Stage::Opening, Stage::WarmUp, Stage::Measure, Stage::Drain, Stage::End];

/// What the threads of a run share.
#[derive(Debug)]
pub(crate) struct Shared {
    stage: AtomicU8,
    /// Connections that are ready.
    pub(crate) ready: AtomicUsize,
    /// Messages counted so far, by thread.
    pub(crate) counts: Vec<AtomicU64>,
    /// Zero of the clock that threads tell each other times by.
    pub(crate) origin: Instant,
}

impl Shared {
    /// For so many threads, which are about to open their connections.
    pub(crate) fn new(threads: usize) -> Self {
        Self {
            stage: AtomicU8::new(Stage::Opening as u8),
            ready: AtomicUsize::new(0),
            counts: (0..threads).map(|_| AtomicU64::new(0)).collect(),
            origin: Instant::now(),
        }
    }

    pub(crate) fn stage(&self) -> Stage {
        STAGES[usize::from(self.stage.load(Ordering::Relaxed))]
    }

    /// Goes on to a stage; never back.
    pub(crate) fn enter(&self, stage: Stage) {
        self.stage.fetch_max(stage as u8, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

/// A mode that can be measured.
pub(crate) trait Measured: Mode {
    /// What it has recorded.
    fn recorder(self) -> Recorder;
}

/// What came out.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) elapsed: Duration,
    pub(crate) messages: u64,
    pub(crate) server: Option<Duration>,
    pub(crate) own: Duration,
    pub(crate) latency: Histogram<u64>,
    /// Messages a second, each `SAMPLE`.
    pub(crate) samples: Vec<f64>,
    /// Before the first connection, with all of them, at the end of the measurement.
    pub(crate) memory: Option<[Memory; 3]>,
    /// Time until all connections were ready.
    pub(crate) opened: Duration,
}

/// Runs a mode on `common.threads` threads until `connections` are ready, then measures it. `make` is called on each.
pub(crate) fn conduct<M: Measured>(
    common: &Common,
    connections: usize,
    make: impl Fn(usize, &std::sync::Arc<Shared>) -> Result<(Pool, M), Fault> + Sync,
) -> Result<Outcome, Fault> {
    let threads = common.threads as usize;
    let shared = std::sync::Arc::new(Shared::new(threads));
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|index| {
                let (shared, make) = (&shared, &make);
                scope.spawn(move || {
                    let result = make(index, shared).and_then(|(pool, mode)| work(pool, mode));
                    if result.is_err() {
                        shared.enter(Stage::End);
                    }
                    result
                })
            })
            .collect();
        let outcome =
            Conductor::new(common, &shared).and_then(|mut conductor| conductor.lead(connections));
        shared.enter(if outcome.is_ok() { Stage::Drain } else { Stage::End });
        let mut latency = None;
        for worker in workers {
            let recorder =
                worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            match &mut latency {
                None => latency = Some(recorder.latency),
                Some(sum) => *sum += recorder.latency,
            }
        }
        outcome.map(|outcome| Outcome { latency: latency.unwrap_or(outcome.latency), ..outcome })
    })
}

fn work<M: Measured>(mut pool: Pool, mut mode: M) -> Result<Recorder, Fault> {
    pool.run(&mut mode)?;
    pool.farewell(&mut mode)?;
    Ok(mode.recorder())
}

/// The thread that leads the others and looks at the clocks.
struct Conductor<'a> {
    common: &'a Common,
    shared: &'a Shared,
    server: Processes,
    shown: Instant,
}

impl<'a> Conductor<'a> {
    fn new(common: &'a Common, shared: &'a Shared) -> Result<Self, Fault> {
        Ok(Self { common, shared, server: Processes::new(&common.pid)?, shown: Instant::now() })
    }

    fn lead(&mut self, connections: usize) -> Result<Outcome, Fault> {
        let memory_before = self.server.memory();
        let began = Instant::now();
        self.wait_until_open(connections)?;
        let opened = began.elapsed();
        self.shared.enter(Stage::WarmUp);
        self.wait(self.common.warm_up, "warming up", &mut Vec::new());
        let memory_open = self.server.memory();
        self.shared.enter(Stage::Measure);
        let (start, server, own, count) = self.look();
        let mut samples = Vec::new();
        self.wait(self.common.duration, "measuring", &mut samples);
        let (end, server_end, own_end, count_end) = self.look();
        let memory_end = self.server.memory();
        self.show(true, String::new);
        let has_server = !self.server.is_empty();
        Ok(Outcome {
            elapsed: end - start,
            messages: count_end - count,
            server: has_server.then(|| server_end.saturating_sub(server)),
            own: own_end.saturating_sub(own),
            latency: crate::recorder::histogram(),
            samples,
            memory: has_server.then_some([memory_before, memory_open, memory_end]),
            opened,
        })
    }

    /// Time, CPU time of the server and of this process, and messages so far.
    fn look(&self) -> (Instant, Duration, Duration, u64) {
        (Instant::now(), self.server.cpu_time(), Processes::own().cpu_time(), self.shared.count())
    }

    fn wait_until_open(&mut self, connections: usize) -> Result<(), Fault> {
        let (mut last, mut since) = (0, Instant::now());
        loop {
            let ready = self.shared.ready.load(Ordering::Relaxed);
            if ready >= connections || self.shared.stage() == Stage::End {
                return Ok(());
            }
            if ready > last {
                (last, since) = (ready, Instant::now());
            }
            if since.elapsed() > self.common.patience {
                let waited = since.elapsed().as_secs();
                return Err(Fault::Stuck(format!(
                    "{ready} of {connections} connections are ready, and no more for {waited} s"
                )));
            }
            self.show(false, || format!("opening: {ready} of {connections} connections"));
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Lets the threads run, and samples their progress.
    fn wait(&mut self, length: Duration, what: &str, samples: &mut Vec<f64>) {
        let began = Instant::now();
        let (mut count, mut then) = (self.shared.count(), began);
        while began.elapsed() < length && self.shared.stage() < Stage::End {
            thread::sleep(SAMPLE.min(length.saturating_sub(began.elapsed())));
            let (now, counted) = (Instant::now(), self.shared.count());
            #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
            let rate = (counted - count) as f64 / (now - then).as_secs_f64();
            samples.push(rate);
            (count, then) = (counted, now);
            let seconds = began.elapsed().as_secs_f64();
            self.show(false, || {
                format!("{what}: {seconds:.0} of {:.0} s, {rate:.0}/s", length.as_secs_f64())
            });
        }
    }

    /// One line each second, on a terminal in place; `clear` removes it there.
    fn show(&mut self, clear: bool, line: impl FnOnce() -> String) {
        if self.common.quiet || (!clear && self.shown.elapsed() < Duration::from_secs(1)) {
            return;
        }
        self.shown = Instant::now();
        let mut output = std::io::stderr().lock();
        // Progress that cannot be shown is no reason to stop.
        let _ = match (output.is_terminal(), clear) {
            (true, _) => write!(output, "\r\x1b[K{}", line()).and_then(|()| output.flush()),
            (false, true) => Ok(()),
            (false, false) => writeln!(output, "{}", line()),
        };
    }
}
