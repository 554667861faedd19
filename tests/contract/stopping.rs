//! A node stops, and what it has accepted arrives all the same.

use std::{pin::pin, time::Duration};

use hubnerite::Config;
use serde_json::json;
use tokio::time::timeout;

use super::{Bench, Node, PATIENT, RETURN, expect, to_group, two, two_with};
use crate::support::{JsonClient, ack};

/// How long a node that stops is seen to wait: with nothing to wait for it is over at once.
const STAY: Duration = Duration::from_secs(1);

pub async fn what_a_node_has_accepted_before_it_stops_arrives<B: Bench>() {
    const COUNT: u64 = 1000;
    let (_bench, one, other) = two::<B>().await;
    let (mut ann, mut ben) = (one.user("ann").await, other.user("ben").await);
    ben.join("lobby", 1).await;
    for number in 0..COUNT {
        let message = to_group("lobby", number);
        ann.send(&message).await;
    }
    // What is behind them is answered: they are accepted.
    ann.expect_nothing().await;
    drop(ann);
    let (Node { server, .. }, heard) = (one, async {
        for number in 0..COUNT {
            expect(&mut ben, json!({"data": number})).await;
        }
    });
    tokio::join!(server.stop(), heard);
}

pub async fn what_waits_for_a_hanging_engine_when_a_node_stops_arrives<B: Bench>() {
    const COUNT: u64 = 500;
    let (bench, one, other) =
        two_with::<B>(Config::default(), |backplane| backplane.grace(PATIENT)).await;
    let (mut ann, mut ben) = (one.user("ann").await, other.user("ben").await);
    ben.join("lobby", 1).await;
    bench.pause();
    for number in 0..COUNT {
        say(&mut ann, number).await;
    }
    let Node { mut server, .. } = one;
    server.begin_stop();
    assert_eq!(ann.close().await.0, 1012);
    drop(ann);
    let mut stop = pin!(server.stop());
    assert!(timeout(STAY, &mut stop).await.is_err(), "it has not waited for the engine");
    bench.resume();
    let heard = async {
        for number in 0..COUNT {
            assert_eq!(ben.next_within(RETURN).await["data"], number);
        }
    };
    tokio::join!(stop, heard);
    ben.expect_nothing().await;
}

pub async fn a_node_that_stops_waits_for_a_hanging_engine_no_longer_than_it_may<B: Bench>() {
    let config = Config { shutdown_grace: STAY, ..Config::default() };
    let (bench, one, _other) = two_with::<B>(config, |backplane| backplane).await;
    let mut ann = one.user("ann").await;
    bench.pause();
    say(&mut ann, 1).await;
    let Node { mut server, .. } = one;
    server.begin_stop();
    assert_eq!(ann.close().await.0, 1012);
    drop(ann);
    // It panics if that takes much longer.
    server.stop().await;
}

/// Sends to the lobby, and has the ack of it.
async fn say(client: &mut JsonClient, number: u64) {
    let mut message = to_group("lobby", number);
    message["ackId"] = number.into();
    assert_eq!(client.ask(&message).await, ack(number));
}
