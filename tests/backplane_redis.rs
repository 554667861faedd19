//! Servers joined by a Redis server.

#![cfg(feature = "redis")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod contract;
mod support;

use hubnerite::Backplane;
use support::{EngineServer, command};

use crate::contract::Bench;

struct Redis(EngineServer);

impl Redis {
    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.0.port)
    }
}

impl Bench for Redis {
    async fn start() -> Self {
        let start = |port, folder: &str| {
            let flags = format!("--port {port} --bind 127.0.0.1 --dir {folder} --save");
            command("redis-server", &flags)
        };
        Self(EngineServer::start(start).await)
    }

    fn backplane(&self) -> Backplane {
        Backplane::new(&self.url()).unwrap()
    }

    async fn publish(&self, subject: &str, bytes: &[u8]) {
        let client = redis::Client::open(self.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let publish = redis::cmd("PUBLISH").arg(subject).arg(bytes).take();
        publish.exec_async(&mut connection).await.unwrap();
    }

    async fn stop(&mut self) {
        self.0.kill();
    }

    async fn restart(&mut self) {
        self.0.revive().await;
    }

    fn pause(&self) {
        self.0.signal("STOP");
    }

    fn resume(&self) {
        self.0.signal("CONT");
    }
}

contract!(Redis, ignore = "needs redis-server: the step redis of tests/all");
