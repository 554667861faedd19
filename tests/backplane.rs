//! Servers of one process, joined by the memory engine.

#![cfg(feature = "backplane")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod contract;
mod support;

use hubnerite::{Backplane, Config, Memory};
use support::{Failed, connect, next_message};
use tokio_tungstenite::tungstenite::Message;

use crate::contract::{Bench, Node};

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

#[tokio::test]
async fn a_wrong_flag_is_named_and_a_password_is_not_repeated() {
    for (flags, rule) in [
        (&["--backplane=http://ann:secret@host"][..], "--backplane: the URL must begin with"),
        (&["--backplane=redis://ann:secret@"], "--backplane: "),
        (
            &["--backplane=redis://ann:secret@host", "--backplane-prefix=a.secret"],
            "--backplane: the prefix must be",
        ),
    ] {
        let ended = Failed::of(flags).await;
        assert_eq!(ended.code, Some(2), "{flags:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(rule), "{flags:?}: {}", ended.stderr);
        assert!(!ended.stderr.contains("secret"), "{flags:?}: {}", ended.stderr);
    }
}

/// What an engine could not carry is not left to it.
#[tokio::test]
async fn a_message_that_is_larger_than_the_engine_takes_reaches_those_who_are_here() {
    let engine = Memory::default();
    let start = || Node::start(Config::default(), Backplane::over(&engine));
    let (one, other) = (start().await, start().await);
    let mut ann = connect(one.server.address, "/client/hubs/default").await;
    let mut ben = connect(other.server.address, "/client/hubs/default").await;
    let sent = one.server.hub.send_to_all(vec![7; Memory::MAX_MESSAGE]);
    assert_eq!((sent.recipients, sent.unreached), (1, true));
    assert_eq!(next_message(&mut ann).await.len(), Memory::MAX_MESSAGE);
    assert!(!one.server.hub.send_to_all("smaller").unreached);
    assert_eq!(next_message(&mut ben).await, Message::text("smaller"));
    assert_eq!((one.counters().refused.get(), one.counters().lost.get()), (1, 0));
}
