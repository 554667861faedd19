//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Loads a WebSocket server and measures it. What comes back is verified: a lost, doubled, reordered or altered message
/// is an error and exit code 1, not a number.
#[derive(Debug, Parser)]
#[command(name = "load", version, max_term_width = 100)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// What every mode understands.
#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// The server's process: its CPU time and memory are measured (with its children; may be repeated)
    #[arg(long, global = true, value_name = "PID")]
    pub(crate) pid: Vec<u32>,
    /// How long to measure
    #[arg(long, global = true, value_name = "TIME", default_value = "5s", value_parser = duration)]
    pub(crate) duration: Duration,
    /// How long to run before that
    #[arg(long, global = true, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub(crate) warm_up: Duration,
    /// Threads of the load generator; connections are dealt out to them
    #[arg(long, global = true, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) threads: u32,
    /// Opening handshakes under way at once, per thread
    #[arg(long, global = true, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) opening: u32,
    /// Give up when no connection could be opened for so long, or no answer came for so long at the end
    #[arg(long, global = true, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(crate) patience: Duration,
    /// A further header of the opening handshake, 'Name: value' (may be repeated)
    #[arg(long, global = true, value_name = "HEADER")]
    pub(crate) header: Vec<String>,
    /// Source addresses (of 127.1.0.0/16) to connect from, where one has too few ports; 0 leaves it to the kernel
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u32).range(..=60_000))]
    pub(crate) sources: Option<u32>,
    /// Allow a server on another machine: say so only of one that is yours
    #[arg(long, global = true)]
    pub(crate) remote: bool,
    /// Write the result to this file as JSON
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Draw throughput and latency to this file as SVG
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,
    /// Show no progress
    #[arg(long, global = true)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Closed loop: each connection keeps so many messages in flight, and gets them back
    Echo(Echo),
    /// Publishers send to many subscribers; a message is done when all have it
    Fanout(Fanout),
    /// Open loop: messages posted by HTTP at a fixed rate; latency counts from when each was due
    Publish(Publish),
    /// Open connections that say nothing: memory per connection
    Idle(Idle),
    /// Opening handshakes a second
    Connect(Connect),
    /// Connect, talk and abort, over and over: half a request, half a frame, answers unread
    Churn(Connect),
    /// Open loop: messages at a fixed rate; latency counts from when each was due
    Rate(Rate),
}

/// What is sent and expected back.
#[derive(Debug, Clone, Args)]
pub(crate) struct Messages {
    /// The server's address; {id} in it stands for the connection's number
    #[arg(value_name = "URL", default_value = "ws://127.0.0.1:8000/echo")]
    pub(crate) url: String,
    #[arg(long, short, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connections: u32,
    /// Bytes in a message
    #[arg(long, short, default_value = "64", value_parser = size)]
    pub(crate) size: usize,
    /// Send binary messages, not text
    #[arg(long, conflicts_with = "text")]
    pub(crate) binary: bool,
    /// Send text messages (the default)
    #[arg(long)]
    pub(crate) text: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Echo {
    #[command(flatten)]
    pub(crate) messages: Messages,
    /// Messages that each connection keeps in flight
    #[arg(long, short, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) in_flight: u32,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Rate {
    #[command(flatten)]
    pub(crate) messages: Messages,
    /// Messages a second, over all connections
    #[arg(long, short, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=50_000_000))]
    pub(crate) rate: u32,
}

/// Who subscribes, and how.
#[derive(Debug, Clone, Args)]
pub(crate) struct Audience {
    /// The server's address; a path in it is put in front of the subscribers' and publishers' paths; several hosts with
    /// commas between them are nodes of a cluster and get connections in turn
    #[arg(value_name = "URL", default_value = "ws://127.0.0.1:8000")]
    pub(crate) url: String,
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) subscribers: u32,
    /// Bytes in {payload}
    #[arg(long, short, default_value = "64", value_parser = size)]
    pub(crate) size: usize,
    /// Which server's protocol the paths and frames default to
    #[arg(long, value_enum, default_value_t = Preset::Hubnerite)]
    pub(crate) preset: Preset,
    /// Path of a subscriber; {id} is its number
    #[arg(long, value_name = "PATH")]
    pub(crate) subscriber_path: Option<String>,
    /// Text frame that a subscriber sends once it is connected; {id} is its number
    #[arg(long, value_name = "TEXT")]
    pub(crate) subscribe: Option<String>,
    /// Part of the frame that tells a subscriber that it is subscribed; empty: it is so at once
    #[arg(long, value_name = "TEXT")]
    pub(crate) ready: Option<String>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Fanout {
    #[command(flatten)]
    pub(crate) audience: Audience,
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=9999))]
    pub(crate) publishers: u32,
    /// Messages that each publisher keeps under way
    #[arg(long, short, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) window: u32,
    /// A publisher sends no sooner than so long after its last message
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) every: Option<Duration>,
    /// Path of a publisher
    #[arg(long, value_name = "PATH")]
    pub(crate) publisher_path: Option<String>,
    /// Text frame that a publisher sends: {payload} must be in it, {sequence} may
    #[arg(long, value_name = "TEXT")]
    pub(crate) publish: Option<String>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Publish {
    #[command(flatten)]
    pub(crate) audience: Audience,
    /// Where messages are posted to
    #[arg(
        long,
        value_name = "URL",
        default_value = "http://127.0.0.1:8001/api/hubs/default/groups/load/:send"
    )]
    pub(crate) post: String,
    /// A header of each request, 'Name: value' (may be repeated)
    #[arg(long, value_name = "HEADER", default_value = "Content-Type: text/plain")]
    pub(crate) post_header: Vec<String>,
    /// Body of each request: {payload} must be in it, {sequence} may
    #[arg(long, value_name = "TEXT", default_value = "{payload}")]
    pub(crate) body: String,
    /// HTTP connections, which are kept; each has one request under way at most
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=9999))]
    pub(crate) publishers: u32,
    /// Messages a second, over all publishers
    #[arg(long, short, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) rate: u32,
}

/// Known protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Preset {
    /// Hubnerite's JSON protocol on /ws/{user}
    Hubnerite,
    /// The JSON protocol of `json.webpubsub.azure.v1` on /client/hubs/default
    WebPubsub,
    /// nginx with nchan: publishers on /pub/load, subscribers on /sub/load
    Nchan,
    /// A server that sends what publishers on /pub say to all who are on /sub
    Paths,
    /// A server that sends everything to everybody
    Broadcast,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Idle {
    /// The server's address; {id} in it stands for the connection's number
    #[arg(value_name = "URL", default_value = "ws://127.0.0.1:8000/echo")]
    pub(crate) url: String,
    #[arg(long, short, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connections: u32,
    /// Text frame that each connection sends once, as soon as it is open; {id} is its number
    #[arg(long, value_name = "TEXT")]
    pub(crate) say: Option<String>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Connect {
    /// The server's address; {id} in it stands for the connection's number
    #[arg(value_name = "URL", default_value = "ws://127.0.0.1:8000/echo")]
    pub(crate) url: String,
    /// Connections at once
    #[arg(long, short, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connections: u32,
    /// End with a closing handshake, not with a reset (connect only)
    #[arg(long)]
    pub(crate) close: bool,
}

/// `250ms`, `10s`, `2m`; a plain number is seconds. An hour at most: a load stops by itself.
fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) =
        text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len()));
    let factor = match unit {
        "ms" => 0.001,
        "s" | "" => 1.0,
        "m" => 60.0,
        _ => return Err("use ms, s or m".to_owned()),
    };
    let seconds = number.trim().parse::<f64>().map_err(|error| error.to_string())? * factor;
    if (0.0..=3600.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("0 to 60 minutes".to_owned())
    }
}

/// `64`, `16KiB`, `1MiB`; 64 MiB at most.
fn size(text: &str) -> Result<usize, String> {
    let (number, unit) =
        text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len()));
    let shift = match unit {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        _ => return Err("use B, KiB or MiB".to_owned()),
    };
    let bytes = number.trim().parse::<usize>().map_err(|error| error.to_string())?;
    if bytes <= (64 << 20) >> shift { Ok(bytes << shift) } else { Err("64 MiB at most".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        <Options as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn units_are_understood() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1.5"), Ok(Duration::from_millis(1500)));
        assert!(duration("2h").is_err() && duration("61m").is_err());
        assert_eq!(size("16KiB"), Ok(16 << 10));
        assert!(size("65MiB").is_err());
    }
}
