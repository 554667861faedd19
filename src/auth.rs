//! Guards: who asks for a connection, and whether they get one, before the socket opens.

use std::{
    borrow::Cow,
    future::Future,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::SystemTime,
};

use futures_util::future::BoxFuture;
use percent_encoding::percent_decode_str;
use tokio_tungstenite::tungstenite::http;

use crate::{origin::Verdict, rights::Rights, route::Params, socket::PeerAddr};

/// The request of an opening handshake (RFC 6455 section 4.2.1), as a guard sees it.
///
/// Its `Debug` form shows no query and no header: both may carry credentials.
pub struct Request {
    pub(crate) http: http::Request<()>,
    pub(crate) params: Params,
    pub(crate) peer: PeerAddr,
    pub(crate) client: Option<IpAddr>,
    pub(crate) origin: Verdict,
    pub(crate) certificate_subject: Option<String>,
    /// The certificate itself, in DER.
    #[cfg(feature = "control")]
    pub(crate) certificate: Option<Vec<u8>>,
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

    /// Who is at the other end of the socket: the client, or a proxy.
    #[must_use]
    pub fn peer(&self) -> PeerAddr {
        self.peer
    }

    /// The client's address: the peer's, or the one that a trusted proxy gives for it.
    #[must_use]
    pub fn client(&self) -> Option<IpAddr> {
        self.client
    }

    /// Where the client is: its port is known where no proxy stands between.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        match (self.peer, self.client) {
            (PeerAddr::Tcp(peer), Some(client)) if client != peer.ip() => {
                Some(SocketAddr::new(client, 0))
            }
            (PeerAddr::Tcp(peer), _) => Some(peer),
            (PeerAddr::Unix, client) => client.map(|client| SocketAddr::new(client, 0)),
        }
    }

    /// Whether the request comes from a web page of an allowed origin. Without it, what a browser
    /// sends along by itself, cookies above all, says nothing about who asked for it.
    #[must_use]
    pub fn is_from_allowed_origin(&self) -> bool {
        self.origin == Verdict::Allowed
    }

    /// The subject of the client's certificate, if TLS asked for one.
    #[must_use]
    pub fn certificate_subject(&self) -> Option<&str> {
        self.certificate_subject.as_deref()
    }

    /// The subprotocols that the client offers, in its order (RFC 6455 section 1.9).
    pub fn subprotocols(&self) -> impl Iterator<Item = &str> {
        let offers = self.http.headers().get_all(http::header::SEC_WEBSOCKET_PROTOCOL).iter();
        let offers = offers.filter_map(|value| value.to_str().ok());
        offers.flat_map(|value| value.split(',')).map(str::trim)
    }

    /// The token in `Sec-WebSocket-Protocol: bearer, TOKEN`: a browser's script can set no other
    /// header.
    #[must_use]
    pub fn bearer_subprotocol(&self) -> Option<&str> {
        let mut offers = self.subprotocols();
        offers.find(|offer| *offer == BEARER)?;
        offers.next()
    }
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request").field("path", &self.path()).finish_non_exhaustive()
    }
}

/// The subprotocol that says that the next one offered is a token.
pub(crate) const BEARER: &str = "bearer";

/// What a token says, or whoever else vouches for a client: each claim with its values.
#[cfg(feature = "control")]
pub type Claims = std::collections::BTreeMap<String, Vec<String>>;

/// Who a connection belongs to, and what they may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    user: Option<Arc<str>>,
    rights: Rights,
    groups: Vec<String>,
    expires_at: Option<SystemTime>,
    /// Boxed, and gone once the connection is open: most have none, and only the event handler asks.
    #[cfg(feature = "control")]
    claims: Option<Box<Claims>>,
}

impl Identity {
    /// Somebody without a name, with every right.
    #[must_use]
    pub fn anonymous() -> Self {
        Self {
            user: None,
            rights: Rights::everything(),
            groups: Vec::new(),
            expires_at: None,
            #[cfg(feature = "control")]
            claims: None,
        }
    }

    /// A named user, with every right.
    #[must_use]
    pub fn user(name: impl Into<Arc<str>>) -> Self {
        Self { user: Some(name.into()), ..Self::anonymous() }
    }

    /// With these rights instead.
    #[must_use]
    pub fn with_rights(mut self, rights: Rights) -> Self {
        self.rights = rights;
        self
    }

    /// A member of these groups as soon as the connection is open, whatever the rights.
    #[must_use]
    pub fn with_groups(mut self, groups: Vec<String>) -> Self {
        self.groups = groups;
        self
    }

    /// Until then. With `close_on_expiry` the connection ends when this does.
    #[must_use]
    pub fn with_expiry(mut self, expires_at: Option<SystemTime>) -> Self {
        self.expires_at = expires_at;
        self
    }

    /// With these claims for the event handler's `connect`.
    #[cfg(feature = "control")]
    #[must_use]
    pub fn with_claims(mut self, claims: Claims) -> Self {
        self.claims = Some(Box::new(claims));
        self
    }

    #[cfg(feature = "control")]
    pub(crate) fn take_claims(&mut self) -> Option<Box<Claims>> {
        self.claims.take()
    }

    #[cfg(feature = "control")]
    pub(crate) fn with_user(mut self, name: impl Into<Arc<str>>) -> Self {
        self.user = Some(name.into());
        self
    }

    /// What they may do.
    #[must_use]
    pub fn rights(&self) -> &Rights {
        &self.rights
    }

    /// Nobody asked for a name: there is no guard, or it lets everybody be anybody.
    pub(crate) fn is_unnamed_by_choice(&self) -> bool {
        self.user.is_none() && self.rights == Rights::everything()
    }

    pub(crate) fn groups(&self) -> &[String] {
        &self.groups
    }

    pub(crate) fn expires_at(&self) -> Option<SystemTime> {
        self.expires_at
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
