//! What clients say, kept by an engine until a backend reads it.

#![cfg(feature = "redis")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod support;

use std::time::Duration;

use hubnerite::{Config, EventHandler, EventStream};
use serde_json::{Value, json};
use support::{EngineServer, TestServer, ack, expect_failure};

async fn redis_server() -> EngineServer {
    EngineServer::redis("--appendonly yes --appendfsync always").await
}

fn redis_url(server: &EngineServer) -> String {
    format!("redis://127.0.0.1:{}", server.port)
}

/// A server that keeps events in the stream `clicks`.
async fn keeping(engine: &EngineServer) -> TestServer {
    let stream = EventStream::new(&redis_url(engine), "redis-stream:clicks").unwrap();
    let handler = EventHandler::stream(stream).timeout(Duration::from_secs(2));
    TestServer::telling(Config::default(), handler).await
}

/// What a backend reads.
async fn records(engine: &EngineServer) -> Vec<Value> {
    let client = redis::Client::open(redis_url(engine)).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let range = redis::cmd("XRANGE").arg("clicks").arg("-").arg("+").take();
    let entries: Vec<(String, [String; 2])> = range.query_async(&mut connection).await.unwrap();
    let records = entries.into_iter().map(|(_, [field, record])| {
        assert_eq!(field, "event");
        serde_json::from_str(&record).unwrap()
    });
    records.collect()
}

fn click(number: u64) -> Value {
    json!({"type": "event", "event": "click", "data": {"n": number}, "ackId": number})
}

#[tokio::test]
#[ignore = "needs redis-server: the step redis of tests/all"]
async fn an_event_is_acknowledged_once_redis_keeps_it() {
    let engine = redis_server().await;
    let server = keeping(&engine).await;
    let mut ann = server.user("ann").await;
    for number in 1..=200 {
        assert_eq!(ann.ask(&click(number)).await, ack(number));
    }
    let kept = records(&engine).await;
    assert_eq!(kept.len(), 200);
    for (number, record) in (1..).zip(&kept) {
        assert_eq!(record["data"]["n"], number, "in their order");
    }
    let first = &kept[0];
    assert_eq!(first["connectionId"], ann.connected["connectionId"]);
    assert_eq!([&first["hub"], &first["userId"], &first["event"]], ["default", "ann", "click"]);
    drop(ann);
    server.stop().await;
}

#[tokio::test]
#[ignore = "needs redis-server: the step redis of tests/all"]
async fn what_redis_does_not_keep_is_refused_and_may_be_said_again() {
    let mut engine = redis_server().await;
    let server = keeping(&engine).await;
    let mut ann = server.user("ann").await;
    assert_eq!(ann.ask(&click(1)).await, ack(1));
    engine.kill();
    for number in 2..=3 {
        let refused = ann.ask(&click(number)).await;
        expect_failure(&refused, Some(number), "InternalServerError", "no engine");
    }
    engine.revive().await;
    for number in 2..=3 {
        assert_eq!(ann.ask(&click(number)).await, ack(number));
    }
    let numbers: Vec<_> =
        records(&engine).await.iter().map(|one| one["data"]["n"].clone()).collect();
    assert_eq!(numbers, [1, 2, 3]);
    drop(ann);
    server.stop().await;
}

#[test]
fn a_stream_that_cannot_be_used_is_refused_with_the_rule() {
    for (url, stream, rule) in [
        ("redis://u:secret@h", "clicks", "expected redis-stream:KEY"),
        ("redis://u:secret@h", "redis-stream:", "the key of the stream"),
        ("nats://u:secret@h", "redis-stream:clicks", "expected redis://"),
        ("redis://secret@h", "redis-stream:clicks", "a user has a password"),
    ] {
        let error = EventStream::new(url, stream).unwrap_err().to_string();
        assert!(error.contains(rule) && !error.contains("secret"), "{error}");
    }
}

#[cfg(feature = "kafka")]
mod kafka {
    use rdkafka::{
        ClientConfig, Message,
        consumer::{Consumer, StreamConsumer},
        mocking::MockCluster,
        types::{RDKafkaApiKey, RDKafkaRespErr},
    };

    use super::*;
    use crate::support::within;

    #[tokio::test]
    async fn an_event_is_acknowledged_once_kafka_keeps_it() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("clicks", 3, 1).unwrap();
        let url = format!("kafka://{}/hub", cluster.bootstrap_servers());
        let handler = EventHandler::stream(EventStream::new(&url, "kafka:clicks").unwrap());
        let server = TestServer::telling(Config::default(), handler).await;
        let mut ann = server.user("ann").await;
        for number in 1..=20 {
            assert_eq!(ann.ask(&click(number)).await, ack(number));
        }
        let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
        cluster.request_errors(RDKafkaApiKey::Produce, &[refusal]);
        let refused = ann.ask(&click(21)).await;
        expect_failure(&refused, Some(21), "InternalServerError", "not taken");
        let backend: StreamConsumer = ClientConfig::new()
            .set("bootstrap.servers", cluster.bootstrap_servers())
            .set("group.id", "backend")
            .set("auto.offset.reset", "earliest")
            .create()
            .unwrap();
        backend.subscribe(&["clicks"]).unwrap();
        for number in 1..=20 {
            let message = within("a record", backend.recv()).await.unwrap();
            let record: Value = serde_json::from_slice(message.payload().unwrap()).unwrap();
            assert_eq!(record["data"], json!({"n": number}));
            assert_eq!(record["connectionId"], str::from_utf8(message.key().unwrap()).unwrap());
        }
        drop(ann);
        server.stop().await;
    }

    #[test]
    fn the_topic_of_the_nodes_is_not_for_events() {
        let error = EventStream::new("kafka://h/hub", "kafka:hub").unwrap_err().to_string();
        assert!(error.contains("for the nodes alone"), "{error}");
    }
}
