//! Tokens for a backend's clients.

use std::{
    ops::RangeInclusive,
    time::{SystemTime, UNIX_EPOCH},
};

use hyper::StatusCode;
use serde::Serialize;
use serde_json::json;

use super::{
    reply::{Problem, Reply},
    rest::Asked,
};
use crate::protocol::check_group;

/// How long a token may hold: the published API has a number of 32 bits for it.
const MINUTES: RangeInclusive<u32> = 1..=i32::MAX.unsigned_abs();

/// What a client's token says, as [`token_keys`](crate::token_keys) reads it.
#[derive(Serialize)]
struct Claims<'a> {
    aud: String,
    iat: u64,
    exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    role: Vec<&'a str>,
    #[serde(rename = "webpubsub.group", skip_serializing_if = "Vec::is_empty")]
    groups: Vec<&'a str>,
}

/// Signs a token with which a client may connect to this hub.
pub(super) fn generate(asked: &Asked<'_>) -> Result<Reply, Problem> {
    let query = &asked.query;
    let minutes = query.number("minutesToExpire", &MINUTES)?.unwrap_or(60);
    let kind = query.get("clientType").unwrap_or("Default");
    if !kind.eq_ignore_ascii_case("default") {
        return Err(Problem::bad("clientType: must be Default; MQTT and SocketIO are not spoken"));
    }
    let groups: Vec<_> = query.all("group").collect();
    groups.iter().try_for_each(|group| check_group(group)).map_err(Problem::bad)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let claims = Claims {
        aud: format!("{}/client/hubs/{}", asked.base, &asked.params["hub"]),
        iat: now,
        exp: now + u64::from(minutes) * 60,
        sub: query.get("userId").filter(|user| !user.is_empty()),
        role: query.all("role").collect(),
        groups,
    };
    let failed = || {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Problem::new(status, "InternalServerError", "the token could not be signed")
    };
    let token = asked.keys.sign(&claims).ok_or_else(failed)?;
    Ok(Reply::json(StatusCode::OK, &json!({ "token": token })))
}
