//! What servers that an engine joins promise, whatever engine it is: one suite for all of them.
//!
//! An engine brings a [`Bench`], and `contract!` makes a test of each promise with it.

#![allow(unreachable_pub, reason = "a module of many crates")]

pub mod served;

mod answers;
mod delivery;
mod failures;
mod rolling;
mod stopping;

use std::{net::SocketAddr, time::Duration};

use hubnerite::{AccessKeys, Address, Backplane, BackplaneCounters, Config, Listener, Sharing};
use serde_json::{Value, json};

pub use self::{
    answers::*, delivery::*, failures::*,
    rolling::nodes_are_restarted_one_by_one_and_nothing_acknowledged_is_lost, stopping::*,
};
use crate::support::{
    JsonClient, TestServer, eventually_within, plain,
    rest::{Caller, KEY},
};

/// An engine under test, and what can happen to it.
pub trait Bench: Sized {
    /// Whether what one sender says to several groups arrives in one order.
    const ONE_ORDER: bool = true;

    /// Starts an engine that nobody else uses.
    fn start() -> impl Future<Output = Self>;

    /// How servers find it.
    fn backplane(&self) -> Backplane;

    /// Publishes a message as a backend does.
    fn publish(&self, subject: &str, bytes: &[u8]) -> impl Future<Output = ()>;

    /// Kills it.
    fn stop(&mut self) -> impl Future<Output = ()>;

    /// Starts it again, where it was.
    fn restart(&mut self) -> impl Future<Output = ()>;

    /// Lets it hang: connections stay, and nothing is carried.
    fn pause(&self);

    /// Lets it go on.
    fn resume(&self);
}

/// Makes a test of each promise. `ignore` is for engines that have to be installed.
#[macro_export]
macro_rules! contract {
    ($bench:ty $(, $ignore:meta)?) => {
        contract! { @ $bench [$($ignore)?]
            every_target_is_reached_and_nobody_else
            a_program_reaches_users_groups_and_everybody
            what_one_sender_says_arrives_in_its_order
            nobody_hears_anything_twice
            who_is_excluded_hears_nothing
            binary_payloads_and_large_ones_arrive_as_they_were
            a_thousand_groups_are_heard_for_and_then_left
            who_has_joined_hears_what_is_said_next
            who_has_connected_hears_what_is_said_next
            a_backend_publishes_with_a_line_of_json
            what_makes_no_sense_is_counted_and_harms_nothing
            a_restarted_engine_joins_all_again_and_a_gap_is_told_once
            an_engine_that_hangs_is_noticed_and_used_again
            what_a_node_has_accepted_before_it_stops_arrives
            what_waits_for_a_hanging_engine_when_a_node_stops_arrives
            a_node_that_stops_waits_for_a_hanging_engine_no_longer_than_it_may
            what_is_accepted_while_there_is_no_engine_arrives_and_the_rest_is_refused
            nodes_are_restarted_one_by_one_and_nothing_acknowledged_is_lost
            every_node_knows_who_is_there
            a_list_comes_in_pages_that_name_everybody_once_whatever_their_node
            a_backend_acts_on_connections_of_another_node
            who_is_closed_on_another_node_has_heard_what_was_said_before
            nobody_is_forgotten_while_an_engine_hangs
            nobody_is_not_found_only_where_no_node_has_them
            a_user_who_connects_to_another_node_is_replaced
            a_user_who_is_on_another_node_is_taken
            a_node_that_is_silent_is_told_of_and_then_gone_with_its_users
            a_node_that_stops_says_goodbye
            without_an_engine_a_node_answers_for_itself_and_says_so
        }
    };
    (@ $bench:ty [$($ignore:meta)?]) => {};
    (@ $bench:ty [$($ignore:meta)?] $promise:ident $($others:ident)*) => {
        $(#[$ignore])?
        #[tokio::test]
        async fn $promise() {
            contract::$promise::<$bench>().await;
        }
        contract! { @ $bench [$($ignore)?] $($others)* }
    };
}

/// Longer than an engine hangs that is not to be given up, on however busy a machine.
const PATIENT: Duration = Duration::from_mins(1);

/// After a restart others may come back this much later, and what waits is held until then.
pub const RETURN: Duration = Duration::from_secs(20);

/// One of the servers, with its control port.
pub struct Node {
    pub server: TestServer,
    pub control: SocketAddr,
}

impl Node {
    pub async fn start(config: Config, backplane: Backplane) -> Self {
        let keys = AccessKeys::new(vec![KEY.to_owned()]).unwrap();
        let anywhere: Address = "127.0.0.1:0".parse().unwrap();
        let listener = Listener::bind(&anywhere, Sharing::Exclusive).await.unwrap();
        let control = listener.local_address().parse().unwrap();
        let server = TestServer::start_with(config, |server| {
            server.daemon_routes().control(keys, vec![listener]).backplane(backplane)
        });
        let node = Self { server: server.await, control };
        node.until_ready(200).await;
        node
    }

    pub fn counters(&self) -> &BackplaneCounters {
        &self.server.hub.metrics().backplane
    }

    /// Waits until `/readyz` says this, and no longer than an engine may take to come back.
    pub async fn until_ready(&self, status: u16) {
        let look = async || self.server.ask(plain("GET", "/readyz")).await.status;
        eventually_within(RETURN, "/readyz", status, look).await;
    }

    pub async fn user(&self, name: &str) -> JsonClient {
        self.server.user(name).await
    }

    /// A signed `:send`; its status.
    pub async fn send(&self, path: &str, kind: &str, body: &str) -> u16 {
        let path = format!("/api/hubs/{path}");
        Caller::connect(self.control).await.call("POST", &path, kind, body).await.status
    }
}

/// A bench and two nodes.
async fn two<B: Bench>() -> (B, Node, Node) {
    two_with(Config::default(), |backplane| backplane).await
}

async fn two_with<B: Bench>(
    config: Config,
    with: impl Fn(Backplane) -> Backplane,
) -> (B, Node, Node) {
    let bench = B::start().await;
    let one = Node::start(config.clone(), with(bench.backplane())).await;
    let other = Node::start(config, with(bench.backplane())).await;
    (bench, one, other)
}

/// The next message for a client, which must have these fields among others.
async fn expect(client: &mut JsonClient, fields: Value) {
    let message = client.next().await;
    for (name, value) in fields.as_object().unwrap() {
        assert_eq!(message[name], *value, "{name} of {message}");
    }
}

fn to_group(group: &str, data: impl Into<Value>) -> Value {
    json!({"type": "sendToGroup", "group": group, "data": data.into()})
}
