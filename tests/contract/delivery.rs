//! What is said on one node reaches those whom it is for on the other: all of it, once and in order.

use std::collections::HashMap;

use hubnerite::Config;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use super::{Bench, expect, to_group, two, two_with};
use crate::support::{
    DEADLINE, JsonClient, ack, connect, eventually, eventually_within, next_message, rest::Caller,
};

pub async fn every_target_is_reached_and_nobody_else<B: Bench>() {
    let (_bench, one, other) = two::<B>().await;
    let (mut ann, mut ben) = (one.user("ann").await, other.user("ben").await);
    let mut elsewhere = JsonClient::in_hub(other.server.address, "elsewhere").await;
    ben.join("lobby", 1).await;
    ann.send(&to_group("lobby", 1)).await;
    expect(&mut ben, json!({"from": "group", "group": "lobby", "fromUserId": "ann", "data": 1}))
        .await;
    ann.send(&json!({"type": "sendToUser", "user": "ben", "data": 2})).await;
    expect(&mut ben, json!({"from": "user", "fromUserId": "ann", "data": 2})).await;
    ann.send(&json!({"type": "sendToUser", "users": ["ben", "ann", "eve"], "data": 3})).await;
    expect(&mut ann, json!({"from": "user", "data": 3})).await;
    expect(&mut ben, json!({"from": "user", "data": 3})).await;
    ann.send(&json!({"type": "sendToAll", "data": 4})).await;
    expect(&mut ann, json!({"from": "all", "data": 4})).await;
    expect(&mut ben, json!({"from": "all", "data": 4})).await;
    let id = ben.connected["connectionId"].as_str().unwrap().to_owned();
    let path = format!("default/connections/{id}/:send");
    assert_eq!(one.send(&path, "application/json", "5").await, 202);
    expect(&mut ben, json!({"from": "server", "data": 5})).await;
    // What one node says arrives in order: nothing is under way that is not for them.
    for client in [&mut ann, &mut ben, &mut elsewhere] {
        client.expect_nothing().await;
    }
}

pub async fn a_program_reaches_users_groups_and_everybody<B: Bench>() {
    let (_bench, one, other) = two::<B>().await;
    let mut ben = other.user("ben").await;
    let mut simple = connect(other.server.address, "/client/hubs/default").await;
    ben.join("lobby", 1).await;
    one.server.hub.send_to_group("lobby", "to a group");
    assert_eq!(ben.next_text().await, "to a group");
    one.server.hub.send_to_user("ben", "to a user");
    assert_eq!(ben.next_text().await, "to a user");
    one.server.hub.send_to_all(vec![0, 255]);
    for socket in [&mut ben.socket, &mut simple] {
        assert_eq!(next_message(socket).await, Message::binary(vec![0, 255]));
    }
    let nobody = one.server.hub.send_to_user("nobody", "?");
    assert_eq!((nobody.recipients, nobody.unreached), (0, false));
}

pub async fn what_one_sender_says_arrives_in_its_order<B: Bench>() {
    const COUNT: u64 = 1000;
    let (_bench, one, other) = two::<B>().await;
    let mut senders = [one.user("ann").await, one.user("eve").await];
    let mut ben = other.user("ben").await;
    for (number, group) in (1..).zip(["red", "blue"]) {
        ben.join(group, number).await;
    }
    for number in 0..COUNT {
        let group = if number % 3 == 0 { "red" } else { "blue" };
        for sender in &mut senders {
            sender.send(&to_group(group, number)).await;
        }
    }
    let mut heard: HashMap<_, Vec<u64>> = HashMap::new();
    for _ in 0..COUNT * 2 {
        let message = ben.next().await;
        let group = (!B::ONE_ORDER).then(|| message["group"].to_string());
        let order = heard.entry((message["fromUserId"].to_string(), group)).or_default();
        order.push(message["data"].as_u64().unwrap());
    }
    for ((sender, group), order) in heard {
        let is_due = |number: &u64| match group.as_deref() {
            Some("\"red\"") => number.is_multiple_of(3),
            Some(_) => !number.is_multiple_of(3),
            None => true,
        };
        assert_eq!(order, (0..COUNT).filter(is_due).collect::<Vec<_>>(), "{sender} {group:?}");
    }
}

pub async fn nobody_hears_anything_twice<B: Bench>() {
    let (_bench, one, other) = two::<B>().await;
    let (mut ann, mut ben) = (one.user("ann").await, other.user("ben").await);
    ann.join("lobby", 1).await;
    ben.join("lobby", 1).await;
    for number in 0..100 {
        let client = if number % 2 == 0 { &mut ann } else { &mut ben };
        client.send(&to_group("lobby", number)).await;
        expect(&mut ann, json!({"data": number})).await;
        expect(&mut ben, json!({"data": number})).await;
    }
    ann.expect_nothing().await;
    ben.expect_nothing().await;
    for node in [&one, &other] {
        assert_eq!((node.counters().published.get(), node.counters().repeated.get()), (50, 0));
        // Announcements of the other node may be among them.
        assert!(node.counters().received.get() >= 50);
    }
}

pub async fn who_is_excluded_hears_nothing<B: Bench>() {
    let (_bench, one, other) = two::<B>().await;
    let (mut ben, mut eve) = (other.user("ben").await, other.user("eve").await);
    let id = ben.connected["connectionId"].as_str().unwrap();
    let path = format!("default/:send?excluded={id}");
    assert_eq!(one.send(&path, "text/plain", "not for ben").await, 202);
    let path = "default/:send?filter=userId%20eq%20%27ben%27";
    assert_eq!(one.send(path, "text/plain", "for ben").await, 202);
    assert_eq!(one.send("default/:send", "text/plain", "for both").await, 202);
    expect(&mut ben, json!({"data": "for ben"})).await;
    expect(&mut eve, json!({"data": "not for ben"})).await;
    expect(&mut ben, json!({"data": "for both"})).await;
    expect(&mut eve, json!({"data": "for both"})).await;
}

pub async fn binary_payloads_and_large_ones_arrive_as_they_were<B: Bench>() {
    let (_bench, one, other) = two::<B>().await;
    let (mut ann, mut ben) = (one.user("ann").await, other.user("ben").await);
    let mut simple = connect(other.server.address, "/client/hubs/default").await;
    ann.send(&json!({"type": "sendToAll", "noEcho": true, "dataType": "binary", "data": "AP8="}))
        .await;
    expect(&mut ben, json!({"dataType": "binary", "data": "AP8="})).await;
    assert_eq!(next_message(&mut simple).await, Message::binary(vec![0, 255]));
    // With what stands around it, it is just within the limit of one message.
    let large = "x".repeat((1 << 20) - 100);
    ann.send(&json!({"type": "sendToAll", "noEcho": true, "data": large.as_str()})).await;
    expect(&mut ben, json!({"data": large.as_str()})).await;
    assert_eq!(next_message(&mut simple).await, Message::text(format!("\"{large}\"")));
}

pub async fn a_thousand_groups_are_heard_for_and_then_left<B: Bench>() {
    const COUNT: u64 = 1000;
    let config = Config { max_groups: 1000, ..Config::default() };
    let (_bench, one, other) = two_with::<B>(config, |backplane| backplane).await;
    let (mut ann, mut ben) = (one.user("ann").await, other.user("ben").await);
    for number in 0..COUNT {
        let group = format!("group {number}");
        ben.send(&json!({"type": "joinGroup", "group": group, "ackId": number})).await;
    }
    for number in 0..COUNT {
        assert_eq!(ben.next().await, ack(number));
    }
    for number in 0..COUNT {
        ann.send(&to_group(&format!("group {number}"), number)).await;
    }
    let mut heard = Vec::new();
    for _ in 0..COUNT {
        heard.push(ben.next().await["data"].as_u64().unwrap());
    }
    if !B::ONE_ORDER {
        heard.sort_unstable();
    }
    assert_eq!(heard, (0..COUNT).collect::<Vec<_>>());
    drop(ben);
    eventually_within(DEADLINE, "subscriptions", true, async || {
        let mut metrics = Caller::connect(other.control).await;
        let page = metrics.request("GET", "/metrics", &[], "").await;
        String::from_utf8(page.body).unwrap().contains("hubnerite_backplane_subscriptions 0\n")
    })
    .await;
}

pub async fn who_has_joined_hears_what_is_said_next<B: Bench>() {
    let (_bench, one, other) = two::<B>().await;
    let (mut ann, mut ben) = (one.user("ann").await, other.user("ben").await);
    for number in 0..200 {
        let group = format!("group {number}");
        ben.join(&group, number).await;
        ann.send(&to_group(&group, number)).await;
        expect(&mut ben, json!({"data": number})).await;
        ben.send(&json!({"type": "leaveGroup", "group": group})).await;
    }
}

pub async fn who_has_connected_hears_what_is_said_next<B: Bench>() {
    let (_bench, one, other) = two::<B>().await;
    for number in 0..50 {
        let user = format!("user {number}");
        let mut ben = other.user(&user.replace(' ', "%20")).await;
        one.server.hub.send_to_user(&user, format!("\"{number}\""));
        assert_eq!(ben.next().await, format!("{number}"));
    }
}

pub async fn a_backend_publishes_with_a_line_of_json<B: Bench>() {
    let (bench, one, other) = two::<B>().await;
    let (mut ann, mut ben) = (one.user("ann").await, other.user("ben").await);
    let envelope = b"{\"v\":1,\"to\":{\"all\":true},\"kind\":\"text\",\"lengths\":[5,0]}\nhello";
    bench.publish("hubnerite.default.all", envelope).await;
    for client in [&mut ann, &mut ben] {
        assert_eq!(client.next_text().await, "hello");
        assert_eq!(client.next_text().await, "");
    }
    let message = r#"{"type":"message","from":"server","dataType":"json","data":1}"#;
    let length = message.len();
    let header = format!(r#"{{"v":1,"to":{{"users":["ben","ben"]}},"lengths":[{length}]}}"#);
    bench.publish("hubnerite.default.all", format!("{header}\n{message}").as_bytes()).await;
    assert_eq!(ben.next_text().await, message);
    ben.expect_nothing().await;
}

pub async fn what_makes_no_sense_is_counted_and_harms_nothing<B: Bench>() {
    let (bench, one, other) = two::<B>().await;
    let (mut ann, mut ben) = (one.user("ann").await, other.user("ben").await);
    for wrong in [
        "",
        "\n",
        "{}\n",
        "{\"v\":1,\"to\":{\"all\":true},\"lengths\":[9999999999]}\nx",
        "{\"v\":1,\"to\":{\"all\":true},\"filter\":\"userId eq\",\"lengths\":[1]}\nx",
    ] {
        bench.publish("hubnerite.default.all", wrong.as_bytes()).await;
    }
    for node in [&one, &other] {
        eventually("malformed messages", 5, || node.counters().malformed.get()).await;
    }
    ann.send(&json!({"type": "sendToUser", "user": "ben", "data": 1})).await;
    expect(&mut ben, json!({"data": 1})).await;
}
