//! User events: what clients say to a backend, and what comes back.

#![cfg(feature = "control")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]
#![allow(missing_docs, reason = "the names are the statements")]

mod support;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use hubnerite::{Config, EventKind, EventOutcome};
use serde_json::{Value, json};
use support::{
    Backend, ClientFrame, JsonClient, Reply, ServerFrame, TestServer, ack, eventually,
    expect_failure, handler_at, patient, reply, status, within,
};
use tokio::{net::TcpListener, sync::Semaphore};

/// User events alone.
async fn server_for(backend: &Backend) -> TestServer {
    TestServer::telling(Config::default(), backend.handler("/").events(["*"])).await
}

fn event(name: &str, data: &Value, ack_id: Option<u64>) -> Value {
    let mut frame = json!({"type": "event", "event": name, "data": data});
    if let Some(id) = ack_id {
        frame["ackId"] = id.into();
    }
    frame
}

fn count(server: &TestServer, outcome: EventOutcome) -> u64 {
    server.hub.metrics().events.count(EventKind::User, outcome)
}

/// A handler that answers only while the test gives it leave, one event for each.
async fn waiting(answer: fn(&str) -> Reply) -> (Backend, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let leave = Arc::clone(&gate);
    let backend = Backend::start(move |heard| {
        let leave = Arc::clone(&leave);
        async move {
            leave.acquire().await.unwrap().forget();
            answer(heard.text())
        }
    });
    (backend.await, gate)
}

#[tokio::test]
async fn an_event_carries_its_payload_verbatim() {
    let mut backend = Backend::answering(status(204)).await;
    let server = server_for(&backend).await;
    let mut client = JsonClient::in_hub(server.address, "chat").await;
    for (frame, content_type, body) in [
        (r#""data":{"z": 1.0,  "a":1e2}"#, "application/json", &b"{\"z\": 1.0,  \"a\":1e2}"[..]),
        (r#""dataType":"text","data":"Gr\u00fc\u00dfe""#, "text/plain", "Grüße".as_bytes()),
        (r#""dataType":"binary","data":"AP8=""#, "application/octet-stream", &[0, 255]),
        (r#""dataType":"protobuf","data":"AP8=""#, "application/x-protobuf", &[0, 255]),
    ] {
        client.send_text(&format!(r#"{{"type":"event","event":"order",{frame}}}"#)).await;
        let heard = backend.expect("order").await;
        assert_eq!(heard.header("ce-type"), "azure.webpubsub.user.order");
        assert_eq!(heard.header("content-type"), content_type, "{frame}");
        assert_eq!(&heard.body[..], body, "{frame}");
    }
    client.expect_nothing().await;
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn the_answer_comes_back_and_then_the_ack() {
    for (content_type, body, data_type, data) in [
        ("text/plain; charset=utf-8", "hi \"you\"", "text", json!("hi \"you\"")),
        ("application/json", "{\"a\": [1]}", "json", json!({"a": [1]})),
        ("application/octet-stream", "\u{1}", "binary", json!("AQ==")),
    ] {
        let backend = Backend::answering(reply(content_type, body)).await;
        let server = server_for(&backend).await;
        let mut client = server.user("ann").await;
        let answer =
            json!({"type": "message", "from": "server", "dataType": data_type, "data": data});
        client.send(&event("order", &json!("tea"), Some(1))).await;
        client.expect(&answer).await;
        client.expect(&ack(1)).await;
        client.send(&event("order", &json!("tea"), None)).await;
        client.expect(&answer).await;
        client.expect_nothing().await;
        drop(client);
        server.stop().await;
    }
}

#[tokio::test]
async fn without_a_body_only_the_ack_comes() {
    for said in [status(204), status(200), reply("application/octet-stream", "")] {
        let backend = Backend::answering(said).await;
        let server = server_for(&backend).await;
        let mut client = server.user("ann").await;
        assert_eq!(client.ask(&event("order", &json!(1), Some(7))).await, ack(7));
        client.expect_nothing().await;
        drop(client);
        server.stop().await;
    }
}

#[tokio::test]
async fn a_simple_client_talks_bare() {
    let backend = Backend::start(|heard| async move {
        reply(heard.headers["content-type"].to_str().unwrap(), heard.body)
    });
    let mut backend = backend.await;
    let server = server_for(&backend).await;
    let mut client = server.open("/client/hubs/chat").await;
    client.send(ClientFrame::text("plain")).await;
    assert_eq!(client.read_frame().await, ServerFrame::text("plain"));
    let heard = backend.expect("message").await;
    assert_eq!((heard.header("content-type"), heard.text()), ("text/plain", "plain"));
    client.send(ClientFrame::binary([0, 255])).await;
    assert_eq!(client.read_frame().await, ServerFrame::binary([0, 255]));
    assert_eq!(backend.expect("message").await.header("content-type"), "application/octet-stream");
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn only_the_events_that_are_named_are_sent() {
    let mut backend = Backend::answering(status(204)).await;
    let handler = backend.handler("/{event}").events(["order"]);
    let server = TestServer::telling(Config::default(), handler).await;
    let mut client = server.user("ann").await;
    assert_eq!(client.ask(&event("order", &json!(1), Some(1))).await, ack(1));
    let other = client.ask(&event("other", &json!(1), Some(2))).await;
    expect_failure(&other, Some(2), "NotFound", "another event");
    let mut simple = server.open("/client/hubs/chat").await;
    simple.send(ClientFrame::text("x")).await;
    eventually("unheard messages", 1, || server.hub.metrics().unheard.get()).await;
    assert_eq!(backend.next().await.path, "/order");
    backend.expect_nothing();
    drop((client, simple));
    server.stop().await;
}

#[tokio::test]
async fn a_failure_is_a_failed_ack_and_the_connection_goes_on() {
    for (code, name) in [
        (500, "InternalServerError"),
        (404, "InternalServerError"),
        (307, "InternalServerError"),
        (401, "Forbidden"),
        (403, "Forbidden"),
    ] {
        let backend = Backend::answering(status(code)).await;
        let server = server_for(&backend).await;
        let mut client = server.user("ann").await;
        let failed = client.ask(&event("order", &json!(1), Some(1))).await;
        expect_failure(&failed, Some(1), name, &code.to_string());
        let failed = client.ask(&event("order", &json!(1), None)).await;
        expect_failure(&failed, None, name, &code.to_string());
        client.join("lobby", 2).await;
        drop(client);
        server.stop().await;
    }
}

#[tokio::test]
async fn an_answer_that_is_not_what_it_says_is_a_failure() {
    for (content_type, body) in [
        ("application/json", b"nonsense".to_vec()),
        ("text/plain", vec![0xff]),
        ("text/html", b"<p>".to_vec()),
        ("text/plain", vec![b'x'; 10 << 20]),
    ] {
        let backend = Backend::answering(reply(content_type, body)).await;
        let server = server_for(&backend).await;
        let mut client = server.user("ann").await;
        let failed = client.ask(&event("order", &json!(1), Some(1))).await;
        expect_failure(&failed, Some(1), "InternalServerError", content_type);
        assert_eq!(count(&server, EventOutcome::Invalid), 1);
        drop(client);
        server.stop().await;
    }
}

#[tokio::test]
async fn a_handler_that_is_down_or_slow_is_a_failure_in_time() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let slow = Backend::start(|_| std::future::pending()).await;
    for (handler, outcome) in [
        (handler_at(gone, "/"), EventOutcome::Unreachable),
        (slow.handler("/").timeout(Duration::from_millis(300)), EventOutcome::TimedOut),
    ] {
        let server = TestServer::telling(Config::default(), handler.events(["*"])).await;
        let mut client = server.user("ann").await;
        let failed = client.ask(&event("order", &json!(1), Some(1))).await;
        expect_failure(&failed, Some(1), "InternalServerError", "no answer");
        assert_eq!(count(&server, outcome), 1);
        let mut simple = server.open("/client/hubs/chat").await;
        simple.send(ClientFrame::text("x")).await;
        let close = simple.read_frame().await;
        assert_eq!(close.close_code_and_reason().0, 1011, "a client without acks");
        drop((client, simple));
        server.stop().await;
    }
}

#[tokio::test]
async fn an_ack_id_is_taken_until_its_event_has_failed() {
    let (mut backend, gate) = waiting(|_| status(500)).await;
    let server = server_for(&backend).await;
    let mut client = server.user("ann").await;
    let order = event("order", &json!(1), Some(5));
    client.send(&order).await;
    backend.expect("order").await;
    expect_failure(&client.ask(&order).await, Some(5), "Duplicate", "still on its way");
    gate.add_permits(1);
    expect_failure(&client.next().await, Some(5), "InternalServerError", "the handler's answer");
    gate.add_permits(1);
    expect_failure(&client.ask(&order).await, Some(5), "InternalServerError", "tried again");
    backend.expect("order").await;
    backend.expect_nothing();
    client.join("lobby", 5).await;
    expect_failure(&client.ask(&order).await, Some(5), "Duplicate", "used by another frame");
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn events_keep_their_order_and_nothing_else_waits_for_them() {
    let (mut backend, gate) = waiting(|text| reply("text/plain", text.to_owned())).await;
    let server = server_for(&backend).await;
    let mut client = server.user("ann").await;
    for number in 0..10 {
        client.send(&event("step", &json!(number), Some(number))).await;
    }
    client.join("lobby", 100).await;
    client.expect_nothing().await;
    assert_eq!(backend.expect("step").await.text(), "0");
    backend.expect_nothing();
    gate.add_permits(10);
    for number in 0..10 {
        assert_eq!(client.next().await["data"], number.to_string());
        client.expect(&ack(number)).await;
    }
    for number in 1..10 {
        assert_eq!(backend.expect("step").await.text(), number.to_string());
    }
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn a_state_comes_back_with_what_follows() {
    let states = Arc::new(Mutex::new(vec!["bQ==", "bg=="]));
    let backend = Backend::start(move |_| {
        let mut said = status(204);
        if let Some(state) = states.lock().unwrap().pop() {
            said.headers_mut().insert("ce-connectionState", state.parse().unwrap());
        }
        std::future::ready(said)
    });
    let mut backend = backend.await;
    let handler = backend.handler("/").events(["*", "disconnected"]);
    let server = TestServer::telling(Config::default(), handler).await;
    let mut client = server.user("ann").await;
    for (id, state) in [(1, ""), (2, "bg=="), (3, "bQ=="), (4, "bQ==")] {
        assert_eq!(client.ask(&event("order", &json!(1), Some(id))).await, ack(id));
        assert_eq!(backend.expect("order").await.header("ce-connectionstate"), state);
    }
    drop(client);
    assert_eq!(backend.expect("disconnected").await.header("ce-connectionstate"), "bQ==");
    server.stop().await;
}

/// One event is on its way, 16 wait, and the ping behind them is not read.
async fn fill(client: &mut JsonClient) {
    for id in 0..17 {
        client.send(&event("order", &json!(1), Some(id))).await;
    }
    client.send(&json!({"type": "ping"})).await;
    let silence = tokio::time::timeout(Duration::from_millis(200), client.next());
    assert!(silence.await.is_err(), "the connection was read from");
}

#[tokio::test]
async fn who_says_more_than_the_handler_takes_is_not_read_from() {
    let (mut backend, gate) = waiting(|_| status(204)).await;
    let handler = backend.handler("/").events(["*"]).timeout(Duration::from_mins(1));
    let server = TestServer::telling(patient(), handler).await;
    let mut client = server.user("ann").await;
    fill(&mut client).await;
    backend.expect("order").await;
    gate.add_permits(1);
    let first = [client.next().await, client.next().await];
    assert!(first.contains(&ack(0)) && first.contains(&json!({"type": "pong"})), "{first:?}");
    gate.add_permits(16);
    for id in 1..17 {
        client.expect(&ack(id)).await;
    }
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_waits_for_room_can_still_be_closed() {
    let (backend, _gate) = waiting(|_| status(204)).await;
    let handler = backend.handler("/").events(["*"]).timeout(Duration::from_mins(1));
    let config = Config { shutdown_grace: Duration::from_millis(500), ..Config::default() };
    let server = TestServer::telling(config, handler).await;
    let mut client = server.user("ann").await;
    fill(&mut client).await;
    let hub = server.hub.clone();
    let ((), drained) = tokio::join!(
        async move {
            assert_eq!(client.next().await["event"], "disconnected");
            assert_eq!(client.close().await.0, 1012);
        },
        server.drain()
    );
    // The connection did end; its events were given up, and counted.
    assert_eq!(drained.left, 0);
    assert_eq!(hub.metrics().events.dropped.get(), 17);
}

#[tokio::test]
async fn events_on_their_way_at_once_are_limited() {
    let (mut backend, gate) = waiting(|_| status(204)).await;
    let handler = backend.handler("/").events(["*"]).concurrency(2.try_into().unwrap());
    let server = TestServer::telling(Config::default(), handler).await;
    let mut clients = Vec::new();
    for name in ["a", "b", "c", "d"] {
        let mut client = server.user(name).await;
        client.send(&event("order", &json!(1), Some(1))).await;
        clients.push(client);
    }
    backend.expect("order").await;
    backend.expect("order").await;
    for client in &mut clients {
        client.expect_nothing().await;
    }
    backend.expect_nothing();
    gate.add_permits(4);
    for client in &mut clients {
        client.expect(&ack(1)).await;
    }
    drop(clients);
    server.stop().await;
}

#[tokio::test]
async fn what_is_said_before_leaving_is_heard() {
    let (mut backend, gate) = waiting(|_| status(204)).await;
    let handler = backend.handler("/").events(["*", "disconnected"]);
    let server = TestServer::telling(Config::default(), handler).await;
    let mut client = server.user("ann").await;
    for number in 0..5 {
        client.send(&event("step", &json!(number), None)).await;
    }
    client.expect_nothing().await;
    drop(client);
    gate.add_permits(6);
    for number in 0..5 {
        assert_eq!(backend.expect("step").await.text(), number.to_string());
    }
    backend.expect("disconnected").await;
    server.stop().await;
    backend.expect_nothing();
}

/// 72 clients with a message of 1 MB each for a handler that never answers, and then they leave.
#[tokio::test]
async fn what_waits_for_a_slow_handler_is_bounded() {
    let backend = Backend::start(|_| std::future::pending()).await;
    let handler = backend.handler("/").events(["*"]).timeout(Duration::from_mins(1));
    let config = Config { shutdown_grace: Duration::from_millis(200), ..Config::default() };
    let server = TestServer::telling(config, handler).await;
    let message = ClientFrame::binary(vec![7; 1_000_000]).encode();
    let mut refused = 0;
    for _ in 0..72 {
        let mut client = server.open("/client/hubs/chat").await;
        client.write(&message).await;
        client.send(ClientFrame::ping("")).await;
        let frame = client.read_frame().await;
        if frame.is_close() {
            assert_eq!(frame.close_code_and_reason().0, 1013);
            refused += 1;
        }
    }
    // 67 of them are 64 MiB.
    assert_eq!(refused, 72 - 67);
    assert_eq!(server.hub.metrics().events.dropped.get(), refused);
    within("the end", server.drain()).await;
}

#[tokio::test]
async fn a_client_with_acks_is_told_that_too_much_waits() {
    let backend = Backend::start(|_| std::future::pending()).await;
    let handler = backend.handler("/").events(["*"]).timeout(Duration::from_mins(1));
    let config = Config { shutdown_grace: Duration::from_millis(200), ..Config::default() };
    let server = TestServer::telling(config, handler).await;
    let message = ClientFrame::binary(vec![7; 1_000_000]).encode();
    for _ in 0..67 {
        let mut client = server.open("/client/hubs/chat").await;
        client.write(&message).await;
        client.send(ClientFrame::ping("")).await;
        assert_eq!(client.read_frame().await, ServerFrame::pong(""));
    }
    let mut client = server.user("ann").await;
    let data = json!("x".repeat(500_000));
    let failed = client.ask(&event("order", &data, Some(1))).await;
    expect_failure(&failed, Some(1), "TooManyRequests", "too much waits");
    client.join("lobby", 1).await;
    within("the end", server.drain()).await;
}
