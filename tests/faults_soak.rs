//! A mixed load of clients that behave and clients that do not, each of which ends as it happens:
//! nothing is left of them. 15 s as a test; `tests/soak` runs it for as long as it is told.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]
#![allow(clippy::print_stdout, reason = "what it measures is a part of what it is for")]

mod support;

use std::{
    env, fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use hubnerite::{Config, Counts, Drained, Hub, Server};
use serde_json::{Value, json};
use support::{ClientFrame, End, RawClient, ServerFrame, eventually, upgrade};
use tokio::{
    runtime::{Builder, Runtime},
    sync::oneshot,
    task::JoinSet,
};

/// Clients at once. Each that ends is followed by another.
const CLIENTS: u64 = 120;

/// The load before the start is measured: what is allocated once is allocated by then. Queues that
/// are full at one moment decide how much an allocator keeps, so a long run needs longer for it.
const WARM_UP_PART: u32 = 30;
const WARM_UP: Duration = Duration::from_secs(3);

/// How much memory may differ at the end: a tenth, and what an allocator keeps for each of its
/// arenas.
const MEMORY_PART: u64 = 10;
const MEMORY_SLACK: u64 = 4 << 20;

fn duration() -> Duration {
    let text = env::var("SOAK").unwrap_or_else(|_| "15s".to_owned());
    hubnerite::parse_duration(&text).unwrap_or_else(|error| panic!("SOAK={text}: {error}"))
}

/// Short deadlines and small budgets: all of them are to be met.
fn strict() -> Config {
    Config {
        open_timeout: Duration::from_secs(2),
        ping_interval: Duration::from_secs(1),
        ping_timeout: Duration::from_secs(1),
        close_timeout: Duration::from_secs(1),
        send_timeout: Duration::from_secs(1),
        message_timeout: Duration::from_secs(1),
        max_backlog: 256 << 10,
        max_total_backlog: 8 << 20,
        ..Config::default()
    }
}

// ---- What is measured.

#[derive(Debug, Clone, Copy)]
struct Sample {
    counts: Counts,
    tasks: usize,
    files: usize,
    memory: u64,
}

struct Subject {
    address: SocketAddr,
    hub: Hub,
    /// Tasks of the server alone: it has a runtime of its own.
    runtime: Runtime,
    stop: oneshot::Sender<()>,
    ended: tokio::task::JoinHandle<Drained>,
}

impl Subject {
    fn start() -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let server = Server::with_config(strict()).daemon_routes();
        let hub = server.hub();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let ended = runtime.spawn(server.run(listener, async move { drop(stopped.await) }));
        Self { address, hub, runtime, stop, ended }
    }

    fn sample(&self) -> Sample {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let memory = memory.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024;
        Sample {
            counts: self.hub.counts(),
            tasks: self.runtime.metrics().num_alive_tasks(),
            files: fs::read_dir("/proc/self/fd").unwrap().count(),
            memory,
        }
    }

    /// Waits until every client is gone from it, and then for a moment of rest.
    async fn rest(&self) -> Sample {
        eventually("connections", 0, || self.hub.counts().connections).await;
        eventually("tasks but the server's own", 1, || self.sample().tasks).await;
        self.sample()
    }
}

#[derive(Default)]
struct Tally {
    /// Clients that have come and gone, by what they did.
    clients: [AtomicU64; KINDS.len()],
    over: AtomicBool,
}

// ---- What the clients do.

/// A generator of numbers that are different enough.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn length(&mut self, most: u64) -> usize {
        let bound = 1 + self.below(most);
        usize::try_from(self.below(bound)).unwrap()
    }
}

/// The kinds of clients, and how many of a hundred are of each.
const KINDS: [(&str, u64); 9] = [
    ("echo", 25),
    ("talk", 30),
    ("read slowly", 6),
    ("leave mid head", 8),
    ("leave mid frame", 8),
    ("break the rules", 8),
    ("flood", 5),
    ("are refused", 5),
    ("hang", 5),
];

async fn one_client(address: SocketAddr, kind: usize, random: &mut Random) {
    match KINDS[kind].0 {
        "echo" => echo(address, random).await,
        "talk" => talk(address, random).await,
        "read slowly" => read_slowly(address, random).await,
        "leave mid head" => leave_mid_head(address, random).await,
        "leave mid frame" => leave_mid_frame(address, random).await,
        "break the rules" => break_the_rules(address, random).await,
        "flood" => flood(address).await,
        "are refused" => be_refused(address, random).await,
        _ => hang(address, random).await,
    }
}

/// Ends a connection in one of the ways in which connections end.
async fn leave(mut client: RawClient, random: &mut Random) {
    match random.below(4) {
        0 => client.abort(),
        1 => drop(client),
        2 => {
            let _ = client.try_write(ClientFrame::close(1000, "bye").encode()).await;
        }
        _ => {
            let _ = client.try_write(ClientFrame::close(1000, "bye").encode()).await;
            while client.next_frame().await.is_ok() {}
        }
    }
}

/// The next frame that is no ping, pings being answered; `Err` at the end.
async fn next(client: &mut RawClient) -> Result<ServerFrame, End> {
    loop {
        let frame = client.next_frame().await?;
        if frame != ServerFrame::ping() {
            return Ok(frame);
        }
        let _ = client.try_write(ClientFrame::pong([]).encode()).await;
    }
}

/// The server may close a connection whose reader was too slow, and this machine may be slow; and
/// nothing else.
fn expect_slow(frame: &ServerFrame) {
    let (code, reason) = frame.close_code_and_reason();
    assert!(code == 1013 || (code == 1011 && reason == "ping timeout"), "{code} {reason}");
}

async fn echo(address: SocketAddr, random: &mut Random) {
    let mut client = RawClient::open(address, "/echo").await;
    for _ in 0..random.below(30) {
        let payload = vec![b'e'; random.length(100_000)];
        let parts = 1 + random.length(4);
        let size = payload.len().div_ceil(parts).max(1);
        let mut parts: Vec<_> = payload.chunks(size).map(ClientFrame::continuation).collect();
        for part in &mut parts {
            part.fin = false;
        }
        match parts.first_mut() {
            Some(first) => first.opcode = 2,
            None => parts.push(ClientFrame::binary([])),
        }
        parts.last_mut().unwrap().fin = true;
        client.send_all(parts).await;
        match next(&mut client).await {
            Ok(frame) if frame.is_close() => return expect_slow(&frame),
            frame => assert_eq!(frame.as_ref(), Ok(&ServerFrame::binary(payload))),
        }
    }
    leave(client, random).await;
}

/// A user who joins, sends and leaves, and is told of each.
async fn talk(address: SocketAddr, random: &mut Random) {
    let mut client = RawClient::open(address, &format!("/ws/user{}", random.below(60))).await;
    let first = client.read_frame().await;
    assert!(first.payload.starts_with(br#"{"type":"system","event":"connected""#), "{first:?}");
    let mut acked = 0;
    for round in 0..random.below(40) {
        let sent = acked + 1 + random.below(5);
        let frames = (acked + 1..=sent).map(|ack_id| something_to_say(ack_id, random).to_string());
        let bytes: Vec<u8> = frames.flat_map(|text| ClientFrame::text(text).encode()).collect();
        client.write(bytes).await;
        while acked < sent {
            let frame = match next(&mut client).await {
                Ok(frame) if frame.is_close() => return expect_slow(&frame),
                Ok(frame) => frame,
                Err(end) => panic!("{end:?} in round {round}"),
            };
            let value: Value = serde_json::from_slice(&frame.payload).unwrap();
            match value["type"].as_str() {
                Some("ack") => {
                    acked += 1;
                    assert_eq!(value["ackId"], acked, "{value}");
                }
                Some("system") => assert_eq!(value["event"], "disconnected"),
                other => assert_eq!(other, Some("message"), "{value}"),
            }
        }
    }
    leave(client, random).await;
}

fn something_to_say(ack_id: u64, random: &mut Random) -> Value {
    let group = format!("group{}", random.below(20));
    let data = "d".repeat(random.length(3000));
    match random.below(8) {
        0 | 1 => json!({"type": "joinGroup", "group": group, "ackId": ack_id}),
        2 => json!({"type": "leaveGroup", "group": group, "ackId": ack_id}),
        3 if random.below(2) == 0 => {
            // Only those who read slowly hear it: large enough to be more than they may leave
            // unread.
            let data = "d".repeat(random.length(100_000));
            json!({"type": "sendToUser", "user": "slow", "data": data, "ackId": ack_id})
        }
        3 => {
            let user = format!("user{}", random.below(90));
            json!({"type": "sendToUser", "user": user, "data": data, "ackId": ack_id})
        }
        4 => json!({"type": "sendToAll", "noEcho": true, "data": data, "ackId": ack_id}),
        5 => json!({"type": "event", "event": "e", "data": data, "ackId": ack_id}),
        _ => json!({"type": "sendToGroup", "group": group, "data": data, "ackId": ack_id}),
    }
}

/// A user who hears everything and reads nothing.
async fn read_slowly(address: SocketAddr, random: &mut Random) {
    let mut client = RawClient::connect_with_small_buffer(address, 4096).await;
    client.handshake("/ws/slow").await;
    let patience = Duration::from_millis(random.below(4000));
    let gone = async {
        while client.try_write(ClientFrame::pong([]).encode()).await.is_ok() {
            pause(300).await;
        }
    };
    let _ = tokio::time::timeout(patience, gone).await;
    client.abort();
}

/// The pace of a client that does something now and then.
async fn pause(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

async fn leave_mid_head(address: SocketAddr, random: &mut Random) {
    let mut client = RawClient::connect(address).await;
    let head = upgrade("/ws/nobody");
    let length = random.length(head.len() as u64);
    client.write(&head[..length]).await;
    if random.below(4) == 0 {
        // Its time runs out.
        let answer = client.read_answer().await;
        assert_eq!(answer.status, 408, "{answer:?}");
    } else if random.below(2) == 0 {
        client.abort();
    }
}

async fn leave_mid_frame(address: SocketAddr, random: &mut Random) {
    let path = if random.below(2) == 0 { "/echo" } else { "/ws/nobody" };
    let mut client = RawClient::open(address, path).await;
    let frame = ClientFrame::text("x".repeat(70_000)).encode();
    let length = 1 + random.length(frame.len() as u64 - 1);
    client.write(&frame[..length]).await;
    match random.below(3) {
        0 => client.abort(),
        1 => drop(client),
        _ => loop {
            match next(&mut client).await {
                Ok(frame) if frame.is_close() => {
                    let code = frame.close_code_and_reason().0;
                    break assert!([1008, 1011, 1013].contains(&code), "{code}");
                }
                Ok(_) => {}
                Err(end) => panic!("{end:?} without a close frame"),
            }
        },
    }
}

async fn break_the_rules(address: SocketAddr, random: &mut Random) {
    let (frame, code) = match random.below(6) {
        0 => (ClientFrame::text("x").unmasked(), 1002),
        1 => (ClientFrame::text(b"\xff".to_vec()), 1007),
        2 => (ClientFrame::binary("").declaring(1 << 40), 1009),
        3 => (ClientFrame::new(0xb, ""), 1002),
        4 => (ClientFrame::close(1005, ""), 1002),
        _ => (ClientFrame::ping([0; 126]), 1002),
    };
    let mut client = RawClient::open(address, "/echo").await;
    client.send(frame).await;
    match next(&mut client).await {
        Ok(frame) => assert_eq!(frame.close_code_and_reason().0, code),
        Err(end) => panic!("{end:?} without a close frame"),
    }
    leave(client, random).await;
}

async fn flood(address: SocketAddr) {
    let mut client = RawClient::open(address, "/echo").await;
    let _ = client.try_write(ClientFrame::ping("flood").encode().repeat(500)).await;
    loop {
        match next(&mut client).await {
            Ok(frame) if frame.is_close() => {
                break assert_eq!(frame.close_code_and_reason().0, 1008);
            }
            Ok(frame) => assert_eq!(frame, ServerFrame::pong("flood")),
            Err(_) => break,
        }
    }
}

async fn be_refused(address: SocketAddr, random: &mut Random) {
    let (path, status) = [("/nothing", 404), ("/ws/%00", 400), ("/client/hubs/1", 400)]
        [usize::try_from(random.below(3)).unwrap()];
    let answer = RawClient::connect(address).await.request(upgrade(path)).await;
    assert_eq!(answer.status, status);
}

/// Answers nothing, and is found out.
async fn hang(address: SocketAddr, random: &mut Random) {
    let client = RawClient::open(address, "/ws/hung").await;
    pause(random.below(6000)).await;
    drop(client);
}

// ---- The whole.

fn load(address: SocketAddr, tally: &Arc<Tally>, seed: u64) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    for index in 0..CLIENTS {
        let (tally, mut random) = (Arc::clone(tally), Random(seed * CLIENTS + index + 1));
        (0..20).for_each(|_| _ = random.below(2));
        clients.spawn(async move {
            while !tally.over.load(Relaxed) {
                let mut draw = random.below(100);
                let kind = KINDS.iter().position(|(_, share)| {
                    let found = draw < *share;
                    draw = draw.saturating_sub(*share);
                    found
                });
                let kind = kind.unwrap_or(0);
                one_client(address, kind, &mut random).await;
                tally.clients[kind].fetch_add(1, Relaxed);
            }
        });
    }
    clients
}

/// Lets the load run for so long, and prints a line a minute.
async fn soak(subject: &Subject, tally: &Arc<Tally>, time: Duration, seed: u64) {
    tally.over.store(false, Relaxed);
    let start = Instant::now();
    let mut clients = load(subject.address, tally, seed);
    let mut minutes = tokio::time::interval(Duration::from_mins(1));
    minutes.tick().await;
    loop {
        tokio::select! {
            () = tokio::time::sleep(time.saturating_sub(start.elapsed())) => break,
            _ = minutes.tick() => report(subject, tally, start),
            ended = clients.join_next() => {
                ended.unwrap().unwrap_or_else(|error| panic!("a client was served wrongly: {error}"));
            }
        }
    }
    tally.over.store(true, Relaxed);
    while let Some(ended) = clients.join_next().await {
        ended.unwrap_or_else(|error| panic!("a client was served wrongly: {error}"));
    }
    report(subject, tally, start);
}

fn report(subject: &Subject, tally: &Tally, start: Instant) {
    let Sample { counts, tasks, files, memory } = subject.sample();
    let clients: u64 = tally.clients.iter().map(|count| count.load(Relaxed)).sum();
    let metrics = subject.hub.metrics();
    println!(
        "{:>6.0?}: {clients} clients, {} evicted; now {} connections, {} users, {} groups, {} bytes queued, {tasks} tasks, \
         {files} files, {} KiB",
        start.elapsed(),
        metrics.evicted.get(),
        counts.connections,
        counts.users,
        counts.groups,
        counts.queued_bytes,
        memory / 1024
    );
}

#[test]
fn a_mixed_load_leaves_nothing_behind() {
    let subject = Subject::start();
    let clients = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let tally = Arc::new(Tally::default());
    let (start, end) = clients.block_on(async {
        let warm_up = WARM_UP.max(duration() / WARM_UP_PART);
        soak(&subject, &tally, warm_up, 1).await;
        let start = subject.rest().await;
        soak(&subject, &tally, duration(), 2).await;
        (start, subject.rest().await)
    });
    for ((kind, _), count) in KINDS.iter().zip(&tally.clients) {
        println!("{:>8} that {kind}", count.load(Relaxed));
    }
    let bound = start.memory + start.memory / MEMORY_PART + MEMORY_SLACK;
    println!("hub:    {:?}, bound {:?}", end.counts, Counts::default());
    println!("tasks:  {}, at the start {}, bound {}", end.tasks, start.tasks, start.tasks);
    println!("files:  {}, at the start {}, bound {}", end.files, start.files, start.files);
    println!("memory: {}, at the start {}, bound {bound}", end.memory, start.memory);
    assert_eq!(end.counts, Counts::default());
    assert_eq!((end.tasks, end.files), (start.tasks, start.files));
    assert!(end.memory <= bound, "memory");
    let metrics = subject.hub.metrics();
    assert_eq!(metrics.opened.get(), metrics.closed.get(), "opened and closed connections");
    assert!(metrics.evicted.get() > 0, "nobody was too slow: the load is not what it should be");
    drop(subject.stop);
    assert_eq!(clients.block_on(subject.ended).unwrap(), Drained { left: 0 });
}
