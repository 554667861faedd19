//! Servers joined by a NATS server.

#![cfg(feature = "nats")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod contract;
mod support;

use support::{EngineServer, within};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::contract::served::{Program, Served};

struct Nats;

impl Program for Nats {
    async fn start() -> EngineServer {
        EngineServer::nats("").await
    }

    fn url(port: u16) -> String {
        format!("nats://127.0.0.1:{port}")
    }

    async fn publish(port: u16, subject: &str, bytes: &[u8]) {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let head = format!("CONNECT {{\"verbose\":false}}\r\nPUB {subject} {}\r\n", bytes.len());
        stream.write_all(&[head.as_bytes(), bytes, b"\r\nPING\r\n"].concat()).await.unwrap();
        let mut said = Vec::new();
        while !said.ends_with(b"PONG\r\n") {
            assert_ne!(within("a pong", stream.read_buf(&mut said)).await.unwrap(), 0);
        }
    }
}

contract!(Served<Nats>, ignore = "needs nats-server: the step nats of tests/all");
