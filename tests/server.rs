//! The face for programs: routes, guards, the run of a server.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod support;

use std::{future::pending, io, sync::Mutex, time::Duration};

use hubnerite::{Config, Connection, Drained, Identity, Params, Rejection, Request, Route, Server};
use support::{ClientFrame, End, RawClient, TestServer, eventually, upgrade, upgrade_with, within};
use tokio::net::TcpStream;

#[tokio::test]
async fn a_guard_decides_before_the_socket_opens() {
    async fn whoami(mut connection: Connection, params: Params) {
        let user = connection.identity().user_id().unwrap_or("nobody").to_owned();
        let _ = connection.send(format!("{user} at {}", &params["place"])).await;
    }
    async fn guard(request: &Request) -> Result<Identity, Rejection> {
        match request.query("user").as_deref() {
            Some("mallory") => Err(Rejection::new(429, "not so often")),
            Some(user) => Ok(Identity::user(user)),
            None if request.header("x-anonymous").is_some() => Ok(Identity::anonymous()),
            None => Err(Rejection::unauthorized()),
        }
    }
    async fn nobody(_: &Request) -> Result<Identity, Rejection> {
        Err(Rejection::forbidden())
    }
    let routes = |server: Server| {
        let whoami = || Route::new(whoami).subprotocols(["b", "a"]);
        server
            .guard(guard)
            .route("/closed/{place}", whoami().guard(nobody))
            .route("/{place}", whoami())
    };
    let server = TestServer::start_with(Config::default(), routes).await;
    for (path, fields, status, body) in [
        ("/door", &[][..], 401, "unauthorized\n"),
        ("/door?user=mallory", &[], 429, "not so often\n"),
        ("/closed/door?user=eve", &[], 403, "forbidden\n"),
        ("/door?user=eve%20a+b&user=x", &[], 101, "eve a b at door"),
        ("/%C3%A4", &[("X-Anonymous", "1")], 101, "nobody at ä"),
    ] {
        let mut client = RawClient::connect(server.address).await;
        let answer = client.request(upgrade_with(path, fields)).await;
        assert_eq!(answer.status, status, "{path}");
        match status {
            101 => client.expect_text(body).await,
            _ => assert_eq!(answer.text(), body, "{path}"),
        }
    }
    let mut client = RawClient::connect(server.address).await;
    let offer = [("Sec-WebSocket-Protocol", "x, a, b")];
    let answer = client.handshake_with("/door?user=eve", &offer).await;
    assert_eq!(answer.header("sec-websocket-protocol"), Some("a"), "the client's first choice");
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn the_route_that_was_added_first_is_taken() {
    async fn first(mut connection: Connection, _: Params) {
        let _ = connection.send("first").await;
    }
    async fn second(mut connection: Connection, params: Params) {
        let _ = connection.send(params.get("any").unwrap_or("none").to_owned()).await;
    }
    let routes = |server: Server| server.route("/a", first).route("/{any}", second);
    let server = TestServer::start_with(Config::default(), routes).await;
    for (path, text) in [("/a", "first"), ("/b", "b"), ("/%61", "a")] {
        server.open(path).await.expect_text(text).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn run_is_a_future_that_ends_with_its_shutdown_and_counts_who_is_left() {
    static HELD: Mutex<Vec<Connection>> = Mutex::new(Vec::new());
    async fn stubborn(connection: Connection, _: Params) {
        HELD.lock().unwrap().push(connection);
        pending::<()>().await;
    }
    let config = Config {
        shutdown_grace: Duration::from_millis(200),
        close_timeout: Duration::from_mins(1),
        ..Config::default()
    };
    let routes = |server: Server| server.route("/stubborn", stubborn).daemon_routes();
    let server = TestServer::start_with(config, routes).await;
    let mut polite = server.open("/echo").await;
    let stubborn = server.open("/stubborn").await;
    eventually("both are there", 2, || server.hub.counts().connections).await;
    let address = server.address;
    let polite_ends = async || {
        assert_eq!(polite.expect_close().await.0, 1012);
        polite.finish_close().await;
        drop(polite);
    };
    let (drained, ()) = server.drain_while(polite_ends()).await;
    assert_eq!(drained, Drained { left: 1 });
    let refused = TcpStream::connect(address).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    drop(stubborn);
}

#[tokio::test]
async fn a_server_that_stops_answers_503_to_a_request_that_is_on_its_way() {
    let mut server = TestServer::start(Config::default()).await;
    let mut waiting = RawClient::connect(server.address).await;
    waiting.write(&upgrade("/echo").as_bytes()[..20]).await;
    // Accepted behind it, and answered: so it is accepted too.
    drop(server.open("/echo").await);
    server.begin_stop();
    let answer = waiting.read_answer().await;
    assert_eq!((answer.status, answer.text()), (503, "stopping\n"));
    assert_eq!(answer.header("retry-after"), Some("1"));
    drop(waiting);
    server.stop().await;
}

#[tokio::test]
async fn connections_above_the_limit_are_answered_503() {
    let config = Config { max_connections: 2.try_into().unwrap(), ..Config::default() };
    let server = TestServer::start(config).await;
    let one = server.open("/echo").await;
    let mut other = server.open("/echo").await;
    let mut third = RawClient::connect(server.address).await;
    let answer = third.read_answer().await;
    assert_eq!((answer.status, answer.text()), (503, "too many connections\n"));
    assert_eq!(answer.header("retry-after"), Some("5"));
    other.send(ClientFrame::close(1000, "")).await;
    other.expect_close().await;
    assert_eq!(other.expect_end().await, End::Closed);
    drop((other, third));
    eventually("one has gone", 1, || server.hub.counts().connections).await;
    let reopened = async {
        loop {
            let mut client = RawClient::connect(server.address).await;
            if client.request(upgrade("/echo")).await.status == 101 {
                break client;
            }
        }
    };
    drop((within("a free place", reopened).await, one));
    server.stop().await;
}
