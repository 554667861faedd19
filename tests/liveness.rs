//! Keeping alive: who is silent is asked, and who does not answer is let go; a handler that waits
//! for something else loses nothing by it.
//!
//! Deadlines are short here; no test waits for a time to pass but by reading.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod support;

use std::{
    future::pending,
    time::{Duration, Instant},
};

use hubnerite::{Config, Connection, Counts, Params, Server};
use support::{ClientFrame, NEVER, ServerFrame, TestServer, eventually, patient};
use tokio::task::coop::consume_budget;

const SHORT: Duration = Duration::from_millis(200);

/// Where a client has to answer within a deadline: it may be late, on a busy machine.
const LONGER: Duration = Duration::from_secs(1);

/// A server whose handler joins as the user `elsewhere` and never looks at its connection again.
async fn waits_elsewhere(config: Config) -> TestServer {
    let routes = |server: Server| {
        let hub = server.hub();
        server.route("/", move |connection: Connection, _: Params| {
            let member = connection.join(&hub, Some("elsewhere"));
            async move {
                let _here = (connection, member);
                pending::<()>().await;
            }
        })
    };
    TestServer::start_with(config, routes).await
}

#[tokio::test]
async fn an_idle_connection_is_pinged_and_stays_while_it_answers() {
    let config = Config { ping_interval: LONGER, ping_timeout: LONGER, ..patient() };
    let server = TestServer::start(config).await;
    let mut last = Instant::now();
    let mut client = server.open("/echo").await;
    for _ in 0..5 {
        assert_eq!(client.read_frame().await, ServerFrame::ping());
        assert!(last.elapsed() >= LONGER / 2, "pinged after {:?}", last.elapsed());
        last = Instant::now();
        client.send(ClientFrame::pong("")).await;
    }
    client.send(ClientFrame::text("still here")).await;
    let mut frame = client.read_frame().await;
    while frame == ServerFrame::ping() {
        frame = client.read_frame().await;
    }
    assert_eq!(frame, ServerFrame::text("still here"));
    drop(client);
    server.stop().await;
}

/// A task that has used up its turn when its timer is set.
#[tokio::test]
async fn a_handler_that_is_busy_at_first_is_pinged_like_any_other() {
    async fn handler(mut connection: Connection, _: Params) {
        for _ in 0..1_000 {
            consume_budget().await;
        }
        connection.recv().await;
    }
    let config = Config { ping_interval: SHORT, ping_timeout: NEVER, ..patient() };
    let server = TestServer::start_with(config, |s| s.route("/", handler)).await;
    let mut client = server.open("/").await;
    assert_eq!(client.read_frame().await, ServerFrame::ping());
    drop(client);
    server.stop().await;
}

/// How long an answer may take says nothing about how long silence may last behind it.
#[tokio::test]
async fn an_answered_ping_is_followed_by_the_next_after_ping_interval() {
    let config = Config { ping_interval: SHORT, ping_timeout: NEVER, ..patient() };
    let server = TestServer::start(config).await;
    let mut client = server.open("/echo").await;
    for _ in 0..3 {
        assert_eq!(client.read_frame().await, ServerFrame::ping());
        client.send(ClientFrame::pong("")).await;
    }
    drop(client);
    server.stop().await;
}

/// By the time that a client of one server has been pinged five times, one of the other server
/// has heard nothing.
#[tokio::test]
async fn a_ping_interval_of_zero_never_pings() {
    let pinging = Config { ping_interval: LONGER, ping_timeout: LONGER, ..patient() };
    let (pinging, silent) = (TestServer::start(pinging).await, TestServer::start(patient()).await);
    let (mut pinged, mut other) = (pinging.open("/echo").await, silent.open("/echo").await);
    for _ in 0..5 {
        assert_eq!(pinged.read_frame().await, ServerFrame::ping());
        pinged.send(ClientFrame::pong("")).await;
    }
    other.send(ClientFrame::text("first")).await;
    other.expect_text("first").await;
    drop((pinged, other));
    pinging.stop().await;
    silent.stop().await;
}

#[tokio::test]
async fn who_speaks_is_not_pinged() {
    let config = Config { ping_interval: 10 * SHORT, ping_timeout: NEVER, ..patient() };
    let server = TestServer::start(config).await;
    let mut client = server.open("/echo").await;
    let start = Instant::now();
    let mut pace = tokio::time::interval(SHORT / 10);
    while start.elapsed() < 15 * SHORT {
        pace.tick().await;
        client.send(ClientFrame::text("x")).await;
        client.expect_text("x").await;
    }
    assert_eq!(client.read_frame().await, ServerFrame::ping(), "once it is silent, it is");
    drop(client);
    server.stop().await;
}

/// A peer that has vanished: TCP says nothing, and neither pong nor close ever comes.
#[tokio::test]
async fn a_half_open_peer_is_found_and_leaves_nothing() {
    let config =
        Config { ping_interval: SHORT, ping_timeout: SHORT, close_timeout: SHORT, ..patient() };
    let server = TestServer::start(config).await;
    let start = Instant::now();
    let mut client = server.open("/ws/vanished").await;
    client.read_frame().await;
    assert_eq!(client.read_frame().await, ServerFrame::ping());
    assert_eq!(client.expect_disconnected_and_close().await, (1011, "ping timeout".to_owned()));
    assert!(start.elapsed() >= SHORT / 2 + SHORT, "after {:?}", start.elapsed());
    let hub = server.hub.clone();
    eventually("it is gone, its socket still open", Counts::default(), || hub.counts()).await;
    client.expect_end().await;
    server.stop().await;
}

/// Any byte is life: a peer in the middle of a long frame cannot put a pong into it.
#[tokio::test]
async fn data_instead_of_a_pong_is_life_too() {
    let config = Config { ping_interval: LONGER, ping_timeout: 3 * LONGER, ..patient() };
    let server = TestServer::start(config).await;
    let mut client = server.open("/echo").await;
    let frame = ClientFrame::binary(vec![7; 6]).encode();
    client.write(&frame[..7]).await;
    for byte in &frame[7..10] {
        assert_eq!(client.read_frame().await, ServerFrame::ping());
        client.write([*byte]).await;
    }
    client.write(&frame[10..]).await;
    assert_eq!(client.read_frame().await, ServerFrame::binary(vec![7; 6]));
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn a_handler_that_waits_elsewhere_still_has_its_deliveries_written() {
    let server = waits_elsewhere(patient()).await;
    let mut client = server.open("/").await;
    for number in 0..10 {
        let sent = server.hub.send_to_user("elsewhere", number.to_string());
        assert_eq!(sent.recipients, 1);
        client.expect_text(&number.to_string()).await;
    }
}

/// Its pongs are not read, and that is no reason to close.
#[tokio::test]
async fn a_handler_that_waits_elsewhere_still_has_its_client_pinged() {
    let config = Config { ping_interval: LONGER, ping_timeout: LONGER, ..patient() };
    let server = waits_elsewhere(config).await;
    let mut client = server.open("/").await;
    for _ in 0..3 {
        assert_eq!(client.read_frame().await, ServerFrame::ping());
        client.send(ClientFrame::pong("")).await;
    }
}

#[tokio::test]
async fn a_handler_that_waits_elsewhere_still_has_its_connection_closed() {
    let mut server = waits_elsewhere(patient()).await;
    let mut client = server.open("/").await;
    client.send(ClientFrame::text("never read")).await;
    server.hub.send_to_user("elsewhere", "queued");
    server.begin_stop();
    client.expect_text("queued").await;
    assert_eq!(client.expect_close().await.0, 1012);
    client.finish_close().await;
}
