//! Ten thousand connections at once, a thousand of them in one group.
//!
//! The daemon is a process of its own here, so that its files and ours are counted apart. Where
//! the machine lets a process open fewer files, the crowd is smaller and the test says so.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]
#![allow(clippy::print_stderr, reason = "what was not reached is told")]

mod support;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use serde_json::json;
use support::{ClientFrame, Daemon, JsonClient, RawClient, ServerFrame, Witness, within_time};
use tokio::sync::Semaphore;

const CONNECTIONS: usize = 10_000;
const MEMBERS: usize = 1000;
const MESSAGES: usize = 100;

/// What a process needs beside its connections; the daemon keeps 256 for itself.
const OTHER_FILES: usize = 300;

/// Opening handshakes at once: fewer than the kernel queues before they are accepted.
const AT_ONCE: usize = 200;

/// The whole test.
const LIMIT: Duration = Duration::from_mins(1);

const PING: &str = r#"{"type":"ping"}"#;
const PONG: &str = r#"{"type":"pong"}"#;

/// As many connections as there are files for.
fn crowd() -> usize {
    let files = rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let files = usize::try_from(files).unwrap_or(usize::MAX);
    let crowd = CONNECTIONS.min(files.saturating_sub(OTHER_FILES));
    if crowd < CONNECTIONS {
        eprintln!("not reached: {CONNECTIONS} connections, for {files} files there are {crowd}");
    }
    assert!(crowd > MEMBERS, "{files} files are too few to show anything");
    crowd
}

/// Each 500 connections come from an address of their own, which has ports of its own.
fn source(number: usize) -> IpAddr {
    let last = u8::try_from(2 + number / 500).unwrap();
    Ipv4Addr::new(127, 0, 0, last).into()
}

/// Connects as a user, and joins the group if it is one of its members.
async fn arrive(address: SocketAddr, number: usize) -> RawClient {
    let mut client = RawClient::connect_from(source(number), address).await;
    client.handshake(&format!("/ws/user{number}")).await;
    let first = client.read_frame().await;
    let user = format!(r#""userId":"user{number}""#);
    assert!(String::from_utf8(first.payload).unwrap().contains(&user));
    if number < MEMBERS {
        client.send(ClientFrame::text(r#"{"type":"joinGroup","group":"crowd","ackId":1}"#)).await;
        client.expect_text(r#"{"type":"ack","ackId":1,"success":true}"#).await;
    }
    client
}

async fn arrive_all(address: SocketAddr, crowd: usize) -> Vec<RawClient> {
    let at_once = Arc::new(Semaphore::new(AT_ONCE));
    let arrivals = (0..crowd).map(|number| {
        let at_once = Arc::clone(&at_once);
        tokio::spawn(async move {
            let _permit = at_once.acquire_owned().await.unwrap();
            arrive(address, number).await
        })
    });
    join_all(arrivals).await.into_iter().map(Result::unwrap).collect()
}

/// Reads what a member must hear: every message once, in order, and nothing else.
async fn listen(mut member: RawClient) -> RawClient {
    for number in 0..MESSAGES {
        member.expect_text(&message(number)).await;
    }
    expect_nothing(member).await
}

fn message(number: usize) -> String {
    let head = r#"{"type":"message","from":"group","group":"crowd","fromUserId":"speaker""#;
    format!(r#"{head},"dataType":"json","data":{number}}}"#)
}

/// The connection is open, and nothing has come that was not read.
async fn expect_nothing(mut client: RawClient) -> RawClient {
    client.send(ClientFrame::text(PING)).await;
    assert_eq!(client.read_frame().await, ServerFrame::text(PONG));
    client
}

async fn speak(address: SocketAddr) {
    let mut speaker = JsonClient::user(address, "speaker").await;
    for number in 0..MESSAGES {
        let frame =
            json!({"type": "sendToGroup", "group": "crowd", "data": number, "ackId": number});
        let ack = json!({"type": "ack", "ackId": number, "success": true});
        assert_eq!(speaker.ask(&frame).await, ack);
    }
}

async fn gather(daemon: &Daemon, crowd: usize) {
    let address = daemon.address();
    let mut others = arrive_all(address, crowd).await;
    assert!(daemon.open_files() >= crowd, "the daemon holds {} files", daemon.open_files());
    let members: Vec<_> = others.drain(..MEMBERS).collect();
    let listening = join_all(members.into_iter().map(|member| tokio::spawn(listen(member))));
    let (listened, ()) = tokio::join!(listening, speak(address));
    let members = listened.into_iter().map(Result::unwrap);
    let all = members.chain(others).map(|client| tokio::spawn(expect_nothing(client)));
    let all: Vec<_> = join_all(all).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(all.len(), crowd);
    Witness::connect(address).await.expect_prompt_echo().await;
    all.into_iter().for_each(RawClient::abort);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_are_held_and_a_thousand_of_them_hear_a_hundred_messages_in_order() {
    let crowd = crowd();
    // Nobody is silent for so long that a ping would come in between.
    let daemon = Daemon::start(&["--ping-interval", "1h"]).await;
    within_time(LIMIT, "the crowd", Box::pin(gather(&daemon, crowd))).await;
    daemon.stop().await;
}
