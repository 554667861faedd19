//! Engines that are processes of their own.

#![allow(dead_code, reason = "the engine in this process has none")]

use std::marker::PhantomData;

use hubnerite::Backplane;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::Bench;
use crate::support::{EngineServer, within};

/// An engine that is a program.
pub trait Program {
    /// Starts it.
    fn start() -> impl Future<Output = EngineServer>;

    /// How servers find it.
    fn url(port: u16) -> String;

    /// Publishes a message as a backend does.
    fn publish(port: u16, subject: &str, bytes: &[u8]) -> impl Future<Output = ()>;
}

/// The bench of such an engine.
pub struct Served<P>(EngineServer, PhantomData<P>);

impl<P: Program> Bench for Served<P> {
    async fn start() -> Self {
        Self(P::start().await, PhantomData)
    }

    fn backplane(&self) -> Backplane {
        Backplane::new(&P::url(self.0.port)).unwrap()
    }

    async fn publish(&self, subject: &str, bytes: &[u8]) {
        P::publish(self.0.port, subject, bytes).await;
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

/// Publishes to a NATS server with this login, and waits until it has taken it.
pub async fn publish_to_nats(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    login: &str,
    subject: &str,
    bytes: &[u8],
) {
    let head = format!("CONNECT {login}\r\nPUB {subject} {}\r\n", bytes.len());
    stream.write_all(&[head.as_bytes(), bytes, b"\r\nPING\r\n"].concat()).await.unwrap();
    let mut said = Vec::new();
    while !said.ends_with(b"PONG\r\n") {
        assert_ne!(within("a pong", stream.read_buf(&mut said)).await.unwrap(), 0);
    }
}
