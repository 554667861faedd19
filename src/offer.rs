//! What a client is about to get when its request is in order, and who has a say in that.

use std::sync::Arc;
#[cfg(feature = "control")]
use std::time::Duration;

#[cfg(feature = "control")]
use tokio::time::Instant;
#[cfg(feature = "control")]
use tokio_tungstenite::tungstenite::http::HeaderValue;

#[cfg(feature = "control")]
use crate::{
    auth::Claims,
    events::{Source, Upstream},
    metrics::EventKind,
};
use crate::{
    auth::{BEARER, Identity, Rejection, Request},
    handler::{Route, Seat},
    peer::ConnectionId,
};

/// So long before the end of a handshake's time the event handler is given up, so that the client
/// is told who was slow.
#[cfg(feature = "control")]
const REFUSAL_MARGIN: Duration = Duration::from_millis(100);

/// What a client is about to get.
pub(crate) struct Offer {
    pub(crate) id: ConnectionId,
    pub(crate) identity: Arc<Identity>,
    pub(crate) subprotocol: Option<Arc<str>>,
    pub(crate) seat: Option<Seat>,
    /// What the event handler gives the connection to carry round.
    #[cfg(feature = "control")]
    state: Option<HeaderValue>,
}

impl Offer {
    /// What the guard and the route say.
    ///
    /// # Errors
    /// If there is no such seat, or not for this client.
    pub(crate) fn new(
        request: &Request,
        route: &Route,
        identity: Arc<Identity>,
    ) -> Result<Self, Rejection> {
        let subprotocol = select_subprotocol(request, route).map(Arc::from);
        let seat = route.seat.map(|seat| seat(request, &identity, subprotocol.as_deref()));
        Ok(Self {
            id: ConnectionId::next(),
            seat: seat.transpose()?,
            identity,
            subprotocol,
            #[cfg(feature = "control")]
            state: None,
        })
    }

    /// Asks the event handler, which may change all of it. Who has no seat is none of its business.
    ///
    /// # Errors
    /// What the client is told instead of 101.
    #[cfg(feature = "control")]
    pub(crate) async fn submit(
        mut self,
        upstream: &Upstream,
        request: &Request,
        route: &Route,
        claims: Option<&Claims>,
        deadline: Instant,
    ) -> Result<Self, Rejection> {
        let Some((seat, seat_of)) = self.seat.as_ref().zip(route.seat) else { return Ok(self) };
        if !upstream.takes(EventKind::Connect, EventKind::Connect.name()) {
            return Ok(self);
        }
        let (source, deadline) = (self.source(seat), deadline - REFUSAL_MARGIN);
        let mut approval = upstream.admit(request, claims, &source, deadline).await?;
        if let Some(name) = approval.subprotocol() {
            if !offers(request).any(|offer| offer == name) {
                let text = "the event handler selects a subprotocol that was not offered";
                return Err(Rejection::new(502, text));
            }
            self.subprotocol = Some(name.into());
        }
        // Whoever has a name by the path keeps it unless the handler gives another.
        let identity = (*self.identity).clone();
        let named = match &seat.user {
            Some(user) => identity.with_user(Arc::clone(user)),
            None => identity,
        };
        self.state = approval.state.take();
        self.identity = Arc::new(approval.apply(named));
        self.seat = Some(seat_of(request, &self.identity, self.subprotocol.as_deref())?);
        Ok(self)
    }

    /// Where the events of this connection come from.
    #[cfg(feature = "control")]
    pub(crate) fn source(&self, seat: &Seat) -> Source {
        Source {
            hub: (*seat.hub).into(),
            connection: self.id,
            user: seat.user.clone(),
            subprotocol: self.subprotocol.clone(),
            state: self.state.clone(),
        }
    }
}

/// The first subprotocol that the client offers and the route speaks (RFC 6455 section 4.2.2). A
/// client that offers nothing but its token is answered `bearer`, because a browser gives up on a
/// server that selects none of what was offered.
fn select_subprotocol(request: &Request, route: &Route) -> Option<&'static str> {
    let spoken = |offer: &str| route.subprotocols.iter().find(|name| **name == offer).copied();
    offers(request).find_map(spoken).or(request.bearer_subprotocol().map(|_| BEARER))
}

/// The subprotocols that a client offers, without its token.
fn offers(request: &Request) -> impl Iterator<Item = &str> {
    let token = request.bearer_subprotocol();
    request.subprotocols().filter(move |offer| Some(*offer) != token)
}
