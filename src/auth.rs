//! Guards: who asks for a connection, and whether they get one, before the socket opens.

use std::{borrow::Cow, future::Future, sync::Arc};

use futures_util::future::BoxFuture;
use percent_encoding::percent_decode_str;
use tokio_tungstenite::tungstenite::http;

use crate::{route::Params, socket::PeerAddr};

/// The request of an opening handshake (RFC 6455 section 4.2.1), as a guard sees it.
///
/// Its `Debug` form shows no query and no header: both may carry credentials.
pub struct Request {
    pub(crate) http: http::Request<()>,
    pub(crate) params: Params,
    pub(crate) peer: PeerAddr,
}

impl Request {
    /// The path as it was sent, before percent-decoding.
    #[must_use]
    pub fn path(&self) -> &str {
        self.http.uri().path()
    }

    /// What the route's pattern captured.
    #[must_use]
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The first query parameter of that name, decoded as in a form: `+` is a space. `None` if
    /// there is none or it is not UTF-8.
    #[must_use]
    pub fn query(&self, name: &str) -> Option<Cow<'_, str>> {
        let pairs = self.http.uri().query().unwrap_or_default().split('&');
        let value = pairs.filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name)?.1;
        let value = percent_decode_str(value).decode_utf8().ok()?;
        Some(if value.contains('+') { value.replace('+', " ").into() } else { value })
    }

    /// The first header field of that name, in any case; `None` if it is not visible ASCII.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.http.headers().get(name)?.to_str().ok()
    }

    /// Where the request comes from.
    #[must_use]
    pub fn peer(&self) -> PeerAddr {
        self.peer
    }
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request").field("path", &self.path()).finish_non_exhaustive()
    }
}

/// Who a connection belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    user: Option<Arc<str>>,
}

impl Identity {
    /// Somebody without a name.
    #[must_use]
    pub fn anonymous() -> Self {
        Self::default()
    }

    /// A named user.
    #[must_use]
    pub fn user(name: impl Into<Arc<str>>) -> Self {
        Self { user: Some(name.into()) }
    }

    /// The user's name, or `None` for an anonymous one.
    #[must_use]
    pub fn user_id(&self) -> Option<&str> {
        self.user.as_deref()
    }

    pub(crate) fn shared_user_id(&self) -> Option<Arc<str>> {
        self.user.clone()
    }
}

/// An answer other than 101: the status, and a short text for whoever asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    pub(crate) status: http::StatusCode,
    pub(crate) text: String,
}

impl Rejection {
    /// An answer with this status and text.
    ///
    /// # Panics
    /// If `status` is not between 400 and 599.
    #[must_use]
    pub fn new(status: u16, text: impl Into<String>) -> Self {
        let code = http::StatusCode::from_u16(status).ok();
        let code = code.filter(|code| code.is_client_error() || code.is_server_error());
        let status = code.unwrap_or_else(|| panic!("{status} is not an HTTP error"));
        Self { status, text: text.into() }
    }

    /// 401: it is not known who asks.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self::new(401, "unauthorized")
    }

    /// 403: it is known who asks, and that they may not.
    #[must_use]
    pub fn forbidden() -> Self {
        Self::new(403, "forbidden")
    }
}

/// What decides on an opening handshake before it is answered: any
/// `async fn(&Request) -> Result<Identity, Rejection>`.
///
/// It runs under `open_timeout`; when that has passed, or the peer has gone, its future is dropped.
pub trait Guard: Send + Sync + 'static {
    /// Who asks, or what they are told.
    fn check<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Identity, Rejection>>;
}

impl<G> Guard for G
where
    G: for<'a> GuardFn<'a> + Send + Sync + 'static,
{
    fn check<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Identity, Rejection>> {
        Box::pin(self.call(request))
    }
}

/// An `async fn` that borrows its request: the future's type depends on the request's lifetime,
/// which a plain `Fn(&Request) -> F` bound cannot say.
pub trait GuardFn<'a> {
    /// What the function returns.
    type Future: Future<Output = Result<Identity, Rejection>> + Send + 'a;

    /// Calls the function.
    fn call(&self, request: &'a Request) -> Self::Future;
}

impl<'a, G, F> GuardFn<'a> for G
where
    G: Fn(&'a Request) -> F,
    F: Future<Output = Result<Identity, Rejection>> + Send + 'a,
{
    type Future = F;

    fn call(&self, request: &'a Request) -> F {
        self(request)
    }
}
