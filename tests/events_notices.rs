//! `connected` and `disconnected`: what a backend is told, however the connection ends.

#![cfg(feature = "control")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]
#![allow(missing_docs, reason = "the names are the statements")]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use hubnerite::{Config, EventKind, EventOutcome};
use serde_json::json;
use support::{Backend, ClientFrame, TestServer, eventually, handler_at, patient, status, upgrade};
use tokio::{net::TcpListener, sync::Semaphore};

#[tokio::test]
async fn a_connection_is_told_of_when_it_opens_and_when_it_ends() {
    let mut backend = Backend::answering(status(200)).await;
    let server = TestServer::telling(Config::default(), backend.handler("/")).await;
    let mut client = server.user("ann").await;
    client.send(&json!({"type": "event", "event": "order", "data": 1})).await;
    for (id, event) in [("1", "connect"), ("2", "connected"), ("3", "order")] {
        let heard = backend.expect(event).await;
        assert_eq!(heard.header("ce-id"), id);
        assert_eq!(heard.header("ce-userid"), "ann");
        assert_eq!(heard.header("ce-hub"), "default");
        assert_eq!(heard.header("ce-specversion"), "1.0");
        assert_eq!(heard.header("ce-awpsversion"), "1.0");
        assert_eq!(heard.header("ce-connectionid"), client.connected["connectionId"]);
        if event == "connected" {
            assert_eq!(heard.json(), json!({}));
        }
    }
    client.socket.close(None).await.unwrap();
    drop(client);
    let heard = backend.expect("disconnected").await;
    assert_eq!(heard.header("ce-type"), "azure.webpubsub.sys.disconnected");
    assert_eq!(heard.header("ce-id"), "4");
    server.stop().await;
    backend.expect_nothing();
}

#[tokio::test]
async fn the_reason_says_how_it_ended() {
    let mut backend = Backend::answering(status(200)).await;
    let handler = backend.handler("/").events(["disconnected"]);
    let server = TestServer::telling(patient(), handler).await;
    let mut client = server.open("/client/hubs/chat").await;
    client.send(ClientFrame::close(1000, "had enough")).await;
    client.expect_close().await;
    drop(client);
    assert_eq!(backend.expect("disconnected").await.json(), json!({"reason": "had enough"}));

    server.open("/client/hubs/chat").await.abort();
    let lost = backend.expect("disconnected").await.json();
    assert!(lost["reason"].as_str().is_some_and(|reason| reason.contains("reset")), "{lost}");

    let mut client = server.open("/ws/ann").await;
    client.send(ClientFrame::binary("no JSON")).await;
    let (_, reason) = client.expect_close_behind_others().await;
    drop(client);
    assert_eq!(backend.expect("disconnected").await.json(), json!({ "reason": reason }));
    server.stop().await;
    backend.expect_nothing();
}

#[tokio::test]
async fn nobody_waits_for_a_handler_that_is_slow_to_hear_of_it() {
    let gate = Arc::new(Semaphore::new(0));
    let leave = Arc::clone(&gate);
    let backend = Backend::start(move |_| {
        let leave = Arc::clone(&leave);
        async move {
            leave.acquire().await.unwrap().forget();
            status(200)
        }
    });
    let mut backend = backend.await;
    let handler = backend.handler("/").events(["connected", "disconnected", "*"]);
    let server = TestServer::telling(Config::default(), handler).await;
    let mut client = server.user("ann").await;
    client.join("lobby", 1).await;
    client.send(&json!({"type": "event", "event": "order", "data": 1})).await;
    client.expect_nothing().await;
    drop(client);
    eventually("open connections", 0, || server.hub.counts().connections).await;
    backend.expect("connected").await;
    backend.expect_nothing();
    gate.add_permits(3);
    backend.expect("order").await;
    backend.expect("disconnected").await;
    server.stop().await;
}

#[tokio::test]
async fn a_notice_is_sent_again_under_its_id_until_it_is_heard() {
    let failures = Arc::new(AtomicUsize::new(2));
    let left = Arc::clone(&failures);
    let backend = Backend::start(move |_| {
        let fails = left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok();
        std::future::ready(status(if fails { 500 } else { 200 }))
    });
    let mut backend = backend.await;
    let handler = backend.handler("/").events(["connected", "disconnected"]);
    let server = TestServer::telling(Config::default(), handler).await;
    drop(server.user("ann").await);
    for _ in 0..3 {
        assert_eq!(backend.expect("connected").await.header("ce-id"), "2");
    }
    assert_eq!(backend.expect("disconnected").await.header("ce-id"), "3");
    let counters = &server.hub.metrics().events;
    assert_eq!(counters.retries.get(), 2);
    let accepted = |kind| counters.count(kind, EventOutcome::Accepted);
    eventually("accepted", [1, 1], || {
        [accepted(EventKind::Connected), accepted(EventKind::Disconnected)]
    })
    .await;
    assert_eq!(counters.count(EventKind::Connected, EventOutcome::Refused), 0);
    server.stop().await;
    backend.expect_nothing();
}

#[tokio::test]
async fn a_refusal_that_will_not_change_is_not_repeated() {
    let mut backend = Backend::answering(status(404)).await;
    let handler = backend.handler("/").events(["connected", "disconnected"]);
    let server = TestServer::telling(Config::default(), handler).await;
    drop(server.user("ann").await);
    backend.expect("connected").await;
    backend.expect("disconnected").await;
    let hub = server.hub.clone();
    server.stop().await;
    backend.expect_nothing();
    assert_eq!(hub.metrics().events.count(EventKind::Connected, EventOutcome::Refused), 1);
}

#[tokio::test]
async fn who_never_heard_of_a_connection_does_not_hear_of_its_end() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let handler = handler_at(gone, "/").events(["connected", "disconnected"]);
    let server = TestServer::telling(Config::default(), handler).await;
    let client = server.user("ann").await;
    let counters = server.hub.clone();
    let counters = &counters.metrics().events;
    eventually("given up", 1, || counters.count(EventKind::Connected, EventOutcome::Unreachable))
        .await;
    let listener = TcpListener::bind(gone).await.unwrap();
    let mut backend = Backend::on(listener, |_| std::future::ready(status(200)));
    drop(client);
    eventually("dropped", 1, || counters.dropped.get()).await;
    server.stop().await;
    backend.expect_nothing();
}

#[tokio::test]
async fn who_is_refused_is_neither_connected_nor_disconnected() {
    let mut backend = Backend::answering(status(403)).await;
    let server = TestServer::telling(Config::default(), backend.handler("/")).await;
    server.ask(upgrade("/ws/ann")).await.expect_refusal(403, "refused");
    backend.expect("connect").await;
    server.stop().await;
    backend.expect_nothing();
}

#[tokio::test]
async fn a_server_that_stops_tells_of_all_its_connections() {
    let mut backend = Backend::answering(status(200)).await;
    let handler = backend.handler("/").events(["disconnected"]).concurrency(2.try_into().unwrap());
    let server = TestServer::telling(Config::default(), handler).await;
    let mut clients = Vec::new();
    for number in 0..20 {
        clients.push(server.open(&format!("/ws/user{number}")).await);
    }
    let hub = server.hub.clone();
    let (drained, ()) = server
        .drain_while(async {
            // Whoever is told to go, goes.
            for mut client in clients {
                client.expect_close_behind_others().await;
                client.finish_close().await;
            }
        })
        .await;
    assert_eq!(drained.left, 0);
    let counters = &hub.metrics().events;
    assert_eq!(counters.count(EventKind::Disconnected, EventOutcome::Accepted), 20);
    assert_eq!(counters.dropped.get(), 0);
    for _ in 0..20 {
        let reason = backend.expect("disconnected").await.json();
        assert!(reason["reason"].as_str().unwrap().starts_with("reconnect-after-ms="), "{reason}");
    }
    backend.expect_nothing();
}

#[tokio::test]
async fn what_cannot_be_told_before_the_end_is_counted() {
    let backend = Backend::start(|_| std::future::pending()).await;
    let handler = backend.handler("/").events(["disconnected"]);
    let config = Config { shutdown_grace: Duration::from_millis(300), ..Config::default() };
    let server = TestServer::telling(config, handler).await;
    drop(server.open("/ws/ann").await);
    let hub = server.hub.clone();
    assert_eq!(server.drain().await.left, 0);
    assert_eq!(hub.metrics().events.dropped.get(), 1);
}
