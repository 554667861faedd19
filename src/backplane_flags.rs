//! The flags of the backplane, and what they come to.

use std::{convert::Infallible, time::Duration};

use clap::builder::NonEmptyStringValueParser;
use hubnerite::{Backplane, Error, Server, parse_duration, parse_size};

/// What joins the daemon with others.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Backplane")]
pub(crate) struct BackplaneFlags {
    /// The engine that joins this daemon with others: redis://, rediss://, nats:// or kafka://
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
    /// The rule that the flags break, if they do.
    pub(crate) fn broken_rule(&self) -> Option<String> {
        match self.backplane()?.err()? {
            Error::Backplane { reason } => Some(reason),
            other => Some(other.to_string()),
        }
    }

    /// Joins the server with others, if there are any.
    pub(crate) fn join(&self, server: Server) -> Result<Server, Error> {
        match self.backplane() {
            Some(backplane) => Ok(server.backplane(backplane?)),
            None => Ok(server),
        }
    }

    fn backplane(&self) -> Option<Result<Backplane, Error>> {
        let url = self.backplane.as_ref()?;
        let backplane =
            self.engine(&url.0).and_then(|backplane| backplane.prefix(&self.backplane_prefix));
        Some(
            backplane.map(|backplane| {
                backplane.buffer(self.backplane_buffer).grace(self.backplane_grace)
            }),
        )
    }

    fn engine(&self, url: &str) -> Result<Backplane, Error> {
        #[cfg(feature = "redis")]
        if self.redis_sharded {
            return Backplane::sharded(url);
        }
        Backplane::new(url)
    }
}
