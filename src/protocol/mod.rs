//! The JSON protocol: one object in one text frame.
//!
//! `data` is carried, not parsed: it is a [`RawValue`] from the sender's frame to the receivers',
//! so numbers, key order and white space arrive as they were sent.

mod names;
mod outgoing;
mod payload;

use std::borrow::Cow;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use self::names::check_event;
#[cfg(feature = "control")]
pub(crate) use self::names::is_group_name;
#[cfg(feature = "backplane")]
pub(crate) use self::outgoing::GAP;
#[cfg(not(feature = "control"))]
use self::payload::DataType;
#[cfg(feature = "control")]
pub(crate) use self::payload::{DataType, OwnedPayload};
pub(crate) use self::{
    names::{check_group, check_hub, check_user},
    outgoing::{Batch, PONG, Source, ack, connected, disconnected, failure},
    payload::Payload,
};

/// What a client may ask for.
#[derive(Debug)]
pub(crate) struct ClientFrame<'a> {
    pub(crate) ack_id: Option<u64>,
    pub(crate) action: Action<'a>,
}

#[derive(Debug)]
pub(crate) enum Action<'a> {
    JoinGroup(Cow<'a, str>),
    LeaveGroup(Cow<'a, str>),
    SendToGroup { group: Cow<'a, str>, no_echo: bool, payload: Payload<'a> },
    SendToUsers { users: Vec<String>, payload: Payload<'a> },
    SendToAll { no_echo: bool, payload: Payload<'a> },
    Event { name: Cow<'a, str>, payload: Payload<'a> },
    SequenceAck,
    Ping,
}

/// Errors by the names of the published protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorName {
    BadRequest,
    Forbidden,
    NotFound,
    Duplicate,
    TooManyRequests,
    InternalServerError,
}

/// A frame that is not carried out.
#[derive(Debug)]
pub(crate) struct BadFrame {
    /// The `ackId`, if one could be read: then the answer is a failed ack.
    pub(crate) ack_id: Option<u64>,
    pub(crate) message: String,
}

/// Every field that any frame may have. A borrowed `Cow` inside an `Option` needs a type of its
/// own to stay borrowed.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields<'a> {
    #[serde(borrow, rename = "type")]
    kind: Text<'a>,
    ack_id: Option<u64>,
    #[serde(borrow)]
    group: Option<Text<'a>>,
    #[serde(borrow)]
    user: Option<Text<'a>>,
    users: Option<Vec<String>>,
    #[serde(borrow)]
    event: Option<Text<'a>>,
    data_type: Option<DataType>,
    /// `null` is data too, so it must not be taken for its absence.
    #[serde(default, borrow, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    no_echo: Option<bool>,
    sequence_id: Option<u64>,
}

fn present<'de, D: Deserializer<'de>>(data: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(data).map(Some)
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> ClientFrame<'a> {
    pub(crate) fn parse(text: &'a str) -> Result<Self, BadFrame> {
        // serde would read the fields from an array too, one behind the other.
        if !text.trim_start().starts_with('{') {
            let message = "a frame is one JSON object".to_owned();
            return Err(BadFrame { ack_id: None, message });
        }
        let fields: Fields<'a> = serde_json::from_str(text)
            .map_err(|error| BadFrame { ack_id: ack_id(text), message: error.to_string() })?;
        let ack_id = fields.ack_id;
        let action = fields.action().map_err(|message| BadFrame { ack_id, message })?;
        Ok(Self { ack_id, action })
    }
}

/// The `ackId` of a frame that is wrong elsewhere.
fn ack_id(text: &str) -> Option<u64> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct AckId {
        ack_id: u64,
    }
    serde_json::from_str::<AckId>(text).ok().map(|found| found.ack_id)
}

impl<'a> Fields<'a> {
    fn action(self) -> Result<Action<'a>, String> {
        let no_echo = self.no_echo.unwrap_or(false);
        Ok(match &*self.kind.0 {
            "joinGroup" => Action::JoinGroup(group(self.group)?),
            "leaveGroup" => Action::LeaveGroup(group(self.group)?),
            "sendToGroup" => {
                let payload = payload(self.data_type, self.data)?;
                Action::SendToGroup { group: group(self.group)?, no_echo, payload }
            }
            "sendToUser" => {
                let payload = payload(self.data_type, self.data)?;
                Action::SendToUsers { users: users(self.user, self.users)?, payload }
            }
            "sendToAll" => {
                Action::SendToAll { no_echo, payload: payload(self.data_type, self.data)? }
            }
            "event" => {
                let payload = payload(self.data_type, self.data)?;
                Action::Event { name: event(self.event)?, payload }
            }
            "sequenceAck" => {
                self.sequence_id.ok_or("sequenceId: is required")?;
                Action::SequenceAck
            }
            "ping" => Action::Ping,
            _ => return Err("type: is not one that this server knows".to_owned()),
        })
    }
}

fn group(name: Option<Text<'_>>) -> Result<Cow<'_, str>, String> {
    let name = name.ok_or("group: is required")?.0;
    check_group(&name)?;
    Ok(name)
}

fn event(name: Option<Text<'_>>) -> Result<Cow<'_, str>, String> {
    let name = name.ok_or("event: is required")?.0;
    check_event(&name)?;
    Ok(name)
}

/// Each user once, however often it is named.
fn users(user: Option<Text<'_>>, users: Option<Vec<String>>) -> Result<Vec<String>, String> {
    let mut names = users.unwrap_or_default();
    names.extend(user.map(|name| name.0.into_owned()));
    names.sort_unstable();
    names.dedup();
    if names.is_empty() || names.iter().any(String::is_empty) {
        return Err("user: must be a name, or users a list of names".to_owned());
    }
    Ok(names)
}

fn payload(data_type: Option<DataType>, data: Option<&RawValue>) -> Result<Payload<'_>, String> {
    let data = data.ok_or("data: is required")?;
    Ok(Payload::new(data_type.unwrap_or(DataType::Json), data)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Form, Publication, payloads};

    fn error(frame: &str) -> (Option<u64>, String) {
        let bad = ClientFrame::parse(frame).expect_err(frame);
        (bad.ack_id, bad.message)
    }

    #[test]
    fn what_is_wrong_is_named_by_field_and_rule() {
        for (frame, field) in [
            (r#"{"type":"joinGroup"}"#, "group: is required"),
            (r#"{"type":"joinGroup","group":" "}"#, "group: must be 1 to 1024"),
            (r#"{"type":"sendToGroup","group":"g"}"#, "data: is required"),
            (r#"{"type":"sendToUser","data":1}"#, "user: must be a name"),
            (r#"{"type":"sendToUser","users":[],"data":1}"#, "user: must be a name"),
            (r#"{"type":"sendToAll","dataType":"text","data":1}"#, "data: must be a string"),
            (r#"{"type":"sendToAll","dataType":"binary","data":"%"}"#, "data: must be base64"),
            (r#"{"type":"sendToAll","dataType":"xml","data":1}"#, "unknown variant"),
            (r#"{"type":"event","data":1}"#, "event: is required"),
            (r#"{"type":"event","event":"..","data":1}"#, "event: must be 1 to 128"),
            (r#"{"type":"sequenceAck"}"#, "sequenceId: is required"),
            (r#"{"type":"nonsense"}"#, "type: is not one"),
            ("{}", "missing field `type`"),
            ("nonsense", "one JSON object"),
            ("", "one JSON object"),
            (r#"["ping",null,null,null,null,null,null,null,null,null]"#, "one JSON object"),
            ("[5]", "one JSON object"),
            ("{", "EOF"),
            (r#"{"type":"sendToAll","dataType":"text","data":"\ud800"}"#, "data: must be a string"),
        ] {
            let (ack_id, message) = error(frame);
            assert!(message.contains(field), "{frame}: {message}");
            assert_eq!(ack_id, None);
        }
    }

    #[test]
    fn an_ack_id_is_found_in_a_frame_that_is_wrong_elsewhere() {
        assert_eq!(error(r#"{"type":"joinGroup","group":7,"ackId":1}"#).0, Some(1));
        assert_eq!(error(r#"{"ackId":18446744073709551615}"#).0, Some(u64::MAX));
        assert_eq!(error(r#"{"type":"joinGroup","ackId":-1}"#).0, None);
    }

    #[test]
    fn users_are_one_or_a_list_and_each_is_meant_once() {
        let frame = r#"{"type":"sendToUser","user":"b","users":["a","b","a"],"data":1}"#;
        let Action::SendToUsers { users, .. } = ClientFrame::parse(frame).unwrap().action else {
            panic!("another action")
        };
        assert_eq!(users, ["a", "b"]);
    }

    /// What a batch of one frame arrives as, enveloped and bare.
    fn carried(frame: &str) -> (String, Vec<u8>) {
        let frame = ClientFrame::parse(frame).unwrap();
        let Action::SendToAll { payload, .. } = frame.action else { panic!("another action") };
        let mut batch = Batch::default();
        batch.push(Source::All, Some("u\"1"), payload);
        let bytes = |wire: Vec<u8>| payloads(&wire).next().unwrap().to_vec();
        let envelope = bytes(batch.encode(Form::Envelope));
        (String::from_utf8(envelope).unwrap(), bytes(batch.encode(Form::Bare)))
    }

    #[test]
    fn data_is_carried_and_not_printed_again() {
        assert_eq!(carried(r#"{"type":"sendToAll","data":null}"#).1, b"null");
        let data = "{\"z\": 1.0,  \"a\":12345678901234567890, \"e\":1e2}";
        let (envelope, bare) = carried(&format!(r#"{{"type":"sendToAll","data":{data}}}"#));
        let expected =
            r#"{"type":"message","from":"all","fromUserId":"u\"1","dataType":"json","data":"#;
        assert_eq!(envelope, format!("{expected}{data}}}"));
        assert_eq!(bare, data.as_bytes());
    }

    #[test]
    fn simple_clients_get_text_and_bytes_bare() {
        let (_, text) = carried(r#"{"type":"sendToAll","dataType":"text","data":"a\"\u00e4"}"#);
        assert_eq!(text, "a\"ä".as_bytes());
        let (_, bytes) = carried(r#"{"type":"sendToAll","dataType":"binary","data":"AP8="}"#);
        assert_eq!(bytes, [0, 255]);
    }

    #[test]
    fn failures_are_valid_json_whatever_the_message() {
        let text = failure(Some(3), ErrorName::BadRequest, "a \"quoted\" \n line");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["ackId"], 3);
        assert_eq!(value["error"]["name"], "BadRequest");
        let text = failure(None, ErrorName::NotFound, "x");
        assert!(text.starts_with(r#"{"type":"error""#), "{text}");
    }
}
