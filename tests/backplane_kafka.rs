//! Servers joined by Kafka: by the brokers that librdkafka brings for tests, which keep their topics
//! when they go, as Kafka does.

#![cfg(feature = "kafka")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod contract;
mod support;

use std::time::Duration;

use hubnerite::Backplane;
use rdkafka::{
    ClientConfig,
    mocking::MockCluster,
    producer::{DefaultProducerContext, FutureProducer, FutureRecord},
};

use crate::contract::Bench;

const BROKER: i32 = 1;

struct Kafka(MockCluster<'static, DefaultProducerContext>);

impl Bench for Kafka {
    /// These brokers keep an answer back for as long as they were told when they were asked.
    const GOES_ON: bool = false;

    async fn start() -> Self {
        let cluster = MockCluster::new(1).unwrap();
        // What one sender says to several targets keeps its order in one partition.
        cluster.create_topic("hub", 1, 1).unwrap();
        Self(cluster)
    }

    fn backplane(&self) -> Backplane {
        Backplane::new(&format!("kafka://{}/hub", self.0.bootstrap_servers())).unwrap()
    }

    async fn publish(&self, subject: &str, bytes: &[u8]) {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.0.bootstrap_servers());
        let producer: FutureProducer = config.create().unwrap();
        let record = FutureRecord::to("hub").key(subject).payload(bytes);
        producer.send(record, support::DEADLINE).await.unwrap();
    }

    async fn stop(&mut self) {
        self.0.broker_down(BROKER).unwrap();
    }

    async fn restart(&mut self) {
        self.0.broker_up(BROKER).unwrap();
    }

    fn pause(&self) {
        self.0.broker_round_trip_time(BROKER, Duration::from_mins(1)).unwrap();
    }

    fn resume(&self) {
        self.0.broker_round_trip_time(BROKER, Duration::ZERO).unwrap();
    }
}

contract!(Kafka);
