//! The hub: nothing of whoever has gone stays behind, and what waits for the slow is bounded.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod support;

use std::{net::SocketAddr, sync::Arc};

use futures_util::future::join_all;
use hubnerite::{Config, Counts, SameUser};
use serde_json::json;
use support::{
    ClientFrame, JsonClient, RawClient, ServerFrame, TestServer, Witness, disconnected, eventually,
    upgrade_with, within,
};
use tokio::sync::Semaphore;

/// One visit, which ends in one of the ways in which connections end.
async fn visit(address: SocketAddr, number: usize) {
    let mut client = RawClient::connect(address).await;
    let json = [("Sec-WebSocket-Protocol", "json.webpubsub.azure.v1")];
    let head = match number % 4 {
        0 => upgrade_with(&format!("/client/hubs/h{}", number % 20), &json),
        _ => upgrade_with(&format!("/ws/user{}", number % 100), &[]),
    };
    let frames = (0..3).flat_map(|group| {
        let name = format!("g{}", (number + group) % 50);
        let join = json!({"type": "joinGroup", "group": name, "ackId": group});
        let send = json!({"type": "sendToGroup", "group": name, "data": number});
        [join, send].map(|frame| ClientFrame::text(frame.to_string()).encode())
    });
    let frames: Vec<u8> = frames.flatten().collect();
    match number % 5 {
        // Gone before the request is there, before the 101 is read, before the joins are answered.
        0 => client.write(&head[..head.len() / 2]).await,
        1 => client.write(&head).await,
        2 => client.write([head.as_bytes(), &frames].concat()).await,
        // Gone in the middle of things; once with a frame half written.
        3 => {
            assert_eq!(client.request(&head).await.status, 101);
            client.read_frame().await;
            client.write(&frames).await;
            client.read_frame().await;
            client.write(&ClientFrame::text("half").encode()[..3]).await;
        }
        _ => {
            assert_eq!(client.request(&head).await.status, 101);
            client.write(&frames).await;
            for _ in 0..4 {
                client.read_frame().await;
            }
        }
    }
    client.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_after_10_000_connects_joins_and_aborts() {
    const VISITS: usize = 10_000;
    let server = TestServer::start(Config::default()).await;
    let at_once = Arc::new(Semaphore::new(100));
    let visits = (0..VISITS).map(|number| {
        let (address, at_once) = (server.address, Arc::clone(&at_once));
        tokio::spawn(async move {
            let _permit = at_once.acquire_owned().await.unwrap();
            visit(address, number).await;
        })
    });
    for ended in join_all(visits).await {
        ended.unwrap();
    }
    let hub = server.hub.clone();
    eventually("nothing is left", Counts::default(), || hub.counts()).await;
    let (opened, closed) = (hub.metrics().opened.get(), hub.metrics().closed.get());
    assert_eq!(opened, closed);
    // Two kinds of five have seen their 101; of the others, some may have been opened too.
    assert!(opened >= VISITS as u64 * 2 / 5, "{opened} were opened");
    let mut witness = Witness::connect(server.address).await;
    witness.expect_prompt_echo().await;
    drop(witness);
    server.stop().await;
}

#[tokio::test]
async fn a_hub_a_user_and_a_group_are_there_as_long_as_somebody_is_in_them() {
    let server = TestServer::start(Config::default()).await;
    let (hub, other) = (server.hub.clone(), server.hub.named("other"));
    let mut alice = server.user("alice").await;
    let again = server.user("alice").await;
    let mut elsewhere = JsonClient::in_hub(server.address, "other").await;
    alice.join("a", 1).await;
    alice.join("b", 2).await;
    elsewhere.join("a", 1).await;
    let counts =
        Counts { connections: 3, hubs: 2, members: 2, users: 1, groups: 2, queued_bytes: 0 };
    eventually("three connections", counts, || hub.counts()).await;
    let counts = Counts { members: 1, users: 0, groups: 1, ..counts };
    eventually("one of them in the other hub", counts, || other.counts()).await;
    alice.send(&json!({"type": "leaveGroup", "group": "a"})).await;
    alice.expect_nothing().await;
    assert_eq!(hub.counts().groups, 1);
    drop(alice);
    eventually("one alice less", (1, 1, 0), || {
        let counts = hub.counts();
        (counts.members, counts.users, counts.groups)
    })
    .await;
    drop((again, elsewhere));
    eventually("nobody", Counts::default(), || hub.counts()).await;
    server.stop().await;
}

/// One of three does not read. The others get every message, at once and in order; it gets 1013.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_costs_the_others_nothing() {
    let config = Config { max_backlog: 128 << 10, ..Config::default() };
    let server = TestServer::start(config).await;
    let mut slow = RawClient::connect_with_small_buffer(server.address, 4 << 10).await;
    slow.handshake("/ws/slow").await;
    let mut fast = [server.user("fast").await, server.user("fast").await];
    let join = json!({"type": "joinGroup", "group": "lobby"}).to_string();
    slow.read_frame().await;
    slow.send(ClientFrame::text(join)).await;
    for client in &mut fast {
        client.join("lobby", 1).await;
    }
    let hub = server.hub.clone();
    let mut witness = Witness::connect(server.address).await;
    let large = "x".repeat(16 << 10);
    let publishing = async {
        let (mut number, mut left) = (0, None);
        while left != Some(0) {
            let sent = hub.send_to_group("lobby", format!("{number} {large}"));
            for client in &mut fast {
                let text = client.next_text().await;
                assert_eq!(text.split_once(' ').unwrap().0, number.to_string());
            }
            number += 1;
            match (left, sent.evicted) {
                (None, 1) => left = Some(50),
                (left_now, evicted) => {
                    assert_eq!(evicted, 0, "the others are evicted too");
                    left = left_now.map(|left| left - 1);
                }
            }
        }
    };
    witness.watch(within("one to be evicted", publishing)).await;
    assert_eq!(hub.metrics().evicted.get(), 1);
    assert_eq!(hub.send_to_user("slow", "gone").recipients, 0);
    assert_eq!(slow.expect_close_behind_others().await, (1013, "reads too slowly".to_owned()));
    drop((slow, fast, witness));
    server.stop().await;
}

/// The budget of all connections together: the largest queue goes, the small ones stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn past_the_budget_of_the_process_the_largest_queue_is_closed_with_1013() {
    let config =
        Config { max_backlog: usize::MAX / 4, max_total_backlog: 4 << 20, ..Config::default() };
    let server = TestServer::start(config).await;
    let hub = server.hub.clone();
    let mut readers = Vec::new();
    for name in ["small", "large"] {
        let mut reader = RawClient::connect_with_small_buffer(server.address, 4 << 10).await;
        reader.handshake(&format!("/ws/{name}")).await;
        reader.read_frame().await;
        readers.push(reader);
    }
    let mut large = readers.pop().unwrap();
    let mut small = readers.pop().unwrap();
    let payload = "x".repeat(64 << 10);
    let queue = |user: &'static str, bytes: usize| {
        let (hub, payload) = (hub.clone(), payload.clone());
        async move {
            let (mut sent, mut evicted) = (0, 0);
            while evicted == 0 && hub.counts().queued_bytes < bytes {
                sent += hub.send_to_user(user, format!("{sent} {payload}")).recipients;
                evicted = usize::try_from(hub.metrics().evicted.get()).unwrap();
                tokio::task::yield_now().await;
            }
            sent
        }
    };
    let mut witness = Witness::connect(server.address).await;
    let sent_to_small = within("a small queue", queue("small", 1 << 20)).await;
    assert_eq!(hub.metrics().evicted.get(), 0);
    witness.watch(within("an eviction", queue("large", usize::MAX))).await;
    assert_eq!(hub.metrics().evicted.get(), 1);
    assert_eq!(large.expect_close_behind_others().await, (1013, "overloaded".to_owned()));
    for number in 0..sent_to_small {
        let frame = small.read_frame().await;
        assert!(frame.payload.starts_with(format!("{number} ").as_bytes()), "{frame:?}");
    }
    small.send(ClientFrame::text(r#"{"type":"ping"}"#)).await;
    small.expect_text(r#"{"type":"pong"}"#).await;
    drop((small, large, witness));
    eventually("no bytes wait", 0, || hub.counts().queued_bytes).await;
    server.stop().await;
}

/// The budget asks what waits already: a single message above it reaches a reader who keeps up.
#[tokio::test]
async fn one_message_above_the_budget_reaches_whoever_reads() {
    let config = Config { max_backlog: 1000, ..Config::default() };
    let server = TestServer::start(config).await;
    let mut alice = server.user("alice").await;
    for _ in 0..5 {
        let large = "x".repeat(1 << 20);
        assert_eq!(server.hub.send_to_user("alice", large.as_str()).evicted, 0);
        assert!(alice.next_text().await == large);
        eventually("nothing waits", 0, || server.hub.counts().queued_bytes).await;
    }
    drop(alice);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_at_once_reject_lets_one_in_and_replace_keeps_one() {
    for same_user in [SameUser::Reject, SameUser::Replace] {
        let server = TestServer::start(Config { same_user, ..Config::default() }).await;
        let asks = (0..50).map(|_| {
            let address = server.address;
            tokio::spawn(async move {
                let mut client = RawClient::connect(address).await;
                let answer = client.request(upgrade_with("/ws/alice", &[])).await;
                (answer.status, client)
            })
        });
        let mut answers: Vec<_> =
            join_all(asks).await.into_iter().map(|answer| answer.unwrap()).collect();
        let opened = answers.iter().filter(|(status, _)| *status == 101).count();
        assert_eq!(opened, if same_user == SameUser::Reject { 1 } else { 50 }, "{same_user:?}");
        assert_eq!(server.hub.send_to_user("alice", "to one").recipients, 1, "{same_user:?}");
        let (mut kept, mut replaced) = (0, 0);
        for (_, client) in answers.iter_mut().filter(|(status, _)| *status == 101) {
            client.read_frame().await;
            let frame = client.read_frame().await;
            if frame.payload == b"to one" {
                kept += 1;
                continue;
            }
            let reason = "the same user connected again";
            assert_eq!(frame, ServerFrame::text(disconnected(reason)));
            assert_eq!(client.expect_close().await, (4000, reason.to_owned()));
            replaced += 1;
        }
        assert_eq!((kept, replaced), (1, opened - 1), "{same_user:?}");
        drop(answers);
        server.stop().await;
    }
}
