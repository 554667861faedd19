//! Messages that came in one write, and a handler that answers them one by one.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod support;

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
    thread,
};

use hubnerite::{CloseReason, Closed, Config, Connection, Params, Server};
use support::{ClientFrame, End, RawClient, ServerFrame, TestServer};
use tokio::{
    runtime::{Builder, Handle},
    sync::Notify,
};

fn texts<const N: usize>(texts: [&str; N]) -> [ClientFrame; N] {
    texts.map(ClientFrame::text)
}

async fn expect_texts(client: &mut RawClient, texts: &[&str]) {
    for text in texts {
        client.expect_text(text).await;
    }
}

/// Sends the next message back.
async fn echo_one(connection: &mut Connection) -> Result<(), Closed> {
    let message = connection.recv().await.ok_or(Closed)?;
    connection.send(message).await
}

/// Runs it in another thread; this one waits for it.
fn elsewhere<T: Send>(future: impl Future<Output = T> + Send) -> T {
    let run = || Builder::new_current_thread().build().unwrap().block_on(future);
    thread::scope(|scope| scope.spawn(run).join().unwrap())
}

/// So much text is not copied to other replies.
const LARGE: usize = 4 << 10;

/// Replies stay in order, whichever thread they are sent from, and whether the handler waits
/// between them or not.
#[tokio::test]
async fn a_handler_may_block_its_thread_until_another_has_answered() {
    async fn handler(mut connection: Connection, _: Params) -> Result<(), Closed> {
        echo_one(&mut connection).await?;
        elsewhere(echo_one(&mut connection))?;
        echo_one(&mut connection).await?;
        elsewhere(connection.send_text("more".repeat(LARGE)))?;
        connection.send_text("and more").await?;
        echo_one(&mut connection).await?;
        elsewhere(async { connection.close(4000, "over") });
        assert_eq!(connection.send_text("too late").await, Err(Closed));
        Ok(())
    }
    let server = TestServer::start_with(Config::default(), |s| s.route("/", handler)).await;
    let mut client = server.open("/").await;
    client.send_all(texts(["1", "2", "3", "4", "5"])).await;
    expect_texts(&mut client, &["1", "2", "3", &"more".repeat(LARGE), "and more", "4"]).await;
    assert_eq!(client.expect_close().await, (4000, "over".to_owned()));
    client.finish_close().await;
    drop(client);
    assert_eq!(server.hub.metrics().handler_failures.get(), 0);
    server.stop().await;
}

#[tokio::test]
async fn a_reply_leaves_while_the_handler_waits_with_the_next_message_at_hand() {
    let go_on = Arc::new(Notify::new());
    let waited_for = Arc::clone(&go_on);
    let handler = move |mut connection: Connection, _: Params| {
        let go_on = Arc::clone(&waited_for);
        async move {
            while echo_one(&mut connection).await.is_ok() {
                go_on.notified().await;
            }
        }
    };
    let server = TestServer::start_with(Config::default(), |s| s.route("/", handler)).await;
    let mut client = server.open("/").await;
    client.send_all(texts(["1", "2", "3"])).await;
    for text in ["1", "2", "3"] {
        client.expect_text(text).await;
        go_on.notify_one();
    }
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn a_handler_that_closes_is_given_no_more() {
    async fn handler(mut connection: Connection, _: Params) {
        let message = connection.recv().await.unwrap();
        connection.send(message).await.unwrap();
        connection.close(4000, "enough");
        assert_eq!(connection.try_recv(), None);
        assert_eq!(connection.recv().await, None);
    }
    let server = TestServer::start_with(Config::default(), |s| s.route("/", handler)).await;
    let mut client = server.open("/").await;
    client.send_all(texts(["1", "2", "3"])).await;
    client.expect_text("1").await;
    assert_eq!(client.expect_close().await, (4000, "enough".to_owned()));
    client.finish_close().await;
    drop(client);
    assert_eq!(server.hub.metrics().handler_failures.get(), 0);
    server.stop().await;
}

#[tokio::test]
async fn a_handler_is_given_no_more_once_others_have_closed() {
    let (next, ids) = (Arc::new(Notify::new()), Arc::new(Mutex::new(None)));
    let (waited_for, known) = (Arc::clone(&next), Arc::clone(&ids));
    let handler = move |mut connection: Connection, _: Params| {
        let (next, ids) = (Arc::clone(&waited_for), Arc::clone(&known));
        async move {
            *ids.lock().unwrap() = Some(connection.id());
            echo_one(&mut connection).await.unwrap();
            next.notified().await;
            assert_eq!(connection.recv().await, None);
        }
    };
    let server = TestServer::start_with(Config::default(), |s| s.route("/", handler)).await;
    let mut client = server.open("/").await;
    client.send_all(texts(["1", "2", "3"])).await;
    client.expect_text("1").await;
    let id = ids.lock().unwrap().unwrap();
    let reason = CloseReason::Local { code: 4000, reason: "go".to_owned() };
    assert!(server.hub.close_connection(id, reason));
    assert_eq!(client.expect_close().await, (4000, "go".to_owned()));
    next.notify_one();
    client.finish_close().await;
    drop(client);
    let hub = server.hub.clone();
    server.stop().await;
    assert_eq!(hub.metrics().handler_failures.get(), 0);
}

#[tokio::test]
async fn what_a_handler_has_answered_is_written_though_it_panics() {
    async fn handler(mut connection: Connection, _: Params) {
        echo_one(&mut connection).await.unwrap();
        panic!("with a reply on its desk");
    }
    let server = TestServer::start_with(Config::default(), |s| s.route("/", handler)).await;
    let mut client = server.open("/").await;
    client.send_all(texts(["1", "2", "3"])).await;
    client.expect_text("1").await;
    assert_eq!(client.expect_close().await.0, 1011);
    drop(client);
    server.stop().await;
}

/// A handler whose destructor looks at its connection, after a panic.
struct LooksBack(Connection);

impl Future for LooksBack {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let message = ready!(pin!(self.0.recv()).poll(cx));
        panic!("with its connection, at {message:?}");
    }
}

impl Drop for LooksBack {
    fn drop(&mut self) {
        assert_eq!(self.0.close_reason(), None);
        self.0.close(4000, "by its destructor");
    }
}

/// A server on threads that nobody waits for in the end: one that hangs must not keep a test from
/// its end, but fail it.
async fn start_apart(
    config: Config,
    routes: impl FnOnce(Server) -> Server + Send + 'static,
) -> TestServer {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let runtime = Box::leak(Box::new(runtime));
    runtime.spawn(TestServer::start_with(config, routes)).await.unwrap()
}

#[tokio::test]
async fn what_is_dropped_with_a_handler_may_use_the_connection() {
    let handler = |connection: Connection, _: Params| LooksBack(connection);
    let server = start_apart(Config::default(), move |s| s.route("/", handler)).await;
    let mut client = server.open("/").await;
    client.send(ClientFrame::text("1")).await;
    assert_eq!(client.expect_close().await, (4000, "by its destructor".to_owned()));
    drop(client);
    server.stop().await;
}

/// The handler is in another thread here than the connection's task, which counts what others have
/// sent.
#[tokio::test]
async fn what_two_threads_write_is_all_counted() {
    const EACH: u64 = 40_000;
    async fn handler(mut connection: Connection, _: Params) {
        let sender = connection.sender();
        let both = async move {
            for _ in 0..EACH {
                connection.send_text("a reply").await.unwrap();
                sender.send("a delivery").unwrap();
            }
        };
        let thread = tokio::task::spawn_blocking(|| Handle::current().block_on(both));
        thread.await.unwrap();
    }
    let config = Config { max_backlog: usize::MAX, ..Config::default() };
    let server = start_apart(config, |s| s.route("/", handler)).await;
    let mut client = server.open("/").await;
    let mut replies = 0;
    for _ in 0..2 * EACH {
        replies += u64::from(client.read_frame().await == ServerFrame::text("a reply"));
    }
    assert_eq!(replies, EACH);
    assert_eq!(client.expect_close().await.0, 1000);
    assert_eq!(server.hub.traffic().0.messages_out, 2 * EACH);
    drop(client);
    server.stop().await;
}

/// The close frame of who leaves at once is not waited for behind bytes that nobody understands.
#[tokio::test]
async fn what_is_wrong_behind_messages_is_known_to_who_closes_before() {
    async fn handler(mut connection: Connection, _: Params) {
        echo_one(&mut connection).await.unwrap();
        connection.close(4000, "enough");
    }
    let server = TestServer::start_with(Config::default(), |s| s.route("/", handler)).await;
    let mut client = server.open("/").await;
    let [one, two] = texts(["1", "2"]);
    client.send_all([one, two, ClientFrame::text([0xff])]).await;
    client.expect_text("1").await;
    assert_eq!(client.expect_close().await.0, 4000);
    assert_eq!(client.expect_end().await, End::Closed);
    drop(client);
    server.stop().await;
}

/// Those that come before what ends the connection are answered, whatever that is and whatever
/// else is among them.
#[tokio::test]
async fn what_came_before_the_end_is_answered() {
    let server = TestServer::start_with(Config::default(), Server::daemon_routes).await;
    for (last, code) in [
        (ClientFrame::text([0xff]), 1007),
        (ClientFrame::text("x").unmasked(), 1002),
        (ClientFrame::close(4321, ""), 4321),
    ] {
        let mut client = server.open("/echo").await;
        let [one, two, three] = texts(["1", "2", "3"]);
        client.send_all([one, two, three, last.clone()]).await;
        expect_texts(&mut client, &["1", "2", "3"]).await;
        assert_eq!(client.expect_close().await.0, code);

        let mut client = server.open("/echo").await;
        client.send_all([ClientFrame::ping("p"), ClientFrame::text("1"), last]).await;
        assert_eq!(client.read_frame().await, ServerFrame::pong("p"));
        client.expect_text("1").await;
        assert_eq!(client.expect_close().await.0, code);
    }
    server.stop().await;
}

#[tokio::test]
async fn pings_between_messages_are_answered_in_their_places() {
    let server = TestServer::start_with(Config::default(), Server::daemon_routes).await;
    let mut client = server.open("/echo").await;
    let [one, two, three] = texts(["1", "2", "3"]);
    let [ping, other] = ["p", "q"].map(ClientFrame::ping);
    client.send_all([one, ping, two, other, three]).await;
    client.expect_text("1").await;
    assert_eq!(client.read_frame().await, ServerFrame::pong("p"));
    client.expect_text("2").await;
    assert_eq!(client.read_frame().await, ServerFrame::pong("q"));
    client.expect_text("3").await;
    drop(client);
    server.stop().await;
}
