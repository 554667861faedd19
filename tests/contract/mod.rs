//! What servers that an engine joins promise, whatever engine it is: one suite for all of them.
//!
//! An engine brings a [`Bench`], and `contract!` makes a test of each promise with it.

#![allow(unreachable_pub, reason = "a module of many crates")]

pub mod served;

mod answers;
mod rolling;
mod stopping;

use std::{net::SocketAddr, time::Duration};

use hubnerite::{AccessKeys, Address, Backplane, BackplaneCounters, Config, Listener, Sharing};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};
use tokio_tungstenite::tungstenite::Message;

pub use self::{
    answers::*, rolling::nodes_are_restarted_one_by_one_and_nothing_acknowledged_is_lost,
    stopping::*,
};
use crate::support::{
    DEADLINE, JsonClient, TestServer, ack, connect, eventually, eventually_within, expect_failure,
    next_message, plain,
    rest::{Caller, KEY},
    send,
};

/// An engine under test, and what can happen to it.
pub trait Bench: Sized {
    /// Whether what was under way when it began to hang goes on when it does.
    const GOES_ON: bool = true;

    /// Starts an engine that nobody else uses.
    fn start() -> impl Future<Output = Self>;

    /// How servers find it.
    fn backplane(&self) -> Backplane;

    /// Publishes a message as a backend does.
    fn publish(&self, subject: &str, bytes: &[u8]) -> impl Future<Output = ()>;

    /// Kills it.
    fn stop(&mut self) -> impl Future<Output = ()>;

    /// Starts it again, where it was.
    fn restart(&mut self) -> impl Future<Output = ()>;

    /// Lets it hang: connections stay, and nothing is carried.
    fn pause(&self);

    /// Lets it go on.
    fn resume(&self);

    /// From now on it carries nothing, and what it is given later waits for it.
    fn halt(&mut self) -> impl Future<Output = ()> {
        async {
            if Self::GOES_ON {
                self.pause();
            } else {
                self.stop().await;
            }
        }
    }

    /// It carries again.
    fn carry_on(&mut self) -> impl Future<Output = ()> {
        async {
            if Self::GOES_ON {
                self.resume();
            } else {
                self.restart().await;
            }
        }
    }
}

/// Makes a test of each promise. `ignore` is for engines that have to be installed.
#[macro_export]
macro_rules! contract {
    ($bench:ty $(, $ignore:meta)?) => {
        $crate::contract! { @ $bench [$($ignore)?]
            every_target_is_reached_and_nobody_else
            a_program_reaches_users_groups_and_everybody
            what_one_sender_says_arrives_in_its_order
            nobody_hears_anything_twice
            who_is_excluded_hears_nothing
            binary_payloads_and_large_ones_arrive_as_they_were
            a_thousand_groups_are_heard_for_and_then_left
            who_has_joined_hears_what_is_said_next
            who_has_connected_hears_what_is_said_next
            a_backend_publishes_with_a_line_of_json
            what_makes_no_sense_is_counted_and_harms_nothing
            a_restarted_engine_joins_all_again_and_a_gap_is_told_once
            an_engine_that_hangs_is_noticed_and_used_again
            what_a_node_has_accepted_before_it_stops_arrives
            what_waits_for_a_hanging_engine_when_a_node_stops_arrives
            a_node_that_stops_waits_for_a_hanging_engine_no_longer_than_it_may
            what_is_accepted_while_there_is_no_engine_arrives_and_the_rest_is_refused
            nodes_are_restarted_one_by_one_and_nothing_acknowledged_is_lost
            every_node_knows_who_is_there
            a_list_comes_in_pages_that_name_everybody_once_whatever_their_node
            a_backend_acts_on_connections_of_another_node
            who_is_closed_on_another_node_has_heard_what_was_said_before
            nobody_is_forgotten_while_an_engine_hangs
            nobody_is_not_found_only_where_no_node_has_them
            a_user_who_connects_to_another_node_is_replaced
            a_user_who_is_on_another_node_is_taken
            a_node_that_is_silent_is_told_of_and_then_gone_with_its_users
            a_node_that_stops_says_goodbye
            without_an_engine_a_node_answers_for_itself_and_says_so
        }
    };
    (@ $bench:ty [$($ignore:meta)?]) => {};
    (@ $bench:ty [$($ignore:meta)?] $promise:ident $($others:ident)*) => {
        $(#[$ignore])?
        #[tokio::test]
        async fn $promise() {
            $crate::contract::$promise::<$bench>().await;
        }
        $crate::contract! { @ $bench [$($ignore)?] $($others)* }
    };
}

/// How long an engine may carry nothing, in the tests that wait for it.
const GRACE: Duration = Duration::from_secs(2);

/// Longer than an engine hangs that is not to be given up, on however busy a machine.
const PATIENT: Duration = Duration::from_mins(1);

/// How long an engine hangs.
const HANG: Duration = Duration::from_secs(10);

/// After a restart others may come back this much later, and what waits is held until then.
const RETURN: Duration = Duration::from_secs(20);

/// One of the servers, with its control port.
pub struct Node {
    pub server: TestServer,
    pub control: SocketAddr,
}

impl Node {
    pub async fn start(config: Config, backplane: Backplane) -> Self {
        let keys = AccessKeys::new(vec![KEY.to_owned()]).unwrap();
        let anywhere: Address = "127.0.0.1:0".parse().unwrap();
        let listener = Listener::bind(&anywhere, Sharing::Exclusive).await.unwrap();
        let control = listener.local_address().parse().unwrap();
        let server = TestServer::start_with(config, |server| {
            server.daemon_routes().control(keys, vec![listener]).backplane(backplane)
        });
        let node = Self { server: server.await, control };
        node.until_ready(200).await;
        node
    }

    pub fn counters(&self) -> &BackplaneCounters {
        &self.server.hub.metrics().backplane
    }

    /// Waits until `/readyz` says this, and no longer than an engine may take to come back.
    pub async fn until_ready(&self, status: u16) {
        let look = async || self.server.ask(plain("GET", "/readyz")).await.status;
        eventually_within(RETURN, "/readyz", status, look).await;
    }

    pub async fn user(&self, name: &str) -> JsonClient {
        self.server.user(name).await
    }

    /// A signed `:send`; its status.
    pub async fn send(&self, path: &str, kind: &str, body: &str) -> u16 {
        let path = format!("/api/hubs/{path}");
        Caller::connect(self.control).await.call("POST", &path, kind, body).await.status
    }
}

/// A bench and two nodes.
async fn two<B: Bench>() -> (B, Node, Node) {
    two_with(Config::default(), |backplane| backplane).await
}

async fn two_with<B: Bench>(
    config: Config,
    with: impl Fn(Backplane) -> Backplane,
) -> (B, Node, Node) {
    let bench = B::start().await;
    let one = Node::start(config.clone(), with(bench.backplane())).await;
    let other = Node::start(config, with(bench.backplane())).await;
    (bench, one, other)
}

/// The next message for a client, which must have these fields among others.
async fn expect(client: &mut JsonClient, fields: Value) {
    let message = client.next().await;
    for (name, value) in fields.as_object().unwrap() {
        assert_eq!(message[name], *value, "{name} of {message}");
    }
}

fn to_group(group: &str, data: impl Into<Value>) -> Value {
    json!({"type": "sendToGroup", "group": group, "data": data.into()})
}

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
    let mut next = [0, 0];
    for _ in 0..COUNT * 2 {
        let message = ben.next().await;
        let sender = usize::from(message["fromUserId"] == "eve");
        assert_eq!(message["data"], next[sender], "{message}");
        next[sender] += 1;
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
    for number in 0..COUNT {
        expect(&mut ben, json!({"data": number})).await;
    }
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

pub async fn a_restarted_engine_joins_all_again_and_a_gap_is_told_once<B: Bench>() {
    let (mut bench, one, other) = two::<B>().await;
    let (mut ann, mut ben) = (one.user("ann").await, other.user("ben").await);
    let (mut neighbour, mut simple) =
        (one.user("eve").await, connect(other.server.address, "/client/hubs/default").await);
    for client in [&mut ann, &mut ben, &mut neighbour] {
        client.join("lobby", 1).await;
    }
    bench.stop().await;
    for node in [&one, &other] {
        eventually("lost connections", 1, || node.counters().lost.get()).await;
    }
    // Those who are here hear each other, and who joins is not kept waiting.
    ann.join("late", 2).await;
    assert_eq!(one.counters().unconfirmed.get(), 1);
    ann.send(&to_group("lobby", "meanwhile")).await;
    expect(&mut ann, json!({"data": "meanwhile"})).await;
    expect(&mut neighbour, json!({"data": "meanwhile"})).await;
    bench.restart().await;
    let gap = json!({"type": "system", "event": "gap"});
    for client in [&mut ann, &mut ben, &mut neighbour] {
        assert_eq!(client.next_within(RETURN).await, gap);
    }
    assert_eq!(ben.next_within(RETURN).await["data"], "meanwhile");
    ben.send(&to_group("late", "now")).await;
    expect(&mut ann, json!({"data": "now"})).await;
    for client in [&mut ann, &mut ben, &mut neighbour] {
        client.expect_nothing().await;
    }
    send(&mut simple, "a simple client is told nothing").await;
    one.until_ready(200).await;
}

pub async fn an_engine_that_hangs_is_noticed_and_used_again<B: Bench>() {
    let (bench, one, other) =
        two_with::<B>(Config::default(), |backplane| backplane.grace(GRACE)).await;
    let (mut ann, mut ben) = (one.user("ann").await, other.user("ben").await);
    ann.join("lobby", 1).await;
    ben.join("lobby", 1).await;
    bench.pause();
    let until = Instant::now() + HANG;
    ann.send(&to_group("lobby", "meanwhile")).await;
    expect(&mut ann, json!({"data": "meanwhile"})).await;
    for node in [&one, &other] {
        node.until_ready(503).await;
        let look = async || node.counters().lost.get();
        eventually_within(RETURN, "connections that were given up", 1, look).await;
    }
    let answer = one.server.ask(plain("GET", "/readyz")).await;
    assert_eq!(String::from_utf8_lossy(&answer.body), "backplane\n");
    // It hangs through several attempts to connect.
    sleep_until(until).await;
    bench.resume();
    one.until_ready(200).await;
    other.until_ready(200).await;
    let gap = json!({"type": "system", "event": "gap"});
    let (mut gaps, mut messages) = (0, 0);
    while gaps == 0 || messages == 0 {
        let next = ben.next_within(RETURN).await;
        gaps += usize::from(next == gap);
        messages += usize::from(next["data"] == "meanwhile");
    }
    assert_eq!((gaps, messages), (1, 1));
    ben.expect_nothing().await;
}

pub async fn what_is_accepted_while_there_is_no_engine_arrives_and_the_rest_is_refused<B: Bench>() {
    const COUNT: u64 = 1000;
    let (mut bench, one, other) =
        two_with::<B>(Config::default(), |backplane| backplane.buffer(256 << 10)).await;
    let (mut ann, mut ben) = (one.user("ann").await, other.user("ben").await);
    ben.join("lobby", 1).await;
    bench.stop().await;
    for node in [&one, &other] {
        eventually("lost connections", 1, || node.counters().lost.get()).await;
    }
    let text = "x".repeat(1 << 10);
    let mut accepted = Vec::new();
    for number in 0..COUNT {
        let data = json!([number, text]);
        ann.send(&json!({"type": "sendToGroup", "group": "lobby", "data": data, "ackId": number}))
            .await;
    }
    for number in 0..COUNT {
        let answer = ann.next().await;
        if answer == ack(number) {
            accepted.push(number);
        } else {
            expect_failure(&answer, Some(number), "InternalServerError", "past the buffer");
        }
    }
    assert!((100..300).contains(&accepted.len()), "{} were accepted", accepted.len());
    assert_eq!(one.counters().refused.get(), COUNT - accepted.len() as u64);
    assert_eq!(one.send("default/:send", "text/plain", &text).await, 503);
    assert!(one.server.hub.send_to_group("nobody", text.as_str()).unreached);
    bench.restart().await;
    assert_eq!(ben.next_within(RETURN).await, json!({"type": "system", "event": "gap"}));
    for number in &accepted {
        assert_eq!(ben.next_within(RETURN).await["data"][0], *number);
    }
    ben.expect_nothing().await;
}
