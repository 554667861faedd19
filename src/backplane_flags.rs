//! The flags of the backplane, and what they come to.

use std::{convert::Infallible, time::Duration};

use clap::builder::NonEmptyStringValueParser;
use hubnerite::{Backplane, Error, EventHandler, EventStream, Server, parse_duration, parse_size};

/// What joins the daemon with others.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Backplane")]
pub(crate) struct BackplaneFlags {
    /// The engine that joins this daemon with others: redis://, rediss://, nats://, tls:// or
    /// kafka://; for TLS with ?ca=PATH behind it, &cert=PATH&key=PATH too, if the system's
    /// authorities are not enough
    #[arg(long, env = "HUBNERITE_BACKPLANE", value_name = "URL", value_parser = parse_url)]
    backplane: Option<Url>,

    /// What the names of all subjects begin with; only daemons with the same hear each other
    #[arg(long, env = "HUBNERITE_BACKPLANE_PREFIX", value_name = "WORD")]
    #[arg(default_value = Backplane::PREFIX, value_parser = NonEmptyStringValueParser::new())]
    backplane_prefix: String,

    /// Bytes that may wait for the engine; past it messages reach this daemon's clients alone, and
    /// their senders are told so
    #[arg(long, env = "HUBNERITE_BACKPLANE_BUFFER", value_name = "SIZE", default_value = "16MiB")]
    #[arg(value_parser = parse_size)]
    backplane_buffer: usize,

    /// After how long without a sign of life of the engine /readyz says 503
    #[arg(long, env = "HUBNERITE_BACKPLANE_GRACE", value_name = "DURATION", default_value = "5s")]
    #[arg(value_parser = parse_duration)]
    backplane_grace: Duration,

    /// With a Redis Cluster: publish to one shard, and not to all of its servers
    #[cfg(feature = "redis")]
    #[arg(long, env = "HUBNERITE_REDIS_SHARDED", requires = "backplane")]
    redis_sharded: bool,

    /// Where user events are kept for backends, on the same engine: redis-stream:KEY or kafka:TOPIC
    #[arg(long, env = "HUBNERITE_EVENTS_TO", value_name = "STREAM")]
    #[arg(requires = "backplane", conflicts_with = "event_handler")]
    events_to: Option<String>,

    /// Where backends leave messages to send, on the same engine: redis-stream:KEY or kafka:TOPIC
    #[arg(long, env = "HUBNERITE_COMMANDS_FROM", value_name = "STREAM", requires = "backplane")]
    commands_from: Option<String>,
}

/// A URL that nobody is shown: there may be a password in it. What is wrong with it is said later,
/// because clap would repeat it.
#[derive(Clone)]
struct Url(String);

impl std::fmt::Debug for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Url")
    }
}

#[expect(clippy::unnecessary_wraps, reason = "what clap asks for")]
fn parse_url(text: &str) -> Result<Url, Infallible> {
    Ok(Url(text.to_owned()))
}

impl BackplaneFlags {
    /// The flag that breaks a rule, and the rule, if one does.
    pub(crate) fn broken_rule(&self) -> Option<String> {
        let (flag, error) = match self.backplane()? {
            Err(error @ Error::Commands { .. }) => ("--commands-from", error),
            Err(error) => ("--backplane", error),
            Ok(_) => ("--events-to", self.stream()?.err()?),
        };
        let rule = match error {
            Error::Backplane { reason }
            | Error::Commands { reason }
            | Error::EventStream { reason } => reason,
            other => other.to_string(),
        };
        Some(format!("{flag}: {rule}"))
    }

    /// Joins the server with others, and keeps events, as far as that is wanted.
    pub(crate) fn join(&self, server: Server) -> Result<Server, Error> {
        let Some(backplane) = self.backplane() else { return Ok(server) };
        let server = server.backplane(backplane?);
        match self.stream() {
            Some(stream) => server.event_handler(EventHandler::stream(stream?)),
            None => Ok(server),
        }
    }

    fn backplane(&self) -> Option<Result<Backplane, Error>> {
        let url = &self.backplane.as_ref()?.0;
        let engine = self.engine(url).and_then(|engine| engine.prefix(&self.backplane_prefix));
        let engine = match &self.commands_from {
            Some(source) => engine.and_then(|engine| engine.commands_from(url, source)),
            None => engine,
        };
        let patient =
            |engine: Backplane| engine.buffer(self.backplane_buffer).grace(self.backplane_grace);
        Some(engine.map(patient))
    }

    fn stream(&self) -> Option<Result<EventStream, Error>> {
        let url = self.backplane.as_ref()?;
        Some(EventStream::new(&url.0, self.events_to.as_ref()?))
    }

    #[cfg_attr(not(feature = "redis"), expect(clippy::unused_self, reason = "Redis has a flag"))]
    fn engine(&self, url: &str) -> Result<Backplane, Error> {
        #[cfg(feature = "redis")]
        if self.redis_sharded {
            return Backplane::sharded(url);
        }
        Backplane::new(url)
    }
}
