//! What answers on each path of the data port.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod support;

use std::time::Duration;

use data_encoding::BASE64;
use hubnerite::Config;
use serde_json::Value;
use sha2::{Digest, Sha256};
use support::{ClientFrame, RawClient, ServerFrame, TestServer, plain, upgrade, within};

/// The addresses that take an upgrade, and those that do not.
const SOCKETS: [&str; 4] = ["/ws", "/echo", "/ws/alice", "/client/hubs/chat"];

/// The subprotocol of the JSON protocol.
const JSON: (&str, &str) = ("Sec-WebSocket-Protocol", "json.webpubsub.azure.v1");

/// Opens a socket that speaks the JSON protocol and reads its first frame.
async fn connected(server: &TestServer, path: &str) -> Value {
    let mut client = RawClient::connect(server.address).await;
    client.handshake_with(path, &[JSON]).await;
    let first = client.read_frame().await;
    serde_json::from_slice(&first.payload).unwrap()
}

#[tokio::test]
async fn a_101_has_the_fields_of_rfc_6455_and_no_others() {
    let server = TestServer::start(Config::default()).await;
    for path in SOCKETS {
        let answer = RawClient::connect(server.address).await.handshake(path).await;
        assert_eq!(answer.status_line, "HTTP/1.1 101 Switching Protocols", "{path}");
        assert_eq!(answer.header("upgrade"), Some("websocket"), "{path}");
        assert!(answer.header("connection").unwrap().eq_ignore_ascii_case("upgrade"), "{path}");
        assert_eq!(answer.headers.len(), 3, "{path}: {answer:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn ws_answers_text_with_a_prefix_and_binary_unchanged() {
    let server = TestServer::start(Config::default()).await;
    let mut client = server.open("/ws").await;
    client.send(ClientFrame::text("Grüße")).await;
    client.expect_text("Message received: Grüße").await;
    client.send(ClientFrame::text("")).await;
    client.expect_text("Message received: ").await;
    client.send(ClientFrame::binary([0, 255, 128])).await;
    assert_eq!(client.read_frame().await, ServerFrame::binary([0, 255, 128]));
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn echo_answers_every_message_unchanged_and_whole() {
    let server = TestServer::start(Config::default()).await;
    let mut client = server.open("/echo").await;
    for length in [0, 1, 125, 126, 4095, 4096, 65_535, 65_536, 1 << 20] {
        let payload: Vec<u8> = (0..=255).cycle().take(length).collect();
        client.send(ClientFrame::binary(payload.clone())).await;
        assert_eq!(client.read_frame().await, ServerFrame::binary(payload));
        let text = "ä".repeat(length / 2);
        client.send(ClientFrame::text(text.clone())).await;
        assert_eq!(client.read_frame().await, ServerFrame::text(text));
    }
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn a_fragmented_message_is_one_message_and_a_ping_within_it_is_answered() {
    let server = TestServer::start(Config::default()).await;
    let mut client = server.open("/ws").await;
    client
        .send_all([
            ClientFrame::text("a\u{e4}".as_bytes()[..2].to_vec()).unfinished(),
            ClientFrame::ping("in between"),
            ClientFrame::continuation("").unfinished(),
            ClientFrame::continuation([0xa4, b'z']),
        ])
        .await;
    assert_eq!(client.read_frame().await, ServerFrame::pong("in between"));
    client.expect_text("Message received: aäz").await;
    client.send(ClientFrame::pong("unasked")).await;
    client.send(ClientFrame::text("next")).await;
    client.expect_text("Message received: next").await;
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn a_head_may_come_byte_by_byte_with_a_frame_close_behind_it() {
    let server = TestServer::start(Config::default()).await;
    let mut client = RawClient::connect(server.address).await;
    for byte in upgrade("/ws").as_bytes() {
        client.write([*byte]).await;
    }
    assert_eq!(client.read_answer().await.status, 101);
    drop(client);
    let mut client = RawClient::connect(server.address).await;
    let frame = ClientFrame::text("early").encode();
    client.write([upgrade("/ws").as_bytes(), &frame[..7]].concat()).await;
    assert_eq!(client.read_answer().await.status, 101);
    client.write(&frame[7..]).await;
    client.expect_text("Message received: early").await;
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn a_user_id_is_percent_decoded() {
    let server = TestServer::start(Config::default()).await;
    let longest = "a".repeat(128);
    let longest_encoded = "%C3%A4".repeat(64);
    for (path, user) in [
        ("alice", "alice"),
        ("J%C3%BCrgen", "Jürgen"),
        ("j%c3%bcrgen", "jürgen"),
        ("a%2Fb%3F%23%25", "a/b?#%"),
        ("a%20b+c", "a b+c"),
        ("%F0%9F%98%80", "😀"),
        ("%22%5C", "\"\\"),
        ("%2e.%2e", "..."),
        (&longest, &longest),
        (&longest_encoded, &"ä".repeat(64)),
        ("bob?user_id=eve", "bob"),
    ] {
        let first = connected(&server, &format!("/ws/{path}")).await;
        assert_eq!(first["userId"], user, "{path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_user_id_that_breaks_its_rule_is_400() {
    let server = TestServer::start(Config::default()).await;
    for path in [
        String::new(),
        "%".to_owned(),
        "%4".to_owned(),
        "%zz".to_owned(),
        "%ff".to_owned(),
        "a%C3".to_owned(),
        "%ED%A0%80".to_owned(),
        "%00".to_owned(),
        "a%0Ab".to_owned(),
        "a%7F".to_owned(),
        "%C2%85".to_owned(),
        "a".repeat(129),
        "%C3%A4".repeat(64) + "a",
    ] {
        let answer = server.ask(upgrade(&format!("/ws/{path}"))).await;
        answer.expect_refusal(400, &path);
        assert!(answer.text().contains("user_id"), "{path}: {}", answer.text());
    }
    server.stop().await;
}

#[tokio::test]
async fn a_hub_name_has_a_rule() {
    let server = TestServer::start(Config::default()).await;
    for hub in
        ["c", "Z", "chat_2", "a%60,.[]", "a%60%2C%2E%5B%5D", &format!("h{}", "1".repeat(127))]
    {
        let first = connected(&server, &format!("/client/hubs/{hub}")).await;
        assert_eq!(first["event"], "connected", "{hub}");
        assert_eq!(first.get("userId"), None, "{hub}: nobody said who this is");
    }
    for hub in
        ["", "1a", "_a", "a-b", "a%20b", "%C3%A4", "a%C3%A4", "a%2Fb", "a:b", &"h".repeat(129)]
    {
        let answer = server.ask(upgrade(&format!("/client/hubs/{hub}"))).await;
        answer.expect_refusal(400, hub);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_subprotocol_is_selected_only_where_it_is_offered_and_spoken() {
    let server = TestServer::start(Config::default()).await;
    let (json, reliable) = (JSON.1, "json.reliable.webpubsub.azure.v1");
    let two = format!("{reliable}, {json}");
    for (path, offered, selected) in [
        ("/client/hubs/chat", json, Some(json)),
        ("/client/hubs/chat", "x,json.webpubsub.azure.v1 , y", Some(json)),
        ("/client/hubs/chat", &two, Some(json)),
        ("/client/hubs/chat", reliable, None),
        ("/client/hubs/chat", "JSON.webpubsub.azure.v1", None),
        ("/echo", json, None),
    ] {
        let mut client = RawClient::connect(server.address).await;
        let answer = client.handshake_with(path, &[(JSON.0, offered)]).await;
        assert_eq!(answer.header("sec-websocket-protocol"), selected, "{path}: {offered}");
    }
    server.stop().await;
}

#[tokio::test]
async fn the_console_page_may_load_nothing_from_elsewhere() {
    let server = TestServer::start(Config::default()).await;
    let answer = server.ask(plain("GET", "/")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    let policy = answer.header("content-security-policy").unwrap();
    let page = answer.text();
    for element in ["script", "style"] {
        let inside = page.split_once(&format!("<{element}>")).unwrap().1;
        let inside = inside.split_once(&format!("</{element}>")).unwrap().0;
        let hash = BASE64.encode(&Sha256::digest(inside));
        assert!(policy.contains(&format!("{element}-src 'sha256-{hash}'")), "{element}: {policy}");
    }
    for rule in ["default-src 'none'", "base-uri 'none'", "frame-ancestors 'none'"] {
        assert!(policy.contains(rule), "{rule}: {policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    for foreign in ["src=", "@import", "url("] {
        assert!(!page.contains(foreign), "the page contains {foreign}");
    }
    for link in page.split("href=").skip(1) {
        assert!(link.starts_with("\"data:"), "the page links to {:?}", link.get(..40));
    }
    server.stop().await;
}

#[tokio::test]
async fn health_and_readiness_are_200_ok() {
    let server = TestServer::start(Config::default()).await;
    for path in ["/healthz", "/readyz", "/healthz?x=1", "http://localhost/readyz"] {
        let answer = server.ask(plain("GET", path)).await;
        assert_eq!((answer.status, answer.text()), (200, "ok\n"), "{path}");
        assert_eq!(answer.header("connection"), Some("close"), "{path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn readyz_is_503_with_the_reason_while_a_server_that_stops_still_accepts() {
    let drain_delay = Duration::from_hours(1);
    let mut server = TestServer::start(Config { drain_delay, ..Config::default() }).await;
    server.begin_stop();
    let drains = async {
        loop {
            let answer = server.ask(plain("GET", "/readyz")).await;
            if answer.status != 200 {
                break answer;
            }
        }
    };
    let answer = within("the server to be not ready", drains).await;
    answer.expect_refusal(503, "/readyz");
    assert_eq!(answer.text(), "draining\n");
    assert_eq!(server.ask(plain("GET", "/healthz")).await.status, 200);
    let mut client = server.open("/echo").await;
    client.send(ClientFrame::text("still served")).await;
    client.expect_text("still served").await;
}
