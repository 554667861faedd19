//! More than one node: what is said on one reaches those who are on the others.
//!
//! The nodes share an engine that exists already. It carries bytes by subject and knows nothing of
//! hubs; what the bytes say, and who has to hear it, is decided here.

#[cfg_attr(
    not(any(feature = "kafka", feature = "nats", feature = "redis")),
    allow(dead_code, reason = "it is for engines")
)]
mod address;
mod cluster;
#[cfg_attr(
    not(feature = "redis"),
    allow(dead_code, unused_imports, reason = "other engines need less of it, or nothing")
)]
mod commands;
mod delivery;
mod driver;
mod engine;
#[cfg(test)]
mod engine_contract;
#[cfg(test)]
#[path = "../../tests/support/engine.rs"]
mod engine_server;
mod envelope;
mod health;
#[cfg(any(feature = "nats", feature = "redis"))]
mod inbox;
mod interest;
#[cfg_attr(
    not(feature = "redis"),
    allow(dead_code, unused_imports, reason = "other engines need less of it, or nothing")
)]
pub(crate) mod journal;
#[cfg(feature = "kafka")]
mod kafka;
mod memory;
#[cfg(feature = "nats")]
mod nats;
mod node;
mod node_id;
mod notes;
mod outbox;
mod pending;
#[cfg(feature = "redis")]
mod redis;
mod sealing;
mod subject;
#[cfg(feature = "tls")]
mod tls;

use std::{fmt, sync::Arc, time::Duration};

#[cfg(any(fuzzing, test))]
pub(crate) use self::envelope::Envelope;
pub use self::memory::Memory;
pub(crate) use self::node::Node;
#[cfg(feature = "redis")]
use self::redis::{Channels, RedisEngine};
use self::{
    address::EngineUrl,
    commands::{Carrier, CommandSource},
    driver::Driver,
    engine::Engine,
};
use crate::{error::Error, hub::Hub, relay::Relay};
use futures_util::future::{OptionFuture, join};

/// What joins a server with others: an engine, and how much patience there is with it.
///
/// ```no_run
/// # fn main() -> Result<(), hubnerite::Error> {
/// use hubnerite::{Backplane, Server};
///
/// let server = Server::new().backplane(Backplane::new("redis://127.0.0.1")?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Backplane {
    engine: Arc<dyn Engine>,
    prefix: String,
    buffer: usize,
    grace: Duration,
    commands: Option<Arc<dyn CommandSource>>,
}

impl Backplane {
    /// What the names of all subjects begin with. Default `hubnerite`.
    pub const PREFIX: &str = "hubnerite";

    /// Bytes that may wait for the engine. Default 16 MiB.
    pub const BUFFER: usize = 16 << 20;

    /// How long the engine may carry nothing. Default 5 s.
    pub const GRACE: Duration = Duration::from_secs(5);

    /// An engine by its URL, in a build with the cargo feature of its name; each may have several
    /// hosts, with commas between them:
    ///
    /// - `redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]`, `rediss://` with TLS, and
    ///   `redis+sentinel://` or `rediss+sentinel://[USER:PASSWORD@]SENTINEL[:PORT]/SERVICE`,
    /// - `nats://[USER:PASSWORD@|TOKEN@]HOST[:PORT]`, `tls://` to insist on TLS,
    /// - `kafka://[USER:PASSWORD@]HOST[:PORT]/TOPIC`.
    ///
    /// With TLS the server's certificate is judged by the authorities of the system. Behind the
    /// rest may come `?ca=FILE`, for others in their place, and `cert=FILE&key=FILE`, where the
    /// server asks for a certificate of ours. They hold PEM, and are read for each connection.
    ///
    /// # Errors
    /// [`Error::Backplane`] if the URL makes no sense, or its engine is not built in. It does not
    /// repeat the URL, which may have a password in it.
    pub fn new(url: &str) -> Result<Self, Error> {
        engine_of(url).map(Self::on).map_err(|reason| Error::Backplane { reason })
    }

    /// A Redis Cluster whose channels are sharded: a message passes only the servers of the shard
    /// that its channel belongs to. What one sender says to several groups may then arrive in
    /// another order; what it says to one does not.
    ///
    /// # Errors
    /// [`Error::Backplane`] like [`Backplane::new`], and unless it is `redis://` or `rediss://`.
    #[cfg(feature = "redis")]
    pub fn sharded(url: &str) -> Result<Self, Error> {
        let engine = checked(url).and_then(|url| Ok(RedisEngine::new(&url, Channels::Sharded)?));
        let engine = engine.map_err(|reason| Error::Backplane { reason })?;
        Ok(Self::on(Arc::new(engine)))
    }

    /// An engine in this process.
    #[must_use]
    pub fn over(engine: &Memory) -> Self {
        Self::on(Arc::new(engine.clone()))
    }

    fn on(engine: Arc<dyn Engine>) -> Self {
        let prefix = Self::PREFIX.to_owned();
        Self { engine, prefix, buffer: Self::BUFFER, grace: Self::GRACE, commands: None }
    }

    /// What the names of all subjects begin with: only nodes with the same prefix hear each other.
    ///
    /// # Errors
    /// [`Error::Backplane`] unless it is 1 to 64 letters, digits, `-` and `_`.
    pub fn prefix(mut self, prefix: &str) -> Result<Self, Error> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        if prefix.is_empty() || prefix.len() > 64 || !prefix.bytes().all(fits) {
            let reason = "the prefix must be 1 to 64 letters, digits, - and _".to_owned();
            return Err(Error::Backplane { reason });
        }
        prefix.clone_into(&mut self.prefix);
        Ok(self)
    }

    /// How many bytes may wait for the engine, at most 4 GiB. Past it messages are delivered on
    /// this node alone, and their senders are told so.
    #[must_use]
    pub fn buffer(mut self, bytes: usize) -> Self {
        self.buffer = bytes;
        self
    }

    /// After how long without a sign of life the server is no longer ready, and connects anew: 2 s
    /// at least.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Makes this hub's process a node: what happens in the hub is told from now on.
    pub(crate) fn node(&self, hub: &Hub) -> Arc<Node> {
        let counters = Arc::clone(&hub.metrics().backplane);
        let node = Arc::new(Node::new(&self.prefix, self.buffer, self.grace, counters));
        hub.set_relay(Arc::clone(&node) as Arc<dyn Relay>);
        node
    }

    /// Carries out what backends have this engine keep: `redis-stream:KEY` or `kafka:TOPIC`, on
    /// the engine at this URL. All nodes that read it share the work.
    ///
    /// # Errors
    /// [`Error::Commands`] names the rule that is broken, and never repeats the URL.
    pub fn commands_from(mut self, url: &str, source: &str) -> Result<Self, Error> {
        let source = commands::source(url, source);
        let source = source.map_err(|rule| Error::Commands { reason: rule.to_owned() })?;
        self.commands = Some(source);
        Ok(self)
    }

    /// Joins the node with the others for as long as this runs.
    pub(crate) async fn drive(self, node: Arc<Node>, hub: Hub) {
        let engine = Arc::clone(&self.engine);
        let carrier = self.commands.map(|source| {
            let node = Arc::clone(&node);
            Carrier { source, engine, node }.run()
        });
        let driver = Driver { node, engine: self.engine, hub }.run();
        join(driver, OptionFuture::from(carrier)).await;
    }
}

/// A URL whose files can be used as they are now.
fn checked(url: &str) -> Result<EngineUrl, String> {
    let url: EngineUrl = url.parse()?;
    #[cfg(feature = "tls")]
    if url.pem != address::PemFiles::default() {
        tls::client(&url.pem).map_err(|error| error.to_string())?;
    }
    Ok(url)
}

/// The engine that a URL means.
fn engine_of(url: &str) -> Result<Arc<dyn Engine>, String> {
    let url = checked(url)?;
    match url.scheme.as_str() {
        #[cfg(feature = "kafka")]
        "kafka" => Ok(Arc::new(kafka::KafkaEngine::new(&url)?)),
        #[cfg(feature = "nats")]
        "nats" | "tls" => Ok(Arc::new(nats::NatsEngine::new(url)?)),
        #[cfg(feature = "redis")]
        "redis" | "rediss" | "redis+sentinel" | "rediss+sentinel" => {
            Ok(Arc::new(RedisEngine::new(&url, Channels::Ordinary)?))
        }
        scheme => Err(no_engine(scheme)),
    }
}

fn no_engine(scheme: &str) -> String {
    let feature = match scheme {
        "redis" | "rediss" | "redis+sentinel" | "rediss+sentinel" => "redis",
        "nats" | "tls" => "nats",
        "kafka" => "kafka",
        _ => return "the URL must begin with redis://, rediss://, nats:// or kafka://".to_owned(),
    };
    format!("this build has no {feature}: it needs the cargo feature {feature}")
}

impl fmt::Debug for Backplane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backplane").field("engine", &self.engine.address()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_means_no_engine_is_refused_and_not_repeated() {
        for (url, rule) in [
            ("", "expected SCHEME://HOST"),
            ("secret", "expected SCHEME://HOST"),
            ("http://user:secret@host", "must begin with redis://"),
            ("redis://user:secret@host:x", "a port is a number"),
        ] {
            let error = Backplane::new(url).unwrap_err().to_string();
            assert!(error.contains(rule), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_prefix_is_a_word() {
        let backplane = || Backplane::over(&Memory::default());
        assert!(backplane().prefix("blue-1_a").is_ok());
        for wrong in ["", "a.b", "a*", &"a".repeat(65)] {
            assert!(backplane().prefix(wrong).is_err(), "{wrong}");
        }
    }
}
