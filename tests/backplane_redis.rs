//! Servers joined by a Redis server.

#![cfg(feature = "redis")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod contract;
mod support;

use support::EngineServer;

use crate::contract::served::{Program, Served};

struct Redis;

impl Program for Redis {
    async fn start() -> EngineServer {
        EngineServer::redis("").await
    }

    fn url(port: u16) -> String {
        format!("redis://127.0.0.1:{port}")
    }

    async fn publish(port: u16, subject: &str, bytes: &[u8]) {
        let client = redis::Client::open(Self::url(port)).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let publish = redis::cmd("PUBLISH").arg(subject).arg(bytes).take();
        publish.exec_async(&mut connection).await.unwrap();
    }
}

contract!(Served<Redis>, ignore = "needs redis-server: the step redis of tests/all");
