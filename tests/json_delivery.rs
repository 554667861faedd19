//! The JSON protocol: what a message is when it arrives, and in which order messages arrive.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod support;

use futures_util::future::join_all;
use hubnerite::Config;
use serde_json::{Value, json};
use support::{ClientFrame, JsonClient, RawClient, ServerFrame, TestServer, eventually};

/// A value that loses something in almost every parser: numbers, key order, equal keys, white
/// space, escapes.
const VERBATIM: &str = concat!(
    r#"{"b":1.0, "a" : 1,"big":123456789012345678901234567890,"a":[1e3,-0.0,1E+2],"#,
    "\t\r\n ",
    r#""text":"\u00e9\/ \ud83d\ude00 <é> \u0000"}"#
);

/// A client without a subprotocol: it gets bare payloads.
async fn simple(server: &TestServer, hub: &str) -> RawClient {
    let client = server.open(&format!("/client/hubs/{hub}")).await;
    let hub = server.hub.named(hub);
    eventually("the simple client is a member", true, || hub.counts().members > 0).await;
    client
}

#[tokio::test]
async fn data_is_carried_byte_for_byte() {
    let server = TestServer::start(Config::default()).await;
    let mut alice = server.user("alice").await;
    alice.join("lobby", 1).await;
    for data in [VERBATIM, "null", "true", "0", "-1.50", "\"\"", "[ ]", "{ }", "1e400", "\"\\/\""] {
        for (request, head) in [
            (r#""type":"sendToAll""#, r#""from":"all""#),
            (r#""type":"sendToGroup","group":"lobby""#, r#""from":"group","group":"lobby""#),
            (r#""type":"sendToUser","user":"alice""#, r#""from":"user""#),
        ] {
            alice.send_text(&format!("{{{request},\"data\":{data} }}")).await;
            let expected = format!(
                r#"{{"type":"message",{head},"fromUserId":"alice","dataType":"json","data":{data}}}"#
            );
            assert_eq!(alice.next_text().await, expected);
        }
    }
    drop(alice);
    server.stop().await;
}

#[tokio::test]
async fn every_data_type_arrives_as_it_was_sent() {
    let server = TestServer::start(Config::default()).await;
    let mut alice = server.user("alice").await;
    for (data_type, data) in [
        ("json", json!({"x": [1, null]})),
        ("json", json!("a string")),
        ("text", json!("a \"text\"\n\u{e4}")),
        ("binary", json!("AP+A")),
        ("binary", json!("")),
        ("protobuf", json!("CAE=")),
    ] {
        alice.send(&json!({"type": "sendToAll", "dataType": data_type, "data": data})).await;
        let message = alice.next().await;
        assert_eq!((&message["dataType"], &message["data"]), (&json!(data_type), &data));
    }
    drop(alice);
    server.stop().await;
}

#[tokio::test]
async fn a_simple_client_receives_bare_payloads_only() {
    let server = TestServer::start(Config::default()).await;
    let mut listener = simple(&server, "chat").await;
    let mut speaker = JsonClient::in_hub(server.address, "chat").await;
    for (data_type, data, expected) in [
        ("json", VERBATIM, ServerFrame::text(VERBATIM)),
        ("json", "\"a string\"", ServerFrame::text("\"a string\"")),
        ("text", r#""a \"text\"\n\u00e4""#, ServerFrame::text("a \"text\"\nä")),
        ("text", r#""""#, ServerFrame::text("")),
        ("binary", r#""AP+A""#, ServerFrame::binary([0, 255, 128])),
        ("protobuf", r#""CAE=""#, ServerFrame::binary([8, 1])),
    ] {
        let frame = format!(r#"{{"type":"sendToAll","dataType":"{data_type}","data":{data}}}"#);
        speaker.send_text(&frame).await;
        assert_eq!(listener.read_frame().await, expected, "{frame}");
        assert_eq!(speaker.next().await["dataType"], data_type);
    }
    drop((listener, speaker));
    server.stop().await;
}

#[tokio::test]
async fn what_a_simple_client_sends_is_neither_a_request_nor_a_message() {
    let server = TestServer::start(Config::default()).await;
    let mut simple = simple(&server, "chat").await;
    let mut other = JsonClient::in_hub(server.address, "chat").await;
    let request = json!({"type": "sendToAll", "data": 1, "ackId": 1}).to_string();
    simple.send_all([ClientFrame::text(request), ClientFrame::binary([1])]).await;
    simple.send(ClientFrame::ping("through")).await;
    assert_eq!(simple.read_frame().await, ServerFrame::pong("through"));
    other.expect_nothing().await;
    drop((simple, other));
    server.stop().await;
}

#[tokio::test]
async fn a_client_of_the_reliable_subprotocol_alone_is_simple() {
    let server = TestServer::start(Config::default()).await;
    let mut client = RawClient::connect(server.address).await;
    let reliable = [("Sec-WebSocket-Protocol", "json.reliable.webpubsub.azure.v1")];
    let answer = client.handshake_with("/client/hubs/chat", &reliable).await;
    assert_eq!(answer.header("sec-websocket-protocol"), None);
    let mut speaker = JsonClient::in_hub(server.address, "chat").await;
    speaker.send(&json!({"type": "sendToAll", "dataType": "text", "data": "bare"})).await;
    client.expect_text("bare").await;
    drop((client, speaker));
    server.stop().await;
}

/// All kinds of messages in turn, written in one piece: what the hub may take as one batch must
/// come out in the order in which it went in.
#[tokio::test]
async fn messages_of_one_sender_arrive_in_the_order_sent() {
    const COUNT: usize = 1000;
    let server = TestServer::start(Config::default()).await;
    let mut receivers = vec![server.user("bob").await, server.user("bob").await];
    for receiver in &mut receivers {
        receiver.join("lobby", 1).await;
    }
    let mut sender = server.open("/ws/alice").await;
    sender.read_frame().await;
    let frame = |number: usize| {
        let mut frame = match number % 7 {
            0 | 1 | 4 => json!({"type": "sendToGroup", "group": "lobby"}),
            2 => json!({"type": "sendToUser", "user": "bob"}),
            3 => json!({"type": "sendToUser", "users": ["bob", "nobody"], "ackId": number}),
            5 => json!({"type": "sendToAll"}),
            _ => json!({"type": "sendToAll", "noEcho": true, "ackId": number}),
        };
        frame["data"] = number.into();
        ClientFrame::text(frame.to_string())
    };
    sender.send_all((0..COUNT).map(frame)).await;
    for receiver in &mut receivers {
        for number in 0..COUNT {
            assert_eq!(receiver.next().await["data"], number);
        }
        receiver.expect_nothing().await;
    }
    drop((receivers, sender));
    server.stop().await;
}

/// An ack stands behind what its sender was told before, and a message to oneself is one of the
/// messages of its sender.
#[tokio::test]
async fn a_batch_is_acknowledged_frame_by_frame() {
    let server = TestServer::start(Config::default()).await;
    let mut client = server.open("/ws/alice").await;
    client.read_frame().await;
    let frames = (0..500).map(|id| {
        ClientFrame::text(match id % 3 {
            0 => json!({"type": "joinGroup", "group": "lobby", "ackId": id}).to_string(),
            1 => json!({"type": "sendToGroup", "group": "lobby", "data": id, "ackId": id})
                .to_string(),
            _ => json!({"type": "leaveGroup", "group": "lobby", "ackId": id}).to_string(),
        })
    });
    client.send_all(frames).await;
    let (mut acks, mut messages) = (Vec::new(), Vec::new());
    while acks.len() < 500 || messages.len() < 167 {
        let frame: Value = serde_json::from_slice(&client.read_frame().await.payload).unwrap();
        match frame["type"].as_str() {
            Some("ack") => {
                assert_eq!(frame["success"], true, "{frame}");
                acks.push(frame["ackId"].as_u64().unwrap());
            }
            Some("message") => messages.push(frame["data"].as_u64().unwrap()),
            _ => panic!("{frame}"),
        }
    }
    assert!(acks.iter().copied().eq(0..500), "{acks:?}");
    assert!(messages.iter().copied().eq((1..500).step_by(3)), "{messages:?}");
    drop(client);
    server.stop().await;
}

/// Who joins after a message was sent does not hear it; who leaves before it does not either.
#[tokio::test]
async fn a_join_in_the_middle_of_a_batch_is_heard_from_there_on() {
    let server = TestServer::start(Config::default()).await;
    let mut client = server.open("/ws/alice").await;
    client.read_frame().await;
    let send = |data| json!({"type": "sendToGroup", "group": "g", "data": data}).to_string();
    let frames = [
        send("before"),
        json!({"type": "joinGroup", "group": "g"}).to_string(),
        send("between"),
        json!({"type": "leaveGroup", "group": "g"}).to_string(),
        send("after"),
        json!({"type": "ping"}).to_string(),
    ];
    client.send_all(frames.map(ClientFrame::text)).await;
    let mut heard = Vec::new();
    for _ in 0..2 {
        let frame: Value = serde_json::from_slice(&client.read_frame().await.payload).unwrap();
        heard.push(frame.get("data").or(frame.get("type")).unwrap().clone());
    }
    heard.sort_by_key(|what| what == "pong");
    assert_eq!(heard, ["between", "pong"]);
    client.send(ClientFrame::text(r#"{"type":"ping"}"#)).await;
    client.expect_text(r#"{"type":"pong"}"#).await;
    drop(client);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn all_members_of_a_group_see_one_order_of_all_senders() {
    const SENDERS: usize = 4;
    const EACH: usize = 250;
    let server = TestServer::start(Config::default()).await;
    let mut members = Vec::new();
    for number in 0..SENDERS + 2 {
        let mut member = server.user(&format!("user{number}")).await;
        member.join("lobby", 1).await;
        members.push(member);
    }
    let speaking = members.into_iter().enumerate().map(|(number, mut member)| {
        tokio::spawn(async move {
            for count in 0..if number < SENDERS { EACH } else { 0 } {
                let frame = json!({"type": "sendToGroup", "group": "lobby", "data": count});
                member.send(&frame).await;
            }
            let mut heard = Vec::new();
            while heard.len() < SENDERS * EACH {
                let mut frame = member.next().await;
                heard.push((frame["fromUserId"].take(), frame["data"].as_u64().unwrap()));
            }
            member.expect_nothing().await;
            heard
        })
    });
    let heard: Vec<_> = join_all(speaking).await.into_iter().map(Result::unwrap).collect();
    for number in 0..SENDERS {
        let user = json!(format!("user{number}"));
        let own = heard[0].iter().filter(|(from, _)| *from == user).map(|(_, count)| *count);
        assert!(own.eq(0..EACH as u64), "the order of {user}");
    }
    let switches = heard[0].windows(2).filter(|two| two[0].0 != two[1].0).count();
    assert!(switches >= SENDERS, "the senders did not speak at the same time: {switches}");
    for (number, other) in heard.iter().enumerate() {
        assert!(*other == heard[0], "member {number} saw another order than member 0");
    }
    server.stop().await;
}
