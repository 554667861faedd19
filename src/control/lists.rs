//! Lists, a page at a time: where a page begins, and the link to the next one.

use hyper::StatusCode;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;

use super::{
    reply::{Problem, Reply},
    rest::Asked,
};
use crate::{
    page::{Listed, MAX_ENTRIES, Page},
    peer::ConnectionId,
    question::{Answer, Ask},
};

/// What a caller may ask for in all: the published API has a number of 32 bits for it.
const MAX_TOP: usize = i32::MAX as usize;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct List<T> {
    value: Vec<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_link: Option<String>,
}

/// The connections of a group.
pub(super) async fn group(asked: &Asked<'_>) -> Result<Reply, Problem> {
    let part = Part::asked_for(asked)?;
    let (after, limit) = (part.after.clone(), part.size);
    match asked.ask(Ask::Members { whom: asked.whom(), after, limit }).await {
        Answer::Members(page) => Ok(part.reply(asked, page)),
        _ => Err(Problem::unanswered()),
    }
}

/// All connections of a hub.
pub(super) async fn connections(asked: &Asked<'_>) -> Result<Reply, Problem> {
    let part = Part::asked_for(asked)?;
    let (after, limit) = (part.after.clone(), part.size);
    match asked.ask(Ask::Connections { after, limit }).await {
        Answer::Connections(page) => Ok(part.reply(asked, page)),
        _ => Err(Problem::unanswered()),
    }
}

/// How many are connected to a hub, and to how many nodes.
pub(super) async fn count(asked: &Asked<'_>) -> Result<Reply, Problem> {
    match asked.ask(Ask::Count).await {
        Answer::Counted(counted) => Ok(Reply::json(StatusCode::OK, &counted)),
        _ => Err(Problem::unanswered()),
    }
}

/// Which part of a list is asked for.
struct Part {
    /// The name of a connection, of any node.
    after: Option<String>,
    size: usize,
    max_size: usize,
    /// How many more the caller wants in all.
    top: Option<usize>,
}

impl Part {
    fn asked_for(asked: &Asked<'_>) -> Result<Self, Problem> {
        let query = &asked.query;
        let bounds = 1..=MAX_ENTRIES;
        let max_size = query.number("maxpagesize", &bounds)?.unwrap_or(MAX_ENTRIES);
        let top = query.number("top", &(1..=MAX_TOP))?;
        let after = query.get("continuationToken");
        if after.is_some_and(|after| ConnectionId::floor(after).is_none()) {
            return Err(Problem::bad("continuationToken: must be one that this server gave out"));
        }
        let size = top.map_or(max_size, |top| top.min(max_size));
        Ok(Self { after: after.map(str::to_owned), size, max_size, top })
    }

    fn reply<T: Listed + Serialize>(&self, asked: &Asked<'_>, page: Page<T>) -> Reply {
        let left = self.top.map(|top| top.saturating_sub(page.entries.len()));
        let last = page.entries.last().filter(|_| page.more && left != Some(0));
        let next_link = last.map(|last| self.next_link(asked, last.name(), left));
        Reply::json(StatusCode::OK, &List { value: page.entries, next_link })
    }

    fn next_link(&self, asked: &Asked<'_>, last: &str, left: Option<usize>) -> String {
        let encoded = |name: &str| utf8_percent_encode(name, NON_ALPHANUMERIC).to_string();
        let hub = encoded(&asked.params["hub"]);
        let group = asked.params.get("group").map(|group| format!("/groups/{}", encoded(group)));
        let group = group.unwrap_or_default();
        let top = left.map(|left| format!("&top={left}")).unwrap_or_default();
        let version = asked.query.get("api-version").map(encoded);
        let version = version.map(|version| format!("&api-version={version}")).unwrap_or_default();
        let (base, size) = (&asked.base, self.max_size);
        format!(
            "{base}/api/hubs/{hub}{group}/connections?continuationToken={last}\
             &maxpagesize={size}{top}{version}"
        )
    }
}
