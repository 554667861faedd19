//! Where events are sent: a URL with `{hub}` and `{event}` in it.

use std::{fmt, str::FromStr};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio_tungstenite::tungstenite::http::Uri;

/// What a name may contribute to a path as it is (RFC 3986 section 2.3).
const NOT_UNRESERVED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The address of an event handler: `http` or `https`, with `{hub}` and `{event}` for the names of
/// the hub and the event, which are percent-encoded. Neither may stand in the host.
///
/// Its `Debug` form ends before the query: functions in a cloud have a key there.
#[derive(Clone, PartialEq, Eq)]
pub struct EventUrl(String);

impl FromStr for EventUrl {
    type Err = &'static str;

    /// The error says which rule is broken and never repeats the URL.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (scheme, rest) = text.split_once("://").ok_or(SCHEMES)?;
        match scheme {
            "http" => {}
            "https" if cfg!(feature = "tls") => {}
            _ => return Err(SCHEMES),
        }
        let (host, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if host.contains('@') {
            return Err("a URL with a user or password in it is not taken");
        }
        if host.is_empty() || host.contains(['{', '}']) {
            return Err("the URL needs a host, and {hub} and {event} stand behind it");
        }
        if path.contains('#') {
            return Err("a URL with a fragment is not taken");
        }
        if path.replace("{hub}", "").replace("{event}", "").contains(['{', '}']) {
            return Err("the URL may have {hub} and {event} in it and no other braces");
        }
        let url = Self(text.to_owned());
        url.resolve("hub", "event").map(|_| url).ok_or("the URL is malformed")
    }
}

const SCHEMES: &str =
    if cfg!(feature = "tls") { "expected http:// or https://" } else { "expected http://" };

impl EventUrl {
    #[cfg(feature = "tls")]
    pub(crate) fn is_secure(&self) -> bool {
        self.0.starts_with("https://")
    }

    /// Whether each hub has an address of its own.
    pub(crate) fn names_hub(&self) -> bool {
        self.0.contains("{hub}")
    }

    /// `None` if it becomes longer than a URI may be.
    pub(crate) fn resolve(&self, hub: &str, event: &str) -> Option<Uri> {
        let encode = |name| utf8_percent_encode(name, NOT_UNRESERVED).to_string();
        // An encoded name has no braces, so it is not taken for a parameter.
        let url = self.0.replace("{hub}", &encode(hub)).replace("{event}", &encode(event));
        url.parse().ok()
    }
}

impl fmt::Debug for EventUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.split('?').next().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(template: &str, hub: &str, event: &str) -> String {
        template.parse::<EventUrl>().unwrap().resolve(hub, event).unwrap().to_string()
    }

    #[test]
    fn names_are_encoded_into_the_path() {
        for (template, hub, event, url) in [
            ("http://h:1/api", "chat", "message", "http://h:1/api"),
            ("http://h/{hub}/{event}/", "chat", "a b/c", "http://h/chat/a%20b%2Fc/"),
            ("http://h/?e={event}", "chat", "a&b=\r\n", "http://h/?e=a%26b%3D%0D%0A"),
            ("http://h/{hub}{event}", "a`[", "{hub}", "http://h/a%60%5B%7Bhub%7D"),
            ("http://h/{event}", "chat", "Grüße", "http://h/Gr%C3%BC%C3%9Fe"),
        ] {
            assert_eq!(resolve(template, hub, event), url);
        }
    }

    #[test]
    fn a_url_that_cannot_be_one_is_refused_without_being_repeated() {
        for (url, rule) in [
            ("", "expected"),
            ("example.com/api", "expected"),
            ("ftp://example.com", "expected"),
            ("http://", "needs a host"),
            ("http:///api", "needs a host"),
            ("http://{hub}.example.com/", "needs a host"),
            ("http://user:secret@example.com/", "user or password"),
            ("http://example.com/#secret", "fragment"),
            ("http://example.com/{user}", "no other braces"),
            ("http://example.com/{", "no other braces"),
            ("http://exa mple.com/secret", "malformed"),
        ] {
            let error = url.parse::<EventUrl>().unwrap_err();
            assert!(error.contains(rule) && !error.contains("secret"), "{url}: {error}");
        }
    }

    #[test]
    fn a_key_in_the_query_is_not_shown() {
        let url: EventUrl = "http://h/api?code=secret".parse().unwrap();
        assert_eq!(format!("{url:?}"), "http://h/api");
    }
}
