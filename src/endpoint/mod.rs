//! The endpoints of the daemon.

mod outbox;
mod plain;
mod speaker;
mod unsettled;
mod user;

use tokio_tungstenite::tungstenite::http::StatusCode;

use crate::{answer::Answer, handler::Route, server::Server};

/// The published subprotocol that `/client/hubs/{hub}` speaks.
const JSON_SUBPROTOCOL: &str = "json.webpubsub.azure.v1";

const CONSOLE: &str = include_str!("console.html");

/// What the console page may do: run its own script and style, which are named by their hashes,
/// and open sockets. A test compares the hashes with the page.
const CONSOLE_POLICY: &str = "default-src 'none'; \
    script-src 'sha256-taCHiv+lhs3BE+GwhLPv/HRucX5s/0bTf0YAXH93MjQ='; \
    style-src 'sha256-7Ry3Eqc353QWvn2WEfTuWeAZpKo0oTCjrKNgs56nnx0='; \
    connect-src 'self' ws: wss:; img-src data:; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

impl Server {
    /// Adds what the daemon serves: `/ws`, `/echo`, `/ws/{user_id}`, `/client/hubs/{hub}` and the
    /// console page on `/`.
    #[must_use]
    pub fn daemon_routes(self) -> Self {
        let console = Answer::new(StatusCode::OK, "text/html; charset=utf-8", CONSOLE.into())
            .with("content-security-policy", CONSOLE_POLICY)
            .with("referrer-policy", "no-referrer");
        self.page("/", console)
            .route("/ws", plain::reply)
            .route("/echo", plain::echo)
            .route(
                "/ws/{user_id}",
                Route::new(user::serve).subprotocols([JSON_SUBPROTOCOL]).seat(user::named_seat),
            )
            .route(
                "/client/hubs/{hub}",
                Route::new(user::serve).subprotocols([JSON_SUBPROTOCOL]).seat(user::client_seat),
            )
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64;
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::{connection::Connection, route::Params};

    fn future_size<F: Fn(Connection, Params) -> R, R>(_: F) -> usize {
        size_of::<R>()
    }

    /// Every connection has one of these.
    #[test]
    fn the_futures_of_idle_handlers_stay_small() {
        assert!(future_size(plain::echo) <= 200, "{} bytes", future_size(plain::echo));
        assert!(future_size(user::serve) <= 280, "{} bytes", future_size(user::serve));
    }

    fn hash_of(element: &str) -> String {
        let (start, end) = (format!("<{element}>"), format!("</{element}>"));
        let parts: Vec<_> = CONSOLE.split(&start).collect();
        assert_eq!(parts.len(), 2, "one <{element}> without attributes");
        let inside = parts[1].split(&end).next().unwrap();
        format!("'sha256-{}'", BASE64.encode(&Sha256::digest(inside)))
    }

    #[test]
    fn the_policy_names_the_hashes_of_the_page() {
        for element in ["script", "style"] {
            let directive = format!("{element}-src {}", hash_of(element));
            assert!(CONSOLE_POLICY.contains(&directive), "CONSOLE_POLICY must contain {directive}");
        }
    }

    #[test]
    fn the_page_keeps_to_its_policy() {
        for forbidden in ["innerHTML", "outerHTML", "insertAdjacentHTML", "eval(", " style=\""] {
            assert!(!CONSOLE.contains(forbidden), "{forbidden}");
        }
    }
}
