//! A topic that nodes read as one consumer group.

use std::io;

use bytes::Bytes;
use futures_util::FutureExt;
use rdkafka::{
    ClientConfig, Message,
    consumer::{Consumer, StreamConsumer},
    error::KafkaError,
    producer::{FutureProducer, FutureRecord},
};
use tokio::time::timeout;

use super::{
    check_topic,
    client::{self, Apart, Quiet},
    failed, is_passing,
};
use crate::backplane::{
    address::EngineUrl,
    commands::{CommandSource, Commands, Entry, MAX_ENTRIES, WAIT},
    engine::Io,
};

/// The nodes' consumer group.
const GROUP: &str = "hubnerite-commands";

/// Commands in a topic of a Kafka cluster.
pub(crate) struct CommandTopic {
    config: ClientConfig,
    topic: String,
}

impl CommandTopic {
    pub(crate) fn new(url: &EngineUrl, topic: &str) -> Result<Self, &'static str> {
        if url.scheme != "kafka" {
            return Err("kafka:TOPIC needs a backplane kafka://");
        }
        check_topic(topic)?;
        if topic == url.path {
            return Err("the topic of the backplane is for the nodes alone");
        }
        let mut config = client::config(url)?;
        // What is acknowledged is stored by us, and committed a moment later.
        config
            .set("group.id", GROUP)
            .set("auto.offset.reset", "earliest")
            .set("enable.auto.commit", "true")
            .set("auto.commit.interval.ms", "500")
            .set("enable.auto.offset.store", "false");
        Ok(Self { config, topic: topic.to_owned() })
    }

    fn begin(&self) -> Result<Box<dyn Commands>, KafkaError> {
        let consumer: StreamConsumer<Quiet> = self.config.create_with_context(Quiet)?;
        consumer.subscribe(&[&self.topic])?;
        let producer = self.config.create_with_context(Quiet)?;
        let (consumer, producer) = (Apart::new(consumer), Apart::new(producer));
        Ok(Box::new(Reader { consumer, producer, topic: self.topic.clone() }))
    }
}

impl CommandSource for CommandTopic {
    fn open(&self) -> Io<'_, Box<dyn Commands>> {
        Box::pin(async { self.begin().map_err(failed) })
    }
}

struct Reader {
    consumer: Apart<StreamConsumer<Quiet>>,
    producer: Apart<FutureProducer<Quiet>>,
    topic: String,
}

impl Reader {
    async fn read(&mut self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        match timeout(WAIT, self.receive()).await {
            Ok(first) => entries.push(first?),
            Err(_) => return Ok(entries),
        }
        while entries.len() < MAX_ENTRIES
            && let Some(next) = self.receive().now_or_never()
        {
            entries.push(next?);
        }
        Ok(entries)
    }

    async fn receive(&self) -> io::Result<Entry> {
        loop {
            match self.consumer.recv().await {
                Ok(message) => {
                    let bytes = Bytes::copy_from_slice(message.payload().unwrap_or_default());
                    let id = format!("{}:{}", message.partition(), message.offset());
                    return Ok(Entry { id, bytes, rejected: None });
                }
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }

    async fn acknowledge(&mut self, entries: Vec<Entry>) -> io::Result<()> {
        for Entry { id, bytes, rejected } in &entries {
            if let Some(rule) = rejected {
                self.keep_rejected(bytes, rule).await;
            }
            let place = id.split_once(':').and_then(|(partition, offset)| {
                Some((partition.parse().ok()?, offset.parse().ok()?))
            });
            if let Some((partition, offset)) = place {
                // Its partition may be another node's by now, which reads it again.
                let _ = self.consumer.store_offset(&self.topic, partition, offset);
            }
        }
        Ok(())
    }
}

impl Reader {
    /// It is counted and logged already; where there is no topic for it, that has to do.
    async fn keep_rejected(&self, bytes: &[u8], rule: &str) {
        let topic = format!("{}-rejected", self.topic);
        let record = FutureRecord::to(&topic).key(rule).payload(bytes);
        if !matches!(timeout(WAIT, self.producer.send(record, WAIT)).await, Ok(Ok(_))) {
            log::debug!("a rejected command was not kept in {topic}");
        }
    }
}

impl Commands for Reader {
    fn next(&mut self) -> Io<'_, Vec<Entry>> {
        Box::pin(self.read())
    }

    fn done(&mut self, entries: Vec<Entry>) -> Io<'_, ()> {
        Box::pin(self.acknowledge(entries))
    }
}
