//! The calls of the REST API, each an address, a method and a function.

use std::{
    future::ready,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use hyper::{Method, header, http::request::Parts};

use super::{
    lists, members,
    query::Query,
    reply::{Problem, Reply},
    send, token,
};
use crate::{
    access_keys::AccessKeys,
    counter::ByNumber,
    hub::Hub,
    protocol::{check_group, check_hub},
    question::{Answer, Ask, Told, Whom},
    route::{Match, Params, Pattern},
    selection::Selection,
};

/// Carries a call out. What nobody else has to be asked for is there at once.
pub(super) type Call = for<'a> fn(&'a Asked<'a>) -> BoxFuture<'a, Result<Reply, Problem>>;

const CALLS: &[(Method, &str, Call)] = &[
    (Method::POST, "/:send", |asked| ready(send::send(asked)).boxed()),
    (Method::POST, "/groups/{group}/:send", |asked| ready(send::send(asked)).boxed()),
    (Method::POST, "/users/{user}/:send", |asked| ready(send::send(asked)).boxed()),
    (Method::POST, "/connections/{connection}/:send", |asked| ready(send::send(asked)).boxed()),
    (Method::POST, "/:closeConnections", |asked| members::close(asked).boxed()),
    (Method::POST, "/groups/{group}/:closeConnections", |asked| members::close(asked).boxed()),
    (Method::POST, "/users/{user}/:closeConnections", |asked| members::close(asked).boxed()),
    (Method::DELETE, "/connections/{connection}", |asked| members::close(asked).boxed()),
    (Method::HEAD, "/groups/{group}", |asked| members::exists(asked).boxed()),
    (Method::HEAD, "/users/{user}", |asked| members::exists(asked).boxed()),
    (Method::HEAD, "/connections/{connection}", |asked| members::exists(asked).boxed()),
    (Method::PUT, "/groups/{group}/connections/{connection}", |asked| members::join(asked).boxed()),
    (Method::DELETE, "/groups/{group}/connections/{connection}", |asked| {
        members::leave(asked).boxed()
    }),
    (Method::PUT, "/users/{user}/groups/{group}", |asked| members::join(asked).boxed()),
    (Method::DELETE, "/users/{user}/groups/{group}", |asked| members::leave(asked).boxed()),
    (Method::DELETE, "/users/{user}/groups", |asked| members::leave_all(asked).boxed()),
    (Method::DELETE, "/connections/{connection}/groups", |asked| members::leave_all(asked).boxed()),
    (Method::POST, "/:addToGroups", |asked| members::join_filtered(asked).boxed()),
    (Method::POST, "/:removeFromGroups", |asked| members::leave_filtered(asked).boxed()),
    (Method::PUT, "/permissions/{permission}/connections/{connection}", |asked| {
        members::grant(asked).boxed()
    }),
    (Method::DELETE, "/permissions/{permission}/connections/{connection}", |asked| {
        members::revoke(asked).boxed()
    }),
    (Method::HEAD, "/permissions/{permission}/connections/{connection}", |asked| {
        members::is_granted(asked).boxed()
    }),
    (Method::GET, "/groups/{group}/connections", |asked| lists::group(asked).boxed()),
    (Method::GET, "/connections", |asked| lists::connections(asked).boxed()),
    (Method::GET, "", |asked| lists::count(asked).boxed()),
    (Method::POST, "/:generateToken", |asked| ready(token::generate(asked)).boxed()),
];

/// How often each call was answered with which status, by route template; the first one is for
/// everything that is no call.
pub(super) type CallCounts = Vec<(String, ByNumber)>;

/// The statuses of answers to calls.
const STATUSES: &[u16] = &[200, 202, 204, 400, 401, 404, 405, 408, 413, 415, 500, 503];

/// The table above, ready to be searched.
pub(super) struct Routes {
    calls: Vec<(Method, Pattern, Call)>,
    counts: Arc<CallCounts>,
}

/// A place in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(Option<usize>);

impl Place {
    /// That of everything that is no call.
    pub(super) const NONE: Self = Self(None);
}

impl Routes {
    pub(super) fn new() -> Self {
        let path = |path: &str| format!("/api/hubs/{{hub}}{path}");
        let pattern = |tail: &str| Pattern::new(&path(tail));
        let calls = CALLS.iter().map(|(method, path, call)| (method.clone(), pattern(path), *call));
        let templates = CALLS.iter().map(|(method, tail, _)| format!("{method} {}", path(tail)));
        let templates = ["other".to_owned()].into_iter().chain(templates);
        let counts = templates.map(|template| (template, ByNumber::new(STATUSES))).collect();
        Self { calls: calls.collect(), counts: Arc::new(counts) }
    }

    pub(super) fn counts(&self) -> &Arc<CallCounts> {
        &self.counts
    }

    /// Counts an answer.
    pub(super) fn count(&self, place: Place, status: u16) {
        self.counts[place.0.map_or(0, |place| place + 1)].1.add(status);
    }

    pub(super) fn find(
        &self,
        method: &Method,
        path: &str,
    ) -> Result<(Place, Call, Params), Problem> {
        let mut allowed = Vec::new();
        for (place, (allows, pattern, call)) in self.calls.iter().enumerate() {
            match pattern.matches(path) {
                Match::No => {}
                Match::Bad(name) => {
                    return Err(Problem::bad(format!(
                        "{name}: must be percent-encoded UTF-8, not empty"
                    )));
                }
                Match::Yes(params) if allows == method => {
                    return Ok((Place(Some(place)), *call, params));
                }
                Match::Yes(_) => allowed.push(allows.as_str()),
            }
        }
        if allowed.is_empty() {
            return Err(Problem::not_found("there is no such call"));
        }
        Err(Problem::method(allowed.join(", ")))
    }
}

/// A call that is to be carried out.
pub(super) struct Asked<'a> {
    pub(super) hub: Hub,
    pub(super) params: &'a Params,
    pub(super) query: Query,
    pub(super) content_type: Option<&'a str>,
    pub(super) body: Bytes,
    /// The caller's URL up to `/api/`.
    pub(super) base: String,
    pub(super) keys: &'a AccessKeys,
    /// Nodes that have not answered what they were asked for this call.
    silent: AtomicUsize,
}

impl<'a> Asked<'a> {
    /// Looks at what calls have in common.
    pub(super) fn new(
        head: &'a Parts,
        params: &'a Params,
        body: Bytes,
        base: String,
        hub: &Hub,
        keys: &'a AccessKeys,
    ) -> Result<Self, Problem> {
        check_hub(&params["hub"]).map_err(Problem::bad)?;
        params.get("group").map_or(Ok(()), check_group).map_err(Problem::bad)?;
        let query = Query::parse(head.uri.query().unwrap_or_default())?;
        let content_type = head.headers.get(header::CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok());
        let hub = hub.named(&params["hub"]);
        let silent = AtomicUsize::new(0);
        Ok(Self { hub, params, query, content_type, body, base, keys, silent })
    }

    /// Asks all nodes.
    pub(super) async fn ask(&self, ask: Ask) -> Answer {
        let Told { answer, silent } = self.hub.ask(ask).await;
        self.silent.fetch_add(silent, Relaxed);
        answer
    }

    /// How many nodes may have more to say.
    pub(super) fn silent(&self) -> usize {
        self.silent.load(Relaxed)
    }

    /// Whom the address names: the narrowest of connection, user, group and hub.
    pub(super) fn whom(&self) -> Whom {
        let of = |name| self.params.get(name).map(str::to_owned);
        let connection = of("connection").map(Whom::Connection);
        let user = || of("user").map(Whom::User);
        let group = || of("group").map(Whom::Group);
        connection.or_else(user).or_else(group).unwrap_or(Whom::All)
    }

    /// Whom of them the query means.
    pub(super) fn selection(&self) -> Result<Selection, Problem> {
        let excluded = self.query.all("excluded").map(str::to_owned).collect();
        let selection = Selection::new(self.query.get("filter"), excluded);
        selection.map_err(|error| Problem::bad(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_methods_and_no_others() {
        let routes = Routes::new();
        let status = |method: Method, path: &str| {
            routes.find(&method, path).err().map(|problem| problem.into_reply().status().as_u16())
        };
        assert_eq!(status(Method::POST, "/api/hubs/chat/:send"), None);
        assert_eq!(status(Method::PUT, "/api/hubs/chat/groups/a%2Fb/connections/c"), None);
        assert_eq!(status(Method::GET, "/api/hubs/chat/:send"), Some(405));
        assert_eq!(status(Method::POST, "/api/hubs/chat/:nonsense"), Some(404));
        assert_eq!(status(Method::POST, "/api/hubs/chat/groups/%ff/:send"), Some(400));
    }
}
