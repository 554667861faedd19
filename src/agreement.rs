//! What a client and the server agree on before the 101: an endpoint, an identity, a seat in a
//! hub; or the answer that the client gets instead.

use std::{net::IpAddr, panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::{
    handshake::{
        machine::TryParse,
        server::{create_response, write_response},
    },
    http::{self, HeaderMap, header},
};

#[cfg(feature = "control")]
use crate::events::Line;
#[cfg(feature = "backplane")]
use crate::member::UserTaken;
use crate::{
    about::Origin,
    address_limits::TooMany,
    admission::{Admission, too_many_of_one},
    answer::Answer,
    auth::{Guard, Identity, Rejection, Request},
    evictions::Registration,
    frame::Form,
    handler::{Route, Seat},
    head::{self, RequestLine, bad},
    member::Member,
    offer::Offer,
    origin::{check_host, check_origin},
    proxy::NOBODY,
    route::{Match, Params, Pattern},
    server::Shared,
    socket::PeerAddr,
};

/// Who is at the other end.
pub(crate) struct Caller {
    pub(crate) address: PeerAddr,
    pub(crate) client: Option<IpAddr>,
    pub(crate) certificate_subject: Option<String>,
    #[cfg(feature = "control")]
    pub(crate) certificate: Option<Vec<u8>>,
    pub(crate) admission: Admission,
}

/// What a handshake came to, before its 101.
pub(crate) struct Agreed {
    pub(crate) route: Arc<Route>,
    pub(crate) params: Params,
    pub(crate) member: Option<Member>,
    pub(crate) registration: Registration,
    /// The 101, encoded.
    pub(crate) response: Vec<u8>,
    pub(crate) admission: Admission,
    #[cfg(feature = "control")]
    pub(crate) line: Option<Arc<Line>>,
}

/// Comes to an agreement with whoever sent this head, by the deadline.
///
/// # Errors
/// The answer that the client gets instead.
pub(crate) async fn agree(
    head: &[u8],
    caller: Caller,
    deadline: Instant,
    server: &Shared,
) -> Result<Agreed, Answer> {
    let line = RequestLine::parse(head)?;
    let agreed = agree_on(head, &line, caller, deadline, server).await;
    // An answer to HEAD is its head (RFC 9110 section 9.3.2).
    agreed.map_err(|answer| if line.method == "HEAD" { answer.without_body() } else { answer })
}

#[cfg_attr(
    not(feature = "control"),
    expect(unused_variables, unused_mut, reason = "nobody else is asked")
)]
async fn agree_on(
    head: &[u8],
    line: &RequestLine<'_>,
    mut caller: Caller,
    deadline: Instant,
    server: &Shared,
) -> Result<Agreed, Answer> {
    head::check_framing(head, line)?;
    let (route, params) = find_route(line, server)?;
    let http = parse(head)?;
    check_host(http.headers(), &server.config.allow_hosts)?;
    check_upgrade(http.headers())?;
    let response = create_response(&http).map_err(|error| bad(&error.to_string()))?;
    let origin = check_origin(http.headers(), &server.config.allow_origins)?;
    let client = admit(&mut caller, http.headers(), server)?;
    let admission = caller.admission;
    let request = Request {
        http,
        params,
        peer: caller.address,
        client,
        origin,
        certificate_subject: caller.certificate_subject,
        #[cfg(feature = "control")]
        certificate: caller.certificate,
    };
    let guard = route.guard.as_ref().or(server.guard.as_ref());
    let mut guest = match guard {
        Some(guard) => Some(ask(&**guard, &request).await?),
        None => None,
    };
    #[cfg(feature = "control")]
    let claims = guest.as_mut().and_then(Identity::take_claims);
    // Those who are nobody in particular share one identity.
    let guest = guest.filter(|guest| *guest != *server.anonymous);
    let identity = guest.map_or_else(|| Arc::clone(&server.anonymous), Arc::new);
    let offer = Offer::new(&request, &route, identity)?;
    #[cfg(feature = "control")]
    let offer = match &server.upstream {
        Some(upstream) => {
            let claims = claims.as_deref();
            offer.submit(upstream, &request, &route, claims, deadline).await?
        }
        None => offer,
    };
    #[cfg(feature = "backplane")]
    refuse_taken(&offer, server).await?;
    let agreed = take_seat(request, route, offer, response, admission, server)?;
    if let Some(member) = &agreed.member {
        member.settled().await;
    }
    Ok(agreed)
}

/// The endpoint that a request is for. One for a page has that as its answer.
fn find_route(line: &RequestLine<'_>, server: &Shared) -> Result<(Arc<Route>, Params), Answer> {
    if let Some(page) = server.page(line.path) {
        let may = matches!(line.method, "GET" | "HEAD");
        return Err(if may { page } else { wrong_method("GET, HEAD") });
    }
    let fits = |(pattern, route): &(Pattern, Arc<Route>)| match pattern.matches(line.path) {
        Match::No => None,
        Match::Yes(params) => Some(Ok((Arc::clone(route), params))),
        Match::Bad(name) => Some(Err(format!("{name}: must be percent-encoded UTF-8, not empty"))),
    };
    let found = server.routes.iter().find_map(fits);
    let found = found.ok_or_else(|| Rejection::new(404, "not found"))?;
    let found = found.map_err(|rule| Rejection::new(400, rule))?;
    if line.method != "GET" {
        return Err(wrong_method("GET"));
    }
    Ok(found)
}

/// The head as tungstenite reads it.
fn parse(head: &[u8]) -> Result<http::Request<()>, Rejection> {
    match http::Request::<()>::try_parse(head) {
        Ok(Some((_, mut http))) => {
            join_connection_fields(http.headers_mut());
            Ok(http)
        }
        _ => Err(bad("a malformed head")),
    }
}

/// A list may come in several fields (RFC 9110 section 5.3); tungstenite looks at the first.
fn join_connection_fields(headers: &mut HeaderMap) {
    let all: Vec<_> =
        headers.get_all(header::CONNECTION).iter().map(header::HeaderValue::as_bytes).collect();
    if all.len() > 1
        && let Ok(joined) = header::HeaderValue::from_bytes(&all.join(&b", "[..]))
    {
        headers.insert(header::CONNECTION, joined);
    }
}

/// RFC 6455 section 4.2.1: what makes a request an opening handshake, each field once.
fn check_upgrade(headers: &HeaderMap) -> Result<(), Answer> {
    for name in
        [header::SEC_WEBSOCKET_KEY, header::SEC_WEBSOCKET_VERSION, header::UPGRADE, header::ORIGIN]
    {
        if headers.get_all(&name).iter().nth(1).is_some() {
            return Err(bad("a header field that may come once came twice").into());
        }
    }
    let upgrade = headers.get(header::UPGRADE);
    if !upgrade.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket")) {
        let answer = Answer::from(Rejection::new(426, "this is a WebSocket address"));
        return Err(answer.with("upgrade", "websocket"));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let answer = Answer::from(Rejection::new(426, "the WebSocket version must be 13"));
        return Err(answer.with("sec-websocket-version", "13").with("upgrade", "websocket"));
    }
    Ok(())
}

/// A guard that panics lets nobody in.
async fn ask(guard: &dyn Guard, request: &Request) -> Result<Identity, Rejection> {
    let check = AssertUnwindSafe(async { guard.check(request).await });
    check.catch_unwind().await.unwrap_or_else(|_| Err(Rejection::new(500, "internal error")))
}

/// Who the client is, and whether it may have one more connection. A trusted proxy is asked for
/// whom it speaks; everybody else was admitted as soon as they were accepted.
fn admit(
    caller: &mut Caller,
    headers: &HeaderMap,
    server: &Shared,
) -> Result<Option<IpAddr>, Answer> {
    let address = caller.address.ip();
    if !address.is_none_or(|address| server.proxies.contain(address)) {
        return Ok(address);
    }
    let client = caller.client.or_else(|| server.proxies.client(headers)).or(address);
    let admitted = client.map(|client| server.addresses.admit(client)).transpose();
    caller.admission.of_address = admitted.map_err(|TooMany| too_many_of_one())?.flatten();
    Ok(client.filter(|client| *client != NOBODY))
}

/// Two who come to two nodes in the same moment are both let in.
#[cfg(feature = "backplane")]
async fn refuse_taken(offer: &Offer, server: &Shared) -> Result<(), Rejection> {
    let seat = offer.seat.as_ref();
    let Some((seat, user)) = seat.and_then(|seat| Some((seat, seat.user.as_deref()?))) else {
        return Ok(());
    };
    if server.hub.named(&seat.hub).is_taken(user).await {
        return Err(Rejection::new(409, UserTaken.to_string()));
    }
    Ok(())
}

/// Gives the connection its queue, and its seat in a hub, and writes the 101.
fn take_seat(
    request: Request,
    route: Arc<Route>,
    offer: Offer,
    mut response: http::Response<()>,
    admission: Admission,
    server: &Shared,
) -> Result<Agreed, Answer> {
    // One that was offered in a header field is fit for one.
    let subprotocol = offer.subprotocol.as_deref().and_then(|name| name.try_into().ok());
    if let Some(name) = subprotocol {
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, name);
    }
    let Offer { id, seat, identity, .. } = &offer;
    let form = seat.as_ref().map_or(Form::Bare, |seat| seat.form);
    let origin = Origin { address: request.address(), subprotocol: offer.subprotocol.clone() };
    let registration = server.hub.register(*id, form, Arc::clone(identity), origin);
    #[cfg(feature = "control")]
    let line = server.upstream.as_ref().zip(seat.as_ref()).and_then(|(upstream, seat)| {
        let peer = Arc::clone(&registration.peer);
        Line::new(upstream, server.hub.clone(), peer, offer.source(seat))
    });
    let seat = offer.seat;
    let join =
        |seat: Seat| Member::join(server.hub.named(&seat.hub), &registration.peer, seat.user);
    let member =
        seat.map(join).transpose().map_err(|taken| Rejection::new(409, taken.to_string()))?;
    if let Some(member) = &member {
        member.join_all(registration.peer.identity.groups());
    }
    let mut bytes = Vec::with_capacity(256);
    // It fails only where a header value is not ASCII, and ours are.
    write_response(&mut bytes, &response).map_err(|_| Rejection::new(500, "internal error"))?;
    Ok(Agreed {
        route,
        params: request.params,
        member,
        registration,
        response: bytes,
        admission,
        #[cfg(feature = "control")]
        line,
    })
}

fn wrong_method(allowed: &str) -> Answer {
    let rejection = Rejection::new(405, format!("the method must be one of: {allowed}"));
    Answer::from(rejection).with("allow", allowed)
}
