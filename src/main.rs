//! The daemon: flags, logging, listeners, signals, exit code. Nothing else.

use std::{num::NonZeroUsize, process::ExitCode, thread::available_parallelism};

use clap::{CommandFactory, Parser, error::ErrorKind};
use hubnerite::{Address, Error, Listener, Server, Sharing};
use log::LevelFilter;
use sd_notify::NotifyState;
use tokio::runtime::Builder;

#[cfg(feature = "backplane")]
use crate::backplane_flags::BackplaneFlags;
use crate::{access_flags::AccessFlags, limit_flags::LimitFlags, signals::Reloads};
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
mod limit_flags;
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
    let server = Server::with_config(flags.limits.config(&flags.access)).daemon_routes();
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
