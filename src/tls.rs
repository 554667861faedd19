//! TLS on accepted sockets: certificates from files, read again on demand.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use tokio::net::TcpStream;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::WebPkiClientVerifier,
        version::{TLS12, TLS13},
    },
    server::TlsStream,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{
    auth::{Identity, Rejection, Request},
    error::Error,
};

/// Where the certificates are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain in PEM, the server's own first.
    pub certificate: PathBuf,
    /// Its private key in PEM.
    pub key: PathBuf,
    /// Authorities in PEM. Where given, a client must bring a certificate of theirs; the common
    /// name of its subject (or the whole subject, without one) becomes the user.
    pub client_authorities: Option<PathBuf>,
}

/// TLS 1.2 and 1.3 for a [`Listener`](crate::Listener). Cheap to clone.
#[derive(Clone)]
pub struct Tls {
    shared: Arc<Shared>,
}

struct Shared {
    files: TlsFiles,
    acceptor: RwLock<TlsAcceptor>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`Error::Tls`] names the file that cannot be used, and why.
    pub fn load(files: TlsFiles) -> Result<Self, Error> {
        let acceptor = RwLock::new(acceptor(&files)?);
        Ok(Self { shared: Arc::new(Shared { files, acceptor }) })
    }

    /// Reads the files again, for connections that are accepted from now on.
    ///
    /// # Errors
    /// Like [`Tls::load`]; then the certificates stay as they were.
    pub fn reload(&self) -> Result<(), Error> {
        let new = acceptor(&self.shared.files)?;
        *self.shared.acceptor.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let acceptor = self.shared.acceptor.read().unwrap_or_else(PoisonError::into_inner).clone();
        acceptor.accept(stream).await
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.shared.files).finish_non_exhaustive()
    }
}

/// Whether the first byte is that of a TLS handshake. Somebody who speaks plain HTTP here is
/// told so instead of being dropped.
pub(crate) async fn is_tls(stream: &TcpStream) -> io::Result<bool> {
    const HANDSHAKE: u8 = 0x16;
    let mut first = [0];
    Ok(stream.peek(&mut first).await? == 1 && first[0] == HANDSHAKE)
}

/// The user that a client's certificate names.
pub(crate) fn subject(stream: &TlsStream<TcpStream>) -> Option<String> {
    let certificate = stream.get_ref().1.peer_certificates()?.first()?;
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let subject = certificate.subject();
    let common_name = subject.iter_common_name().next().and_then(|name| name.as_str().ok());
    Some(common_name.map_or_else(|| subject.to_string(), str::to_owned))
}

/// Lets in who brought a certificate, as the user that it names: a guard for a server whose
/// listeners ask for one.
///
/// # Errors
/// 401 without a certificate.
pub async fn certificate_guard(request: &Request) -> Result<Identity, Rejection> {
    let subject = request.certificate_subject().ok_or_else(Rejection::unauthorized)?;
    Ok(Identity::user(subject))
}

fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, Error> {
    let certificates = certificates(&files.certificate)?;
    let key = private_key(&files.key)?;
    let provider = Arc::new(ring::default_provider());
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| fail(&files.certificate, error))?;
    let config = match &files.client_authorities {
        None => config.with_no_client_auth(),
        Some(path) => {
            let roots = Arc::new(authorities(path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            config.with_client_cert_verifier(verifier.build().map_err(|error| fail(path, error))?)
        }
    };
    let config = config.with_single_cert(certificates, key);
    let mut config = config.map_err(|error| fail(&files.certificate, error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The certificates in a file, all of which are believed.
pub(crate) fn authorities(path: &Path) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| fail(path, error))?;
    }
    Ok(roots)
}

/// The private key in a file.
pub(crate) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| fail(path, error))
}

/// The certificates in a file, at least one.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| fail(path, error))?;
    let certificates = certificates.collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|error| fail(path, error))?;
    if certificates.is_empty() {
        return Err(fail(path, "it holds no certificate in PEM"));
    }
    Ok(certificates)
}

fn fail(path: &Path, reason: impl fmt::Display) -> Error {
    Error::Tls { path: path.to_owned(), reason: reason.to_string() }
}
