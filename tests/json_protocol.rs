//! What each frame of the JSON protocol does.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod support;

use hubnerite::Config;
use serde_json::json;
use support::{JsonClient, TestServer, ack};

#[tokio::test]
async fn connected_is_the_first_frame_and_names_user_and_connection() {
    let server = TestServer::start(Config::default()).await;
    let (one, other) = (server.user("alice").await, server.user("alice").await);
    let id = |client: &JsonClient| client.connected["connectionId"].as_str().unwrap().to_owned();
    for client in [&one, &other] {
        let frame = json!({
            "type": "system", "event": "connected", "userId": "alice", "connectionId": id(client)
        });
        assert_eq!(client.connected, frame);
        assert!(!id(client).is_empty());
    }
    assert_ne!(id(&one), id(&other));
    let anonymous = JsonClient::in_hub(server.address, "chat").await;
    let frame = json!({"type": "system", "event": "connected", "connectionId": id(&anonymous)});
    assert_eq!(anonymous.connected, frame);
    drop((one, other, anonymous));
    server.stop().await;
}

#[tokio::test]
async fn join_group_and_leave_group_decide_who_hears_the_group() {
    let server = TestServer::start(Config::default()).await;
    let (mut alice, mut bob) = server.alice_and_bob().await;
    alice.send(&json!({"type": "sendToGroup", "group": "lobby", "data": {"x": 1}})).await;
    let message = json!({
        "type": "message", "from": "group", "group": "lobby", "fromUserId": "alice",
        "dataType": "json", "data": {"x": 1}
    });
    for client in [&mut alice, &mut bob] {
        client.expect(&message).await;
    }
    // To be in it already, or not to be in it, is no failure.
    bob.join("lobby", 2).await;
    let leave = |id: u64| json!({"type": "leaveGroup", "group": "lobby", "ackId": id});
    assert_eq!(bob.ask(&leave(3)).await, ack(3));
    assert_eq!(bob.ask(&leave(4)).await, ack(4));
    alice.send(&json!({"type": "sendToGroup", "group": "lobby", "data": 2})).await;
    assert_eq!(alice.next().await["data"], 2);
    alice.expect_nothing().await;
    bob.expect_nothing().await;
    drop((alice, bob));
    server.stop().await;
}

#[tokio::test]
async fn who_sends_to_a_group_need_not_be_in_it() {
    let server = TestServer::start(Config::default()).await;
    let (mut alice, mut eve) = (server.user("alice").await, server.user("eve").await);
    alice.join("lobby", 1).await;
    let hello = json!({"type": "sendToGroup", "group": "lobby", "data": "hi", "ackId": 1});
    assert_eq!(eve.ask(&hello).await, ack(1));
    eve.expect_nothing().await;
    let message = alice.next().await;
    assert_eq!((&message["fromUserId"], &message["data"]), (&json!("eve"), &json!("hi")));
    // A group that nobody is in is no failure either.
    let nobody = json!({"type": "sendToGroup", "group": "empty", "data": 1, "ackId": 2});
    assert_eq!(eve.ask(&nobody).await, ack(2));
    alice.expect_nothing().await;
    drop((alice, eve));
    server.stop().await;
}

#[tokio::test]
async fn no_echo_spares_the_sending_connection_and_no_other() {
    let server = TestServer::start(Config::default()).await;
    let (mut alice, mut bob) = server.alice_and_bob().await;
    let mut second = server.user("alice").await;
    second.join("lobby", 1).await;
    for (id, frame) in [
        (
            2,
            json!({"type": "sendToGroup", "group": "lobby", "data": 2, "noEcho": true, "ackId": 2}),
        ),
        (3, json!({"type": "sendToAll", "data": 3, "noEcho": true, "ackId": 3})),
    ] {
        assert_eq!(alice.ask(&frame).await, ack(id));
        alice.expect_nothing().await;
        assert_eq!(bob.next().await["data"], id);
        assert_eq!(second.next().await["data"], id);
    }
    for (id, frame) in [
        (4, json!({"type": "sendToGroup", "group": "lobby", "data": 4, "noEcho": false})),
        (5, json!({"type": "sendToAll", "data": 5})),
    ] {
        alice.send(&frame).await;
        for client in [&mut alice, &mut bob, &mut second] {
            assert_eq!(client.next().await["data"], id);
            client.expect_nothing().await;
        }
    }
    drop((alice, bob, second));
    server.stop().await;
}

#[tokio::test]
async fn send_to_user_reaches_every_connection_of_each_user_once() {
    let server = TestServer::start(Config::default()).await;
    let mut alice = server.user("alice").await;
    let (mut bob, mut bob_again) = (server.user("bob").await, server.user("bob").await);
    let mut carol = server.user("carol").await;
    let message = |data: u64| {
        json!({
            "type": "message", "from": "user", "fromUserId": "alice", "dataType": "json",
            "data": data
        })
    };
    assert_eq!(
        alice.ask(&json!({"type": "sendToUser", "user": "bob", "data": 1, "ackId": 1})).await,
        ack(1)
    );
    bob.expect(&message(1)).await;
    bob_again.expect(&message(1)).await;
    let list = json!(["bob", "carol", "bob", "nobody"]);
    let to_list =
        json!({"type": "sendToUser", "user": "carol", "users": list, "data": 2, "ackId": 2});
    assert_eq!(alice.ask(&to_list).await, ack(2));
    for client in [&mut bob, &mut bob_again, &mut carol] {
        client.expect(&message(2)).await;
        client.expect_nothing().await;
    }
    // To oneself, too.
    let to_self = json!({"type": "sendToUser", "users": ["alice"], "data": 3});
    assert_eq!(alice.ask(&to_self).await, message(3));
    alice.expect_nothing().await;
    drop((alice, bob, bob_again, carol));
    server.stop().await;
}

#[tokio::test]
async fn send_to_all_reaches_the_hub_and_no_other_hub() {
    let server = TestServer::start(Config::default()).await;
    let mut alice = server.user("alice").await;
    // `/ws/{user_id}` is the hub `default`.
    let mut anonymous = JsonClient::in_hub(server.address, "default").await;
    let mut elsewhere = JsonClient::in_hub(server.address, "other").await;
    for client in [&mut alice, &mut anonymous, &mut elsewhere] {
        client.join("lobby", 1).await;
    }
    alice.send(&json!({"type": "sendToAll", "dataType": "text", "data": "hello"})).await;
    let mut message = json!({
        "type": "message", "from": "all", "fromUserId": "alice", "dataType": "text",
        "data": "hello"
    });
    alice.expect(&message).await;
    anonymous.expect(&message).await;
    alice.send(&json!({"type": "sendToGroup", "group": "lobby", "data": 1})).await;
    assert_eq!(anonymous.next().await["group"], "lobby");
    assert_eq!(alice.next().await["group"], "lobby");
    // Who has no name is not named.
    anonymous.send(&json!({"type": "sendToAll", "dataType": "text", "data": "hello"})).await;
    message.as_object_mut().unwrap().remove("fromUserId");
    anonymous.expect(&message).await;
    alice.expect(&message).await;
    elsewhere.expect_nothing().await;
    drop((alice, anonymous, elsewhere));
    server.stop().await;
}

#[tokio::test]
async fn a_ping_is_answered_and_with_an_ack_id_acknowledged() {
    let server = TestServer::start(Config::default()).await;
    let mut alice = server.user("alice").await;
    assert_eq!(alice.ask(&json!({"type": "ping"})).await, json!({"type": "pong"}));
    alice.send(&json!({"type": "ping", "ackId": 1})).await;
    let mut both = [alice.next().await, alice.next().await];
    both.sort_by_key(|frame| frame["type"] != "ack");
    assert_eq!(both, [ack(1), json!({"type": "pong"})]);
    drop(alice);
    server.stop().await;
}

#[tokio::test]
async fn a_sequence_ack_is_taken_without_an_answer() {
    let server = TestServer::start(Config::default()).await;
    let mut alice = server.user("alice").await;
    alice.send(&json!({"type": "sequenceAck", "sequenceId": 7})).await;
    alice.expect_nothing().await;
    let asked = json!({"type": "sequenceAck", "sequenceId": 8, "ackId": 1});
    assert_eq!(alice.ask(&asked).await, ack(1));
    drop(alice);
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_is_closed_is_told_disconnected_and_why() {
    let mut server = TestServer::start(Config::default()).await;
    let mut alice = server.user("alice").await;
    server.begin_stop();
    let frame = alice.next().await;
    let why = frame["message"].as_str().unwrap_or_else(|| panic!("{frame}"));
    assert_eq!(frame, json!({"type": "system", "event": "disconnected", "message": why}));
    assert_eq!(alice.close().await.0, 1012);
    drop(alice);
    server.stop().await;
}
