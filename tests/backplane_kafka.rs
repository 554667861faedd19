//! Servers joined by Kafka: by the brokers that librdkafka brings for tests, which keep their topics
//! when they go, as Kafka does; and by a broker that is a process, and hangs like one.

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

/// Publishes a message as a backend does.
async fn produce(servers: &str, subject: &str, bytes: &[u8]) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", servers);
    let producer: FutureProducer = config.create().unwrap();
    let record = FutureRecord::to("hub").key(subject).payload(bytes);
    producer.send(record, support::DEADLINE).await.unwrap();
}

struct Mock(MockCluster<'static, DefaultProducerContext>);

impl Bench for Mock {
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
        produce(&self.0.bootstrap_servers(), subject, bytes).await;
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

contract!(Mock);

mod on_tansu {
    use crate::{
        contract::served::{Program, Served},
        produce,
        support::EngineServer,
    };

    struct Tansu;

    impl Program for Tansu {
        async fn start() -> EngineServer {
            EngineServer::tansu(1).await
        }

        fn url(port: u16) -> String {
            format!("kafka://127.0.0.1:{port}/hub")
        }

        async fn publish(port: u16, subject: &str, bytes: &[u8]) {
            produce(&format!("127.0.0.1:{port}"), subject, bytes).await;
        }
    }

    crate::contract!(Served<Tansu>, ignore = "needs tansu, a broker: the step kafka of tests/all");
}
