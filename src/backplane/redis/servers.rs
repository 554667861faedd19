//! Which server to speak to, and the connection to it.

use std::{io, time::Duration};

use ::redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo,
    ProtocolVersion, RedisConnectionInfo, RedisResult, aio::MultiplexedConnection, cmd,
    io::tcp::TcpSettings,
};
use socket2::TcpKeepalive;
use tokio::time::timeout;

use super::{Channels, Listener, failed};
use crate::backplane::address::{EngineUrl, Host, PemFiles};

const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// How long one of several servers may take until the next is asked.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long nothing may come before the kernel asks whether the server is still there.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Where to look for a server.
pub(super) struct Servers {
    hosts: Vec<Host>,
    security: Security,
    #[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "there are none to read"))]
    pem: PemFiles,
    login: RedisConnectionInfo,
    choice: Choice,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Security {
    Plain,
    Tls,
}

/// Which of the hosts is the right one.
enum Choice {
    /// The only one, or any of a cluster.
    Any,
    /// The one that is primary: what is published on a replica goes nowhere else.
    Primary,
    /// The one that the hosts, which are Sentinels, name as primary of this service.
    Watched(String),
}

impl Servers {
    pub(super) fn new(url: &EngineUrl, channels: Channels) -> Result<Self, &'static str> {
        let (security, is_watched) = match url.scheme.as_str() {
            "redis" => (Security::Plain, false),
            "rediss" => (Security::Tls, false),
            "redis+sentinel" => (Security::Plain, true),
            "rediss+sentinel" => (Security::Tls, true),
            _ => {
                return Err(
                    "expected redis://, rediss://, redis+sentinel:// or rediss+sentinel://",
                );
            }
        };
        if security == Security::Tls && !cfg!(feature = "tls") {
            return Err("this build is without TLS");
        }
        if security == Security::Plain && url.pem != PemFiles::default() {
            return Err("ca, cert and key are for rediss:// and rediss+sentinel://");
        }
        let choice = match (is_watched, channels) {
            (true, Channels::Sharded) => return Err("a cluster has no Sentinel"),
            (true, _) if url.path.is_empty() => {
                return Err("expected the service behind the Sentinels");
            }
            (true, _) => Choice::Watched(url.path.clone()),
            (false, Channels::Ordinary) if url.hosts.len() > 1 => Choice::Primary,
            (false, _) => Choice::Any,
        };
        let mut login = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP3);
        if !is_watched && !url.path.is_empty() {
            let database = url.path.parse().map_err(|_| "the path is the number of a database")?;
            login = login.set_db(database);
        }
        login = match (&url.user, &url.password) {
            (Some(_), None) => return Err("a user has a password"),
            (Some(user), Some(password)) => login.set_username(user).set_password(password),
            (None, Some(password)) => login.set_password(password),
            (None, None) => login,
        };
        let (hosts, pem) = (url.hosts.clone(), url.pem.clone());
        Ok(Self { hosts, security, pem, login, choice })
    }

    /// Connects to the first host that will do.
    pub(super) async fn connect(&self, listener: &Listener) -> io::Result<MultiplexedConnection> {
        let mut failures = Vec::new();
        for host in &self.hosts {
            match within_patience(self.connect_by(host, listener)).await {
                Ok(connection) => return Ok(connection),
                Err(error) => failures.push(format!("{host}: {error}")),
            }
        }
        Err(io::Error::other(failures.join("; ")))
    }

    /// Connects to this host, whatever it is.
    pub(super) async fn connect_to(
        &self,
        host: &Host,
        listener: &Listener,
    ) -> io::Result<MultiplexedConnection> {
        let listener = listener.clone();
        let config = patient().set_push_sender(move |push| listener.hear(push));
        let port = host.port.unwrap_or(REDIS_PORT);
        self.open(&host.name, port, self.login.clone(), config).await.map_err(failed)
    }

    async fn connect_by(
        &self,
        host: &Host,
        listener: &Listener,
    ) -> io::Result<MultiplexedConnection> {
        match &self.choice {
            Choice::Any => self.connect_to(host, listener).await,
            Choice::Primary => self.connect_to_primary(host, listener).await,
            Choice::Watched(service) => {
                let primary = self.ask_sentinel(host, service).await?;
                self.connect_to_primary(&primary, listener).await
            }
        }
    }

    /// A primary that has lost its place says so, or is told so before long.
    async fn connect_to_primary(
        &self,
        host: &Host,
        listener: &Listener,
    ) -> io::Result<MultiplexedConnection> {
        let mut connection = self.connect_to(host, listener).await?;
        let role: Vec<::redis::Value> =
            cmd("ROLE").query_async(&mut connection).await.map_err(failed)?;
        match role.into_iter().next().map(::redis::from_redis_value::<String>) {
            Some(Ok(role)) if role == "master" => Ok(connection),
            _ => Err(io::Error::other("it is not the primary")),
        }
    }

    /// Sentinels have passwords of their own, if any: ours is for the servers.
    async fn ask_sentinel(&self, host: &Host, service: &str) -> io::Result<Host> {
        let port = host.port.unwrap_or(SENTINEL_PORT);
        let sentinel = self.open(&host.name, port, RedisConnectionInfo::default(), patient()).await;
        let question = cmd("SENTINEL").arg("get-master-addr-by-name").arg(service).take();
        let answer = question.query_async(&mut sentinel.map_err(failed)?).await;
        let address: Option<(String, u16)> = answer.map_err(failed)?;
        let (name, port) = address.ok_or_else(|| io::Error::other("it knows no such service"))?;
        Ok(Host { name, port: Some(port) })
    }

    async fn open(
        &self,
        name: &str,
        port: u16,
        login: RedisConnectionInfo,
        config: AsyncConnectionConfig,
    ) -> RedisResult<MultiplexedConnection> {
        let host = name.to_owned();
        let address = match self.security {
            Security::Plain => ConnectionAddr::Tcp(host, port),
            Security::Tls => {
                ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
            }
        };
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3);
        let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
        let server =
            address.into_connection_info()?.set_redis_settings(login).set_tcp_settings(tcp);
        self.client(server)?.get_multiplexed_async_connection_with_config(&config).await
    }

    #[cfg(feature = "tls")]
    fn client(&self, server: ConnectionInfo) -> RedisResult<Client> {
        match self.security {
            Security::Plain => Client::open(server),
            Security::Tls => Client::build_with_tls(server, certificates(&self.pem)?),
        }
    }

    #[cfg(not(feature = "tls"))]
    #[expect(clippy::unused_self, reason = "with TLS it says which files to read")]
    fn client(&self, server: ConnectionInfo) -> RedisResult<Client> {
        Client::open(server)
    }
}

/// The files are read each time, so that those which were renewed need no restart.
#[cfg(feature = "tls")]
fn certificates(pem: &PemFiles) -> io::Result<::redis::TlsCertificates> {
    let read = |path: &std::path::PathBuf| {
        let named = |error: io::Error| io::Error::other(format!("{}: {error}", path.display()));
        std::fs::read(path).map_err(named)
    };
    let root_cert = pem.authorities.as_ref().map(read).transpose()?;
    let client_tls = match &pem.identity {
        Some((certificate, key)) => {
            let (client_cert, client_key) = (read(certificate)?, read(key)?);
            Some(::redis::ClientTlsConfig { client_cert, client_key })
        }
        None => None,
    };
    Ok(::redis::TlsCertificates { client_tls, root_cert })
}

/// Deadlines are the caller's.
fn patient() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None)
}

async fn within_patience<T>(attempt: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(PATIENCE, attempt).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
