//! The control port as an HTTP server: who may call, on which port, within which limits.

#![cfg(feature = "control")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]
#![allow(missing_docs, reason = "the names are the statements")]

mod support;

use std::{net::SocketAddr, time::Duration};

use hubnerite::Config;
use serde_json::json;

use support::{
    Daemon, Failed, HttpAnswer, JsonClient, connect_with, patient, plain,
    rest::{Caller, KEY, SECOND_KEY, error, in_seconds, sign, start_with_control, token},
    upgrade, upgrade_with, within,
};

const SEND: &str = "/api/hubs/default/:send";
const SUBPROTOCOL: (&str, &str) = ("sec-websocket-protocol", "json.webpubsub.azure.v1");

async fn with_token(address: SocketAddr, path: &str, token: &str) -> HttpAnswer {
    let bearer = format!("Bearer {token}");
    let fields = [("Authorization", bearer.as_str()), ("Content-Type", "text/plain")];
    Caller::connect(address).await.request("POST", path, &fields, "x").await
}

#[tokio::test]
async fn a_call_is_signed_for_its_own_path_with_a_key_and_not_expired() {
    let (server, control) = start_with_control(Config::default()).await;
    let url = format!("http://{control}{SEND}");
    for right in [
        token(&url, KEY, 60),
        token(&url, SECOND_KEY, 60),
        token(&format!("{url}?api-version=1"), KEY, 60),
        token(&format!("https://proxy.example/prefix{SEND}"), KEY, 60),
        token(&url.replace(":send", "%3Asend"), KEY, 60),
        sign(&json!({"aud": ["x", url], "exp": in_seconds(9)}), KEY),
        token(&url, KEY, -2),
    ] {
        assert_eq!(with_token(control, SEND, &right).await.status, 202);
    }
    for wrong in [
        token(&url, &KEY.to_uppercase(), 60),
        token(&url, KEY, -20),
        token(&url.replace("default", "other"), KEY, 60),
        token(&format!("http://{control}/client/hubs/default"), KEY, 60),
        sign(&json!({"exp": in_seconds(60)}), KEY),
        sign(&json!({"aud": url}), KEY),
        "nonsense".to_owned(),
        String::new(),
    ] {
        let answer = with_token(control, SEND, &wrong).await;
        assert_eq!(error(&answer), (401, "Unauthorized".to_owned()), "{wrong}");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        assert!(wrong.is_empty() || !answer.text().contains(&wrong));
    }
    let mut caller = Caller::connect(control).await;
    let basic = [("Authorization", "Basic eDp5")];
    assert_eq!(caller.request("POST", SEND, &basic, "").await.status, 401);
    assert_eq!(caller.request("POST", SEND, &[], "").await.status, 401);
    server.stop().await;
}

#[tokio::test]
async fn both_ports_take_calls_and_clients_and_only_one_the_rest() {
    let (server, control) = start_with_control(Config::default()).await;
    for address in [server.address, control] {
        let mut caller = Caller::connect(address).await;
        for _ in 0..3 {
            assert_eq!(caller.call("POST", SEND, "text/plain", "x").await.status, 202);
        }
        let connected = connect_with(address, "/client/hubs/default", &[SUBPROTOCOL]).await;
        let mut client = JsonClient::over(connected.unwrap().0).await;
        assert_eq!(caller.call("POST", SEND, "text/plain", "to you").await.status, 202);
        assert_eq!(client.next().await["data"], "to you");
        for page in ["/healthz", "/readyz"] {
            let mut caller = Caller::connect(address).await;
            caller.write(&plain("GET", page)).await;
            let answer = caller.answer("GET").await;
            assert_eq!((answer.status, answer.text()), (200, "ok\n"), "{page}");
        }
        let mut caller = Caller::connect(address).await;
        assert_eq!(caller.request("HEAD", "/api/health", &[], "").await.status, 200);
        // Behind a call nothing else is found on the data port either.
        assert_eq!(caller.request("GET", "/nonsense", &[], "").await.status, 404);
    }
    let answer = server.ask(plain("GET", "/metrics")).await;
    assert_eq!(answer.status, 404);
    let mut caller = Caller::connect(control).await;
    caller.write(&upgrade("/ws")).await;
    assert_eq!(caller.answer("GET").await.status, 404);
    server.stop().await;
}

#[tokio::test]
async fn a_client_on_the_control_port_counts_like_any_other() {
    let config = Config { max_per_ip: 1, ..Config::default() };
    let (server, control) = start_with_control(config).await;
    let path = "/client/hubs/default";
    let client = support::RawClient::open(control, path).await;
    assert_eq!(server.ask(upgrade(path)).await.status, 429);
    let mut second = support::RawClient::connect(control).await;
    assert_eq!(second.request(upgrade(path)).await.status, 429);
    // A backend at the same address is no client.
    assert_eq!(Caller::connect(control).await.status("POST", SEND).await, 202);
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn a_token_that_a_client_brings_decides_and_must_be_valid() {
    let daemon = Daemon::start(&["--access-key", KEY]).await;
    let address = daemon.address();
    let client = |path: &str, claims: serde_json::Value| {
        let url = format!("http://{address}{path}");
        let mut all = json!({"aud": url, "exp": in_seconds(60)});
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        sign(&all, KEY)
    };
    let ask = async |path: &str, token: &str| {
        let bearer = format!("Bearer {token}");
        let mut client = support::RawClient::connect(address).await;
        client.request(upgrade_with(path, &[("Authorization", &bearer)])).await.status
    };
    let hub = "/client/hubs/default";
    assert_eq!(ask(hub, &client(hub, json!({}))).await, 101);
    assert_eq!(ask("/ws/ann", &client(hub, json!({"sub": "ann"}))).await, 101);
    assert_eq!(ask("/ws/ann", &client(hub, json!({"sub": "bob"}))).await, 403);
    assert_eq!(ask("/ws/ann", &client("/client/hubs/other", json!({"sub": "ann"}))).await, 401);
    // A call's token opens no socket.
    assert_eq!(ask(hub, &client(SEND, json!({}))).await, 401);
    assert_eq!(ask(hub, "nonsense").await, 401);
    let mut nobody = support::RawClient::connect(address).await;
    assert_eq!(nobody.request(upgrade(hub)).await.status, 401);
    daemon.stop().await;
}

#[tokio::test]
async fn a_key_made_at_start_leaves_the_daemon_open_and_is_printed_once() {
    let mut command = support::hubnerite(&["--listen", "127.0.0.1:0", "--log-level", "trace"]);
    command.env("HUBNERITE_CONTROL", "127.0.0.1:0").stdout(std::process::Stdio::piped());
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut stdout = tokio::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    let read = tokio::io::AsyncBufReadExt::read_line(&mut stdout, &mut line);
    within("the connection string", read).await.unwrap();
    let (endpoint, rest) = line.trim_end().split_once(";AccessKey=").unwrap();
    let (key, version) = rest.split_once(';').unwrap();
    assert_eq!((key.len(), version), (44, "Version=1.0;"));
    let control: SocketAddr = endpoint.strip_prefix("Endpoint=http://").unwrap().parse().unwrap();
    let token = token(&format!("http://{control}{SEND}"), key, 60);
    assert_eq!(with_token(control, SEND, &token).await.status, 202);
    let path = "/client/hubs/default";
    support::RawClient::open(control, path).await.abort();
    let mut client = support::RawClient::connect(control).await;
    let bad = upgrade_with(path, &[("Authorization", "Bearer nonsense")]);
    assert_eq!(client.request(bad).await.status, 401);
    let pid = child.id().unwrap();
    let kill = tokio::process::Command::new("kill").arg(pid.to_string()).status();
    assert!(within("kill", kill).await.unwrap().success());
    let output = within("the daemon's end", child.wait_with_output()).await.unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(log.contains("control on http://127.0.0.1:") && !log.contains(key), "{log}");
}

#[tokio::test]
async fn flags_without_sense_are_refused_and_no_key_is_repeated() {
    let secret = "short-and-secret";
    for (flags, rule) in [
        (&["--access-key", secret][..], "at least 32 bytes"),
        (&["--control", "0.0.0.0:0"], "give an --access-key"),
        (&["--control", "nonsense"], "or off"),
    ] {
        let mut all = vec!["--listen", "127.0.0.1:0"];
        all.extend(flags);
        let ended = Failed::of(&all).await;
        assert!(ended.code.is_some_and(|code| code > 0), "{ended:?}");
        assert!(ended.stderr.contains(rule), "{rule}: {}", ended.stderr);
        assert!(!ended.stderr.contains(secret), "{}", ended.stderr);
    }
    let mut daemon = Daemon::start(&["--control", "off", "--access-key", KEY]).await;
    let answer = Caller::connect(daemon.address()).await.call("POST", SEND, "text/plain", "").await;
    assert_eq!(answer.status, 404, "there is no control port");
    assert!(!daemon.log().iter().any(|line| line.contains("control on") || line.contains(KEY)));
    daemon.signal("TERM").await;
    assert_eq!(daemon.end().await.code(), Some(0));
}

#[tokio::test]
async fn bodies_are_chunked_expected_and_limited() {
    let (server, control) = start_with_control(Config::default()).await;
    let mut caller = Caller::connect(control).await;
    let bearer = format!("Authorization: Bearer {}", token(&caller.url(SEND), KEY, 60));
    let head =
        format!("POST {SEND} HTTP/1.1\r\nHost: h\r\nContent-Type: text/plain\r\n{bearer}\r\n");
    let chunks = "2\r\nab\r\n1\r\nc\r\n0\r\n\r\n";
    caller.write(&format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunks}")).await;
    assert_eq!(caller.answer("POST").await.status, 202);
    caller.write(&format!("{head}Content-Length: 1\r\nExpect: 100-continue\r\n\r\n")).await;
    assert_eq!(caller.answer("POST").await.status, 100);
    caller.write("x").await;
    assert_eq!(caller.answer("POST").await.status, 202);
    let largest = "x".repeat(1 << 20);
    assert_eq!(caller.call("POST", SEND, "text/plain", &largest).await.status, 202);
    let answer = caller.call("POST", SEND, "text/plain", &format!("{largest}x")).await;
    assert_eq!(error(&answer), (413, "PayloadTooLarge".to_owned()));
    // Not asked for, where it says what it is.
    let mut caller = Caller::connect(control).await;
    caller.write(&format!("{head}Content-Length: 1048577\r\nExpect: 100-continue\r\n\r\n")).await;
    assert_eq!(caller.answer("POST").await.status, 413);
    let mut caller = Caller::connect(control).await;
    caller.write(&format!("{head}Transfer-Encoding: chunked\r\n\r\n")).await;
    caller.write(&format!("100001\r\n{largest}x\r\n0\r\n\r\n")).await;
    assert_eq!(caller.answer("POST").await.status, 413);
    server.stop().await;
}

#[tokio::test]
async fn slow_and_malformed_requests_end_their_connection_and_no_other() {
    let short = Duration::from_millis(300);
    let config = Config { open_timeout: short, message_timeout: short, ..patient() };
    let (server, control) = start_with_control(config).await;
    let mut caller = Caller::connect(control).await;
    caller.write("POST /api/hubs/default/:send HTTP/1.1\r\nHost: h\r\n").await;
    assert!(!caller.read().await, "a slow head is cut off");
    let mut caller = Caller::connect(control).await;
    assert_eq!(caller.status("HEAD", "/api/hubs/default/users/ann").await, 404);
    assert!(!caller.read().await, "an idle connection is cut off");
    let mut caller = Caller::connect(control).await;
    let bearer = token(&caller.url(SEND), KEY, 60);
    let head = format!("POST {SEND} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {bearer}\r\n");
    caller.write(&format!("{head}Content-Length: 2\r\n\r\nx")).await;
    let answer = caller.answer("POST").await;
    assert_eq!(error(&answer), (408, "RequestTimeout".to_owned()));
    for garbage in [
        "\0\x01\x02garbage\r\n\r\n",
        "GET /api/ HTTP/9.9\r\n\r\n",
        "POST /api/hubs/x HTTP/1.1\r\na b: c\r\n\r\n",
    ] {
        let mut caller = Caller::connect(control).await;
        caller.write(garbage).await;
        assert_eq!(caller.answer("GET").await.status, 400, "{garbage:?}");
        assert!(!caller.read().await);
    }
    let mut caller = Caller::connect(control).await;
    caller.write(&format!("GET /api/ HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(70 << 10))).await;
    assert_eq!(caller.answer("GET").await.status, 431);
    assert_eq!(Caller::connect(control).await.status("HEAD", "/api/health").await, 200);
    server.stop().await;
}

#[tokio::test]
async fn the_control_port_has_places_of_its_own() {
    let config = Config { max_connections: std::num::NonZeroUsize::MIN, ..Config::default() };
    let (server, control) = start_with_control(config).await;
    let client = server.open("/ws").await;
    let ready = async |expected: (u16, &str)| {
        let mut caller = Caller::connect(control).await;
        let answer = caller.request("GET", "/readyz", &[], "").await;
        assert_eq!((answer.status, answer.text()), expected);
    };
    ready((503, "full\n")).await;
    let mut callers = Vec::new();
    for _ in 0..192 {
        let mut caller = Caller::connect(control).await;
        if caller.request("GET", "/healthz", &[], "").await.status == 503 {
            break;
        }
        callers.push(caller);
    }
    let mut late = Caller::connect(control).await;
    late.write(&plain("GET", "/healthz")).await;
    let answer = late.answer("GET").await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")));
    drop((callers, client));
    support::eventually("connections", 0, || server.hub.counts().connections).await;
    server.stop().await;
}

#[tokio::test]
async fn a_server_that_stops_answers_what_is_asked_and_nothing_more() {
    let config = Config { drain_delay: Duration::from_millis(300), ..Config::default() };
    let (mut server, control) = start_with_control(config).await;
    let mut idle = Caller::connect(control).await;
    assert_eq!(idle.status("HEAD", "/api/health").await, 200);
    let mut busy = Caller::connect(control).await;
    let bearer = token(&busy.url(SEND), KEY, 60);
    let head = format!("POST {SEND} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {bearer}\r\n");
    busy.write(&format!("{head}Content-Type: text/plain\r\nContent-Length: 2\r\n\r\nx")).await;
    server.begin_stop();
    let mut caller = Caller::connect(control).await;
    let draining = async { while caller.request("GET", "/readyz", &[], "").await.status != 503 {} };
    within("draining", draining).await;
    assert!(!idle.read().await, "an idle connection is closed");
    busy.write("y").await;
    let answer = busy.answer("POST").await;
    // Everybody is asked to close already: a message would be accepted and never written.
    assert_eq!((answer.status, answer.header("connection")), (503, Some("close")));
    assert!(!busy.read().await);
    server.stop().await;
}
