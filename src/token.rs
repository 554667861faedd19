//! Access tokens: JSON Web Tokens (RFC 7519) that say who asks and what they may do.

use std::{
    borrow::Cow,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

#[cfg(feature = "control")]
use data_encoding::BASE64URL_NOPAD;
use futures_util::future::BoxFuture;
use percent_encoding::percent_decode_str;
#[cfg(feature = "control")]
use serde_json::Value;

use crate::{
    auth::{Guard, Identity, Rejection, Request},
    rights::Rights,
    token_keys::TokenKeys,
};

/// Longer tokens are refused unread.
const MAX_TOKEN: usize = 8 << 10;

/// All claims of a token that is verified, as the event handler is told of them.
#[cfg(feature = "control")]
fn all_claims(token: &str) -> Option<crate::auth::Claims> {
    let body = BASE64URL_NOPAD.decode(token.split('.').nth(1)?.as_bytes()).ok()?;
    let claims: serde_json::Map<String, Value> = serde_json::from_slice(&body).ok()?;
    let text = |value: Value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    let values = |value| match value {
        Value::Array(values) => values.into_iter().map(text).collect(),
        one => vec![text(one)],
    };
    Some(claims.into_iter().map(|(name, value)| (name, values(value))).collect())
}

/// Lets in who brings a token: in `Authorization: Bearer`, as the subprotocol that follows
/// `bearer`, in a cookie, or as `access_token` in the query; the first that is there decides.
///
/// A token's `sub` is the user, and on a path with `{user_id}` it must be that one (403). Its
/// `aud`, where it is a URL, must end in the path that is asked for. Everything else that is wrong
/// is 401 with one and the same body.
pub struct TokenGuard {
    keys: Arc<TokenKeys>,
    cookie: Option<String>,
    other: Option<Box<dyn Guard>>,
}

impl fmt::Debug for TokenGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenGuard").field("keys", &self.keys).finish_non_exhaustive()
    }
}

impl TokenGuard {
    /// A guard with these keys that looks at no cookie.
    #[must_use]
    pub fn new(keys: Arc<TokenKeys>) -> Self {
        Self { keys, cookie: None, other: None }
    }

    /// Asks this guard about those who bring no token at all. A token that is brought decides,
    /// whatever the other guard would say.
    #[must_use]
    pub fn or_else(mut self, other: impl Guard) -> Self {
        self.other = Some(Box::new(other));
        self
    }

    /// Looks at the cookie of this name too. It is believed only when `Origin` is there and
    /// allowed: a browser sends cookies along for any page.
    #[must_use]
    pub fn cookie(mut self, name: impl Into<String>) -> Self {
        self.cookie = Some(name.into());
        self
    }

    fn token<'a>(&self, request: &'a Request) -> Option<Cow<'a, str>> {
        let bearer = request.header("authorization").and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
        let cookie = || {
            let name = self.cookie.as_deref().filter(|_| request.is_from_allowed_origin())?;
            let pairs = request.header("cookie")?.split(';');
            pairs.filter_map(|pair| pair.trim().split_once('=')).find(|(key, _)| *key == name)
        };
        let header = bearer.or_else(|| request.bearer_subprotocol());
        let header = header.or_else(|| cookie().map(|(_, token)| token));
        header.map(Cow::Borrowed).or_else(|| request.query("access_token"))
    }

    fn identify(&self, request: &Request) -> Result<Identity, Rejection> {
        let token = self.token(request).filter(|token| token.len() <= MAX_TOKEN);
        let token = token.ok_or_else(Rejection::unauthorized)?;
        let claims = self.keys.verify(&token).ok_or_else(Rejection::unauthorized)?;
        let audiences = claims.aud.into_vec();
        // A named user is one of the hub `default`: that hub's own address will do.
        let is_named = request.params().get("user_id").is_some();
        let named = || is_named && is_for(&audiences, "/client/hubs/default");
        if !is_for(&audiences, request.path()) && !named() {
            return Err(Rejection::unauthorized());
        }
        let expires_at = Duration::try_from_secs_f64(claims.exp).ok();
        let expires_at = expires_at.and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since));
        let identity = match claims.sub.filter(|user| !user.is_empty()) {
            Some(user) => Identity::user(user),
            None => Identity::anonymous(),
        };
        #[cfg(feature = "control")]
        let identity = identity.with_claims(all_claims(&token).unwrap_or_default());
        Ok(identity
            .with_rights(Rights::of_roles(claims.role.into_vec()))
            .with_groups(claims.group.into_vec())
            .with_expiry(expires_at))
    }
}

impl Guard for TokenGuard {
    fn check<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Identity, Rejection>> {
        match self.other.as_ref().filter(|_| self.token(request).is_none()) {
            Some(other) => other.check(request),
            None => Box::pin(std::future::ready(self.identify(request))),
        }
    }
}

/// Audiences that are not URLs say nothing about addresses.
fn is_for(audiences: &[String], path: &str) -> bool {
    let mut urls = audiences.iter().filter(|audience| audience.contains("://")).peekable();
    urls.peek().is_none() || urls.any(|url| url_before(url, path).is_some())
}

/// What stands in a URL before this path, if its path ends in it: scheme, host, and what a proxy
/// has put before our own paths. Segments are compared as they are meant, percent-encoded or not.
pub(crate) fn url_before<'a>(url: &'a str, path: &str) -> Option<&'a str> {
    let start = url.find("://")? + "://".len();
    let end = url[start..].find(['?', '#']).map_or(url.len(), |index| start + index);
    let mut rest = &url[..end];
    for segment in path.strip_prefix('/')?.rsplit('/') {
        let (before, last) = rest.rsplit_once('/').filter(|(before, _)| before.len() > start)?;
        if !percent_decode_str(last).eq(percent_decode_str(segment)) {
            return None;
        }
        rest = before;
    }
    Some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audience_that_is_a_url_ends_in_the_path() {
        let check = |audiences: &[&str]| {
            let audiences: Vec<_> = audiences.iter().map(|&one| one.to_owned()).collect();
            is_for(&audiences, "/client/hubs/chat")
        };
        assert!(check(&[]));
        assert!(check(&["somebody"]));
        assert!(check(&["http://127.0.0.1:8001/client/hubs/chat"]));
        assert!(check(&["https://a/client/hubs/other", "https://a/client/hubs/chat"]));
        assert!(!check(&["http://127.0.0.1:8001/client/hubs/other"]));
        assert!(!check(&["http://127.0.0.1:8001/client/hubs/chat/more"]));
        assert!(!check(&["somebody", "https://a/client/hubs/other"]));
        assert!(!check(&["https://a/client%2Fhubs/chat"]));
        assert!(!check(&["https://client/hubs/chat"]));
    }

    #[test]
    fn what_stands_before_a_path_is_found_however_it_is_encoded() {
        for (url, path, before) in [
            ("http://h:1/api/hubs/a/:send?x=/y", "/api/hubs/a/:send", Some("http://h:1")),
            ("https://h/proxy/api/a%5Bb", "/api/a[b", Some("https://h/proxy")),
            ("http://h/api/a%2Fb", "/api/a/b", None),
            ("http://h/api/a", "/api/b", None),
            ("http://h/a", "/api/a", None),
            ("/api/a", "/api/a", None),
        ] {
            assert_eq!(url_before(url, path), before, "{url}");
        }
    }
}
