//! Lists, a page at a time.
//!
//! A page ends with the last connection that it names, and the next one begins behind it: ids are
//! given out in order. So a list that is asked for in pages misses nobody who was there all the
//! time, and names nobody twice.

use std::{sync::Arc, time::SystemTime};

use hyper::StatusCode;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;

use super::{
    reply::{Problem, Reply},
    rest::Asked,
};
use crate::{directory::ConnectionInfo, peer::ConnectionId};

/// Entries in a page, if the caller does not say.
const PAGE: usize = 200;

/// What a caller may ask for in all.
const MAX_TOP: usize = i32::MAX as usize;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed<T> {
    value: Vec<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_link: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GroupMember {
    connection_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<String>,
}

/// Ours: what an operator wants to know.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Connected {
    connection_id: String,
    user_id: Option<String>,
    groups: Vec<String>,
    remote_address: Option<String>,
    subprotocol: Option<String>,
    /// Seconds since 1970.
    opened_at: u64,
    queued_bytes: usize,
    messages_in: u64,
    messages_out: u64,
    round_trip_ms: Option<f64>,
}

/// The connections of a group.
pub(super) fn group(asked: &Asked<'_>) -> Result<Reply, Problem> {
    let page = Page::asked_for(asked)?;
    let members = asked.hub.page(asked.target(), page.after, page.size + 1);
    let member = |(id, user): (ConnectionId, Option<Arc<str>>)| GroupMember {
        connection_id: id.to_string(),
        user_id: user.as_deref().map(str::to_owned),
    };
    Ok(page.reply(asked, members, |(id, _)| *id, member))
}

/// All connections of a hub.
pub(super) fn connections(asked: &Asked<'_>) -> Result<Reply, Problem> {
    let page = Page::asked_for(asked)?;
    let members = asked.hub.connections(page.after, page.size + 1);
    Ok(page.reply(asked, members, |info| info.id, Connected::from))
}

impl From<ConnectionInfo> for Connected {
    fn from(info: ConnectionInfo) -> Self {
        let since = info.opened_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self {
            connection_id: info.id.to_string(),
            user_id: info.user.as_deref().map(str::to_owned),
            groups: info.groups.iter().map(|group| group.as_ref().to_owned()).collect(),
            remote_address: info.address.map(|address| address.to_string()),
            subprotocol: info.subprotocol.as_deref().map(str::to_owned),
            opened_at: since.as_secs(),
            queued_bytes: info.queued_bytes,
            messages_in: info.messages_in,
            messages_out: info.messages_out,
            round_trip_ms: info.round_trip.map(|time| time.as_secs_f64() * 1e3),
        }
    }
}

/// Which part of a list is asked for.
struct Page {
    after: Option<ConnectionId>,
    size: usize,
    max_size: usize,
    /// How many more the caller wants in all.
    top: Option<usize>,
}

impl Page {
    fn asked_for(asked: &Asked<'_>) -> Result<Self, Problem> {
        let query = &asked.query;
        let max_size = query.number("maxpagesize", &(1..=PAGE))?.unwrap_or(PAGE);
        let top = query.number("top", &(1..=MAX_TOP))?;
        let after = query.get("continuationToken").map(ConnectionId::parse);
        if after == Some(None) {
            return Err(Problem::bad("continuationToken: must be one that this server gave out"));
        }
        let size = top.map_or(max_size, |top| top.min(max_size));
        Ok(Self { after: after.flatten(), size, max_size, top })
    }

    /// `found` has one more than the page, if there is one.
    fn reply<T, L: Serialize>(
        &self,
        asked: &Asked<'_>,
        mut found: Vec<T>,
        id: impl Fn(&T) -> ConnectionId,
        listed: impl Fn(T) -> L,
    ) -> Reply {
        let more = found.len() > self.size;
        found.truncate(self.size);
        let left = self.top.map(|top| top - found.len());
        let last = found.last().filter(|_| more && left != Some(0)).map(id);
        let next_link = last.map(|last| self.next_link(asked, last, left));
        let value = found.into_iter().map(listed).collect();
        Reply::json(StatusCode::OK, &Listed { value, next_link })
    }

    fn next_link(&self, asked: &Asked<'_>, last: ConnectionId, left: Option<usize>) -> String {
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
