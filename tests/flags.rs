//! The daemon's flags and their environment variables.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod support;

use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

use support::{ClientFrame, Daemon, Failed, RawClient, hubnerite, upgrade};

/// An address that cannot be listened on: whatever the daemon is told beside it, it ends.
const NOWHERE: &str = "unix:/no/such/folder/socket";

/// The flags in the usage text, each with what is said of it, on one line.
fn flags_in(help: &str) -> Vec<(String, String)> {
    let mut flags: Vec<(String, String)> = Vec::new();
    for line in help.lines().map(str::trim) {
        let begins = line.starts_with('-').then(|| line.split(' ').find(|w| w.starts_with("--")));
        match (begins.flatten(), flags.last_mut()) {
            (Some(flag), _) => flags.push((flag.to_owned(), line.to_owned())),
            (None, Some((_, said))) => *said = format!("{said} {line}"),
            (None, None) => {}
        }
    }
    flags.retain(|(flag, _)| flag != "--help" && flag != "--version");
    flags
}

#[tokio::test]
async fn version_is_the_crates_and_goes_to_standard_output() {
    let ended = Failed::of(&["--version"]).await;
    assert_eq!(ended.code, Some(0));
    assert_eq!(ended.stdout, format!("hubnerite {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(ended.stderr, "");
}

#[tokio::test]
async fn help_lists_the_flags_that_scripts_rely_on() {
    let ended = Failed::of(&["--help"]).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    let flags = flags_in(&ended.stdout);
    for name in [
        "listen",
        "log-level",
        "same-user",
        "open-timeout",
        "ping-interval",
        "ping-timeout",
        "close-timeout",
        "send-timeout",
        "message-timeout",
        "shutdown-grace",
        "max-message-size",
        "max-fragments",
        "control-frames-per-second",
        "control-frames-burst",
        "max-backlog",
        "max-total-backlog",
        "max-connections",
        "max-groups",
        "max-head-size",
        "max-headers",
    ] {
        assert!(flags.iter().any(|(flag, _)| *flag == format!("--{name}")), "--{name}");
    }
}

/// No flag takes a value that is not UTF-8, or takes a file alone: that is how a variable shows
/// that it is one.
#[tokio::test]
async fn every_flag_has_an_environment_variable_of_its_name() {
    let help = Failed::of(&["--help"]).await.stdout;
    let unset = Failed::of(&["--listen", NOWHERE]).await;
    assert_eq!(unset.code, Some(1), "{unset:?}");
    for (flag, _) in flags_in(&help) {
        let name = flag.trim_start_matches('-').replace('-', "_").to_uppercase();
        let listen: &[&str] = if flag == "--listen" { &[] } else { &["--listen", NOWHERE] };
        let mut command = hubnerite(listen);
        command.env(format!("HUBNERITE_{name}"), OsStr::from_bytes(b"\xff"));
        let set = Failed::run(command).await;
        assert_eq!(set.code, Some(2), "HUBNERITE_{name}: {set:?}");
    }
}

#[tokio::test]
async fn the_defaults_are_those_that_scripts_rely_on() {
    let flags = flags_in(&Failed::of(&["--help"]).await.stdout);
    for (flag, default) in [
        ("--listen", "127.0.0.1:8000"),
        ("--log-level", "info"),
        ("--same-user", "allow"),
        ("--open-timeout", "10s"),
        ("--ping-interval", "20s"),
        ("--ping-timeout", "20s"),
        ("--close-timeout", "5s"),
        ("--send-timeout", "10s"),
        ("--shutdown-grace", "30s"),
        ("--max-message-size", "1MiB"),
        ("--max-fragments", "1024"),
        ("--message-timeout", "30s"),
        ("--control-frames-per-second", "20"),
        ("--control-frames-burst", "100"),
        ("--max-backlog", "1MiB"),
        ("--max-groups", "128"),
        ("--max-head-size", "8KiB"),
        ("--max-headers", "64"),
    ] {
        let (_, said) = flags.iter().find(|(name, _)| name == flag).unwrap();
        assert!(said.contains(&format!("[default: {default}]")), "{said}");
    }
}

#[tokio::test]
async fn a_bad_flag_or_value_is_2_and_says_which() {
    for (flags, named) in [
        (&["--no-such-flag"][..], "--no-such-flag"),
        (&["argument"], "argument"),
        (&["--listen"], "--listen"),
        (&["--listen", "nonsense"], "--listen"),
        (&["--listen", "127.0.0.1:65536"], "--listen"),
        (&["--listen", "unix:"], "--listen"),
        (&["--log-level", "loud"], "--log-level"),
        (&["--same-user", "maybe"], "--same-user"),
        (&["--open-timeout", "10 apples"], "--open-timeout"),
        (&["--ping-interval=-1s"], "--ping-interval"),
        (&["--max-message-size", "1.5MiB"], "--max-message-size"),
        (&["--max-backlog", "99999999999999999999"], "--max-backlog"),
        (&["--max-connections", "0"], "--max-connections"),
        (&["--threads", "0"], "--threads"),
        (&["--max-groups", "many"], "--max-groups"),
    ] {
        let ended = Failed::of(flags).await;
        assert_eq!(ended.code, Some(2), "{flags:?}: {ended:?}");
        assert_eq!(ended.stdout, "", "{flags:?}");
        let first = ended.stderr.lines().next().unwrap();
        assert!(first.starts_with("error: ") && first.contains(named), "{flags:?}: {first}");
    }
}

#[tokio::test]
async fn a_bad_value_in_the_environment_is_2_too() {
    let mut command = hubnerite(&[]);
    command.env("HUBNERITE_PING_INTERVAL", "often");
    let ended = Failed::run(command).await;
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("--ping-interval"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_list_of_addresses_is_separated_by_commas() {
    let mut command = hubnerite(&[]);
    command.env("HUBNERITE_LISTEN", "127.0.0.1:0,127.0.0.2:0");
    let daemon = Daemon::spawn(command, 2).await;
    assert!(daemon.listening[0].starts_with("127.0.0.1:"), "{:?}", daemon.listening);
    assert!(daemon.listening[1].starts_with("127.0.0.2:"), "{:?}", daemon.listening);
    daemon.stop().await;
}

#[tokio::test]
async fn flags_and_environment_reach_the_server_and_a_flag_wins() {
    let mut command = hubnerite(&["--listen", "127.0.0.1:0", "--max-message-size", "10"]);
    command.env("HUBNERITE_MAX_MESSAGE_SIZE", "1MiB").env("HUBNERITE_SAME_USER", "reject");
    command.env("HUBNERITE_MAX_HEADERS", "6").env("HUBNERITE_MAX_FRAGMENTS", "2");
    let daemon = Daemon::spawn(command, 1).await;
    let mut client = RawClient::open(daemon.address(), "/echo").await;
    client.send(ClientFrame::text("0123456789")).await;
    client.expect_text("0123456789").await;
    client.send(ClientFrame::text("0123456789a")).await;
    assert_eq!(client.expect_close().await.0, 1009);
    drop(client);
    let mut client = RawClient::open(daemon.address(), "/echo").await;
    client
        .send_all([
            ClientFrame::text("").unfinished(),
            ClientFrame::continuation("").unfinished(),
            ClientFrame::continuation(""),
        ])
        .await;
    assert_eq!(client.expect_close().await.0, 1008);
    let mut alice = RawClient::open(daemon.address(), "/ws/alice").await;
    alice.read_frame().await;
    for (path, status) in [("/ws/alice", 409), ("/ws/bob", 101)] {
        let answer = RawClient::connect(daemon.address()).await.request(upgrade(path)).await;
        assert_eq!(answer.status, status, "{path}");
    }
    let many =
        "GET /healthz HTTP/1.1\r\nHost: h\r\na: b\r\nc: d\r\ne: f\r\ng: h\r\ni: j\r\nk: l\r\n\r\n";
    let answer = RawClient::connect(daemon.address()).await.request(many).await;
    assert_eq!(answer.status, 431);
    drop((client, alice));
    daemon.stop().await;
}
