//! Who may call: whoever signs the call's own URL with an access key.

use hyper::{StatusCode, header, http::request::Parts};

use super::reply::Problem;
use crate::{access_keys::AccessKeys, token::url_before, token_keys::TokenKeys};

/// The published scheme: `Authorization: Bearer` with an HS256 token of an access key, whose
/// audience is the URL that is asked for. It says nothing of the body; it expires soon.
pub(super) struct Access {
    keys: AccessKeys,
    tokens: TokenKeys,
}

impl Access {
    pub(super) fn new(keys: AccessKeys) -> Self {
        let tokens = TokenKeys::default().with_access_keys(&keys);
        Self { keys, tokens }
    }

    pub(super) fn keys(&self) -> &AccessKeys {
        &self.keys
    }

    /// What the caller's URL has before `path`: scheme and host as the caller knows them, whatever
    /// proxies stand between. Only the path of an audience is compared, for that reason.
    pub(super) fn check(&self, path: &str, head: &Parts) -> Result<String, Problem> {
        let field = head.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let (scheme, token) = field
            .and_then(|value| value.split_once(' '))
            .ok_or_else(|| unauthorized("Authorization: Bearer TOKEN is required"))?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(unauthorized("Authorization: must be Bearer TOKEN"));
        }
        let claims = self.tokens.verify(token.trim());
        let claims = claims.ok_or_else(|| {
            unauthorized(
                "Authorization: the token is not signed with an access key, or has expired",
            )
        })?;
        let audiences = claims.aud.into_vec();
        let base = audiences.iter().find_map(|url| url_before(url, path));
        base.map(str::to_owned).ok_or_else(|| {
            unauthorized("Authorization: the token's aud must be the URL that is asked for")
        })
    }
}

fn unauthorized(rule: &str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "Unauthorized", rule)
}
