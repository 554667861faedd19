//! What an endpoint does: handlers, and the routes that lead to them.

use std::{fmt, future::Future, sync::Arc};

use futures_util::FutureExt;

use crate::{
    auth::{Guard, Identity, Rejection, Request},
    connection::Connection,
    frame::Form,
    route::Params,
    session::HandlerFuture,
};

/// What runs a connection: any `async fn(Connection, Params)` that returns nothing or a
/// `Result<(), E>`. An error or a panic closes the connection with 1011.
pub trait Handler: Send + Sync + 'static {
    /// Starts it.
    fn start(&self, connection: Connection, params: Params) -> HandlerFuture;
}

impl<H, F, O> Handler for H
where
    H: Fn(Connection, Params) -> F + Send + Sync + 'static,
    F: Future<Output = O> + Send + 'static,
    O: Outcome + 'static,
{
    fn start(&self, connection: Connection, params: Params) -> HandlerFuture {
        Box::pin(self(connection, params).map(Outcome::into_result))
    }
}

/// What a handler may return.
pub trait Outcome {
    /// `Err` with a text for the log if the handler failed.
    ///
    /// # Errors
    /// If the handler failed.
    fn into_result(self) -> Result<(), String>;
}

impl Outcome for () {
    fn into_result(self) -> Result<(), String> {
        Ok(())
    }
}

impl<E: fmt::Display> Outcome for Result<(), E> {
    fn into_result(self) -> Result<(), String> {
        self.map_err(|error| error.to_string())
    }
}

/// A handler with what is asked before it starts.
///
/// ```
/// use hubnerite::{Connection, Identity, Params, Rejection, Request, Route, Server};
///
/// async fn serve(_connection: Connection, _params: Params) {}
///
/// async fn get_user(request: &Request) -> Result<Identity, Rejection> {
///     let name = request.header("x-user").ok_or_else(Rejection::unauthorized)?;
///     Ok(Identity::user(name))
/// }
///
/// let server = Server::new().route("/ws", Route::new(serve).guard(get_user));
/// ```
#[derive(Clone)]
pub struct Route {
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) guard: Option<Arc<dyn Guard>>,
    pub(crate) subprotocols: Vec<&'static str>,
    pub(crate) seat: Option<SeatOf>,
}

/// Decides where the opening handshake makes a connection a member, before the 101: so that a user
/// who may not be connected twice is told so by an HTTP answer.
pub(crate) type SeatOf =
    fn(&Request, &Identity, subprotocol: Option<&str>) -> Result<Seat, Rejection>;

/// A place in a hub.
pub(crate) struct Seat {
    pub(crate) hub: String,
    pub(crate) user: Option<Arc<str>>,
    pub(crate) form: Form,
}

impl Route {
    /// A route that takes everybody.
    pub fn new(handler: impl Handler) -> Self {
        Self { handler: Arc::new(handler), guard: None, subprotocols: Vec::new(), seat: None }
    }

    /// Asks this guard first. It takes the place of the server's own.
    #[must_use]
    pub fn guard(mut self, guard: impl Guard) -> Self {
        self.guard = Some(Arc::new(guard));
        self
    }

    /// The subprotocols that the handler speaks (RFC 6455 section 1.9). The first one that the
    /// client offers and that is among them is selected; if there is none, none is.
    #[must_use]
    pub fn subprotocols(mut self, names: impl IntoIterator<Item = &'static str>) -> Self {
        self.subprotocols = names.into_iter().collect();
        self
    }

    pub(crate) fn seat(mut self, seat: SeatOf) -> Self {
        self.seat = Some(seat);
        self
    }
}

impl<H: Handler> From<H> for Route {
    fn from(handler: H) -> Self {
        Self::new(handler)
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").field("subprotocols", &self.subprotocols).finish_non_exhaustive()
    }
}
