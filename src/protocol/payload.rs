//! Payloads: what kind of value `data` is, in JSON and without JSON around it.

use data_encoding::BASE64;
use serde::Deserialize;
use serde_json::value::RawValue;
#[cfg(feature = "control")]
use serde_json::value::to_raw_value;

use super::Text;
use crate::frame::Opcode;

/// `dataType` and `data`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Payload<'a> {
    pub(super) data_type: DataType,
    pub(crate) data: &'a RawValue,
}

impl<'a> Payload<'a> {
    /// # Errors
    /// The field and the rule that it breaks, if it is not what the type says.
    pub(crate) fn new(data_type: DataType, data: &'a RawValue) -> Result<Self, &'static str> {
        match data_type {
            DataType::Json => {}
            DataType::Text if is_string(data) => {}
            DataType::Text => return Err("data: must be a string for dataType text"),
            DataType::Binary | DataType::Protobuf => {
                decode_base64(data).ok_or("data: must be base64 for this dataType")?;
            }
        }
        Ok(Self { data_type, data })
    }

    #[cfg(feature = "control")]
    pub(crate) fn data_type(&self) -> DataType {
        self.data_type
    }

    /// The payload alone, without JSON around it.
    pub(crate) fn to_plain(self) -> Vec<u8> {
        match self.data_type {
            DataType::Json => self.data.get().as_bytes().to_vec(),
            DataType::Text => {
                let text = serde_json::from_str::<Text<'_>>(self.data.get());
                text.map(|text| text.0.into_owned().into_bytes()).unwrap_or_default()
            }
            DataType::Binary | DataType::Protobuf => decode_base64(self.data).unwrap_or_default(),
        }
    }
}

/// A payload that comes from a backend.
#[cfg(feature = "control")]
#[derive(Debug)]
pub(crate) struct OwnedPayload {
    data_type: DataType,
    data: Box<RawValue>,
}

#[cfg(feature = "control")]
impl OwnedPayload {
    /// # Errors
    /// The rule that the bytes break, if they are not what the type says.
    pub(crate) fn from_plain(data_type: DataType, bytes: &[u8]) -> Result<Self, String> {
        let string = |text: &str| to_raw_value(text).map_err(|error| error.to_string());
        let data = match data_type {
            // Carried as it came.
            DataType::Json => {
                serde_json::from_slice(bytes).map_err(|error| format!("is not JSON: {error}"))
            }
            DataType::Text => {
                string(std::str::from_utf8(bytes).map_err(|_| "text must be UTF-8".to_owned())?)
            }
            DataType::Binary | DataType::Protobuf => string(&BASE64.encode(bytes)),
        };
        Ok(Self { data_type, data: data? })
    }

    pub(crate) fn as_payload(&self) -> Payload<'_> {
        Payload { data_type: self.data_type, data: &self.data }
    }
}

/// What kind of value `data` is, and which media type it has outside of JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DataType {
    Json,
    Text,
    Binary,
    Protobuf,
}

impl DataType {
    /// The type that a `Content-Type` stands for.
    #[cfg(feature = "control")]
    pub(crate) fn of_media_type(content_type: &str) -> Option<Self> {
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        let all = [Self::Json, Self::Text, Self::Binary, Self::Protobuf];
        all.into_iter().find(|one| media_type.eq_ignore_ascii_case(one.media_type()))
    }

    #[cfg(feature = "control")]
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Text => "text/plain",
            Self::Binary => "application/octet-stream",
            Self::Protobuf => "application/x-protobuf",
        }
    }

    pub(super) fn opcode(self) -> Opcode {
        match self {
            Self::Json | Self::Text => Opcode::Text,
            Self::Binary | Self::Protobuf => Opcode::Binary,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Text => "text",
            Self::Binary => "binary",
            Self::Protobuf => "protobuf",
        }
    }
}

/// Only what is escaped can be a string to a lenient reader and none to a strict one: half a
/// surrogate pair.
fn is_string(data: &RawValue) -> bool {
    let text = data.get();
    text.starts_with('"')
        && (!text.contains('\\') || serde_json::from_str::<Text<'_>>(text).is_ok())
}

fn decode_base64(data: &RawValue) -> Option<Vec<u8>> {
    let text: Text<'_> = serde_json::from_str(data.get()).ok()?;
    BASE64.decode(text.0.as_bytes()).ok()
}
