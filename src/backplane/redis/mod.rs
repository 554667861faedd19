//! Redis and Valkey: a channel for each subject, one connection for both directions.
//!
//! Commands go out as one pipeline, and what is published to us comes between their answers
//! (RESP3), so messages arrive in the order that the server took them in.

mod commands;
mod servers;
mod shards;
mod stream;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use ::redis::{Pipeline, PushInfo, PushKind, RedisError, Value, aio::MultiplexedConnection};
use bytes::Bytes;
use futures_util::future::try_join_all;

pub(crate) use self::{commands::CommandStream, stream::Stream};
use self::{servers::Servers, shards::Slots};
use super::{
    address::EngineUrl,
    engine::{Command, Engine, Io, Link, Outbound},
    inbox::{Ended, Inbox},
};

/// Redis cuts off a subscriber for whom more than 32 MiB wait (`client-output-buffer-limit`). Half
/// of that leaves room for what waits already.
const MAX_MESSAGE: usize = 16 << 20;

/// Where messages pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Channels {
    /// `PUBLISH`: every server of a cluster hears every message.
    Ordinary,
    /// `SPUBLISH`: only the servers of the shard that the channel belongs to.
    Sharded,
}

/// One Redis server, one that Sentinel watches, or a Redis Cluster.
pub(crate) struct RedisEngine {
    address: String,
    servers: Servers,
    channels: Channels,
}

impl RedisEngine {
    /// `redis://[USER:PASSWORD@]HOST[:PORT][,HOST...][/DATABASE]`, `rediss://` with TLS,
    /// `redis+sentinel://` or `rediss+sentinel://[USER:PASSWORD@]SENTINEL[,SENTINEL...]/SERVICE`.
    ///
    /// # Errors
    /// The rule that the URL breaks; never a part of it.
    pub(crate) fn new(url: &EngineUrl, channels: Channels) -> Result<Self, &'static str> {
        Ok(Self { address: url.to_string(), servers: Servers::new(url, channels)?, channels })
    }

    async fn link(&self) -> io::Result<Link> {
        let (inbox, inbound) = Inbox::new();
        let unsubscribing = Arc::default();
        let listener = Listener { inbox, unsubscribing: Arc::clone(&unsubscribing) };
        let first = self.servers.connect(&listener).await?;
        let (nodes, slots) = match self.channels {
            Channels::Ordinary => (vec![first], None),
            Channels::Sharded => {
                let (nodes, slots) = shards::connect(&self.servers, first, &listener).await?;
                (nodes, Some(slots))
            }
        };
        let outbound = RedisOutbound { nodes, slots, unsubscribing };
        Ok(Link { outbound: Box::new(outbound), inbound: Box::new(inbound) })
    }
}

impl Engine for RedisEngine {
    fn connect(&self) -> Io<'_, Link> {
        Box::pin(self.link())
    }

    fn address(&self) -> &str {
        &self.address
    }
}

struct RedisOutbound {
    nodes: Vec<MultiplexedConnection>,
    /// Which node a channel belongs to, where that matters.
    slots: Option<Slots>,
    unsubscribing: Arc<AtomicUsize>,
}

impl Outbound for RedisOutbound {
    fn carry<'a>(&'a mut self, commands: &'a [Command]) -> Io<'a, ()> {
        Box::pin(async move {
            let mut pipes = vec![Pipeline::new(); self.nodes.len()];
            for command in commands {
                self.add(&mut pipes, command);
            }
            let carried = self.nodes.iter_mut().zip(&pipes).filter(|(_, pipe)| !pipe.is_empty());
            try_join_all(carried.map(|(node, pipe)| pipe.exec_async(node)))
                .await
                .map_err(failed)?;
            Ok(())
        })
    }

    fn max_message(&self) -> usize {
        MAX_MESSAGE
    }
}

impl RedisOutbound {
    fn add(&self, pipes: &mut [Pipeline], command: &Command) {
        let (subject, ordinary, sharded) = match command {
            Command::Publish(subject, _) => (subject, "PUBLISH", "SPUBLISH"),
            Command::Subscribe(subject) => (subject, "SUBSCRIBE", "SSUBSCRIBE"),
            Command::Unsubscribe(subject) => (subject, "UNSUBSCRIBE", "SUNSUBSCRIBE"),
        };
        let (node, name) = match &self.slots {
            Some(slots) => (slots.node(subject), sharded),
            None => (0, ordinary),
        };
        let line = pipes[node].cmd(name).arg(subject.as_str());
        match command {
            Command::Publish(_, message) => _ = line.arg(&message[..]),
            Command::Subscribe(_) => {}
            Command::Unsubscribe(_) => _ = self.unsubscribing.fetch_add(1, Ordering::Relaxed),
        }
    }
}

/// What hears what the server says unasked.
#[derive(Clone)]
struct Listener {
    inbox: Inbox,
    /// Channels that we have asked to hear no more of. A cluster says the same unasked of the
    /// channels whose slot it moves away.
    unsubscribing: Arc<AtomicUsize>,
}

impl Listener {
    /// For a connection that nothing is published on.
    fn deaf() -> Self {
        Self { inbox: Inbox::new().0, unsubscribing: Arc::default() }
    }

    fn hear(&self, push: PushInfo) -> Result<(), Ended> {
        let PushInfo { kind, mut data } = push;
        match kind {
            PushKind::Message | PushKind::SMessage => match data.pop() {
                Some(Value::BulkString(message)) => self.inbox.put(Bytes::from(message)),
                _ => Ok(()),
            },
            PushKind::Unsubscribe | PushKind::SUnsubscribe => {
                let asked = |count: usize| count.checked_sub(1);
                let asked =
                    self.unsubscribing.fetch_update(Ordering::Relaxed, Ordering::Relaxed, asked);
                asked.map(|_| ()).map_err(|_| self.end("a channel has moved to another server"))
            }
            PushKind::Disconnection => Err(self.end("the server has closed the connection")),
            _ => Ok(()),
        }
    }

    fn end(&self, why: &'static str) -> Ended {
        self.inbox.end(io::Error::new(io::ErrorKind::ConnectionReset, why));
        Ended
    }
}

fn failed(error: RedisError) -> io::Error {
    io::Error::other(error)
}

#[cfg(test)]
mod tests {
    use std::process::Command as Process;

    use super::*;
    use crate::backplane::{
        engine_contract::{self, carry, connect, publish, receive, subscribe},
        engine_server::{EngineServer, command, free_port},
    };

    fn engine(url: &str, channels: Channels) -> Result<RedisEngine, &'static str> {
        RedisEngine::new(&url.parse()?, channels)
    }

    fn ordinary(url: &str) -> RedisEngine {
        engine(url, Channels::Ordinary).unwrap()
    }

    fn cli(port: u16, line: &str) {
        let port = port.to_string();
        let done = Process::new("redis-cli").args(["-p", &port]).args(line.split(' ')).output();
        let done = done.unwrap();
        assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stdout));
    }

    #[test]
    fn a_url_that_cannot_be_used_is_refused_with_the_rule() {
        for (url, channels, rule) in [
            (
                "nats://a",
                Channels::Ordinary,
                "expected redis://, rediss://, redis+sentinel:// or rediss+sentinel://",
            ),
            ("redis://me@a", Channels::Ordinary, "a user has a password"),
            ("redis://a/b", Channels::Ordinary, "the path is the number of a database"),
            (
                "redis://a?ca=b",
                Channels::Ordinary,
                "ca, cert and key are for rediss:// and rediss+sentinel://",
            ),
            ("redis+sentinel://a", Channels::Ordinary, "expected the service behind the Sentinels"),
            ("redis+sentinel://a/b", Channels::Sharded, "a cluster has no Sentinel"),
        ] {
            assert_eq!(engine(url, channels).err(), Some(rule), "{url}");
        }
        assert!(engine("redis://:secret@a:1,b/2", Channels::Ordinary).is_ok());
    }

    #[tokio::test]
    #[ignore = "needs redis-server: the step redis of tests/all"]
    async fn the_contract_holds() {
        let server = EngineServer::redis("").await;
        let engine = ordinary(&format!("redis://127.0.0.1:{}", server.port));
        engine_contract::holds_across_a_restart(&engine, server).await;
    }

    #[tokio::test]
    #[ignore = "needs redis-server: the step redis of tests/all"]
    async fn a_user_needs_its_password_and_no_error_tells_it() {
        let server = EngineServer::redis("--user default off --user me on >s3cret/ &contract.* +hello +publish +subscribe +unsubscribe").await;
        let at = |user_info| ordinary(&format!("redis://{user_info}@127.0.0.1:{}", server.port));
        let mut link = connect(&at("me:s3cret%2f")).await;
        carry(&mut link, &[subscribe("a"), publish("a", "1")]).await;
        assert_eq!(receive(&mut link).await, "1");
        let refused = at("me:wr0ng").connect().await.err().unwrap().to_string();
        assert!(refused.contains("WRONGPASS") && !refused.contains("wr0ng"), "{refused}");
        assert!(!at("me:wr0ng").address().contains("wr0ng"));
    }

    #[tokio::test]
    #[ignore = "needs redis-server: the step redis of tests/all"]
    async fn of_several_hosts_the_primary_is_used() {
        let (primary, replica) = (EngineServer::redis("").await, EngineServer::redis("").await);
        cli(replica.port, &format!("replicaof 127.0.0.1 {}", primary.port));
        let [nobody, replica, primary] = [free_port(), replica.port, primary.port];
        let url = format!("redis://127.0.0.1:{nobody},127.0.0.1:{replica},127.0.0.1:{primary}");
        let (mut several, mut one) = (
            connect(&ordinary(&url)).await,
            connect(&ordinary(&format!("redis://127.0.0.1:{primary}"))).await,
        );
        carry(&mut one, &[subscribe("several")]).await;
        carry(&mut several, &[publish("several", "1")]).await;
        assert_eq!(receive(&mut one).await, "1");
        let none = ordinary(&format!("redis://127.0.0.1:{nobody},127.0.0.1:{replica}"));
        let refused = none.connect().await.err().unwrap().to_string();
        assert!(refused.contains("refused") && refused.contains("not the primary"), "{refused}");
    }

    #[tokio::test]
    #[ignore = "needs redis-server: the step redis of tests/all"]
    async fn sentinels_name_the_primary() {
        let primary = EngineServer::redis("").await;
        let watched = primary.port;
        let sentinel = EngineServer::start(move |port, folder| {
            let config = format!("{folder}/sentinel.conf");
            std::fs::write(&config, format!("sentinel monitor main 127.0.0.1 {watched} 1\n"))
                .unwrap();
            command("redis-server", &format!("{config} --sentinel --port {port} --dir {folder}"))
        })
        .await;
        let hosts = format!("127.0.0.1:{},127.0.0.1:{}", free_port(), sentinel.port);
        let (mut link, mut direct) = (
            connect(&ordinary(&format!("redis+sentinel://{hosts}/main"))).await,
            connect(&ordinary(&format!("redis://127.0.0.1:{watched}"))).await,
        );
        carry(&mut link, &[subscribe("watched")]).await;
        carry(&mut direct, &[publish("watched", "1")]).await;
        assert_eq!(receive(&mut link).await, "1");
        let unknown = ordinary(&format!("redis+sentinel://{hosts}/other")).connect().await;
        assert!(unknown.err().unwrap().to_string().contains("no such service"));
    }

    #[tokio::test]
    #[ignore = "needs redis-server: the step redis of tests/all"]
    async fn the_contract_holds_on_a_cluster_and_its_shards() {
        // The servers speak to each other on ports of their own: by default 10,000 above these,
        // which there may not be.
        let others = [free_port(), free_port(), free_port()];
        let start = |others: u16| {
            EngineServer::start(move |port, folder| {
                let cluster = "--cluster-enabled yes --cluster-node-timeout 2000 --save";
                let ports = format!("--port {port} --cluster-port {others} --bind 127.0.0.1");
                command("redis-server", &format!("{ports} --dir {folder} {cluster}"))
            })
        };
        let mut nodes = [start(others[0]).await, start(others[1]).await, start(others[2]).await];
        let hosts = nodes.each_ref().map(|node| format!("127.0.0.1:{}", node.port));
        let with_others = [0, 1, 2].map(|node| format!("{}@{}", hosts[node], others[node]));
        cli(nodes[0].port, &format!("--cluster create {} --cluster-yes", with_others.join(" ")));
        let url = format!("redis://{}", hosts.join(","));
        let sharded = engine(&url, Channels::Sharded).unwrap();
        engine_contract::within("the cluster", async {
            while sharded.connect().await.is_err() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        engine_contract::holds(&sharded).await;
        engine_contract::holds(&ordinary(&url)).await;
        engine_contract::a_link_ends_with_its_engine(&sharded, || nodes[1].kill()).await;
        nodes[1].revive().await;
        engine_contract::the_next_link_works(&sharded).await;
    }
}
