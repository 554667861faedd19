//! What carries the bytes: TCP, a Unix socket, or TLS over TCP.

use std::{
    future::Future,
    io::{self, IoSlice},
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use bytes::BufMut;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
#[cfg(feature = "tls")]
use tokio_rustls::server::TlsStream;

/// How long the kernel tries to deliver what a peer does not acknowledge. Finds a peer that
/// vanished while something is on its way to it; pings find the others.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes that the kernel takes ahead of what it can send: a large message leaves in one piece,
/// and who does not read gets no more. There is room again once half of it is gone.
const MAX_UNSENT: u32 = 1 << 20;

/// The same with TLS, where nothing is [written at once](Socket::write_now): a reader who takes
/// a little all the time must make room before it looks as if it took nothing.
#[cfg(feature = "tls")]
const MAX_UNSENT_WITH_TLS: u32 = 256 << 10;

/// An accepted socket.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// Boxed: its state is large, and only connections with TLS have one.
    #[cfg(feature = "tls")]
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket {
    /// Sets what every accepted TCP socket gets: no delay (we write when we are about to wait,
    /// so there is nothing to gain from the kernel's waiting), and the user timeout.
    pub(crate) fn prepare(stream: &TcpStream) {
        // All fail only on a socket that is gone already, which the first read will tell.
        let _ = stream.set_nodelay(true);
        let socket = SockRef::from(stream);
        let _ = socket.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT));
        let _ = socket.set_tcp_notsent_lowat(MAX_UNSENT);
    }

    pub(crate) fn tcp(stream: TcpStream) -> Self {
        Self::prepare(&stream);
        Self::Tcp(stream)
    }

    #[cfg(feature = "tls")]
    pub(crate) fn tls(stream: TlsStream<TcpStream>) -> Self {
        // As above.
        let _ = SockRef::from(stream.get_ref().0).set_tcp_notsent_lowat(MAX_UNSENT_WITH_TLS);
        Self::Tls(Box::new(stream))
    }

    fn tcp_stream(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Unix(_) => None,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => Some(stream.get_ref().0),
        }
    }

    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(into);
        let read = match self {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, &mut buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, &mut buffer),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => Pin::new(&mut **stream).poll_read(cx, &mut buffer),
        };
        read.map_ok(|()| buffer.filled().len())
    }

    /// Reads into memory that need not be cleared for it.
    pub(crate) fn poll_read_buf(
        &mut self,
        cx: &mut Context<'_>,
        mut into: impl BufMut,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => pin!(stream.read_buf(&mut into)).poll(cx),
            Self::Unix(stream) => pin!(stream.read_buf(&mut into)).poll(cx),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => pin!(stream.read_buf(&mut into)).poll(cx),
        }
    }

    /// Ready unless the runtime knows that nothing has come since a read that found too little, or the
    /// task has used up its turn. TLS may have something of its own, and is always ready.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx),
            Self::Unix(stream) => stream.poll_read_ready(cx),
            #[cfg(feature = "tls")]
            Self::Tls(_) => Poll::Ready(Ok(())),
        }
    }

    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write(cx, bytes),
        }
    }

    /// Writes at once, whatever the runtime knows of room: it keeps that on cache lines that a
    /// delivery would touch for nothing else. `None` if [`poll_write`](Self::poll_write) has to
    /// find out when there is room, or has to encrypt.
    pub(crate) fn write_now(&self, bytes: &[u8]) -> Option<io::Result<usize>> {
        let socket = match self {
            Self::Tcp(stream) => SockRef::from(stream),
            Self::Unix(stream) => SockRef::from(stream),
            #[cfg(feature = "tls")]
            Self::Tls(_) => return None,
        };
        let written = socket.send_with_flags(bytes, libc::MSG_NOSIGNAL);
        let later = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
        };
        (!written.as_ref().is_err_and(later)).then_some(written)
    }

    pub(crate) fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write_vectored(cx, slices),
        }
    }

    /// Only TLS keeps anything back.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }

    /// The client's certificate in DER, if TLS asked for one.
    #[cfg(feature = "control")]
    pub(crate) fn certificate(&self) -> Option<Vec<u8>> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => None,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => Some(stream.get_ref().1.peer_certificates()?.first()?.to_vec()),
        }
    }

    /// Makes the close of this socket a reset: the peer has had its time, and a socket that
    /// lingers in the kernel would keep what it never read.
    pub(crate) fn reset_on_close(&self) {
        if let Some(stream) = self.tcp_stream() {
            // It fails only on a socket that is gone already.
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }
}

/// Where a connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerAddr {
    /// An internet address and port.
    Tcp(SocketAddr),
    /// A Unix socket: a program on this machine.
    Unix,
}

impl PeerAddr {
    /// The internet address, or `None` for a Unix socket.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(address) => Some(address.ip()),
            Self::Unix => None,
        }
    }
}

impl std::fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}
