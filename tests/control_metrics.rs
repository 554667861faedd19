//! `GET /metrics`: what is counted, and that nobody can make more of it.

#![cfg(feature = "control")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]
#![allow(missing_docs, reason = "the names are the statements")]

mod support;

use std::{collections::BTreeMap, net::SocketAddr};

use hubnerite::Config;
use support::{
    ClientFrame, JsonClient, RawClient, eventually,
    rest::{Caller, start_with_control},
    upgrade,
};

/// One scrape: each series by its name and labels.
type Scrape = BTreeMap<String, f64>;

async fn scrape(control: SocketAddr) -> Scrape {
    let mut caller = Caller::connect(control).await;
    let answer = caller.request("GET", "/metrics", &[], "").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = String::from_utf8(answer.body).unwrap();
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

fn grown(before: &Scrape, after: &Scrape, name: &str) -> f64 {
    let value = |scrape: &Scrape| *scrape.get(name).unwrap_or_else(|| panic!("there is no {name}"));
    value(after) - value(before)
}

#[tokio::test]
async fn what_happens_is_counted() {
    let (server, control) = start_with_control(Config::default()).await;
    let before = scrape(control).await;
    let mut echo = RawClient::open(server.address, "/echo").await;
    echo.send(ClientFrame::text("x".repeat(1000))).await;
    echo.expect_text(&"x".repeat(1000)).await;
    let mut alice = JsonClient::user(server.address, "alice").await;
    alice.join("lobby", 1).await;
    alice.send_text(r#"{"type":"sendToGroup","group":"lobby","data":1}"#).await;
    alice.next().await;
    let refused = RawClient::connect(server.address).await.request(upgrade("/nothing")).await;
    assert_eq!(refused.status, 404);
    let mut caller = Caller::connect(control).await;
    let path = "/api/hubs/default/users/nobody/:send";
    assert_eq!(caller.call("POST", path, "text/plain", "hello").await.status, 202);
    assert_eq!(caller.status("GET", "/api/nonsense").await, 404);
    echo.send(ClientFrame::close(1000, "bye")).await;
    echo.expect_close().await;
    eventually("closed", 1, || server.hub.metrics().closed.get()).await;

    let after = scrape(control).await;
    for (name, times) in [
        ("hubnerite_connections", 1.0),
        ("hubnerite_connections_opened_total", 2.0),
        (r#"hubnerite_connections_closed_total{code="1000"}"#, 1.0),
        (r#"hubnerite_handshakes_total{status="101"}"#, 2.0),
        (r#"hubnerite_handshakes_total{status="404"}"#, 1.0),
        ("hubnerite_handshakes_refused_total", 1.0),
        ("hubnerite_messages_received_total", 3.0),
        ("hubnerite_deliveries_total", 1.0),
        (r#"hubnerite_fanout_recipients_bucket{le="0.0"}"#, 1.0),
        (r#"hubnerite_fanout_recipients_bucket{le="1.0"}"#, 2.0),
        ("hubnerite_fanout_recipients_count", 2.0),
        ("hubnerite_messages_unheard_total", 1.0),
        (r#"hubnerite_evictions_total{reason="slow"}"#, 0.0),
    ] {
        assert!((grown(&before, &after, name) - times).abs() < 0.1, "{name}: {after:#?}");
    }
    assert!(grown(&before, &after, "hubnerite_received_bytes_total") >= 1000.0);
    assert!(grown(&before, &after, "hubnerite_sent_bytes_total") >= 1000.0);
    assert!(grown(&before, &after, "hubnerite_lock_wait_seconds_count") >= 4.0);
    for (route, status) in [("POST /api/hubs/{hub}/users/{user}/:send", 202), ("other", 404)] {
        let name =
            format!("hubnerite_rest_requests_total{{route=\"{route}\",status=\"{status}\"}}");
        assert_eq!(after.get(&name), Some(&1.0), "{name}");
    }
    for name in ["process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"] {
        assert!(after[name] > 0.0, "{name}");
    }
    server.stop().await;
}

/// Whatever clients and backends name: there are no more series than before.
#[tokio::test]
async fn nobody_can_make_more_series() {
    let (server, control) = start_with_control(Config::default()).await;
    let mut caller = Caller::connect(control).await;
    let round = async |caller: &mut Caller, round: u32| {
        for status in [418, 1000 + round, 3000 + round] {
            let mut client = RawClient::open(server.address, &format!("/ws/user{status}")).await;
            client.send(ClientFrame::close(u16::try_from(3000 + round).unwrap(), "")).await;
            drop(client);
            let path = format!("/path{status}");
            RawClient::connect(server.address).await.request(upgrade(&path)).await;
        }
        for index in 0..3 {
            let path = format!("/api/hubs/hub{round}/groups/group{index}/:send");
            caller.call("POST", &path, "text/plain", "x").await;
            caller.status("GET", &format!("/api/{round}/{index}")).await;
        }
        let gone = || server.hub.counts().connections;
        eventually("connections", 0, gone).await;
        scrape(control).await.into_keys().collect::<Vec<_>>()
    };
    let first = round(&mut caller, 1).await;
    let second = round(&mut caller, 2).await;
    assert_eq!(first, second);
    server.stop().await;
}

#[tokio::test]
async fn a_scraper_that_asks_for_it_gets_openmetrics() {
    let (server, control) = start_with_control(Config::default()).await;
    let mut caller = Caller::connect(control).await;
    let accept = [("Accept", "application/openmetrics-text; version=1.0.0")];
    let answer = caller.request("GET", "/metrics", &accept, "").await;
    assert!(answer.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    let text = String::from_utf8(answer.body).unwrap();
    assert!(text.contains("# TYPE hubnerite_connections_opened counter\n"), "{text}");
    assert!(text.ends_with("# EOF\n"), "{text}");
    server.stop().await;
}

#[tokio::test]
async fn clients_do_not_see_them() {
    let (server, _control) = start_with_control(Config::default()).await;
    let mut caller = Caller::connect(server.address).await;
    assert_eq!(caller.request("GET", "/metrics", &[], "").await.status, 404);
    server.stop().await;
}
