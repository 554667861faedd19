//! Which web pages may open a socket, and under which names this server answers.
//!
//! A browser sends its cookies to us whatever page asks it to connect; `Origin` is all that tells
//! our own page from a foreign one (RFC 6455 section 10.2).

use std::str::FromStr;

use tokio_tungstenite::tungstenite::http::{HeaderMap, header, uri::Authority};

use crate::auth::Rejection;

/// An origin that is allowed beside the server's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedOrigin {
    /// Every page of the web: for servers without cookies and without secrets.
    Any,
    /// Pages of exactly this scheme, host and port.
    Exact(Origin),
}

/// Scheme, host and port of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

impl FromStr for AllowedOrigin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Any);
        }
        Origin::parse(text)
            .map(Self::Exact)
            .ok_or_else(|| "expected * or an origin such as https://example.com:8443".to_owned())
    }
}

impl Origin {
    /// `None` for anything but `scheme://host` or `scheme://host:port`, `null` above all.
    fn parse(text: &str) -> Option<Self> {
        let (scheme, host) = text.split_once("://")?;
        let scheme = scheme.to_ascii_lowercase();
        let default_port = match scheme.as_str() {
            "http" => 80,
            "https" => 443,
            _ => 0,
        };
        let authority: Authority = host.parse().ok().filter(|_| !host.contains('@'))?;
        let port = authority.port_u16().unwrap_or(default_port);
        Some(Self { scheme, host: authority.host().to_ascii_lowercase(), port })
    }

    /// Whether a page of this origin came from the server that `host` names. What we hear without
    /// TLS may have come with it to a proxy before us, so either of the web's schemes will do.
    fn is_of_host(&self, host: &Authority) -> bool {
        let default_port = match self.scheme.as_str() {
            "http" => 80,
            "https" => 443,
            _ => return false,
        };
        host.host().eq_ignore_ascii_case(&self.host)
            && host.port_u16().unwrap_or(default_port) == self.port
    }
}

/// What the `Origin` of a request says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// There is none: this is a program, not a browser.
    Absent,
    Allowed,
}

/// Judges the `Origin` field, of which there is at most one.
pub(crate) fn check_origin(
    headers: &HeaderMap,
    allowed: &[AllowedOrigin],
) -> Result<Verdict, Rejection> {
    let Some(value) = headers.get(header::ORIGIN) else { return Ok(Verdict::Absent) };
    let origin = value.to_str().ok().and_then(Origin::parse);
    let listed = |one: &AllowedOrigin| match one {
        AllowedOrigin::Any => true,
        AllowedOrigin::Exact(exact) => origin.as_ref() == Some(exact),
    };
    let own = || host(headers).zip(origin.as_ref()).is_some_and(|(h, o)| o.is_of_host(&h));
    if allowed.iter().any(listed) || own() {
        return Ok(Verdict::Allowed);
    }
    Err(Rejection::new(403, "this origin is not allowed"))
}

/// Judges the `Host` field, of which there is exactly one: a page that had its own name resolve to
/// this machine sends that name (DNS rebinding). Names are allowed with or without a port.
pub(crate) fn check_host(headers: &HeaderMap, allowed: &[String]) -> Result<(), Rejection> {
    let Some(host) = host(headers) else { return Err(Rejection::new(400, "Host is malformed")) };
    let named = |one: &String| {
        one.eq_ignore_ascii_case(host.as_str()) || one.eq_ignore_ascii_case(host.host())
    };
    if allowed.is_empty() || allowed.iter().any(named) {
        return Ok(());
    }
    Err(Rejection::new(421, "this server does not answer under that name"))
}

fn host(headers: &HeaderMap) -> Option<Authority> {
    let host = headers.get(header::HOST)?.to_str().ok()?;
    host.parse().ok().filter(|_| !host.contains('@'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(origin: &str, host: &str, allowed: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::ORIGIN, origin.parse().unwrap());
        headers.insert(header::HOST, host.parse().unwrap());
        let allowed: Vec<_> = allowed.iter().map(|one| one.parse().unwrap()).collect();
        check_origin(&headers, &allowed).is_ok()
    }

    #[test]
    fn the_own_host_is_allowed_and_no_other() {
        for (origin, host, allowed) in [
            ("http://h:8000", "h:8000", true),
            ("http://H:8000", "h:8000", true),
            ("http://h", "h", true),
            ("https://h", "h", true),
            ("https://h:443", "h", true),
            ("https://h", "h:443", true),
            ("http://[::1]:8000", "[::1]:8000", true),
            ("http://h:8001", "h:8000", false),
            ("http://h", "h:8000", false),
            ("http://h.evil", "h", false),
            ("http://evil", "h", false),
            ("http://h@evil", "h", false),
            ("null", "h", false),
            ("file://", "h", false),
            ("ftp://h", "h", false),
            ("", "h", false),
        ] {
            assert_eq!(verdict(origin, host, &[]), allowed, "{origin} at {host}");
        }
    }

    #[test]
    fn other_origins_are_allowed_exactly_or_all() {
        assert!(verdict("https://page.example", "h", &["https://page.example"]));
        assert!(verdict("https://page.example", "h", &["*"]));
        assert!(verdict("null", "h", &["*"]));
        for origin in ["http://page.example", "https://page.example:8443", "https://a.page.example"]
        {
            assert!(!verdict(origin, "h", &["https://page.example"]), "{origin}");
        }
    }

    #[test]
    fn hosts_are_checked_where_any_is_named() {
        let check = |host: &str, allowed: &[&str]| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            let allowed: Vec<_> = allowed.iter().map(|&one| one.to_owned()).collect();
            check_host(&headers, &allowed).map_err(|refused| refused.status.as_u16())
        };
        assert_eq!(check("rebound.example", &[]), Ok(()));
        assert_eq!(check("hub.example:8000", &["hub.example"]), Ok(()));
        assert_eq!(check("hub.example:8000", &["hub.example:8000"]), Ok(()));
        assert_eq!(check("hub.example:8001", &["hub.example:8000"]), Err(421));
        assert_eq!(check("rebound.example", &["hub.example"]), Err(421));
        assert_eq!(check("a b", &[]), Err(400));
    }
}
