//! The JSON protocol: what is not carried out, and what its sender is told.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod support;

use hubnerite::Config;
use serde_json::json;
use support::{TestServer, ack, expect_failure};

#[tokio::test]
async fn an_event_without_an_event_handler_is_not_found() {
    let server = TestServer::start(Config::default()).await;
    let mut alice = server.user("alice").await;
    let mut event = json!({"type": "event", "event": "order", "dataType": "text", "data": "tea"});
    expect_failure(&alice.ask(&event).await, None, "NotFound", "without an ackId");
    event["ackId"] = 1.into();
    expect_failure(&alice.ask(&event).await, Some(1), "NotFound", "with an ackId");
    let to_nobody = json!({"type": "sendToUser", "user": "nobody", "data": 1, "ackId": 2});
    expect_failure(&alice.ask(&to_nobody).await, Some(2), "NotFound", "a user who is not there");
    alice.expect_nothing().await;
    drop(alice);
    server.stop().await;
}

#[tokio::test]
async fn an_ack_id_is_any_unsigned_64_bit_number_and_is_carried_out_once() {
    let server = TestServer::start(Config::default()).await;
    let (mut alice, mut bob) = server.alice_and_bob().await;
    // In any order, with gaps: each is new once.
    for id in [0, 7, 5, 6, u64::MAX, u64::MAX - 1, 2] {
        let frame = json!({"type": "sendToGroup", "group": "lobby", "data": 1, "ackId": id,
            "noEcho": true});
        assert_eq!(alice.ask(&frame).await, ack(id));
        assert_eq!(bob.next().await["data"], 1);
        expect_failure(&alice.ask(&frame).await, Some(id), "Duplicate", "the same frame again");
        let other = json!({"type": "joinGroup", "group": "other", "ackId": id});
        expect_failure(&alice.ask(&other).await, Some(id), "Duplicate", "another frame");
    }
    bob.expect_nothing().await;
    assert_eq!(server.hub.counts().groups, 1, "the second frame was carried out");
    // Another connection of the same user counts for itself.
    let mut second = server.user("alice").await;
    second.join("lobby", 7).await;
    drop((alice, bob, second));
    server.stop().await;
}

#[tokio::test]
async fn a_frame_that_is_no_request_is_a_bad_request_and_changes_nothing() {
    let server = TestServer::start(Config::default()).await;
    let (mut alice, mut bob) = server.alice_and_bob().await;
    for frame in [
        "",
        "nonsense",
        "null",
        "[]",
        "7",
        "{}",
        r#"{"type":7}"#,
        r#"{"type":"nonsense"}"#,
        r#"{"type":"JoinGroup","group":"g"}"#,
        r#"{"type":"joinGroup"}"#,
        r#"{"type":"joinGroup","group":""}"#,
        r#"{"type":"joinGroup","group":" \t\u2003"}"#,
        r#"{"type":"joinGroup","group":7}"#,
        r#"{"type":"joinGroup","group":null}"#,
        r#"{"type":"leaveGroup"}"#,
        r#"{"type":"sendToGroup","data":1}"#,
        r#"{"type":"sendToGroup","group":"lobby"}"#,
        r#"{"type":"sendToGroup","group":"lobby","data":1,"noEcho":"yes"}"#,
        r#"{"type":"sendToGroup","group":"lobby","data":1} {}"#,
        r#"{"type":"sendToGroup","group":"lobby","data":{"x":}}"#,
        r#"{"type":"sendToGroup","group":"lobby","data":1"#,
        r#"{"type":"sendToUser","data":1}"#,
        r#"{"type":"sendToUser","user":"","data":1}"#,
        r#"{"type":"sendToUser","users":[],"data":1}"#,
        r#"{"type":"sendToUser","users":["bob",7],"data":1}"#,
        r#"{"type":"sendToUser","users":"bob","data":1}"#,
        r#"{"type":"sendToAll"}"#,
        r#"{"type":"sendToAll","dataType":"xml","data":1}"#,
        r#"{"type":"sendToAll","dataType":"text","data":1}"#,
        r#"{"type":"sendToAll","dataType":"text","data":null}"#,
        r#"{"type":"sendToAll","dataType":"binary","data":"%"}"#,
        r#"{"type":"sendToAll","dataType":"binary","data":[0]}"#,
        r#"{"type":"sendToAll","dataType":"protobuf","data":"AA="}"#,
        r#"{"type":"event","data":1}"#,
        r#"{"type":"event","event":"","data":1}"#,
        r#"{"type":"sequenceAck"}"#,
        r#"{"type":"sequenceAck","sequenceId":-1}"#,
        r#"{"type":"sendToAll","data":1,"ackId":-1}"#,
        r#"{"type":"sendToAll","data":1,"ackId":1.5}"#,
        r#"{"type":"sendToAll","data":1,"ackId":"1"}"#,
        r#"{"type":"sendToAll","data":1,"ackId":18446744073709551616}"#,
    ] {
        alice.send_text(frame).await;
        expect_failure(&alice.next().await, None, "BadRequest", frame);
    }
    for (id, frame) in [
        (11, r#"{"ackId":11}"#),
        (12, r#"{"type":"nonsense","ackId":12}"#),
        (13, r#"{"type":"joinGroup","group":7,"ackId":13}"#),
        (14, r#"{"ackId":14,"type":"sendToAll","dataType":"xml","data":1}"#),
        (15, r#"{"type":"sendToUser","users":[7],"data":1,"ackId":15}"#),
    ] {
        alice.send_text(frame).await;
        expect_failure(&alice.next().await, Some(id), "BadRequest", frame);
    }
    alice.expect_nothing().await;
    bob.expect_nothing().await;
    assert_eq!(server.hub.counts().groups, 1);
    drop((alice, bob));
    server.stop().await;
}

#[tokio::test]
async fn a_group_name_is_1_to_1024_characters() {
    let server = TestServer::start(Config::default()).await;
    let mut alice = server.user("alice").await;
    for (id, name) in [(1, "g".to_owned()), (2, "ä".repeat(1024)), (3, "\u{1F600} \"\\\n".into())]
    {
        alice.join(&name, id).await;
        alice.send(&json!({"type": "sendToGroup", "group": name, "data": id})).await;
        let message = alice.next().await;
        assert_eq!((&message["group"], &message["data"]), (&json!(name), &json!(id)));
    }
    let too_long = json!({"type": "joinGroup", "group": "g".repeat(1025), "ackId": 4});
    expect_failure(&alice.ask(&too_long).await, Some(4), "BadRequest", "1025 characters");
    assert_eq!(server.hub.counts().groups, 3);
    drop(alice);
    server.stop().await;
}

#[tokio::test]
async fn a_group_above_the_limit_is_too_many_requests() {
    let config = Config { max_groups: 2, ..Config::default() };
    let server = TestServer::start(config).await;
    let mut alice = server.user("alice").await;
    alice.join("a", 1).await;
    alice.join("b", 2).await;
    let third = |id: u64| json!({"type": "joinGroup", "group": "c", "ackId": id});
    expect_failure(&alice.ask(&third(3)).await, Some(3), "TooManyRequests", "a third group");
    alice.join("a", 4).await;
    alice.send(&json!({"type": "leaveGroup", "group": "b"})).await;
    // What was not carried out may be tried again under its ackId.
    assert_eq!(alice.ask(&third(3)).await, ack(3));
    expect_failure(&alice.ask(&third(3)).await, Some(3), "Duplicate", "once more");
    assert_eq!(server.hub.counts().groups, 2);
    drop(alice);
    server.stop().await;
}
