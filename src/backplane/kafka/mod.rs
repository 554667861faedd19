//! Kafka: one topic for all subjects, each the key of its messages.
//!
//! Every node reads the whole topic from its end on, without a consumer group and so without
//! rebalancing, and passes over what it has not subscribed to. Messages with one key are in one
//! partition and keep their order; a topic with one partition keeps the order of all.

mod client;
mod commands;
mod journal;
mod topic;

use std::{
    collections::HashSet,
    io,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use futures_util::future::try_join_all;
use rdkafka::{
    ClientConfig, Message,
    consumer::StreamConsumer,
    error::{KafkaError, RDKafkaErrorCode},
    producer::{FutureProducer, FutureRecord},
};

use self::client::{Apart, Quiet};
pub(crate) use self::{commands::CommandTopic, journal::Log};
use super::{
    address::EngineUrl,
    engine::{Command, Engine, Inbound, Io, Link, Outbound},
    subject::Subject,
};

/// Messages on their way at once: librdkafka takes 100,000.
const MAX_UNDER_WAY: usize = 10_000;

/// A Kafka cluster, and the topic that the nodes share.
pub(crate) struct KafkaEngine {
    address: String,
    config: ClientConfig,
    topic: Arc<str>,
    /// Above this a message was not taken. It would not be on the next link either, and the next.
    limit: Arc<AtomicUsize>,
}

impl KafkaEngine {
    /// `kafka://[USER:PASSWORD@]HOST[:PORT][,HOST...]/TOPIC`.
    ///
    /// # Errors
    /// The rule that the URL breaks; never a part of it.
    pub(crate) fn new(url: &EngineUrl) -> Result<Self, &'static str> {
        if url.scheme != "kafka" {
            return Err("expected kafka://");
        }
        check_topic(&url.path)?;
        let topic = url.path.as_str().into();
        let limit = Arc::new(AtomicUsize::new(usize::MAX));
        Ok(Self { address: url.to_string(), config: client::config(url)?, topic, limit })
    }

    async fn link(&self) -> io::Result<Link> {
        let (consumer, max_message) = topic::join(&self.config, &self.topic).await?;
        let producer = self.config.create_with_context(Quiet).map_err(failed)?;
        let subscribed = Subscribed::default();
        let outbound = KafkaOutbound {
            producer: Apart::new(producer),
            topic: Arc::clone(&self.topic),
            subscribed: Arc::clone(&subscribed),
            max_message: max_message.min(self.limit.load(Ordering::Relaxed)),
            limit: Arc::clone(&self.limit),
        };
        let inbound = KafkaInbound { consumer: Apart::new(consumer), subscribed };
        Ok(Link { outbound: Box::new(outbound), inbound: Box::new(inbound) })
    }
}

impl Engine for KafkaEngine {
    fn connect(&self) -> Io<'_, Link> {
        Box::pin(self.link())
    }

    fn address(&self) -> &str {
        &self.address
    }
}

fn check_topic(topic: &str) -> Result<(), &'static str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if (1..=249).contains(&topic.len()) && topic.chars().all(is_plain) {
        return Ok(());
    }
    Err("a topic has letters, digits, dots, - and _, and behind kafka://HOST/ there must be one")
}

/// Keys that are for this node.
type Subscribed = Arc<RwLock<HashSet<Box<[u8]>>>>;

struct KafkaOutbound {
    producer: Apart<FutureProducer<Quiet>>,
    topic: Arc<str>,
    subscribed: Subscribed,
    max_message: usize,
    limit: Arc<AtomicUsize>,
}

impl Outbound for KafkaOutbound {
    fn carry<'a>(&'a mut self, commands: &'a [Command]) -> Io<'a, ()> {
        Box::pin(async move {
            for commands in commands.chunks(MAX_UNDER_WAY) {
                let mut deliveries = Vec::new();
                for command in commands {
                    match command {
                        Command::Publish(subject, message) => {
                            deliveries.push(self.produce(subject, message)?);
                        }
                        // The topic is read already: from here on they are not passed over.
                        Command::Subscribe(subject) => {
                            self.subscribed().insert(key(subject));
                        }
                        Command::Unsubscribe(subject) => {
                            self.subscribed().remove(&key(subject));
                        }
                    }
                }
                try_join_all(deliveries).await?;
            }
            Ok(())
        })
    }

    fn max_message(&self) -> usize {
        self.max_message
    }
}

impl KafkaOutbound {
    fn produce(
        &self,
        subject: &Subject,
        message: &Bytes,
    ) -> io::Result<impl Future<Output = io::Result<()>> + use<>> {
        let record = FutureRecord::to(&self.topic).key(subject.as_str()).payload(&message[..]);
        let delivery = self.producer.send_result(record).map_err(|(error, _)| failed(error))?;
        let (length, limit) = (message.len(), Arc::clone(&self.limit));
        Ok(async move {
            let delivered = delivery.await.map_err(io::Error::other)?;
            delivered.map(|_| ()).map_err(|(error, _)| {
                if error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge) {
                    limit.fetch_min(topic::less_than(length), Ordering::Relaxed);
                }
                failed(error)
            })
        })
    }

    fn subscribed(&self) -> std::sync::RwLockWriteGuard<'_, HashSet<Box<[u8]>>> {
        self.subscribed.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(subject: &Subject) -> Box<[u8]> {
    subject.as_str().as_bytes().into()
}

struct KafkaInbound {
    consumer: Apart<StreamConsumer<Quiet>>,
    subscribed: Subscribed,
}

impl Inbound for KafkaInbound {
    fn receive(&mut self) -> Io<'_, Bytes> {
        Box::pin(async {
            loop {
                let message = match self.consumer.recv().await {
                    Ok(message) => message,
                    Err(error) if is_passing(&error) => continue,
                    Err(error) => return Err(failed(error)),
                };
                let subscribed = self.subscribed.read().unwrap_or_else(PoisonError::into_inner);
                if message.key().is_some_and(|key| subscribed.contains(key)) {
                    return Ok(Bytes::copy_from_slice(message.payload().unwrap_or_default()));
                }
            }
        })
    }
}

/// One broker of several may go: its partitions are read on where another has them.
fn is_passing(error: &KafkaError) -> bool {
    let code = error.rdkafka_error_code();
    matches!(
        code,
        Some(RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::OperationTimedOut)
    )
}

fn failed(error: KafkaError) -> io::Error {
    io::Error::other(error)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rdkafka::{mocking::MockCluster, producer::DefaultProducerContext};

    use super::*;
    use crate::backplane::{
        engine_contract::{self, carry, connect, publish, receive, subscribe, within},
        engine_server::{EngineServer, free_port},
    };

    fn engine(url: &str) -> Result<KafkaEngine, &'static str> {
        KafkaEngine::new(&url.parse()?)
    }

    /// librdkafka's own brokers, in this process.
    fn mock(
        brokers: i32,
        partitions: i32,
    ) -> (MockCluster<'static, DefaultProducerContext>, KafkaEngine) {
        let cluster = MockCluster::new(brokers).unwrap();
        cluster.create_topic("hub", partitions, 1).unwrap();
        let engine = engine(&format!("kafka://{}/hub", cluster.bootstrap_servers())).unwrap();
        (cluster, engine)
    }

    #[test]
    fn a_url_that_cannot_be_used_is_refused_with_the_rule() {
        for (url, rule) in [
            ("nats://a/b", "expected kafka://"),
            (
                "kafka://a",
                "a topic has letters, digits, dots, - and _, and behind kafka://HOST/ there must be one",
            ),
            (
                "kafka://a/b/c",
                "a topic has letters, digits, dots, - and _, and behind kafka://HOST/ there must be one",
            ),
            ("kafka://a/b?ca=c", "kafka:// has no TLS, and no use for ca, cert and key"),
            ("kafka://me@a/b", "a user has a password, and a password has a user"),
        ] {
            assert_eq!(engine(url).err(), Some(rule), "{url}");
        }
    }

    #[tokio::test]
    #[ignore = "needs tansu, a broker: the step kafka of tests/all"]
    async fn the_contract_holds() {
        let server = EngineServer::tansu(3).await;
        let engine = engine(&format!("kafka://127.0.0.1:{}/hub", server.port)).unwrap();
        engine_contract::holds_across_a_restart(&engine, server).await;
    }

    #[tokio::test]
    async fn a_broker_that_is_not_there_is_an_error() {
        let nobody = engine(&format!("kafka://127.0.0.1:{}/hub", free_port())).unwrap();
        within("an error", nobody.connect()).await.err().unwrap();
    }

    #[tokio::test]
    async fn what_was_published_before_is_not_heard_and_what_comes_after_is() {
        let (_cluster, engine) = mock(1, 4);
        let mut before = connect(&engine).await;
        carry(&mut before, &[publish("a", "old"), publish("b", "old")]).await;
        let mut after = connect(&engine).await;
        carry(&mut after, &[subscribe("a"), publish("a", "new")]).await;
        assert_eq!(receive(&mut after).await, "new");
    }

    #[tokio::test]
    async fn one_broker_of_several_may_go() {
        let (cluster, engine) = mock(3, 1);
        cluster.partition_leader("hub", 0, Some(1)).unwrap();
        let mut link = connect(&engine).await;
        carry(&mut link, &[subscribe("a"), publish("a", "1")]).await;
        assert_eq!(receive(&mut link).await, "1");
        cluster.broker_down(1).unwrap();
        cluster.partition_leader("hub", 0, Some(2)).unwrap();
        carry(&mut link, &[publish("a", "2")]).await;
        assert_eq!(receive(&mut link).await, "2");
    }

    #[tokio::test]
    async fn a_message_that_the_broker_does_not_take_is_an_error() {
        let (cluster, engine) = mock(1, 1);
        let mut link = connect(&engine).await;
        let refusal = rdkafka::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
        cluster.request_errors(rdkafka::types::RDKafkaApiKey::Produce, &[refusal; 10]);
        within("an error", link.outbound.carry(&[publish("a", "1")])).await.unwrap_err();
    }

    #[tokio::test]
    async fn what_the_topic_does_not_take_is_known_on_the_next_link() {
        let (cluster, engine) = mock(1, 1);
        let mut link = connect(&engine).await;
        assert!(link.outbound.max_message() > 8 << 20);
        let refusal = rdkafka::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
        cluster.request_errors(rdkafka::types::RDKafkaApiKey::Produce, &[refusal]);
        let large = publish("a", vec![0; 2 << 20]);
        within("an error", link.outbound.carry(&[large])).await.unwrap_err();
        assert_eq!(connect(&engine).await.outbound.max_message(), 1_048_588 - 1024);
    }

    #[tokio::test]
    async fn a_link_is_dropped_without_waiting() {
        let (cluster, engine) = mock(1, 1);
        let link = connect(&engine).await;
        cluster.broker_round_trip_time(1, Duration::from_secs(3)).unwrap();
        let start = std::time::Instant::now();
        drop(link);
        assert!(start.elapsed() < Duration::from_millis(200), "{:?}", start.elapsed());
    }
}
