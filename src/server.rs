//! The accept loop, a task for each socket, and the way out.

use std::{
    future::Future,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::future::{Either, join_all, select};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, sleep, timeout},
};
use tokio_tungstenite::tungstenite::http::StatusCode;

use crate::{
    answer::Answer,
    auth::{Guard, Rejection},
    close::CloseReason,
    config::Config,
    handler::Route,
    handshake,
    hub::Hub,
    listener::Listener,
    route::Pattern,
    session,
    socket::{PeerAddr, Socket},
};

/// A WebSocket server: routes, a hub, and the limits of both.
///
/// ```no_run
/// use hubnerite::{Connection, Params, Server};
///
/// async fn echo(mut connection: Connection, _: Params) {
///     while let Some(message) = connection.recv().await {
///         let _ = connection.send(message).await;
///     }
/// }
///
/// # async fn run() -> std::io::Result<()> {
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:8000").await?;
/// Server::new().route("/echo", echo).run(listener, std::future::pending()).await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Server {
    shared: Shared,
}

/// What all tasks of one server share.
pub(crate) struct Shared {
    pub(crate) config: Arc<Config>,
    pub(crate) hub: Hub,
    pub(crate) routes: Vec<(Pattern, Arc<Route>)>,
    pub(crate) pages: Vec<(&'static str, Answer)>,
    pub(crate) guard: Option<Arc<dyn Guard>>,
    pub(crate) draining: AtomicBool,
    stop: watch::Sender<bool>,
}

/// How a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were still there when `shutdown_grace` ran out.
    pub left: usize,
}

impl Default for Server {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Server {
    /// A server with the default limits, and no routes but `/healthz` and `/readyz`.
    #[must_use]
    pub fn new() -> Self {
        Self::with_config(Config::default())
    }

    /// A server with these limits.
    #[must_use]
    pub fn with_config(config: Config) -> Self {
        let hub = Hub::new(&config);
        Self {
            shared: Shared {
                config: Arc::new(config),
                hub,
                routes: Vec::new(),
                pages: Vec::new(),
                guard: None,
                draining: AtomicBool::new(false),
                stop: watch::Sender::new(false),
            },
        }
    }

    /// Adds an endpoint: a handler, or a [`Route`] with a handler, a guard and subprotocols. Of
    /// several patterns that fit a path, the one added first is taken.
    ///
    /// # Panics
    /// If the pattern does not start with `/`, or a `{parameter}` is malformed or comes twice.
    #[must_use]
    pub fn route(mut self, pattern: &str, route: impl Into<Route>) -> Self {
        self.shared.routes.push((Pattern::new(pattern), Arc::new(route.into())));
        self
    }

    /// Asks this guard first, on every route that has none of its own.
    #[must_use]
    pub fn guard(mut self, guard: impl Guard) -> Self {
        self.shared.guard = Some(Arc::new(guard));
        self
    }

    pub(crate) fn page(mut self, path: &'static str, answer: Answer) -> Self {
        self.shared.pages.push((path, answer));
        self
    }

    /// The hub that this server's connections can join; its default one, named `default`.
    #[must_use]
    pub fn hub(&self) -> Hub {
        self.shared.hub.clone()
    }

    /// Accepts connections until `shutdown` is ready, then drains: nothing new is accepted, every
    /// connection is closed with 1012 behind what is queued for it, and those that have not ended
    /// within `shutdown_grace` are dropped.
    ///
    /// Dropped before it is ready, it stops accepting, and connections go on.
    pub async fn run(
        self,
        listener: impl Into<Listener>,
        shutdown: impl Future<Output = ()>,
    ) -> Drained {
        self.run_on(vec![listener.into()], shutdown).await
    }

    /// [`run`](Self::run) on several listeners.
    pub async fn run_on(
        self,
        listeners: Vec<Listener>,
        shutdown: impl Future<Output = ()>,
    ) -> Drained {
        let shared = Arc::new(self.shared);
        let limit = shared.config.max_connections.get().min(Semaphore::MAX_PERMITS);
        let permits = Arc::new(Semaphore::new(limit));
        let accepting = listeners
            .into_iter()
            .map(|listener| accept_loop(listener, Arc::clone(&shared), Arc::clone(&permits)));
        if let Either::Left(((), accepting)) = select(Box::pin(shutdown), join_all(accepting)).await
        {
            drop(accepting);
        }
        drain(&shared, &permits, limit).await
    }
}

impl Shared {
    /// Ready once the server stops.
    pub(crate) async fn stopped(&self) {
        // The sender lives in `self`: it cannot be gone.
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }

    /// The answer to a plain GET on this path, if it is not a WebSocket address.
    pub(crate) fn page(&self, path: &str) -> Option<Answer> {
        let ok = || Answer::new(StatusCode::OK, "text/plain; charset=utf-8", b"ok\n".to_vec());
        match path {
            "/readyz" if self.draining.load(Relaxed) => {
                Some(Rejection::new(503, "draining").into())
            }
            "/healthz" | "/readyz" => Some(ok()),
            other => {
                let mut pages = self.pages.iter();
                pages.find(|(path, _)| *path == other).map(|(_, answer)| answer.clone())
            }
        }
    }
}

async fn accept_loop(listener: Listener, shared: Arc<Shared>, permits: Arc<Semaphore>) {
    let mut pause = Pause::default();
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => {
                pause.reset();
                let permit = Arc::clone(&permits).try_acquire_owned().ok();
                tokio::spawn(serve(socket, peer, Arc::clone(&shared), permit));
            }
            Err(error) => pause.after(&error).await,
        }
    }
}

/// One socket from its accept to its end.
async fn serve(
    mut socket: Socket,
    peer: PeerAddr,
    shared: Arc<Shared>,
    permit: Option<OwnedSemaphorePermit>,
) {
    let Some(_permit) = permit else {
        shared.hub.metrics().refused.add(1);
        let full = Answer::from(Rejection::new(503, "too many connections"));
        return Box::pin(full.with("retry-after", "5").send(&mut socket)).await;
    };
    // Boxed, so that its memory is gone once the session begins.
    let Some(opened) = Box::pin(handshake::open(socket, peer, &shared)).await else {
        return;
    };
    let hub = shared.hub.clone();
    drop(shared);
    let (id, reason) = session::run(opened).await;
    hub.metrics().closed.add(1);
    log::debug!("connection {id} {reason}");
}

/// Tells every connection to go and waits until they have gone.
async fn drain(shared: &Shared, permits: &Semaphore, limit: usize) -> Drained {
    shared.draining.store(true, Relaxed);
    shared.stop.send_replace(true);
    let count = limit - permits.available_permits();
    let mut index = 0;
    shared.hub.close_all(|| {
        index += 1;
        CloseReason::Restart { reconnect_after: reconnect_after(index, count) }
    });
    let all = u32::try_from(limit).unwrap_or(u32::MAX);
    let gone = timeout(shared.config.shutdown_grace, permits.acquire_many(all)).await;
    Drained { left: if gone.is_ok() { 0 } else { limit - permits.available_permits() } }
}

/// A different moment for each connection, so that they do not come back all at once: a
/// millisecond apart, or over five seconds if there are few.
fn reconnect_after(index: usize, count: usize) -> Duration {
    let spread = count.max(5000);
    let millis = 100 + index * spread / count.max(1);
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}

/// What the accept loop does when it cannot accept.
#[derive(Default)]
struct Pause {
    length: Duration,
    logged_at: Option<Instant>,
}

impl Pause {
    const FIRST: Duration = Duration::from_millis(10);
    const LONGEST: Duration = Duration::from_secs(1);
    const LOG_INTERVAL: Duration = Duration::from_mins(1);

    fn reset(&mut self) {
        self.length = Duration::ZERO;
    }

    /// A connection that was lost while it waited is no reason to wait. For anything else, out of
    /// files above all, trying on at once would cost a whole core.
    async fn after(&mut self, error: &io::Error) {
        use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
        if matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
            return;
        }
        if self.logged_at.is_none_or(|at| at.elapsed() >= Self::LOG_INTERVAL) {
            log::error!("cannot accept connections: {error}");
            self.logged_at = Some(Instant::now());
        }
        self.length = (self.length * 2).clamp(Self::FIRST, Self::LONGEST);
        sleep(self.length).await;
    }
}
