//! Deadlines: who does not read, does not close, or does not say what it wants is let go.
//!
//! They are short here; no test waits for a time to pass but by reading.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod support;

use std::time::{Duration, Instant};

use hubnerite::{Config, Counts};
use support::{
    ClientFrame, End, RawClient, ServerFrame, TestServer, eventually, patient, upgrade, within,
};

const SHORT: Duration = Duration::from_millis(200);

/// A reader that the kernel writes little to before it takes nothing more.
async fn slow_reader(server: &TestServer, path: &str) -> RawClient {
    let mut client = RawClient::connect_with_small_buffer(server.address, 4 << 10).await;
    client.handshake(path).await;
    client
}

/// What it has begun to receive is the last thing before the close frame.
#[tokio::test]
async fn who_takes_nothing_for_send_timeout_is_closed_with_1013() {
    let config = Config { send_timeout: SHORT, max_backlog: usize::MAX / 4, ..patient() };
    let server = TestServer::start(config).await;
    let mut client = slow_reader(&server, "/ws/slow").await;
    client.read_frame().await;
    let (large, start) = ("x".repeat(32 << 20), Instant::now());
    assert_eq!(server.hub.send_to_user("slow", large.as_str()).recipients, 1);
    assert_eq!(server.hub.send_to_user("slow", "never written").recipients, 1);
    let metrics = server.hub.metrics();
    eventually("what waits is dropped", 1, || metrics.dropped.get()).await;
    assert!(start.elapsed() >= SHORT, "after {:?}", start.elapsed());
    assert!(client.read_frame().await == ServerFrame::text(large));
    let slow = (1013, "reads too slowly".to_owned());
    assert_eq!(client.expect_disconnected_and_close().await, slow);
    client.finish_close().await;
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn who_never_takes_the_rest_is_gone_after_close_timeout() {
    let short = Config { send_timeout: SHORT, close_timeout: SHORT, ..patient() };
    let server = TestServer::start(short).await;
    let mut client = slow_reader(&server, "/ws/slow").await;
    client.read_frame().await;
    server.hub.send_to_user("slow", "x".repeat(32 << 20));
    let (hub, start) = (server.hub.clone(), Instant::now());
    eventually("it is gone", Counts::default(), || hub.counts()).await;
    assert!(start.elapsed() >= 2 * SHORT, "after {:?}", start.elapsed());
    drop(client);
    server.stop().await;
}

/// It takes longer than `send_timeout` for all of it, and for what makes the socket say that there
/// is room; never that long for a part.
#[tokio::test]
async fn who_takes_a_little_all_the_time_stays() {
    let config = Config { send_timeout: 5 * SHORT, max_backlog: usize::MAX / 4, ..patient() };
    let server = TestServer::start(config).await;
    let mut client = slow_reader(&server, "/ws/slow").await;
    client.read_frame().await;
    let start = Instant::now();
    let large = "x".repeat(64 << 10);
    let mut sent = 0;
    while server.hub.counts().queued_bytes < 4 << 20 {
        sent += server.hub.send_to_user("slow", large.as_str()).recipients;
        tokio::task::yield_now().await;
    }
    let mut pace = tokio::time::interval(SHORT * 3 / 2);
    for number in 0..sent {
        // Slowly at first, for longer than the deadline; then as fast as it comes.
        if start.elapsed() < 12 * SHORT {
            pace.tick().await;
        }
        let frame = client.read_frame().await;
        assert!(frame == ServerFrame::text(large.as_str()), "message {number}: {frame:?}");
    }
    assert!(start.elapsed() >= 12 * SHORT);
    drop(client);
    server.stop().await;
}

/// A peer that reads no replies is not read from: the server holds no more of them than it may,
/// and in the end closes.
#[tokio::test]
async fn who_reads_no_echoes_is_not_read_from_and_closed_with_1013() {
    let short = Config { send_timeout: 2 * SHORT, close_timeout: SHORT, ..patient() };
    let server = TestServer::start(short).await;
    let mut client = slow_reader(&server, "/echo").await;
    let frame = ClientFrame::binary(vec![7; 32 << 10]).encode();
    let mut written: usize = 0;
    let flood = async {
        while let Ok(()) = client.try_write(&frame).await {
            written += frame.len();
        }
    };
    within("the server to end it", flood).await;
    // Kernel buffers hold some MiB; a server that read on would take it all.
    assert!(written < 32 << 20, "{written} bytes were taken");
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn who_never_answers_our_close_is_reset_after_close_timeout() {
    let config = Config { close_timeout: SHORT, ..patient() };
    let server = TestServer::start(config).await;
    let mut client = server.open("/ws/alice").await;
    client.read_frame().await;
    let start = Instant::now();
    client.send(ClientFrame::binary([1])).await;
    assert_eq!(client.expect_disconnected_and_close().await.0, 1003);
    assert_eq!(client.expect_end().await, End::Reset);
    assert!(start.elapsed() >= SHORT, "after {:?}", start.elapsed());
    let hub = server.hub.clone();
    eventually("it is gone", Counts::default(), || hub.counts()).await;
    server.stop().await;
}

#[tokio::test]
async fn who_sends_on_after_our_close_is_reset_at_once() {
    let server = TestServer::start(patient()).await;
    let mut client = server.open("/ws/alice").await;
    client.read_frame().await;
    client.send(ClientFrame::binary([1])).await;
    assert_eq!(client.expect_disconnected_and_close().await.0, 1003);
    let frame = ClientFrame::text(vec![b'x'; 8 << 10]).encode();
    let flood = async { while client.try_write(&frame).await.is_ok() {} };
    within("a reset", flood).await;
    server.stop().await;
}

#[tokio::test]
async fn a_request_that_does_not_come_in_time_is_408() {
    let config = Config { open_timeout: SHORT, ..patient() };
    let server = TestServer::start(config).await;
    let head = upgrade("/echo");
    for beginning in ["", &head[..30], &head[..head.len() - 2]] {
        let start = Instant::now();
        let mut client = RawClient::connect(server.address).await;
        client.write(beginning).await;
        let answer = client.read_answer().await;
        assert_eq!((answer.status, answer.text()), (408, "the request took too long\n"));
        assert!(start.elapsed() >= SHORT, "after {:?}", start.elapsed());
    }
    // Byte by byte does not help: the deadline is one of the whole head.
    let mut client = RawClient::connect(server.address).await;
    let (mut pace, start) = (tokio::time::interval(SHORT / 40), Instant::now());
    for byte in format!("GET /echo HTTP/1.1\r\nX: {}", "x".repeat(4000)).bytes() {
        pace.tick().await;
        if start.elapsed() > 2 * SHORT || client.try_write([byte]).await.is_err() {
            break;
        }
    }
    assert_eq!(client.read_answer().await.status, 408);
    drop(client);
    server.stop().await;
}
