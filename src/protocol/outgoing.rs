//! What clients are told: messages of others, and what came of their own frames.

use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{DataType, ErrorName, Payload};
use crate::frame::{Form, Kind, Opcode, Publication, payloads, push_frame, push_header};

/// Where a message comes from, as its receivers are told.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Source<'a> {
    Group(&'a str),
    User,
    All,
    #[cfg(feature = "control")]
    Server,
}

/// Messages for the same receivers, encoded one behind the other, so that they are queued as one.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    wire: Vec<u8>,
    text: String,
}

impl Batch {
    pub(crate) fn push(
        &mut self,
        source: Source<'_>,
        from_user: Option<&str>,
        payload: Payload<'_>,
    ) {
        let text = &mut self.text;
        text.clear();
        text.push_str(r#"{"type":"message","from":"#);
        match source {
            Source::Group(group) => {
                text.push_str(r#""group","group":"#);
                push_string(text, group);
            }
            Source::User => text.push_str(r#""user""#),
            Source::All => text.push_str(r#""all""#),
            #[cfg(feature = "control")]
            Source::Server => text.push_str(r#""server""#),
        }
        if let Some(user) = from_user {
            text.push_str(r#","fromUserId":"#);
            push_string(text, user);
        }
        text.extend([r#","dataType":""#, payload.data_type.name(), r#"","data":"#]);
        let data = payload.data.get();
        push_header(&mut self.wire, Opcode::Text, text.len() + data.len() + 1);
        self.wire.extend_from_slice(text.as_bytes());
        self.wire.extend_from_slice(data.as_bytes());
        self.wire.push(b'}');
    }

    /// Takes out the messages behind the first `length` bytes.
    pub(crate) fn split_off(&mut self, length: usize) -> Self {
        Self { wire: self.wire.split_off(length), text: String::new() }
    }

    /// Appends a frame that is no message: an ack. Only for a receiver of [`Form::Envelope`].
    #[cfg(feature = "control")]
    pub(crate) fn push_frame(&mut self, text: &str) {
        push_frame(&mut self.wire, Opcode::Text, text.as_bytes());
    }

    /// Appends a message that another node has encoded.
    #[cfg(feature = "backplane")]
    pub(crate) fn push_encoded(&mut self, text: &[u8]) {
        push_frame(&mut self.wire, Opcode::Text, text);
    }

    /// The bytes of all messages so far.
    pub(crate) fn len(&self) -> usize {
        self.wire.len()
    }
}

impl Publication for Batch {
    /// A simple client gets the payload alone. Few are simple, so it is taken out of the
    /// encoded messages rather than kept beside them.
    fn encode(&mut self, form: Form) -> Vec<u8> {
        match form {
            Form::Envelope => self.wire.clone(),
            Form::Bare => bare(&self.wire),
        }
    }

    fn kind(&self) -> Kind {
        Kind::Message
    }
}

fn bare(wire: &[u8]) -> Vec<u8> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Envelope<'a> {
        data_type: DataType,
        #[serde(borrow)]
        data: &'a RawValue,
    }
    let mut out = Vec::new();
    for payload in payloads(wire) {
        let Ok(Envelope { data_type, data }) = serde_json::from_slice(payload) else {
            continue;
        };
        let payload = Payload { data_type, data }.to_plain();
        push_frame(&mut out, data_type.opcode(), &payload);
    }
    out
}

/// The first frame of every connection.
pub(crate) fn connected(connection_id: &str, user: Option<&str>) -> String {
    let mut text = String::from(r#"{"type":"system","event":"connected","#);
    if let Some(user) = user {
        text.push_str(r#""userId":"#);
        push_string(&mut text, user);
        text.push(',');
    }
    text.extend([r#""connectionId":""#, connection_id, r#""}"#]);
    text
}

/// What a client is told before our close frame.
pub(crate) fn disconnected(why: &str) -> String {
    let mut text = String::from(r#"{"type":"system","event":"disconnected","message":"#);
    push_string(&mut text, why);
    text.push('}');
    text
}

/// What a client is told that may have missed messages of other nodes.
#[cfg(feature = "backplane")]
pub(crate) const GAP: &str = r#"{"type":"system","event":"gap"}"#;

pub(crate) const PONG: &str = r#"{"type":"pong"}"#;

pub(crate) fn ack(id: u64) -> String {
    format!(r#"{{"type":"ack","ackId":{id},"success":true}}"#)
}

/// A failed ack, or an error where there is nothing to acknowledge.
pub(crate) fn failure(ack_id: Option<u64>, name: ErrorName, message: &str) -> String {
    let mut text = String::from(r#"{"type":"#);
    // Writing to a string cannot fail.
    let _ = match ack_id {
        Some(id) => write!(text, r#""ack","ackId":{id},"success":false"#),
        None => write!(text, r#""error""#),
    };
    let _ = write!(text, r#","error":{{"name":"{name:?}","message":"#);
    push_string(&mut text, message);
    text.push_str("}}");
    text
}

/// Appends a JSON string. Names are short and plain: what needs no escape is copied as it is.
fn push_string(text: &mut String, value: &str) {
    if value.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
        text.extend(["\"", value, "\""]);
    } else {
        // A string is always valid JSON.
        text.push_str(&serde_json::to_string(value).unwrap_or_default());
    }
}
