//! How a request is refused that is no opening handshake, or a wrong one.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod support;

use hubnerite::Config;
use support::{
    ClientFrame, End, HttpAnswer, KEY, RawClient, TestServer, eventually, plain, upgrade,
    upgrade_with, within,
};
use tokio::io::AsyncReadExt;

/// The addresses that take an upgrade, and those that do not.
const SOCKETS: [&str; 4] = ["/ws", "/echo", "/ws/alice", "/client/hubs/chat"];
const PAGES: [&str; 3] = ["/", "/healthz", "/readyz"];

#[tokio::test]
async fn any_other_path_is_404_and_is_not_reflected() {
    let server = TestServer::start(Config::default()).await;
    for path in [
        "/unknown-path",
        "/ws/a/unknown-path",
        "/ws/a/",
        "//ws",
        "/ws/..",
        "/ws/.",
        "/ws/%2e%2e",
        "/ws/%2E",
        "/x/../ws",
        "/WS",
        "/echo/",
        "/client",
        "/client/hubs",
        "/client/hubs/a/b",
        "/healthz/",
        "/%77s",
        "/<script>",
        "http://localhost/unknown-path",
    ] {
        for request in [upgrade(path), plain("GET", path), plain("POST", path)] {
            let answer = server.ask(request).await;
            answer.expect_refusal(404, path);
            assert_eq!(answer.text(), "not found\n");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn a_known_path_with_another_method_is_405_with_allow() {
    let server = TestServer::start(Config::default()).await;
    let sockets = SOCKETS.map(|path| (path, "GET"));
    for (path, allowed) in sockets.into_iter().chain(PAGES.map(|path| (path, "GET, HEAD"))) {
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "M-SEARCH"]
        {
            let answer = server.ask(plain(method, path)).await;
            answer.expect_refusal(405, path);
            assert_eq!(answer.header("allow"), Some(allowed), "{method} {path}");
        }
    }
    server.stop().await;
}

/// RFC 9110 section 9.3.2.
#[tokio::test]
async fn head_is_answered_as_get_without_the_body() {
    let server = TestServer::start(Config::default()).await;
    for (path, status) in
        [("/", 200), ("/healthz", 200), ("/readyz", 200), ("/ws", 405), ("/nothing", 404)]
    {
        let mut client = RawClient::connect(server.address).await;
        client.write(plain("HEAD", path)).await;
        let mut head = Vec::new();
        within("the end", client.stream.read_to_end(&mut head)).await.unwrap();
        // Nothing may stand behind the blank line.
        let head = HttpAnswer::parse(&head);
        assert_eq!(head.status, status, "{path}");
        let method = if status == 405 { "POST" } else { "GET" };
        assert_eq!(head.headers, server.ask(plain(method, path)).await.headers, "{path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_socket_path_without_an_upgrade_is_426_with_upgrade() {
    let server = TestServer::start(Config::default()).await;
    for path in SOCKETS {
        let h2c = upgrade_with(path, &[("Upgrade", "h2c")]);
        for request in [plain("GET", path), h2c] {
            let answer = server.ask(request).await;
            answer.expect_refusal(426, path);
            assert_eq!(answer.header("upgrade"), Some("websocket"), "{path}");
            assert_eq!(answer.header("connection"), Some("close, upgrade"), "{path}");
            assert_eq!(answer.header("sec-websocket-version"), None, "{path}");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn a_version_other_than_13_is_426_with_the_version() {
    let server = TestServer::start(Config::default()).await;
    for path in SOCKETS {
        for version in ["", "0", "8", "12", "14", "013", "13, 8", "x"] {
            let request = upgrade_with(path, &[("Sec-WebSocket-Version", version)]);
            let answer = server.ask(request).await;
            answer.expect_refusal(426, version);
            assert_eq!(answer.header("sec-websocket-version"), Some("13"), "{version}");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn a_malformed_request_is_400() {
    let server = TestServer::start(Config::default()).await;
    for fields in [
        &[("Sec-WebSocket-Key", "")][..],
        &[("Host", "")],
        &[("Host", "a"), ("Host", "b")],
        &[("Sec-WebSocket-Key", KEY), ("Sec-WebSocket-Key", KEY)],
        &[("Connection", "")],
        &[("Connection", "keep-alive")],
        &[("Content-Length", "1")],
        &[("Transfer-Encoding", "chunked")],
        &[("Sec-WebSocket-Key", "short")],
        &[("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=!")],
    ] {
        let answer = server.ask(upgrade_with("/echo", fields)).await;
        answer.expect_refusal(400, &format!("{fields:?}"));
    }
    for head in [
        "GET /echo\r\n\r\n",
        "get /echo HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET  /echo HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /echo HTTP/1.1\nHost: h\n\n",
        "GET /echo HTTP/1.1\r\nHost : h\r\n\r\n",
        "GET /echo HTTP/1.1\r\nHost: h\r\n folded: x\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n",
    ] {
        server.ask(head).await.expect_refusal(400, head);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_head_above_its_limits_is_431_and_a_long_target_414() {
    let server = TestServer::start(Config::default()).await;
    // 64 fields are allowed, five of which the upgrade itself has; so is a head of 8 KiB.
    let fields = |count: usize| vec![("X", "y"); count - 5];
    let sized = |length: usize| {
        let bare = upgrade_with("/echo", &[("X", "x")]).len();
        upgrade_with("/echo", &[("X", &"x".repeat(length - bare + 1))])
    };
    let target = |length: usize| upgrade(&format!("/echo?{}", "x".repeat(length - 6)));
    assert_eq!(sized(8 << 10).len(), 8 << 10);
    for (status, request) in [
        (101, upgrade_with("/echo", &fields(64))),
        (431, upgrade_with("/echo", &fields(65))),
        (101, sized(8 << 10)),
        (431, sized((8 << 10) + 1)),
        (431, sized(64 << 10)),
        (101, target(2 << 10)),
        (414, target((2 << 10) + 1)),
    ] {
        let answer = server.ask(&request).await;
        assert_eq!(answer.status, status, "{} bytes: {answer:?}", request.len());
        if status != 101 {
            answer.expect_refusal(status, "limits");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn a_refused_client_costs_the_server_nothing() {
    let server = TestServer::start(Config::default()).await;
    for request in [upgrade("/unknown"), plain("GET", "/echo"), plain("PUT", "/")] {
        server.ask(request).await;
    }
    let mut client = RawClient::connect(server.address).await;
    client.write("GET /ec").await;
    client.abort();
    let mut client = server.open("/echo").await;
    client.send(ClientFrame::text("still here")).await;
    client.expect_text("still here").await;
    assert_eq!(server.hub.counts().connections, 1);
    let metrics = server.hub.metrics();
    eventually("three refused and one lost", 4, || metrics.refused.get()).await;
    client.send(ClientFrame::close(1000, "")).await;
    client.expect_close().await;
    assert_eq!(client.expect_end().await, End::Closed);
    drop(client);
    server.stop().await;
}
