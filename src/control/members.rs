//! What a backend does with connections: groups, permissions, closing them.

use hyper::StatusCode;
use serde::Deserialize;

use super::{
    reply::{Problem, Reply},
    rest::Asked,
};
use crate::{
    close::CloseReason,
    peer::ConnectionId,
    place::JoinError,
    protocol::check_group,
    rights::{Permission, Rights},
    selection::Selection,
    target::Target,
};

type Answered = Result<Reply, Problem>;

/// What `:addToGroups` and `:removeFromGroups` bring.
#[derive(Deserialize)]
struct FilteredGroups {
    groups: Vec<String>,
    filter: Option<String>,
}

pub(super) fn exists(asked: &Asked<'_>) -> Answered {
    found(asked.hub.has(asked.target()))
}

/// Closes with 1000; what is queued for them is written first.
pub(super) fn close(asked: &Asked<'_>) -> Answered {
    let selection = asked.selection()?;
    let reason = asked.query.get("reason").unwrap_or_default().to_owned();
    let reason = CloseReason::Local { code: 1000, reason };
    asked.hub.close_where(asked.target(), &reason, selection.wanted());
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

pub(super) fn join(asked: &Asked<'_>) -> Answered {
    let groups = [asked.params["group"].to_owned()];
    let joined = asked.hub.join_where(asked.target(), &groups, |_, _| true);
    match joined.map_err(too_many)? {
        0 => Err(nobody(asked)),
        _ => Ok(Reply::empty(StatusCode::OK)),
    }
}

/// A user who is not connected is in no group, as asked for; a connection that is not there is
/// more likely a mistake.
pub(super) fn leave(asked: &Asked<'_>) -> Answered {
    let groups = [asked.params["group"].to_owned()];
    let left = asked.hub.leave_where(asked.target(), Some(&groups), |_, _| true);
    if left == 0 && asked.params.get("connection").is_some() {
        return Err(nobody(asked));
    }
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

#[expect(clippy::unnecessary_wraps, reason = "a call of the table")]
pub(super) fn leave_all(asked: &Asked<'_>) -> Answered {
    asked.hub.leave_where(asked.target(), None, |_, _| true);
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

pub(super) fn join_filtered(asked: &Asked<'_>) -> Answered {
    let (groups, selection) = filtered_groups(asked)?;
    asked.hub.join_where(Target::All, &groups, selection.wanted()).map_err(too_many)?;
    Ok(Reply::empty(StatusCode::OK))
}

pub(super) fn leave_filtered(asked: &Asked<'_>) -> Answered {
    let (groups, selection) = filtered_groups(asked)?;
    asked.hub.leave_where(Target::All, Some(&groups), selection.wanted());
    Ok(Reply::empty(StatusCode::OK))
}

fn filtered_groups(asked: &Asked<'_>) -> Result<(Vec<String>, Selection), Problem> {
    let body: Result<FilteredGroups, _> = serde_json::from_slice(&asked.body);
    let FilteredGroups { groups, filter } =
        body.map_err(|error| Problem::bad(format!("body: {error}")))?;
    groups.iter().try_for_each(|group| check_group(group)).map_err(Problem::bad)?;
    let selection = Selection::new(filter.as_deref(), Vec::new());
    Ok((groups, selection.map_err(|error| Problem::bad(error.to_string()))?))
}

pub(super) fn grant(asked: &Asked<'_>) -> Answered {
    let permission = permission(asked)?;
    with_rights(asked, |rights| rights.grant(permission)).ok_or_else(|| nobody(asked))?;
    Ok(Reply::empty(StatusCode::OK))
}

pub(super) fn revoke(asked: &Asked<'_>) -> Answered {
    let permission = permission(asked)?;
    with_rights(asked, |rights| rights.revoke(permission)).ok_or_else(|| nobody(asked))?;
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

pub(super) fn is_granted(asked: &Asked<'_>) -> Answered {
    let permission = permission(asked)?;
    found(with_rights(asked, |rights| rights.has(permission)).unwrap_or(false))
}

fn with_rights<T>(asked: &Asked<'_>, look: impl FnOnce(&mut Rights) -> T) -> Option<T> {
    asked.hub.with_rights(ConnectionId::parse(&asked.params["connection"])?, look)
}

fn permission<'a>(asked: &'a Asked<'_>) -> Result<Permission<'a>, Problem> {
    let group = asked.query.get("targetName").filter(|name| !name.is_empty());
    match &asked.params["permission"] {
        "joinLeaveGroup" => Ok(Permission::JoinLeaveGroup(group)),
        "sendToGroup" => Ok(Permission::SendToGroup(group)),
        _ => Err(Problem::bad("permission: must be joinLeaveGroup or sendToGroup")),
    }
}

fn found(is_there: bool) -> Answered {
    if is_there { Ok(Reply::empty(StatusCode::OK)) } else { Err(Problem::not_found("not found")) }
}

fn nobody(asked: &Asked<'_>) -> Problem {
    let whom = if asked.params.get("connection").is_some() { "connection" } else { "user" };
    Problem::not_found(format!("{whom}: is not connected"))
}

fn too_many(error: JoinError) -> Problem {
    Problem::bad(format!("group: {error}"))
}
