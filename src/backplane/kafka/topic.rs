//! What is known of the topic before the first message: its partitions, their ends, its limit.

use std::{io, sync::Arc, time::Duration};

use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, ResourceSpecifier},
    consumer::{Consumer, StreamConsumer},
};

use super::{
    client::{Apart, MAX_MESSAGE, Quiet},
    failed,
};

/// How long a broker may take for an answer: the caller's deadline does not end a call that
/// blocks.
const PATIENCE: Duration = Duration::from_secs(4);

/// How long it may take to say what the topic's limit is. Brokers that do not know the question
/// leave it at that.
const LIMIT_PATIENCE: Duration = Duration::from_secs(1);

/// What a topic takes unless it is told otherwise (`max.message.bytes`).
const USUAL_MAX_BYTES: usize = 1_048_588;

/// What a message has beside its payload: the heads of its batch and of itself, and its key, whose
/// words are short.
const OVERHEAD: usize = 1 << 10;

/// The largest message that a topic takes which did not take one of this length.
pub(super) fn less_than(length: usize) -> usize {
    (USUAL_MAX_BYTES - OVERHEAD).min(length.saturating_sub(1))
}

/// A consumer that reads on from where the topic ends now, and the largest message.
pub(super) async fn join(
    config: &ClientConfig,
    topic: &Arc<str>,
) -> io::Result<(StreamConsumer<Quiet>, usize)> {
    let consumer = config.create_with_context(Quiet).map_err(failed)?;
    let assigned = Arc::clone(topic);
    let positioned = tokio::task::spawn_blocking(move || read_from_the_end(consumer, &assigned));
    let (consumer, largest) = tokio::join!(positioned, max_message(config, topic));
    Ok((consumer.map_err(io::Error::other)??, largest))
}

/// The position is asked for, and not left to the first fetch: what comes between is not missed.
fn read_from_the_end(
    consumer: StreamConsumer<Quiet>,
    topic: &str,
) -> io::Result<StreamConsumer<Quiet>> {
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).map_err(failed)?;
    let partitions =
        metadata.topics().iter().flat_map(rdkafka::metadata::MetadataTopic::partitions);
    let mut ends = TopicPartitionList::new();
    for partition in partitions {
        let (_, end) =
            consumer.fetch_watermarks(topic, partition.id(), PATIENCE).map_err(failed)?;
        let end = Offset::Offset(end);
        ends.add_partition_offset(topic, partition.id(), end).map_err(failed)?;
    }
    if ends.count() == 0 {
        return Err(io::Error::other(format!("there is no topic {topic}")));
    }
    consumer.assign(&ends).map_err(failed)?;
    Ok(consumer)
}

/// Where the topic may not be asked, the first message that it does not take tells.
async fn max_message(config: &ClientConfig, topic: &str) -> usize {
    let largest = asked_max_bytes(config, topic).await.unwrap_or(MAX_MESSAGE);
    largest.min(MAX_MESSAGE).saturating_sub(OVERHEAD)
}

async fn asked_max_bytes(config: &ClientConfig, topic: &str) -> Option<usize> {
    let admin: AdminClient<Quiet> = config.create_with_context(Quiet).ok()?;
    let admin = Apart::new(admin);
    let options = AdminOptions::new().request_timeout(Some(LIMIT_PATIENCE));
    let asked = admin.describe_configs(&[ResourceSpecifier::Topic(topic)], &options).await.ok()?;
    let described = asked.into_iter().next()?.ok()?;
    described.get("max.message.bytes")?.value.as_ref()?.parse().ok()
}
