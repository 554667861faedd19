//! The daemon: flags, logging, listeners, signals, exit code. Nothing else.

use std::{num::NonZeroUsize, process::ExitCode, thread::available_parallelism, time::Duration};

use clap::{CommandFactory, Parser, error::ErrorKind};
use hubnerite::{
    Address, Config, Error, Listener, SameUser, Server, Sharing, parse_duration, parse_size,
};
use log::LevelFilter;
use sd_notify::NotifyState;
use tokio::runtime::Builder;

#[cfg(feature = "backplane")]
use crate::backplane_flags::BackplaneFlags;
use crate::{access_flags::AccessFlags, signals::Reloads};
#[cfg(feature = "control")]
use crate::{
    control_flags::{ControlFlags, Keys},
    event_flags::EventFlags,
};

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

mod access_flags;
#[cfg(feature = "backplane")]
mod backplane_flags;
#[cfg(feature = "control")]
mod control_flags;
#[cfg(feature = "control")]
mod event_flags;
mod logging;
mod signals;

/// What is said below the flags.
const NOTES: &str = "\
Every flag is also an environment variable: --max-groups 8 is HUBNERITE_MAX_GROUPS=8. A flag that
may be repeated takes several values there, with commas between them.
Durations are written 10s, 500ms or 2m; plain numbers are seconds.
Sizes are written 64KiB or 1MiB; plain numbers are bytes.";

/// A WebSocket hub: endpoints by path, named users, groups and broadcast.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, after_help = NOTES, mut_args(|arg| arg.hide_env(true)))]
struct Flags {
    /// Addresses to listen on: HOST:PORT or unix:PATH; may be repeated
    #[arg(long, env = "HUBNERITE_LISTEN", value_name = "ADDRESS", value_delimiter = ',')]
    #[arg(default_value = "127.0.0.1:8000")]
    listen: Vec<Address>,

    /// What is logged: off, error, warn, info, debug or trace
    #[arg(long, env = "HUBNERITE_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    log_level: LevelFilter,

    /// Share the addresses with other processes (`SO_REUSEPORT`), to start the next one beside this
    #[arg(long, env = "HUBNERITE_REUSE_PORT")]
    reuse_port: bool,

    /// Threads that serve connections [default: the number of cores]
    #[arg(long, env = "HUBNERITE_THREADS", value_name = "COUNT")]
    threads: Option<NonZeroUsize>,

    #[command(flatten)]
    access: AccessFlags,

    #[cfg(feature = "control")]
    #[command(flatten)]
    control: ControlFlags,

    #[cfg(feature = "control")]
    #[command(flatten)]
    events: EventFlags,

    #[cfg(feature = "backplane")]
    #[command(flatten)]
    backplane: BackplaneFlags,

    #[command(flatten)]
    limits: LimitFlags,
}

/// How much, and how long.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Limits")]
struct LimitFlags {
    /// When a user who is connected connects again: allow both, replace the older (closed with
    /// 4000) or reject the newer (answered 409)
    #[arg(long, env = "HUBNERITE_SAME_USER", value_name = "POLICY", default_value = "allow")]
    #[arg(hide_possible_values = true)]
    same_user: SameUser,

    /// From accept to the answer of the opening handshake
    #[arg(long, env = "HUBNERITE_OPEN_TIMEOUT", value_name = "DURATION", default_value = "10s")]
    #[arg(value_parser = parse_duration)]
    open_timeout: Duration,

    /// How long a connection may be silent before it is pinged; 0 never pings
    #[arg(long, env = "HUBNERITE_PING_INTERVAL", value_name = "DURATION", default_value = "20s")]
    #[arg(value_parser = parse_duration)]
    ping_interval: Duration,

    /// How long after a ping any byte must have come
    #[arg(long, env = "HUBNERITE_PING_TIMEOUT", value_name = "DURATION", default_value = "20s")]
    #[arg(value_parser = parse_duration)]
    ping_timeout: Duration,

    /// How long the closing handshake may take
    #[arg(long, env = "HUBNERITE_CLOSE_TIMEOUT", value_name = "DURATION", default_value = "5s")]
    #[arg(value_parser = parse_duration)]
    close_timeout: Duration,

    /// How long a client may take none of the bytes that wait for it
    #[arg(long, env = "HUBNERITE_SEND_TIMEOUT", value_name = "DURATION", default_value = "10s")]
    #[arg(value_parser = parse_duration)]
    send_timeout: Duration,

    /// From the first byte of a message to its last
    #[arg(long, env = "HUBNERITE_MESSAGE_TIMEOUT", value_name = "DURATION", default_value = "30s")]
    #[arg(value_parser = parse_duration)]
    message_timeout: Duration,

    /// How long connections may take to end when the daemon stops
    #[arg(long, env = "HUBNERITE_SHUTDOWN_GRACE", value_name = "DURATION", default_value = "30s")]
    #[arg(value_parser = parse_duration)]
    shutdown_grace: Duration,

    /// The largest message and frame that is taken in, inclusive
    #[arg(long, env = "HUBNERITE_MAX_MESSAGE_SIZE", value_name = "SIZE", default_value = "1MiB")]
    #[arg(value_parser = parse_size)]
    max_message_size: usize,

    /// Frames that a message may come in
    #[arg(long, env = "HUBNERITE_MAX_FRAGMENTS", value_name = "COUNT", default_value_t = 1024)]
    max_fragments: u32,

    /// Pings, pongs and close frames a second that a client may send for long
    #[arg(long, env = "HUBNERITE_CONTROL_FRAMES_PER_SECOND", value_name = "COUNT")]
    #[arg(default_value_t = 20)]
    control_frames_per_second: u32,

    /// Pings, pongs and close frames that a client may send at once
    #[arg(long, env = "HUBNERITE_CONTROL_FRAMES_BURST", value_name = "COUNT")]
    #[arg(default_value_t = 100)]
    control_frames_burst: u32,

    /// Bytes queued for one connection, past which it is closed with 1013
    #[arg(long, env = "HUBNERITE_MAX_BACKLOG", value_name = "SIZE", default_value = "1MiB")]
    #[arg(value_parser = parse_size)]
    max_backlog: usize,

    /// Bytes queued for all connections, past which the slowest are closed [default: 25 % of memory]
    #[arg(long, env = "HUBNERITE_MAX_TOTAL_BACKLOG", value_name = "SIZE", value_parser = parse_size)]
    max_total_backlog: Option<usize>,

    /// Connections at once; others are answered 503 [default: the open-file limit less 256]
    #[arg(long, env = "HUBNERITE_MAX_CONNECTIONS", value_name = "COUNT")]
    max_connections: Option<NonZeroUsize>,

    /// Groups that one connection may be in
    #[arg(long, env = "HUBNERITE_MAX_GROUPS", value_name = "COUNT", default_value_t = 128)]
    max_groups: usize,

    /// The largest request head; above it the answer is 431
    #[arg(long, env = "HUBNERITE_MAX_HEAD_SIZE", value_name = "SIZE", default_value = "8KiB")]
    #[arg(value_parser = parse_size)]
    max_head_size: usize,

    /// Header fields in a request; above it the answer is 431
    #[arg(long, env = "HUBNERITE_MAX_HEADERS", value_name = "COUNT", default_value_t = 64)]
    max_headers: usize,

    /// Messages a second of one connection, past which it is closed with 1008; 0 for any number
    #[arg(long, env = "HUBNERITE_MESSAGES_PER_SECOND", value_name = "COUNT", default_value_t = 0)]
    messages_per_second: u32,

    /// Bytes a second of one connection, past which it is read from no faster, and closed with
    /// 1008 if it keeps on for --message-timeout; 0 for any number
    #[arg(long, env = "HUBNERITE_BYTES_PER_SECOND", value_name = "SIZE", default_value = "0")]
    #[arg(value_parser = parse_size)]
    bytes_per_second: usize,

    /// Connections of one address; others are answered 429; 0 for any number
    #[arg(long, env = "HUBNERITE_MAX_PER_IP", value_name = "COUNT", default_value_t = 0)]
    max_per_ip: u32,

    /// Opening handshakes a second of one address; others are answered 429; 0 for any number
    #[arg(
        long,
        env = "HUBNERITE_HANDSHAKES_PER_SECOND",
        value_name = "COUNT",
        default_value_t = 0
    )]
    handshakes_per_second: u32,

    /// How long the daemon still accepts connections when it stops, while /readyz says 503
    #[arg(long, env = "HUBNERITE_DRAIN_DELAY", value_name = "DURATION", default_value = "0s")]
    #[arg(value_parser = parse_duration)]
    drain_delay: Duration,

    /// Over how long clients are asked to come back when the daemon stops
    #[arg(long, env = "HUBNERITE_DRAIN_SPREAD", value_name = "DURATION", default_value = "0s")]
    #[arg(value_parser = parse_duration)]
    drain_spread: Duration,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    refuse_to_be_open(&flags);
    #[cfg(feature = "control")]
    if let Some(rule) = flags.events.broken_rule() {
        refuse(ErrorKind::ValueValidation, &format!("--event-handler: {rule}"));
    }
    #[cfg(feature = "backplane")]
    if let Some(rule) = flags.backplane.broken_rule() {
        refuse(ErrorKind::ValueValidation, &rule);
    }
    match start(flags) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("hubnerite: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Without a key everybody has every right: that is for loopback, unless it is meant.
fn refuse_to_be_open(flags: &Flags) {
    let remote = flags.listen.iter().find(|address| !address.is_local());
    if let Some(address) = remote.filter(|_| !flags.has_key() && !flags.access.allow_open) {
        let text = format!(
            "--listen {address} would let everybody in: give a --token-key, an --access-key or \
             --tls-client-ca, or say --allow-open"
        );
        refuse(ErrorKind::MissingRequiredArgument, &text);
    }
    #[cfg(feature = "control")]
    if let Some(address) = flags.control.keyless_address() {
        let text = format!("--control {address} is for others too: give an --access-key");
        refuse(ErrorKind::MissingRequiredArgument, &text);
    }
}

fn refuse(kind: ErrorKind, why: &str) -> ! {
    Flags::command().error(kind, why).exit()
}

impl Flags {
    fn has_key(&self) -> bool {
        #[cfg(feature = "control")]
        if self.control.has_key() {
            return true;
        }
        self.access.has_key()
    }

    fn sharing(&self) -> Sharing {
        if self.reuse_port { Sharing::ReusePort } else { Sharing::Exclusive }
    }
}

fn start(flags: Flags) -> Result<ExitCode, Box<dyn std::error::Error>> {
    logging::start(flags.log_level)?;
    // Without more files there are fewer connections, and the default of their limit knows it.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    Ok(runtime(flags.threads).enable_all().build()?.block_on(serve(flags))?)
}

/// One thread needs nothing of what lets several take each other's work.
fn runtime(threads: Option<NonZeroUsize>) -> Builder {
    let threads = threads.or_else(|| available_parallelism().ok()).map_or(1, NonZeroUsize::get);
    if threads == 1 {
        return Builder::new_current_thread();
    }
    let mut runtime = Builder::new_multi_thread();
    runtime.worker_threads(threads);
    runtime
}

async fn serve(flags: Flags) -> Result<ExitCode, Error> {
    let mut reloads = Reloads::default();
    let server = Server::with_config(config(&flags)).daemon_routes();
    #[cfg(feature = "control")]
    let keys = flags.control.keys()?;
    #[cfg(not(feature = "control"))]
    let keys = None;
    let server = flags.access.guard(server, keys.as_ref(), &mut reloads)?;
    let listeners = listeners(&flags, &mut reloads).await?;
    #[cfg(feature = "control")]
    let server = control(server, keys.as_ref(), &flags, &mut reloads).await?;
    #[cfg(feature = "control")]
    let server = flags.events.tell(server, keys.as_ref())?;
    #[cfg(feature = "backplane")]
    let server = flags.backplane.join(server)?;
    // Before anybody is told that we are here, and may tell us to go.
    let stop = signals::stop()?;
    tokio::spawn(signals::reload_on_hangup(reloads)?);
    for listener in &listeners {
        log::info!("listening on {}", listener.local_address());
    }
    signals::tell_systemd(&[NotifyState::Ready]);
    let ended = server.run_on(listeners, stop).await;
    if ended.left > 0 {
        log::warn!("stopped with {} connections left", ended.left);
        return Ok(ExitCode::from(signals::EXIT_NOT_DRAINED));
    }
    log::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// What systemd has bound, or else what the flags say.
async fn listeners(flags: &Flags, reloads: &mut Reloads) -> Result<Vec<Listener>, Error> {
    let mut listeners = Listener::activated()?;
    if listeners.is_empty() {
        for address in &flags.listen {
            listeners.push(Listener::bind(address, flags.sharing()).await?);
        }
    }
    flags.access.secure(listeners, reloads)
}

#[cfg(feature = "control")]
async fn control(
    server: Server,
    keys: Option<&Keys>,
    flags: &Flags,
    reloads: &mut Reloads,
) -> Result<Server, Error> {
    let secure = |listeners| flags.access.secure(listeners, reloads);
    flags.control.serve(server, keys, flags.sharing(), flags.access.scheme(), secure).await
}

fn config(flags: &Flags) -> Config {
    let default = Config::default();
    let (access, limits) = (&flags.access, &flags.limits);
    Config {
        allow_origins: access.allow_origin.clone(),
        allow_hosts: access.allow_host.clone(),
        trusted_proxies: access.trusted_proxy.clone(),
        expiry: access.expiry(),
        same_user: limits.same_user,
        open_timeout: limits.open_timeout,
        ping_interval: limits.ping_interval,
        ping_timeout: limits.ping_timeout,
        close_timeout: limits.close_timeout,
        send_timeout: limits.send_timeout,
        message_timeout: limits.message_timeout,
        shutdown_grace: limits.shutdown_grace,
        max_message_size: limits.max_message_size,
        max_fragments: limits.max_fragments,
        control_frames_per_second: limits.control_frames_per_second,
        control_frames_burst: limits.control_frames_burst,
        max_backlog: limits.max_backlog,
        max_total_backlog: limits.max_total_backlog.unwrap_or(default.max_total_backlog),
        max_connections: limits.max_connections.unwrap_or(default.max_connections),
        max_groups: limits.max_groups,
        max_head_size: limits.max_head_size,
        max_headers: limits.max_headers,
        messages_per_second: limits.messages_per_second,
        bytes_per_second: limits.bytes_per_second,
        max_per_ip: limits.max_per_ip,
        handshakes_per_second: limits.handshakes_per_second,
        drain_delay: limits.drain_delay,
        drain_spread: limits.drain_spread,
    }
}
