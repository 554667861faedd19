//! How librdkafka is set up: quick to say that something failed, and quiet.

use std::{ops::Deref, thread};

use rdkafka::{
    ClientConfig, ClientContext, config::RDKafkaLogLevel, consumer::ConsumerContext,
    error::KafkaError,
};

use crate::backplane::address::{EngineUrl, PemFiles};

const PORT: u16 = 9092;

/// What one message may have at most, whatever the topic takes.
pub(super) const MAX_MESSAGE: usize = 32 << 20;

/// # Errors
/// The rule that the URL breaks.
pub(super) fn config(url: &EngineUrl) -> Result<ClientConfig, &'static str> {
    if url.pem != PemFiles::default() {
        return Err("kafka:// has no TLS, and no use for ca, cert and key");
    }
    let hosts: Vec<_> = url.hosts.iter().map(|host| host.with_port(PORT)).collect();
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", hosts.join(","))
        .set("client.id", env!("CARGO_PKG_NAME"))
        // librdkafka reads nothing without one. No node joins it, and nothing is kept under it.
        .set("group.id", env!("CARGO_PKG_NAME"))
        // Without this a message that is sent again might come twice, or behind a later one.
        .set("enable.idempotence", "true")
        .set("message.max.bytes", MAX_MESSAGE.to_string())
        .set("fetch.message.max.bytes", MAX_MESSAGE.to_string())
        // The driver's batches are what lingering would gather.
        .set("linger.ms", "0")
        .set("message.timeout.ms", "10000")
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "1000")
        // A broker answers as soon as there is anything; some look only when the time is over.
        .set("fetch.wait.max.ms", "50")
        .set("fetch.error.backoff.ms", "50")
        // A topic that was cut behind us: what it held is lost, and that has to be known.
        .set("auto.offset.reset", "error")
        .set("enable.auto.commit", "false");
    match (&url.user, &url.password) {
        (Some(user), Some(password)) => {
            config.set("security.protocol", "sasl_plaintext").set("sasl.mechanism", "PLAIN");
            config.set("sasl.username", user).set("sasl.password", password);
        }
        (None, None) => {}
        _ => return Err("a user has a password, and a password has a user"),
    }
    Ok(config)
}

/// What goes wrong is told by calls that fail; librdkafka would say it again, and again.
pub(super) struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        log::debug!("librdkafka: {facility} {message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        log::debug!("librdkafka: {error}: {reason}");
    }
}

impl ConsumerContext for Quiet {}

/// A client that is dropped in a thread of its own: librdkafka waits for its threads to end.
pub(super) struct Apart<T: Send + 'static>(Option<T>);

impl<T: Send + 'static> Apart<T> {
    pub(super) fn new(client: T) -> Self {
        Self(Some(client))
    }
}

impl<T: Send + 'static> Deref for Apart<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.0 {
            Some(client) => client,
            None => unreachable!("it is taken out on drop alone"),
        }
    }
}

impl<T: Send + 'static> Drop for Apart<T> {
    fn drop(&mut self) {
        let client = self.0.take();
        // Without a thread it is dropped here, with the closure.
        let _ = thread::Builder::new().name("kafka-drop".to_owned()).spawn(move || drop(client));
    }
}
