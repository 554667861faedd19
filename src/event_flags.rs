//! The flags of the event handler, and what they come to.

use std::{convert::Infallible, num::NonZeroUsize, time::Duration};

use clap::builder::NonEmptyStringValueParser;
use hubnerite::{Error, EventHandler, EventUrl, Server, parse_duration};

use crate::control_flags::Keys;

/// Who is told of what clients do.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Event handler")]
pub(crate) struct EventFlags {
    /// Where events are sent, with {hub} and {event} for the names: http:// or https://
    #[arg(long, env = "HUBNERITE_EVENT_HANDLER", value_name = "URL", value_parser = parse_url)]
    event_handler: Option<Result<EventUrl, &'static str>>,

    /// Which events: connect, connected, disconnected, names of user events, * for all of those
    #[arg(long, env = "HUBNERITE_EVENTS", value_name = "NAME", value_delimiter = ',')]
    #[arg(default_value = "connect,connected,disconnected,*", requires = "event_handler")]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    events: Vec<String>,

    /// What the daemon calls itself when it asks whether events are wanted [default: the address
    /// of the control port]
    #[arg(long, env = "HUBNERITE_EVENT_ORIGIN", value_name = "HOST", requires = "event_handler")]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    event_origin: Option<String>,

    /// How long an event may take, its answer included
    #[arg(long, env = "HUBNERITE_EVENT_TIMEOUT", value_name = "DURATION", default_value = "5s")]
    #[arg(value_parser = parse_duration)]
    event_timeout: Duration,

    /// Events that may be on their way at once
    #[arg(long, env = "HUBNERITE_EVENT_CONCURRENCY", value_name = "COUNT")]
    #[arg(default_value_t = EventHandler::CONCURRENCY)]
    event_concurrency: NonZeroUsize,
}

/// What is wrong with it is said later: clap would repeat it, and there may be a password in it.
#[expect(clippy::unnecessary_wraps, reason = "what clap asks for")]
fn parse_url(text: &str) -> Result<Result<EventUrl, &'static str>, Infallible> {
    Ok(text.parse())
}

impl EventFlags {
    /// The rule that the URL breaks, if it does.
    pub(crate) fn broken_rule(&self) -> Option<&'static str> {
        self.event_handler.as_ref()?.as_ref().err().copied()
    }

    /// Tells the event handler of events, if there is one.
    pub(crate) fn tell(&self, server: Server, keys: Option<&Keys>) -> Result<Server, Error> {
        let Some(Ok(url)) = &self.event_handler else { return Ok(server) };
        let handler = EventHandler::new(url.clone())
            .events(&self.events)
            .access_keys(keys.map(|keys| keys.keys().all().to_vec()).unwrap_or_default())
            .timeout(self.event_timeout)
            .concurrency(self.event_concurrency);
        server.event_handler(match &self.event_origin {
            Some(host) => handler.origin(host),
            None => handler,
        })
    }
}
