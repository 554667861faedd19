//! Servers that lose, double, swap or alter one message, and whether that is noticed: the test of what every figure rests on.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use clap::Parser;
use socket2::SockRef;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Message, WebSocket, accept};

use crate::fault::Fault;
use crate::options::Options;
use crate::run::Outcome;

/// What is done to one message, the `WHICH`th.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lie {
    None,
    Loses,
    Doubles,
    /// Sends it behind the next one of the same sender.
    Swaps,
    Alters,
    /// Sends it as binary.
    Retypes,
    /// Sends it, and then nothing any more: that and the end of the stream come at once.
    Leaves,
    /// None, but each post takes as long as this.
    Slow(Duration),
}

/// Behind all greetings.
const WHICH: usize = 12;

/// One end that messages are written to.
type Writer = WebSocket<TcpStream>;

struct Server {
    lie: Lie,
    /// Messages so far.
    count: AtomicUsize,
    subscribers: Mutex<Vec<Writer>>,
}

impl Server {
    /// What becomes of the next message of a sender who keeps what it has kept.
    fn tell(&self, message: Message, kept: &mut Option<Message>) -> Vec<Message> {
        let is_chosen = self.count.fetch_add(1, Ordering::SeqCst) == WHICH;
        let before = kept.take();
        let mut messages = match self.lie {
            Lie::Loses if is_chosen => vec![],
            Lie::Doubles if is_chosen => vec![message.clone(), message],
            Lie::Swaps if is_chosen => {
                *kept = Some(message);
                vec![]
            }
            Lie::Alters if is_chosen => {
                let text = message.to_text().expect("text").replace('k', "q");
                vec![Message::text(text)]
            }
            Lie::Retypes if is_chosen => vec![Message::binary(message.into_data())],
            _ => vec![message],
        };
        messages.extend(before);
        messages
    }

    /// The first subscriber is lied to, the others get all.
    fn publish(&self, message: &Message, kept: &mut Option<Message>) {
        let mut subscribers = self.subscribers.lock().expect("no panic");
        let [first, rest @ ..] = &mut subscribers[..] else { return };
        // A client that has seen a lie is gone.
        for message in self.tell(message.clone(), kept) {
            let _ = first.send(message);
        }
        for subscriber in rest {
            let _ = subscriber.send(message.clone());
        }
    }

    /// Serves one connection: what comes on `/pub`, or is posted, goes to all of `/sub`, else back.
    fn serve(&self, stream: TcpStream) {
        let mut head = [0; 8];
        stream.peek(&mut head).expect("a request, which comes in one piece");
        let clone = stream.try_clone().expect("a second handle");
        if head.starts_with(b"POST ") {
            return self.serve_posts(BufReader::new(clone), stream);
        }
        let mut writer = WebSocket::from_raw_socket(clone, Role::Server, None);
        if head == *b"GET /sub" {
            // Nothing is published between the answer and this.
            let mut subscribers = self.subscribers.lock().expect("no panic");
            let Ok(mut socket) = accept(stream) else { return };
            subscribers.push(writer);
            drop(subscribers);
            while socket.read().is_ok() {}
            return;
        }
        let Ok(mut socket) = accept(stream) else { return };
        let mut kept = None;
        while let Ok(message) = socket.read() {
            if !message.is_text() {
                continue;
            }
            if head == *b"GET /pub" {
                self.publish(&message, &mut kept);
            } else {
                let leaves = self.lie == Lie::Leaves && self.count.load(Ordering::SeqCst) == WHICH;
                // Then both are in one segment.
                SockRef::from(writer.get_ref()).set_tcp_cork(leaves).expect("an open socket");
                for message in self.tell(message, &mut kept) {
                    let _ = writer.send(message);
                }
                if leaves {
                    writer.get_ref().shutdown(Shutdown::Write).expect("an open stream");
                    while socket.read().is_ok() {}
                    return;
                }
            }
        }
    }

    fn serve_posts(&self, mut reader: BufReader<TcpStream>, mut stream: TcpStream) {
        let (mut line, mut length, mut kept) = (String::new(), 0, None);
        while reader.read_line(&mut line).is_ok_and(|count| count > 0) {
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
            if line == "\r\n" {
                let mut body = vec![0; length];
                reader.read_exact(&mut body).expect("a body");
                if let Lie::Slow(time) = self.lie {
                    thread::sleep(time);
                }
                let body = String::from_utf8(body).expect("text");
                self.publish(&Message::text(body), &mut kept);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            }
            line.clear();
        }
    }
}

/// A server that tells this lie, and its port. It serves until the process ends.
fn start(lie: Lie) -> (Arc<Server>, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let server =
        Arc::new(Server { lie, count: AtomicUsize::new(0), subscribers: Mutex::default() });
    let serving = Arc::clone(&server);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let server = Arc::clone(&serving);
            thread::spawn(move || server.serve(stream));
        }
    });
    (server, port)
}

/// Runs a mode against a server.
fn load(port: u16, mode: &str, flags: &str) -> Result<Outcome, Fault> {
    let path = if matches!(mode, "echo" | "rate") { "/echo" } else { "" };
    let url = format!("ws://127.0.0.1:{port}{path}");
    let posts = format!("http://127.0.0.1:{port}/post");
    let common = "--duration 1s --warm-up 50ms --patience 5s --quiet";
    let words = ["load", mode, &url].into_iter().chain(flags.split_whitespace());
    let words = words.map(|word| if word == "POST" { &posts } else { word });
    let options = Options::parse_from(words.chain(common.split_whitespace()));
    crate::run(&options)
}

/// An honest server is measured, and each lie, once told, ends the run with a fault.
fn every_lie_is_noticed(mode: &str, flags: &str) {
    let (_, port) = start(Lie::None);
    assert!(load(port, mode, flags).expect("an honest server").messages > 0);
    for lie in [Lie::Loses, Lie::Doubles, Lie::Swaps, Lie::Alters, Lie::Retypes] {
        let (server, port) = start(lie);
        let result = load(port, mode, flags);
        assert!(server.count.load(Ordering::SeqCst) > WHICH, "{mode}: {lie:?} was never told");
        match (lie, result) {
            // With one message under way there is no next one.
            (Lie::Loses | Lie::Swaps, Err(Fault::Missing { .. }))
            | (_, Err(Fault::Message { .. })) => {}
            (_, other) => panic!("{mode} {flags}: {lie:?} ends with {other:?}"),
        }
    }
}

#[test]
fn echo_notices_every_lie() {
    every_lie_is_noticed("echo", "--connections 2 --in-flight 4");
}

#[test]
fn echo_one_at_a_time_notices_every_lie() {
    every_lie_is_noticed("echo", "--connections 1 --in-flight 1 --threads 2");
}

#[test]
fn rate_notices_every_lie() {
    every_lie_is_noticed("rate", "--connections 2 --rate 2000");
}

#[test]
fn fanout_notices_every_lie() {
    every_lie_is_noticed("fanout", "--preset paths --subscribers 3 --publishers 2 --window 4");
}

#[test]
fn fanout_on_two_threads_notices_every_lie() {
    let flags = "--preset paths --subscribers 3 --publishers 2 --window 4 --threads 2";
    every_lie_is_noticed("fanout", flags);
}

#[test]
fn publish_notices_every_lie() {
    let flags = "--preset paths --subscribers 3 --publishers 2 --rate 500 --post POST";
    every_lie_is_noticed("publish", flags);
}

/// The end of a stream that comes with its last bytes is not told again: whoever overlooks it waits for an answer.
#[test]
fn an_end_that_comes_with_the_last_bytes_is_noticed() {
    let (_, port) = start(Lie::Leaves);
    let result = load(port, "echo", "--connections 1");
    assert!(matches!(result, Err(Fault::Ended { .. })), "{result:?}");
}

/// A server that takes half of the posts that are due gets the others late, and all are timed.
#[test]
fn what_cannot_be_posted_in_time_is_posted_late() {
    let (_, port) = start(Lie::Slow(Duration::from_millis(20)));
    let flags = "--preset paths --subscribers 2 --publishers 2 --rate 200 --post POST --threads 2";
    let outcome = load(port, "publish", flags).expect("late is not wrong");
    let timed = outcome.latency.len();
    assert!(timed >= 380, "{timed} of 400 deliveries are timed");
    let slowest = Duration::from_nanos(outcome.latency.max());
    assert!(slowest > Duration::from_millis(500), "{slowest:?}");
}
