//! The opening handshake (RFC 6455 section 4.2): read the head, route, ask the guard, answer.

use std::{
    sync::{Arc, Mutex, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::{sync::mpsc::UnboundedReceiver, time::timeout};
use tokio_tungstenite::tungstenite::{
    handshake::{
        machine::TryParse,
        server::{create_response, write_response},
    },
    http::{self, HeaderMap, header},
};

use crate::{
    answer::Answer,
    auth::{Identity, Rejection, Request},
    close::CloseReason,
    connection::Connection,
    frame::{Delivery, Form},
    handler::{Route, Seat},
    head::{self, Head, NoHead, RequestLine, bad},
    hub::Registration,
    member::Member,
    route::{Match, Params},
    server::Shared,
    session::{Io, Opened},
    socket::{PeerAddr, Socket},
    wire::Wire,
};

/// Performs the opening handshake; `None` if the answer was another one than 101, or none.
pub(crate) async fn open(mut socket: Socket, peer: PeerAddr, server: &Shared) -> Option<Opened> {
    let mut early = Vec::new();
    let answer = {
        let negotiation = negotiate(&mut socket, &mut early, peer, server);
        let deadline = timeout(server.config.open_timeout, negotiation);
        tokio::select! {
            negotiated = deadline => negotiated.unwrap_or_else(|_| Err(Some(timed_out()))),
            () = server.stopped() => Err(Some(stopping())),
        }
    };
    match answer {
        Ok(agreed) => Some(agreed.open(socket, early, server)),
        Err(answer) => {
            if let Some(answer) = answer {
                log::debug!("{peer} is answered {}", answer.status().as_u16());
                if !answer.status().is_success() {
                    server.hub.metrics().refused.add(1);
                }
                answer.send(&mut socket).await;
            }
            None
        }
    }
}

/// What a handshake came to, before its 101.
struct Agreed {
    route: Arc<Route>,
    params: Params,
    identity: Identity,
    member: Option<Member>,
    registration: Registration,
    queue: UnboundedReceiver<Delivery>,
    response: Vec<u8>,
}

async fn negotiate(
    socket: &mut Socket,
    early: &mut Vec<u8>,
    peer: PeerAddr,
    server: &Shared,
) -> Result<Agreed, Option<Answer>> {
    let head = match head::read(socket, &server.config).await {
        Ok(head) => head,
        Err(NoHead::Refused(rejection)) => return Err(Some(rejection.into())),
        Err(NoHead::Lost(error)) => {
            log::debug!("{peer} was lost before its request: {}", error.kind());
            return Err(None);
        }
    };
    let Head { bytes, early: behind } = head;
    *early = behind;
    agree(&bytes, peer, server).await.map_err(Some)
}

async fn agree(head: &[u8], peer: PeerAddr, server: &Shared) -> Result<Agreed, Answer> {
    let line = RequestLine::parse(head)?;
    let path = line.path();
    if let Some(page) = server.page(path) {
        return Err(if line.method == "GET" { page } else { wrong_method() });
    }
    let (route, params) = find_route(path, server)?;
    if line.method != "GET" {
        return Err(wrong_method());
    }
    let Ok(Some((_, http))) = http::Request::<()>::try_parse(head) else {
        return Err(bad("a malformed head").into());
    };
    check_framing(http.headers(), &http)?;
    check_upgrade(http.headers())?;
    let request = Request { http, params, peer };
    let response = create_response(&request.http).map_err(|error| bad(&error.to_string()))?;
    let identity = match route.guard.as_ref().or(server.guard.as_ref()) {
        Some(guard) => guard.check(&request).await?,
        None => Identity::anonymous(),
    };
    admit(request, route, identity, response, server)
}

/// Gives the connection its queue, and its seat in a hub, and writes the 101.
fn admit(
    request: Request,
    route: Arc<Route>,
    identity: Identity,
    mut response: http::Response<()>,
    server: &Shared,
) -> Result<Agreed, Answer> {
    let subprotocol = select_subprotocol(request.http.headers(), &route);
    if let Some(name) = subprotocol {
        let name = header::HeaderValue::from_static(name);
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, name);
    }
    let seat = match route.seat {
        Some(seat) => Some(seat(&request, &identity, subprotocol)?),
        None => None,
    };
    let form = seat.as_ref().map_or(Form::Bare, |seat| seat.form);
    let (registration, queue) = server.hub.register(form);
    let join =
        |seat: Seat| Member::join(server.hub.named(&seat.hub), &registration.peer, seat.user);
    let member =
        seat.map(join).transpose().map_err(|taken| Rejection::new(409, taken.to_string()))?;
    let mut bytes = Vec::with_capacity(256);
    // It fails only where a header value is not ASCII, and ours are.
    write_response(&mut bytes, &response).map_err(|_| Rejection::new(500, "internal error"))?;
    let params = request.params;
    Ok(Agreed { route, params, identity, member, registration, queue, response: bytes })
}

impl Agreed {
    /// The 101 is the first thing in the output; it leaves with what the handler sends at once.
    fn open(self, socket: Socket, early: Vec<u8>, server: &Shared) -> Opened {
        let mut wire = Wire::new(socket, early, &server.config);
        wire.push_with(|own| own.extend_from_slice(&self.response));
        let metrics = server.hub.metrics();
        metrics.opened.add(1);
        let id = self.registration.peer.id;
        log::debug!("connection {id} opened");
        let mut io = Io::new(wire, self.queue, self.registration, Arc::clone(&server.config));
        if server.draining.load(Relaxed) {
            io.begin_close(CloseReason::Restart { reconnect_after: Duration::from_secs(1) });
        }
        let io = Arc::new(Mutex::new(io));
        let identity = Arc::new(self.identity);
        let connection =
            Connection::new(Arc::clone(&io), server.hub.clone(), identity, self.member);
        Opened { io, handler: self.route.handler.start(connection, self.params) }
    }
}

fn find_route(path: &str, server: &Shared) -> Result<(Arc<Route>, Params), Answer> {
    for (pattern, route) in &server.routes {
        match pattern.matches(path) {
            Match::Yes(params) => return Ok((Arc::clone(route), params)),
            Match::Bad(name) => {
                return Err(
                    Rejection::new(400, format!("{name} must be percent-encoded UTF-8")).into()
                );
            }
            Match::No => {}
        }
    }
    Err(Rejection::new(404, "not found").into())
}

/// No body, one host: nothing that a proxy before us could have understood in another way.
fn check_framing(headers: &HeaderMap, request: &http::Request<()>) -> Result<(), Rejection> {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(bad("Transfer-Encoding on an upgrade"));
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    if lengths.next().is_some_and(|length| length != "0") || lengths.next().is_some() {
        return Err(bad("a body on an upgrade"));
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(bad("there must be one Host"));
    };
    let named = request.uri().authority().map(http::uri::Authority::as_str);
    if named.is_some_and(|named| host != named) {
        return Err(bad("the target names another host than Host"));
    }
    Ok(())
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

/// The first subprotocol that the client offers and the route speaks (RFC 6455 section 4.2.2).
fn select_subprotocol(headers: &HeaderMap, route: &Route) -> Option<&'static str> {
    let offers = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    let offers = offers.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let spoken =
        |offer: &str| route.subprotocols.iter().find(|name| **name == offer.trim()).copied();
    offers.into_iter().find_map(spoken)
}

fn wrong_method() -> Answer {
    Answer::from(Rejection::new(405, "the method must be GET")).with("allow", "GET")
}

fn timed_out() -> Answer {
    Rejection::new(408, "the request took too long").into()
}

fn stopping() -> Answer {
    Answer::from(Rejection::new(503, "stopping")).with("retry-after", "1")
}
