//! TLS to an engine: whom we believe, and who we are.

use std::io;

use hyper_rustls::ConfigBuilderExt;
use tokio_rustls::rustls::{ClientConfig, crypto::ring};

use super::address::PemFiles;
use crate::tls::{authorities, certificates, private_key};

/// What a connection is secured with. The files are read each time, so that those which were
/// renewed need no restart.
///
/// # Errors
/// Names the file that cannot be used, and why.
pub(super) fn client(pem: &PemFiles) -> io::Result<ClientConfig> {
    let config = ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let config = match &pem.authorities {
        Some(path) => config.with_root_certificates(authorities(path).map_err(io::Error::other)?),
        None => config.with_native_roots()?,
    };
    let Some((certificate, key)) = &pem.identity else { return Ok(config.with_no_client_auth()) };
    let certificates = certificates(certificate).map_err(io::Error::other)?;
    let key = private_key(key).map_err(io::Error::other)?;
    config.with_client_auth_cert(certificates, key).map_err(io::Error::other)
}
