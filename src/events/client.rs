//! The HTTP client that asks the event handler: pooled, bounded, and without redirects.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
#[cfg(feature = "tls")]
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
#[cfg(feature = "tls")]
use tokio_rustls::rustls::crypto::ring;
use tokio_tungstenite::tungstenite::http::{Request, Response};

use super::{EventUrl, Failure};
use crate::error::Error;

/// The longest answer that is taken in.
const MAX_ANSWER: usize = 1 << 20;

/// The longest head of an answer, and the most of a body that is read at once.
const READ_BUFFER: usize = 64 << 10;

/// Connections that wait for the next event are closed before the other side does so: uvicorn and
/// Node wait 5 s, and what we send at that moment is lost without an answer.
const IDLE: Duration = Duration::from_secs(4);

/// Connections that wait for the next event.
const MAX_IDLE: usize = 32;

#[cfg(feature = "tls")]
type Connector = HttpsConnector<HttpConnector>;
#[cfg(not(feature = "tls"))]
type Connector = HttpConnector;

pub(crate) struct Client(legacy::Client<Connector, Full<Bytes>>);

impl Client {
    /// # Errors
    /// If the URL is `https` and the system's certificates cannot be read.
    pub(crate) fn new(url: &EventUrl) -> Result<Self, Error> {
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(MAX_IDLE)
            .http1_max_buf_size(READ_BUFFER)
            .build(connector(url)?);
        Ok(Self(client))
    }

    /// One request and its whole answer. The caller sets the deadline.
    pub(crate) async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Bytes>, Failure> {
        let answer = self.0.request(request).await.map_err(|error| {
            log::debug!("the event handler: {error}");
            let lost = Failure::Invalid("the event handler's answer was lost or is no HTTP");
            if error.is_connect() { Failure::Unreachable } else { lost }
        })?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        let body =
            body.map_err(|_| Failure::Invalid("the event handler's answer is too long or cut"))?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }
}

fn tcp() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector
}

#[cfg(not(feature = "tls"))]
#[expect(clippy::unnecessary_wraps, reason = "with TLS there is something to load")]
fn connector(_: &EventUrl) -> Result<Connector, Error> {
    Ok(tcp())
}

/// The system's certificates are read only where they are needed.
#[cfg(feature = "tls")]
fn connector(url: &EventUrl) -> Result<Connector, Error> {
    use tokio_rustls::rustls::{ClientConfig, RootCertStore};
    let fail = |reason: String| Error::EventHandler { reason };
    let builder = HttpsConnectorBuilder::new();
    let builder = if url.is_secure() {
        let builder = builder.with_provider_and_native_roots(ring::default_provider());
        builder.map_err(|error| fail(error.to_string()))?
    } else {
        let config = ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .map_err(|error| fail(error.to_string()))?;
        let none = RootCertStore::empty();
        builder.with_tls_config(config.with_root_certificates(none).with_no_client_auth())
    };
    let mut tcp = tcp();
    tcp.enforce_http(false);
    Ok(builder.https_or_http().enable_http1().wrap_connector(tcp))
}
