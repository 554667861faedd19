//! What is listened on: TCP addresses and Unix sockets.

use std::{fmt, fs, io, net::SocketAddr, os::unix::fs::FileTypeExt, path::PathBuf, str::FromStr};

use tokio::net::{TcpListener, TcpSocket, UnixListener, UnixStream, lookup_host};

use crate::{
    error::Error,
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
pub enum Listener {
    /// On an internet address.
    Tcp(TcpListener),
    /// On a Unix socket, which is removed when this is dropped.
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// Binds an address.
    ///
    /// # Errors
    /// [`Error::Listen`] if it is in use, not ours, or a name that nobody knows.
    pub async fn bind(address: &Address) -> Result<Self, Error> {
        let bound = match address {
            Address::Tcp(address) => bind_tcp(address).await,
            Address::Unix(path) => bind_unix(path).await,
        };
        bound.map_err(|source| Error::Listen { address: address.to_string(), source })
    }

    /// The address, with the port that was taken.
    #[must_use]
    pub fn local_address(&self) -> String {
        match self {
            Self::Tcp(listener) => {
                listener.local_addr().map_or_else(|_| "?".into(), |a| a.to_string())
            }
            Self::Unix(_, path) => format!("unix:{}", path.display()),
        }
    }

    pub(crate) async fn accept(&self) -> io::Result<(Socket, PeerAddr)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                Ok((Socket::tcp(stream), PeerAddr::Tcp(address)))
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok((Socket::Unix(stream), PeerAddr::Unix))
            }
        }
    }
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            // Whoever removed it before us has done our work.
            let _ = fs::remove_file(path);
        }
    }
}

async fn bind_tcp(address: &str) -> io::Result<Listener> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in lookup_host(address).await? {
        match bind_socket(address) {
            Ok(listener) => return Ok(Listener::Tcp(listener)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn bind_socket(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Lets a restart take its address back while old connections wait in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn bind_unix(path: &PathBuf) -> io::Result<Listener> {
    let is_socket = fs::metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if is_socket && UnixStream::connect(path).await.is_err() {
        fs::remove_file(path)?;
    }
    Ok(Listener::Unix(UnixListener::bind(path)?, path.clone()))
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
