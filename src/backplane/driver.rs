//! The task that keeps a node joined with the others: it connects, carries, listens, and looks
//! whether anything comes through.

use std::{
    hash::{BuildHasher, RandomState},
    io,
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::{
    delivery::Delivery,
    engine::{Engine, Inbound, Link, Outbound},
    node::Node,
    outbox::Batch,
};
use crate::hub::Hub;

/// How long it may take to connect, and to subscribe everything anew.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a node sends something to itself, and looks at what nobody hears any more.
const PULSE: Duration = Duration::from_secs(1);

/// The longest pause after the first attempt to connect; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause there is.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Others lose an engine when we do, and their pauses may be longer than ours: what waited for it
/// is carried once they are back, or have had the time for it.
const RETURN: Duration = LONGEST_PAUSE.saturating_add(PULSE);

/// How often it is said that an engine cannot be reached.
const LOG_INTERVAL: Duration = Duration::from_mins(1);

/// See the module.
pub(super) struct Driver {
    pub(super) node: Arc<Node>,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) hub: Hub,
}

impl Driver {
    /// Never ends by itself.
    pub(super) async fn run(self) {
        let mut delivery = Delivery::new(Arc::clone(&self.node), self.hub.clone());
        let (mut failures, mut logged_at) = (0, None::<Instant>);
        loop {
            let error = match self.connect().await {
                Ok(link) => {
                    log::info!("backplane: joined by {}", self.engine.address());
                    self.node.wait_for_others(Instant::now() + RETURN);
                    self.node.counters.connected.add(1);
                    let joined_at = Instant::now();
                    let error = self.work(link, &mut delivery).await;
                    self.node.counters.lost.add(1);
                    logged_at = None;
                    if joined_at.elapsed() > LONGEST_PAUSE {
                        failures = 0;
                    }
                    error
                }
                Err(error) => error,
            };
            self.node.lose();
            if logged_at.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
                log::warn!("backplane: {} is lost: {error}", self.engine.address());
                logged_at = Some(Instant::now());
            }
            sleep(pause(failures)).await;
            failures += 1;
        }
    }

    /// Connects, and subscribes all that somebody here is to hear.
    async fn connect(&self) -> io::Result<Link> {
        let connected = timeout(CONNECT_TIMEOUT, self.engine.connect()).await;
        let mut link = connected.map_err(|_| late("it did not answer in time"))??;
        let commands = self.node.begin(link.outbound.max_message());
        let carried = timeout(CONNECT_TIMEOUT, link.outbound.carry(&commands)).await;
        carried.map_err(|_| late("it did not subscribe in time"))??;
        self.node.carried(&commands);
        Ok(link)
    }

    /// Works until the engine is lost; why it is.
    async fn work(&self, link: Link, delivery: &mut Delivery) -> io::Error {
        let Link { mut outbound, mut inbound } = link;
        let mut batch = Batch::default();
        let end = tokio::select! {
            error = self.speak(&mut *outbound, &mut batch) => error,
            error = listen(&mut *inbound, delivery) => error,
            error = self.watch() => error,
        };
        self.node.outbox.put_back(batch);
        end
    }

    /// Carries what waits. While one batch is under way the next one grows.
    async fn speak(&self, outbound: &mut dyn Outbound, batch: &mut Batch) -> io::Error {
        loop {
            self.node.outbox.take(batch).await;
            let large = batch.drop_larger(outbound.max_message());
            if large > 0 {
                self.node.counters.refused.add(large as u64);
                log::warn!("backplane: {large} messages were larger than the engine takes");
            }
            let carried = timeout(self.node.health.grace(), outbound.carry(&batch.commands)).await;
            if let Err(error) = carried.unwrap_or_else(|_| Err(late("it took nothing in time"))) {
                return error;
            }
            self.node.counters.published.add(batch.messages() as u64);
            self.node.carried(&batch.commands);
            batch.clear();
        }
    }

    /// Sends messages to itself; one that does not come back says that the engine carries nothing.
    async fn watch(&self) -> io::Error {
        let mut pulse = interval(PULSE);
        pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            pulse.tick().await;
            if self.node.health.is_overdue(Instant::now()) {
                return late("what is sent does not come back");
            }
            self.node.expire();
            self.node.announce();
            self.node.probe();
        }
    }
}

async fn listen(inbound: &mut dyn Inbound, delivery: &mut Delivery) -> io::Error {
    loop {
        match inbound.receive().await {
            Ok(bytes) => delivery.take(&bytes),
            Err(error) => return error,
        }
    }
}

fn late(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

/// Anything up to the longest pause, so that nodes do not come back all at once.
fn pause(failures: u32) -> Duration {
    let longest = FIRST_PAUSE.saturating_mul(1 << failures.min(16)).min(LONGEST_PAUSE);
    let random = RandomState::new().hash_one(0) >> 32;
    longest.mul_f64(f64::from(u32::try_from(random).unwrap_or(u32::MAX)) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_differ() {
        let longest = |failures| (0..1000).map(|_| pause(failures)).max().unwrap();
        assert!(longest(0) <= FIRST_PAUSE);
        assert!(longest(3) > FIRST_PAUSE && longest(3) <= FIRST_PAUSE * 8);
        assert!(longest(40) > LONGEST_PAUSE / 2 && longest(40) <= LONGEST_PAUSE);
    }
}
