//! What one connection sent is its own, whatever its handler does meanwhile.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]
#![allow(missing_docs, reason = "the names are the statements")]

mod support;

use std::sync::Arc;

use hubnerite::{Config, Connection, Params, Server};
use tokio::sync::Semaphore;

use support::{ClientFrame, TestServer, within};

/// Says that it has a message, and answers it when it may.
async fn answer_when_told(mut connection: Connection, got: Arc<Semaphore>, may: Arc<Semaphore>) {
    while let Some(message) = connection.recv().await {
        got.add_permits(1);
        may.acquire().await.unwrap().forget();
        let _ = connection.send(message).await;
    }
}

/// The server and its clients share one thread here, and so all that a thread lends.
#[tokio::test]
async fn messages_that_a_busy_handler_has_not_come_to_stay_with_their_connection() {
    let (got, may) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let semaphores = (Arc::clone(&got), Arc::clone(&may));
    let slow = move |connection: Connection, _: Params| {
        answer_when_told(connection, Arc::clone(&semaphores.0), Arc::clone(&semaphores.1))
    };
    let routes = |server: Server| server.daemon_routes().route("/slow", slow);
    let server = TestServer::start_with(Config::default(), routes).await;
    let mut busy = server.open("/slow").await;
    let texts = ["one", "two", "three"];
    busy.send_all(texts.map(ClientFrame::text)).await;
    within("the first message", got.acquire()).await.unwrap().forget();

    let mut other = server.open("/echo").await;
    for text in ["mine", "mine too"] {
        other.send(ClientFrame::text(text)).await;
        other.expect_text(text).await;
    }
    may.add_permits(texts.len());
    for text in texts {
        busy.expect_text(text).await;
    }
    drop((busy, other));
    server.stop().await;
}

/// A reply that fills the socket makes the handler wait with the next messages undecoded.
#[tokio::test]
async fn messages_behind_a_large_one_stay_with_their_connection() {
    let server = TestServer::start(Config::default()).await;
    let mut large = server.open("/echo").await;
    let payload = "x".repeat(1 << 20);
    let frames = [payload.as_str(), "hello", "again"].map(ClientFrame::text);
    let bytes: Vec<u8> = frames.iter().flat_map(ClientFrame::encode).collect();
    let mut other = server.open("/echo").await;
    let write = async {
        large.write(bytes).await;
        large
    };
    let talk = async {
        for count in 0..50 {
            other.send(ClientFrame::text(format!("other {count}"))).await;
            other.expect_text(&format!("other {count}")).await;
        }
    };
    let (mut large, ()) = tokio::join!(write, talk);
    for text in [payload.as_str(), "hello", "again"] {
        large.expect_text(text).await;
    }
    drop((large, other));
    server.stop().await;
}
