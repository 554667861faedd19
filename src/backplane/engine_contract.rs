//! What holds of every engine, tried on whichever is given.

use std::{collections::HashSet, future::Future, io, time::Duration};

use bytes::Bytes;
use tokio::time::timeout;

use super::{
    engine::{Command, Engine, Link},
    engine_server::EngineServer,
    subject::Subject,
};

/// How long anything may take: a broker's first fetch is slow.
const DEADLINE: Duration = Duration::from_secs(40);

/// # Panics
/// If it takes longer than anything may.
pub(crate) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match timeout(DEADLINE, future).await {
        Ok(output) => output,
        Err(passed) => panic!("{what}: not within {DEADLINE:?} ({passed})"),
    }
}

/// All that holds, of a server that is killed and started anew.
pub(crate) async fn holds_across_a_restart(engine: &dyn Engine, mut server: EngineServer) {
    holds(engine).await;
    a_link_ends_with_its_engine(engine, || server.kill()).await;
    server.revive().await;
    the_next_link_works(engine).await;
}

/// All that holds while the engine runs.
pub(crate) async fn holds(engine: &dyn Engine) {
    what_is_published_reaches_who_has_subscribed(engine).await;
    one_link_hears_all_subjects_in_the_order_that_another_published(engine).await;
    who_has_unsubscribed_hears_no_more(engine).await;
    nothing_is_missed_after_a_subscription_is_confirmed(engine).await;
    a_large_message_arrives(engine).await;
    a_thousand_subscriptions_are_confirmed_and_heard(engine).await;
}

pub(crate) async fn connect(engine: &dyn Engine) -> Link {
    within("a link", engine.connect()).await.unwrap()
}

pub(crate) async fn carry(link: &mut Link, commands: &[Command]) {
    within("commands", link.outbound.carry(commands)).await.unwrap();
}

pub(crate) async fn receive(link: &mut Link) -> Bytes {
    within("a message", link.inbound.receive()).await.unwrap()
}

pub(crate) fn subject(name: &str) -> Subject {
    Subject::group("contract", "hub", name)
}

pub(crate) fn subscribe(name: &str) -> Command {
    Command::Subscribe(subject(name))
}

pub(crate) fn publish(name: &str, message: impl Into<Bytes>) -> Command {
    Command::Publish(subject(name), message.into())
}

async fn what_is_published_reaches_who_has_subscribed(engine: &dyn Engine) {
    let (mut ours, mut theirs) = (connect(engine).await, connect(engine).await);
    carry(&mut ours, &[subscribe("both")]).await;
    carry(&mut theirs, &[subscribe("both"), subscribe("theirs")]).await;
    carry(
        &mut ours,
        &[publish("theirs", "1"), publish("both", "\0\r\n\u{fc}"), publish("nobody", "")],
    )
    .await;
    assert_eq!(receive(&mut theirs).await, "1");
    assert_eq!(receive(&mut theirs).await, "\0\r\n\u{fc}");
    assert_eq!(receive(&mut ours).await, "\0\r\n\u{fc}", "its own");
    carry(&mut theirs, &[publish("both", "")]).await;
    assert_eq!(
        (receive(&mut ours).await, receive(&mut theirs).await),
        (Bytes::new(), Bytes::new())
    );
}

async fn one_link_hears_all_subjects_in_the_order_that_another_published(engine: &dyn Engine) {
    const COUNT: usize = 5_000;
    let (mut ours, mut theirs) = (connect(engine).await, connect(engine).await);
    carry(&mut theirs, &[subscribe("order-a"), subscribe("order-b")]).await;
    let name = |number| if number % 3 == 0 { "order-a" } else { "order-b" };
    let text = |number: usize| format!("{} {number}", name(number));
    let all: Vec<_> = (0..COUNT).map(|number| publish(name(number), text(number))).collect();
    for batch in all.chunks(700) {
        carry(&mut ours, batch).await;
    }
    let mut heard = Vec::new();
    for _ in 0..COUNT {
        heard.push(receive(&mut theirs).await);
    }
    let of = |name: &str| -> Vec<String> {
        (0..COUNT).map(text).filter(|text| text.starts_with(name)).collect()
    };
    for name in ["order-a", "order-b"] {
        let heard = heard.iter().filter(|text| text.starts_with(name.as_bytes()));
        assert!(heard.eq(&of(name)), "{name}");
    }
}

async fn who_has_unsubscribed_hears_no_more(engine: &dyn Engine) {
    let (mut ours, mut theirs) = (connect(engine).await, connect(engine).await);
    carry(&mut theirs, &[subscribe("left"), subscribe("stayed")]).await;
    carry(&mut ours, &[publish("left", "before")]).await;
    assert_eq!(receive(&mut theirs).await, "before");
    carry(&mut theirs, &[Command::Unsubscribe(subject("left"))]).await;
    carry(&mut ours, &[publish("left", "after"), publish("stayed", "last")]).await;
    assert_eq!(receive(&mut theirs).await, "last");
    carry(&mut theirs, &[subscribe("left"), publish("left", "again")]).await;
    let heard = receive(&mut theirs).await;
    // What an engine has not read yet when somebody subscribes again may still come.
    let heard = if heard == "after" { receive(&mut theirs).await } else { heard };
    assert_eq!(heard, "again");
}

async fn nothing_is_missed_after_a_subscription_is_confirmed(engine: &dyn Engine) {
    let (mut ours, mut theirs) = (connect(engine).await, connect(engine).await);
    for round in 0..200 {
        let name = format!("race-{round}");
        carry(&mut theirs, &[subscribe(&name)]).await;
        carry(&mut ours, &[publish(&name, name.clone())]).await;
    }
    let mut heard = HashSet::new();
    for _ in 0..200 {
        heard.insert(receive(&mut theirs).await);
    }
    assert_eq!(heard.len(), 200);
}

async fn a_large_message_arrives(engine: &dyn Engine) {
    let (mut ours, mut theirs) = (connect(engine).await, connect(engine).await);
    carry(&mut theirs, &[subscribe("large")]).await;
    assert!(ours.outbound.max_message() > 1 << 20, "{}", ours.outbound.max_message());
    let message: Bytes = (0..1 << 20).map(|number: u32| number.to_le_bytes()[1]).collect();
    carry(&mut ours, &[publish("large", message.clone()), publish("large", "small")]).await;
    assert!(receive(&mut theirs).await == message);
    assert_eq!(receive(&mut theirs).await, "small");
}

async fn a_thousand_subscriptions_are_confirmed_and_heard(engine: &dyn Engine) {
    let (mut ours, mut theirs) = (connect(engine).await, connect(engine).await);
    let names: Vec<_> = (0..1000).map(|number| format!("many-{number}")).collect();
    carry(&mut theirs, &names.iter().map(|name| subscribe(name)).collect::<Vec<_>>()).await;
    let all: Vec<_> = names.iter().map(|name| publish(name, name.clone())).collect();
    carry(&mut ours, &all).await;
    let mut heard = HashSet::new();
    for _ in &names {
        heard.insert(receive(&mut theirs).await);
    }
    assert_eq!(heard.len(), names.len());
}

/// Both halves of a link end with the engine.
pub(crate) async fn a_link_ends_with_its_engine(engine: &dyn Engine, kill: impl FnOnce()) {
    let mut link = connect(engine).await;
    carry(&mut link, &[subscribe("restart"), publish("restart", "1")]).await;
    assert_eq!(receive(&mut link).await, "1");
    kill();
    within("the link's end", link.inbound.receive()).await.unwrap_err();
    within("an error", until_it_fails(&mut link)).await;
}

/// The next link works once the engine is back.
pub(crate) async fn the_next_link_works(engine: &dyn Engine) {
    let mut link = within("a new link", until_connected(engine)).await;
    carry(&mut link, &[subscribe("restart"), publish("restart", "2")]).await;
    assert_eq!(receive(&mut link).await, "2");
}

/// What is on its way when the engine goes may be taken without a word.
async fn until_it_fails(link: &mut Link) -> io::Error {
    loop {
        if let Err(error) = link.outbound.carry(&[publish("restart", "lost")]).await {
            return error;
        }
    }
}

async fn until_connected(engine: &dyn Engine) -> Link {
    loop {
        if let Ok(link) = engine.connect().await {
            return link;
        }
        tokio::task::yield_now().await;
    }
}
