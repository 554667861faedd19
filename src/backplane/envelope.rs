//! What a message of an engine says: one line of JSON, and behind it the payloads as they are.
//!
//! ```text
//! {"v":1,"node":"..","id":7,"hub":"default","to":{"group":"lobby"},"lengths":[70,70]}\n<70 bytes><70 bytes>
//! ```
//!
//! Whoever delivers it looks at the line alone; a backend writes it with three lines of Python.

use std::{borrow::Cow, fmt, str::from_utf8};

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use super::node_id::NodeId;
use crate::frame::Kind;

/// The only version there is.
const VERSION: u8 = 1;

/// The longest header line: as many excluded connections as a URL can name, or a batch's payloads.
const MAX_HEADER: usize = 128 << 10;

/// The header line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Header<'a> {
    #[serde(rename = "v")]
    version: u8,
    /// Where it comes from; `None` if no node has said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) node: Option<NodeId>,
    /// Counted by that node, so that nothing is delivered twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<u64>,
    #[serde(default = "default_hub", borrow)]
    pub(super) hub: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) to: To<'a>,
    /// Connections that do not get it.
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    pub(super) excluded: Cow<'a, [String]>,
    /// An expression that a connection has to fulfil.
    #[serde(default, skip_serializing_if = "Option::is_none", borrow)]
    pub(super) filter: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "is_usual")]
    pub(super) kind: Kind,
    lengths: Vec<usize>,
}

/// Whom it is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum To<'a> {
    All(Yes),
    Group(#[serde(borrow)] Cow<'a, str>),
    User(#[serde(borrow)] Cow<'a, str>),
    /// Each named once.
    Users(Vec<String>),
    Connection(#[serde(borrow)] Cow<'a, str>),
    /// All nodes, and no client.
    Nodes(Yes),
    /// One of them.
    Node(NodeId),
}

/// What stands where nothing else is to be said: `true`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Yes;

/// One whole message.
#[derive(Debug)]
pub(crate) struct Envelope<'a> {
    pub(crate) header: Header<'a>,
    pub(crate) payloads: Vec<&'a [u8]>,
}

/// Why a message of an engine is none of ours.
#[derive(Debug)]
pub(crate) struct Malformed(String);

impl Malformed {
    pub(super) fn rule(rule: &str) -> Self {
        Self(rule.to_owned())
    }
}

impl<'a> Header<'a> {
    pub(super) fn new(node: NodeId, hub: &'a str, to: To<'a>, kind: Kind) -> Self {
        Self {
            version: VERSION,
            node: Some(node),
            id: None,
            hub: hub.into(),
            to,
            excluded: Cow::Borrowed(&[]),
            filter: None,
            kind,
            lengths: Vec::new(),
        }
    }

    /// The whole message.
    pub(crate) fn seal(&mut self, payloads: &[&[u8]]) -> Bytes {
        self.lengths.clear();
        self.lengths.extend(payloads.iter().map(|payload| payload.len()));
        let mut bytes = Vec::with_capacity(256 + self.lengths.iter().sum::<usize>());
        // Text and numbers are always JSON, and writing to memory does not fail.
        let _ = serde_json::to_writer(&mut bytes, self);
        bytes.push(b'\n');
        for payload in payloads {
            bytes.extend_from_slice(payload);
        }
        bytes.into()
    }
}

impl<'a> Envelope<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let line = bytes.iter().take(MAX_HEADER).position(|byte| *byte == b'\n');
        let line =
            line.ok_or_else(|| Malformed::rule("the header is one line of at most 128 KiB"))?;
        let (line, rest) = (&bytes[..line], &bytes[line + 1..]);
        let header: Header<'a> =
            serde_json::from_slice(line).map_err(|error| Malformed(error.to_string()))?;
        if header.version != VERSION {
            return Err(Malformed::rule("v: must be 1"));
        }
        let payloads = split(rest, &header.lengths)
            .ok_or_else(|| Malformed::rule("lengths: must be those of the payloads"))?;
        let is_text = |payload: &&[u8]| from_utf8(payload).is_ok();
        if header.kind != Kind::Binary && !payloads.iter().all(is_text) {
            return Err(Malformed::rule("a payload of this kind must be UTF-8"));
        }
        Ok(Self { header, payloads })
    }
}

fn split<'a>(mut rest: &'a [u8], lengths: &[usize]) -> Option<Vec<&'a [u8]>> {
    let mut payloads = Vec::with_capacity(lengths.len());
    for length in lengths {
        let (payload, behind) = rest.split_at_checked(*length)?;
        payloads.push(payload);
        rest = behind;
    }
    rest.is_empty().then_some(payloads)
}

fn default_hub() -> Cow<'static, str> {
    "default".into()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde asks for")]
fn is_usual(kind: &Kind) -> bool {
    *kind == Kind::default()
}

impl Serialize for Yes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bool(true)
    }
}

impl<'de> Deserialize<'de> for Yes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let yes = bool::deserialize(deserializer)?;
        yes.then_some(Self).ok_or_else(|| D::Error::custom("to: must be true"))
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_is_found_again() {
        let node = NodeId::next();
        let to = To::Group("a\"b\n".into());
        let mut header = Header::new(node, "default", to.clone(), Kind::Message);
        header.id = Some(7);
        let bytes = header.seal(&[b"{}", b"", b"[\n]"]);
        let Envelope { header, payloads } = Envelope::parse(&bytes).unwrap();
        assert_eq!((header.node, header.id, &*header.hub), (Some(node), Some(7), "default"));
        assert_eq!((header.to, header.kind), (to, Kind::Message));
        assert_eq!(payloads, [&b"{}"[..], b"", b"[\n]"]);
    }

    #[test]
    fn a_backend_says_no_more_than_whom_it_is_for() {
        let text =
            "{\"v\":1,\"to\":{\"user\":\"ann\"},\"kind\":\"binary\",\"lengths\":[1]}\n\u{7f}";
        let Envelope { header, payloads } = Envelope::parse(text.as_bytes()).unwrap();
        assert_eq!((header.node, header.id, &*header.hub), (None, None, "default"));
        assert_eq!((header.to, header.kind), (To::User("ann".into()), Kind::Binary));
        assert_eq!(payloads, [b"\x7f"]);
    }

    #[test]
    fn what_is_malformed_is_named_by_its_rule() {
        for (bytes, expected) in [
            (&b""[..], "one line"),
            (b"{}", "one line"),
            (b"[]\n", "invalid"),
            (b"{}\n", "missing field `v`"),
            (b"{\"v\":2,\"to\":{\"all\":true},\"lengths\":[]}\n", "v: must be 1"),
            (b"{\"v\":1,\"to\":{\"all\":false},\"lengths\":[]}\n", "to: must be true"),
            (b"{\"v\":1,\"to\":{\"some\":1},\"lengths\":[]}\n", "unknown variant"),
            (b"{\"v\":1,\"to\":{\"all\":true},\"lengths\":[2]}\nx", "lengths: must be"),
            (b"{\"v\":1,\"to\":{\"all\":true},\"lengths\":[0]}\nx", "lengths: must be"),
            (
                b"{\"v\":1,\"to\":{\"all\":true},\"lengths\":[18446744073709551615]}\nx",
                "lengths: must be",
            ),
            (b"{\"v\":1,\"to\":{\"all\":true},\"lengths\":[1]}\n\xff", "must be UTF-8"),
            (b"{\"v\":1,\"node\":\"x\",\"to\":{\"all\":true},\"lengths\":[]}\n", "node: must be"),
        ] {
            let rule = Envelope::parse(bytes).unwrap_err().to_string();
            assert!(rule.contains(expected), "{rule} for {}", String::from_utf8_lossy(bytes));
        }
    }
}
