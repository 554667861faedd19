//! Close codes: what a client is told that asked to close, or did what it must not.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod support;

use std::time::Duration;

use hubnerite::{Config, Connection, Params, Server};
use support::{ClientFrame, End, LengthForm, RawClient, ServerFrame, TestServer};

/// The code that the server sends, and the end of the connection behind it. Whoever breaks the
/// protocol is not waited for: the server closes its side at once.
async fn closed_at_once(server: &TestServer, path: &str, frames: Vec<ClientFrame>) -> u16 {
    let mut client = server.open(path).await;
    client.send_all(frames).await;
    let (code, reason) = client.expect_close_behind_others().await;
    assert!(!reason.is_empty(), "{code} without a reason");
    assert_eq!(client.expect_end().await, End::Closed);
    code
}

#[tokio::test]
async fn who_asks_to_close_is_answered_with_its_own_code() {
    let server = TestServer::start(Config::default()).await;
    for path in ["/ws", "/echo", "/ws/alice", "/client/hubs/chat"] {
        for (code, reason) in [(1000, ""), (1001, "going away"), (3000, ""), (4999, "grüße")] {
            let mut client = server.open(path).await;
            client.send(ClientFrame::close(code, reason)).await;
            let (answer, _) = client.expect_close_behind_others().await;
            assert_eq!(answer, code, "{path}");
            assert_eq!(client.expect_end().await, End::Closed, "{path}");
        }
        let mut client = server.open(path).await;
        client.send(ClientFrame::new(0x8, [])).await;
        let (answer, _) = client.expect_close_behind_others().await;
        assert!(answer == 1000 || answer == 1005, "{path}: {answer}");
        assert_eq!(client.expect_end().await, End::Closed, "{path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn what_was_asked_before_a_close_is_answered_before_it() {
    let server = TestServer::start(Config::default()).await;
    let mut client = server.open("/echo").await;
    let texts = (0..100).map(|number| ClientFrame::text(number.to_string()));
    client.send_all(texts.chain([ClientFrame::close(1000, "")])).await;
    for number in 0..100 {
        client.expect_text(&number.to_string()).await;
    }
    assert_eq!(client.expect_close().await.0, 1000);
    assert_eq!(client.expect_end().await, End::Closed);
    drop(client);
    server.stop().await;
}

/// A handler that returns, and one that asks to close.
#[tokio::test]
async fn a_handler_closes_with_1000_or_what_it_names() {
    async fn leave(mut connection: Connection, _: Params) {
        let _ = connection.send("bye").await;
    }
    async fn close(mut connection: Connection, _: Params) {
        connection.close(4321, "because");
        connection.close(4322, "too late");
        assert_eq!(connection.send("too late").await, Err(hubnerite::Closed));
    }
    let routes = |server: Server| server.route("/leave", leave).route("/close", close);
    let server = TestServer::start_with(Config::default(), routes).await;
    let mut client = server.open("/leave").await;
    client.expect_text("bye").await;
    assert_eq!(client.expect_close_and_answer().await, (1000, String::new()));
    drop(client);
    let mut client = server.open("/close").await;
    assert_eq!(client.expect_close_and_answer().await, (4321, "because".to_owned()));
    drop(client);
    server.stop().await;
}

/// The IANA registry has 1014 ("bad gateway"). A handler may send it; from a peer, tungstenite takes
/// it for a code that nobody may send, and has its answer ready before anybody here is asked.
#[tokio::test]
async fn code_1014_is_sent_and_not_taken() {
    async fn close(mut connection: Connection, _: Params) {
        connection.close(1014, "bad gateway");
    }
    let routes = |server: Server| server.daemon_routes().route("/close", close);
    let server = TestServer::start_with(Config::default(), routes).await;
    let mut client = server.open("/close").await;
    assert_eq!(client.expect_close_and_answer().await, (1014, "bad gateway".to_owned()));
    drop(client);
    let mut client = server.open("/echo").await;
    client.send(ClientFrame::close(1014, "bad gateway")).await;
    assert_eq!(client.expect_close().await.0, 1002);
    assert_eq!(client.expect_end().await, End::Closed);
    server.stop().await;
}

#[tokio::test]
async fn a_violation_of_rfc_6455_is_1002() {
    let server = TestServer::start(Config::default()).await;
    let text = || ClientFrame::text("x");
    for frames in [
        vec![text().unmasked()],
        vec![text().rsv(4)],
        vec![text().rsv(2)],
        vec![text().rsv(1)],
        vec![ClientFrame::new(0x3, "")],
        vec![ClientFrame::new(0x7, "")],
        vec![ClientFrame::new(0xb, "")],
        vec![ClientFrame::new(0xf, "")],
        vec![ClientFrame::ping("x").unfinished()],
        vec![ClientFrame::ping(vec![b'x'; 126])],
        vec![ClientFrame::close(1000, vec![b'x'; 124])],
        vec![ClientFrame::continuation("x")],
        vec![text().unfinished(), text()],
        vec![ClientFrame::new(0x8, [3])],
        vec![ClientFrame::close(999, "")],
        vec![ClientFrame::close(1004, "")],
        vec![ClientFrame::close(1005, "")],
        vec![ClientFrame::close(1006, "")],
        vec![ClientFrame::close(1015, "")],
        vec![ClientFrame::close(2999, "")],
        vec![ClientFrame::close(5000, "")],
        vec![ClientFrame::close(65535, "")],
    ] {
        let what = format!("{frames:?}");
        let mut client = server.open("/echo").await;
        client.send_all(frames).await;
        assert_eq!(client.expect_close().await.0, 1002, "{what}");
        assert_eq!(client.expect_end().await, End::Closed, "{what}");
    }
    server.stop().await;
}

/// However the bytes are cut: here they come in one piece.
#[tokio::test]
async fn what_came_whole_before_a_violation_is_answered_before_the_close() {
    let config = Config { max_fragments: 2, ..Config::default() };
    let server = TestServer::start(config).await;
    let unfinished = || ClientFrame::continuation("").unfinished();
    for (code, frames) in [
        (1002, vec![ClientFrame::text("x").rsv(4)]),
        (1002, vec![ClientFrame::new(0x3, "")]),
        (1002, vec![ClientFrame::text("x").unmasked()]),
        (1002, vec![ClientFrame::continuation("x")]),
        (1007, vec![ClientFrame::text([0xff])]),
        (1008, vec![ClientFrame::text("").unfinished(), unfinished(), unfinished()]),
        (1009, vec![ClientFrame::binary([]).declaring(1 << 40)]),
    ] {
        let what = format!("{frames:?}");
        let mut client = server.open("/echo").await;
        client.send_all([ClientFrame::text("whole")].into_iter().chain(frames)).await;
        let first = client.read_frame().await;
        assert_eq!(first, ServerFrame::text("whole"), "before {what}");
        assert_eq!(client.expect_close().await.0, code, "{what}");
    }
    server.stop().await;
}

#[tokio::test]
async fn an_http_request_behind_the_upgrade_is_1002() {
    let server = TestServer::start(Config::default()).await;
    let mut client = server.open("/echo").await;
    client.write("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(client.expect_close().await.0, 1002);
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn binary_on_a_json_endpoint_is_1003() {
    let server = TestServer::start(Config::default()).await;
    let json = [("Sec-WebSocket-Protocol", "json.webpubsub.azure.v1")];
    for path in ["/ws/alice", "/client/hubs/chat"] {
        let mut client = RawClient::connect(server.address).await;
        client.handshake_with(path, &json).await;
        client.read_frame().await;
        client.send(ClientFrame::binary([1, 2, 3])).await;
        let (code, reason) = client.expect_disconnected_and_close().await;
        assert_eq!(code, 1003, "{path}: {reason}");
        assert!(!reason.is_empty(), "{path}");
        client.finish_close().await;
    }
    server.stop().await;
}

#[tokio::test]
async fn text_that_is_not_utf_8_is_1007() {
    let server = TestServer::start(Config::default()).await;
    for bytes in [&b"\xff"[..], b"a\xc3", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80"] {
        for path in ["/echo", "/ws", "/ws/alice", "/client/hubs/chat"] {
            let frame = ClientFrame::text(bytes);
            assert_eq!(closed_at_once(&server, path, vec![frame]).await, 1007, "{path}");
        }
    }
    let split = vec![ClientFrame::text([0xc3]).unfinished(), ClientFrame::continuation([0x28])];
    assert_eq!(closed_at_once(&server, "/echo", split).await, 1007);
    let reason = vec![ClientFrame::close(1000, [0xff])];
    assert_eq!(closed_at_once(&server, "/echo", reason).await, 1007);
    server.stop().await;
}

#[tokio::test]
async fn a_message_above_the_limit_is_1009() {
    let config = Config { max_message_size: 1000, ..Config::default() };
    let server = TestServer::start(config).await;
    let mut client = server.open("/echo").await;
    client.send(ClientFrame::binary(vec![7; 1000])).await;
    assert_eq!(client.read_frame().await, ServerFrame::binary(vec![7; 1000]));
    drop(client);
    let pieces = |size: usize| {
        vec![
            ClientFrame::binary(vec![7; size]).unfinished(),
            ClientFrame::continuation(vec![7; 501]),
        ]
    };
    let declared = |length: u64| vec![ClientFrame::binary([]).declaring(length)];
    for frames in [
        vec![ClientFrame::binary(vec![7; 1001])],
        vec![ClientFrame::text(vec![b'x'; 1001])],
        pieces(500),
        // From the header alone: not a byte of them has come.
        declared(1001),
        declared(u64::from(u32::MAX)),
        vec![ClientFrame::binary([]).declaring(1 << 40).length_form(LengthForm::Eight)],
    ] {
        assert_eq!(closed_at_once(&server, "/echo", frames).await, 1009);
    }
    let mut client = server.open("/echo").await;
    client.send_all(pieces(499)).await;
    assert_eq!(client.read_frame().await, ServerFrame::binary(vec![7; 1000]));
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn too_many_fragments_are_1008() {
    let config = Config { max_fragments: 4, ..Config::default() };
    let server = TestServer::start(config).await;
    let message = |fragments: usize| {
        let mut frames = vec![ClientFrame::text("").unfinished()];
        frames.resize(fragments - 1, ClientFrame::continuation("").unfinished());
        frames.push(ClientFrame::continuation("end"));
        frames
    };
    let mut client = server.open("/echo").await;
    // The limit is one of a message, not of a connection.
    for _ in 0..3 {
        client.send_all(message(4)).await;
        client.expect_text("end").await;
    }
    drop(client);
    assert_eq!(closed_at_once(&server, "/echo", message(5)).await, 1008);
    server.stop().await;
}

#[tokio::test]
async fn too_many_control_frames_are_1008() {
    let config =
        Config { control_frames_per_second: 1, control_frames_burst: 10, ..Config::default() };
    let server = TestServer::start(config).await;
    let mut client = server.open("/echo").await;
    client.send_all((0..10).map(|_| ClientFrame::ping(""))).await;
    for _ in 0..10 {
        assert_eq!(client.read_frame().await, ServerFrame::pong(""));
    }
    client.send_all((0..100).map(|_| ClientFrame::pong(""))).await;
    assert_eq!(client.expect_close().await.0, 1008);
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn a_message_that_does_not_end_is_1008() {
    let message_timeout = Duration::from_millis(200);
    let server = TestServer::start(Config { message_timeout, ..Config::default() }).await;
    let beginnings = [
        vec![ClientFrame::text("").unfinished()],
        vec![ClientFrame::text("half").declaring(8)],
        vec![ClientFrame::text("").unfinished(), ClientFrame::ping("")],
    ];
    for frames in beginnings {
        let start = tokio::time::Instant::now();
        assert_eq!(closed_at_once(&server, "/echo", frames).await, 1008);
        assert!(start.elapsed() >= message_timeout, "after {:?}", start.elapsed());
    }
    server.stop().await;
}
