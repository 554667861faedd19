//! The daemon: flags, logging, listeners, signals, exit code. Nothing else.

use std::{
    io::{self, IsTerminal},
    num::NonZeroUsize,
    process::ExitCode,
    time::Duration,
};

use clap::Parser;
use hubnerite::{Address, Config, Error, Listener, SameUser, Server, parse_duration, parse_size};
use log::LevelFilter;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// A WebSocket hub: endpoints by path, named users, groups and broadcast.
///
/// Durations are written 10s, 500ms or 2m; plain numbers are seconds. Sizes are written 64KiB or
/// 1MiB; plain numbers are bytes.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Flags {
    /// Addresses to listen on: HOST:PORT or unix:PATH; may be repeated
    #[arg(long, env = "HUBNERITE_LISTEN", value_name = "ADDRESS", value_delimiter = ',')]
    #[arg(default_value = "127.0.0.1:8000")]
    listen: Vec<Address>,

    /// What is logged: off, error, warn, info, debug or trace
    #[arg(long, env = "HUBNERITE_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    log_level: LevelFilter,

    /// Threads that serve connections [default: the number of cores]
    #[arg(long, env = "HUBNERITE_THREADS", value_name = "COUNT")]
    threads: Option<NonZeroUsize>,

    /// What happens when a user who is connected connects again
    #[arg(long, env = "HUBNERITE_SAME_USER", value_name = "POLICY", default_value = "allow")]
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
}

/// The grace ran out before every connection had ended.
const EXIT_NOT_DRAINED: u8 = 3;

fn main() -> ExitCode {
    let flags = Flags::parse();
    match start(flags) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("hubnerite: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(flags: Flags) -> Result<ExitCode, Box<dyn std::error::Error>> {
    start_logging(flags.log_level)?;
    // Without more files there are fewer connections, and the default of their limit knows it.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = flags.threads {
        runtime.worker_threads(threads.get());
    }
    Ok(runtime.enable_all().build()?.block_on(serve(flags))?)
}

fn start_logging(level: LevelFilter) -> Result<(), log::SetLoggerError> {
    simple_logger::SimpleLogger::new()
        .with_level(level)
        // It logs each close frame that it sees; the end of a connection is logged once, by us.
        .with_module_level("tungstenite", level.min(LevelFilter::Warn))
        .with_utc_timestamps()
        .with_colors(io::stderr().is_terminal())
        .init()
}

async fn serve(flags: Flags) -> Result<ExitCode, Error> {
    let mut listeners = Vec::new();
    for address in &flags.listen {
        listeners.push(Listener::bind(address).await?);
    }
    for listener in &listeners {
        log::info!("listening on {}", listener.local_address());
    }
    let server = Server::with_config(config(&flags)).daemon_routes();
    let ended = server.run_on(listeners, stop_signal()?).await;
    if ended.left > 0 {
        log::warn!("stopped with {} connections left", ended.left);
        return Ok(ExitCode::from(EXIT_NOT_DRAINED));
    }
    log::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

fn config(flags: &Flags) -> Config {
    let default = Config::default();
    Config {
        same_user: flags.same_user,
        open_timeout: flags.open_timeout,
        ping_interval: flags.ping_interval,
        ping_timeout: flags.ping_timeout,
        close_timeout: flags.close_timeout,
        send_timeout: flags.send_timeout,
        message_timeout: flags.message_timeout,
        shutdown_grace: flags.shutdown_grace,
        max_message_size: flags.max_message_size,
        max_fragments: flags.max_fragments,
        control_frames_per_second: flags.control_frames_per_second,
        control_frames_burst: flags.control_frames_burst,
        max_backlog: flags.max_backlog,
        max_total_backlog: flags.max_total_backlog.unwrap_or(default.max_total_backlog),
        max_connections: flags.max_connections.unwrap_or(default.max_connections),
        max_groups: flags.max_groups,
        max_head_size: flags.max_head_size,
        max_headers: flags.max_headers,
    }
}

/// Ready at the first SIGINT or SIGTERM. The second one ends the process at once.
fn stop_signal() -> Result<impl Future<Output = ()>, Error> {
    let listen = |kind| signal(kind).map_err(Error::Signal);
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    Ok(async move {
        either(&mut interrupt, &mut terminate).await;
        log::info!("stopping");
        tokio::spawn(async move {
            either(&mut interrupt, &mut terminate).await;
            log::warn!("stopped at once by a second signal");
            std::process::exit(i32::from(EXIT_NOT_DRAINED));
        });
    })
}

async fn either(one: &mut Signal, other: &mut Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}
