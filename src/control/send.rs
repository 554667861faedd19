//! Messages from a backend.

use std::ops::RangeInclusive;

use hyper::{StatusCode, header::HeaderName};

use super::{
    reply::{Problem, Reply},
    rest::Asked,
};
use crate::{
    filter::Filter,
    protocol::{Batch, DataType, OwnedPayload, Source},
    publish::Exceptions,
    relay::Unreached,
    target::Target,
};

/// How long a message may be held for a client that is away, in seconds. None is held here.
const TIMES_TO_LIVE: RangeInclusive<u32> = 0..=300;

/// Queues the body for those whom the address and the query mean.
pub(super) fn send(asked: &Asked<'_>) -> Result<Reply, Problem> {
    asked.query.number("messageTtlSeconds", &TIMES_TO_LIVE)?;
    let selection = asked.selection()?;
    let payload = payload(asked)?;
    let whom = asked.whom();
    let target = whom.target();
    let source = match target {
        Target::Group(group) => Source::Group(group),
        _ => Source::Server,
    };
    // What is queued behind a connection's request to close would be counted and not written.
    let _accepted =
        asked.hub.accept().ok_or_else(|| Problem::unavailable("the server is stopping"))?;
    let mut message = Batch::default();
    message.push(source, None, payload.as_payload());
    let sent = if selection.is_everybody() {
        asked.hub.publish(target, None, &mut message)
    } else {
        let filter = selection.filter.as_ref().map(Filter::text);
        let exceptions = Exceptions { excluded: &selection.excluded, filter };
        asked.hub.publish_where(target, exceptions, &mut message, selection.wanted())
    };
    if sent.unreached {
        return Err(Problem::unavailable(&Unreached.to_string()));
    }
    Ok(Reply::empty(StatusCode::ACCEPTED)
        .with(HeaderName::from_static("x-hubnerite-recipients"), sent.recipients)
        .with(HeaderName::from_static("x-hubnerite-dropped"), sent.evicted))
}

/// The body as what clients are sent.
fn payload(asked: &Asked<'_>) -> Result<OwnedPayload, Problem> {
    let data_type = asked.content_type.and_then(DataType::of_media_type);
    // The published API knows no other.
    let data_type = data_type.filter(|data_type| *data_type != DataType::Protobuf);
    let data_type = data_type.ok_or_else(|| {
        let rule = "Content-Type: must be application/json, text/plain or application/octet-stream";
        Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", rule)
    })?;
    OwnedPayload::from_plain(data_type, &asked.body)
        .map_err(|rule| Problem::bad(format!("body: {rule}")))
}
