//! Servers joined by a NATS server.

#![cfg(feature = "nats")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod contract;
mod support;

use support::EngineServer;
use tokio::net::TcpStream;

use crate::contract::served::{Program, Served, publish_to_nats};

struct Nats;

impl Program for Nats {
    async fn start() -> EngineServer {
        EngineServer::nats("").await
    }

    fn url(port: u16) -> String {
        format!("nats://127.0.0.1:{port}")
    }

    async fn publish(port: u16, subject: &str, bytes: &[u8]) {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        publish_to_nats(stream, r#"{"verbose":false}"#, subject, bytes).await;
    }
}

contract!(Served<Nats>, ignore = "needs nats-server: the step nats of tests/all");
