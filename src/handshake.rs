//! The opening handshake (RFC 6455 section 4.2): read the head, agree, answer.

use std::{
    io, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use tokio::time::{Instant, timeout_at};

use crate::{
    admission::Admission,
    agreement::{Agreed, Caller, agree},
    answer::Answer,
    auth::Rejection,
    close::CloseReason,
    config::Expiry,
    connection::Connection,
    head::{self, Head, NoHead},
    listener::{Established, Incoming},
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
    let established = timeout_at(deadline, incoming.establish(&server.proxies)).await;
    let established = match established.unwrap_or_else(|late| Err(late.into())) {
        Ok(established) => established,
        Err(error) => {
            log::debug!("{peer} was lost before its request: {error}");
            server.hub.metrics().refused.add(1);
            return None;
        }
    };
    let Established { mut socket, client, certificate_subject, refusal } = established;
    let caller = Caller {
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
        let negotiation = negotiate(&mut socket, &mut early, caller, deadline, server);
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

async fn negotiate(
    socket: &mut Socket,
    early: &mut Vec<u8>,
    #[cfg_attr(not(feature = "control"), expect(unused_mut, reason = "there is one port"))]
    mut caller: Caller,
    deadline: Instant,
    server: &Shared,
) -> Result<Agreed, Instead> {
    #[cfg(feature = "control")]
    if server.control.is_some() {
        let port = caller.admission.port();
        let asked = port.is_asked_for_control(socket, early).await;
        if asked.map_err(|error| lost(caller.address, &error))? {
            return Err(Instead::Control(port, caller.admission));
        }
        if port == Port::Control {
            caller.admission = Admission::on_data(server, caller.address)?;
        }
    }
    let head = match head::read(socket, mem::take(early), &server.config).await {
        Ok(head) => head,
        Err(NoHead::Refused(rejection)) => return Err(rejection.into()),
        Err(NoHead::Lost(error)) => return Err(lost(caller.address, &error)),
    };
    let Head { bytes, early: behind } = head;
    *early = behind;
    Ok(agree(&bytes, caller, deadline, server).await?)
}

fn lost(peer: PeerAddr, error: &io::Error) -> Instead {
    log::debug!("{peer} was lost before its request: {}", error.kind());
    Instead::Nothing
}

impl Agreed {
    /// The 101 is the first thing in the output; it leaves with what the handler sends at once.
    fn open(self, socket: Socket, early: Vec<u8>, server: &Shared) -> (Opened, Admission) {
        let mut wire = Wire::new(socket, early, &server.config);
        wire.output().push_with(|own| own.extend_from_slice(&self.response));
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

fn timed_out() -> Answer {
    Rejection::new(408, "the request took too long").into()
}

fn stopping() -> Answer {
    Answer::from(Rejection::new(503, "stopping")).with("retry-after", "1")
}
