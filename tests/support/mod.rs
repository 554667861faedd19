//! What the integration tests share: a server in this process, the daemon as a process of its own,
//! a client that writes any bytes, a client that nobody here wrote, one that speaks the JSON
//! protocol, a backend that is told of events, and a witness of the server's health.
//!
//! Everything here that waits does so for a condition and under [`DEADLINE`].

#![allow(dead_code, unused_imports, reason = "each test file uses a part of this")]
#![allow(unreachable_pub, reason = "a module of many crates, each with a face of its own")]

#[cfg(feature = "tls")]
mod authority;
#[cfg(feature = "control")]
mod backend;
mod client;
mod daemon;
#[cfg(feature = "backplane")]
mod engine;
mod frames;
mod http;
mod json;
mod raw;
#[cfg(feature = "control")]
pub mod rest;
mod server;
mod witness;

use std::{
    future::Future,
    time::{Duration, Instant},
};

#[cfg(feature = "tls")]
pub use authority::Authority;
#[cfg(feature = "control")]
pub use backend::{Backend, Heard, Reply, handler_at, raw_backend, reply, status};
pub use client::{WebSocket, close_of, connect, connect_with, next_message, send};
pub use daemon::{Daemon, Failed, hubnerite};
#[cfg(feature = "backplane")]
pub use engine::{EngineServer, command, free_port};
pub use frames::{ClientFrame, LengthForm, ServerFrame};
pub use http::{ACCEPT, HttpAnswer, KEY, plain, upgrade, upgrade_with};
pub use json::{JsonClient, ack, disconnected, expect_failure};
pub use raw::{End, RawClient};
pub use server::{NEVER, TestServer, patient};
pub use witness::Witness;

/// How long anything may take that should happen at once: long, because the machine is shared.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// The output of `future`.
///
/// # Panics
/// If it takes longer than [`DEADLINE`], with `what` was waited for.
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    within_time(DEADLINE, what, future).await
}

/// [`within`] another time.
pub async fn within_time<F: Future>(limit: Duration, what: &str, future: F) -> F::Output {
    match tokio::time::timeout(limit, future).await {
        Ok(output) => output,
        Err(passed) => panic!("{what}: not within {limit:?} ({passed})"),
    }
}

/// Waits for a condition of which nobody tells, by looking again and again.
///
/// # Panics
/// If it is not met within [`DEADLINE`], with `what` was waited for and what it was instead.
pub async fn eventually<T: PartialEq + std::fmt::Debug>(
    what: &str,
    expected: T,
    mut look: impl FnMut() -> T,
) {
    eventually_within(DEADLINE, what, expected, async || look()).await;
}

/// [`eventually`] within another time, where to look takes a while.
pub async fn eventually_within<T: PartialEq + std::fmt::Debug>(
    limit: Duration,
    what: &str,
    expected: T,
    mut look: impl AsyncFnMut() -> T,
) {
    let start = Instant::now();
    let mut again = tokio::time::interval(Duration::from_millis(2));
    loop {
        again.tick().await;
        let found = look().await;
        if found == expected {
            return;
        }
        assert!(start.elapsed() < limit, "{what}: {found:?} instead of {expected:?}");
    }
}
