//! The daemon as its operator meets it: listeners, signals, exit codes, logs.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod support;

use std::path::PathBuf;

use support::{ClientFrame, Daemon, End, Failed, HttpAnswer, RawClient, plain, upgrade_with};

/// A path for a socket that nobody else uses, in a folder that is removed again.
struct SocketPath(PathBuf);

impl SocketPath {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("hubnerite-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder.join("socket"))
    }

    fn listen(&self) -> String {
        format!("unix:{}", self.0.display())
    }
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.0.parent().unwrap());
    }
}

fn one_line(text: &str) -> &str {
    let line = text.strip_suffix('\n').unwrap_or_else(|| panic!("{text:?}"));
    assert!(!line.contains('\n') && !line.is_empty(), "{text:?}");
    line
}

async fn healthz(daemon: &Daemon) -> HttpAnswer {
    RawClient::connect(daemon.address()).await.request(plain("GET", "/healthz")).await
}

#[tokio::test]
async fn an_address_that_cannot_be_listened_on_is_1_with_one_line() {
    let first = Daemon::start(&[]).await;
    let taken = first.address().to_string();
    let missing = "unix:/no/such/folder/socket";
    for (address, why) in [
        (taken.as_str(), "in use"),
        ("192.0.2.1:0", "assign"),
        ("no-such-host.invalid:80", ""),
        (missing, "No such file"),
    ] {
        let ended = Failed::of(&["--listen", address, "--allow-open"]).await;
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert_eq!(ended.stdout, "");
        let line = one_line(&ended.stderr);
        assert!(line.contains(address) && line.contains(why), "{line}");
    }
    assert_eq!(healthz(&first).await.status, 200, "the first one goes on");
    first.stop().await;
}

#[tokio::test]
async fn sigint_and_sigterm_end_it_with_0_and_close_its_connections() {
    for name in ["INT", "TERM"] {
        let mut daemon = Daemon::start(&[]).await;
        let mut client = RawClient::open(daemon.address(), "/echo").await;
        daemon.signal(name).await;
        assert_eq!(client.expect_close().await.0, 1012);
        client.finish_close().await;
        drop(client);
        assert_eq!(daemon.end().await.code(), Some(0), "SIG{name}: {:#?}", daemon.log());
        daemon.log_line("stopped").await;
    }
}

#[tokio::test]
async fn who_does_not_go_within_the_grace_is_left_behind_with_3() {
    let flags = ["--shutdown-grace", "100ms", "--close-timeout", "1h"];
    let mut daemon = Daemon::start(&flags).await;
    let mut client = RawClient::open(daemon.address(), "/echo").await;
    daemon.signal("TERM").await;
    assert_eq!(client.expect_close().await.0, 1012);
    assert_eq!(daemon.end().await.code(), Some(3));
    daemon.log_line("1 connections left").await;
    drop(client);
}

#[tokio::test]
async fn a_second_signal_does_not_wait() {
    let mut daemon = Daemon::start(&["--shutdown-grace", "1h", "--close-timeout", "1h"]).await;
    let mut client = RawClient::open(daemon.address(), "/echo").await;
    daemon.signal("TERM").await;
    assert_eq!(client.expect_close().await.0, 1012);
    daemon.signal("INT").await;
    assert_eq!(daemon.end().await.code(), Some(3));
    drop(client);
}

#[tokio::test]
async fn it_listens_on_several_addresses_a_unix_socket_among_them() {
    let path = SocketPath::new("several");
    let unix = path.listen();
    let flags = ["--listen", "127.0.0.1:0", "--listen", &unix, "--listen", "127.0.0.2:0"];
    let daemon = Daemon::start(&flags).await;
    assert_eq!(daemon.listening.len(), 3, "{:?}", daemon.listening);
    assert_eq!(daemon.listening[1], unix);
    for address in [&daemon.listening[0], &daemon.listening[2]] {
        let mut client = RawClient::open(address.parse().unwrap(), "/ws").await;
        client.send(ClientFrame::text("tcp")).await;
        client.expect_text("Message received: tcp").await;
    }
    // They are one hub: what is said on one is heard on the others.
    let mut alice = RawClient::connect_unix(&path.0).await;
    alice.handshake("/ws/alice").await;
    alice.read_frame().await;
    let mut bob = RawClient::open(daemon.address(), "/ws/bob").await;
    bob.read_frame().await;
    bob.send(ClientFrame::text(r#"{"type":"sendToUser","user":"alice","data":1}"#)).await;
    let message = String::from_utf8(alice.read_frame().await.payload).unwrap();
    assert!(message.contains(r#""fromUserId":"bob""#), "{message}");
    alice.send(ClientFrame::close(1000, "")).await;
    assert_eq!(alice.expect_close().await.0, 1000);
    assert_eq!(alice.expect_end().await, End::Closed);
    drop((alice, bob));
    daemon.stop().await;
    assert!(!path.0.exists(), "the socket is removed");
}

/// What a restart without a gap takes: the next one listens before this one goes.
#[tokio::test]
async fn two_generations_share_an_address_and_the_first_leaves_it_to_the_second() {
    let mut first = Daemon::start(&["--reuse-port"]).await;
    let listen = format!("--listen={}", first.address());
    let second = Daemon::start(&["--reuse-port", &listen]).await;
    assert_eq!(first.address(), second.address());
    first.signal("TERM").await;
    assert_eq!(first.end().await.code(), Some(0));
    for _ in 0..20 {
        let mut client = RawClient::open(second.address(), "/ws").await;
        client.send(ClientFrame::text("new")).await;
        client.expect_text("Message received: new").await;
    }
    let alone = Failed::of(&[&listen]).await;
    assert_eq!(alone.code, Some(1), "an address is shared only if both say so: {alone:?}");
    second.stop().await;
}

/// A socket that a killed daemon has left is taken over; one that is in use is not.
#[tokio::test]
async fn a_unix_socket_that_nobody_listens_on_is_replaced() {
    let path = SocketPath::new("replaced");
    let unix = path.listen();
    let mut killed = Daemon::start(&["--listen", &unix]).await;
    killed.signal("KILL").await;
    killed.end().await;
    assert!(path.0.exists());
    let daemon = Daemon::start(&["--listen", &unix]).await;
    let ended = Failed::of(&["--listen", &unix]).await;
    assert_eq!(ended.code, Some(1));
    assert!(one_line(&ended.stderr).contains("in use"), "{ended:?}");
    let answer = RawClient::connect_unix(&path.0).await.handshake("/echo").await;
    assert_eq!(answer.status, 101);
    daemon.stop().await;
    // A file that is no socket is somebody's.
    std::fs::write(&path.0, "precious").unwrap();
    assert_eq!(Failed::of(&["--listen", &unix]).await.code, Some(1));
    assert_eq!(std::fs::read_to_string(&path.0).unwrap(), "precious");
}

#[tokio::test]
async fn the_open_file_limit_is_raised_to_the_hard_limit() {
    let (_, hard) = rlimit::Resource::NOFILE.get().unwrap();
    let binary = env!("CARGO_BIN_EXE_hubnerite");
    let script = format!("ulimit -Sn 64 && exec {binary} --listen 127.0.0.1:0");
    let mut command = tokio::process::Command::new("sh");
    command.args(["-c", &script]).kill_on_drop(true);
    let daemon = Daemon::spawn(command, 1).await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let soft: u64 = line.split_whitespace().nth(3).unwrap().parse().unwrap();
    assert_eq!(soft, hard, "{line}");
    daemon.stop().await;
}

#[tokio::test]
async fn the_log_level_decides_what_is_logged_and_colours_are_for_terminals() {
    let mut loud = Daemon::start(&["--log-level", "debug"]).await;
    let mut client = RawClient::open(loud.address(), "/echo").await;
    client.send(ClientFrame::close(4000, "\u{1b}[31mred\u{202e}")).await;
    client.expect_close().await;
    drop(client);
    let line = loud.log_line("closed by the peer, 4000").await;
    assert!(line.contains(r"\u{1b}[31mred"), "{line}");
    let log = loud.log().join("\n");
    assert!(!log.contains(['\u{1b}', '\u{202e}']), "{log}");
    assert_eq!(log.matches("closed by the peer").count(), 1, "one line for one end: {log}");
    loud.stop().await;

    // A failure is told all the same.
    let flags = ["--log-level", "off", "--listen", "unix:/no/such/folder/socket"];
    let ended = Failed::of(&flags).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
    one_line(&ended.stderr);
}

/// What a client sends of secrets is in no line, not even of the most talkative log.
#[tokio::test]
async fn no_credential_is_logged() {
    let mut daemon = Daemon::start(&["--log-level", "trace"]).await;
    for (path, fields) in [
        ("/echo?access_token=SECRET", &[][..]),
        ("/unknown?access_token=SECRET", &[]),
        ("/ws/%ff?access_token=SECRET", &[]),
        ("/echo", &[("Authorization", "Bearer SECRET"), ("Cookie", "token=SECRET")]),
        ("/client/hubs/chat", &[("Sec-WebSocket-Protocol", "bearer, SECRET")]),
        ("/echo", &[("Host", ""), ("Authorization", "Bearer SECRET")]),
    ] {
        let mut client = RawClient::connect(daemon.address()).await;
        let answer = client.request(upgrade_with(path, fields)).await;
        assert!(!answer.text().contains("SECRET"), "{path}");
        if answer.status == 101 {
            client.send(ClientFrame::text("payload SECRET")).await;
            client.send(ClientFrame::close(1000, "")).await;
            client.expect_close_behind_others().await;
        }
    }
    daemon.signal("TERM").await;
    daemon.end().await;
    daemon.log_line("stopped").await;
    let log = daemon.log();
    assert!(log.len() > 5, "{log:#?}");
    assert!(!log.iter().any(|line| line.contains("SECRET")), "{log:#?}");
}
