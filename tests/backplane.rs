//! Several servers joined by an engine, with clients that nobody here wrote.

#![cfg(feature = "backplane")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod support;

use hubnerite::{Backplane, Config, Memory};
use serde_json::json;
use support::{TestServer, eventually};

async fn node(engine: &Memory) -> TestServer {
    let backplane = Backplane::over(engine);
    let server =
        TestServer::start_with(Config::default(), |s| s.daemon_routes().backplane(backplane)).await;
    eventually("connections to the engine", 1, || server.hub.metrics().backplane.connected.get())
        .await;
    server
}

#[tokio::test]
async fn a_message_to_a_group_reaches_its_members_on_all_nodes() {
    let engine = Memory::default();
    let (one, other) = (node(&engine).await, node(&engine).await);
    let (mut ann, mut ben) = (one.user("ann").await, other.user("ben").await);
    ben.join("lobby", 1).await;
    let message = json!({"type": "sendToGroup", "group": "lobby", "data": {"x": 1.0}});
    ann.send(&message).await;
    let expected = r#"{"type":"message","from":"group","group":"lobby","fromUserId":"ann","dataType":"json","data":{"x":1.0}}"#;
    assert_eq!(ben.next_text().await, expected);
    drop((ann, ben));
    one.stop().await;
    other.stop().await;
}
