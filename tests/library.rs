//! The face for programs: connections, members, the hub.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod support;

use std::{
    future::{Future as _, pending, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::Context,
    thread,
};

use hubnerite::{
    CloseReason, Closed, Config, Connection, Hub, JoinError, Member, Message, Params, SameUser,
    Sender, Sent, UserTaken,
};
use support::{ClientFrame, RawClient, ServerFrame, TestServer, eventually, within};
use tokio::sync::{mpsc, oneshot};

/// A server of one route whose handler hands each connection to the test and waits for the end of
/// the test's interest in it.
struct Bench {
    server: TestServer,
    connections: mpsc::UnboundedReceiver<(Connection, oneshot::Sender<()>)>,
}

impl Bench {
    async fn start(config: Config) -> Self {
        let (sender, connections) = mpsc::unbounded_channel();
        let handler = move |connection: Connection, _: Params| {
            let sender = sender.clone();
            async move {
                let (done, is_done) = oneshot::channel();
                sender.send((connection, done)).unwrap();
                let _ = is_done.await;
            }
        };
        let server = TestServer::start_with(config, |server| server.route("/", handler)).await;
        Self { server, connections }
    }

    /// A client, the connection that its handler has, and what ends the handler when dropped.
    async fn connect(&mut self) -> (RawClient, Connection, oneshot::Sender<()>) {
        let client = self.server.open("/").await;
        let (connection, done) = within("a handler", self.connections.recv()).await.unwrap();
        (client, connection, done)
    }
}

#[tokio::test]
async fn a_handler_receives_and_sends_text_and_bytes() {
    async fn handler(mut connection: Connection, _: Params) {
        assert_eq!(connection.recv().await, Some(Message::from("ä")));
        assert_eq!(connection.try_recv(), Some(Message::from(vec![1])));
        assert_eq!(connection.try_recv(), None);
        connection.send_text("t").await.unwrap();
        connection.send_binary(vec![2]).await.unwrap();
        connection.send("s").await.unwrap();
        assert_eq!(connection.close_reason(), None);
    }
    let server = TestServer::start_with(Config::default(), |s| s.route("/", handler)).await;
    let mut client = server.open("/").await;
    client.send_all([ClientFrame::text("ä"), ClientFrame::binary([1])]).await;
    for expected in [ServerFrame::text("t"), ServerFrame::binary([2]), ServerFrame::text("s")] {
        assert_eq!(client.read_frame().await, expected);
    }
    assert_eq!(client.expect_close().await, (1000, String::new()));
    drop(client);
    server.stop().await;
}

/// A handler may hand its connection to another task and wait for that.
#[tokio::test]
async fn a_connection_works_in_another_task_than_its_handlers() {
    let mut bench = Bench::start(Config::default()).await;
    let (mut client, mut connection, done) = bench.connect().await;
    client.send(ClientFrame::text("in")).await;
    assert_eq!(within("a message", connection.recv()).await, Some(Message::from("in")));
    connection.send("out").await.unwrap();
    client.expect_text("out").await;
    connection.close(4000, "over");
    assert_eq!(client.expect_close().await, (4000, "over".to_owned()));
    client.finish_close().await;
    drop((client, connection, done));
    bench.server.stop().await;
}

/// What is delivered to thousands is none of their handlers' business.
#[tokio::test]
async fn a_handler_that_waits_for_a_message_is_not_polled_for_a_delivery() {
    let polls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&polls);
    let handler = move |mut connection: Connection, _: Params| {
        let counted = Arc::clone(&counted);
        async move {
            let member = connection.join(&connection.hub().clone(), None).unwrap();
            connection.send("joined").await.unwrap();
            let heard = {
                let mut message = pin!(connection.recv());
                let poll = |cx: &mut Context<'_>| {
                    counted.fetch_add(1, SeqCst);
                    message.as_mut().poll(cx)
                };
                poll_fn(poll).await
            };
            drop(member);
            connection.send(heard.unwrap()).await.unwrap();
        }
    };
    let server = TestServer::start_with(Config::default(), |s| s.route("/", handler)).await;
    let mut client = server.open("/").await;
    client.expect_text("joined").await;
    for _ in 0..10 {
        assert_eq!(server.hub.send_to_all("to all").recipients, 1);
        client.expect_text("to all").await;
    }
    assert_eq!(polls.load(SeqCst), 1);
    client.send(ClientFrame::text("x")).await;
    client.expect_text("x").await;
    client.expect_close().await;
    client.finish_close().await;
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn recv_is_none_at_the_end_and_close_reason_says_why() {
    let mut bench = Bench::start(Config::default()).await;
    let peer = |code, reason: &str| CloseReason::Peer { code, reason: reason.to_owned() };
    for (frame, expected) in [
        (ClientFrame::close(4001, "bye"), peer(4001, "bye")),
        (ClientFrame::close(1000, ""), peer(1000, "")),
        (ClientFrame::new(0x8, []), peer(1005, "")),
        (ClientFrame::text([0xff]), CloseReason::InvalidUtf8),
        (ClientFrame::binary([]).declaring(1 << 40), CloseReason::TooBig),
    ] {
        let (mut client, mut connection, done) = bench.connect().await;
        client.send(ClientFrame::text("first")).await;
        assert_eq!(within("a message", connection.recv()).await, Some(Message::from("first")));
        client.send(frame).await;
        assert_eq!(within("the end", connection.recv()).await, None);
        assert_eq!(connection.recv().await, None, "it stays at its end");
        assert_eq!(connection.close_reason(), Some(expected));
        assert_eq!(connection.send("too late").await, Err(Closed));
        drop(done);
    }
    let (mut client, mut connection, done) = bench.connect().await;
    client.send(ClientFrame::text("x").unmasked()).await;
    assert_eq!(within("the end", connection.recv()).await, None);
    assert!(matches!(connection.close_reason(), Some(CloseReason::Protocol(_))));
    drop((client, done));
    for is_reset in [true, false] {
        let (client, mut connection, done) = bench.connect().await;
        if is_reset {
            client.abort();
        } else {
            drop(client);
        }
        assert_eq!(within("the end", connection.recv()).await, None);
        let reason = connection.close_reason().unwrap();
        assert!(matches!(reason, CloseReason::Lost(_)), "{reason:?}");
        assert_eq!(reason.code(), 1006);
        drop(done);
    }
    bench.server.stop().await;
}

#[tokio::test]
async fn close_writes_what_was_sent_before_it_and_the_first_reason_stays() {
    async fn handler(mut connection: Connection, _: Params) {
        connection.send("last words").await.unwrap();
        connection.close(4321, "because");
        connection.close(1000, "another");
        let reason = CloseReason::Local { code: 4321, reason: "because".to_owned() };
        assert_eq!(connection.close_reason(), Some(reason));
        assert_eq!(connection.recv().await, None);
        assert_eq!(connection.send("too late").await, Err(Closed));
    }
    let server = TestServer::start_with(Config::default(), |s| s.route("/", handler)).await;
    let mut client = server.open("/").await;
    client.expect_text("last words").await;
    assert_eq!(client.expect_close().await, (4321, "because".to_owned()));
    client.finish_close().await;
    drop(client);
    assert_eq!(server.hub.metrics().handler_failures.get(), 0);
    server.stop().await;
}

#[tokio::test]
#[should_panic(expected = "close code 1006 may not be sent")]
async fn a_code_that_may_not_be_sent_is_a_mistake_of_the_program() {
    let mut bench = Bench::start(Config::default()).await;
    let (_client, mut connection, _done) = bench.connect().await;
    connection.close(1006, "");
}

#[tokio::test]
async fn the_hub_sends_to_user_group_and_all_from_any_thread() {
    let mut bench = Bench::start(Config::default()).await;
    let hub = bench.server.hub.clone();
    let (mut alice, one, done) = bench.connect().await;
    let (mut bob, other, other_done) = bench.connect().await;
    let alices = one.join(&hub, Some("alice")).unwrap();
    let bobs = other.join(&hub, None).unwrap();
    assert_eq!((alices.user(), bobs.user()), (Some("alice"), None));
    bobs.join_group("lobby").unwrap();
    bobs.join_group("lobby").unwrap();
    let sent = thread::spawn(move || {
        [
            hub.send_to_user("alice", "to a user"),
            hub.send_to_group("lobby", vec![7]),
            hub.send_to_all("to all"),
            hub.send_to_user("nobody", "x"),
            hub.send_to_group("empty", "x"),
            hub.named("other").send_to_all("x"),
        ]
    });
    let recipients = sent.join().unwrap().map(|sent| {
        assert_eq!(sent, Sent { evicted: 0, ..sent });
        sent.recipients
    });
    assert_eq!(recipients, [1, 1, 2, 0, 0, 0]);
    alice.expect_text("to a user").await;
    alice.expect_text("to all").await;
    assert_eq!(bob.read_frame().await, ServerFrame::binary([7]));
    bob.expect_text("to all").await;
    assert_eq!(bench.server.hub.metrics().unheard.get(), 3);
    bobs.leave_group("lobby");
    assert_eq!(bench.server.hub.send_to_group("lobby", "x").recipients, 0);
    drop((alice, bob, alices, bobs, one, other, done, other_done));
    bench.server.stop().await;
}

#[tokio::test]
async fn send_to_others_spares_the_member_itself() {
    let mut bench = Bench::start(Config::default()).await;
    let hub = bench.server.hub.clone();
    let (mut clients, mut members, mut kept) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..3 {
        let (client, connection, done) = bench.connect().await;
        let member = connection.join(&hub, None).unwrap();
        member.join_group("lobby").unwrap();
        clients.push(client);
        members.push(member);
        kept.push((connection, done));
    }
    assert_eq!(members[0].send_to_others("lobby", "others").recipients, 2);
    assert_eq!(hub.send_to_all("all").recipients, 3);
    clients[0].expect_text("all").await;
    for client in &mut clients[1..] {
        client.expect_text("others").await;
        client.expect_text("all").await;
    }
    drop((clients, members, kept));
    bench.server.stop().await;
}

/// A connection is in one place: the second join takes it from the first, whose end then ends
/// nothing any more.
#[tokio::test]
async fn a_second_join_moves_the_connection_and_outlives_the_first() {
    let mut bench = Bench::start(Config::default()).await;
    let (hub, other) = (bench.server.hub.clone(), bench.server.hub.named("other"));
    let (mut client, connection, done) = bench.connect().await;
    let first = connection.join(&hub, Some("alice")).unwrap();
    first.join_group("lobby").unwrap();
    let second = connection.join(&other, Some("bob")).unwrap();
    assert_eq!(hub.counts().members, 0);
    assert_eq!((hub.counts().users, hub.counts().groups), (0, 0));
    assert_eq!(first.join_group("lobby"), Err(JoinError::Closed));
    second.join_group("hall").unwrap();
    first.leave_group("hall");
    drop(first);
    assert_eq!(other.send_to_user("bob", "user").recipients, 1);
    assert_eq!(other.send_to_group("hall", "group").recipients, 1);
    client.expect_text("user").await;
    client.expect_text("group").await;
    // Again in the same hub, under the same name: still one.
    let third = connection.join(&other, Some("bob")).unwrap();
    drop(second);
    assert_eq!(other.send_to_user("bob", "once").recipients, 1);
    assert_eq!(other.send_to_group("hall", "left").recipients, 0);
    drop(third);
    assert_eq!(other.send_to_all("x").recipients, 0);
    assert_eq!(hub.counts().connections, 1);
    client.expect_text("once").await;
    drop((client, connection, done));
    bench.server.stop().await;
}

#[tokio::test]
async fn join_says_when_a_user_is_taken_and_a_group_is_one_too_many() {
    let config = Config { same_user: SameUser::Reject, max_groups: 1, ..Config::default() };
    let mut bench = Bench::start(config).await;
    let hub = bench.server.hub.clone();
    let (_client, one, _done) = bench.connect().await;
    let (_other_client, other, _other_done) = bench.connect().await;
    let member: Member = one.join(&hub, Some("alice")).unwrap();
    assert_eq!(other.join(&hub, Some("alice")).unwrap_err(), UserTaken);
    assert!(other.join(&hub.named("elsewhere"), Some("alice")).is_ok());
    member.join_group("a").unwrap();
    assert_eq!(member.join_group("b"), Err(JoinError::TooMany(1)));
    drop(member);
    assert!(other.join(&hub, Some("alice")).is_ok());
}

/// At once, and not when the handler of the older connection comes to it.
#[tokio::test]
async fn a_join_that_replaces_takes_the_older_connection_out_of_the_hub() {
    let config = Config { same_user: SameUser::Replace, ..Config::default() };
    let mut bench = Bench::start(config).await;
    let hub = bench.server.hub.clone();
    let (mut older_client, older, _older_done) = bench.connect().await;
    let (mut client, newer, _done) = bench.connect().await;
    let old_member = older.join(&hub, Some("alice")).unwrap();
    let member = newer.join(&hub, Some("alice")).unwrap();
    assert_eq!((hub.counts().members, hub.counts().users), (1, 1));
    assert_eq!(old_member.join_group("lobby"), Err(JoinError::Closed));
    assert_eq!(hub.send_to_user("alice", "to the newer").recipients, 1);
    client.expect_text("to the newer").await;
    assert_eq!(older_client.expect_close().await.0, 4000);
    drop((old_member, member));
}

#[tokio::test]
#[should_panic(expected = "the hub belongs to another server")]
async fn a_hub_of_another_server_is_a_mistake_of_the_program() {
    let mut bench = Bench::start(Config::default()).await;
    let (_client, connection, _done) = bench.connect().await;
    drop(connection.join(&Hub::default(), None));
}

#[tokio::test]
async fn a_sender_reaches_its_connection_from_anywhere_until_it_ends() {
    let mut bench = Bench::start(Config { max_backlog: 1000, ..Config::default() }).await;
    let (mut client, connection, done) = bench.connect().await;
    let sender = connection.sender();
    assert_eq!(sender.id(), connection.id());
    let clone: Sender = sender.clone();
    thread::spawn(move || clone.send("from a thread").unwrap()).join().unwrap();
    client.expect_text("from a thread").await;
    drop((client, connection, done));
    eventually("the connection has ended", Err(Closed), || sender.send("late")).await;
    // Its byte budget holds here as well.
    let (mut client, connection, done) = bench.connect().await;
    let sender = connection.sender();
    let overflow = async { while sender.send(vec![0; 64 << 10]) == Ok(()) {} };
    within("the budget to be passed", overflow).await;
    assert_eq!(client.expect_close_behind_others().await.0, 1013);
    drop((client, connection, done));
    bench.server.stop().await;
}

#[tokio::test]
async fn what_a_connection_has_spawned_ends_with_it() {
    let mut bench = Bench::start(Config::default()).await;
    for end in 0..4 {
        let (mut client, mut connection, done) = bench.connect().await;
        let (running, mut has_ended) = oneshot::channel::<()>();
        let (sender, start) = (connection.sender(), ClientFrame::text("start"));
        connection.spawn(async move {
            let _running = running;
            sender.send("started").unwrap();
            pending::<()>().await;
        });
        // Neither a panic nor an end of another task ends it.
        connection.spawn(async { panic!("on its own") });
        connection.spawn(async {});
        client.send(start).await;
        client.expect_text("started").await;
        connection.recv().await;
        assert!(has_ended.try_recv() == Err(oneshot::error::TryRecvError::Empty));
        match end {
            0 => client.abort(),
            1 => client.send(ClientFrame::close(1000, "")).await,
            2 => connection.close(1000, ""),
            _ => drop(done),
        }
        if end < 2 {
            assert_eq!(within("the end", connection.recv()).await, None);
        }
        assert!(within("the task to be aborted", has_ended).await.is_err(), "end {end}");
    }
    bench.server.stop().await;
}

#[tokio::test]
async fn a_connection_is_closed_from_anywhere_behind_what_is_queued() {
    let mut bench = Bench::start(Config::default()).await;
    let hub = bench.server.hub.clone();
    let (mut client, connection, done) = bench.connect().await;
    connection.sender().send("queued").unwrap();
    let reason = CloseReason::Local { code: 4000, reason: "go".to_owned() };
    assert!(hub.close_connection(connection.id(), reason.clone()));
    client.expect_text("queued").await;
    assert_eq!(client.expect_close().await, (4000, "go".to_owned()));
    assert_eq!(connection.close_reason(), Some(reason.clone()));
    client.finish_close().await;
    let id = connection.id();
    drop((client, connection, done));
    eventually("it is gone", false, || hub.close_connection(id, reason.clone())).await;
    bench.server.stop().await;
}
