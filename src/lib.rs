//! A WebSocket hub: endpoints by path, named users, groups and broadcast.
//!
//! ```no_run
//! use hubnerite::{Connection, Params, Server};
//!
//! async fn chat(mut connection: Connection, params: Params) {
//!     let hub = connection.hub().clone();
//!     let Ok(_member) = connection.join(&hub, Some(&params["user_id"])) else { return };
//!     while let Some(message) = connection.recv().await {
//!         hub.send_to_all(message);
//!     }
//! }
//!
//! # async fn run() -> std::io::Result<()> {
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:8000").await?;
//! Server::new().route("/ws/{user_id}", chat).run(listener, std::future::pending()).await;
//! # Ok(())
//! # }
//! ```
//!
//! A handler is an `async fn(Connection, Params)`. A guard, an `async fn(&Request) ->
//! Result<Identity, Rejection>`, decides before the socket opens. [`Hub`] reaches users, groups and
//! everybody from any task.
//!
//! # Reading order
//!
//! What is said: `frame`, `close`, `protocol`, `ack`. Who hears it: `turns`, `queue`, `about`,
//! `peer`, `target`, `filter`, `selection`, `page`, `question`, `relay`, `gate`, `fan_out`,
//! `state`, `hub`, `evictions`, `publish`, `member`, `directory`, `inquiry`. How it travels:
//! `socket`, `output`, `header`, `watch`, `inflow`, `large`, `pipe`, `input`, `wire`, `session`,
//! `connection`. How it begins: `route`, `head`, `auth`, `handler`, `answer`, `offer`, `agreement`,
//! `handshake`. Who is told of it: `events`. What holds it together: `config`, `counter`,
//! `metrics`, `process`, `listener`, `pause`, `backplane`, `server`, `drain`, and last what the
//! daemon serves: `endpoint` to clients, `control` to backends.
//!
//! # Invariants
//!
//! - The hub has no `async fn` and does no I/O; nothing is awaited under its lock.
//! - One task per connection, which waits in one place.
//! - A message to many is encoded once and its wire bytes are shared by reference count.
//! - tungstenite judges everything that comes in; what goes out passes through one queue of whole
//!   frames, so a control frame never stands inside a data frame.
//! - The queues are unbounded, the bytes in them are not.
//! - Nothing waits on the network without a deadline.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail"))]

mod about;
#[cfg(feature = "control")]
mod access_keys;
mod ack;
mod address_limits;
mod admission;
mod agreement;
mod answer;
mod auth;
#[cfg(feature = "backplane")]
mod backplane;
mod bucket;
mod close;
mod config;
mod connection;
#[cfg(feature = "control")]
mod control;
mod counter;
mod directory;
mod drain;
mod endpoint;
mod error;
#[cfg(feature = "control")]
mod events;
mod evictions;
mod fan_out;
#[cfg(feature = "control")]
mod filter;
mod frame;
/// What `cargo fuzz` reaches: private modules, with bytes that it invents.
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
#[path = "../tests/fuzz/entry.rs"]
pub mod fuzz;
mod gate;
mod handler;
mod handshake;
mod head;
mod header;
mod hub;
mod inflow;
mod input;
#[cfg(feature = "control")]
mod inquiry;
mod large;
mod listener;
mod member;
mod metrics;
mod offer;
mod origin;
mod output;
#[cfg(feature = "control")]
mod page;
mod pause;
mod peer;
mod pipe;
mod place;
#[cfg(feature = "control")]
mod process;
mod protocol;
mod proxy;
mod publish;
#[cfg(feature = "control")]
mod question;
mod queue;
mod relay;
mod rights;
mod route;
#[cfg(feature = "control")]
mod selection;
mod server;
mod session;
mod socket;
mod state;
mod target;

#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "jwt")]
mod token;
#[cfg(feature = "jwt")]
mod token_keys;
mod turns;
mod watch;
mod wire;

#[cfg(feature = "control")]
pub use crate::access_keys::AccessKeys;
#[cfg(feature = "tls")]
pub use crate::tls::{Tls, TlsFiles, certificate_guard};
#[cfg(feature = "control")]
pub use crate::{
    auth::Claims,
    events::{EventHandler, EventUrl},
    metrics::{EventCounters, EventKind, EventOutcome},
};
pub use crate::{
    auth::{Guard, GuardFn, Identity, Rejection, Request},
    close::{CloseReason, is_sendable},
    config::{Config, Expiry, SameUser, parse_duration, parse_size},
    connection::{Closed, Connection, Sender},
    counter::{ByNumber, Counter, Histogram},
    directory::ConnectionInfo,
    drain::Drained,
    error::Error,
    fan_out::Sent,
    frame::{Message, Utf8Bytes},
    handler::{Handler, Outcome, Route},
    hub::{Counts, Hub},
    listener::{Address, Listener, Sharing},
    member::{Member, UserTaken},
    metrics::{Metrics, Traffic},
    origin::{AllowedOrigin, Origin},
    peer::ConnectionId,
    place::JoinError,
    rights::{Action, Permission, Rights},
    route::Params,
    server::Server,
    socket::PeerAddr,
};
#[cfg(feature = "backplane")]
pub use crate::{
    backplane::{Backplane, Memory},
    events::EventStream,
    metrics::BackplaneCounters,
};
#[cfg(feature = "jwt")]
pub use crate::{
    token::TokenGuard,
    token_keys::{TokenKeyFile, TokenKeys},
};
