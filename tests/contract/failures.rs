//! The engine is killed, or hangs: who is here hears each other, and what waits for it arrives.

use std::time::Duration;

use hubnerite::Config;
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::{Bench, RETURN, expect, to_group, two, two_with};
use crate::support::{ack, connect, eventually, eventually_within, expect_failure, plain, send};

/// How long an engine may carry nothing, in the tests that wait for it.
const GRACE: Duration = Duration::from_secs(2);

/// How long an engine hangs.
const HANG: Duration = Duration::from_secs(10);

pub async fn a_restarted_engine_joins_all_again_and_a_gap_is_told_once<B: Bench>() {
    let (mut bench, one, other) = two::<B>().await;
    let (mut ann, mut ben) = (one.user("ann").await, other.user("ben").await);
    let (mut neighbour, mut simple) =
        (one.user("eve").await, connect(other.server.address, "/client/hubs/default").await);
    for client in [&mut ann, &mut ben, &mut neighbour] {
        client.join("lobby", 1).await;
    }
    bench.stop().await;
    for node in [&one, &other] {
        eventually("lost connections", 1, || node.counters().lost.get()).await;
    }
    // Those who are here hear each other, and who joins is not kept waiting.
    ann.join("late", 2).await;
    assert_eq!(one.counters().unconfirmed.get(), 1);
    ann.send(&to_group("lobby", "meanwhile")).await;
    expect(&mut ann, json!({"data": "meanwhile"})).await;
    expect(&mut neighbour, json!({"data": "meanwhile"})).await;
    bench.restart().await;
    let gap = json!({"type": "system", "event": "gap"});
    for client in [&mut ann, &mut ben, &mut neighbour] {
        assert_eq!(client.next_within(RETURN).await, gap);
    }
    assert_eq!(ben.next_within(RETURN).await["data"], "meanwhile");
    ben.send(&to_group("late", "now")).await;
    expect(&mut ann, json!({"data": "now"})).await;
    for client in [&mut ann, &mut ben, &mut neighbour] {
        client.expect_nothing().await;
    }
    send(&mut simple, "a simple client is told nothing").await;
    one.until_ready(200).await;
}

pub async fn an_engine_that_hangs_is_noticed_and_used_again<B: Bench>() {
    let (bench, one, other) =
        two_with::<B>(Config::default(), |backplane| backplane.grace(GRACE)).await;
    let (mut ann, mut ben) = (one.user("ann").await, other.user("ben").await);
    ann.join("lobby", 1).await;
    ben.join("lobby", 1).await;
    bench.pause();
    let until = Instant::now() + HANG;
    ann.send(&to_group("lobby", "meanwhile")).await;
    expect(&mut ann, json!({"data": "meanwhile"})).await;
    for node in [&one, &other] {
        node.until_ready(503).await;
        let look = async || node.counters().lost.get();
        eventually_within(RETURN, "connections that were given up", 1, look).await;
    }
    let answer = one.server.ask(plain("GET", "/readyz")).await;
    assert_eq!(String::from_utf8_lossy(&answer.body), "backplane\n");
    // It hangs through several attempts to connect.
    sleep_until(until).await;
    bench.resume();
    one.until_ready(200).await;
    other.until_ready(200).await;
    let gap = json!({"type": "system", "event": "gap"});
    let (mut gaps, mut messages) = (0, 0);
    while gaps == 0 || messages == 0 {
        let next = ben.next_within(RETURN).await;
        gaps += usize::from(next == gap);
        messages += usize::from(next["data"] == "meanwhile");
    }
    assert_eq!((gaps, messages), (1, 1));
    ben.expect_nothing().await;
}

pub async fn what_is_accepted_while_there_is_no_engine_arrives_and_the_rest_is_refused<B: Bench>() {
    const COUNT: u64 = 1000;
    let (mut bench, one, other) =
        two_with::<B>(Config::default(), |backplane| backplane.buffer(256 << 10)).await;
    let (mut ann, mut ben) = (one.user("ann").await, other.user("ben").await);
    ben.join("lobby", 1).await;
    bench.stop().await;
    for node in [&one, &other] {
        eventually("lost connections", 1, || node.counters().lost.get()).await;
    }
    let text = "x".repeat(1 << 10);
    let mut accepted = Vec::new();
    for number in 0..COUNT {
        let data = json!([number, text]);
        ann.send(&json!({"type": "sendToGroup", "group": "lobby", "data": data, "ackId": number}))
            .await;
    }
    for number in 0..COUNT {
        let answer = ann.next().await;
        if answer == ack(number) {
            accepted.push(number);
        } else {
            expect_failure(&answer, Some(number), "InternalServerError", "past the buffer");
        }
    }
    assert!((100..300).contains(&accepted.len()), "{} were accepted", accepted.len());
    assert_eq!(one.counters().refused.get(), COUNT - accepted.len() as u64);
    assert_eq!(one.send("default/:send", "text/plain", &text).await, 503);
    assert!(one.server.hub.send_to_group("nobody", text.as_str()).unreached);
    bench.restart().await;
    assert_eq!(ben.next_within(RETURN).await, json!({"type": "system", "event": "gap"}));
    for number in &accepted {
        assert_eq!(ben.next_within(RETURN).await["data"][0], *number);
    }
    ben.expect_nothing().await;
}
