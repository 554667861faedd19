//! The opening handshake (RFC 6455 section 4.2): read the head, route, ask the guard, answer.

use std::{
    io, mem,
    net::IpAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use futures_util::FutureExt;
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::tungstenite::{
    handshake::{
        machine::TryParse,
        server::{create_response, write_response},
    },
    http::{self, HeaderMap, header},
};

#[cfg(feature = "backplane")]
use crate::member::UserTaken;
use crate::{
    about::Origin,
    address_limits::TooMany,
    admission::Admission,
    answer::Answer,
    auth::{Guard, Identity, Rejection, Request},
    close::CloseReason,
    config::Expiry,
    connection::Connection,
    evictions::Registration,
    frame::Form,
    handler::{Route, Seat},
    head::{self, Head, NoHead, RequestLine, bad},
    listener::{Established, Incoming},
    member::Member,
    offer::Offer,
    origin::{check_host, check_origin},
    proxy::NOBODY,
    route::{Match, Params},
    server::Shared,
    session::{self, Io, Opened},
    socket::{PeerAddr, Socket},
    wire::Wire,
};
#[cfg(feature = "control")]
use crate::{
    control::{self, Port},
    events::Line,
};

/// Tokens that live longer are cut to this: far enough, and sure to fit a timer.
const LONGEST_TOKEN: Duration = Duration::from_hours(24 * 365);

/// So many handshakes may take their time at once; past it they are hurried, so that those who
/// only hold a place make room for those who want to come in.
const MANY_HANDSHAKES: usize = 1024;

/// How long a handshake may take then.
const HURRIED: Duration = Duration::from_secs(5);

/// Performs the opening handshake; `None` if the answer was another one than 101, or none. A
/// backend's connection is served to its end instead.
pub(crate) async fn open(
    incoming: Incoming,
    admission: Admission,
    server: Arc<Shared>,
) -> Option<(Opened, Admission)> {
    let server = &*server;
    let peer = incoming.peer;
    let pending = server.handshakes.enter();
    let hurried = server.handshakes.count() > MANY_HANDSHAKES;
    let patience = server.config.open_timeout;
    let deadline = Instant::now() + if hurried { patience.min(HURRIED) } else { patience };
    let established = match timeout_at(deadline, incoming.establish(&server.proxies)).await {
        Ok(Ok(established)) => established,
        Ok(Err(error)) => {
            log::debug!("{peer} was lost before its request: {error}");
            server.hub.metrics().refused.add(1);
            return None;
        }
        Err(_) => return None,
    };
    let Established { mut socket, client, certificate_subject, refusal } = established;
    let origin = Peer {
        address: peer,
        client,
        certificate_subject,
        #[cfg(feature = "control")]
        certificate: socket.certificate(),
        admission,
    };
    let mut early = Vec::new();
    let answer = if let Some(refusal) = refusal {
        Err(Instead::Answer(refusal.into()))
    } else {
        let negotiation = negotiate(&mut socket, &mut early, origin, deadline, server);
        tokio::select! {
            agreed = timeout_at(deadline, negotiation) => {
                agreed.unwrap_or_else(|_| Err(Instead::Answer(timed_out())))
            }
            () = server.ending.begun() => Err(Instead::Answer(stopping())),
        }
    };
    drop(pending);
    match answer {
        Ok(agreed) => return Some(agreed.open(socket, early, server)),
        #[cfg(feature = "control")]
        Err(Instead::Control(port, _admission)) => {
            control::serve(socket, early, port, server).await;
        }
        Err(Instead::Answer(answer)) => {
            let status = answer.status().as_u16();
            log::debug!("{peer} is answered {status}");
            server.hub.metrics().answer(status);
            answer.send(&mut socket).await;
        }
        Err(Instead::Nothing) => server.hub.metrics().refused.add(1),
    }
    None
}

/// What comes instead of a 101.
enum Instead {
    Answer(Answer),
    /// The peer was lost.
    Nothing,
    /// The REST API.
    #[cfg(feature = "control")]
    Control(Port, Admission),
}

impl<A: Into<Answer>> From<A> for Instead {
    fn from(answer: A) -> Self {
        Self::Answer(answer.into())
    }
}

/// Who is at the other end.
struct Peer {
    address: PeerAddr,
    client: Option<IpAddr>,
    certificate_subject: Option<String>,
    #[cfg(feature = "control")]
    certificate: Option<Vec<u8>>,
    admission: Admission,
}

/// What a handshake came to, before its 101.
struct Agreed {
    route: Arc<Route>,
    params: Params,
    member: Option<Member>,
    registration: Registration,
    response: Vec<u8>,
    admission: Admission,
    #[cfg(feature = "control")]
    line: Option<Arc<Line>>,
}

async fn negotiate(
    socket: &mut Socket,
    early: &mut Vec<u8>,
    #[cfg_attr(not(feature = "control"), expect(unused_mut, reason = "there is one port"))]
    mut peer: Peer,
    deadline: Instant,
    server: &Shared,
) -> Result<Agreed, Instead> {
    #[cfg(feature = "control")]
    if server.control.is_some() {
        let port = peer.admission.port();
        let asked = port.is_asked_for_control(socket, early).await;
        if asked.map_err(|error| lost(peer.address, &error))? {
            return Err(Instead::Control(port, peer.admission));
        }
        if port == Port::Control {
            peer.admission = Admission::on_data(server, peer.address)?;
        }
    }
    let head = match head::read(socket, mem::take(early), &server.config).await {
        Ok(head) => head,
        Err(NoHead::Refused(rejection)) => return Err(rejection.into()),
        Err(NoHead::Lost(error)) => return Err(lost(peer.address, &error)),
    };
    let Head { bytes, early: behind } = head;
    *early = behind;
    Ok(agree(&bytes, peer, deadline, server).await?)
}

fn lost(peer: PeerAddr, error: &io::Error) -> Instead {
    log::debug!("{peer} was lost before its request: {}", error.kind());
    Instead::Nothing
}

async fn agree(
    head: &[u8],
    peer: Peer,
    deadline: Instant,
    server: &Shared,
) -> Result<Agreed, Answer> {
    let line = RequestLine::parse(head)?;
    let agreed = agree_on(head, &line, peer, deadline, server).await;
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
    mut peer: Peer,
    deadline: Instant,
    server: &Shared,
) -> Result<Agreed, Answer> {
    head::check_framing(head, line)?;
    let path = line.path;
    if let Some(page) = server.page(path) {
        let may = matches!(line.method, "GET" | "HEAD");
        return Err(if may { page } else { wrong_method("GET, HEAD") });
    }
    let (route, params) = find_route(path, server)?;
    if line.method != "GET" {
        return Err(wrong_method("GET"));
    }
    let Ok(Some((_, mut http))) = http::Request::<()>::try_parse(head) else {
        return Err(bad("a malformed head").into());
    };
    join_connection_fields(http.headers_mut());
    check_host(http.headers(), &server.config.allow_hosts)?;
    check_upgrade(http.headers())?;
    let response = create_response(&http).map_err(|error| bad(&error.to_string()))?;
    let origin = check_origin(http.headers(), &server.config.allow_origins)?;
    let client = admit(&mut peer, http.headers(), server)?;
    let admission = peer.admission;
    let request = Request {
        http,
        params,
        peer: peer.address,
        client,
        origin,
        certificate_subject: peer.certificate_subject,
        #[cfg(feature = "control")]
        certificate: peer.certificate,
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

/// A guard that panics lets nobody in.
async fn ask(guard: &dyn Guard, request: &Request) -> Result<Identity, Rejection> {
    let check = AssertUnwindSafe(async { guard.check(request).await });
    check.catch_unwind().await.unwrap_or_else(|_| Err(Rejection::new(500, "internal error")))
}

/// Who the client is, and whether it may have one more connection. A trusted proxy is asked for whom it
/// speaks; everybody else was admitted as soon as they were accepted.
fn admit(peer: &mut Peer, headers: &HeaderMap, server: &Shared) -> Result<Option<IpAddr>, Answer> {
    let address = peer.address.ip();
    if !address.is_none_or(|address| server.proxies.contain(address)) {
        return Ok(address);
    }
    let client = peer.client.or_else(|| server.proxies.client(headers)).or(address);
    let admitted = client.map(|client| server.addresses.admit(client)).transpose();
    peer.admission.of_address = admitted.map_err(|TooMany| too_many_of_one())?.flatten();
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

impl Agreed {
    /// The 101 is the first thing in the output; it leaves with what the handler sends at once.
    fn open(self, socket: Socket, early: Vec<u8>, server: &Shared) -> (Opened, Admission) {
        let mut wire = Wire::new(socket, early, &server.config);
        wire.push_with(|own| own.extend_from_slice(&self.response));
        let metrics = server.hub.metrics();
        metrics.opened.add(1);
        metrics.answered.add(101);
        let peer = Arc::clone(&self.registration.peer);
        log::debug!("connection {} opened", peer.id);
        let mut io = Io::new(wire, self.registration, Arc::clone(&server.config));
        let closes_at =
            peer.identity.expires_at().filter(|_| server.config.expiry == Expiry::Close);
        if let Some(at) = closes_at {
            // A clock that is set later moves nothing: the wait is counted from now.
            let left = at.duration_since(SystemTime::now()).unwrap_or_default();
            io.expire_at(Instant::now() + left.min(LONGEST_TOKEN));
        }
        if server.ending.has_begun() {
            io.begin_close(CloseReason::Restart { reconnect_after: Duration::from_secs(1) });
        }
        let shared = Arc::new(session::Shared {
            io: Mutex::new(io),
            hub: server.hub.clone(),
            peer,
            #[cfg(feature = "control")]
            line: self.line.inspect(Line::opened),
        });
        let connection = Connection::new(Arc::clone(&shared), self.member);
        // A handler may panic before it has come to its first await.
        let start = || self.route.handler.start(connection, self.params);
        let handler = catch_unwind(AssertUnwindSafe(start)).unwrap_or_else(|_| session::panicked());
        (Opened { shared, handler }, self.admission)
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

fn wrong_method(allowed: &str) -> Answer {
    let rejection = Rejection::new(405, format!("the method must be one of: {allowed}"));
    Answer::from(rejection).with("allow", allowed)
}

/// The client's address has had what it may have for now.
pub(crate) fn too_many_of_one() -> Answer {
    let rejection = Rejection::new(429, "too many connections from this address");
    Answer::from(rejection).with("retry-after", "1")
}

fn timed_out() -> Answer {
    Rejection::new(408, "the request took too long").into()
}

fn stopping() -> Answer {
    Answer::from(Rejection::new(503, "stopping")).with("retry-after", "1")
}
