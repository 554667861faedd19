//! The event `connect`: a backend decides who gets a connection, and as whom.

#![cfg(feature = "control")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]
#![allow(missing_docs, reason = "the names are the statements")]

mod support;

use std::time::{Duration, Instant};

use hubnerite::{Config, EventKind, EventOutcome, Identity, Rejection, Request, Rights};
use hyper::Response;
use serde_json::{Value, json};
use support::{
    Backend, HttpAnswer, JsonClient, RawClient, Reply, TestServer, connect_with, expect_failure,
    handler_at, next_message, raw_backend, reply, status, upgrade, upgrade_with, within,
};
use tokio::{io::AsyncReadExt, io::AsyncWriteExt, net::TcpListener};

const SUBPROTOCOL: (&str, &str) = ("sec-websocket-protocol", "json.webpubsub.azure.v1");

fn answer(verdict: &Value) -> Reply {
    reply("application/json; charset=utf-8", verdict.to_string())
}

/// What a client is answered that asks for this path when the handler says this.
async fn asked(path: &str, said: Reply) -> HttpAnswer {
    let backend = Backend::answering(said).await;
    let handler = backend.handler("/").events(["connect"]);
    let server = TestServer::telling(Config::default(), handler).await;
    let answer = server.ask(upgrade(path)).await;
    server.stop().await;
    answer
}

fn count(server: &TestServer, outcome: EventOutcome) -> u64 {
    server.hub.metrics().events.count(EventKind::Connect, outcome)
}

#[tokio::test]
async fn the_handler_learns_all_that_the_client_has_said() {
    let mut backend = Backend::answering(status(204)).await;
    let handler = backend.handler("/{hub}/{event}").origin("hub.example.com");
    let handler = handler.access_keys(vec!["one".to_owned(), "two".to_owned()]);
    let server = TestServer::telling(Config::default(), handler).await;
    let path = "/client/hubs/chat?a=1&b=x%20y&a=2";
    let fields = [SUBPROTOCOL, ("cookie", "session=7")];
    let (socket, response) = connect_with(server.address, path, &fields).await.unwrap();
    assert_eq!(response.headers()[SUBPROTOCOL.0], SUBPROTOCOL.1);
    let client = JsonClient::over(socket).await;

    let options = backend.next_request().await;
    assert_eq!((options.method.as_str(), &*options.path), ("OPTIONS", "/chat/validate"));
    assert_eq!(options.header("webhook-request-origin"), "hub.example.com");
    let connect = backend.expect("connect").await;
    assert_eq!(connect.path, "/chat/connect");
    assert_eq!(connect.header("webhook-request-origin"), "hub.example.com");
    assert_eq!(connect.header("ce-type"), "azure.webpubsub.sys.connect");
    assert_eq!(connect.header("content-type"), "application/json; charset=utf-8");
    let id = client.connected["connectionId"].as_str().unwrap();
    assert_eq!(connect.header("ce-connectionid"), id);
    assert_eq!(connect.header("ce-source"), format!("/hubs/chat/client/{id}"));
    assert_eq!(connect.header("ce-signature").matches("sha256=").count(), 2);
    let body = connect.json();
    assert_eq!(body["query"], json!({"a": ["1", "2"], "b": ["x y"]}));
    assert_eq!(body["headers"]["cookie"], json!(["session=7"]));
    assert_eq!(body["subprotocols"], json!([SUBPROTOCOL.1]));
    assert_eq!(body["clientCertificates"], json!([]));
    assert_eq!(body["claims"], json!({}));
    backend.expect("connected").await;
    drop(client);
    backend.expect("disconnected").await;
    server.stop().await;
    backend.expect_nothing();
}

#[tokio::test]
async fn the_answer_gives_a_name_groups_rights_and_a_state() {
    let verdict = json!({"userId": "ann", "groups": ["lobby"], "roles": ["webpubsub.sendToAll"]});
    let said = answer(&verdict);
    let backend = Backend::start(move |heard| {
        let mut said = if heard.event() == "connect" { said.clone() } else { status(204) };
        said.headers_mut().insert("ce-connectionState", "c3RhdGU=".parse().unwrap());
        std::future::ready(said)
    });
    let mut backend = backend.await;
    let server = TestServer::telling(Config::default(), backend.handler("/")).await;
    let mut client = JsonClient::in_hub(server.address, "chat").await;
    assert_eq!(client.connected["userId"], "ann");
    assert_eq!(backend.expect("connect").await.header("ce-userid"), "");
    let connected = backend.expect("connected").await;
    assert_eq!(connected.header("ce-userid"), "ann");
    assert_eq!(connected.header("ce-connectionstate"), "c3RhdGU=");
    assert_eq!(connected.header("ce-subprotocol"), SUBPROTOCOL.1);
    let hub = server.hub.named("chat");
    assert_eq!(hub.send_to_group("lobby", r#"{"to":"group"}"#).recipients, 1);
    client.expect(&json!({"to": "group"})).await;
    client.send(&json!({"type": "sendToAll", "data": 1})).await;
    assert_eq!(client.next().await["from"], "all");
    let join = json!({"type": "joinGroup", "group": "other"});
    expect_failure(&client.ask(&join).await, None, "Forbidden", "a right that was not given");
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn without_a_body_everything_stays_as_it_is() {
    for said in [status(204), status(200), answer(&json!({})), reply("application/json", "")] {
        let backend = Backend::answering(said).await;
        let handler = backend.handler("/").events(["connect"]);
        let server = TestServer::telling(Config::default(), handler).await;
        let mut client = server.user("ann").await;
        assert_eq!(client.connected["userId"], "ann");
        client.join("any", 1).await;
        drop(client);
        assert_eq!(count(&server, EventOutcome::Accepted), 1);
        server.stop().await;
    }
}

#[tokio::test]
async fn the_guard_goes_first_and_its_claims_are_passed_on() {
    async fn guard(request: &Request) -> Result<Identity, Rejection> {
        let name = request.query("name").ok_or_else(Rejection::unauthorized)?;
        let claims = [("sub".to_owned(), vec![name.to_string()])].into();
        let rights = Rights::of_roles(Vec::new());
        Ok(Identity::user(&*name).with_claims(claims).with_rights(rights))
    }
    let mut backend = Backend::answering(status(204)).await;
    let handler = backend.handler("/").events(["connect"]);
    let routes = |server: hubnerite::Server| {
        server.guard(guard).daemon_routes().event_handler(handler).unwrap()
    };
    let server = TestServer::start_with(Config::default(), routes).await;
    server.ask(upgrade("/client/hubs/chat")).await.expect_refusal(401, "without a name");
    backend.expect_nothing();
    let client = server.open("/client/hubs/chat?name=ann").await;
    let connect = backend.expect("connect").await;
    assert_eq!(connect.json()["claims"], json!({"sub": ["ann"]}));
    assert_eq!(connect.header("ce-userid"), "ann");
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn a_refusal_is_passed_on_with_its_status() {
    for code in [400, 401, 403, 404, 429, 500, 503] {
        for path in ["/ws/ann", "/client/hubs/chat"] {
            asked(path, status(code)).await.expect_refusal(code, path);
        }
    }
    let told = asked("/ws/ann", said_with(403, "not today")).await;
    assert_eq!((told.status, told.text()), (403, "not today\n"));
    let secret = asked("/ws/ann", said_with(500, "at line 7")).await;
    assert!(!secret.text().contains("line 7"), "{secret:?}");
    let split = asked("/ws/ann", said_with(403, "a\r\nb")).await;
    split.expect_refusal(403, "a text of two lines");
    assert!(!split.text().contains("a\r"), "{split:?}");
}

fn said_with(code: u16, text: &'static str) -> Reply {
    Response::builder().status(code).body(text.into()).unwrap()
}

#[tokio::test]
async fn an_answer_that_is_neither_yes_nor_no_is_502() {
    for (what, said) in [
        ("no JSON", reply("application/json", "nonsense")),
        ("no object", answer(&json!(["ann"]))),
        ("a field of another type", answer(&json!({"userId": 7}))),
        ("a group that can be none", answer(&json!({"groups": [" "]}))),
        ("a subprotocol not offered", answer(&json!({"subprotocol": "other"}))),
        ("a redirect", status(307)),
        ("10 MiB", reply("application/json", vec![b' '; 10 << 20])),
    ] {
        asked("/client/hubs/chat", said).await.expect_refusal(502, what);
    }
}

#[tokio::test]
async fn on_a_path_with_a_name_nobody_becomes_somebody_else() {
    let said = answer(&json!({"userId": "bob"}));
    asked("/ws/ann", said.clone()).await.expect_refusal(403, "another name");
    let backend = Backend::answering(said).await;
    let handler = backend.handler("/").events(["connect"]);
    let server = TestServer::telling(Config::default(), handler).await;
    let named = server.user("bob").await;
    let anonymous = JsonClient::in_hub(server.address, "chat").await;
    assert_eq!(anonymous.connected["userId"], "bob");
    drop((named, anonymous));
    server.stop().await;
}

#[tokio::test]
async fn the_handler_may_select_a_subprotocol_for_a_simple_client() {
    let backend = Backend::answering(answer(&json!({"subprotocol": "mine"}))).await;
    let handler = backend.handler("/").events(["connect"]);
    let server = TestServer::telling(Config::default(), handler).await;
    let fields = [("sec-websocket-protocol", "other, mine")];
    let path = "/client/hubs/chat";
    let (mut socket, response) = connect_with(server.address, path, &fields).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "mine");
    server.hub.named("chat").send_to_all("bare");
    assert_eq!(next_message(&mut socket).await.to_text().unwrap(), "bare");
    drop(socket);
    server.stop().await;
}

#[tokio::test]
async fn a_user_who_may_not_be_connected_twice_is_known_by_the_name_that_the_handler_gives() {
    let mut backend = Backend::answering(answer(&json!({"userId": "ann"}))).await;
    let config = Config { same_user: hubnerite::SameUser::Reject, ..Config::default() };
    let server = TestServer::telling(config, backend.handler("/")).await;
    let first = server.open("/client/hubs/chat").await;
    server.ask(upgrade("/client/hubs/chat")).await.expect_refusal(409, "the second");
    for event in ["connect", "connected", "connect"] {
        backend.expect(event).await;
    }
    drop(first);
    // Whoever was not connected is not disconnected either.
    backend.expect("disconnected").await;
    server.stop().await;
    backend.expect_nothing();
}

#[tokio::test]
async fn a_handler_that_is_down_is_502_and_is_tried_again() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let server = TestServer::telling(Config::default(), handler_at(gone, "/")).await;
    server.ask(upgrade("/ws/ann")).await.expect_refusal(502, "nobody listens");
    assert_eq!(count(&server, EventOutcome::Unreachable), 1);
    assert_eq!(server.hub.metrics().events.retries.get(), 2);
    // It comes up, and nobody has to wait for it.
    let listener = TcpListener::bind(gone).await.unwrap();
    let backend = Backend::on(listener, |_| std::future::ready(status(204)));
    drop(server.user("ann").await);
    drop(backend);
    server.stop().await;
}

#[tokio::test]
async fn a_handler_that_is_slow_is_504_within_its_timeout() {
    for (config, timeout) in [
        (Config::default(), Duration::from_millis(200)),
        // The handshake has less time than the handler would have.
        (
            Config { open_timeout: Duration::from_millis(400), ..Config::default() },
            Duration::from_mins(1),
        ),
    ] {
        let backend = Backend::start(|_| std::future::pending()).await;
        let handler = backend.handler("/").events(["connect"]).timeout(timeout);
        let server = TestServer::telling(config, handler).await;
        let start = Instant::now();
        server.ask(upgrade("/ws/ann")).await.expect_refusal(504, "no answer");
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
        server.stop().await;
    }
}

#[tokio::test]
async fn a_handler_that_is_no_http_server_is_502() {
    let (garbage, _tasks) = raw_backend(|mut stream| async move {
        let _ = stream.read(&mut [0; 1024]).await;
        let _ = stream.write_all(b"220 mail.example.com ESMTP\r\n").await;
    })
    .await;
    let (cut, _more) = raw_backend(|mut stream| async move {
        let _ = stream.read(&mut [0; 1024]).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{}").await;
    })
    .await;
    for address in [garbage, cut] {
        let server = TestServer::telling(Config::default(), handler_at(address, "/")).await;
        server.ask(upgrade("/ws/ann")).await.expect_refusal(502, "garbage");
        assert_eq!(count(&server, EventOutcome::Invalid), 1);
        server.stop().await;
    }
}

#[tokio::test]
async fn without_permission_nothing_is_sent() {
    for (what, origin) in [("no field", None), ("another origin", Some("other.example.com"))] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut backend = Backend::with_options(listener, move |_| {
            let mut said = status(200);
            let origin = origin.map(|origin| origin.parse().unwrap());
            origin.map(|origin| said.headers_mut().insert("webhook-allowed-origin", origin));
            std::future::ready(said)
        });
        let server = TestServer::telling(Config::default(), backend.handler("/")).await;
        server.ask(upgrade("/ws/ann")).await.expect_refusal(502, what);
        assert_eq!(backend.next_request().await.method, "OPTIONS");
        // The second one is refused without another question.
        server.ask(upgrade("/ws/ann")).await.expect_refusal(502, what);
        backend.expect_nothing();
        assert_eq!(count(&server, EventOutcome::NotAllowed), 2);
        server.stop().await;
    }
}

#[tokio::test]
async fn permission_is_asked_for_once_however_many_come() {
    let mut backend = Backend::answering(status(204)).await;
    let handler = backend.handler("/{hub}/").events(["connect"]);
    let server = TestServer::telling(Config::default(), handler).await;
    let many = (0..20).map(|_| RawClient::open(server.address, "/client/hubs/chat"));
    let many = within("20 connections", futures_util::future::join_all(many)).await;
    let another = server.open("/client/hubs/other").await;
    let mut asked = Vec::new();
    for _ in 0..23 {
        let heard = backend.next_request().await;
        if heard.method == "OPTIONS" {
            asked.push(heard.path);
        }
    }
    assert_eq!(asked, ["/chat/", "/other/"]);
    drop((many, another));
    server.stop().await;
}

#[tokio::test]
async fn the_plain_endpoints_are_nobody_elses_business() {
    let mut backend = Backend::answering(status(403)).await;
    let server = TestServer::telling(Config::default(), backend.handler("/")).await;
    for path in ["/ws", "/echo"] {
        drop(server.open(path).await);
    }
    server.ask(upgrade_with("/ws/ann", &[("Upgrade", "")])).await.expect_refusal(426, "a page");
    server.stop().await;
    backend.expect_nothing();
}
