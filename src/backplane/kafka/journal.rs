//! A topic as a journal.

use std::io;

use rdkafka::producer::{FutureProducer, FutureRecord};

use super::{
    client::{self, Apart, Quiet},
    failed,
};
use crate::backplane::{
    address::EngineUrl,
    journal::{Journal, Kept, NotKept},
};

/// A topic of a Kafka cluster, another than the one that joins the nodes.
pub(crate) struct Log {
    producer: Apart<FutureProducer<Quiet>>,
    topic: String,
}

impl Log {
    pub(crate) fn new(url: &EngineUrl, topic: &str) -> Result<Self, &'static str> {
        if url.scheme != "kafka" {
            return Err("kafka:TOPIC needs a backplane kafka://");
        }
        super::check_topic(topic)?;
        if topic == url.path {
            return Err("the topic of the backplane is for the nodes alone");
        }
        let producer = client::config(url)?.create_with_context(Quiet);
        let producer = producer.map_err(|_| "librdkafka does not take this URL")?;
        Ok(Self { producer: Apart::new(producer), topic: topic.to_owned() })
    }

    async fn produce(&self, key: &str, record: &[u8]) -> Result<(), NotKept> {
        let record = FutureRecord::to(&self.topic).key(key).payload(record);
        let delivery = self.producer.send_result(record);
        let delivery = delivery.map_err(|(error, _)| NotKept::Failed(failed(error)))?;
        let delivered = delivery.await.map_err(|gone| NotKept::Failed(io::Error::other(gone)))?;
        delivered.map(|_| ()).map_err(|(error, _)| NotKept::Failed(failed(error)))
    }
}

impl Journal for Log {
    fn append<'a>(&'a self, key: &'a str, record: &'a [u8]) -> Kept<'a> {
        Box::pin(self.produce(key, record))
    }
}
