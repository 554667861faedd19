//! What a client of the JSON protocol says, and what it is told of it.

use futures_util::FutureExt;
#[cfg(feature = "backplane")]
use futures_util::future::BoxFuture;

#[cfg(feature = "backplane")]
use super::unsettled::{Elsewhere, not_found};
use super::{
    outbox::{Outbox, Receivers},
    unsettled::Unsettled,
};
#[cfg(feature = "control")]
use crate::events::NotRaised;
#[cfg(feature = "backplane")]
use crate::question::{Ask, Told, Whom};
use crate::{
    ack::AckIds,
    close::CloseReason,
    connection::{Closed, Connection},
    fan_out::Sent,
    frame::Message,
    member::Member,
    place::JoinError,
    protocol::{self, Action, ClientFrame, ErrorName, Payload, Source},
    rights::Action as Right,
    target::Target,
};

/// A client that is told so often that it has too many groups does not listen: it is closed.
const MAX_REFUSED_JOINS: u32 = 128;

/// Runs one connection to its end.
pub(super) async fn json(connection: &mut Connection, member: &Member) -> Result<(), Closed> {
    connection.push_encoded(&protocol::connected(&connection.id().to_string(), member.user()));
    let mut speaker = Speaker::new(member);
    loop {
        // What a message needs is gone before anything is waited for: this future stays small.
        while let Some(message) = connection.try_recv() {
            speaker.hear(message, connection);
            room(&mut speaker, connection).await?;
        }
        speaker.publish();
        if let Some(unsettled) = speaker.unsettled.take() {
            // Boxed: it is seldom there.
            unsettled.settle(connection).boxed().await;
        }
        let message = connection.recv().await.ok_or(Closed)?;
        speaker.hear(message, connection);
        room(&mut speaker, connection).await?;
    }
}

/// Waits until the next message may be heard: other nodes have answered what they are asked, and
/// both the client and the event handler have kept up.
#[cfg_attr(
    not(feature = "backplane"),
    expect(unused_variables, reason = "there are no other nodes")
)]
async fn room(speaker: &mut Speaker<'_>, connection: &mut Connection) -> Result<(), Closed> {
    #[cfg(feature = "backplane")]
    if let Some(told) = speaker.look_elsewhere(connection) {
        told.await;
    }
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
            let message = "ackId: was used before";
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
        if let Some(right) = needed_right(&action).filter(|right| !self.member.may(*right)) {
            return Err((ErrorName::Forbidden, format!("the role {} is needed", right.role())));
        }
        match action {
            Action::JoinGroup(group) => self.join(&group)?,
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
                return self.send_to_users(users, payload, ack_id);
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

    fn join(&mut self, group: &str) -> Result<(), Failure> {
        // What was said before must not reach whoever joins after it.
        self.publish();
        self.member.join_group(group).map_err(|error| match error {
            JoinError::TooMany(_) => {
                self.refused_joins += 1;
                (ErrorName::TooManyRequests, error.to_string())
            }
            JoinError::Closed => (ErrorName::BadRequest, error.to_string()),
        })?;
        if let Some(settling) = self.member.hub().settling(Target::Group(group)) {
            self.unsettled.get_or_insert_default().joins.push(settling);
        }
        Ok(())
    }

    fn send_to_users(
        &mut self,
        users: Vec<String>,
        payload: Payload<'_>,
        ack_id: Option<u64>,
    ) -> Result<Done, Failure> {
        let target = Receivers::Users(users);
        self.post(&target, false, Source::User, payload)?;
        if ack_id.is_none() || self.publish().recipients > 0 {
            return Ok(Done::Now);
        }
        #[cfg(feature = "backplane")]
        if let Receivers::Users(users) = target
            && self.member.hub().is_joined()
        {
            return Ok(Done::Perhaps(users));
        }
        Err((ErrorName::NotFound, "no such user is connected".to_owned()))
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
        let (hub, exclude) = (self.member.hub(), no_echo.then(|| self.member.connection_id()));
        if !self.outbox.as_deref().is_some_and(|outbox| outbox.takes(target, exclude)) {
            self.publish();
            let stopping = || (ErrorName::InternalServerError, "the server is stopping".to_owned());
            let accepted = hub.accept().ok_or_else(stopping)?;
            self.outbox = Some(Box::new(Outbox::new(target.clone(), exclude, accepted)));
        }
        let Some(outbox) = &mut self.outbox else { return Ok(()) };
        outbox.push(hub, source, self.member.user(), payload).map_err(|(mut last, unreached)| {
            // Those who are here get it nevertheless, behind what was accepted before.
            self.publish();
            hub.publish_in(None, target.as_target(), exclude, &mut last);
            (ErrorName::InternalServerError, unreached.to_string())
        })
    }

    /// Queues what was accepted.
    fn publish(&mut self) -> Sent {
        self.outbox.take().map_or_else(Sent::default, |outbox| outbox.publish(self.member.hub()))
    }
}

/// Nothing that was accepted is lost, however the connection ends.
impl Drop for Speaker<'_> {
    fn drop(&mut self) {
        self.publish();
    }
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
