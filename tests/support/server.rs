//! A server inside the test's own process.

use std::{future::Future, net::SocketAddr, time::Duration};

use hubnerite::{Config, Drained, Hub, Server};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

use super::{HttpAnswer, JsonClient, RawClient, WebSocket, connect, within_time};

/// Longer than any test.
pub const NEVER: Duration = Duration::from_hours(1);

/// No deadline but those that a test sets.
pub fn patient() -> Config {
    Config {
        open_timeout: NEVER,
        ping_interval: Duration::ZERO,
        ping_timeout: NEVER,
        close_timeout: NEVER,
        send_timeout: NEVER,
        message_timeout: NEVER,
        ..Config::default()
    }
}

/// A running server with a real listener on a free port of 127.0.0.1.
pub struct TestServer {
    pub address: SocketAddr,
    pub hub: Hub,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Drained>,
    grace: Duration,
}

impl TestServer {
    /// The daemon's routes with these limits.
    pub async fn start(config: Config) -> Self {
        Self::start_with(config, Server::daemon_routes).await
    }

    /// A server with these limits and the routes that `routes` adds.
    pub async fn start_with(config: Config, routes: impl FnOnce(Server) -> Server) -> Self {
        let grace = config.shutdown_grace;
        let server = routes(Server::with_config(config));
        let hub = server.hub();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move { drop(stopped.await) };
        let task = tokio::spawn(server.run(listener, shutdown));
        Self { address, hub, stop: Some(stop), task, grace }
    }

    /// The daemon's routes, and this event handler.
    #[cfg(feature = "control")]
    pub async fn telling(config: Config, handler: hubnerite::EventHandler) -> Self {
        let routes = |server: Server| server.daemon_routes().event_handler(handler).unwrap();
        Self::start_with(config, routes).await
    }

    /// The address of a path, for clients that want a URL.
    pub fn url(&self, path: &str) -> String {
        format!("ws://{}{path}", self.address)
    }

    /// A raw client whose opening handshake is done.
    pub async fn open(&self, path: &str) -> RawClient {
        RawClient::open(self.address, path).await
    }

    /// What a request is answered, on a connection of its own.
    pub async fn ask(&self, request: impl AsRef<[u8]>) -> HttpAnswer {
        RawClient::connect(self.address).await.request(request).await
    }

    /// A tungstenite client.
    pub async fn connect(&self, path: &str) -> WebSocket {
        connect(self.address, path).await
    }

    /// A client of the JSON protocol, connected as this user.
    pub async fn user(&self, name: &str) -> JsonClient {
        JsonClient::user(self.address, name).await
    }

    /// Two users who are both in the group `lobby`.
    pub async fn alice_and_bob(&self) -> (JsonClient, JsonClient) {
        let (mut alice, mut bob) = (self.user("alice").await, self.user("bob").await);
        alice.join("lobby", 1).await;
        bob.join("lobby", 1).await;
        (alice, bob)
    }

    /// Begins to shut down and returns at once; [`stop`](Self::stop) waits for it.
    pub fn begin_stop(&mut self) {
        drop(self.stop.take());
    }

    /// Shuts down and waits for the end, which must come with nobody left.
    pub async fn stop(self) {
        let hub = self.hub.clone();
        assert_eq!(self.drain().await, Drained { left: 0 });
        assert_eq!(hub.counts().queued_bytes, 0, "bytes are counted that nobody will write");
    }

    /// Shuts down; how it ended.
    pub async fn drain(mut self) -> Drained {
        self.begin_stop();
        let limit = self.grace + super::DEADLINE;
        within_time(limit, "the server's end", self.task).await.unwrap()
    }

    /// Runs `meanwhile` while the server shuts down; how it ended.
    pub async fn drain_while<F: Future>(mut self, meanwhile: F) -> (Drained, F::Output) {
        self.begin_stop();
        tokio::join!(self.drain(), meanwhile)
    }
}
