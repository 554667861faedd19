//! What one peer must not do to another (README.md, "Trouble, and what it gets").

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

#[path = "support/scene.rs"]
mod scene;
mod support;

use std::{
    collections::HashSet,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use hubnerite::{Config, Connection, Identity, Params, Rejection, Request, Route, SameUser};
use scene::{Scene, Watched};
use serde_json::{Value, json};
use support::{
    ClientFrame, Daemon, End, HttpAnswer, JsonClient, RawClient, ServerFrame, eventually,
    hubnerite, upgrade, upgrade_with, within, within_time,
};
use tokio::{process::Command, sync::Notify, task::JoinSet};

const MIB: usize = 1 << 20;

/// How late a deadline may be noticed on a machine that does other things too.
const LATE: Duration = Duration::from_millis(1500);

/// One frame of the JSON protocol, as a client sends it.
fn frame(value: &Value) -> ClientFrame {
    ClientFrame::text(value.to_string())
}

/// A raw client of the JSON protocol, in a group, that has read everything so far.
async fn member(mut client: RawClient, user: &str, group: &str) -> RawClient {
    client.handshake(&format!("/ws/{user}")).await;
    client.send(frame(&json!({"type": "joinGroup", "group": group, "ackId": 1}))).await;
    let connected = client.read_frame().await;
    assert!(connected.payload.starts_with(br#"{"type":"system""#), "{connected:?}");
    client.expect_text(r#"{"type":"ack","ackId":1,"success":true}"#).await;
    client
}

fn to_group(group: &str, data: &str) -> ClientFrame {
    frame(&json!({"type": "sendToGroup", "group": group, "dataType": "text", "data": data}))
}

// ---- What one client sends is its own.

async fn reads_one_and_waits(mut connection: Connection, release: Arc<Notify>) {
    let mut first = true;
    while let Some(message) = connection.recv().await {
        if connection.send(message).await.is_err() {
            break;
        }
        if std::mem::take(&mut first) {
            release.notified().await;
        }
    }
}

/// The thread lends its decoder to whichever connection reads. What one of them has left in it, while its handler is
/// busy with something else, is not for the next one.
#[tokio::test]
async fn what_waits_for_a_busy_handler_reaches_no_other_connection() {
    let release = Arc::new(Notify::new());
    let handler = {
        let release = Arc::clone(&release);
        move |connection: Connection, _: Params| {
            reads_one_and_waits(connection, Arc::clone(&release))
        }
    };
    let scene = Scene::start_with(Config::default(), |server| server.route("/busy", handler)).await;
    let mut busy = scene.open("/busy").await;
    busy.send_all(["one", "two", "three"].map(ClientFrame::text)).await;
    busy.expect_text("one").await;
    let mut other = scene.open("/echo").await;
    other.send(ClientFrame::text("mine")).await;
    other.expect_text("mine").await;
    release.notify_one();
    busy.expect_text("two").await;
    busy.expect_text("three").await;
    drop((busy, other));
    scene.end().await;
}

/// The same without a handler of ours: the daemon waits before it reads on whenever 64 KiB of replies are unwritten,
/// here after 3,121 messages. Those behind them that were decoded with them are not lost, and nobody else's.
#[tokio::test]
async fn bursts_of_small_messages_all_come_back_to_whoever_sent_them() {
    let scene = Watched::start(&["--threads", "1"]).await;
    let mut other = scene.open("/echo").await;
    for count in (3080..3240).step_by(10) {
        let mut burst = scene.open("/ws").await;
        burst.write(ClientFrame::text("A").encode().repeat(count)).await;
        for _ in 0..3080 {
            burst.expect_text("Message received: A").await;
        }
        other.send(ClientFrame::text("mine")).await;
        other.expect_text("mine").await;
        for _ in 3080..count {
            burst.expect_text("Message received: A").await;
        }
    }
    drop(other);
    scene.end().await;
}

// ---- A peer that is gone and did not say so.

fn quick_pings() -> Config {
    Config {
        ping_interval: Duration::from_millis(300),
        ping_timeout: Duration::from_millis(300),
        close_timeout: Duration::from_millis(300),
        ..Config::default()
    }
}

#[tokio::test]
async fn a_peer_that_answers_no_ping_is_1011_and_freed() {
    let mut scene = Scene::start(quick_pings()).await;
    let start = Instant::now();
    let mut client = scene.open("/echo").await;
    let silent = async {
        assert_eq!(client.read_frame().await, ServerFrame::ping());
        assert_eq!(client.expect_close().await.0, 1011);
        client.expect_end().await;
    };
    scene.witness.watch(silent).await;
    // Up to an interval until the ping, the time for its pong, and the time for a close frame.
    let elapsed = start.elapsed();
    assert!(elapsed < Duration::from_millis(900) + LATE, "freed after {elapsed:?}");
    // A witness that does not talk would be taken for dead here.
    let connections = || scene.server.hub.counts().connections;
    scene.witness.watch(eventually("connections", 1, connections)).await;
    scene.end().await;
}

#[tokio::test]
async fn any_byte_counts_as_life_and_so_does_a_pong() {
    let mut scene = Scene::start(quick_pings()).await;
    let mut dripping = scene.open("/echo").await;
    let mut ponging = scene.open("/echo").await;
    let alive = async {
        let start = Instant::now();
        let frame = ClientFrame::text("x".repeat(300)).encode();
        let mut bytes = frame.chunks(1);
        let mut pace = tokio::time::interval(Duration::from_millis(50));
        let mut pongs = 0;
        while start.elapsed() < Duration::from_secs(2) {
            tokio::select! {
                _ = pace.tick() => dripping.write(bytes.next().unwrap()).await,
                frame = ponging.read_frame() => {
                    assert_eq!(frame, ServerFrame::ping());
                    pongs += 1;
                    ponging.send(ClientFrame::pong([])).await;
                }
            }
        }
        assert!(pongs >= 2, "{pongs} pings in 2 s");
        dripping.write(bytes.flatten().copied().collect::<Vec<_>>()).await;
        dripping.expect_text(&"x".repeat(300)).await;
    };
    scene.witness.watch(alive).await;
    drop((dripping, ponging));
    scene.end().await;
}

/// Whoever takes nothing is gone as well, whether it sends or not.
#[tokio::test]
async fn a_peer_that_takes_nothing_is_1013_after_send_timeout() {
    const SEND_TIMEOUT: Duration = Duration::from_millis(700);
    let config = Config {
        send_timeout: SEND_TIMEOUT,
        max_backlog: 64 * MIB,
        close_timeout: Duration::from_millis(300),
        ..Config::default()
    };
    let mut scene = Scene::start(config).await;
    let client = RawClient::connect_with_small_buffer(scene.address(), 4096).await;
    let client = member(client, "slow", "g").await;
    // More than the kernel takes for it.
    let text = "x".repeat(MIB);
    for _ in 0..16 {
        assert_eq!(scene.server.hub.send_to_group("g", text.as_str()).recipients, 1);
    }
    let start = Instant::now();
    let members = || scene.server.hub.counts().connections;
    scene.witness.watch(eventually("connections", 1, members)).await;
    let elapsed = start.elapsed();
    let most = SEND_TIMEOUT + Duration::from_millis(300) + LATE;
    assert!((SEND_TIMEOUT..most).contains(&elapsed), "after {elapsed:?}");
    drop(client);
    scene.end().await;
}

// ---- Slow readers.

/// The time that a message takes to the last of `clients`: the median of many.
async fn latency(publisher: &mut RawClient, clients: &mut [RawClient], data: &str) -> Duration {
    let mut times = Vec::new();
    for _ in 0..40 {
        let start = Instant::now();
        publisher.send(to_group("g", data)).await;
        for client in &mut *clients {
            assert!(client.read_frame().await.payload.len() > data.len());
        }
        times.push(start.elapsed());
    }
    times.sort_unstable();
    times[times.len() / 2]
}

#[tokio::test]
async fn a_slow_reader_is_1013_and_the_others_hear_as_soon_as_before() {
    let mut scene = Scene::start(Config::default()).await;
    let address = scene.address();
    let mut healthy = Vec::new();
    for index in 0..20 {
        let client = RawClient::connect(address).await;
        healthy.push(member(client, &format!("healthy{index}"), "g").await);
    }
    let mut publisher = member(RawClient::connect(address).await, "publisher", "p").await;
    let data = "x".repeat(60_000);
    let mut worst = Vec::new();
    // The machine is shared: measured up to three times.
    for round in 0..3 {
        let before = latency(&mut publisher, &mut healthy, &data).await;
        let slow = RawClient::connect_with_small_buffer(address, 4096).await;
        let mut slow = member(slow, "slow", "g").await;
        let evicted = scene.server.hub.metrics().evicted.get();
        let mut with_slow = Duration::ZERO;
        while scene.server.hub.metrics().evicted.get() == evicted {
            with_slow = with_slow.max(latency(&mut publisher, &mut healthy, &data).await);
        }
        assert_eq!(scene.server.hub.metrics().evicted.get(), evicted + 1);
        // It still may read what was on its way to it, and then it is told.
        let (code, reason) = slow.expect_close_behind_others().await;
        assert_eq!((code, reason.as_str()), (1013, "reads too slowly"));
        slow.finish_close().await;
        worst.push((before, with_slow));
        if with_slow <= before * 2 {
            break;
        }
        assert!(round < 2, "latency without and with a slow reader: {worst:?}");
    }
    scene.witness.expect_prompt_echo().await;
    drop((healthy, publisher));
    scene.end().await;
}

/// Joins, and is past its budget before its 101 is written.
async fn floods_itself(connection: Connection, _: Params, hub: hubnerite::Hub) {
    let Ok(_member) = connection.join(&hub, Some("flooded")) else { return };
    let large = "x".repeat(2 * MIB);
    while hub.send_to_all(large.as_str()).evicted == 0 {}
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_client_that_is_evicted_at_once_still_gets_its_101() {
    let scene = Scene::start_with(Config::default(), |server| {
        let hub = server.hub();
        server.route("/flood", move |connection: Connection, params: Params| {
            floods_itself(connection, params, hub.clone())
        })
    })
    .await;
    let mut client = RawClient::connect(scene.address()).await;
    client.write(upgrade("/flood")).await;
    let first = within("an answer", async {
        let mut first = [0; 12];
        client.stream.readable().await.unwrap();
        client.stream.try_read(&mut first).unwrap();
        first
    })
    .await;
    assert_eq!(first.escape_ascii().to_string(), "HTTP/1.1 101");
}

// ---- Too many in all.

fn at_most(connections: usize) -> Config {
    let max_connections = NonZeroUsize::new(connections).unwrap();
    Config { max_connections, ..Config::default() }
}

#[tokio::test]
async fn one_connection_too_many_is_503_with_retry_after_until_another_ends() {
    let scene = Scene::start(at_most(3)).await;
    let (one, two) = (scene.open("/ws").await, scene.open("/ws").await);
    // Before any parsing: neither a request nor its absence makes a difference.
    for request in [upgrade("/ws"), upgrade("/nothing"), String::new(), "x".repeat(60_000)] {
        let answer = RawClient::connect(scene.address()).await.request(request).await;
        assert_eq!(answer.status, 503, "{answer:?}");
        let seconds = answer.header("retry-after").expect("a Retry-After");
        assert!(seconds.parse::<u32>().is_ok_and(|seconds| seconds > 0), "{answer:?}");
    }
    drop(one);
    eventually("connections", 2, || scene.server.hub.counts().connections).await;
    let mut another = within("a free place", async {
        loop {
            let mut client = RawClient::connect(scene.address()).await;
            if client.request(upgrade("/ws")).await.status == 101 {
                return client;
            }
        }
    })
    .await;
    another.send(ClientFrame::text("hi")).await;
    another.expect_text("Message received: hi").await;
    drop((two, another));
    scene.end().await;
}

#[tokio::test]
async fn a_flood_of_connections_above_the_limit_harms_nobody() {
    let flags = ["--max-connections", "50"];
    let mut scene = Watched::start(&flags).await;
    let address = scene.address();
    let memory = scene.daemon.resident_bytes();
    let flood = async {
        let mut places = Vec::new();
        for _ in 0..49 {
            places.push(RawClient::open(address, "/ws").await);
        }
        let mut flood = JoinSet::new();
        for _ in 0..2000 {
            flood.spawn(async move {
                let mut client = RawClient::connect(address).await;
                client.read_answer().await.status
            });
        }
        while let Some(status) = flood.join_next().await {
            assert_eq!(status.unwrap(), 503);
        }
        for client in &mut places {
            client.send(ClientFrame::text("hi")).await;
            client.expect_text("Message received: hi").await;
        }
    };
    scene.witness.watch(flood).await;
    scene.expect_growth_below(16 * MIB as u64, memory);
    scene.end().await;
}

// ---- No file descriptors left.

async fn daemon_with_files(files: u32, flags: &[&str]) -> Watched {
    let daemon = hubnerite(flags);
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("ulimit -n {files} && exec \"$0\" \"$@\""));
    command.arg(daemon.as_std().get_program()).args(daemon.as_std().get_args());
    command.args(["--listen", "127.0.0.1:0"]).kill_on_drop(true);
    Watched::over(Daemon::spawn(command, 1).await).await
}

#[tokio::test]
async fn out_of_files_the_daemon_waits_without_work_and_goes_on_when_there_are_some() {
    let scene = daemon_with_files(40, &["--max-connections", "10000"]).await;
    let address = scene.address();
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(RawClient::connect(address).await);
    }
    eventually("open files", true, || scene.daemon.open_files() >= 39).await;
    let before = scene.processor_time();
    let mut pace = tokio::time::interval(Duration::from_secs(2));
    pace.tick().await;
    pace.tick().await;
    let used = scene.processor_time_since(before);
    assert!(used < Duration::from_millis(300), "{used:?} of processor time in 2 s");
    let complaints =
        || scene.daemon.log().iter().filter(|line| line.contains("cannot accept")).count();
    assert_eq!(complaints(), 1, "{:#?}", scene.daemon.log());
    // Those that it has accepted are served, and so is everybody once there are files again.
    let mut first = clients.remove(0);
    first.handshake("/ws").await;
    first.send(ClientFrame::text("hi")).await;
    first.expect_text("Message received: hi").await;
    drop(clients);
    let start = Instant::now();
    let mut late = RawClient::open(address, "/ws").await;
    late.send(ClientFrame::text("hi")).await;
    late.expect_text("Message received: hi").await;
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    drop((first, late));
    scene.end().await;
}

/// One descriptor is kept for this: a client that is refused can go elsewhere, one that waits cannot.
#[tokio::test]
async fn out_of_files_clients_are_refused_and_not_left_waiting() {
    let mut scene = daemon_with_files(40, &["--max-connections", "10000"]).await;
    let address = scene.address();
    let attack = async {
        let mut places = Vec::new();
        while places.len() < 60 {
            let mut client = RawClient::connect(address).await;
            client.write(upgrade("/ws")).await;
            let answered = tokio::time::timeout(Duration::from_secs(2), client.stream.readable());
            assert!(answered.await.is_ok(), "client {} is left waiting", places.len());
            places.push(client);
        }
    };
    scene.witness.watch(attack).await;
    scene.end().await;
}

// ---- SIGTERM.

const QUEUED: usize = 150;

/// A daemon in which 150 messages of 60 KB wait for each of `slow`, more than the kernel takes for them.
async fn with_queued_messages(flags: &[&str], slow: usize) -> (Daemon, Vec<RawClient>) {
    let flags = [flags, &["--max-backlog", "64MiB"]].concat();
    let daemon = Daemon::start(&flags).await;
    let mut clients = Vec::new();
    for index in 0..slow {
        let client = RawClient::connect_with_small_buffer(daemon.address(), 16_384).await;
        clients.push(member(client, &format!("slow{index}"), "g").await);
    }
    let mut publisher = JsonClient::user(daemon.address(), "publisher").await;
    for index in 0..QUEUED {
        let data = format!("{index} {}", "x".repeat(60_000));
        let send = json!({"type": "sendToGroup", "group": "g", "ackId": index, "dataType": "text", "data": data});
        assert_eq!(publisher.ask(&send).await["success"], true);
    }
    // The publisher goes in peace: it is not what is looked at here.
    drop(publisher);
    (daemon, clients)
}

/// Reads all that was queued, in order, and the close frame behind it: its reason.
async fn read_queued(client: &mut RawClient) -> String {
    for index in 0..QUEUED {
        let frame = client.read_frame().await;
        let text = String::from_utf8(frame.payload.clone()).unwrap();
        let expected = format!(r#""data":"{index} x"#);
        assert!(text.contains(&expected), "message {index} is {frame:?}");
    }
    let (code, reason) = client.expect_disconnected_and_close().await;
    assert_eq!(code, 1012);
    reason
}

#[tokio::test]
async fn sigterm_writes_what_is_queued_and_then_1012_with_a_moment_of_its_own_for_each() {
    let (mut daemon, mut clients) = with_queued_messages(&[], 5).await;
    daemon.signal("TERM").await;
    let mut moments = HashSet::new();
    for client in &mut clients {
        let reason = read_queued(client).await;
        let moment =
            reason.strip_prefix("reconnect-after-ms=").and_then(|ms| ms.parse::<u64>().ok());
        assert!(moments.insert(moment.expect("a moment")), "{reason} was told to two");
        client.finish_close().await;
    }
    assert_eq!(daemon.end().await.code(), Some(0), "{:#?}", daemon.log());
}

/// The close timeout is for the peer's close frame. A peer that is still reading what was queued for it has the grace.
#[tokio::test]
async fn sigterm_lets_a_slow_reader_read_longer_than_the_close_timeout() {
    let flags = ["--close-timeout", "300ms", "--send-timeout", "10s", "--shutdown-grace", "20s"];
    let (mut daemon, mut clients) = with_queued_messages(&flags, 1).await;
    daemon.signal("TERM").await;
    let client = clients.remove(0);
    // 9 MB in steps of 64 KiB, one every 15 ms: about 2 s.
    let mut pace = tokio::time::interval(Duration::from_millis(15));
    let mut bytes = Vec::new();
    let mut step = vec![0; 65_536];
    let end = loop {
        pace.tick().await;
        client.stream.readable().await.unwrap();
        match client.stream.try_read(&mut step) {
            Ok(0) => break Ok(()),
            Ok(count) => bytes.extend_from_slice(&step[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => break Err(error),
        }
        if bytes.windows(19).rev().take(200).any(|window| window == b"reconnect-after-ms=") {
            break Ok(());
        }
    };
    let messages = bytes.windows(8).filter(|window| *window == br#""data":""#).count();
    assert_eq!((end.map_err(|error| error.kind()), messages), (Ok(()), QUEUED));
    drop(client);
    assert_eq!(daemon.end().await.code(), Some(0), "{:#?}", daemon.log());
}

#[tokio::test]
async fn sigterm_ends_within_the_grace_whoever_does_not_go_and_says_how_many_with_exit_code_3() {
    let flags = ["--shutdown-grace", "1s", "--close-timeout", "1m", "--send-timeout", "1m"];
    let (mut daemon, clients) = with_queued_messages(&flags, 3).await;
    let start = Instant::now();
    daemon.signal("TERM").await;
    assert_eq!(daemon.end().await.code(), Some(3), "{:#?}", daemon.log());
    let elapsed = start.elapsed();
    assert!(elapsed < Duration::from_secs(1) + LATE, "after {elapsed:?}");
    let last = daemon.log_line("connections left").await;
    assert!(last.contains(" 3 "), "{last}");
    drop(clients);
}

#[tokio::test]
async fn sigterm_closes_what_is_idle_mid_handshake_and_mid_message() {
    let mut daemon = Daemon::start(&["--close-timeout", "1s"]).await;
    let address = daemon.address();
    let mut idle = RawClient::open(address, "/echo").await;
    let mut mid_message = RawClient::open(address, "/echo").await;
    mid_message.send(ClientFrame::text("x").unfinished()).await;
    mid_message.send(ClientFrame::ping("x")).await;
    assert_eq!(mid_message.read_frame().await, ServerFrame::pong("x"));
    let mut mid_handshake = RawClient::connect(address).await;
    mid_handshake.write("GET /ws HT").await;
    let mut silent = RawClient::connect(address).await;
    // Whoever connects behind them is answered: so they are accepted.
    drop(RawClient::open(address, "/echo").await);
    daemon.signal("TERM").await;
    for client in [&mut idle, &mut mid_message] {
        assert_eq!(client.expect_close().await.0, 1012);
        client.finish_close().await;
    }
    for client in [&mut mid_handshake, &mut silent] {
        let answer: HttpAnswer = client.read_answer().await;
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
    }
    assert_eq!(daemon.end().await.code(), Some(0), "{:#?}", daemon.log());
}

#[tokio::test]
async fn a_second_sigterm_ends_at_once() {
    let (mut daemon, clients) = with_queued_messages(&["--send-timeout", "1m"], 1).await;
    daemon.signal("TERM").await;
    daemon.log_line("stopping").await;
    let start = Instant::now();
    daemon.signal("TERM").await;
    assert_eq!(daemon.end().await.code(), Some(3));
    assert!(start.elapsed() < LATE, "{:?}", start.elapsed());
    drop(clients);
}

// ---- Panics.

async fn panics_on(mut connection: Connection, params: Params) {
    assert_ne!(&params["when"], "start", "at the start");
    while let Some(message) = connection.recv().await {
        assert_ne!(message.as_text(), Some("panic"), "on a message");
        if connection.send(message).await.is_err() {
            break;
        }
    }
    assert_ne!(&params["when"], "end", "at the end");
}

#[tokio::test]
async fn a_panic_in_a_handler_is_1011_for_its_connection_alone_and_counted() {
    let mut scene =
        Scene::start_with(Config::default(), |server| server.route("/panic/{when}", panics_on))
            .await;
    let mut other = scene.open("/panic/never").await;
    let panics = async {
        let mut at_start = scene.server.open("/panic/start").await;
        assert_eq!(at_start.expect_close().await, (1011, "internal error".to_owned()));
        at_start.finish_close().await;
        let mut on_message = scene.server.open("/panic/never").await;
        on_message.send_all(["hello", "panic", "behind"].map(ClientFrame::text)).await;
        on_message.expect_text("hello").await;
        assert_eq!(on_message.expect_close().await, (1011, "internal error".to_owned()));
        on_message.finish_close().await;
        let mut at_end = scene.server.open("/panic/end").await;
        at_end.send(ClientFrame::close(1000, "")).await;
        assert_eq!(at_end.expect_close().await.0, 1000);
        assert_eq!(at_end.expect_end().await, End::Closed);
    };
    scene.witness.watch(panics).await;
    eventually("failures", 3, || scene.server.hub.metrics().handler_failures.get()).await;
    other.send(ClientFrame::text("still here")).await;
    other.expect_text("still here").await;
    drop(other);
    let metrics = scene.server.hub.clone();
    scene.end().await;
    assert_eq!(metrics.metrics().opened.get(), metrics.metrics().closed.get());
}

/// A handler is a function that returns a future, and the function may panic as well.
#[tokio::test]
async fn a_panic_before_the_first_await_of_a_handler_is_1011_too() {
    let handler = |connection: Connection, params: Params| {
        let name = params["name that the route does not have"].to_owned();
        async move { drop((connection, name)) }
    };
    let scene =
        Scene::start_with(Config::default(), |server| server.route("/early", handler)).await;
    let mut client = scene.open("/early").await;
    assert_eq!(client.expect_close().await, (1011, "internal error".to_owned()));
    eventually("failures", 1, || scene.server.hub.metrics().handler_failures.get()).await;
    client.finish_close().await;
    scene.end().await;
}

async fn panicking_guard(request: &Request) -> Result<Identity, Rejection> {
    panic!("on {}", request.path())
}

/// There is no connection yet that could be closed with 1011: the answer is that of HTTP.
#[tokio::test]
async fn a_panic_in_a_guard_is_500() {
    let echo = |mut connection: Connection, _: Params| async move { drop(connection.recv().await) };
    let scene = Scene::start_with(Config::default(), |server| {
        server.route("/guarded", Route::new(echo).guard(panicking_guard))
    })
    .await;
    let answer = RawClient::connect(scene.address()).await.request(upgrade("/guarded")).await;
    assert_eq!(answer.status, 500, "{answer:?}");
    scene.end().await;
}

#[tokio::test]
async fn a_panic_in_a_spawned_task_ends_the_task_alone() {
    let handler = |mut connection: Connection, _: Params| async move {
        while let Some(message) = connection.recv().await {
            connection.spawn(async { panic!("in a task") });
            if connection.send(message).await.is_err() {
                break;
            }
        }
    };
    let scene =
        Scene::start_with(Config::default(), |server| server.route("/spawn", handler)).await;
    let mut client = scene.open("/spawn").await;
    for text in ["one", "two"] {
        client.send(ClientFrame::text(text)).await;
        client.expect_text(text).await;
    }
    drop(client);
    scene.end().await;
}

// ---- Log injection.

/// uvicorn CVE-2020-7694, and the same through whatever else a peer may say.
#[tokio::test]
async fn no_peer_can_write_into_the_log() {
    let mut daemon = Daemon::start(&["--log-level", "debug"]).await;
    let address = daemon.address();
    let evil = "%1b[2J%1b[31m%0d%0a2026-01-01T00:00:00Z ERROR forged %e2%80%ae%ff";
    let raw = "\u{1b}[2J\r\n2026-01-01T00:00:00Z ERROR forged \u{202e}";
    for request in [
        upgrade(&format!("/{evil}")),
        upgrade(&format!("/ws/{evil}")),
        upgrade(&format!("/ws/{raw}")),
        upgrade("/ws/forged%e2%80%ae"),
        upgrade(&format!("/ws?{evil}")),
        upgrade_with("/ws", &[("Origin", "http://forged\u{202e}")]),
        upgrade_with("/ws", &[("User-Agent", "forged\u{202e}\u{9b}2J")]),
        upgrade_with("/ws", &[("Sec-WebSocket-Protocol", "forged\u{202e}")]),
        upgrade_with("/ws", &[("X-Forwarded-For", "forged\u{202e}, 1.2.3.4")]),
        upgrade_with("/ws", &[("X", raw)]),
        format!("{raw}\r\n\r\n"),
    ] {
        let mut client = RawClient::connect(address).await;
        client.request(request).await;
    }
    for reason in [
        raw.to_owned(),
        "\u{202e}".repeat(41),
        "forged\u{2028}\u{2029}\u{85}\u{9b}\0\u{7f}\u{feff}".to_owned(),
    ] {
        let mut client = RawClient::open(address, "/echo").await;
        client.send(ClientFrame::close(4000, reason)).await;
        assert_eq!(client.expect_close().await.0, 4000);
    }
    let mut client = RawClient::open(address, "/ws/alice").await;
    client.send(ClientFrame::text(raw)).await;
    client.send(frame(&json!({"type": raw, "group": raw, "ackId": 1}))).await;
    client.send(ClientFrame::close(1000, b"\xff\xfe")).await;
    assert_eq!(client.expect_close_behind_others().await.0, 1007);
    let count = |log: &[String]| log.iter().filter(|line| line.contains("closed by")).count();
    eventually("connections that were logged", true, || count(&daemon.log()) >= 4).await;
    daemon.signal("TERM").await;
    assert_eq!(daemon.end().await.code(), Some(0));
    daemon.log_line("stopped").await;
    for line in daemon.log() {
        // A line is a moment, a level, a module and a message: whatever else it begins with was not written by us.
        let levels = ["ERROR", "WARN ", "INFO ", "DEBUG"];
        let level = line.get(25..30).unwrap_or_default();
        assert!(levels.contains(&level), "forged: {line:?}");
        assert_ne!(level, "ERROR", "forged: {line:?}");
        let bad = |c: char| c.is_control() || "\u{202e}\u{2028}\u{2029}\u{feff}".contains(c);
        assert!(!line.contains(bad), "not escaped: {line:?}");
        assert!(line.len() < 1200, "not cut: {line:?}");
    }
}

// ---- One user, many connections, at once.

/// Many clients of one user, all at once: those that were answered 101, and how many were not.
async fn race(scene: &Scene, clients: usize, refused_with: u16) -> (Vec<RawClient>, usize) {
    let address = scene.address();
    let mut race = JoinSet::new();
    for _ in 0..clients {
        race.spawn(async move {
            let mut client = RawClient::connect(address).await;
            let answer = client.request(upgrade("/ws/alice")).await;
            (client, answer.status)
        });
    }
    let (mut open, mut refused) = (Vec::new(), 0);
    while let Some(finished) = race.join_next().await {
        match finished.unwrap() {
            (client, 101) => open.push(client),
            (_, status) => {
                assert_eq!(status, refused_with);
                refused += 1;
            }
        }
    }
    (open, refused)
}

/// Looks at the hub all the time from a thread of its own: the most members of the hub that it ever saw.
fn most_members(scene: &Scene, over: &Arc<AtomicBool>) -> std::thread::JoinHandle<usize> {
    let (hub, over) = (scene.server.hub.clone(), Arc::clone(over));
    std::thread::spawn(move || {
        let mut most = 0;
        while !over.load(Relaxed) {
            most = most.max(hub.counts().members);
            std::thread::yield_now();
        }
        most
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn with_reject_one_of_many_at_once_is_in_and_all_others_are_409() {
    let scene = Scene::start(Config { same_user: SameUser::Reject, ..Config::default() }).await;
    let over = Arc::new(AtomicBool::new(false));
    let most = most_members(&scene, &over);
    for _ in 0..10 {
        let (mut open, refused) = race(&scene, 50, 409).await;
        assert_eq!((open.len(), refused), (1, 49));
        let mut alice = open.remove(0);
        assert_eq!(alice.read_frame().await.opcode, 1);
        let sent = scene.server.hub.send_to_user("alice", "you alone");
        assert_eq!(sent.recipients, 1);
        alice.expect_text("you alone").await;
        alice.send(ClientFrame::close(1000, "")).await;
        assert_eq!(alice.expect_close().await.0, 1000);
        eventually("members", 0, || scene.server.hub.counts().members).await;
    }
    over.store(true, Relaxed);
    assert_eq!(most.join().unwrap(), 1, "members at one moment");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_replace_all_of_many_at_once_get_in_and_all_but_one_are_4000() {
    let scene = Scene::start(Config { same_user: SameUser::Replace, ..Config::default() }).await;
    let over = Arc::new(AtomicBool::new(false));
    let most = most_members(&scene, &over);
    for _ in 0..10 {
        let (open, refused) = race(&scene, 50, 409).await;
        assert_eq!((open.len(), refused), (50, 0));
        eventually("connections", 2, || {
            let counts = scene.server.hub.counts();
            // Those that are replaced wait for our close to be answered.
            counts.connections.min(2)
        })
        .await;
        assert_eq!(scene.server.hub.send_to_user("alice", "you alone").recipients, 1);
        let mut told = 0;
        for mut client in open {
            assert_eq!(client.read_frame().await.opcode, 1);
            let next = client.read_frame().await;
            if next.payload.ends_with(br#""message":"the same user connected again"}"#) {
                assert_eq!(client.expect_close().await.0, 4000);
                client.finish_close().await;
            } else {
                assert_eq!(next, ServerFrame::text("you alone"));
                client.send(ClientFrame::close(1000, "")).await;
                assert_eq!(client.expect_close().await.0, 1000);
                told += 1;
            }
        }
        assert_eq!(told, 1);
        eventually("members", 0, || scene.server.hub.counts().members).await;
    }
    over.store(true, Relaxed);
    assert_eq!(most.join().unwrap(), 1, "members at one moment");
    scene.end().await;
}

/// A client that was replaced while its messages were on their way can do nothing in the name of its user.
#[tokio::test]
async fn a_replaced_connection_is_deaf_and_dumb() {
    let scene = Scene::start(Config { same_user: SameUser::Replace, ..Config::default() }).await;
    let mut old = member(RawClient::connect(scene.address()).await, "alice", "g").await;
    let mut other = member(RawClient::connect(scene.address()).await, "bob", "g").await;
    let mut new = scene.open("/ws/alice").await;
    assert_eq!(new.read_frame().await.opcode, 1);
    old.send(to_group("g", "from the grave")).await;
    assert_eq!(old.expect_disconnected_and_close().await.0, 4000);
    old.send(to_group("g", "from the grave")).await;
    old.finish_close().await;
    assert_eq!(scene.server.hub.send_to_group("g", "end").recipients, 1);
    other.expect_text("end").await;
    drop((new, other));
    scene.end().await;
}

// ---- Groups.

fn is_failed_ack(answer: &Value, name: &str) -> bool {
    answer["type"] == "ack" && answer["success"] == false && answer["error"]["name"] == name
}

#[tokio::test]
async fn a_connection_is_in_at_most_128_groups_and_more_are_a_failed_ack() {
    let scene = Scene::start(Config::default()).await;
    let mut client = scene.server.user("alice").await;
    for index in 0..128 {
        client.join(&format!("g{index}"), index).await;
    }
    let one_more = json!({"type": "joinGroup", "group": "one more", "ackId": 1000});
    let answer = client.ask(&one_more).await;
    assert!(is_failed_ack(&answer, "TooManyRequests"), "{answer}");
    // One that it is in already is not one more, and one that it leaves makes room.
    client.join("g0", 1001).await;
    client.send(&json!({"type": "leaveGroup", "group": "g0"})).await;
    client.join("one more", 1002).await;
    assert_eq!(scene.server.hub.counts().groups, 128);
    drop(client);
    eventually("groups", 0, || scene.server.hub.counts().groups).await;
    scene.end().await;
}

#[tokio::test]
async fn a_client_that_goes_on_asking_for_too_many_groups_is_1008() {
    let scene = Scene::start(Config::default()).await;
    let mut client = scene.open("/ws/alice").await;
    let joins = (0..5000).map(|index| {
        frame(&json!({"type": "joinGroup", "group": format!("g{index}"), "ackId": index}))
    });
    let bytes: Vec<u8> = joins.flat_map(|frame| frame.encode()).collect();
    let _ = client.try_write(bytes).await;
    let _ = client.try_write(ClientFrame::close(1000, "").encode()).await;
    assert_eq!(client.expect_close_behind_others().await.0, 1008);
    drop(client);
    scene.end().await;
}

#[tokio::test]
async fn a_group_name_of_1024_characters_is_taken_and_a_longer_one_is_a_failed_ack() {
    let scene = Scene::start(Config::default()).await;
    let mut client = scene.server.user("alice").await;
    client.join(&"x".repeat(1024), 1).await;
    // Characters, not bytes.
    client.join(&"\u{1f600}".repeat(1024), 2).await;
    for (ack_id, name) in
        [(3, "x".repeat(1025)), (4, "\u{1f600}".repeat(1025)), (5, "x".repeat(MIB / 2))]
    {
        let answer =
            client.ask(&json!({"type": "joinGroup", "group": name, "ackId": ack_id})).await;
        assert!(is_failed_ack(&answer, "BadRequest"), "{answer}");
    }
    for (ack_id, name) in [(6, ""), (7, " \t\n")] {
        let answer =
            client.ask(&json!({"type": "joinGroup", "group": name, "ackId": ack_id})).await;
        assert!(is_failed_ack(&answer, "BadRequest"), "{answer}");
    }
    assert_eq!(scene.server.hub.counts().groups, 2);
    drop(client);
    eventually("groups", 0, || scene.server.hub.counts().groups).await;
    scene.end().await;
}

#[tokio::test]
async fn joining_and_leaving_10000_groups_leaves_nothing_behind() {
    let mut scene = Scene::start(Config::default()).await;
    let mut client = scene.server.user("alice").await;
    let groups = async {
        for index in 0..10_000 {
            let group = format!("group {index}");
            client.join(&group, 2 * index).await;
            let leave = json!({"type": "leaveGroup", "group": group, "ackId": 2 * index + 1});
            assert_eq!(client.ask(&leave).await["success"], true);
        }
    };
    within_time(Duration::from_mins(1), "10,000 groups", scene.witness.watch(groups)).await;
    assert_eq!(scene.server.hub.counts().groups, 0);
    drop(client);
    scene.end().await;
}

#[tokio::test]
async fn joining_and_leaving_10000_groups_costs_no_memory() {
    let scene = Watched::start(&[]).await;
    let mut churn = scene.open("/ws/alice").await;
    let mut round = async |from: usize| {
        for index in from..from + 10_000 {
            let group = format!("{index} {}", "x".repeat(900));
            churn
                .send_all([
                    frame(&json!({"type": "joinGroup", "group": group})),
                    frame(&json!({"type": "leaveGroup", "group": group})),
                ])
                .await;
        }
        churn.send(frame(&json!({"type": "ping"}))).await;
        while churn.read_frame().await != ServerFrame::text(r#"{"type":"pong"}"#) {}
    };
    round(0).await;
    let memory = scene.daemon.resident_bytes();
    round(10_000).await;
    scene.expect_growth_below(MIB as u64, memory);
    drop(churn);
    scene.end().await;
}
