//! Too much, from one connection or one address (README.md, "Trouble, and what it gets").

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

#[path = "support/scene.rs"]
mod scene;
mod support;

use std::time::{Duration, Instant};

use hubnerite::Config;
use scene::Scene;
use support::{
    ClientFrame, End, RawClient, ServerFrame, disconnected, eventually, upgrade, upgrade_with,
};

/// An `open_timeout` that is waited for.
const SOON: Duration = Duration::from_millis(300);

// ---- Messages.

fn ten_a_second() -> Config {
    Config { messages_per_second: 10, ..Config::default() }
}

#[tokio::test]
async fn one_message_more_than_the_rate_allows_is_1008_behind_answers_to_the_others() {
    let mut scene = Scene::start(ten_a_second()).await;
    for (path, text, answer) in
        [("/echo", "x", "x"), ("/ws/alice", r#"{"type":"ping"}"#, r#"{"type":"pong"}"#)]
    {
        let mut client = scene.open(path).await;
        if path == "/ws/alice" {
            assert_eq!(client.read_frame().await.opcode, 1);
        }
        client.send_all((0..500).map(|_| ClientFrame::text(text))).await;
        let mut answers = 0;
        let mut frame = client.read_frame().await;
        while frame == ServerFrame::text(answer) {
            answers += 1;
            frame = client.read_frame().await;
        }
        if path == "/ws/alice" {
            assert_eq!(frame, ServerFrame::text(disconnected("too many messages")));
            frame = client.read_frame().await;
        }
        assert_eq!(frame.close_code_and_reason(), (1008, "too many messages".to_owned()));
        // While they are read, a tenth of a second may pass and let one more in.
        assert!((10..=20).contains(&answers), "{answers} answers on {path}");
        client.finish_close().await;
    }
    // The witness has a rate as well: a second later it may speak again.
    let mut pace = tokio::time::interval(Duration::from_secs(1));
    pace.tick().await;
    pace.tick().await;
    scene.witness.echo().await;
    scene.end().await;
}

#[tokio::test]
async fn messages_within_the_rate_pass_for_long_and_fragments_are_one_message() {
    let scene = Scene::start(ten_a_second()).await;
    let mut client = scene.open("/echo").await;
    let mut pace = tokio::time::interval(Duration::from_millis(120));
    for _ in 0..30 {
        pace.tick().await;
        client.send(ClientFrame::text("a").unfinished()).await;
        client.send_all((0..20).map(|_| ClientFrame::continuation("b").unfinished())).await;
        client.send(ClientFrame::continuation("c")).await;
        client.expect_text(&format!("a{}c", "b".repeat(20))).await;
    }
    drop(client);
    scene.end().await;
}

/// A flood is not read on: TCP holds it back until the connection is closed.
#[tokio::test]
async fn a_flood_beyond_the_rate_is_not_read_to_its_end() {
    let scene = Scene::start(ten_a_second()).await;
    // An endpoint that answers nothing: the client is not held back by what it does not read.
    let mut client = scene.open("/client/hubs/chat").await;
    let large = ClientFrame::binary(vec![0; 100_000]).encode();
    let mut sent = 0;
    while client.try_write(&large).await.is_ok() {
        sent += large.len();
        assert!(sent < 256 << 20, "{sent} bytes were taken");
    }
    drop(client);
    scene.end().await;
}

// ---- Bytes.

/// A message of the largest size is within the rate; the others come as fast as it allows.
#[tokio::test]
async fn bytes_beyond_the_rate_wait_and_none_is_lost() {
    const SIZE: usize = 100_000;
    let config = Config { bytes_per_second: 2 * SIZE, max_message_size: SIZE, ..Config::default() };
    let scene = Scene::start(config).await;
    let mut client = scene.open("/echo").await;
    let start = Instant::now();
    for byte in 0..5 {
        client.send(ClientFrame::binary(vec![byte; SIZE])).await;
    }
    for byte in 0..5 {
        assert_eq!(client.read_frame().await, ServerFrame::binary(vec![byte; SIZE]));
    }
    // Two at once, and two a second.
    let took = start.elapsed();
    assert!(took > Duration::from_millis(1400), "{took:?}");
    client.send(ClientFrame::text("still here")).await;
    client.expect_text("still here").await;
    drop(client);
    scene.end().await;
}

/// What is sent is not read to its end, but held back; and then that is enough.
#[tokio::test]
async fn a_sender_that_stays_ahead_of_its_rate_of_bytes_is_1008_after_the_message_timeout() {
    const RATE: usize = 32 << 10;
    const TIMEOUT: Duration = Duration::from_secs(2);
    let config = Config {
        bytes_per_second: RATE,
        max_message_size: RATE,
        message_timeout: TIMEOUT,
        ..Config::default()
    };
    let mut scene = Scene::start(config).await;
    // An endpoint that answers nothing: what comes is the close frame.
    let mut client = scene.open("/client/hubs/chat").await;
    let flood = ClientFrame::binary([0; 1000]).encode().repeat(64);
    let start = Instant::now();
    let (mut sent, mut taken) = (0, flood.len());
    while taken == flood.len() {
        client.stream.writable().await.unwrap();
        taken = client.stream.try_write(&flood).unwrap_or(0);
        sent += taken;
    }
    assert!(sent > 4 * RATE, "the kernel took no more than {sent} bytes");
    let close = scene.witness.watch(client.expect_close_behind_others()).await;
    assert_eq!(close, (1008, "too many bytes".to_owned()));
    let took = start.elapsed();
    assert!(took >= TIMEOUT && took < TIMEOUT * 2, "closed after {took:?}");
    drop(client);
    scene.end().await;
}

// ---- Addresses.

/// A proxy that appends the address of its client to `X-Forwarded-For`, and passes on what else the
/// client has sent.
fn from_behind_a_proxy(address: &str, sent: &[(&str, &str)]) -> String {
    let chain = sent.iter().find(|(name, _)| *name == "X-Forwarded-For");
    let chain = chain.map_or_else(|| address.to_owned(), |(_, said)| format!("{said}, {address}"));
    let mut fields: Vec<_> =
        sent.iter().filter(|(name, _)| *name != "X-Forwarded-For").copied().collect();
    fields.push(("X-Forwarded-For", &chain));
    upgrade_with("/ws", &fields)
}

fn two_per_address() -> Config {
    let trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    Config { max_per_ip: 2, trusted_proxies, ..Config::default() }
}

/// Whatever a client says of itself, a proxy that is trusted says behind it where it really comes
/// from.
#[tokio::test]
async fn a_client_behind_a_trusted_proxy_cannot_pass_for_another() {
    for (what, name) in [
        ("another address", "X-Forwarded-For"),
        ("the other header, which this proxy passes on", "Forwarded"),
    ] {
        let scene = Scene::start(two_per_address()).await;
        let mut held = Vec::new();
        let mut statuses = Vec::new();
        for index in 1..=6 {
            let said = match name {
                "Forwarded" => format!("for=203.0.113.{index}"),
                _ => format!("203.0.113.{index}"),
            };
            let mut client = RawClient::connect(scene.address()).await;
            let request = from_behind_a_proxy("198.51.100.7", &[(name, &said)]);
            statuses.push(client.request(request).await.status);
            held.push(client);
        }
        assert_eq!(statuses, [101, 101, 429, 429, 429, 429], "{what}");
        drop(held);
        scene.end().await;
    }
}

/// A proxy's own lines are not thrown away because of what the client has written before them.
#[tokio::test]
async fn a_header_that_cannot_be_read_is_no_way_around_the_limit() {
    for said in ["nonsense", "\u{e4}", "", ",,,", "unknown", "[::1", "1.2.3.4:", "for=1.2.3.4"] {
        let scene = Scene::start(two_per_address()).await;
        let mut held = Vec::new();
        let mut statuses = Vec::new();
        for index in 1..=4 {
            let said = format!("{said}{}", " ".repeat(index));
            let mut client = RawClient::connect(scene.address()).await;
            let request = from_behind_a_proxy("198.51.100.7", &[("X-Forwarded-For", &said)]);
            statuses.push(client.request(request).await.status);
            held.push(client);
        }
        assert_eq!(statuses, [101, 101, 429, 429], "{said:?}");
        // And another client is not mistaken for it.
        let mut other = RawClient::connect(scene.address()).await;
        let request = from_behind_a_proxy("198.51.100.8", &[("X-Forwarded-For", said)]);
        assert_eq!(other.request(request).await.status, 101, "{said:?}");
        drop((held, other));
        scene.end().await;
    }
}

/// The PROXY protocol, version 2: what cannot be understood is not taken for a request either.
#[tokio::test]
async fn a_proxy_header_is_understood_or_the_end() {
    const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
    let trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    let config = Config { trusted_proxies, open_timeout: SOON, ..Config::default() };
    let scene = Scene::start(config).await;
    let request = upgrade("/ws");
    for (what, rest, taken) in [
        ("the proxy itself", [0x20, 0x00, 0, 0], true),
        ("an address of no known kind", [0x21, 0x00, 0, 0], true),
        ("an address that is not there", [0x21, 0x11, 0, 0], true),
        ("another version", [0x11, 0x11, 0, 0], false),
        ("longer than any", [0x21, 0x11, 0xff, 0xff], false),
        ("longer than what comes", [0x21, 0x11, 0x03, 0xff], false),
    ] {
        let mut client = RawClient::connect(scene.address()).await;
        let bytes = [SIGNATURE, &rest, request.as_bytes()].concat();
        if taken {
            assert_eq!(client.request(bytes).await.status, 101, "{what}");
        } else {
            client.write(bytes).await;
            assert!(matches!(client.next_frame().await, Err(End::Closed | End::Reset)), "{what}");
        }
    }
    for cut in 1..SIGNATURE.len() {
        let mut client = RawClient::connect(scene.address()).await;
        client.write(&SIGNATURE[..cut]).await;
        assert!(client.next_frame().await.is_err(), "after {cut} bytes");
    }
    scene.end().await;
}

#[tokio::test]
async fn all_of_one_ipv6_network_of_64_bits_is_one_address() {
    let scene = Scene::start(two_per_address()).await;
    let mut held = Vec::new();
    for (address, status) in [
        ("2001:db8::1", 101),
        ("2001:db8::ffff:1", 101),
        ("2001:db8:0:0:1:2:3:4", 429),
        ("2001:db8:0:1::1", 101),
        ("::ffff:198.51.100.1", 101),
        ("198.51.100.1", 101),
        ("198.51.100.1", 429),
        ("198.51.100.2", 101),
    ] {
        let mut client = RawClient::connect(scene.address()).await;
        let answer = client.request(from_behind_a_proxy(address, &[])).await;
        assert_eq!(answer.status, status, "{address}");
        held.push(client);
    }
    drop(held);
    scene.end().await;
}

/// Those who are refused come again. They must not be what keeps all of them out for good.
#[tokio::test]
async fn an_address_that_asks_too_often_still_gets_its_rate() {
    const RATE: u32 = 5;
    let scene = Scene::start(Config { handshakes_per_second: RATE, ..Config::default() }).await;
    let source = "127.0.0.9".parse().unwrap();
    let mut pace = tokio::time::interval(Duration::from_millis(25));
    let (start, mut admitted, mut refused) = (Instant::now(), 0, 0);
    while start.elapsed() < Duration::from_secs(4) {
        pace.tick().await;
        let mut client = RawClient::connect_from(source, scene.address()).await;
        let answer = client.request(upgrade("/ws")).await;
        match answer.status {
            101 => admitted += 1,
            status => {
                assert_eq!(status, 429);
                assert!(answer.header("retry-after").is_some(), "{answer:?}");
                refused += 1;
            }
        }
    }
    assert!(refused > 20, "{refused} were refused");
    // A burst of 5, and 5 a second for four seconds: half of that would do on a slow machine.
    assert!((12..=27).contains(&admitted), "{admitted} were admitted");
    scene.end().await;
}

#[tokio::test]
async fn a_flood_from_one_address_keeps_no_other_out() {
    let mut scene = Scene::start(Config { max_per_ip: 20, ..Config::default() }).await;
    let address = scene.address();
    let flood = async {
        let source = "127.0.0.9".parse().unwrap();
        let mut held = Vec::new();
        let mut refused = 0;
        for _ in 0..500 {
            let mut client = RawClient::connect_from(source, address).await;
            match client.request(upgrade("/ws")).await.status {
                101 => held.push(client),
                status => {
                    assert_eq!(status, 429);
                    refused += 1;
                }
            }
        }
        assert_eq!((held.len(), refused), (20, 480));
        let other = "127.0.0.10".parse().unwrap();
        let mut other = RawClient::connect_from(other, address).await;
        assert_eq!(other.handshake("/ws").await.status, 101);
    };
    scene.witness.watch(flood).await;
    eventually("refused", 480, || scene.server.hub.metrics().refused.get()).await;
    scene.end().await;
}
