//! What several nodes know of each other's connections: the calls of the REST API, and
//! acknowledgements, are right whichever node is asked.

use std::{
    net::SocketAddr,
    sync::mpsc,
    time::{Duration, Instant},
};

use hubnerite::{Backplane, Config, SameUser};
use serde_json::{Value, json};
use tokio::runtime;

use super::{Bench, Node, PATIENT, RETURN};
use crate::support::{
    HttpAnswer, JsonClient, TestServer, ack, eventually, expect_failure, rest::Caller, upgrade,
    within,
};

const TEXT: &str = "text/plain";

/// One of several servers, and a backend that asks it.
struct Asked {
    server: TestServer,
    caller: Caller,
}

impl Asked {
    async fn start(config: Config, backplane: Backplane) -> Self {
        let Node { server, control } = Node::start(config, backplane).await;
        Self { server, caller: Caller::connect(control).await }
    }

    /// Several, each of which knows all others.
    async fn several<const N: usize>(bench: &impl Bench, config: &Config) -> [Self; N] {
        Self::several_with(config, || bench.backplane()).await
    }

    async fn several_with<const N: usize>(
        config: &Config,
        backplane: impl Fn() -> Backplane,
    ) -> [Self; N] {
        let mut nodes = Vec::new();
        for _ in 0..N {
            nodes.push(Self::start(config.clone(), backplane()).await);
        }
        for node in &mut nodes {
            node.expect_nodes(N as u64).await;
        }
        nodes.try_into().unwrap_or_else(|_| unreachable!())
    }

    async fn call(&mut self, method: &str, path: &str) -> HttpAnswer {
        self.caller.call(method, &format!("/api/hubs/default{path}"), TEXT, "").await
    }

    async fn status(&mut self, method: &str, path: &str) -> u16 {
        self.call(method, path).await.status
    }

    async fn get(&mut self, path: &str) -> Value {
        self.caller.get(&format!("/api/hubs/default{path}")).await
    }

    /// So many answer, and no other is waited for.
    async fn expect_nodes(&mut self, count: u64) {
        self.until("nodes that answer", (Some(count), None), async |node| {
            let answer = node.call("GET", "").await;
            let counted: Value = serde_json::from_slice(&answer.body).unwrap();
            (counted["nodes"].as_u64(), silent(&answer).map(str::to_owned))
        })
        .await;
    }

    /// Asks again and again until this is the answer.
    async fn until<T: PartialEq + std::fmt::Debug>(
        &mut self,
        what: &str,
        expected: T,
        mut ask: impl AsyncFnMut(&mut Self) -> T,
    ) {
        let since = Instant::now();
        let mut again = tokio::time::interval(Duration::from_millis(10));
        loop {
            again.tick().await;
            let found = ask(self).await;
            if found == expected {
                return;
            }
            assert!(since.elapsed() < RETURN, "{what}: {found:?} instead of {expected:?}");
        }
    }
}

fn id(client: &JsonClient) -> String {
    client.connected["connectionId"].as_str().unwrap().to_owned()
}

fn silent(answer: &HttpAnswer) -> Option<&str> {
    answer.header("x-hubnerite-silent-nodes")
}

pub async fn every_node_knows_who_is_there<B: Bench>() {
    let bench = B::start().await;
    let [mut one, mut other, third] = Asked::several(&bench, &Config::default()).await;
    let mut ann = third.server.user("ann").await;
    ann.join("lobby", 1).await;
    let paths =
        ["/users/ann".to_owned(), "/groups/lobby".to_owned(), format!("/connections/{}", id(&ann))];
    for path in &paths {
        assert_eq!(one.status("HEAD", path).await, 200, "{path}");
        assert_eq!(other.status("HEAD", path).await, 200, "{path}");
    }
    assert_eq!(one.get("").await, json!({"connections": 1, "nodes": 3}));
    for path in ["/users/ben", "/groups/hall", "/connections/x"] {
        let answer = one.call("HEAD", path).await;
        assert_eq!((answer.status, silent(&answer)), (404, None), "{path}");
    }
    drop(ann);
    for path in &paths {
        one.until(path, 404, async |node| node.status("HEAD", path).await).await;
    }
    for node in [one, other, third] {
        drop(node.caller);
        node.server.stop().await;
    }
}

pub async fn a_list_comes_in_pages_that_name_everybody_once_whatever_their_node<B: Bench>() {
    let bench = B::start().await;
    let nodes: [Asked; 3] = Asked::several(&bench, &Config::default()).await;
    let mut members = Vec::new();
    for turn in 0..8 {
        let mut member = nodes[turn % 3].server.user(&format!("user{turn}")).await;
        member.join("lobby", 1).await;
        members.push(member);
    }
    let mut ids: Vec<_> = members.iter().map(id).collect();
    ids.sort_unstable();
    let [_, mut asked, _] = nodes;
    for (list, query, sizes) in [
        ("/groups/lobby/connections", "", vec![8]),
        ("/groups/lobby/connections", "?maxpagesize=3", vec![3, 3, 2]),
        ("/connections", "?maxpagesize=4", vec![4, 4]),
        ("/connections", "?maxpagesize=1&top=5", vec![1; 5]),
    ] {
        let (mut path, mut found, mut pages) = (format!("{list}{query}"), Vec::new(), Vec::new());
        loop {
            let page = asked.get(&path).await;
            let value = page["value"].as_array().unwrap();
            pages.push(value.len());
            found.extend(value.iter().map(|one| one["connectionId"].as_str().unwrap().to_owned()));
            let Some(next) = page["nextLink"].as_str() else { break };
            let next = next.strip_prefix(&asked.caller.url("/api/hubs/default"));
            next.unwrap().clone_into(&mut path);
        }
        assert_eq!(pages, sizes, "{list}{query}");
        assert_eq!(found, ids[..found.len()], "{list}{query}");
    }
}

pub async fn a_backend_acts_on_connections_of_another_node<B: Bench>() {
    let bench = B::start().await;
    let config = Config { max_groups: 2, ..Config::default() };
    let [mut one, other] = Asked::several(&bench, &config).await;
    let mut ann = other.server.user("ann").await;
    let ann_path = format!("connections/{}", id(&ann));
    assert_eq!(one.status("PUT", &format!("/groups/lobby/{ann_path}")).await, 200);
    // She hears it, for the call was answered when she could.
    one.caller.call("POST", "/api/hubs/default/groups/lobby/:send", TEXT, "hello").await;
    assert_eq!(ann.next().await["data"], "hello");
    assert_eq!(one.status("DELETE", &format!("/groups/lobby/{ann_path}")).await, 204);
    assert_eq!(one.status("HEAD", "/groups/lobby").await, 404);
    for (method, path, status) in [
        ("PUT", "/users/ann/groups/a", 200),
        ("PUT", "/users/ann/groups/b", 200),
        ("PUT", "/users/ann/groups/c", 400),
        ("PUT", "/users/nobody/groups/a", 404),
        ("DELETE", "/users/ann/groups", 204),
        ("HEAD", "/groups/a", 404),
    ] {
        assert_eq!(one.status(method, path).await, status, "{method} {path}");
    }
    let body = r#"{"groups":["hall"],"filter":"userId eq 'ann'"}"#;
    let path = "/api/hubs/default/:addToGroups";
    assert_eq!(one.caller.call("POST", path, "application/json", body).await.status, 200);
    assert_eq!(one.status("HEAD", "/groups/hall").await, 200);
    let permission = format!("/permissions/joinLeaveGroup/{ann_path}?targetName=secret");
    for (method, status) in
        [("HEAD", 200), ("DELETE", 204), ("HEAD", 404), ("PUT", 200), ("HEAD", 200)]
    {
        assert_eq!(one.status(method, &permission).await, status, "{method}");
    }
    let nobody = format!("/permissions/joinLeaveGroup/connections/{}", "0".repeat(32));
    assert_eq!(one.status("PUT", &nobody).await, 404);
    let mut ben = other.server.user("ben").await;
    let excluded = format!("/:closeConnections?excluded={}&reason=over", id(&ben));
    assert_eq!(one.status("POST", &excluded).await, 204);
    ann.next().await;
    assert_eq!(ann.close().await, (1000, "over".to_owned()));
    ben.expect_nothing().await;
    assert_eq!(one.status("DELETE", &format!("/connections/{}", id(&ben))).await, 204);
    ben.next().await;
    assert_eq!(ben.close().await.0, 1000);
}

pub async fn who_is_closed_on_another_node_has_heard_what_was_said_before<B: Bench>() {
    let bench = B::start().await;
    // However long the calls take: an engine that is given up keeps no order.
    let backplane = || bench.backplane().grace(PATIENT);
    let [mut one, other] = Asked::several_with(&Config::default(), backplane).await;
    let mut ann = other.server.user("ann").await;
    bench.pause();
    for turn in 0..500 {
        let path = "/api/hubs/default/users/ann/:send";
        assert_eq!(one.caller.call("POST", path, TEXT, &turn.to_string()).await.status, 202);
    }
    let answer = one.call("POST", "/users/ann/:closeConnections").await;
    assert_eq!((answer.status, silent(&answer)), (204, Some("1")));
    bench.resume();
    for turn in 0..500 {
        assert_eq!(ann.next().await["data"], turn.to_string());
    }
    assert_eq!(ann.next().await["event"], "disconnected");
}

pub async fn nobody_is_forgotten_while_an_engine_hangs<B: Bench>() {
    let bench = B::start().await;
    // Longer than a node may be silent that can be heard.
    let backplane = || bench.backplane().grace(Duration::from_secs(6));
    let [mut one, other] = Asked::several_with(&Config::default(), backplane).await;
    let mut ann = other.server.user("ann").await;
    bench.pause();
    let path = "/api/hubs/default/users/ann/:send";
    assert_eq!(one.caller.call("POST", path, TEXT, "meanwhile").await.status, 202);
    let hubs = [one.server.hub.clone(), other.server.hub.clone()];
    for hub in hubs {
        while hub.metrics().backplane.lost.get() == 0 {
            let answer = one.call("HEAD", "/users/ann").await;
            assert_ne!(
                (answer.status, silent(&answer)),
                (404, None),
                "she is not known to be gone"
            );
        }
    }
    bench.resume();
    // It was given up. What waited is held until the other node is back.
    let mut next = ann.next_within(RETURN).await;
    if next["event"] == "gap" {
        next = ann.next_within(RETURN).await;
    }
    assert_eq!(next["data"], "meanwhile");
    one.until("the status of ann", 200, async |node| node.status("HEAD", "/users/ann").await).await;
}

pub async fn nobody_is_not_found_only_where_no_node_has_them<B: Bench>() {
    let bench = B::start().await;
    let [one, other] = Asked::several(&bench, &Config::default()).await;
    let (mut ann, mut ben) = (one.server.user("ann").await, other.server.user("ben").await);
    let to = |name: &str, ack_id: u64| json!({"type": "sendToUser", "user": name, "data": ack_id, "ackId": ack_id});
    assert_eq!(ann.ask(&to("ben", 1)).await, ack(1));
    assert_eq!(ben.next().await["data"], 1);
    expect_failure(&ann.ask(&to("cat", 2)).await, Some(2), "NotFound", "on no node");
    // What comes behind it waits for its answer, and keeps its order.
    ann.send(&to("cat", 3)).await;
    ann.send(&json!({"type": "ping"})).await;
    expect_failure(&ann.next().await, Some(3), "NotFound", "before the pong");
    assert_eq!(ann.next().await, json!({"type": "pong"}));
    let both = json!({"type": "sendToUser", "users": ["cat", "ben"], "data": 4, "ackId": 4});
    assert_eq!(ann.ask(&both).await, ack(4));
    assert_eq!(ben.next().await["data"], 4);
}

pub async fn a_user_who_connects_to_another_node_is_replaced<B: Bench>() {
    let bench = B::start().await;
    let config = Config { same_user: SameUser::Replace, ..Config::default() };
    let [one, other] = Asked::several(&bench, &config).await;
    let mut first = one.server.user("ann").await;
    let mut last = other.server.user("ann").await;
    first.next().await;
    assert_eq!(first.close().await.0, 4000);
    last.expect_nothing().await;
    // Of many in the same moment, one remains.
    let addresses = [one.server.address, other.server.address];
    let come = (0..20).map(|turn| JsonClient::user(addresses[turn % 2], "ben"));
    let all = futures_util::future::join_all(come).await;
    let users = || {
        one.server.hub.send_to_user("ben", "").recipients
            + other.server.hub.send_to_user("ben", "").recipients
    };
    eventually("connections of ben", 1, users).await;
    drop((all, last));
}

pub async fn a_user_who_is_on_another_node_is_taken<B: Bench>() {
    let bench = B::start().await;
    let config = Config { same_user: SameUser::Reject, ..Config::default() };
    let [one, other] = Asked::several(&bench, &config).await;
    let ann = one.server.user("ann").await;
    let request = upgrade("/ws/ann");
    assert_eq!(other.server.ask(&request).await.status, 409);
    assert_eq!(other.server.ask(upgrade("/ws/ben")).await.status, 101);
    drop(ann);
}

/// A node in a thread of its own, which can be stopped like a process that gets SIGSTOP.
struct Frozen {
    address: SocketAddr,
    runtime: runtime::Handle,
    end: mpsc::Sender<()>,
}

impl Frozen {
    async fn start(backplane: Backplane) -> Self {
        let (told, address) = tokio::sync::oneshot::channel();
        let (end, ended) = mpsc::channel();
        std::thread::spawn(move || {
            let runtime = runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap();
            let node = runtime.block_on(Asked::start(Config::default(), backplane));
            told.send((node.server.address, runtime.handle().clone())).unwrap();
            let _ = ended.recv();
            runtime.shutdown_background();
        });
        let (address, runtime) = within("a node", address).await.unwrap();
        Self { address, runtime, end }
    }

    /// From now on it does nothing, until what is returned is dropped.
    async fn freeze(&self) -> mpsc::Sender<()> {
        let (thaw, thawed) = mpsc::channel::<()>();
        let (told, frozen) = tokio::sync::oneshot::channel();
        self.runtime.spawn(async move {
            // Its only thread goes no further.
            told.send(()).unwrap();
            thawed.recv().is_err()
        });
        within("a frozen node", frozen).await.unwrap();
        thaw
    }
}

pub async fn a_node_that_is_silent_is_told_of_and_then_gone_with_its_users<B: Bench>() {
    let bench = B::start().await;
    let [mut one, mut other] = Asked::several(&bench, &Config::default()).await;
    let frozen = Frozen::start(bench.backplane()).await;
    one.expect_nodes(3).await;
    let ann = JsonClient::user(frozen.address, "ann").await;
    let mut ben = one.server.user("ben").await;
    assert_eq!(one.status("HEAD", "/users/ann").await, 200);
    let thaw = frozen.freeze().await;
    let since = Instant::now();
    let answer = one.call("HEAD", "/users/ann").await;
    assert_eq!((answer.status, silent(&answer)), (404, Some("1")));
    assert!(since.elapsed() >= Duration::from_secs(1), "{:?}", since.elapsed());
    // A change that finds nobody is not sure of it; one that is found is done.
    assert_eq!(one.status("PUT", "/users/ann/groups/g").await, 503);
    assert_eq!(other.status("PUT", "/users/ben/groups/g").await, 200);
    let to = json!({"type": "sendToUser", "user": "ann", "data": 1, "ackId": 1});
    expect_failure(&ben.ask(&to).await, Some(1), "InternalServerError", "nobody knows");
    assert!(one.server.hub.metrics().backplane.unanswered.get() >= 3);
    one.expect_nodes(2).await;
    let answer = one.call("HEAD", "/users/ann").await;
    assert_eq!((answer.status, silent(&answer)), (404, None));
    assert!(since.elapsed() < Duration::from_secs(15), "{:?}", since.elapsed());
    expect_failure(&ben.ask(&to).await, Some(1), "NotFound", "no node has her");
    // It goes on as if nothing had happened, and so do its users.
    drop(thaw);
    one.expect_nodes(3).await;
    assert_eq!(one.status("HEAD", "/users/ann").await, 200);
    frozen.end.send(()).unwrap();
    one.expect_nodes(2).await;
    drop((ann, ben));
}

pub async fn a_node_that_stops_says_goodbye<B: Bench>() {
    let bench = B::start().await;
    let [mut one, other, mut third] = Asked::several(&bench, &Config::default()).await;
    drop(other.caller);
    other.server.stop().await;
    let since = Instant::now();
    one.expect_nodes(2).await;
    third.expect_nodes(2).await;
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
}

pub async fn without_an_engine_a_node_answers_for_itself_and_says_so<B: Bench>() {
    let mut bench = B::start().await;
    let [mut one, _other] = Asked::several(&bench, &Config::default()).await;
    let mut ann = one.server.user("ann").await;
    bench.stop().await;
    one.until("a silent node", Some("1".to_owned()), async |node| {
        silent(&node.call("HEAD", "/users/ben").await).map(str::to_owned)
    })
    .await;
    assert_eq!(one.status("HEAD", "/users/ann").await, 200);
    assert_eq!(one.status("PUT", "/users/ann/groups/g").await, 200);
    assert_eq!(one.status("PUT", "/users/ben/groups/g").await, 503);
    let to = json!({"type": "sendToUser", "user": "ben", "data": 1, "ackId": 1});
    expect_failure(&ann.ask(&to).await, Some(1), "InternalServerError", "nobody knows");
    bench.restart().await;
    one.expect_nodes(2).await;
    assert_eq!(one.status("PUT", "/users/ben/groups/g").await, 404);
}
