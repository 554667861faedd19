//! What backends have an engine keep until some node carries it out: messages, as the REST API
//! takes them, with whom they are for.
//!
//! A command becomes an envelope like those of nodes, for all of them and this one alike, and is
//! acknowledged once the engine has that: it is carried out at least once.

use std::{borrow::Cow, io, sync::Arc, time::Duration};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep, timeout};

use super::{
    address::EngineUrl,
    engine::{Command, Engine, Io, Link},
    envelope::To,
    journal::KINDS,
    node::Node,
    node_id::NodeId,
    subject::Subject,
};
use crate::{
    frame::{Form, Kind, Publication},
    protocol::{Batch, DataType, Payload, Source, check_group, check_hub},
    relay::Post,
    selection::Selection,
    target::Target,
};

/// How long anything may take that an engine is asked for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Before it is asked again.
const PAUSE: Duration = Duration::from_secs(1);

/// How often it is said that something is wrong.
const LOG_INTERVAL: Duration = Duration::from_mins(1);

/// What is read at once, and acknowledged at once, at most.
pub(crate) const MAX_ENTRIES: usize = 100;

/// How long a read waits for something to come.
pub(crate) const WAIT: Duration = Duration::from_secs(1);

/// Where commands come from: nodes share them, so that each is one node's.
pub(crate) trait CommandSource: Send + Sync + 'static {
    /// Connects. The caller sets the deadline.
    fn open(&self) -> Io<'_, Box<dyn Commands>>;
}

/// An open source. It ends with the first error, and what was not acknowledged comes again.
pub(crate) trait Commands: Send {
    /// The next ones: after a while without any, none.
    fn next(&mut self) -> Io<'_, Vec<Entry>>;

    /// Acknowledges them all, and keeps a copy of what was rejected.
    fn done(&mut self, entries: Vec<Entry>) -> Io<'_, ()>;
}

/// One command.
pub(crate) struct Entry {
    /// What its source knows it by.
    pub(crate) id: String,
    pub(crate) bytes: Bytes,
    /// The rule that it breaks.
    pub(crate) rejected: Option<String>,
}

/// The task that carries commands out.
pub(super) struct Carrier {
    pub(super) source: Arc<dyn CommandSource>,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) node: Arc<Node>,
}

impl Carrier {
    /// Never ends by itself.
    pub(super) async fn run(self) {
        let mut logged_at = None::<Instant>;
        loop {
            let Err(error) = self.work(&mut logged_at).await;
            warn_sometimes(&mut logged_at, &format!("commands are not read: {error}"));
            sleep(PAUSE).await;
        }
    }

    async fn work(&self, logged_at: &mut Option<Instant>) -> io::Result<std::convert::Infallible> {
        let mut commands = within(self.source.open()).await?;
        let Link { mut outbound, .. } = within(self.engine.connect()).await?;
        loop {
            let mut entries = within(commands.next()).await?;
            let mut messages = Vec::new();
            for entry in &mut entries {
                match self.envelopes(&entry.bytes) {
                    Ok(sealed) => messages.extend(sealed),
                    Err(rule) => {
                        self.node.counters.rejected_commands.add(1);
                        warn_sometimes(logged_at, &format!("a command makes no sense: {rule}"));
                        entry.rejected = Some(rule);
                    }
                }
            }
            if entries.is_empty() {
                continue;
            }
            let publish = |(subject, bytes)| Command::Publish(subject, bytes);
            let messages: Vec<_> = messages.into_iter().map(publish).collect();
            within(outbound.carry(&messages)).await?;
            self.node.counters.commands.add(entries.len() as u64);
            within(commands.done(entries)).await?;
        }
    }

    fn envelopes(&self, bytes: &[u8]) -> Result<Vec<(Subject, Bytes)>, String> {
        let asked: Asked<'_> = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        Selection::new(asked.filter.as_deref(), asked.excluded.clone())
            .map_err(|error| error.to_string())?;
        let payload = Payload::new(asked.data_type.unwrap_or(DataType::Json), asked.data)?;
        check_hub(&asked.hub)?;
        if let To::Group(group) = &asked.to {
            check_group(group)?;
        }
        let mut users = Vec::new();
        let (target, source) = match &asked.to {
            To::All(_) => (Target::All, Source::Server),
            To::Group(group) => (Target::Group(group), Source::Group(group)),
            To::User(user) => (Target::User(user), Source::Server),
            To::Users(names) => {
                users.clone_from(names);
                users.sort_unstable();
                users.dedup();
                (Target::Users(&users), Source::Server)
            }
            To::Connection(name) => (Target::Foreign(name), Source::Server),
            To::Nodes(_) | To::Node(_) => return Err("to: must name clients".to_owned()),
        };
        let mut message = Batch::default();
        message.push(source, None, payload);
        let wire = message.encode(Form::Envelope);
        let (hub, excluded) = (&*asked.hub, &asked.excluded[..]);
        let filter = asked.filter.as_deref();
        let post = Post { hub, target, excluded, filter, kind: Kind::Message, wire: &wire };
        self.node.seal_for_all(&post).ok_or_else(|| "data: larger than the engine takes".to_owned())
    }
}

/// The source that is written `redis-stream:KEY` or `kafka:TOPIC`, kept by the engine at this URL.
///
/// # Errors
/// The rule that either breaks; never a part of the URL.
pub(super) fn source(url: &str, source: &str) -> Result<Arc<dyn CommandSource>, &'static str> {
    let url: EngineUrl = url.parse()?;
    let (kind, name) = source.split_once(':').ok_or(KINDS)?;
    match kind {
        #[cfg(feature = "redis")]
        "redis-stream" => {
            let consumer = NodeId::of_process().to_string();
            Ok(Arc::new(super::redis::CommandStream::new(&url, name, consumer)?))
        }
        #[cfg(feature = "kafka")]
        "kafka" => Ok(Arc::new(super::kafka::CommandTopic::new(&url, name)?)),
        _ => {
            // A build without engines takes neither.
            let _ = (url, name);
            Err(KINDS)
        }
    }
}

/// What a command says.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Asked<'a> {
    #[serde(default = "default_hub", borrow)]
    hub: Cow<'a, str>,
    #[serde(borrow)]
    to: To<'a>,
    #[serde(default)]
    data_type: Option<DataType>,
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(default)]
    excluded: Vec<String>,
    #[serde(default)]
    filter: Option<String>,
}

fn default_hub() -> Cow<'static, str> {
    Cow::Borrowed("default")
}

async fn within<T>(asked: Io<'_, T>) -> io::Result<T> {
    timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn warn_sometimes(logged_at: &mut Option<Instant>, what: &str) {
    if logged_at.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
        log::warn!("backplane: {what}");
        *logged_at = Some(Instant::now());
    }
}
