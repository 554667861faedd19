//! A stream as a journal: `XADD KEY * event RECORD`.

use ::redis::{aio::MultiplexedConnection, cmd};
use tokio::sync::Mutex;

use super::{Channels, Listener, failed, servers::Servers};
use crate::backplane::{
    address::EngineUrl,
    journal::{Journal, Kept, NotKept},
};

/// A stream of a Redis server. It is never trimmed: who reads it knows what has been read.
pub(crate) struct Stream {
    servers: Servers,
    key: String,
    /// Made when it is needed, and left when something went wrong on it.
    connection: Mutex<Option<MultiplexedConnection>>,
}

impl Stream {
    pub(crate) fn new(url: &EngineUrl, key: &str) -> Result<Self, &'static str> {
        if key.is_empty() {
            return Err("expected the key of the stream behind redis-stream:");
        }
        let servers = Servers::new(url, Channels::Ordinary)?;
        Ok(Self { servers, key: key.to_owned(), connection: Mutex::default() })
    }

    /// Many records share one connection: they are on their way at the same time.
    async fn connection(&self) -> Result<MultiplexedConnection, NotKept> {
        let mut connection = self.connection.lock().await;
        if let Some(connection) = &*connection {
            return Ok(connection.clone());
        }
        let new = self.servers.connect(&Listener::deaf()).await.map_err(NotKept::Unreachable)?;
        Ok(connection.insert(new).clone())
    }

    async fn add(&self, record: &[u8]) -> Result<(), NotKept> {
        let mut connection = self.connection().await?;
        let add = cmd("XADD").arg(&self.key).arg("*").arg("event").arg(record).take();
        if let Err(error) = add.exec_async(&mut connection).await {
            *self.connection.lock().await = None;
            return Err(NotKept::Failed(failed(error)));
        }
        Ok(())
    }
}

impl Journal for Stream {
    fn append<'a>(&'a self, _: &'a str, record: &'a [u8]) -> Kept<'a> {
        Box::pin(self.add(record))
    }
}
