//! A server: what it is made of, its accept loop, and a task for each socket.

use std::{future::Future, sync::Arc};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Either, join_all, select},
};
use tokio::{sync::Semaphore, time::sleep};
use tokio_tungstenite::tungstenite::http::StatusCode;

#[cfg(feature = "backplane")]
use crate::backplane::{Backplane, Node};
#[cfg(feature = "control")]
use crate::{
    access_keys::AccessKeys,
    control::{self, Control},
    events::Upstream,
};
use crate::{
    address_limits::AddressLimits,
    admission::Admission,
    answer::Answer,
    auth::{Guard, Identity, Rejection},
    config::Config,
    counter::Gauge,
    drain::{Drained, Ending, drain},
    handler::Route,
    handshake,
    hub::Hub,
    listener::{Incoming, Listener},
    pause::Pause,
    proxy::TrustedProxies,
    route::Pattern,
    session::{Opened, Running},
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
    #[cfg(feature = "control")]
    control_listeners: Vec<Listener>,
    #[cfg(feature = "backplane")]
    backplane: Option<Backplane>,
}

/// What all tasks of one server share.
pub(crate) struct Shared {
    pub(crate) config: Arc<Config>,
    pub(crate) hub: Hub,
    pub(crate) routes: Vec<(Pattern, Arc<Route>)>,
    pub(crate) pages: Vec<(&'static str, Answer)>,
    pub(crate) guard: Option<Arc<dyn Guard>>,
    pub(crate) anonymous: Arc<Identity>,
    pub(crate) proxies: TrustedProxies,
    pub(crate) addresses: Arc<AddressLimits>,
    pub(crate) handshakes: Gauge,
    #[cfg(feature = "control")]
    pub(crate) upstream: Option<Arc<Upstream>>,
    #[cfg(feature = "control")]
    pub(crate) control: Option<Control>,
    /// This process as one of several nodes.
    #[cfg(feature = "backplane")]
    pub(crate) node: Option<Arc<Node>>,
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) ending: Ending,
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
        let limit = config.max_connections.get().min(Semaphore::MAX_PERMITS);
        Self {
            #[cfg(feature = "control")]
            control_listeners: Vec::new(),
            #[cfg(feature = "backplane")]
            backplane: None,
            shared: Shared {
                hub,
                routes: Vec::new(),
                pages: Vec::new(),
                guard: None,
                anonymous: Arc::new(Identity::anonymous()),
                proxies: TrustedProxies(config.trusted_proxies.clone()),
                addresses: AddressLimits::new(&config),
                handshakes: Gauge::default(),
                #[cfg(feature = "control")]
                upstream: None,
                #[cfg(feature = "control")]
                control: None,
                #[cfg(feature = "backplane")]
                node: None,
                permits: Arc::new(Semaphore::new(limit)),
                ending: Ending::default(),
                config: Arc::new(config),
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

    /// Serves the REST API for backends and the health pages on these listeners, and the API on
    /// those of [`run`](Self::run) too. Calls are signed with one of these keys.
    #[cfg(feature = "control")]
    #[must_use]
    pub fn control(mut self, keys: AccessKeys, listeners: Vec<Listener>) -> Self {
        self.shared.control = Some(Control::new(keys));
        self.control_listeners = listeners;
        self
    }

    /// Joins the hubs of this server with those of others, from the moment that it runs: what is
    /// sent to users, groups and everybody reaches them wherever they are connected. It connects
    /// while the server runs, and again whenever it has to; until then what is said here is heard
    /// here.
    #[cfg(feature = "backplane")]
    #[must_use]
    pub fn backplane(mut self, backplane: Backplane) -> Self {
        self.shared.node = Some(backplane.node(&self.shared.hub));
        self.backplane = Some(backplane);
        self
    }

    /// Host and port under which backends find us.
    #[cfg(feature = "control")]
    pub(crate) fn control_address(&self) -> Option<String> {
        let addresses = self.control_listeners.iter().map(Listener::local_address);
        addresses.into_iter().find(|address| !address.starts_with("unix:"))
    }

    #[cfg(feature = "control")]
    pub(crate) fn with_upstream(mut self, upstream: Arc<Upstream>) -> Self {
        self.shared.upstream = Some(upstream);
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
        #[cfg(feature = "backplane")]
        let driver = self.backplane.zip(shared.node.clone()).map(|(backplane, node)| {
            tokio::spawn(backplane.drive(node, shared.hub.clone())).abort_handle()
        });
        let shutdown = async {
            shutdown.await;
            shared.ending.announce();
            sleep(shared.config.drain_delay).await;
        };
        let limit = shared.permits.available_permits();
        #[cfg_attr(not(feature = "control"), expect(unused_mut, reason = "there is one port"))]
        let mut accepting: Vec<_> = listeners
            .into_iter()
            .map(|one| accept_loop(one, Pause::new(), &shared, welcome).boxed())
            .collect();
        #[cfg(feature = "control")]
        for listener in self.control_listeners {
            accepting.push(accept_loop(listener, Pause::new(), &shared, control::welcome).boxed());
        }
        if let Either::Left(((), accepting)) = select(Box::pin(shutdown), join_all(accepting)).await
        {
            drop(accepting);
        }
        let drained = drain(&shared, limit).await;
        #[cfg(feature = "backplane")]
        if let Some(driver) = driver {
            driver.abort();
        }
        drained
    }
}

impl Shared {
    /// Whether the next connection on the data port would be told that there is no room.
    #[cfg(feature = "control")]
    pub(crate) fn is_full(&self) -> bool {
        self.permits.available_permits() == 0
    }

    /// Whether this is one of several nodes, and nothing goes through what joins them.
    #[cfg(feature = "backplane")]
    pub(crate) fn is_cut_off(&self) -> bool {
        self.node.as_ref().is_some_and(|node| !node.is_ready())
    }

    /// There are no nodes in this build.
    #[cfg(not(feature = "backplane"))]
    #[expect(clippy::unused_self, reason = "the full build needs it")]
    pub(crate) fn is_cut_off(&self) -> bool {
        false
    }

    /// The answer to a plain GET on this path, if it is not a WebSocket address.
    pub(crate) fn page(&self, path: &str) -> Option<Answer> {
        let ok = || Answer::new(StatusCode::OK, "text/plain; charset=utf-8", b"ok\n".to_vec());
        match path {
            "/readyz" if self.ending.is_announced() => Some(Rejection::new(503, "draining").into()),
            "/readyz" if self.is_cut_off() => Some(Rejection::new(503, "backplane").into()),
            "/healthz" | "/readyz" => Some(ok()),
            other => {
                let mut pages = self.pages.iter();
                pages.find(|(path, _)| *path == other).map(|(_, answer)| answer.clone())
            }
        }
    }
}

async fn accept_loop(
    listener: Listener,
    mut pause: Pause,
    shared: &Arc<Shared>,
    welcome: fn(Incoming, &Arc<Shared>),
) {
    loop {
        match listener.accept().await {
            Ok(incoming) => {
                pause.reset();
                welcome(incoming, shared);
            }
            Err(error) => pause.after(&error, &listener).await,
        }
    }
}

/// Starts the task of a connection on the data port.
fn welcome(incoming: Incoming, shared: &Arc<Shared>) {
    begin(Admission::on_data(shared, incoming.peer), incoming, shared);
}

/// Starts the task of a connection that was admitted, or that is told why not.
pub(crate) fn begin(
    admission: Result<Admission, Answer>,
    incoming: Incoming,
    shared: &Arc<Shared>,
) {
    match admission {
        Ok(admission) => {
            // Boxed, so that its memory is gone once the session begins.
            let opening = handshake::open(incoming, admission, Arc::clone(shared));
            tokio::spawn(serve(opening.boxed(), shared.hub.clone()));
        }
        Err(answer) => drop(tokio::spawn(refuse(incoming, answer, shared.hub.clone()))),
    }
}

/// One socket from its accept to its end.
#[expect(clippy::manual_async_fn, reason = "it would keep its arguments twice")]
fn serve(
    opening: BoxFuture<'static, Option<(Opened, Admission)>>,
    hub: Hub,
) -> impl Future<Output = ()> + Send {
    async move {
        let Some((opened, _admission)) = opening.await else { return };
        let (id, reason) = Running::new(opened).await;
        hub.metrics().closed.add(1);
        hub.metrics().closed_with.add(reason.code());
        log::debug!("connection {id} {reason}");
    }
}

async fn refuse(incoming: Incoming, answer: Answer, hub: Hub) {
    hub.metrics().answer(answer.status().as_u16());
    if let Some(mut socket) = incoming.into_plain() {
        answer.send(&mut socket).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every connection has one. With what tokio puts around it, it takes blocks of 128 bytes: up
    /// to 144 bytes, two of them.
    #[test]
    fn the_future_of_a_connection_stays_small() {
        let task = serve(async { None }.boxed(), Hub::default());
        assert!(size_of_val(&task) <= 144, "{} bytes", size_of_val(&task));
    }
}
