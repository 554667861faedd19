//! A backend that reads what clients say from a log of the backplane's engine, whenever it likes.

use std::{fmt, sync::Arc};

use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    Failure,
    cloud_event::{self, Event, Source},
};
use crate::{
    backplane::journal::{self, Journal, NotKept},
    error::Error,
    protocol::{DataType, OwnedPayload},
};

/// A log that user events are written to, so that they outlive this process and its backend.
#[derive(Clone)]
pub struct EventStream {
    name: String,
    journal: Arc<dyn Journal>,
}

impl EventStream {
    /// `redis-stream:KEY` or `kafka:TOPIC`, on the engine at this URL: one that
    /// [`Backplane::new`](crate::Backplane::new) takes.
    ///
    /// # Errors
    /// [`Error::EventStream`] names the rule that is broken, and never repeats the URL.
    pub fn new(url: &str, stream: &str) -> Result<Self, Error> {
        let journal = journal::open(url, stream);
        let journal = journal.map_err(|rule| Error::EventStream { reason: rule.to_owned() })?;
        Ok(Self { name: stream.to_owned(), journal })
    }

    /// Done once the engine has it.
    pub(super) async fn keep(&self, source: &Source, event: &Event) -> Result<(), Failure> {
        let connection = source.connection.to_string();
        let record = record(source, &connection, event)?;
        self.journal.append(&connection, &record).await.map_err(|not_kept| {
            let (error, failure) = match not_kept {
                NotKept::Unreachable(error) => (error, Failure::Unreachable),
                NotKept::Failed(error) => (error, Failure::Invalid("the event was not kept")),
            };
            log::debug!("{self:?}: {error}");
            failure
        })
    }
}

impl fmt::Debug for EventStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EventStream").field(&self.name).finish()
    }
}

/// What backends read.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Record<'a> {
    /// The same when it is written twice, which a connection that breaks may cause.
    id: String,
    time: String,
    hub: &'a str,
    connection_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<&'a str>,
    event: &'a str,
    data_type: &'static str,
    data: &'a RawValue,
}

fn record(source: &Source, connection: &str, event: &Event) -> Result<Vec<u8>, Failure> {
    let unknown = Failure::Invalid("the event's payload is not of its type");
    let data_type = DataType::of_media_type(event.content_type).ok_or(unknown.clone())?;
    let payload = OwnedPayload::from_plain(data_type, &event.body).map_err(|_| unknown.clone())?;
    let record = Record {
        id: format!("{connection}-{}", event.id),
        time: cloud_event::now(),
        hub: &source.hub,
        connection_id: connection,
        user_id: source.user.as_deref(),
        event: &event.name,
        data_type: data_type.name(),
        data: payload.as_payload().data,
    };
    serde_json::to_vec(&record).map_err(|_| unknown)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{metrics::EventKind, peer::ConnectionId};

    #[test]
    fn a_record_says_who_said_what_and_keeps_json_as_it_is() {
        let source = Source {
            hub: "chat".into(),
            connection: ConnectionId::next(),
            user: Some("ann".into()),
            subprotocol: None,
            state: None,
        };
        let text = |content_type, body: &'static [u8]| {
            let (kind, name) = (EventKind::User, "order".into());
            let event = Event { kind, name, id: 3, content_type, body: Bytes::from_static(body) };
            let record = record(&source, "c1", &event).unwrap();
            String::from_utf8(record).unwrap()
        };
        let json = text(DataType::Json.media_type(), b"{\"x\": 1.0}");
        assert!(json.starts_with(r#"{"id":"c1-3","time":"2"#), "{json}");
        let rest = r#"Z","hub":"chat","connectionId":"c1","userId":"ann","event":"order","dataType":"json","data":{"x": 1.0}}"#;
        assert!(json.ends_with(rest), "{json}");
        let binary = text(DataType::Binary.media_type(), b"\0\xff");
        assert!(binary.ends_with(r#""dataType":"binary","data":"AP8="}"#), "{binary}");
    }
}
