//! An event as an HTTP request: `CloudEvents` 1.0 in binary mode, with the attributes of Web `PubSub`.

use std::{borrow::Cow, fmt, sync::Arc, time::SystemTime};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use hmac::{Hmac, Mac};
use http_body_util::Full;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use sha2::Sha256;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio_tungstenite::tungstenite::http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri,
};

use crate::{metrics::EventKind, peer::ConnectionId};

/// What is percent-encoded in an attribute (`CloudEvents` 1.0, HTTP binding, section 3.1.3.2).
const NOT_PLAIN: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

/// The longest state that a handler may give a connection to carry round.
const MAX_STATE: usize = 8 << 10;

const CONNECTION_STATE: &str = "ce-connectionstate";

/// One event.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) kind: EventKind,
    /// Without the prefix that tells system events from those of users.
    pub(crate) name: Cow<'static, str>,
    /// Another for each event of its connection; the same when one is sent again.
    pub(crate) id: u64,
    pub(crate) content_type: &'static str,
    pub(crate) body: Bytes,
}

impl Event {
    /// A system event, with a body of JSON.
    pub(crate) fn system(kind: EventKind, id: u64, body: impl Into<Bytes>) -> Self {
        let content_type = "application/json; charset=utf-8";
        Self { kind, name: kind.name().into(), id, content_type, body: body.into() }
    }
}

/// The connection that an event comes from.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) hub: Arc<str>,
    pub(crate) connection: ConnectionId,
    pub(crate) user: Option<Arc<str>>,
    pub(crate) subprotocol: Option<Arc<str>>,
    /// What the handler gave it last to carry round.
    pub(crate) state: Option<HeaderValue>,
}

/// The connection state that an answer sets, if it does.
///
/// # Errors
/// If it is longer than a connection carries.
pub(crate) fn state_in(headers: &HeaderMap) -> Result<Option<HeaderValue>, &'static str> {
    match headers.get(CONNECTION_STATE) {
        Some(state) if state.len() > MAX_STATE => Err("ce-connectionState is longer than 8 KiB"),
        state => Ok(state.cloned()),
    }
}

/// Signs with each key, so that one can follow another.
pub(crate) struct Signer(Vec<Hmac<Sha256>>);

impl Signer {
    pub(crate) fn new(keys: &[String]) -> Self {
        // HMAC takes keys of any length: none is left out.
        Self(keys.iter().filter_map(|key| Hmac::new_from_slice(key.as_bytes()).ok()).collect())
    }

    /// `sha256=HEX` for each key; `None` without keys.
    fn sign(&self, connection: &str) -> Option<String> {
        let signatures = self.0.iter().map(|key| {
            let code = key.clone().chain_update(connection).finalize();
            format!("sha256={}", HEXLOWER.encode(&code.into_bytes()))
        });
        let signatures: Vec<_> = signatures.collect();
        (!signatures.is_empty()).then(|| signatures.join(","))
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

/// The question whether the address wants our events.
pub(crate) fn permission_request(url: Uri, origin: &str) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::default());
    *request.method_mut() = Method::OPTIONS;
    *request.uri_mut() = url;
    set_common(request.headers_mut(), origin);
    request
}

/// The request that tells of an event.
pub(crate) fn request(
    url: Uri,
    origin: &str,
    signer: &Signer,
    source: &Source,
    event: &Event,
) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(event.body.clone()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = url;
    let headers = request.headers_mut();
    set_common(headers, origin);
    headers.insert("content-type", HeaderValue::from_static(event.content_type));
    let connection = source.connection.to_string();
    let area = if event.kind == EventKind::User { "user" } else { "sys" };
    for (name, value) in [
        ("ce-specversion", Some(Cow::Borrowed("1.0"))),
        ("ce-type", Some(format!("azure.webpubsub.{area}.{}", event.name).into())),
        ("ce-source", Some(format!("/hubs/{}/client/{connection}", source.hub).into())),
        ("ce-id", Some(event.id.to_string().into())),
        ("ce-time", Some(now().into())),
        ("ce-signature", signer.sign(&connection).map(Cow::Owned)),
        ("ce-userid", source.user.as_deref().map(Cow::Borrowed)),
        ("ce-hub", Some((*source.hub).into())),
        ("ce-connectionid", Some((&*connection).into())),
        ("ce-eventname", Some((*event.name).into())),
        ("ce-subprotocol", source.subprotocol.as_deref().map(Cow::Borrowed)),
    ] {
        if let Some(value) = value {
            set(headers, name, &value);
        }
    }
    if let Some(state) = &source.state {
        headers.insert(CONNECTION_STATE, state.clone());
    }
    request
}

/// `ce-awpsversion` is what the published middleware knows us by.
fn set_common(headers: &mut HeaderMap, origin: &str) {
    set(headers, "webhook-request-origin", origin);
    set(headers, "ce-awpsversion", "1.0");
}

fn set(headers: &mut HeaderMap, name: &'static str, value: &str) {
    let value = utf8_percent_encode(value, NOT_PLAIN).to_string();
    // Encoded, every text is visible ASCII.
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(HeaderName::from_static(name), value);
    }
}

/// The time in UTC (RFC 3339).
pub(super) fn now() -> String {
    let now = OffsetDateTime::from(SystemTime::now());
    // It fails for years that have more than four digits.
    now.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers_of(user: &str, keys: &[&str]) -> HeaderMap {
        let keys: Vec<_> = keys.iter().map(|&key| key.to_owned()).collect();
        let source = Source {
            hub: "chat".into(),
            connection: ConnectionId::next(),
            user: Some(user.into()),
            subprotocol: None,
            state: Some(HeaderValue::from_static("eyJrIjoxfQ==")),
        };
        let event = Event::system(EventKind::Connected, 7, "{}");
        let url = Uri::from_static("http://h/");
        request(url, "127.0.0.1:8001", &Signer::new(&keys), &source, &event).headers().clone()
    }

    #[test]
    fn attributes_are_header_fields() {
        let headers = headers_of("ann", &[]);
        let id = headers["ce-connectionid"].to_str().unwrap();
        for (name, value) in [
            ("ce-specversion", "1.0"),
            ("ce-awpsversion", "1.0"),
            ("ce-type", "azure.webpubsub.sys.connected"),
            ("ce-source", &format!("/hubs/chat/client/{id}")),
            ("ce-id", "7"),
            ("ce-userid", "ann"),
            ("ce-hub", "chat"),
            ("ce-eventname", "connected"),
            ("ce-connectionstate", "eyJrIjoxfQ=="),
            ("webhook-request-origin", "127.0.0.1:8001"),
            ("content-type", "application/json; charset=utf-8"),
        ] {
            assert_eq!(headers[name], value, "{name}");
        }
        assert!(headers["ce-time"].to_str().unwrap().ends_with('Z'));
        assert!(!headers.contains_key("ce-signature") && !headers.contains_key("ce-subprotocol"));
    }

    #[test]
    fn what_no_header_can_hold_is_encoded() {
        for (user, value) in [
            ("a b", "a%20b"),
            ("a\r\nce-hub: x", "a%0D%0Ace-hub:%20x"),
            ("Jürgen", "J%C3%BCrgen"),
            ("100%", "100%25"),
        ] {
            assert_eq!(headers_of(user, &[])["ce-userid"], value);
        }
    }

    /// The case of RFC 4231 section 4.3.
    #[test]
    fn signatures_are_those_of_each_key() {
        let signer = Signer::new(&["Jefe".to_owned(), "other".to_owned()]);
        let value = signer.sign("what do ya want for nothing?").unwrap();
        let (first, second) = value.split_once(',').unwrap();
        let digest = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(first, format!("sha256={digest}"));
        assert!(second.starts_with("sha256=") && second != first);
        assert_eq!(format!("{signer:?}"), "2 keys");
    }

    #[test]
    fn a_state_has_a_limit() {
        let headers = |length: usize| {
            HeaderMap::from_iter([(
                HeaderName::from_static(CONNECTION_STATE),
                HeaderValue::try_from("x".repeat(length)).unwrap(),
            )])
        };
        assert_eq!(state_in(&HeaderMap::new()), Ok(None));
        assert!(state_in(&headers(MAX_STATE)).unwrap().is_some());
        assert!(state_in(&headers(MAX_STATE + 1)).is_err());
    }
}
