//! What is listened on: TCP addresses and Unix sockets.

use std::{
    fmt, fs, io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    str::FromStr,
};

use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream, lookup_host};

#[cfg(feature = "tls")]
use crate::tls::{self, Tls};
use crate::{
    auth::Rejection,
    error::Error,
    proxy::{self, TrustedProxies},
    socket::{PeerAddr, Socket},
};

/// Connections that the kernel completes before they are accepted. It cuts this to its own
/// `net.core.somaxconn`.
const BACKLOG: u32 = 4096;

/// An address to listen on: `HOST:PORT` or `unix:PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A host name or internet address, and a port; port 0 takes any free one.
    Tcp(String),
    /// A Unix socket's path. A socket that nobody listens on any more is replaced.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err("unix: needs a path behind it".to_owned()),
                path => Ok(Self::Unix(path.into())),
            };
        }
        let port = text.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        match port {
            Some(_) => Ok(Self::Tcp(text.to_owned())),
            None => Err("expected HOST:PORT, [IPv6]:PORT or unix:PATH".to_owned()),
        }
    }
}

impl Address {
    /// Whether only this machine reaches it: a Unix socket, or a loopback address written as one.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp(address) => {
                let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
                let host = host.trim_start_matches('[').trim_end_matches(']');
                host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
            }
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A bound socket that accepts connections.
#[derive(Debug)]
pub struct Listener {
    socket: Bound,
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
}

#[derive(Debug)]
enum Bound {
    Tcp(TcpListener),
    /// The path is removed when we are done, if it was us who made it.
    Unix(UnixListener, Option<PathBuf>),
}

/// Whether other processes may listen on the same address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    /// The address is ours alone.
    #[default]
    Exclusive,
    /// `SO_REUSEPORT`: processes of one user share it, and the kernel deals the connections out.
    /// Lets the next generation of a daemon start beside this one.
    ReusePort,
}

impl Listener {
    /// Binds an address.
    ///
    /// # Errors
    /// [`Error::Listen`] if it is in use, not ours, or a name that nobody knows.
    pub async fn bind(address: &Address, sharing: Sharing) -> Result<Self, Error> {
        let bound = match address {
            Address::Tcp(address) => bind_tcp(address, sharing).await,
            Address::Unix(path) => bind_unix(path).await,
        };
        let bound = bound.map_err(|source| Error::Listen { address: address.to_string(), source });
        bound.map(Self::new)
    }

    /// The sockets that systemd has bound for this process (socket activation), in its order.
    /// Takes them: a second call finds none.
    ///
    /// # Errors
    /// [`Error::Listen`] if one is not a stream socket.
    pub fn activated() -> Result<Vec<Self>, Error> {
        let mut sockets = listenfd::ListenFd::from_env();
        let fail = |source| Error::Listen { address: "an activated socket".into(), source };
        (0..sockets.len()).map(|index| activated(&mut sockets, index).map_err(fail)).collect()
    }

    /// Speaks TLS on a TCP address. A Unix socket stays as it is.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    fn new(socket: Bound) -> Self {
        Self {
            socket,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// The address, with the port that was taken.
    #[must_use]
    pub fn local_address(&self) -> String {
        match &self.socket {
            Bound::Tcp(listener) => {
                listener.local_addr().map_or_else(|_| "?".into(), |address| address.to_string())
            }
            Bound::Unix(_, path) => {
                format!("unix:{}", path.as_deref().unwrap_or(Path::new("?")).display())
            }
        }
    }

    pub(crate) async fn accept(&self) -> io::Result<Incoming> {
        Ok(match &self.socket {
            Bound::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                let peer = PeerAddr::Tcp(address);
                Incoming {
                    stream: Stream::Tcp(stream),
                    peer,
                    #[cfg(feature = "tls")]
                    tls: self.tls.clone(),
                }
            }
            Bound::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Incoming {
                    stream: Stream::Unix(stream),
                    peer: PeerAddr::Unix,
                    #[cfg(feature = "tls")]
                    tls: None,
                }
            }
        })
    }
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::new(Bound::Tcp(listener))
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Self::Unix(_, Some(path)) = self {
            // Whoever removed it before us has done our work.
            let _ = fs::remove_file(path);
        }
    }
}

/// A connection as it was accepted.
pub(crate) struct Incoming {
    stream: Stream,
    pub(crate) peer: PeerAddr,
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connection on which a request can be read.
pub(crate) struct Established {
    pub(crate) socket: Socket,
    /// The client, if a trusted proxy has named it with the PROXY protocol.
    pub(crate) client: Option<IpAddr>,
    pub(crate) certificate_subject: Option<String>,
    /// Why the request will not be read after all.
    pub(crate) refusal: Option<Rejection>,
}

impl Incoming {
    /// Takes in what comes before the request: a PROXY header from a proxy that is trusted, and
    /// the TLS handshake.
    pub(crate) async fn establish(self, proxies: &TrustedProxies) -> io::Result<Established> {
        let plain =
            |socket| Established { socket, client: None, certificate_subject: None, refusal: None };
        let mut stream = match self.stream {
            Stream::Unix(stream) => return Ok(plain(Socket::Unix(stream))),
            Stream::Tcp(stream) => stream,
        };
        let mut client = None;
        if self.peer.ip().is_some_and(|address| proxies.contain(address)) {
            client = proxy::read_header(&mut stream).await?;
        }
        #[cfg(feature = "tls")]
        if let Some(tls) = self.tls {
            let mut established = tls_handshake(stream, &tls).await?;
            established.client = client;
            return Ok(established);
        }
        Ok(Established { client, ..plain(Socket::tcp(stream)) })
    }

    /// The socket, to say no on it at once; `None` where that would take a TLS handshake.
    #[cfg_attr(not(feature = "tls"), expect(clippy::unnecessary_wraps, reason = "TLS can refuse"))]
    pub(crate) fn into_plain(self) -> Option<Socket> {
        #[cfg(feature = "tls")]
        if self.tls.is_some() {
            return None;
        }
        Some(match self.stream {
            Stream::Tcp(stream) => Socket::tcp(stream),
            Stream::Unix(stream) => Socket::Unix(stream),
        })
    }
}

#[cfg(feature = "tls")]
async fn tls_handshake(stream: TcpStream, tls: &Tls) -> io::Result<Established> {
    if !tls::is_tls(&stream).await? {
        return Ok(Established {
            socket: Socket::tcp(stream),
            client: None,
            certificate_subject: None,
            refusal: Some(Rejection::new(400, "this port speaks TLS")),
        });
    }
    Socket::prepare(&stream);
    let stream = tls.accept(stream).await?;
    let certificate_subject = tls::subject(&stream);
    let socket = Socket::tls(stream);
    Ok(Established { socket, client: None, certificate_subject, refusal: None })
}

fn activated(sockets: &mut listenfd::ListenFd, index: usize) -> io::Result<Listener> {
    if let Ok(Some(listener)) = sockets.take_tcp_listener(index) {
        listener.set_nonblocking(true)?;
        return Ok(Listener::new(Bound::Tcp(TcpListener::from_std(listener)?)));
    }
    let listener = sockets.take_unix_listener(index)?.ok_or(io::ErrorKind::NotFound)?;
    listener.set_nonblocking(true)?;
    Ok(Listener::new(Bound::Unix(UnixListener::from_std(listener)?, None)))
}

async fn bind_tcp(address: &str, sharing: Sharing) -> io::Result<Bound> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in lookup_host(address).await? {
        match bind_socket(address, sharing) {
            Ok(listener) => return Ok(Bound::Tcp(listener)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn bind_socket(address: SocketAddr, sharing: Sharing) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Lets a restart take its address back while old connections wait in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(sharing == Sharing::ReusePort)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn bind_unix(path: &Path) -> io::Result<Bound> {
    let is_socket = fs::metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if is_socket && UnixStream::connect(path).await.is_err() {
        fs::remove_file(path)?;
    }
    Ok(Bound::Unix(UnixListener::bind(path)?, Some(path.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_tcp_or_unix() {
        for (text, ok) in [
            ("127.0.0.1:8000", true),
            ("localhost:0", true),
            ("[::1]:8000", true),
            ("unix:/tmp/x", true),
            ("unix:", false),
            ("8000", false),
            ("host:", false),
            ("host:65536", false),
        ] {
            assert_eq!(text.parse::<Address>().is_ok(), ok, "{text}");
        }
    }
}
