//! A log that an engine keeps until somebody has read it: a stream of Redis, a topic of Kafka.

use std::{future::Future, io, pin::Pin, sync::Arc};

use super::address::EngineUrl;

/// Why a record was not kept.
#[derive(Debug)]
pub(crate) enum NotKept {
    /// Nothing was written to anybody.
    Unreachable(io::Error),
    /// It may have been kept all the same.
    Failed(io::Error),
}

/// Whether a record was kept, once that is known.
pub(crate) type Kept<'a> = Pin<Box<dyn Future<Output = Result<(), NotKept>> + Send + 'a>>;

/// Takes records at its end.
pub(crate) trait Journal: Send + Sync + 'static {
    /// Done once the engine has the record. Those with one key keep their order, if each waits for
    /// the one before. The caller sets the deadline; dropped, the record may be kept or not.
    fn append<'a>(&'a self, key: &'a str, record: &'a [u8]) -> Kept<'a>;
}

/// The journal that is written `redis-stream:KEY` or `kafka:TOPIC`, kept by the engine at this URL.
///
/// # Errors
/// The rule that either breaks; never a part of the URL.
pub(crate) fn open(url: &str, journal: &str) -> Result<Arc<dyn Journal>, &'static str> {
    let url: EngineUrl = url.parse()?;
    let (kind, name) = journal.split_once(':').ok_or(KINDS)?;
    match kind {
        #[cfg(feature = "redis")]
        "redis-stream" => Ok(Arc::new(super::redis::Stream::new(&url, name)?)),
        #[cfg(feature = "kafka")]
        "kafka" => Ok(Arc::new(super::kafka::Log::new(&url, name)?)),
        _ => {
            // A build without engines takes neither.
            let _ = (url, name);
            Err(KINDS)
        }
    }
}

pub(super) const KINDS: &str = match (cfg!(feature = "redis"), cfg!(feature = "kafka")) {
    (true, true) => "expected redis-stream:KEY or kafka:TOPIC",
    (true, false) => "expected redis-stream:KEY (kafka:TOPIC needs the cargo feature kafka)",
    (false, _) => "expected kafka:TOPIC (redis-stream:KEY needs the cargo feature redis)",
};
