//! Daemons as processes of their own, joined by a Redis server, and one of them is killed.

#![cfg(feature = "redis")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::{
    Daemon, EngineServer, HttpAnswer, JsonClient, eventually_within,
    rest::{Caller, KEY, in_seconds, sign},
};

/// A node is gone when it was silent for 5 s, and that is asked for every second.
const GONE: Duration = Duration::from_secs(15);

/// A daemon, and a backend that asks it.
struct Node {
    daemon: Daemon,
    caller: Caller,
}

impl Node {
    async fn start(redis: &EngineServer) -> Self {
        let backplane = format!("--backplane=redis://127.0.0.1:{}", redis.port);
        let mut daemon = Daemon::start(&[&backplane, &format!("--access-key={KEY}")]).await;
        let control = daemon.log_line("control on http://").await;
        let control = control.split_once("http://").unwrap().1.parse().unwrap();
        daemon.log_line("joined by").await;
        Self { daemon, caller: Caller::connect(control).await }
    }

    async fn user(&self, name: &str) -> JsonClient {
        let rights =
            ["joinLeaveGroup", "sendToGroup", "sendToUser"].map(|r| format!("webpubsub.{r}"));
        let token = sign(&json!({"sub": name, "role": rights, "exp": in_seconds(60)}), KEY);
        let mut client =
            JsonClient::user(self.daemon.address(), &format!("{name}?access_token={token}")).await;
        client.join("lobby", 1).await;
        client
    }

    /// What is known of a user here, and of everybody: status, connections, nodes, and how many
    /// of those have not answered.
    async fn knows(&mut self, user: &str) -> (u16, Value, Option<String>) {
        let mut call = async |method, path: &str| {
            self.caller.call(method, &format!("/api/hubs/default{path}"), "text/plain", "").await
        };
        let silent =
            |answer: &HttpAnswer| answer.header("x-hubnerite-silent-nodes").map(str::to_owned);
        let found = call("HEAD", &format!("/users/{user}")).await;
        let counted = call("GET", "").await;
        let all = serde_json::from_slice(&counted.body).unwrap();
        (found.status, all, silent(&found).or(silent(&counted)))
    }

    async fn until_it_knows(&mut self, user: &str, status: u16, connections: u64, nodes: u64) {
        let expected = (status, json!({"connections": connections, "nodes": nodes}), None);
        eventually_within(GONE, user, expected, async || self.knows(user).await).await;
    }
}

#[tokio::test]
#[ignore = "needs redis-server: the step redis of tests/all"]
async fn the_users_of_a_killed_daemon_are_gone_and_the_others_go_on() {
    let redis = EngineServer::redis("").await;
    let (mut one, other) = (Node::start(&redis).await, Node::start(&redis).await);
    let mut killed = Node::start(&redis).await;
    let (mut ann, mut ben) = (one.user("ann").await, other.user("ben").await);
    let lost = killed.user("eve").await;
    one.until_it_knows("eve", 200, 3, 3).await;
    killed.daemon.signal("KILL").await;
    assert_eq!(killed.daemon.end().await.code(), None);
    // Meanwhile the others hear each other, at once and nothing else.
    let (mut turn, expected) = (0, (404, json!({"connections": 2, "nodes": 2}), None));
    eventually_within(GONE, "what is known of eve", expected, async || {
        turn += 1;
        let to = json!({"type": "sendToGroup", "group": "lobby", "noEcho": true, "data": turn});
        ann.send(&to).await;
        assert_eq!(ben.next().await["data"], turn);
        ann.expect_nothing().await;
        one.knows("eve").await
    })
    .await;
    for node in [&one, &other] {
        let log = node.daemon.log();
        assert!(!log.iter().any(|line| line.contains("WARN")), "{log:#?}");
    }
    drop(lost);
    let next = Node::start(&redis).await;
    let mut eve = next.user("eve").await;
    one.until_it_knows("eve", 200, 3, 3).await;
    ann.send(&json!({"type": "sendToUser", "user": "eve", "data": "back"})).await;
    assert_eq!(eve.next().await["data"], "back");
    drop((ann, ben, eve));
    for node in [one, other, next] {
        node.daemon.stop().await;
    }
}
