//! What the operating system and systemd have to say, and what they are told.

use std::future::Future;

use hubnerite::Error;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The exit code when connections were left: the grace ran out, or a second signal came.
pub(crate) const EXIT_NOT_DRAINED: u8 = 3;

/// Ready at the first SIGINT or SIGTERM. The second one ends the process at once.
pub(crate) fn stop() -> Result<impl Future<Output = ()>, Error> {
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    Ok(async move {
        either(&mut interrupt, &mut terminate).await;
        log::info!("stopping");
        tell_systemd(&[NotifyState::Stopping]);
        tokio::spawn(async move {
            either(&mut interrupt, &mut terminate).await;
            log::warn!("stopped at once by a second signal");
            std::process::exit(i32::from(EXIT_NOT_DRAINED));
        });
    })
}

/// What is read again on SIGHUP.
#[derive(Default)]
pub(crate) struct Reloads(Vec<Box<dyn Fn() -> Result<(), Error> + Send + Sync>>);

impl Reloads {
    #[cfg(any(feature = "jwt", feature = "tls"))]
    pub(crate) fn add(&mut self, reload: impl Fn() -> Result<(), Error> + Send + Sync + 'static) {
        self.0.push(Box::new(reload));
    }
}

/// Reads keys and certificates again at each SIGHUP. What cannot be read stays as it was.
pub(crate) fn reload_on_hangup(reloads: Reloads) -> Result<impl Future<Output = ()>, Error> {
    let mut hangup = listen(SignalKind::hangup())?;
    Ok(async move {
        while hangup.recv().await.is_some() {
            let now = NotifyState::monotonic_usec_now().into_iter();
            tell_systemd(&std::iter::once(NotifyState::Reloading).chain(now).collect::<Vec<_>>());
            for reload in &reloads.0 {
                if let Err(error) = reload() {
                    log::error!("not reloaded: {error}");
                }
            }
            log::info!("reloaded");
            tell_systemd(&[NotifyState::Ready]);
        }
    })
}

/// Without systemd there is nobody to tell, and that is no error.
pub(crate) fn tell_systemd(state: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(state);
}

fn listen(kind: SignalKind) -> Result<Signal, Error> {
    signal(kind).map_err(Error::Signal)
}

async fn either(one: &mut Signal, other: &mut Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}
