//! Servers of one process, joined by the memory engine.

#![cfg(feature = "backplane")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod contract;
mod support;

use hubnerite::{Backplane, Memory};

use crate::contract::Bench;

struct InMemory(Memory);

impl Bench for InMemory {
    async fn start() -> Self {
        Self(Memory::default())
    }

    fn backplane(&self) -> Backplane {
        Backplane::over(&self.0)
    }

    async fn publish(&self, subject: &str, bytes: &[u8]) {
        self.0.publish(subject, bytes.to_vec());
    }

    async fn stop(&mut self) {
        self.0.stop();
    }

    async fn restart(&mut self) {
        self.0.start();
    }

    fn pause(&self) {
        self.0.pause();
    }

    fn resume(&self) {
        self.0.start();
    }
}

contract!(InMemory);
