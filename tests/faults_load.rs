//! Crowds, a machine that fails, and clients that die while they are spoken to (README.md, "Trouble,
//! and what it gets").

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

#[path = "support/scene.rs"]
mod scene;
mod support;

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    net::SocketAddr,
    os::unix::net::UnixStream,
    process::Stdio,
    time::{Duration, Instant},
};

use scene::Watched;
use serde_json::json;
use support::{
    ClientFrame, JsonClient, RawClient, ServerFrame, eventually, hubnerite, within, within_time,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
    task::JoinSet,
};

const MIB: u64 = 1 << 20;

/// One crowd at a time: it is the server that is measured here, and not what else this process does.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Connections of a crowd: fewer for a daemon that was built without optimisation.
const CROWD: usize = if cfg!(debug_assertions) { 2000 } else { 10_000 };

/// Two sockets a client, one on each side, and each side is a process of its own.
fn raise_file_limit() {
    let files = rlimit::increase_nofile_limit(u64::MAX).unwrap();
    assert!(files > CROWD as u64 + 500, "only {files} open files are allowed");
}

// ---- A burst of large messages to a crowd, and then silence.

/// Reads and forgets so many bytes.
async fn swallow(mut stream: TcpStream, mut count: usize) -> TcpStream {
    let mut bytes = [0; 4 << 10];
    while count > 0 {
        let most = count.min(bytes.len());
        let read = stream.read(&mut bytes[..most]).await.unwrap();
        assert_ne!(read, 0, "the end, {count} bytes too early");
        count -= read;
    }
    stream
}

/// Sends 64 KiB to everybody, so many times; all have read it when this returns.
async fn burst(publisher: &mut JsonClient, crowd: Vec<TcpStream>, times: usize) -> Vec<TcpStream> {
    let data = "x".repeat(64 << 10);
    let message = json!({"type": "sendToAll", "noEcho": true, "dataType": "text", "data": data});
    let envelope =
        r#"{"type":"message","from":"all","fromUserId":"publisher","dataType":"text","data":""}"#;
    // 64 KiB take the longest header: ten bytes.
    let wire = 10 + envelope.len() + data.len();
    let mut reading = JoinSet::new();
    for stream in crowd {
        reading.spawn(swallow(stream, wire * times));
    }
    for _ in 0..times {
        publisher.send(&message).await;
    }
    let all = within_time(Duration::from_mins(1), "a burst", reading.join_all()).await;
    publisher.expect_nothing().await;
    all
}

#[tokio::test]
async fn memory_is_back_10_s_after_a_burst_of_64_kib_to_a_crowd() {
    let _alone = ALONE.lock().await;
    raise_file_limit();
    let mut scene = Watched::start(&[]).await;
    let address = scene.address();
    let mut crowd = Vec::new();
    for index in 0..CROWD {
        let mut client = RawClient::open(address, &format!("/ws/u{index}")).await;
        assert_eq!(client.read_frame().await.opcode, 1);
        crowd.push(client.stream);
    }
    let mut publisher = JsonClient::user(address, "publisher").await;
    let start = scene.daemon.resident_bytes();
    crowd = burst(&mut publisher, crowd, 3).await;
    let bound = start + start / 10;
    let back = || scene.daemon.resident_bytes() <= bound;
    eventually("memory to be back within 10 %", true, back).await;
    scene.witness.expect_prompt_echo().await;
    drop((crowd, publisher));
    scene.end().await;
}

/// The same with a crowd that does not read: its backlogs are thrown away with it.
#[tokio::test]
async fn memory_is_back_after_a_crowd_of_slow_readers_was_evicted() {
    let _alone = ALONE.lock().await;
    raise_file_limit();
    let flags = ["--max-total-backlog", "64MiB", "--close-timeout", "1s"];
    let mut scene = Watched::start(&flags).await;
    let address = scene.address();
    let mut publisher = JsonClient::user(address, "publisher").await;
    let data = "x".repeat(60_000);
    let files = scene.daemon.open_files();
    let mut after = Vec::new();
    for _ in 0..3 {
        let mut crowd = Vec::new();
        for _ in 0..100 {
            let mut client = RawClient::connect_with_small_buffer(address, 4096).await;
            client.handshake("/ws/slow").await;
            assert_eq!(client.read_frame().await.opcode, 1);
            crowd.push(client);
        }
        let members = json!({"type": "sendToUser", "user": "slow", "ackId": 1, "data": data});
        // More than each one's budget and the kernel's buffers.
        let mut evicted = false;
        for ack_id in 0..200 {
            let mut message = members.clone();
            message["ackId"] = json!(after.len() * 1000 + ack_id);
            evicted = publisher.ask(&message).await["success"] == false;
            if evicted {
                break;
            }
        }
        assert!(evicted, "somebody is not evicted");
        drop(crowd);
        eventually("open files", files, || scene.daemon.open_files()).await;
        scene.witness.expect_prompt_echo().await;
        after.push(scene.daemon.resident_bytes());
    }
    let (first, last) = (after[0], after[2]);
    assert!(last <= first + first / 10 + MIB, "memory after each crowd: {after:?}");
    drop(publisher);
    scene.end().await;
}

// ---- Everybody comes back at once.

#[tokio::test]
async fn five_thousand_clients_at_once_are_in_within_10_s() {
    const CLIENTS: usize = 5000;
    let _alone = ALONE.lock().await;
    raise_file_limit();
    let mut scene = Watched::start(&[]).await;
    let address = scene.address();
    let start = Instant::now();
    let mut coming = JoinSet::new();
    for index in 0..CLIENTS {
        coming.spawn(async move {
            let stream = TcpStream::connect(address).await.unwrap();
            let mut client = RawClient::over(stream);
            let head = support::upgrade(&format!("/ws/u{index}"));
            client.stream.write_all(head.as_bytes()).await.unwrap();
            let status = client.read_answer().await.status;
            (client, status)
        });
    }
    let (mut clients, mut others) = (Vec::new(), BTreeMap::new());
    while let Some(finished) = coming.join_next().await {
        match finished.unwrap() {
            (client, 101) => clients.push(client),
            (_, status) => *others.entry(status).or_insert(0) += 1,
        }
    }
    assert_eq!(others, BTreeMap::new(), "answers but 101, and how many of them");
    let elapsed = start.elapsed();
    assert!(elapsed < Duration::from_secs(10), "all in after {elapsed:?}");
    scene.witness.expect_prompt_echo().await;
    drop(clients);
    scene.end().await;
}

// ---- A disk that is full, and a log that nobody reads.

/// A running daemon whose standard error leads to nowhere.
struct Mute {
    child: Child,
    address: SocketAddr,
}

impl Mute {
    /// Starts a daemon and closes the reading end of its log once it has said where it listens.
    async fn start(flags: &[&str]) -> Self {
        let mut command = hubnerite(flags);
        command.args(["--listen", "127.0.0.1:0"]).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = within("its address", async {
            loop {
                let line = lines.next_line().await.unwrap().expect("a line with the address");
                if line.contains("listening on ") {
                    return line;
                }
            }
        })
        .await;
        let address = line.split("127.0.0.1:").nth(1).unwrap();
        let port = address.split(|c: char| !c.is_ascii_digit()).next().unwrap();
        Self { child, address: format!("127.0.0.1:{port}").parse().unwrap() }
    }

    async fn stop(mut self) -> Option<i32> {
        let pid = self.child.id().unwrap().to_string();
        let status = Command::new("sh").args(["-c", &format!("kill -TERM {pid}")]).status();
        assert!(status.await.unwrap().success());
        within("the daemon's end", self.child.wait()).await.unwrap().code()
    }
}

#[tokio::test]
async fn a_daemon_whose_log_pipe_is_closed_goes_on_and_ends_as_it_should() {
    let _alone = ALONE.lock().await;
    for level in ["info", "debug"] {
        let mute = Mute::start(&["--log-level", level, "--max-backlog", "64KiB"]).await;
        let mut witness = RawClient::open(mute.address, "/echo").await;
        for round in 0..20 {
            // Each comes, is refused or goes: at debug level each of them is a line.
            let mut client = RawClient::open(mute.address, "/ws/alice").await;
            assert_eq!(client.read_frame().await.opcode, 1);
            client.send(ClientFrame::close(1000, "bye")).await;
            assert_eq!(client.expect_close().await.0, 1000);
            let mut refused = RawClient::connect(mute.address).await;
            assert_eq!(refused.request(support::upgrade("/nothing")).await.status, 404);
            RawClient::open(mute.address, "/echo").await.abort();
            witness.send(ClientFrame::text(round.to_string())).await;
            witness.expect_text(&round.to_string()).await;
        }
        // A warning: a reader who is evicted.
        let slow = RawClient::connect_with_small_buffer(mute.address, 4096).await;
        evict(slow, mute.address).await;
        witness.send(ClientFrame::text("still here")).await;
        witness.expect_text("still here").await;
        let stopping = tokio::spawn(mute.stop());
        assert_eq!(witness.expect_close().await.0, 1012);
        witness.finish_close().await;
        assert_eq!(stopping.await.unwrap(), Some(0), "at log level {level}");
    }
}

/// Makes a user of this client, and sends it more than its budget.
async fn evict(mut slow: RawClient, address: SocketAddr) {
    slow.handshake("/ws/slow").await;
    assert_eq!(slow.read_frame().await.opcode, 1);
    let mut publisher = JsonClient::user(address, "publisher").await;
    let data = "x".repeat(60_000);
    for ack_id in 0..500 {
        let message = json!({"type": "sendToUser", "user": "slow", "ackId": ack_id, "data": data});
        if publisher.ask(&message).await["success"] == false {
            return;
        }
    }
    panic!("the slow reader is not evicted");
}

#[tokio::test]
async fn a_daemon_whose_disk_is_full_starts_serves_and_ends_as_it_should() {
    let _alone = ALONE.lock().await;
    let path = std::env::temp_dir().join(format!("hubnerite-full-{}.sock", std::process::id()));
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let listen = format!("unix:{}", path.display());
    let mut command = hubnerite(&["--log-level", "debug", "--listen", &listen]);
    let mut child = command.stderr(full.try_clone().unwrap()).stdout(full).spawn().unwrap();
    // It is there before anybody listens on it.
    eventually("a socket that is listened on", true, || UnixStream::connect(&path).is_ok()).await;
    let mut client = RawClient::connect_unix(&path).await;
    client.handshake("/echo").await;
    client.send(ClientFrame::text("hi")).await;
    client.expect_text("hi").await;
    let kill = format!("kill -TERM {}", child.id().unwrap());
    assert!(Command::new("sh").args(["-c", &kill]).status().await.unwrap().success());
    assert_eq!(client.expect_close().await.0, 1012);
    client.finish_close().await;
    drop(client);
    assert_eq!(within("its end", child.wait()).await.unwrap().code(), Some(0));
}

/// A terminal that is gone is closed altogether.
#[tokio::test]
async fn a_daemon_without_standard_files_serves() {
    let _alone = ALONE.lock().await;
    let path = std::env::temp_dir().join(format!("hubnerite-closed-{}.sock", std::process::id()));
    let listen = format!("unix:{}", path.display());
    let daemon = hubnerite(&[]);
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" \"$@\" <&- >&- 2>&-"]).arg(daemon.as_std().get_program());
    command.args(["--log-level", "debug", "--listen", &listen]).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    // It is there before anybody listens on it.
    eventually("a socket that is listened on", true, || UnixStream::connect(&path).is_ok()).await;
    let mut client = RawClient::connect_unix(&path).await;
    client.handshake("/echo").await;
    client.send(ClientFrame::text("hi")).await;
    client.expect_text("hi").await;
    drop(client);
    let kill = format!("kill -TERM {}", child.id().unwrap());
    assert!(Command::new("sh").args(["-c", &kill]).status().await.unwrap().success());
    assert_eq!(within("its end", child.wait()).await.unwrap().code(), Some(0));
}

// ---- Clients that die while they are spoken to.

/// A client that is a process of its own: a shell, which knows how to open a socket.
fn shell_client(address: SocketAddr, user: &str) -> Child {
    let head = support::upgrade(&format!("/ws/{user}")).replace("\r\n", "\\r\\n");
    let script = format!(
        "exec 3<>/dev/tcp/{}/{} && printf '{head}' >&3 && exec cat <&3 >/dev/null",
        address.ip(),
        address.port()
    );
    Command::new("bash").args(["-c", &script]).kill_on_drop(true).spawn().unwrap()
}

#[tokio::test]
async fn clients_that_are_killed_during_a_broadcast_harm_nobody() {
    const DOOMED: usize = 20;
    let _alone = ALONE.lock().await;
    let mut scene = Watched::start(&[]).await;
    let address = scene.address();
    let mut survivor = RawClient::open(address, "/ws/survivor").await;
    assert_eq!(survivor.read_frame().await.opcode, 1);
    let files = scene.daemon.open_files();
    for _ in 0..3 {
        let mut doomed: Vec<_> =
            (0..DOOMED).map(|index| shell_client(address, &format!("doomed{index}"))).collect();
        eventually("the doomed", files + DOOMED, || scene.daemon.open_files()).await;
        let mut publisher = JsonClient::user(address, "publisher").await;
        let data = "x".repeat(20_000);
        let message =
            json!({"type": "sendToAll", "noEcho": true, "dataType": "text", "data": data});
        let broadcast = async {
            for index in 0..100 {
                publisher.send(&message).await;
                let frame = survivor.read_frame().await;
                assert!(frame.payload.len() > data.len(), "{frame:?}");
                if index >= 50
                    && let Some(mut child) = doomed.pop()
                {
                    child.kill().await.unwrap();
                }
            }
        };
        scene.witness.watch(broadcast).await;
        drop(publisher);
        eventually("sockets", files, || scene.daemon.open_files()).await;
    }
    drop(survivor);
    scene.end().await;
}

#[tokio::test]
async fn clients_that_are_reset_during_a_broadcast_harm_nobody() {
    let _alone = ALONE.lock().await;
    let mut scene = Watched::start(&[]).await;
    let address = scene.address();
    let mut publisher = RawClient::open(address, "/ws/publisher").await;
    assert_eq!(publisher.read_frame().await.opcode, 1);
    let data = "x".repeat(20_000);
    let message = json!({"type": "sendToAll", "dataType": "text", "data": data}).to_string();
    let broadcast = async {
        for round in 0..100 {
            let mut client = RawClient::open(address, "/ws/doomed").await;
            assert_eq!(client.read_frame().await.opcode, 1);
            publisher.send_all([message.as_str(), message.as_str()].map(ClientFrame::text)).await;
            // Before, while and after it is written to.
            if round % 3 > 0 {
                client.read_frame().await;
            }
            if round % 3 > 1 {
                client.read_frame().await;
            }
            client.abort();
            for _ in 0..2 {
                assert!(publisher.read_frame().await.payload.len() > data.len());
            }
        }
    };
    within_time(Duration::from_mins(1), "100 rounds", scene.witness.watch(broadcast)).await;
    publisher.send(ClientFrame::text(r#"{"type":"ping"}"#)).await;
    assert_eq!(publisher.read_frame().await, ServerFrame::text(r#"{"type":"pong"}"#));
    drop(publisher);
    scene.end().await;
}
