//! SIGTERM while thousands of clients talk to each other: what was acknowledged has arrived.
//!
//! The daemon is a process of its own, as it is where it matters.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]
#![allow(clippy::print_stdout, reason = "what was counted is a part of what it is for")]

mod support;

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use support::{ClientFrame, Daemon, End, RawClient, ServerFrame, eventually, within_time};
use tokio::sync::Semaphore;

const CLIENTS: usize = 5000;

/// Each client is in one group with so many, one in ten of whom speaks.
const MEMBERS: usize = 20;
const SPEAKERS: usize = MEMBERS / 10;

/// Frames that a speaker writes in one piece, before it waits for their acks.
const BATCH: u64 = 4;

/// Messages that are acknowledged before the daemon is told to stop.
const BEFORE: u64 = 4000;

/// Opening handshakes at once: fewer than the kernel queues before they are accepted.
const AT_ONCE: usize = 200;

/// Of all to arrive, and of all to go.
const LIMIT: Duration = Duration::from_secs(30);

/// What all clients share.
struct Scene {
    address: SocketAddr,
    at_once: Semaphore,
    acknowledged: AtomicU64,
}

/// What one client has seen when its connection is over.
struct Report {
    sent: u64,
    /// The messages of this client that were acknowledged, which are its first.
    acknowledged: u64,
    /// How many messages of each speaker it has heard: the first so many, in order.
    heard: HashMap<usize, u64>,
    reconnect_after: u64,
}

/// Each 500 connections come from an address of their own, which has ports of its own.
fn source(number: usize) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, u8::try_from(2 + number / 500).unwrap()).into()
}

fn group(number: usize) -> usize {
    number / MEMBERS
}

fn is_speaker(number: usize) -> bool {
    number % MEMBERS < SPEAKERS
}

/// Connects as a user and joins its group.
async fn arrive(scene: &Scene, number: usize) -> RawClient {
    let _permit = scene.at_once.acquire().await.unwrap();
    let mut client = RawClient::connect_from(source(number), scene.address).await;
    client.handshake(&format!("/ws/{number}")).await;
    assert_eq!(client.read_frame().await.opcode, 1);
    let join = format!(r#"{{"type":"joinGroup","group":"{}","ackId":0}}"#, group(number));
    client.send(ClientFrame::text(join)).await;
    client.expect_text(r#"{"type":"ack","ackId":0,"success":true}"#).await;
    client
}

/// Talks and listens until the connection is closed.
async fn live(scene: Arc<Scene>, number: usize, mut client: RawClient) -> Report {
    let mut report = Report { sent: 0, acknowledged: 0, heard: HashMap::new(), reconnect_after: 0 };
    loop {
        if is_speaker(number) && report.acknowledged == report.sent {
            speak(&mut client, number, &mut report).await;
        }
        let frame = client.read_frame().await;
        if frame.is_close() {
            report.reconnect_after = hint(&frame);
            let _ = client.try_write(ClientFrame::close(1012, "").encode()).await;
            // What the speaker has sent behind the close may end in a reset.
            assert!(matches!(client.expect_end().await, End::Closed | End::Reset));
            return report;
        }
        take(&frame, &scene, &mut report);
    }
}

/// Sends the next messages. A connection that is closing need not take them.
async fn speak(client: &mut RawClient, number: usize, report: &mut Report) {
    let next = report.sent + 1..=report.sent + BATCH;
    let frames = next.map(|id| {
        let data = format!(r#""group":"{}","data":[{number},{id}],"ackId":{id}"#, group(number));
        ClientFrame::text(format!(r#"{{"type":"sendToGroup",{data}}}"#)).encode()
    });
    let bytes: Vec<u8> = frames.flatten().collect();
    let _ = client.try_write(bytes).await;
    report.sent += BATCH;
}

/// An ack, a message of the group, or that the connection is closed.
fn take(frame: &ServerFrame, scene: &Scene, report: &mut Report) {
    let text = std::str::from_utf8(&frame.payload).unwrap();
    if let Some(rest) = text.strip_prefix(r#"{"type":"ack","ackId":"#) {
        let (id, result) = rest.split_once(',').unwrap();
        if result == r#""success":true}"# {
            report.acknowledged += 1;
            assert_eq!(id.parse(), Ok(report.acknowledged));
            scene.acknowledged.fetch_add(1, Relaxed);
        }
    } else if text.starts_with(r#"{"type":"message","from":"group","#) {
        let data = text.rsplit_once(r#""data":["#).unwrap().1.strip_suffix("]}").unwrap();
        let (speaker, id) = data.split_once(',').unwrap();
        let heard = report.heard.entry(speaker.parse().unwrap()).or_default();
        *heard += 1;
        assert_eq!(id.parse(), Ok(*heard), "of {speaker}");
    } else {
        assert!(text.starts_with(r#"{"type":"system","event":"disconnected""#), "{text}");
    }
}

fn hint(close: &ServerFrame) -> u64 {
    let (code, reason) = close.close_code_and_reason();
    assert_eq!(code, 1012, "{reason}");
    reason.strip_prefix("reconnect-after-ms=").unwrap().parse().unwrap()
}

/// Every member has heard of each speaker what was acknowledged, and nothing that was not sent.
fn judge(reports: &[Report]) {
    for (number, report) in reports.iter().enumerate() {
        let first = group(number) * MEMBERS;
        for (speaker, spoken) in (first..).zip(&reports[first..first + SPEAKERS]) {
            let heard = report.heard.get(&speaker).copied().unwrap_or(0);
            let due = spoken.acknowledged..=spoken.sent;
            assert!(due.contains(&heard), "{number} has heard {heard} of {speaker}, not {due:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_to_five_thousand_before_a_sigterm_has_reached_everybody() {
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let mut daemon = Daemon::start(&["--ping-interval", "1h", "--drain-spread", "20s"]).await;
    let scene = Arc::new(Scene {
        address: daemon.address(),
        at_once: Semaphore::new(AT_ONCE),
        acknowledged: AtomicU64::default(),
    });
    let arrivals = (0..CLIENTS).map(|number| {
        let scene = Arc::clone(&scene);
        tokio::spawn(async move { arrive(&scene, number).await })
    });
    let clients = within_time(LIMIT, "the arrival of all", join_all(arrivals)).await;
    let clients = clients.into_iter().map(Result::unwrap).enumerate();
    let lives = clients.map(|(number, client)| live(Arc::clone(&scene), number, client));
    let lives: Vec<_> = lives.map(tokio::spawn).collect();
    eventually("enough is said", true, || scene.acknowledged.load(Relaxed) >= BEFORE).await;
    let start = Instant::now();
    daemon.signal("TERM").await;
    let reports = within_time(LIMIT, "the end of all", join_all(lives)).await;
    let reports: Vec<_> = reports.into_iter().map(Result::unwrap).collect();
    assert_eq!(daemon.end().await.code(), Some(0), "{:#?}", daemon.log());
    let took = start.elapsed();
    let sum = |of: fn(&Report) -> u64| reports.iter().map(of).sum::<u64>();
    let hints: HashSet<_> = reports.iter().map(|report| report.reconnect_after).collect();
    println!(
        "{CLIENTS} clients: {} messages sent, {} acknowledged, {} delivered, {} different hints; \
         drained in {took:.1?}",
        sum(|report| report.sent),
        sum(|report| report.acknowledged),
        sum(|report| report.heard.values().sum()),
        hints.len(),
    );
    judge(&reports);
    assert_eq!(hints.len(), CLIENTS);
    assert_eq!(hints.iter().max(), Some(&20_000));
    let early = hints.iter().filter(|hint| **hint <= 10_000).count();
    assert_eq!(early, CLIENTS / 2, "they are not spread evenly");
}
