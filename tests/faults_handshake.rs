//! Attacks on the opening handshake (README.md, "Trouble, and what it gets").

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

#[path = "support/scene.rs"]
mod scene;
mod support;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use hubnerite::Config;
use scene::Scene;
use support::{
    ClientFrame, End, HttpAnswer, KEY, RawClient, ServerFrame, eventually, upgrade, upgrade_with,
    within,
};

const OPEN_TIMEOUT: Duration = Duration::from_millis(400);

/// How late a deadline may be noticed on a machine that does other things too.
const LATE: Duration = Duration::from_millis(1500);

fn hasty() -> Config {
    Config { open_timeout: OPEN_TIMEOUT, ..Config::default() }
}

/// What a request is answered, on a connection of its own that the server closes behind its one answer.
async fn ask(address: SocketAddr, request: impl AsRef<[u8]>) -> HttpAnswer {
    let answer = RawClient::connect(address).await.request(request).await;
    let closes = answer.header("connection").is_some_and(|value| value.starts_with("close"));
    assert!(closes || answer.status == 101, "{answer:?}");
    answer
}

/// Each request is answered with this status. All that are not are named together.
async fn expect_status(address: SocketAddr, status: u16, requests: &[(&str, String)]) {
    let mut others = Vec::new();
    for (what, request) in requests {
        let answer = ask(address, request).await;
        if answer.status != status {
            others.push((*what, answer.status));
        }
    }
    assert!(others.is_empty(), "not answered {status}: {others:?}");
}

/// A right opening handshake with this behind its usual header fields.
fn upgrade_and(lines: &str) -> String {
    let head = upgrade("/ws");
    format!("{}{lines}\r\n\r\n", head.strip_suffix("\r\n").unwrap())
}

fn expect_about(elapsed: Duration, deadline: Duration) {
    let range = deadline.mul_f32(0.9)..deadline + LATE;
    assert!(range.contains(&elapsed), "after {elapsed:?} instead of {deadline:?}");
}

// ---- The head comes slowly, or never.

#[tokio::test]
async fn a_head_that_never_comes_is_answered_408() {
    let mut scene = Scene::start(hasty()).await;
    let mut silent = RawClient::connect(scene.address()).await;
    let start = Instant::now();
    let answer = scene.witness.watch(silent.read_answer()).await;
    assert_eq!(answer.status, 408, "{answer:?}");
    expect_about(start.elapsed(), OPEN_TIMEOUT);
    scene.end().await;
}

#[tokio::test]
async fn a_head_that_drips_is_answered_408_however_lively_it_drips() {
    let mut scene = Scene::start(hasty()).await;
    let mut client = RawClient::connect(scene.address()).await;
    let drip = async {
        let start = Instant::now();
        let mut pace = tokio::time::interval(Duration::from_millis(5));
        let mut head = upgrade("/ws").into_bytes();
        head.truncate(head.len() - 4);
        head.extend_from_slice(b"\r\nX: ");
        head.resize(8000, b'x');
        for byte in head {
            tokio::select! {
                _ = pace.tick() => client.write([byte]).await,
                answered = client.stream.readable() => {
                    answered.unwrap();
                    break;
                }
            }
        }
        let answer = client.read_answer().await;
        assert_eq!(answer.status, 408, "{answer:?}");
        expect_about(start.elapsed(), OPEN_TIMEOUT);
    };
    scene.witness.watch(drip).await;
    scene.end().await;
}

/// Plain tungstenite gives up after 64 reads.
#[tokio::test]
async fn a_slow_client_that_is_honest_is_served() {
    let mut scene = Scene::start(Config::default()).await;
    let mut client = RawClient::connect(scene.address()).await;
    let slow = async {
        for byte in upgrade("/ws").into_bytes() {
            client.write([byte]).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(client.read_answer().await.status, 101);
        client.send(ClientFrame::text("hi")).await;
        client.expect_text("Message received: hi").await;
        client.send(ClientFrame::close(1000, "")).await;
        assert_eq!(client.expect_close().await.0, 1000);
    };
    scene.witness.watch(slow).await;
    drop(client);
    scene.end().await;
}

/// tungstenite CVE-2023-43669: a head that was parsed again with each read of it.
#[tokio::test]
async fn a_head_in_single_bytes_costs_no_more_than_its_bytes() {
    let scene = Scene::start(Config::default()).await;
    let head = upgrade_with("/ws", &[("X", &"x".repeat(7900))]);
    let mut client = RawClient::connect(scene.address()).await;
    let start = Instant::now();
    for byte in head.into_bytes() {
        client.write([byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(client.read_answer().await.status, 101);
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    drop(client);
    scene.end().await;
}

#[tokio::test]
async fn a_thousand_silent_clients_keep_nobody_out() {
    let mut scene = Scene::start(hasty()).await;
    let attack = async {
        let mut silent = Vec::new();
        for _ in 0..1200 {
            silent.push(RawClient::connect(scene.server.address).await);
        }
        let mut good = scene.server.open("/ws").await;
        good.send(ClientFrame::text("hi")).await;
        good.expect_text("Message received: hi").await;
        for mut client in silent {
            // 408 for a handshake that was begun, 503 for one too many of them.
            let answer = client.read_answer().await;
            assert!(matches!(answer.status, 408 | 503), "{answer:?}");
        }
    };
    scene.witness.watch(attack).await;
    scene.end().await;
}

#[tokio::test]
async fn a_client_that_leaves_within_its_head_leaves_nothing_behind() {
    let scene = Scene::start(Config::default()).await;
    for length in [0, 1, 20, 100] {
        let mut client = RawClient::connect(scene.address()).await;
        client.write(&upgrade("/ws").as_bytes()[..length]).await;
        drop(client);
        let mut client = RawClient::connect(scene.address()).await;
        client.write(&upgrade("/ws").as_bytes()[..length]).await;
        client.abort();
    }
    scene.end().await;
}

// ---- Too large.

/// A head of exactly so many bytes.
fn head_of(length: usize) -> String {
    let bare = upgrade_with("/ws", &[("X", "-")]).len() - 1;
    upgrade_with("/ws", &[("X", &"x".repeat(length - bare))])
}

fn head_with_fields(count: usize) -> String {
    let usual = upgrade("/ws").lines().count() - 2;
    let more: Vec<_> = (usual..count).map(|index| format!("X-{index}: x")).collect();
    upgrade_and(&more.join("\r\n"))
}

#[tokio::test]
async fn heads_are_taken_up_to_their_limits_and_no_further() {
    let scene = Scene::start(Config::default()).await;
    for fits in [head_of(8192), head_with_fields(64)] {
        let mut client = RawClient::connect(scene.address()).await;
        assert_eq!(client.request(fits).await.status, 101);
    }
    let long_name = format!("{}: x", "x".repeat(9000));
    let too_much = [
        ("8 KiB and a byte", head_of(8193)),
        ("60 KiB", head_of(60 << 10)),
        ("65 fields", head_with_fields(65)),
        ("a long name", upgrade_and(&long_name)),
        ("no end of a line", format!("GET /ws HTTP/1.1\r\n{}", "x".repeat(9000))),
    ];
    expect_status(scene.address(), 431, &too_much).await;
    scene.end().await;
}

/// ws CVE-2024-37890: more fields than the parser has room for.
#[tokio::test]
async fn thousands_of_fields_are_431() {
    let scene = Scene::start(Config::default()).await;
    let fields = "a:\r\n".repeat(3000);
    let request = format!("GET /ws HTTP/1.1\r\n{fields}\r\n");
    expect_status(scene.address(), 431, &[("3,000 fields", request)]).await;
    scene.end().await;
}

#[tokio::test]
async fn a_target_of_2_kib_is_taken_and_a_longer_one_is_414() {
    let scene = Scene::start(Config::default()).await;
    let target = |length: usize| format!("/ws?{}", "x".repeat(length - 4));
    let mut client = RawClient::connect(scene.address()).await;
    assert_eq!(client.request(upgrade(&target(2048))).await.status, 101);
    drop(client);
    let requests = [
        ("a byte too many", upgrade(&target(2049))),
        ("a target without end", format!("GET /{}", "x".repeat(7000))),
        ("an absolute one", upgrade(&format!("http://localhost/{}", "x".repeat(2048)))),
    ];
    expect_status(scene.address(), 414, &requests).await;
    scene.end().await;
}

/// What is sent on and on is not read on and on.
#[tokio::test]
async fn a_head_without_end_is_cut_off() {
    let mut scene = Scene::start(Config::default()).await;
    let mut client = RawClient::connect(scene.address()).await;
    let flood = async {
        client.write("GET /ws HTTP/1.1\r\nX: ").await;
        let start = Instant::now();
        // 431 is written at 8 KiB; then some is read, so that the answer is not lost, and then the rest is refused.
        let mut sent = 0;
        let part = "x".repeat(8192);
        while client.try_write(&part).await.is_ok() {
            sent += 8192;
            assert!(sent < 64 << 20, "{sent} bytes of a head were taken");
        }
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    };
    scene.witness.watch(flood).await;
    drop(client);
    scene.end().await;
}

// ---- What two parsers could read in two ways.

#[tokio::test]
async fn a_request_that_carries_a_body_is_400() {
    let scene = Scene::start(Config::default()).await;
    let requests = [
        ("a length", "Content-Length: 5"),
        ("two lengths", "Content-Length: 0\r\nContent-Length: 5"),
        ("one length twice", "Content-Length: 0\r\nContent-Length: 0"),
        ("a list of lengths", "Content-Length: 0, 0"),
        ("a signed length", "Content-Length: +0"),
        ("a negative length", "Content-Length: -1"),
        ("a hexadecimal length", "Content-Length: 0x0"),
        ("a length above all", "Content-Length: 18446744073709551616"),
        ("chunks", "Transfer-Encoding: chunked"),
        ("identity", "Transfer-Encoding: identity"),
        ("chunks in disguise", "Transfer-Encoding: xchunked"),
        ("chunks behind a tab", "Transfer-Encoding:\tchunked"),
        ("chunks in capitals", "TRANSFER-ENCODING: CHUNKED"),
        ("an empty coding", "Transfer-Encoding:"),
        ("chunks and a length", "Transfer-Encoding: chunked\r\nContent-Length: 5"),
        ("two codings", "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked"),
    ];
    for (what, lines) in requests {
        // What is in the body is never answered: the one answer is followed by the end.
        let smuggled = upgrade("/echo");
        let request = format!("{}0\r\n\r\n{smuggled}", upgrade_and(lines));
        expect_status(scene.address(), 400, &[(what, request)]).await;
    }
    scene.end().await;
}

#[tokio::test]
async fn a_request_without_one_host_is_400() {
    let scene = Scene::start(Config::default()).await;
    let absolute = |target: &str| upgrade(target);
    let requests = [
        ("none", upgrade_with("/ws", &[("Host", "")])),
        ("two", upgrade_and("Host: localhost")),
        ("two that differ", upgrade_and("Host: elsewhere")),
        ("another in the target", absolute("http://elsewhere/ws")),
        ("another port in the target", absolute("http://localhost:1/ws")),
        ("a user in the target", absolute("http://me@localhost/ws")),
        ("no host in the target", absolute("http:///ws")),
        ("a path in it", upgrade_with("/ws", &[("Host", "localhost/x")])),
        ("a user in it", upgrade_with("/ws", &[("Host", "me@localhost")])),
        ("a space in it", upgrade_with("/ws", &[("Host", "local host")])),
        ("a list", upgrade_with("/ws", &[("Host", "localhost, elsewhere")])),
    ];
    expect_status(scene.address(), 400, &requests).await;
    let mut client = RawClient::connect(scene.address()).await;
    assert_eq!(client.request(upgrade("http://localhost/ws")).await.status, 101);
    drop(client);
    scene.end().await;
}

#[tokio::test]
async fn a_field_that_may_come_once_and_comes_twice_is_400() {
    let scene = Scene::start(Config::default()).await;
    let requests = [
        ("two keys", upgrade_and(&format!("Sec-WebSocket-Key: {KEY}"))),
        ("two versions", upgrade_and("Sec-WebSocket-Version: 13")),
        ("two versions that differ", upgrade_and("Sec-WebSocket-Version: 8")),
        ("two upgrades", upgrade_and("Upgrade: websocket")),
        ("another upgrade", upgrade_and("Upgrade: h2c")),
        ("two origins", upgrade_and("Origin: http://localhost\r\nOrigin: http://localhost")),
        ("in other letters", upgrade_and("sec-websocket-VERSION: 13")),
    ];
    expect_status(scene.address(), 400, &requests).await;
    scene.end().await;
}

/// A list may come in several lines (RFC 9110 section 5.3).
#[tokio::test]
async fn a_connection_field_may_come_in_two_lines() {
    let scene = Scene::start(Config::default()).await;
    for lines in ["keep-alive\r\nConnection: Upgrade", "Upgrade\r\nConnection: keep-alive"] {
        let mut client = RawClient::connect(scene.address()).await;
        let head = upgrade_with("/ws", &[("Connection", lines)]);
        let answer = client.request(head).await;
        assert_eq!(answer.status, 101, "{lines:?}: {answer:?}");
    }
    scene.end().await;
}

#[tokio::test]
async fn lines_that_parsers_read_in_two_ways_are_400() {
    let scene = Scene::start(Config::default()).await;
    let right = upgrade("/ws");
    let requests = [
        ("obs-fold", upgrade_and("X: a\r\n b")),
        ("obs-fold with a tab", upgrade_and("X: a\r\n\tb")),
        ("obs-fold of nothing", upgrade_and("X:\r\n \r\nY: b")),
        ("white space before the first field", right.replacen("\r\nHost", "\r\n Host", 1)),
        ("bare LF within the head", right.replacen("\r\nUpgrade", "\nUpgrade", 1)),
        ("bare LF at the end", right.replace("\r\n\r\n", "\r\n\n")),
        ("bare LF everywhere", right.replace("\r\n", "\n")),
        ("bare CR", upgrade_and("X: a\rb")),
        ("CR CR LF", upgrade_and("X: a\r\r\nY: b")),
        ("NUL in a value", upgrade_and("X: a\0b")),
        ("NUL in a name", upgrade_and("X\0: a")),
        ("NUL in the target", upgrade("/ws\0")),
        ("ESC in a value", upgrade_and("X: \x1b[2J")),
        ("DEL in a value", upgrade_and("X: \x7f")),
        ("a space before the colon", upgrade_and("X : a")),
        ("a tab before the colon", upgrade_and("X\t: a")),
        ("a space before the colon of a length", upgrade_and("Content-Length : 5")),
        ("a space in a name", upgrade_and("X Y: a")),
        ("a parenthesis in a name", upgrade_and("X(Y): a")),
        ("an underline of Unicode in a name", upgrade_and("X\u{2017}Y: a")),
        ("no name", upgrade_and(": a")),
        ("no colon", upgrade_and("Transfer-Encoding chunked")),
        ("not ASCII in a name", upgrade_and("Hôst: a")),
        ("not ASCII in the target", upgrade("/ws?ä")),
        ("not ASCII in the method", right.replacen("GET", "GÉT", 1)),
        ("not ASCII in the version", right.replacen("1.1", "1.١", 1)),
        ("a space in the target", upgrade("/ws /x")),
        ("two spaces", right.replacen("GET ", "GET  ", 1)),
        ("a tab for a space", right.replacen("GET ", "GET\t", 1)),
        ("a space behind the version", right.replacen("1.1", "1.1 ", 1)),
        ("a space before the method", format!(" {right}")),
        ("no version", right.replacen(" HTTP/1.1", "", 1)),
        ("another protocol", right.replacen("HTTP/1.1", "RTSP/1.1", 1)),
        ("a method in small letters", right.replacen("GET", "get", 1)),
        ("HTTP/1.0, which knows no upgrade", right.replacen("1.1", "1.0", 1)),
        ("a scheme without a name", upgrade("://localhost/ws")),
        ("a scheme and nothing else", upgrade("://")),
    ];
    expect_status(scene.address(), 400, &requests).await;
    scene.end().await;
}

#[tokio::test]
async fn other_versions_of_http_are_505() {
    let scene = Scene::start(Config::default()).await;
    let right = upgrade("/ws");
    let requests = [
        ("HTTP/2 with prior knowledge", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
        ("HTTP/1.2", right.replacen("1.1", "1.2", 1)),
        ("HTTP/0.9", right.replacen("1.1", "0.9", 1)),
    ];
    expect_status(scene.address(), 505, &requests).await;
    scene.end().await;
}

/// A page is no way around the rules.
#[tokio::test]
async fn smuggling_forms_are_400_on_pages_and_unknown_paths_too() {
    let scene = Scene::start(Config::default()).await;
    for path in ["/healthz", "/readyz", "/", "/nothing"] {
        let request = |lines: &str| format!("GET {path} HTTP/1.1\r\n{lines}\r\n\r\n");
        let requests = [
            ("two hosts", request("Host: a\r\nHost: b")),
            ("no host", request("X: a")),
            ("chunks", request("Host: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5")),
            ("two lengths", request("Host: a\r\nContent-Length: 0\r\nContent-Length: 5")),
        ];
        expect_status(scene.address(), 400, &requests).await;
    }
    scene.end().await;
}

// ---- Data behind the head.

#[tokio::test]
async fn frames_behind_the_head_are_served_in_their_order() {
    let mut scene = Scene::start(Config::default()).await;
    for count in [1, 3, 4, 5, 100] {
        let mut client = RawClient::connect(scene.address()).await;
        let text = |index: usize| format!("{index} {}", "x".repeat(1000));
        let mut bytes = upgrade("/echo").into_bytes();
        (0..count).for_each(|index| bytes.extend(ClientFrame::text(text(index)).encode()));
        let pipelined = async {
            assert_eq!(client.request(bytes).await.status, 101);
            for index in 0..count {
                client.expect_text(&text(index)).await;
            }
        };
        scene.witness.watch(pipelined).await;
    }
    scene.end().await;
}

#[tokio::test]
async fn a_frame_that_is_cut_by_the_end_of_the_head_is_served() {
    let scene = Scene::start(Config::default()).await;
    let frame = ClientFrame::text("cut").encode();
    for cut in 1..frame.len() {
        let mut client = RawClient::connect(scene.address()).await;
        let head = [upgrade("/echo").as_bytes(), &frame[..cut]].concat();
        assert_eq!(client.request(head).await.status, 101);
        client.write(&frame[cut..]).await;
        client.expect_text("cut").await;
    }
    scene.end().await;
}

#[tokio::test]
async fn a_second_request_is_no_frame_and_ends_with_1002() {
    let scene = Scene::start(Config::default()).await;
    let second = upgrade("/echo");
    let mut client = RawClient::connect(scene.address()).await;
    assert_eq!(client.request(upgrade("/ws") + &second).await.status, 101);
    assert_eq!(client.expect_close().await.0, 1002);
    assert_eq!(client.expect_end().await, End::Closed);
    let mut client = scene.open("/ws").await;
    client.write(second).await;
    assert_eq!(client.expect_close().await.0, 1002);
    assert_eq!(client.expect_end().await, End::Closed);
    scene.end().await;
}

#[tokio::test]
async fn what_comes_behind_a_refused_head_is_not_answered() {
    let scene = Scene::start(Config::default()).await;
    let behind = upgrade("/ws") + &upgrade("/healthz");
    for (status, head) in
        [(404, upgrade("/nothing")), (426, "GET /ws HTTP/1.1\r\nHost: h\r\n\r\n".into())]
    {
        expect_status(scene.address(), status, &[("two requests", head + &behind)]).await;
    }
    scene.end().await;
}

// ---- Keys and versions.

#[tokio::test]
async fn a_key_that_is_not_16_bytes_of_base64_is_400() {
    let scene = Scene::start(Config::default()).await;
    let keys = [
        ("no key", ""),
        ("15 bytes", "AAAAAAAAAAAAAAAAAAAA"),
        ("17 bytes", "AAAAAAAAAAAAAAAAAAAAAAA="),
        ("not base64", "!!!!!!!!!!!!!!!!!!!!!!=="),
        ("base64url", "-_-_-_-_-_-_-_-_-_-_-w=="),
        ("no padding", "AAAAAAAAAAAAAAAAAAAAAA"),
        ("a list", "AAAAAAAAAAAAAAAAAAAAAA==, AAAAAAAAAAAAAAAAAAAAAA=="),
    ];
    let requests =
        keys.map(|(what, key)| (what, upgrade_with("/ws", &[("Sec-WebSocket-Key", key)])));
    expect_status(scene.address(), 400, &requests).await;
    scene.end().await;
}

#[tokio::test]
async fn another_version_is_426_and_is_told_ours() {
    let scene = Scene::start(Config::default()).await;
    for version in ["", "0", "8", "12", "14", "130", "013", "13 ,8", "8, 13", "13.0", "-13", "x"] {
        let answer =
            ask(scene.address(), upgrade_with("/ws", &[("Sec-WebSocket-Version", version)])).await;
        assert_eq!(answer.status, 426, "{version:?}: {answer:?}");
        assert_eq!(answer.header("sec-websocket-version"), Some("13"), "{version:?}");
    }
    scene.end().await;
}

#[tokio::test]
async fn an_upgrade_that_connection_does_not_name_is_400() {
    let scene = Scene::start(Config::default()).await;
    for connection in ["", "keep-alive", "close", "upgraded"] {
        let request = upgrade_with("/ws", &[("Connection", connection)]);
        expect_status(scene.address(), 400, &[(connection, request)]).await;
    }
    scene.end().await;
}

// ---- Paths.

#[tokio::test]
async fn unknown_paths_are_404_and_never_reflected() {
    let scene = Scene::start(Config::default()).await;
    let paths = [
        "/xyzzy",
        "/xyzzy/../ws",
        "/xyzzy%00",
        "/ws%00",
        "/%00",
        "/../ws",
        "/./ws",
        "/ws/..",
        "/ws/.",
        "/ws/./",
        "/ws/../echo",
        "/%2e/ws",
        "/%2e%2e/ws",
        "/ws/%2e",
        "/ws/%2E%2e",
        "/ws/.%2e",
        "//ws",
        "//",
        "/ws//",
        "/ws//alice",
        "/ws/alice/",
        "/ws/alice/xyzzy",
        "/echo/",
        "/WS",
        "/%77s",
        "/ws;xyzzy",
        "/ws/alice/../../echo",
        "/client/hubs/..",
        "/client/hubs/%2e%2e",
        "/client/hubs",
        "/client/hubs/a/xyzzy",
        "xyzzy",
        "*",
        "localhost:80",
        "/\\..\\ws",
        "/ws\\alice",
        "/healthz/",
        "/.well-known/xyzzy",
        "/ws/%2e%2e?xyzzy",
    ];
    let requests = paths.map(|path| (path, upgrade(path)));
    for (path, request) in &requests {
        let answer = ask(scene.address(), request).await;
        assert!(answer.body.len() <= 64, "{path}: {answer:?}");
        let reflected = answer.text().contains("xyzzy")
            || answer.headers.iter().any(|(_, value)| value.contains("xyzzy"));
        assert!(!reflected, "{path}: {answer:?}");
    }
    expect_status(scene.address(), 404, &requests).await;
    scene.end().await;
}

#[tokio::test]
async fn user_ids_and_hubs_that_break_their_rules_are_400() {
    let scene = Scene::start(Config::default()).await;
    let long = format!("/ws/{}", "x".repeat(129));
    let long_hub = format!("/client/hubs/{}", "x".repeat(129));
    let paths = [
        "/ws/",
        "/ws/%00",
        "/ws/a%00b",
        "/ws/a%0d%0aX:%20b",
        "/ws/%1b[2J",
        "/ws/%7f",
        "/ws/%C2%85",
        "/ws/%ff",
        "/ws/%C0%80",
        "/ws/%ED%A0%80",
        "/ws/%",
        "/ws/%4",
        "/ws/%zz",
        &long,
        "/client/hubs/",
        "/client/hubs/1a",
        "/client/hubs/a-b",
        "/client/hubs/a%2Fb",
        "/client/hubs/%C3%A4",
        &long_hub,
    ];
    expect_status(scene.address(), 400, &paths.map(|path| (path, upgrade(path)))).await;
    scene.end().await;
}

// ---- Methods, and no upgrade.

#[tokio::test]
async fn another_method_is_405_and_is_told_get() {
    let scene = Scene::start(Config::default()).await;
    for path in ["/ws", "/echo", "/ws/alice", "/client/hubs/chat", "/", "/healthz", "/readyz"] {
        let page = matches!(path, "/" | "/healthz" | "/readyz");
        let allowed = if page { "GET, HEAD" } else { "GET" };
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW"] {
            let answer = ask(scene.address(), upgrade(path).replacen("GET", method, 1)).await;
            assert_eq!(answer.status, 405, "{method} {path}: {answer:?}");
            assert_eq!(answer.header("allow"), Some(allowed), "{method} {path}");
        }
    }
    scene.end().await;
}

#[tokio::test]
async fn a_plain_get_on_a_websocket_path_is_426_and_is_told_websocket() {
    let scene = Scene::start(Config::default()).await;
    for path in ["/ws", "/echo", "/ws/alice", "/client/hubs/chat"] {
        for upgrade in ["", "h2c", "websockets", "web socket", "websocket, h2c"] {
            let answer = ask(scene.address(), upgrade_with(path, &[("Upgrade", upgrade)])).await;
            assert_eq!(answer.status, 426, "{path} {upgrade:?}: {answer:?}");
            assert_eq!(answer.header("upgrade"), Some("websocket"), "{path} {upgrade:?}");
            assert_eq!(answer.header("connection"), Some("close, upgrade"), "{path} {upgrade:?}");
        }
    }
    scene.end().await;
}

/// A refused peer cannot hold its socket: what it sends on is not read for long.
#[tokio::test]
async fn a_refused_client_that_stays_is_let_go_within_2_s() {
    let scene = Scene::start(Config::default()).await;
    let mut client = RawClient::connect(scene.address()).await;
    client.write(upgrade("/nothing")).await;
    let start = Instant::now();
    let closed = async {
        while client.try_write("x").await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    within("the refused socket to be gone", closed).await;
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    eventually("refused", 1, || scene.server.hub.metrics().refused.get()).await;
    scene.end().await;
}

/// Whatever bytes come: an answer, and the end. The bytes are drawn by a generator with a fixed seed.
#[tokio::test]
async fn noise_is_answered_400_or_nothing() {
    let mut scene = Scene::start(hasty()).await;
    let mut random = 7_u64;
    let mut next = move || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        random.to_be_bytes()[0]
    };
    let noise = async {
        for _ in 0..200 {
            let bytes: Vec<u8> = (0..64).map(|_| next()).collect();
            let answer = ask(scene.server.address, &bytes).await;
            assert!(matches!(answer.status, 400 | 408), "{bytes:?}: {answer:?}");
        }
    };
    scene.witness.watch(noise).await;
    let mut client = scene.open("/echo").await;
    client.send(ClientFrame::text("still here")).await;
    assert_eq!(client.read_frame().await, ServerFrame::text("still here"));
    drop(client);
    scene.end().await;
}
