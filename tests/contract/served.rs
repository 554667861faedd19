//! Engines that are processes of their own.

#![allow(dead_code, reason = "the engine in this process has none")]

use std::marker::PhantomData;

use hubnerite::Backplane;

use super::Bench;
use crate::support::EngineServer;

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
