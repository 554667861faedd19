//! Servers joined by a NATS server.

#![cfg(feature = "nats")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod contract;
mod support;

use hubnerite::Backplane;
use support::{EngineServer, command, within};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::contract::Bench;

struct Nats(EngineServer);

impl Bench for Nats {
    async fn start() -> Self {
        let start = |port, folder: &str| {
            let config = format!("{folder}/nats.conf");
            std::fs::write(&config, "max_payload: 8MB\n").unwrap();
            command("nats-server", &format!("--config {config} --addr 127.0.0.1 --port {port}"))
        };
        Self(EngineServer::start(start).await)
    }

    fn backplane(&self) -> Backplane {
        Backplane::new(&format!("nats://127.0.0.1:{}", self.0.port)).unwrap()
    }

    async fn publish(&self, subject: &str, bytes: &[u8]) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.0.port)).await.unwrap();
        let head = format!("CONNECT {{\"verbose\":false}}\r\nPUB {subject} {}\r\n", bytes.len());
        stream.write_all(&[head.as_bytes(), bytes, b"\r\nPING\r\n"].concat()).await.unwrap();
        let mut said = Vec::new();
        while !said.ends_with(b"PONG\r\n") {
            assert_ne!(within("a pong", stream.read_buf(&mut said)).await.unwrap(), 0);
        }
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

contract!(Nats, ignore = "needs nats-server: the step nats of tests/all");
