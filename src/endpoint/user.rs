//! `/ws/{user_id}` and `/client/hubs/{hub}`: named users, and clients of any hub.

use super::speaker;
use crate::{
    auth::{Identity, Rejection, Request},
    connection::Connection,
    frame::Form,
    handler::Seat,
    member::Member,
    protocol,
    route::Params,
};
#[cfg(feature = "control")]
use crate::{close::CloseReason, events::NotRaised, frame::Message, protocol::DataType};

/// The seat of `/ws/{user_id}`: the named user of the default hub, and nobody else's.
pub(super) fn named_seat(
    request: &Request,
    identity: &Identity,
    _: Option<&str>,
) -> Result<Seat, Rejection> {
    let user = &request.params()["user_id"];
    protocol::check_user(user).map_err(|rule| Rejection::new(400, rule))?;
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
        Form::Bare => simple(&mut connection, &member).await,
        // To be closed is what both come to; the reason is with the connection.
        Form::Envelope => drop(speaker::json(&mut connection, &member).await),
    }
}

/// A simple client: what it sends are `message` events for the event handler.
#[cfg(feature = "control")]
async fn simple(connection: &mut Connection, member: &Member) {
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
async fn simple(connection: &mut Connection, member: &Member) {
    while connection.recv().await.is_some() {
        member.hub().metrics().unheard.add(1);
    }
}
