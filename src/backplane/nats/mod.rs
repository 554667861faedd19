//! NATS: a subject is a subject.
//!
//! The protocol is spoken here, in a few lines of text. The client that its authors publish keeps
//! a queue for each subscription, so that what one sender says to two groups would arrive in
//! either order, and it reconnects in silence; all that it does beyond is not needed.
//!
//! A subscription is confirmed by the server that we are connected to. The others of its cluster
//! hear of it some milliseconds later.

mod protocol;
mod session;
mod stream;

use std::{collections::HashMap, io, time::Duration};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{mpsc, oneshot},
    time::timeout,
};

use self::{
    protocol::{Connect, Info, Said},
    session::{Order, READ_BUFFER},
    stream::Stream,
};
use super::{
    address::{EngineUrl, Host, PemFiles},
    engine::{Command, Engine, Io, Link, Outbound},
    inbox::Inbox,
    subject::Subject,
};

/// How long one of several servers may take until the next is asked.
const PATIENCE: Duration = Duration::from_secs(2);

/// A NATS server, or the servers of a cluster.
pub(crate) struct NatsEngine {
    address: String,
    url: EngineUrl,
    security: Security,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Security {
    /// TLS where the server wants it.
    AsTheServerLikes,
    Tls,
}

impl NatsEngine {
    /// `nats://[USER:PASSWORD@|TOKEN@]HOST[:PORT][,HOST...]`, or `tls://` to insist on TLS, as
    /// files for it do: what a server says before TLS may be another's word.
    ///
    /// # Errors
    /// The rule that the URL breaks; never a part of it.
    pub(crate) fn new(url: EngineUrl) -> Result<Self, &'static str> {
        let security = match url.scheme.as_str() {
            "nats" if url.pem == PemFiles::default() => Security::AsTheServerLikes,
            "nats" | "tls" if cfg!(feature = "tls") => Security::Tls,
            "nats" | "tls" => return Err("this build is without TLS"),
            _ => return Err("expected nats:// or tls://"),
        };
        if !url.path.is_empty() {
            return Err("behind the hosts comes nothing");
        }
        if url.user.is_none() && url.password.is_some() {
            return Err("a password has a user");
        }
        Ok(Self { address: url.to_string(), url, security })
    }

    async fn link(&self) -> io::Result<Link> {
        let mut failures = Vec::new();
        for host in &self.url.hosts {
            let linked = timeout(PATIENCE, self.link_to(host)).await;
            match linked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(link) => return Ok(link),
                Err(error) => failures.push(format!("{host}: {error}")),
            }
        }
        Err(io::Error::other(failures.join("; ")))
    }

    async fn link_to(&self, host: &Host) -> io::Result<Link> {
        let mut input = BytesMut::with_capacity(READ_BUFFER);
        let mut stream = stream::connect(host).await?;
        let info = first_word(&mut stream, &mut input).await?;
        let is_secure = info.tls_required || self.security == Security::Tls;
        let mut stream = if is_secure {
            stream::secure(stream, host, &self.url.pem).await?
        } else {
            Box::new(stream)
        };
        self.introduce(&mut stream, &mut input, is_secure).await?;
        let (orders, ordered) = mpsc::channel(1);
        let (inbox, inbound) = Inbox::new();
        tokio::spawn(session::run(stream, input, ordered, inbox));
        let max_payload = info.max_payload.min(protocol::MAX_PAYLOAD);
        let subscriptions = HashMap::new();
        let outbound = NatsOutbound { orders, subscriptions, last_id: 0, max_payload };
        Ok(Link { outbound: Box::new(outbound), inbound: Box::new(inbound) })
    }

    /// Says who we are, and waits until the server has nothing against it.
    async fn introduce(
        &self,
        stream: &mut Box<dyn Stream>,
        input: &mut BytesMut,
        tls_required: bool,
    ) -> io::Result<()> {
        let (user, password) = (self.url.user.as_deref(), self.url.password.as_deref());
        let connect = Connect {
            verbose: false,
            pedantic: false,
            tls_required,
            name: env!("CARGO_PKG_NAME"),
            lang: "rust",
            version: env!("CARGO_PKG_VERSION"),
            user: user.filter(|_| password.is_some()),
            pass: password,
            auth_token: user.filter(|_| password.is_none()),
        };
        let mut output = BytesMut::new();
        protocol::connect(&mut output, &connect)?;
        protocol::ping(&mut output);
        stream.write_all(&output).await?;
        stream.flush().await?;
        loop {
            match hear(stream, input).await? {
                Said::Pong => return Ok(()),
                Said::Failed(why) => return Err(io::Error::other(why)),
                _ => {}
            }
        }
    }
}

impl Engine for NatsEngine {
    fn connect(&self) -> Io<'_, Link> {
        Box::pin(self.link())
    }

    fn address(&self) -> &str {
        &self.address
    }
}

async fn first_word(stream: &mut (impl Stream + ?Sized), input: &mut BytesMut) -> io::Result<Info> {
    match hear(stream, input).await? {
        Said::Info(info) => Ok(info),
        _ => Err(io::Error::other("the server does not say what it is")),
    }
}

async fn hear(stream: &mut (impl Stream + ?Sized), input: &mut BytesMut) -> io::Result<Said> {
    loop {
        if let Some(said) = protocol::next(input)? {
            return Ok(said);
        }
        if stream.read_buf(input).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

struct NatsOutbound {
    orders: mpsc::Sender<Order>,
    subscriptions: HashMap<Subject, u64>,
    last_id: u64,
    max_payload: usize,
}

impl Outbound for NatsOutbound {
    fn carry<'a>(&'a mut self, commands: &'a [Command]) -> Io<'a, ()> {
        Box::pin(async move {
            let mut operations = BytesMut::new();
            for command in commands {
                self.add(&mut operations, command);
            }
            // Its answer comes after all that the server has to say to the others.
            protocol::ping(&mut operations);
            let (confirmed, confirmation) = oneshot::channel();
            let order = Order { operations, confirmed };
            let lost = || io::Error::new(io::ErrorKind::ConnectionReset, "the connection was lost");
            self.orders.send(order).await.map_err(|_| lost())?;
            confirmation.await.map_err(|_| lost())
        })
    }

    fn max_message(&self) -> usize {
        self.max_payload
    }
}

impl NatsOutbound {
    fn add(&mut self, operations: &mut BytesMut, command: &Command) {
        match command {
            Command::Publish(subject, message) => protocol::publish(operations, subject, message),
            Command::Subscribe(subject) => {
                self.last_id += 1;
                protocol::subscribe(operations, subject, self.last_id);
                self.subscriptions.insert(subject.clone(), self.last_id);
            }
            Command::Unsubscribe(subject) => {
                if let Some(id) = self.subscriptions.remove(subject) {
                    protocol::unsubscribe(operations, id);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backplane::{
        engine_contract::{self, carry, connect, publish, receive, subscribe},
        engine_server::{EngineServer, command, free_port},
    };

    fn engine(url: &str) -> Result<NatsEngine, &'static str> {
        NatsEngine::new(url.parse()?)
    }

    #[test]
    fn a_url_that_cannot_be_used_is_refused_with_the_rule() {
        for (url, rule) in [
            ("redis://a", "expected nats:// or tls://"),
            ("nats://a/b", "behind the hosts comes nothing"),
            ("nats://:secret@a", "a password has a user"),
        ] {
            assert_eq!(engine(url).err(), Some(rule), "{url}");
        }
    }

    #[tokio::test]
    #[ignore = "needs nats-server: the step nats of tests/all"]
    async fn the_contract_holds() {
        let server = EngineServer::nats("").await;
        let engine = engine(&format!("nats://127.0.0.1:{}", server.port)).unwrap();
        engine_contract::holds_across_a_restart(&engine, server).await;
    }

    #[tokio::test]
    #[ignore = "needs nats-server: the step nats of tests/all"]
    async fn a_user_has_a_password_or_a_token_and_no_error_tells_it() {
        let server = EngineServer::nats("authorization { user: me, password: \"s3cret/\" }").await;
        let at = |who, port| engine(&format!("nats://{who}@127.0.0.1:{port}")).unwrap();
        connect(&at("me:s3cret%2f", server.port)).await;
        let refused = at("me:wr0ng", server.port).connect().await.err().unwrap().to_string();
        assert!(refused.ends_with("Authorization Violation"), "{refused}");
        let server = EngineServer::nats("authorization { token: t0ken }").await;
        connect(&at("t0ken", server.port)).await;
        at("t1ken", server.port).connect().await.err().unwrap();
    }

    #[tokio::test]
    #[ignore = "needs nats-server: the step nats of tests/all"]
    async fn what_the_server_does_not_allow_is_an_error() {
        let rules = "authorization { users: [ { user: a, password: b, permissions: \
                     { publish: \"contract.hub.group.yes\", subscribe: \"contract.hub.group.yes\" } } ] }";
        let server = EngineServer::nats(rules).await;
        let engine = engine(&format!("nats://a:b@127.0.0.1:{}", server.port)).unwrap();
        for command in [subscribe("no"), publish("no", "1")] {
            let mut link = connect(&engine).await;
            carry(&mut link, &[subscribe("yes"), publish("yes", "1")]).await;
            assert_eq!(receive(&mut link).await, "1");
            link.outbound.carry(&[command]).await.unwrap_err();
            let why = link.inbound.receive().await.unwrap_err().to_string();
            assert!(why.starts_with("Permissions Violation"), "{why}");
        }
    }

    #[tokio::test]
    #[ignore = "needs nats-server: the step nats of tests/all"]
    async fn of_several_hosts_the_first_that_answers_is_used() {
        let server = EngineServer::nats("").await;
        let url = format!("nats://127.0.0.1:{},127.0.0.1:{}", free_port(), server.port);
        connect(&engine(&url).unwrap()).await;
        let nobody = engine(&format!("nats://127.0.0.1:{}", free_port())).unwrap();
        assert!(nobody.connect().await.err().unwrap().to_string().contains("refused"));
    }

    #[tokio::test]
    #[ignore = "needs nats-server: the step nats of tests/all"]
    async fn the_contract_holds_across_a_cluster() {
        let routes = free_port();
        let cluster = move |routes_to: Option<u16>| {
            move |port: u16, folder: &str| {
                let config = format!("{folder}/nats.conf");
                std::fs::write(&config, "max_payload: 8MB\n").unwrap();
                let own = routes_to.map_or(routes, |_| free_port());
                let ports = format!("--port {port} --cluster nats://127.0.0.1:{own}");
                let routes = format!("--cluster_name c --routes nats://127.0.0.1:{routes}");
                command(
                    "nats-server",
                    &format!("--config {config} --addr 127.0.0.1 {ports} {routes}"),
                )
            }
        };
        let first = EngineServer::start(cluster(None)).await;
        let second = EngineServer::start(cluster(Some(routes))).await;
        let engines = [&first, &second]
            .map(|server| engine(&format!("nats://127.0.0.1:{}", server.port)).unwrap());
        let mut links = [connect(&engines[0]).await, connect(&engines[1]).await];
        carry(&mut links[1], &[subscribe("far")]).await;
        let [near, far] = &mut links;
        engine_contract::within("the route between them", async {
            while timeout(Duration::from_millis(20), far.inbound.receive()).await.is_err() {
                carry(near, &[publish("far", "1")]).await;
            }
        })
        .await;
    }
}
