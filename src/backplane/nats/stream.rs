//! TCP to a server, or TLS over it, which begins after the server's first word.

use std::io;

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use crate::{
    backplane::address::{Host, PemFiles},
    socket::Socket,
};

const PORT: u16 = 4222;

/// Both look the same.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

pub(super) async fn connect(host: &Host) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host.name.as_str(), host.port.unwrap_or(PORT))).await?;
    Socket::prepare(&stream);
    Ok(stream)
}

/// The server's certificate must be for the host's name.
#[cfg(feature = "tls")]
pub(super) async fn secure(
    stream: TcpStream,
    host: &Host,
    pem: &PemFiles,
) -> io::Result<Box<dyn Stream>> {
    use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};
    let config = crate::backplane::tls::client(pem)?;
    let name = ServerName::try_from(host.name.clone()).map_err(io::Error::other)?;
    let connector = TlsConnector::from(std::sync::Arc::new(config));
    Ok(Box::new(connector.connect(name, stream).await?))
}

#[cfg(not(feature = "tls"))]
#[expect(clippy::unused_async, reason = "with TLS there is something to wait for")]
pub(super) async fn secure(_: TcpStream, _: &Host, _: &PemFiles) -> io::Result<Box<dyn Stream>> {
    Err(io::Error::other("the server wants TLS, and this build is without it"))
}
