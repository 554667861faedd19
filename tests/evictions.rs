//! What a client is told that has done nothing wrong, or only read slowly.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod support;

use std::{collections::HashSet, future::Ready};

use hubnerite::{Config, Connection, Drained, Params, SameUser, Server};
use support::{ClientFrame, RawClient, TestServer, Witness, connect_with, eventually, within};
use tokio_tungstenite::tungstenite::Error;

#[tokio::test]
async fn a_handler_that_fails_or_panics_is_1011_and_tells_nothing() {
    async fn panic(mut connection: Connection, _: Params) {
        connection.recv().await;
        panic!("a secret");
    }
    async fn fail(mut connection: Connection, _: Params) -> Result<(), String> {
        connection.recv().await;
        Err("a secret".to_owned())
    }
    let routes =
        |server: Server| server.route("/panic", panic).route("/fail", fail).daemon_routes();
    let server = TestServer::start_with(Config::default(), routes).await;
    let mut witness = server.open("/echo").await;
    for path in ["/panic", "/fail"] {
        let mut client = server.open(path).await;
        client.send(ClientFrame::text("go")).await;
        assert_eq!(client.expect_close_and_answer().await, (1011, "internal error".to_owned()));
    }
    assert_eq!(server.hub.metrics().handler_failures.get(), 2);
    witness.send(ClientFrame::text("unharmed")).await;
    witness.expect_text("unharmed").await;
    drop(witness);
    server.stop().await;
}

/// Before it has returned its future, that is, where nothing of it waits yet.
#[tokio::test]
async fn a_handler_that_panics_at_once_is_1011_too() {
    fn at_once(_: Connection, _: Params) -> Ready<()> {
        panic!("a secret")
    }
    let server = TestServer::start_with(Config::default(), |s| s.route("/", at_once)).await;
    let mut client = server.open("/").await;
    assert_eq!(client.expect_close_and_answer().await, (1011, "internal error".to_owned()));
    assert_eq!(server.hub.metrics().handler_failures.get(), 1);
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn a_shutdown_is_1012_with_a_time_of_its_own_for_each_client() {
    const CLIENTS: usize = 20;
    let mut server = TestServer::start(Config::default()).await;
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let path = ["/ws", "/echo", "/client/hubs/chat"][number % 3];
        clients.push(server.open(path).await);
    }
    let hub = server.hub.clone();
    eventually("all are open", CLIENTS, || hub.counts().connections).await;
    server.begin_stop();
    let mut times = HashSet::new();
    for client in &mut clients {
        let (code, reason) = client.expect_close().await;
        assert_eq!(code, 1012);
        let time = reason.strip_prefix("reconnect-after-ms=").and_then(|ms| ms.parse::<u64>().ok());
        assert!(times.insert(time.unwrap_or_else(|| panic!("{reason}"))), "{reason} twice");
        client.finish_close().await;
    }
    drop(clients);
    server.stop().await;
}

#[tokio::test]
async fn a_shutdown_writes_what_is_queued_before_its_1012() {
    let server = TestServer::start(Config::default()).await;
    let mut client = server.user("alice").await;
    let messages = 500;
    let large = "x".repeat(1000);
    for number in 0..messages {
        server.hub.send_to_user("alice", format!("{number} {large}"));
    }
    let reading = async move {
        for number in 0..messages {
            let text = client.next_text().await;
            assert_eq!(text.split_once(' ').unwrap().0, number.to_string());
        }
        client.close().await.0
    };
    let (drained, code) = server.drain_while(reading).await;
    assert_eq!((drained, code), (Drained { left: 0 }, 1012));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_reader_is_closed_with_1013() {
    let config = Config { max_backlog: 64 << 10, ..Config::default() };
    let server = TestServer::start(config).await;
    let mut slow = RawClient::connect_with_small_buffer(server.address, 4 << 10).await;
    slow.handshake("/client/hubs/default").await;
    let hub = server.hub.clone();
    eventually("it is a member", 1, || hub.counts().members).await;
    let mut witness = Witness::connect(server.address).await;
    let evicted = async {
        let message = vec![0; 16 << 10];
        while server.hub.send_to_all(message.clone()).evicted == 0 {
            tokio::task::yield_now().await;
        }
    };
    witness.watch(within("the slow reader to be evicted", evicted)).await;
    assert_eq!(server.hub.counts().members, 0, "an evicted connection is no member");
    assert_eq!(server.hub.metrics().evicted.get(), 1);
    assert_eq!(slow.expect_close_behind_others().await, (1013, "reads too slowly".to_owned()));
    drop((slow, witness));
    server.stop().await;
}

#[tokio::test]
async fn replaced_is_4000_for_the_older_connection() {
    let config = Config { same_user: SameUser::Replace, ..Config::default() };
    let server = TestServer::start(config).await;
    let mut bystander = server.user("bob").await;
    let mut older = server.user("alice").await;
    let mut newer = server.user("alice").await;
    assert_eq!(older.close().await, (4000, "the same user connected again".to_owned()));
    assert_eq!(server.hub.send_to_user("alice", "for the newer").recipients, 1);
    assert_eq!(newer.next_text().await, "for the newer");
    newer.expect_nothing().await;
    bystander.expect_nothing().await;
    drop((bystander, older, newer));
    server.stop().await;
}

#[tokio::test]
async fn reject_answers_409_and_leaves_the_older_connection() {
    let config = Config { same_user: SameUser::Reject, ..Config::default() };
    let server = TestServer::start(config).await;
    let mut older = server.user("alice").await;
    let answer = match connect_with(server.address, "/ws/alice", &[]).await {
        Err(Error::Http(answer)) => answer,
        other => panic!("{other:?}"),
    };
    assert_eq!(answer.status(), 409);
    assert_eq!(answer.body().as_deref(), Some(&b"the user is connected already\n"[..]));
    older.expect_nothing().await;
    // Another user, another hub, and the same user later are not the same user now.
    drop(server.user("bob").await);
    drop(older);
    let hub = server.hub.clone();
    eventually("alice has left", 0, || hub.counts().users).await;
    drop(server.user("alice").await);
    server.stop().await;
}
