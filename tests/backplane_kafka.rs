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

/// What is asked of a broker that hangs is answered so much later, though it goes on before: longer
/// than nodes wait that are to give it up, and less than clients do.
const HELD: Duration = Duration::from_secs(8);

struct Kafka(MockCluster<'static, DefaultProducerContext>);

impl Bench for Kafka {
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
        self.0.broker_round_trip_time(BROKER, HELD).unwrap();
    }

    fn resume(&self) {
        self.0.broker_round_trip_time(BROKER, Duration::ZERO).unwrap();
    }
}

contract!(Kafka);
