//! A client that behaves, and sees whether it is served while others do not.

use std::{
    future::Future,
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};

use tokio::time::MissedTickBehavior;

use super::{ClientFrame, RawClient, ServerFrame};

/// How soon an echo has to be back.
const PROMPT: Duration = Duration::from_millis(100);

/// Echoes of which the median is taken: one alone would measure what else the machine does.
const ECHOES: usize = 5;

/// What no single echo may take.
const STALL: Duration = Duration::from_secs(1);

/// Between two echoes of a watch: to watch shall cost little.
const PACE: Duration = Duration::from_millis(5);

pub struct Witness {
    client: RawClient,
    sent: u64,
}

impl Witness {
    /// Connects to `/echo`.
    pub async fn connect(address: SocketAddr) -> Self {
        Self { client: RawClient::open(address, "/echo").await, sent: 0 }
    }

    /// One echo: how long it took.
    pub async fn echo(&mut self) -> Duration {
        self.sent += 1;
        let text = format!("witness {}", self.sent);
        let start = Instant::now();
        self.client.send(ClientFrame::text(text.as_str())).await;
        // A ping of the server is none of its business; it is alive.
        let mut frame = self.client.read_frame().await;
        while frame == ServerFrame::ping() {
            self.client.send(ClientFrame::pong([])).await;
            frame = self.client.read_frame().await;
        }
        assert_eq!(frame, ServerFrame::text(text));
        start.elapsed()
    }

    /// The server answers now, and soon.
    pub async fn expect_prompt_echo(&mut self) {
        let mut times = Vec::new();
        for _ in 0..ECHOES {
            times.push(self.echo().await);
        }
        expect_prompt(&mut times);
    }

    /// Runs `attack`, and sees that echoes are prompt all the while and after it.
    pub async fn watch<F: Future>(&mut self, attack: F) -> F::Output {
        let over = AtomicBool::new(false);
        let attack = async {
            let output = attack.await;
            over.store(true, Relaxed);
            output
        };
        let mut times = Vec::new();
        let echoes = async {
            let mut pace = tokio::time::interval(PACE);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while !over.load(Relaxed) || times.len() < ECHOES {
                pace.tick().await;
                times.push(self.echo().await);
            }
        };
        let (output, ()) = tokio::join!(attack, echoes);
        expect_prompt(&mut times);
        output
    }
}

fn expect_prompt(times: &mut [Duration]) {
    times.sort_unstable();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    assert!(median <= PROMPT, "an echo takes {median:?}, all of them: {times:?}");
    assert!(worst <= STALL, "an echo took {worst:?}, all of them: {times:?}");
}
