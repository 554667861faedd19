//! What backends leave for the daemons to send, on the engine that joins them.

#![cfg(feature = "redis")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod support;

use hubnerite::{Backplane, Config};
use serde_json::{Value, json};
use support::{EngineServer, JsonClient, TestServer, eventually, within};

/// What nobody can carry out.
const POISON: [&str; 7] = [
    "nonsense",
    r#"{"to":{"nobody":true},"data":1}"#,
    r#"{"to":{"all":true},"dataType":"text","data":1}"#,
    r#"{"to":{"all":true},"data":1,"filter":"userId is 'ann'"}"#,
    r#"{"to":{"nodes":true},"data":1}"#,
    r#"{"hub":"9 lives","to":{"all":true},"data":1}"#,
    r#"{"to":{"group":" "},"data":1}"#,
];

/// Two servers that share an engine and its commands.
async fn two(url: &str, source: &str) -> [TestServer; 2] {
    let start = async || {
        let backplane = Backplane::new(url).unwrap().commands_from(url, source).unwrap();
        let routes = |server: hubnerite::Server| server.daemon_routes().backplane(backplane);
        TestServer::start_with(Config::default(), routes).await
    };
    let servers = [start().await, start().await];
    for server in &servers {
        let connected = || server.hub.metrics().backplane.connected.get();
        eventually("connections to the engine", 1, connected).await;
    }
    servers
}

fn sum(servers: &[TestServer; 2], figure: impl Fn(&hubnerite::BackplaneCounters) -> u64) -> u64 {
    servers.iter().map(|server| figure(&server.hub.metrics().backplane)).sum()
}

/// A message for everybody, which nobody gets who got something between.
async fn expect_next(clients: [&mut JsonClient; 2], data: &Value) {
    for client in clients {
        let message = client.next().await;
        assert_eq!((&message["from"], &message["data"]), (&json!("server"), data));
    }
}

/// Commands of each kind, left by `leave`, reach those whom they mean, once, wherever they are.
async fn each_command_is_carried_out_once(servers: &[TestServer; 2], leave: impl AsyncFn(&str)) {
    let (mut ann, mut ben) = (servers[0].user("ann").await, servers[1].user("ben").await);
    ann.join("lobby", 1).await;
    ben.join("lobby", 1).await;
    leave(r#"{"to":{"group":"lobby"},"data":{"x": 1.0}}"#).await;
    let group =
        r#"{"type":"message","from":"group","group":"lobby","dataType":"json","data":{"x": 1.0}}"#;
    assert_eq!((&*ann.next_text().await, &*ben.next_text().await), (group, group));
    leave(r#"{"hub":"default","to":{"user":"ben"},"dataType":"text","data":"tea"}"#).await;
    assert_eq!(ben.next().await["data"], "tea");
    let connection = ann.connected["connectionId"].clone();
    leave(&json!({"to": {"connection": connection}, "data": 2}).to_string()).await;
    assert_eq!(ann.next().await["data"], 2);
    leave(&json!({"to": {"all": true}, "data": 3, "excluded": [connection]}).to_string()).await;
    assert_eq!(ben.next().await["data"], 3);
    leave(r#"{"to":{"users":["ann","ben","ann"]},"data":4}"#).await;
    expect_next([&mut ann, &mut ben], &json!(4)).await;
    leave(r#"{"to":{"all":true},"data":5,"filter":"userId eq 'ann'"}"#).await;
    assert_eq!(ann.next().await["data"], 5);
    for poison in POISON {
        leave(poison).await;
    }
    leave(r#"{"to":{"all":true},"data":6}"#).await;
    expect_next([&mut ann, &mut ben], &json!(6)).await;
    let rejected = || sum(servers, |counters| counters.rejected_commands.get());
    eventually("rejected commands", POISON.len() as u64, rejected).await;
    let commands = || sum(servers, |counters| counters.commands.get());
    eventually("commands", 7 + POISON.len() as u64, commands).await;
}

async fn stop(servers: [TestServer; 2]) {
    for server in servers {
        server.stop().await;
    }
}

struct Redis(EngineServer);

impl Redis {
    async fn start() -> Self {
        Self(EngineServer::redis("--appendonly yes --appendfsync always").await)
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.0.port)
    }

    async fn ask<T: redis::FromRedisValue>(&self, line: &[&str]) -> T {
        let client = redis::Client::open(self.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        redis::cmd(line[0]).arg(&line[1..]).query_async(&mut connection).await.unwrap()
    }

    async fn leave(&self, command: &str) {
        let _: String = self.ask(&["XADD", "todo", "*", "command", command]).await;
    }
}

#[tokio::test]
#[ignore = "needs redis-server: the step redis of tests/all"]
async fn commands_in_a_redis_stream_are_carried_out_once() {
    let redis = Redis::start().await;
    let servers = two(&redis.url(), "redis-stream:todo").await;
    each_command_is_carried_out_once(&servers, async |command| redis.leave(command).await).await;
    let rejected: Vec<(String, Vec<String>)> =
        redis.ask(&["XRANGE", "todo-rejected", "-", "+"]).await;
    assert_eq!(rejected.len(), POISON.len());
    assert_eq!(rejected[0].1[..3], ["command", "nonsense", "reason"]);
    let unacknowledged: Vec<redis::Value> = redis.ask(&["XPENDING", "todo", "hubnerite"]).await;
    assert_eq!(unacknowledged[0], redis::Value::Int(0));
    stop(servers).await;
}

#[tokio::test]
#[ignore = "needs redis-server: the step redis of tests/all"]
async fn commands_that_were_left_while_nobody_read_are_carried_out() {
    let mut redis = Redis::start().await;
    redis.leave(r#"{"to":{"user":"ann"},"data":1}"#).await;
    let servers = two(&redis.url(), "redis-stream:todo").await;
    eventually("commands", 1, || sum(&servers, |counters| counters.commands.get())).await;
    let mut ann = servers[0].user("ann").await;
    redis.0.kill();
    redis.0.revive().await;
    let back = || servers[0].hub.metrics().backplane.connected.get();
    eventually("connections to the engine", 2, back).await;
    redis.leave(r#"{"to":{"user":"ann"},"data":2}"#).await;
    within("the message", async { while ann.next().await["data"] != 2 {} }).await;
    drop(ann);
    stop(servers).await;
}

#[cfg(feature = "kafka")]
#[tokio::test]
async fn commands_in_a_kafka_topic_are_carried_out_once() {
    use rdkafka::{
        ClientConfig,
        mocking::MockCluster,
        producer::{FutureProducer, FutureRecord},
    };
    let cluster = MockCluster::new(1).unwrap();
    for (topic, partitions) in [("hub", 1), ("todo", 4), ("todo-rejected", 1)] {
        cluster.create_topic(topic, partitions, 1).unwrap();
    }
    let url = format!("kafka://{}/hub", cluster.bootstrap_servers());
    let servers = two(&url, "kafka:todo").await;
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", cluster.bootstrap_servers());
    let backend: FutureProducer = config.create().unwrap();
    let leave = async |command: &str| {
        let record = FutureRecord::to("todo").key("one").payload(command);
        backend.send(record, support::DEADLINE).await.unwrap();
    };
    each_command_is_carried_out_once(&servers, leave).await;
    stop(servers).await;
}

#[test]
fn a_source_that_cannot_be_used_is_refused_with_the_rule() {
    let redis = "redis://u:secret@h";
    for (url, source, rule) in [
        (redis, "todo", "expected redis-stream:KEY"),
        (redis, "redis-stream:", "the key of the stream"),
        ("nats://u:secret@h", "redis-stream:todo", "expected redis://"),
    ] {
        let backplane = Backplane::new(redis).unwrap();
        let error = backplane.commands_from(url, source).unwrap_err().to_string();
        assert!(error.contains(rule) && !error.contains("secret"), "{error}");
    }
}
