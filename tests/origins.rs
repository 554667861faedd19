//! Where a connection may come from: origins, hosts, addresses, proxies.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]
#![allow(missing_docs, reason = "the names are the statements")]

mod support;

use std::time::Duration;

use hubnerite::{Config, Identity, Params, Rejection, Request, Route, Server};

use support::{End, RawClient, TestServer, eventually, upgrade, upgrade_with};

async fn status(server: &TestServer, fields: &[(&str, &str)]) -> u16 {
    RawClient::connect(server.address).await.request(upgrade_with("/echo", fields)).await.status
}

#[tokio::test]
async fn a_foreign_page_is_403_and_a_program_passes() {
    let server = TestServer::start(Config::default()).await;
    let host = server.address.to_string();
    for (origin, expected) in [
        (format!("http://{host}"), 101),
        (format!("https://{host}"), 101),
        ("http://evil.example".to_owned(), 403),
        (format!("http://{host}.evil.example"), 403),
        ("http://127.0.0.1:1".to_owned(), 403),
        ("null".to_owned(), 403),
    ] {
        let fields = [("Host", host.as_str()), ("Origin", &origin)];
        assert_eq!(status(&server, &fields).await, expected, "{origin}");
    }
    assert_eq!(status(&server, &[]).await, 101);
    server.stop().await;
}

#[tokio::test]
async fn origins_and_hosts_are_allowed_by_name() {
    let config = Config {
        allow_origins: vec!["https://page.example".parse().unwrap()],
        allow_hosts: vec!["hub.example".to_owned()],
        ..Config::default()
    };
    let server = TestServer::start(config).await;
    for (host, origin, expected) in [
        ("hub.example", "https://page.example", 101),
        ("hub.example", "https://hub.example", 101),
        ("hub.example", "http://page.example", 403),
        ("rebound.example", "http://rebound.example", 421),
    ] {
        let fields = [("Host", host), ("Origin", origin)];
        assert_eq!(status(&server, &fields).await, expected, "{origin} at {host}");
    }
    server.stop().await;
}

#[tokio::test]
async fn one_address_gets_its_share_and_no_more() {
    let server = TestServer::start(Config { max_per_ip: 2, ..Config::default() }).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(server.open("/echo").await);
    }
    let answer = RawClient::connect(server.address).await.request(upgrade("/echo")).await;
    assert_eq!(answer.status, 429);
    assert!(answer.header("retry-after").is_some());
    let mut other = RawClient::connect_from("127.0.0.9".parse().unwrap(), server.address).await;
    assert_eq!(other.handshake("/echo").await.status, 101);
    held.pop().unwrap().abort();
    let hub = server.hub.clone();
    eventually("the end of one", 2, || hub.counts().connections).await;
    assert_eq!(status(&server, &[]).await, 101);
    server.stop().await;
}

#[tokio::test]
async fn one_address_has_a_rate_of_handshakes() {
    let server = TestServer::start(Config { handshakes_per_second: 3, ..Config::default() }).await;
    let mut statuses = Vec::new();
    for _ in 0..20 {
        statuses.push(status(&server, &[]).await);
    }
    assert_eq!(statuses[..3], [101, 101, 101]);
    assert!(statuses.contains(&429), "{statuses:?}");
    server.stop().await;
}

/// Answers 418 and the address that the server takes for the client's.
async fn tell_address(request: &Request) -> Result<Identity, Rejection> {
    let client = request.client().map_or_else(|| "none".to_owned(), |client| client.to_string());
    Err(Rejection::new(418, client))
}

async fn telling(trusted: &str) -> TestServer {
    let config = Config {
        trusted_proxies: vec![trusted.parse().unwrap()],
        max_per_ip: 1,
        ..Config::default()
    };
    let route = |server: Server| {
        let handler = |_: hubnerite::Connection, _: Params| async {};
        server.route("/echo", Route::new(handler).guard(tell_address))
    };
    TestServer::start_with(config, route).await
}

async fn client_address(server: &TestServer, before: &[u8], fields: &[(&str, &str)]) -> String {
    let mut client = RawClient::connect(server.address).await;
    client.write(before).await;
    let answer = client.request(upgrade_with("/echo", fields)).await;
    format!("{} {}", answer.status, answer.text().trim_end())
}

/// A PROXY protocol header of version 2 for 192.0.2.7.
const PROXY_HEADER: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x07\x7f\x00\x00\x01\x04\xd2\x1f\x40";

#[tokio::test]
async fn a_trusted_proxy_is_believed() {
    let server = telling("127.0.0.0/8").await;
    let forwarded = [("X-Forwarded-For", "6.6.6.6, 192.0.2.1, 127.0.0.3")];
    assert_eq!(client_address(&server, b"", &forwarded).await, "418 192.0.2.1");
    let forwarded = [("Forwarded", "for=\"[2001:db8::1]:80\"")];
    assert_eq!(client_address(&server, b"", &forwarded).await, "418 2001:db8::1");
    assert_eq!(client_address(&server, PROXY_HEADER, &[]).await, "418 192.0.2.7");
    assert_eq!(client_address(&server, b"", &[]).await, "418 127.0.0.1");
    server.stop().await;
}

#[tokio::test]
async fn a_proxy_that_says_nothing_has_the_open_timeout_and_is_counted() {
    let trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    let open_timeout = Duration::from_millis(200);
    let config = Config { trusted_proxies, open_timeout, ..Config::default() };
    let server = TestServer::start(config).await;
    let mut client = RawClient::connect(server.address).await;
    assert_eq!(client.expect_end().await, End::Closed);
    eventually("refused", 1, || server.hub.metrics().refused.get()).await;
    server.stop().await;
}

#[tokio::test]
async fn nobody_else_is_believed() {
    let server = telling("10.0.0.0/8").await;
    let forwarded = [("X-Forwarded-For", "192.0.2.1"), ("Forwarded", "for=192.0.2.1")];
    assert_eq!(client_address(&server, b"", &forwarded).await, "418 127.0.0.1");
    assert!(client_address(&server, PROXY_HEADER, &[]).await.starts_with("400 "));
    server.stop().await;
}
