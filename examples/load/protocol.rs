//! What subscribers and publishers say, for the servers that are known.

use crate::fault::Fault;
use crate::frame::{DIGITS, Digits, Payload, filler};
use crate::options::{Audience, Fanout, Preset};

/// The five parameters of a server's protocol.
#[derive(Debug, Clone)]
pub(crate) struct Protocol {
    pub(crate) subscriber_path: String,
    pub(crate) publisher_path: String,
    pub(crate) subscribe: String,
    pub(crate) ready: String,
    pub(crate) publish: String,
    pub(crate) header: Option<&'static str>,
}

const PUBLISH: &str =
    r#"{"type":"sendToGroup","group":"load","noEcho":true,"dataType":"text","data":"{payload}"}"#;
const SUBSCRIBE: &str = r#"{"type":"joinGroup","group":"load","ackId":1}"#;
const WEB_PUBSUB: &str = "Sec-WebSocket-Protocol: json.webpubsub.azure.v1";

impl Protocol {
    /// The preset's protocol with the parameters that were given in its place.
    pub(crate) fn new(options: &Audience) -> Self {
        let (subscriber_path, publisher_path, subscribe, ready, publish, header) =
            match options.preset {
                Preset::Hubnerite => (
                    "/ws/subscriber-{id}",
                    "/ws/publisher-{id}",
                    SUBSCRIBE,
                    r#""ackId":1,"#,
                    PUBLISH,
                    None,
                ),
                Preset::WebPubsub => {
                    let path = "/client/hubs/default";
                    (path, path, SUBSCRIBE, r#""ackId":1,"#, PUBLISH, Some(WEB_PUBSUB))
                }
                Preset::Nchan => ("/sub/load", "/pub/load", "", "", "{payload}", None),
                Preset::Paths => ("/sub", "/pub", "", "", "{payload}", None),
                Preset::Broadcast => ("", "", "", "", "{payload}", None),
            };
        let given = |given: &Option<String>, default: &str| {
            given.clone().unwrap_or_else(|| default.to_owned())
        };
        Self {
            subscriber_path: given(&options.subscriber_path, subscriber_path),
            publisher_path: publisher_path.to_owned(),
            subscribe: given(&options.subscribe, subscribe),
            ready: given(&options.ready, ready),
            publish: publish.to_owned(),
            header,
        }
    }

    /// With the publishers' parameters that were given.
    pub(crate) fn for_publishers(mut self, options: &Fanout) -> Self {
        if let Some(path) = &options.publisher_path {
            self.publisher_path.clone_from(path);
        }
        if let Some(frame) = &options.publish {
            self.publish.clone_from(frame);
        }
        self
    }
}

/// What is published: where `{payload}` and `{sequence}` stand in `text`, with the places of the sequence number.
pub(crate) fn fill(flag: &str, text: &str, payload: &Payload) -> Result<Payload, Fault> {
    if !text.contains("{payload}") {
        return Err(Fault::Usage(format!("{flag} must contain {{payload}}")));
    }
    let mut filled = Payload { bytes: Vec::new(), places: Vec::new(), width: DIGITS };
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        filled.bytes.extend_from_slice(&rest.as_bytes()[..at]);
        rest = &rest[at..];
        if let Some(behind) = rest.strip_prefix("{payload}") {
            filled.places.extend(payload.places.iter().map(|place| place + filled.bytes.len()));
            filled.bytes.extend_from_slice(&payload.bytes);
            rest = behind;
        } else if let Some(behind) = rest.strip_prefix("{sequence}") {
            filled.places.push(filled.bytes.len());
            filled.bytes.extend_from_slice(Digits::new(0).low(DIGITS));
            rest = behind;
        } else {
            filled.bytes.push(rest.as_bytes()[0]);
            rest = &rest[1..];
        }
    }
    filled.bytes.extend_from_slice(rest.as_bytes());
    Ok(filled)
}

/// How a payload begins: a mark by which it is found in whatever a server wraps around it. A run has its own mark, so
/// that what a server kept from an earlier one is not taken for ours.
#[derive(Debug, Clone)]
pub(crate) struct Mark(Vec<u8>);

/// Digits of a publisher's number.
const PUBLISHER: usize = 4;

impl Mark {
    pub(crate) fn new() -> Self {
        let now =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self(format!("~{:06}~", now.subsec_micros()).into_bytes())
    }

    /// `~mark~publisher~sequence~letters`, of this many bytes.
    pub(crate) fn payload(&self, publisher: usize, size: usize) -> Result<Payload, Fault> {
        let mut bytes = self.0.clone();
        bytes.extend_from_slice(format!("{publisher:0PUBLISHER$}~").as_bytes());
        let place = bytes.len();
        bytes.extend_from_slice(Digits::new(0).low(DIGITS));
        bytes.push(b'~');
        let Some(letters) = size.checked_sub(bytes.len()) else {
            return Err(Fault::Usage(format!(
                "--size must be at least {} in this mode",
                bytes.len()
            )));
        };
        bytes.extend(filler(letters));
        Ok(Payload { bytes, places: vec![place], width: DIGITS })
    }

    /// Where in `message` a payload begins, and whose it is; `hint` is where the last one was.
    #[inline]
    pub(crate) fn find(&self, message: &[u8], hint: usize) -> Option<(usize, usize)> {
        let at = match message.get(hint..) {
            Some(rest) if rest.starts_with(&self.0) => hint,
            _ => message.windows(self.0.len()).position(|window| window == self.0)?,
        };
        let digits = message.get(at + self.0.len()..)?.get(..PUBLISHER)?;
        Some((
            at,
            digits
                .iter()
                .fold(0, |number, digit| number * 10 + usize::from(digit.wrapping_sub(b'0'))),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_found_in_what_is_published() {
        let mark = Mark::new();
        let payload = mark.payload(42, 64).expect("64 bytes are enough");
        let text = r#"{"ackId":{sequence},"data":"{payload}"}"#;
        let frame = fill("--publish", text, &payload).expect("{payload} is in it");
        assert_eq!(frame.places.len(), 2);
        assert!(
            frame.bytes.starts_with(br#"{"ackId":1000000000,"data":"~"#)
                && frame.bytes.ends_with(br#""}"#)
        );
        for hint in [0, 28, 1000] {
            assert_eq!(mark.find(&frame.bytes, hint), Some((28, 42)));
        }
        assert_eq!(mark.find(b"nothing of ours", 0), None);
        assert!(fill("--publish", "{sequence}", &payload).is_err());
    }
}
