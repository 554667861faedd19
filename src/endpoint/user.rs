//! `/ws/{user_id}` and `/client/hubs/{hub}`: the JSON protocol.

use futures_util::FutureExt;
#[cfg(feature = "backplane")]
use futures_util::future::BoxFuture;

#[cfg(feature = "backplane")]
use crate::question::{Ask, Told, Whom};
use crate::{
    ack::AckIds,
    auth::{Identity, Rejection, Request},
    close::CloseReason,
    connection::{Closed, Connection},
    fan_out::Sent,
    frame::{Form, Message},
    gate::Entered,
    handler::Seat,
    member::Member,
    peer::ConnectionId,
    place::JoinError,
    protocol::{self, Action, Batch, ClientFrame, ErrorName, Payload, Source},
    relay::{self, Room, Settling},
    rights::Action as Right,
    route::Params,
    target::Target,
};
#[cfg(feature = "control")]
use crate::{events::NotRaised, protocol::DataType};

/// Messages to the same receivers are queued together up to this many bytes.
const MAX_BATCH: usize = 64 << 10;

/// A client that is told so often that it has too many groups does not listen: it is closed.
const MAX_REFUSED_JOINS: u32 = 128;

/// The seat of `/ws/{user_id}`: the named user of the default hub, and nobody else's.
pub(super) fn named_seat(
    request: &Request,
    identity: &Identity,
    _: Option<&str>,
) -> Result<Seat, Rejection> {
    let user = &request.params()["user_id"];
    if user.len() > 128 || user.chars().any(char::is_control) {
        let rule = "user_id must be 1 to 128 bytes without control characters";
        return Err(Rejection::new(400, rule));
    }
    let may_be = |name| name == user;
    if !identity.user_id().map_or(identity.is_unnamed_by_choice(), may_be) {
        return Err(Rejection::forbidden());
    }
    Ok(Seat { hub: "default".into(), user: Some(user.into()), form: Form::Envelope })
}

/// The seat of `/client/hubs/{hub}`: whoever the guard says, in that hub.
pub(super) fn client_seat(
    request: &Request,
    identity: &Identity,
    subprotocol: Option<&str>,
) -> Result<Seat, Rejection> {
    let hub = &request.params()["hub"];
    protocol::check_hub(hub).map_err(|rule| Rejection::new(400, rule))?;
    let form =
        if subprotocol == Some(super::JSON_SUBPROTOCOL) { Form::Envelope } else { Form::Bare };
    Ok(Seat { hub: hub.into(), user: identity.shared_user_id(), form })
}

/// Runs one connection, in the form that its seat has.
pub(super) async fn serve(mut connection: Connection, params: Params) {
    // Its seat knows the user. An idle connection keeps nothing that it does not need.
    drop(params);
    let Some(member) = connection.take_member() else { return };
    match member.form() {
        Form::Bare => simple(connection, &member).await,
        // To be closed is what both come to; the reason is with the connection.
        Form::Envelope => drop(json(connection, &member).await),
    }
}

/// A simple client: what it sends are `message` events for the event handler.
#[cfg(feature = "control")]
async fn simple(mut connection: Connection, member: &Member) {
    while let Some(message) = connection.recv().await {
        let data_type = match &message {
            Message::Text(_) => DataType::Text,
            Message::Binary(_) => DataType::Binary,
        };
        let Some(line) = connection.line() else {
            member.hub().metrics().unheard.add(1);
            continue;
        };
        match line.raise("message", data_type, message.into_bytes(), None) {
            Ok(()) => connection.room_for_events().await,
            Err(NotRaised::NotTaken) => member.hub().metrics().unheard.add(1),
            Err(NotRaised::Busy) => connection.end(CloseReason::Overloaded),
        }
    }
}

/// A simple client: what it sends is for an event handler, and there is none.
#[cfg(not(feature = "control"))]
async fn simple(mut connection: Connection, member: &Member) {
    while connection.recv().await.is_some() {
        member.hub().metrics().unheard.add(1);
    }
}

async fn json(mut connection: Connection, member: &Member) -> Result<(), Closed> {
    connection.push_encoded(&protocol::connected(&connection.id().to_string(), member.user()));
    let mut speaker = Speaker::new(member);
    loop {
        // What a message needs is gone before anything is waited for: this future stays small.
        while let Some(message) = connection.try_recv() {
            speaker.hear(message, &mut connection);
            #[cfg(feature = "backplane")]
            if let Some(told) = speaker.look_elsewhere(&mut connection) {
                told.await;
            }
            room(&mut connection).await?;
        }
        speaker.publish();
        if let Some(unsettled) = speaker.unsettled.take() {
            // Boxed: it is seldom there.
            unsettled.settle(&mut connection).boxed().await;
        }
        let message = connection.recv().await.ok_or(Closed)?;
        speaker.hear(message, &mut connection);
        #[cfg(feature = "backplane")]
        if let Some(told) = speaker.look_elsewhere(&mut connection) {
            told.await;
        }
        room(&mut connection).await?;
    }
}

/// Waits until both the client and the event handler have kept up.
async fn room(connection: &mut Connection) -> Result<(), Closed> {
    #[cfg(feature = "control")]
    connection.room_for_events().await;
    connection.room().await
}

/// What one client says, and what it is told of it.
struct Speaker<'a> {
    member: &'a Member,
    ack_ids: AckIds,
    /// Messages that are accepted and not queued yet: all to the same receivers.
    outbox: Option<Box<Outbox<'a>>>,
    /// Joins that other nodes do not know of yet.
    unsettled: Option<Box<Unsettled>>,
    /// Joins that were one too many.
    refused_joins: u32,
}

/// Users of whom none is here, and the frame whose ack says whether one is on another node.
#[cfg(feature = "backplane")]
struct Elsewhere {
    ack_id: u64,
    users: Vec<String>,
}

struct Outbox<'a> {
    target: Receivers,
    exclude: Option<ConnectionId>,
    batch: Batch,
    /// For the messages to other nodes, if there are any.
    room: Option<Room>,
    /// Held until all of it is queued.
    _accepted: Entered<'a>,
}

/// What a client is told once it hears what is sent to its groups on other nodes: as much as it
/// has asked for in one read.
#[derive(Default)]
struct Unsettled {
    joins: Vec<Settling>,
    replies: Vec<String>,
    /// Asked for before anything else of this client is read.
    #[cfg(feature = "backplane")]
    elsewhere: Option<Elsewhere>,
}

impl Unsettled {
    async fn settle(self, connection: &mut Connection) {
        if let Some(relay) = connection.hub().relay() {
            relay::settled(self.joins, relay).await;
        }
        self.replies.iter().for_each(|reply| connection.push_encoded(reply));
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Receivers {
    All,
    Group(String),
    Users(Vec<String>),
}

/// Nothing that was accepted is lost, however the connection ends.
impl Drop for Speaker<'_> {
    fn drop(&mut self) {
        self.publish();
    }
}

type Failure = (ErrorName, String);

/// When a frame is carried out.
enum Done {
    Now,
    /// It is, and other nodes are asked whether it was for anybody.
    #[cfg(feature = "backplane")]
    Perhaps(Vec<String>),
    /// The event handler has the last word, and the answer comes from it.
    #[cfg(feature = "control")]
    Later,
}

#[cfg(feature = "control")]
fn raise(
    connection: &Connection,
    name: &str,
    payload: Payload<'_>,
    ack_id: Option<u64>,
) -> Result<Done, Failure> {
    let Some(line) = connection.line() else { return Err(no_event_handler()) };
    let raised = line.raise(name, payload.data_type(), payload.to_plain().into(), ack_id);
    raised.map(|()| Done::Later).map_err(|not_raised| match not_raised {
        NotRaised::NotTaken => no_event_handler(),
        NotRaised::Busy => {
            (ErrorName::TooManyRequests, "too many events wait for the event handler".to_owned())
        }
    })
}

#[cfg(not(feature = "control"))]
fn raise(_: &Connection, _: &str, _: Payload<'_>, _: Option<u64>) -> Result<Done, Failure> {
    Err(no_event_handler())
}

/// What a client is told of users who were not found.
#[cfg(feature = "backplane")]
fn not_found(ack_id: u64, silent: usize) -> String {
    let (name, message) = match silent {
        0 => (ErrorName::NotFound, "no such user is connected"),
        _ => (
            ErrorName::InternalServerError,
            "not all nodes have said whether the user is connected",
        ),
    };
    protocol::failure(Some(ack_id), name, message)
}

fn no_event_handler() -> Failure {
    (ErrorName::NotFound, "there is no event handler".to_owned())
}

fn needed_right<'a>(action: &'a Action<'_>) -> Option<Right<'a>> {
    match action {
        Action::JoinGroup(group) | Action::LeaveGroup(group) => Some(Right::JoinLeaveGroup(group)),
        Action::SendToGroup { group, .. } => Some(Right::SendToGroup(group)),
        Action::SendToUsers { .. } => Some(Right::SendToUser),
        Action::SendToAll { .. } => Some(Right::SendToAll),
        Action::Event { .. } | Action::SequenceAck | Action::Ping => None,
    }
}

impl<'a> Speaker<'a> {
    fn new(member: &'a Member) -> Self {
        Self { member, ack_ids: AckIds::default(), outbox: None, unsettled: None, refused_joins: 0 }
    }

    /// Takes one message, and queues what the client is told.
    fn hear(&mut self, message: Message, connection: &mut Connection) {
        let Message::Text(text) = message else {
            let reason = "this endpoint takes text frames only";
            return connection.end(CloseReason::Unsupported(reason));
        };
        for reply in self.answer(connection, &text).into_iter().flatten() {
            self.tell(connection, reply);
        }
        if self.refused_joins > MAX_REFUSED_JOINS {
            connection.end(CloseReason::Policy("too many groups"));
        }
    }

    /// Queues what the client is told, behind what waits for joins.
    fn tell(&mut self, connection: &mut Connection, reply: String) {
        match &mut self.unsettled {
            Some(unsettled) => unsettled.replies.push(reply),
            None => connection.push_encoded(&reply),
        }
    }

    /// Carries out one frame; returns what the client is told.
    fn answer(&mut self, connection: &Connection, text: &str) -> [Option<String>; 2] {
        match ClientFrame::parse(text) {
            Ok(frame) => {
                let pong = matches!(frame.action, Action::Ping).then(|| protocol::PONG.to_owned());
                [pong, self.acknowledge(connection, frame)]
            }
            Err(bad) => {
                let failure = protocol::failure(bad.ack_id, ErrorName::BadRequest, &bad.message);
                [Some(failure), None]
            }
        }
    }

    fn acknowledge(&mut self, connection: &Connection, frame: ClientFrame<'_>) -> Option<String> {
        let ack_id = frame.ack_id;
        #[cfg(feature = "control")]
        if let Some(line) = connection.line() {
            // They may be tried again.
            line.take_failed().into_iter().for_each(|id| self.ack_ids.remove(id));
        }
        if ack_id.is_some_and(|id| self.ack_ids.contains(id)) {
            let message = "this ackId was used before";
            return Some(protocol::failure(ack_id, ErrorName::Duplicate, message));
        }
        match self.carry_out(connection, frame.action, ack_id) {
            #[cfg(feature = "backplane")]
            Ok(Done::Perhaps(users)) => {
                let elsewhere = ack_id.map(|ack_id| Elsewhere { ack_id, users });
                self.unsettled.get_or_insert_default().elsewhere = elsewhere;
                None
            }
            Ok(done) => ack_id.and_then(|id| {
                // One that failed may be tried again under the same id.
                self.ack_ids.insert(id);
                matches!(done, Done::Now).then(|| protocol::ack(id))
            }),
            Err((name, message)) => Some(protocol::failure(ack_id, name, &message)),
        }
    }

    fn carry_out(
        &mut self,
        connection: &Connection,
        action: Action<'_>,
        ack_id: Option<u64>,
    ) -> Result<Done, Failure> {
        if needed_right(&action).is_some_and(|right| !self.member.may(right)) {
            return Err((ErrorName::Forbidden, "there is no right to this".to_owned()));
        }
        match action {
            Action::JoinGroup(group) => {
                // What was said before must not reach whoever joins after it.
                self.publish();
                self.member.join_group(&group).map_err(|error| match error {
                    JoinError::TooMany(_) => {
                        self.refused_joins += 1;
                        (ErrorName::TooManyRequests, error.to_string())
                    }
                    JoinError::Closed => (ErrorName::BadRequest, error.to_string()),
                })?;
                if let Some(settling) = self.member.hub().settling(Target::Group(&group)) {
                    self.unsettled.get_or_insert_default().joins.push(settling);
                }
            }
            Action::LeaveGroup(group) => {
                self.publish();
                self.member.leave_group(&group);
            }
            Action::SendToGroup { group, no_echo, payload } => {
                let source = Source::Group(&group);
                self.post(&Receivers::Group(group.to_string()), no_echo, source, payload)?;
            }
            Action::SendToAll { no_echo, payload } => {
                self.post(&Receivers::All, no_echo, Source::All, payload)?;
            }
            Action::SendToUsers { users, payload } => {
                let target = Receivers::Users(users);
                self.post(&target, false, Source::User, payload)?;
                if ack_id.is_some() && self.publish().recipients == 0 {
                    #[cfg(feature = "backplane")]
                    if let Receivers::Users(users) = target
                        && self.member.hub().is_joined()
                    {
                        return Ok(Done::Perhaps(users));
                    }
                    let message = "no such user is connected".to_owned();
                    return Err((ErrorName::NotFound, message));
                }
            }
            Action::Event { name, payload } => {
                // The handler must not hear of it before others hear what was said before.
                self.publish();
                return raise(connection, &name, payload, ack_id);
            }
            // The second of its two answers may wait for room; what was accepted must not.
            Action::Ping => drop(self.publish()),
            Action::SequenceAck => {}
        }
        Ok(Done::Now)
    }

    /// Asks other nodes for users who are not here, and tells the client what came of it. Boxed:
    /// there is seldom anybody to ask for.
    #[cfg(feature = "backplane")]
    fn look_elsewhere<'b>(
        &'b mut self,
        connection: &'b mut Connection,
    ) -> Option<BoxFuture<'b, ()>> {
        let Elsewhere { ack_id, users } = self.unsettled.as_mut()?.elsewhere.take()?;
        // What it is told of that need not wait for the end of what was read.
        self.unsettled.take_if(|unsettled| unsettled.joins.is_empty());
        Some(Box::pin(async move {
            let ask = Ask::Find { whom: Whom::Users(users) };
            let Told { answer, silent } = self.member.hub().ask(ask).await;
            let reply = if answer.reached() > 0 {
                self.ack_ids.insert(ack_id);
                protocol::ack(ack_id)
            } else {
                not_found(ack_id, silent)
            };
            self.tell(connection, reply);
        }))
    }

    /// Accepts a message, unless the server stops. It is queued with those that follow it to the
    /// same receivers.
    fn post(
        &mut self,
        target: &Receivers,
        no_echo: bool,
        source: Source<'_>,
        payload: Payload<'_>,
    ) -> Result<(), Failure> {
        let exclude = no_echo.then(|| self.member.connection_id());
        let fits = |outbox: &Outbox<'_>| {
            outbox.target == *target && outbox.exclude == exclude && outbox.batch.len() < MAX_BATCH
        };
        if !self.outbox.as_deref().is_some_and(fits) {
            self.publish();
            let member = self.member;
            let stopping = || (ErrorName::InternalServerError, "the server is stopping".to_owned());
            let accepted = member.hub().accept().ok_or_else(stopping)?;
            let (target, batch) = (target.clone(), Batch::default());
            let outbox = Outbox { target, exclude, batch, room: None, _accepted: accepted };
            self.outbox = Some(Box::new(outbox));
        }
        let Some(outbox) = &mut self.outbox else { return Ok(()) };
        let before = outbox.batch.len();
        outbox.batch.push(source, self.member.user(), payload);
        let bytes = outbox.batch.len() - before;
        match self.member.hub().reserve(outbox.target.as_target(), bytes) {
            Ok(room) => outbox.room = merged(outbox.room.take(), room),
            Err(unreached) => {
                // Those who are here get it nevertheless, behind what was accepted before.
                let mut last = outbox.batch.split_off(before);
                self.publish();
                self.member.hub().publish_in(None, target.as_target(), exclude, &mut last);
                return Err((ErrorName::InternalServerError, unreached.to_string()));
            }
        }
        Ok(())
    }

    /// Queues what was accepted.
    fn publish(&mut self) -> Sent {
        let Some(mut outbox) = self.outbox.take() else { return Sent::default() };
        if outbox.batch.len() == 0 {
            return Sent::default();
        }
        let target = outbox.target.as_target();
        self.member.hub().publish_in(outbox.room, target, outbox.exclude, &mut outbox.batch)
    }
}

impl Receivers {
    fn as_target(&self) -> Target<'_> {
        match self {
            Self::All => Target::All,
            Self::Group(group) => Target::Group(group),
            Self::Users(users) => Target::Users(users),
        }
    }
}

fn merged(one: Option<Room>, other: Option<Room>) -> Option<Room> {
    match (one, other) {
        (Some(mut one), Some(other)) => {
            one.merge(other);
            Some(one)
        }
        (one, other) => one.or(other),
    }
}
