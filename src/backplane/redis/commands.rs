//! A stream that nodes read as one consumer group.

use std::{io, time::Duration};

use ::redis::{Value, aio::MultiplexedConnection, cmd, from_redis_value, pipe};

use super::{Channels, Listener, failed, servers::Servers};
use crate::backplane::{
    address::EngineUrl,
    commands::{CommandSource, Commands, Entry, MAX_ENTRIES, WAIT},
    engine::Io,
};

/// The nodes' consumer group.
const GROUP: &str = "hubnerite";

/// A command that a node has read and not acknowledged for so long is another's.
const ABANDONED: Duration = Duration::from_secs(30);

/// Commands in a stream of a Redis server, in the field `command`.
pub(crate) struct CommandStream {
    servers: Servers,
    key: String,
    consumer: String,
}

impl CommandStream {
    /// `consumer` is this node's name in the group.
    pub(crate) fn new(url: &EngineUrl, key: &str, consumer: String) -> Result<Self, &'static str> {
        if key.is_empty() {
            return Err("expected the key of the stream behind redis-stream:");
        }
        let servers = Servers::new(url, Channels::Ordinary)?;
        Ok(Self { servers, key: key.to_owned(), consumer })
    }

    async fn begin(&self) -> io::Result<Box<dyn Commands>> {
        let mut connection = self.servers.connect(&Listener::deaf()).await?;
        let create =
            cmd("XGROUP").arg("CREATE").arg(&self.key).arg(GROUP).arg(0).arg("MKSTREAM").take();
        match create.exec_async(&mut connection).await {
            Err(error) if error.code() != Some("BUSYGROUP") => return Err(failed(error)),
            _ => {}
        }
        let (key, consumer) = (self.key.clone(), self.consumer.clone());
        Ok(Box::new(Reader { connection, key, consumer }))
    }
}

impl CommandSource for CommandStream {
    fn open(&self) -> Io<'_, Box<dyn Commands>> {
        Box::pin(self.begin())
    }
}

struct Reader {
    connection: MultiplexedConnection,
    key: String,
    consumer: String,
}

/// An entry of a stream: its id, and fields and values in turn; none where it was deleted.
type Raw = (String, Option<Vec<Value>>);

impl Reader {
    async fn read(&mut self) -> io::Result<Vec<Entry>> {
        let abandoned = cmd("XAUTOCLAIM")
            .arg(&self.key)
            .arg(GROUP)
            .arg(&self.consumer)
            .arg(millis(ABANDONED))
            .arg("0-0")
            .arg("COUNT")
            .arg(MAX_ENTRIES)
            .take();
        let claimed: Vec<Value> =
            abandoned.query_async(&mut self.connection).await.map_err(failed)?;
        let claimed = claimed.into_iter().nth(1).map(from_redis_value::<Vec<Raw>>);
        let claimed = claimed.transpose().map_err(io::Error::other)?.unwrap_or_default();
        if !claimed.is_empty() {
            return Ok(claimed.into_iter().map(entry).collect());
        }
        let read = cmd("XREADGROUP")
            .arg("GROUP")
            .arg(GROUP)
            .arg(&self.consumer)
            .arg("COUNT")
            .arg(MAX_ENTRIES)
            .arg("BLOCK")
            .arg(millis(WAIT))
            .arg("STREAMS")
            .arg(&self.key)
            .arg(">")
            .take();
        let streams: Option<Vec<(String, Vec<Raw>)>> =
            read.query_async(&mut self.connection).await.map_err(failed)?;
        let entries = streams.unwrap_or_default().into_iter().flat_map(|(_, entries)| entries);
        Ok(entries.map(entry).collect())
    }

    async fn acknowledge(&mut self, entries: Vec<Entry>) -> io::Result<()> {
        let mut pipe = pipe();
        for Entry { id, bytes, rejected } in &entries {
            if let Some(rule) = rejected {
                pipe.cmd("XADD").arg(format!("{}-rejected", self.key)).arg("*");
                pipe.arg("command").arg(&bytes[..]).arg("reason").arg(rule);
            }
            pipe.cmd("XACK").arg(&self.key).arg(GROUP).arg(id);
        }
        pipe.exec_async(&mut self.connection).await.map_err(failed)
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

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Without the field it is as good as empty, and rejected.
fn entry((id, fields): Raw) -> Entry {
    let mut fields = fields.unwrap_or_default().into_iter();
    let mut bytes = Vec::new();
    while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
        if name == Value::BulkString(b"command".to_vec()) {
            bytes = from_redis_value(value).unwrap_or_default();
        }
    }
    Entry { id, bytes: bytes.into(), rejected: None }
}
