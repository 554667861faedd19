//! Messages from a backend.

use hyper::{StatusCode, header::HeaderName};
use serde_json::value::{RawValue, to_raw_value};

use data_encoding::BASE64;

use super::{
    reply::{Problem, Reply},
    rest::Asked,
};
use crate::{
    hub::Target,
    protocol::{Batch, DataType, Payload, Source},
};

/// How long a message may be held for a client that is away, in seconds. None is held here.
const TIMES_TO_LIVE: std::ops::RangeInclusive<u32> = 0..=300;

/// Queues the body for those whom the address and the query mean.
pub(super) fn send(asked: &Asked<'_>) -> Result<Reply, Problem> {
    asked.query.number("messageTtlSeconds", &TIMES_TO_LIVE)?;
    let selection = asked.selection()?;
    let (data_type, data) = data(asked)?;
    let target = asked.target();
    let source = match target {
        Target::Group(group) => Source::Group(group),
        _ => Source::Server,
    };
    // What is queued behind a connection's request to close would be counted and not written.
    let _accepted = asked.hub.accept().ok_or_else(stopping)?;
    let mut message = Batch::default();
    message.push(source, None, Payload { data_type, data: &data });
    let sent = if selection.is_everybody() {
        asked.hub.publish(target, None, &mut message)
    } else {
        asked.hub.publish_where(target, &mut message, |state, peer| selection.wants(state, peer))
    };
    Ok(Reply::empty(StatusCode::ACCEPTED)
        .with(HeaderName::from_static("x-hubnerite-recipients"), sent.recipients)
        .with(HeaderName::from_static("x-hubnerite-dropped"), sent.evicted))
}

fn stopping() -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", "the server is stopping")
}

/// The body as what clients are sent. JSON is checked and carried as it came.
fn data(asked: &Asked<'_>) -> Result<(DataType, Box<RawValue>), Problem> {
    let content_type = asked.content_type.unwrap_or_default();
    let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match kind.as_str() {
        "application/json" => {
            let data = serde_json::from_slice(&asked.body);
            let data = data.map_err(|error| Problem::bad(format!("body: is not JSON: {error}")))?;
            Ok((DataType::Json, data))
        }
        "text/plain" => {
            let text = std::str::from_utf8(&asked.body);
            let text = text.map_err(|_| Problem::bad("body: text must be UTF-8"))?;
            Ok((DataType::Text, string(text)?))
        }
        "application/octet-stream" => Ok((DataType::Binary, string(&BASE64.encode(&asked.body))?)),
        _ => Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UnsupportedMediaType",
            "Content-Type: must be application/json, text/plain or application/octet-stream",
        )),
    }
}

fn string(text: &str) -> Result<Box<RawValue>, Problem> {
    // Every string can be said in JSON.
    to_raw_value(text).map_err(|_| Problem::bad("body: is not JSON"))
}
