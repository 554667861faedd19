//! What a backend does with connections: groups, permissions, closing them.

use hyper::StatusCode;
use serde::Deserialize;

use super::{
    reply::{Problem, Reply},
    rest::Asked,
};
use crate::{
    place::JoinError,
    protocol::check_group,
    question::{Act, Answer, Ask, Change, Whom},
    selection::Selection,
};

type Answered = Result<Reply, Problem>;

/// What `:addToGroups` and `:removeFromGroups` bring.
#[derive(Deserialize)]
struct FilteredGroups {
    groups: Vec<String>,
    filter: Option<String>,
}

pub(super) async fn exists(asked: &Asked<'_>) -> Answered {
    found(&asked.ask(Ask::Find { whom: asked.whom() }).await)
}

/// Closes with 1000; what is queued for them is written first.
pub(super) async fn close(asked: &Asked<'_>) -> Answered {
    let (whom, selection) = (asked.whom(), asked.selection()?);
    let reason = asked.query.get("reason").unwrap_or_default().to_owned();
    asked.ask(Ask::Close { whom, selection, reason }).await;
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

pub(super) async fn join(asked: &Asked<'_>) -> Answered {
    let (whom, groups) = (asked.whom(), vec![asked.params["group"].to_owned()]);
    let ask = Ask::Join { whom, groups, selection: Selection::default() };
    match joined(&asked.ask(ask).await)? {
        0 => Err(nobody(asked)),
        _ => Ok(Reply::empty(StatusCode::OK)),
    }
}

/// A user who is not connected is in no group, as asked for; a connection that is not there is
/// more likely a mistake.
pub(super) async fn leave(asked: &Asked<'_>) -> Answered {
    let (whom, groups) = (asked.whom(), Some(vec![asked.params["group"].to_owned()]));
    let left = asked.ask(Ask::Leave { whom, groups, selection: Selection::default() }).await;
    if left.reached() == 0 && asked.params.get("connection").is_some() {
        return Err(nobody(asked));
    }
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

pub(super) async fn leave_all(asked: &Asked<'_>) -> Answered {
    let (whom, selection) = (asked.whom(), Selection::default());
    asked.ask(Ask::Leave { whom, groups: None, selection }).await;
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

pub(super) async fn join_filtered(asked: &Asked<'_>) -> Answered {
    let (groups, selection) = filtered_groups(asked)?;
    joined(&asked.ask(Ask::Join { whom: Whom::All, groups, selection }).await)?;
    Ok(Reply::empty(StatusCode::OK))
}

pub(super) async fn leave_filtered(asked: &Asked<'_>) -> Answered {
    let (groups, selection) = filtered_groups(asked)?;
    asked.ask(Ask::Leave { whom: Whom::All, groups: Some(groups), selection }).await;
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

pub(super) async fn grant(asked: &Asked<'_>) -> Answered {
    match permission(asked, Change::Grant).await?.reached() {
        0 => Err(nobody(asked)),
        _ => Ok(Reply::empty(StatusCode::OK)),
    }
}

pub(super) async fn revoke(asked: &Asked<'_>) -> Answered {
    match permission(asked, Change::Revoke).await?.reached() {
        0 => Err(nobody(asked)),
        _ => Ok(Reply::empty(StatusCode::NO_CONTENT)),
    }
}

pub(super) async fn is_granted(asked: &Asked<'_>) -> Answered {
    found(&permission(asked, Change::Look).await?)
}

async fn permission(asked: &Asked<'_>, change: Change) -> Result<Answer, Problem> {
    let group = asked.query.get("targetName").filter(|name| !name.is_empty()).map(str::to_owned);
    let to = match &asked.params["permission"] {
        "joinLeaveGroup" => Act::JoinLeaveGroup,
        "sendToGroup" => Act::SendToGroup,
        _ => return Err(Problem::bad("permission: must be joinLeaveGroup or sendToGroup")),
    };
    let connection = asked.params["connection"].to_owned();
    Ok(asked.ask(Ask::Permission { connection, change, to, group }).await)
}

fn found(answer: &Answer) -> Answered {
    match answer.reached() {
        0 => Err(Problem::not_found("not found")),
        _ => Ok(Reply::empty(StatusCode::OK)),
    }
}

/// How many have joined.
fn joined(answer: &Answer) -> Result<usize, Problem> {
    if let Answer::TooMany(limit) = *answer {
        return Err(Problem::bad(format!("group: {}", JoinError::TooMany(limit))));
    }
    Ok(answer.reached())
}

/// Who is not found is not there, unless some have not been asked.
fn nobody(asked: &Asked<'_>) -> Problem {
    if asked.silent() > 0 {
        return Problem::unavailable("not all nodes have answered");
    }
    let whom = if asked.params.get("connection").is_some() { "connection" } else { "user" };
    Problem::not_found(format!("{whom}: is not connected"))
}
