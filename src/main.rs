//! The daemon: flags, logging, listeners, signals, exit code. Nothing else.

#[cfg(feature = "tls")]
use std::path::PathBuf;
#[cfg(feature = "jwt")]
use std::sync::Arc;
use std::{
    net::IpAddr, num::NonZeroUsize, process::ExitCode, thread::available_parallelism,
    time::Duration,
};

use clap::{CommandFactory, Parser};
use hubnerite::{
    Address, AllowedOrigin, Config, Error, Expiry, Listener, SameUser, Server, Sharing,
    parse_duration, parse_size,
};
use ipnet::IpNet;
use log::LevelFilter;
use sd_notify::NotifyState;
use tokio::runtime::Builder;

use crate::signals::Reloads;
#[cfg(feature = "control")]
use crate::{
    control_flags::{ControlFlags, Keys},
    event_flags::EventFlags,
};

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

    #[command(flatten)]
    limits: LimitFlags,
}

/// Who may connect, and from where.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Access")]
struct AccessFlags {
    /// A key that access tokens are checked with: ALGORITHM:PATH; may be repeated
    #[cfg(feature = "jwt")]
    #[arg(long, env = "HUBNERITE_TOKEN_KEY", value_name = "KEY", value_delimiter = ',')]
    token_key: Vec<hubnerite::TokenKeyFile>,

    /// A cookie that may hold the token; believed with an allowed Origin only
    #[cfg(feature = "jwt")]
    #[arg(long, env = "HUBNERITE_TOKEN_COOKIE", value_name = "NAME", requires = "token_key")]
    token_cookie: Option<String>,

    /// Close a connection with 1008 when its token expires
    #[cfg(feature = "jwt")]
    #[arg(long, env = "HUBNERITE_CLOSE_ON_EXPIRY", requires = "token_key")]
    close_on_expiry: bool,

    /// Listen on other addresses than loopback without any token key
    #[arg(long, env = "HUBNERITE_ALLOW_OPEN")]
    allow_open: bool,

    /// A web origin whose pages may connect, beside the server's own, or *; may be repeated
    #[arg(long, env = "HUBNERITE_ALLOW_ORIGIN", value_name = "ORIGIN", value_delimiter = ',')]
    allow_origin: Vec<AllowedOrigin>,

    /// A host name that the daemon answers under [default: any]; may be repeated
    #[arg(long, env = "HUBNERITE_ALLOW_HOST", value_name = "HOST", value_delimiter = ',')]
    allow_host: Vec<String>,

    /// A proxy whose word on client addresses is believed: ADDRESS or NETWORK; may be repeated
    #[arg(long, env = "HUBNERITE_TRUSTED_PROXY", value_name = "NETWORK", value_delimiter = ',')]
    #[arg(value_parser = parse_network)]
    trusted_proxy: Vec<IpNet>,

    /// The certificate chain in PEM; TCP addresses then speak TLS
    #[cfg(feature = "tls")]
    #[arg(long, env = "HUBNERITE_TLS_CERT", value_name = "PATH", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// The certificate's private key in PEM
    #[cfg(feature = "tls")]
    #[arg(long, env = "HUBNERITE_TLS_KEY", value_name = "PATH", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Authorities in PEM; a client must have a certificate of theirs, whose subject is the user
    #[cfg(feature = "tls")]
    #[arg(long, env = "HUBNERITE_TLS_CLIENT_CA", value_name = "PATH", requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,
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

/// An address stands for the network that it alone is.
fn parse_network(text: &str) -> Result<IpNet, String> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    address.or_else(|_| text.parse()).map_err(|_| "expected an address or ADDRESS/BITS".to_owned())
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    refuse_to_be_open(&flags);
    #[cfg(feature = "control")]
    if let Some(rule) = flags.events.broken_rule() {
        refuse(&format!("--event-handler: {rule}"));
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
        refuse(&format!(
            "--listen {address} would let everybody in: give a --token-key, an --access-key or \
             --tls-client-ca, or say --allow-open"
        ));
    }
    #[cfg(feature = "control")]
    if let Some(address) = flags.control.keyless_address() {
        refuse(&format!("--control {address} is for others too: give an --access-key"));
    }
}

fn refuse(why: &str) -> ! {
    Flags::command().error(clap::error::ErrorKind::MissingRequiredArgument, why).exit()
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

/// There is no control port, so there are no keys for it.
#[cfg(not(feature = "control"))]
enum Keys {}

#[cfg_attr(
    not(all(feature = "jwt", feature = "tls")),
    allow(clippy::unused_self, clippy::unnecessary_wraps, reason = "the full build needs them")
)]
impl AccessFlags {
    #[cfg(feature = "jwt")]
    fn has_token_key(&self) -> bool {
        !self.token_key.is_empty()
    }

    #[cfg(not(feature = "jwt"))]
    fn has_token_key(&self) -> bool {
        false
    }

    #[cfg(feature = "jwt")]
    fn expiry(&self) -> Expiry {
        if self.close_on_expiry { Expiry::Close } else { Expiry::Ignore }
    }

    #[cfg(not(feature = "jwt"))]
    fn expiry(&self) -> Expiry {
        Expiry::Ignore
    }

    #[cfg(feature = "tls")]
    fn has_key(&self) -> bool {
        self.has_token_key() || self.tls_client_ca.is_some()
    }

    #[cfg(not(feature = "tls"))]
    fn has_key(&self) -> bool {
        self.has_token_key()
    }

    /// Asks for tokens if there are keys, or else for the names in client certificates. With a
    /// key that was made at start, a token is only asked what it says if there is one.
    fn guard(
        &self,
        server: Server,
        keys: Option<&Keys>,
        reloads: &mut Reloads,
    ) -> Result<Server, Error> {
        #[cfg(feature = "jwt")]
        if self.has_token_key() || keys.is_some() {
            let guard = self.token_guard(keys, reloads)?;
            #[cfg(feature = "control")]
            if !self.has_token_key() && matches!(keys, Some(Keys::Made(_))) {
                #[cfg(feature = "tls")]
                if self.tls_client_ca.is_some() {
                    return Ok(server.guard(guard.or_else(hubnerite::certificate_guard)));
                }
                return Ok(server.guard(guard.or_else(everybody)));
            }
            return Ok(server.guard(guard));
        }
        #[cfg(feature = "tls")]
        if self.tls_client_ca.is_some() {
            return Ok(server.guard(hubnerite::certificate_guard));
        }
        let _ = (keys, reloads);
        Ok(server)
    }

    #[cfg(feature = "jwt")]
    fn token_guard(
        &self,
        keys: Option<&Keys>,
        reloads: &mut Reloads,
    ) -> Result<hubnerite::TokenGuard, Error> {
        let tokens = hubnerite::TokenKeys::load(self.token_key.clone())?;
        #[cfg(feature = "control")]
        let tokens = match keys {
            Some(keys) => tokens.with_access_keys(keys.keys()),
            None => tokens,
        };
        #[cfg(not(feature = "control"))]
        let _ = keys;
        let tokens = Arc::new(tokens);
        let guard = hubnerite::TokenGuard::new(Arc::clone(&tokens));
        reloads.add(move || tokens.reload());
        Ok(match &self.token_cookie {
            Some(name) => guard.cookie(name),
            None => guard,
        })
    }

    /// What addresses that are not for this machine alone are spoken to with.
    #[cfg(all(feature = "control", feature = "tls"))]
    fn scheme(&self) -> &'static str {
        if self.tls_cert.is_some() { "https" } else { "http" }
    }

    #[cfg(all(feature = "control", not(feature = "tls")))]
    fn scheme(&self) -> &'static str {
        "http"
    }

    #[cfg(feature = "tls")]
    fn secure(
        &self,
        listeners: Vec<Listener>,
        reloads: &mut Reloads,
    ) -> Result<Vec<Listener>, Error> {
        let Some((certificate, key)) = self.tls_cert.clone().zip(self.tls_key.clone()) else {
            return Ok(listeners);
        };
        let client_authorities = self.tls_client_ca.clone();
        let files = hubnerite::TlsFiles { certificate, key, client_authorities };
        let tls = hubnerite::Tls::load(files)?;
        let listeners = listeners.into_iter().map(|listener| listener.with_tls(tls.clone()));
        let listeners = listeners.collect();
        reloads.add(move || tls.reload());
        Ok(listeners)
    }

    #[cfg(not(feature = "tls"))]
    fn secure(&self, listeners: Vec<Listener>, _: &mut Reloads) -> Result<Vec<Listener>, Error> {
        Ok(listeners)
    }
}

/// The guard of a daemon that is open.
#[cfg(feature = "control")]
async fn everybody(_: &hubnerite::Request) -> Result<hubnerite::Identity, hubnerite::Rejection> {
    Ok(hubnerite::Identity::anonymous())
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
