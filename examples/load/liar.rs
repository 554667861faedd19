//! Servers that lose, double, swap or alter one message, and whether that is noticed: the test of what every figure rests on.

use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use clap::Parser;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Message, WebSocket, accept};

use crate::fault::Fault;
use crate::options::Options;

/// What is done to one message, the `WHICH`th.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lie {
    None,
    Loses,
    Doubles,
    /// Sends it behind the next one.
    Swaps,
    Alters,
    /// Sends it as binary.
    Retypes,
}

/// Behind all greetings, and before any run is over.
const WHICH: usize = 20;

/// One end that messages are written to.
type Writer = WebSocket<TcpStream>;

struct Server {
    lie: Lie,
    count: AtomicUsize,
    subscribers: Mutex<Vec<Writer>>,
    kept: Mutex<Option<Message>>,
}

impl Server {
    /// Sends a message, or what the lie makes of it.
    fn send(&self, writer: &mut Writer, message: Message) {
        let is_chosen = self.count.fetch_add(1, Ordering::SeqCst) == WHICH;
        let kept = self.kept.lock().expect("no panic").take();
        let messages = match self.lie {
            Lie::Loses if is_chosen => vec![],
            Lie::Doubles if is_chosen => vec![message.clone(), message],
            Lie::Swaps if is_chosen => {
                *self.kept.lock().expect("no panic") = Some(message);
                vec![]
            }
            Lie::Alters if is_chosen => {
                let text = message.to_text().expect("text").replace('k', "q");
                vec![Message::text(text)]
            }
            Lie::Retypes if is_chosen => vec![Message::binary(message.into_data())],
            _ => vec![message],
        };
        for message in messages.into_iter().chain(kept) {
            // A client that has seen the lie is gone.
            let _ = writer.send(message);
        }
    }

    /// Serves one connection: what comes on `/pub` goes to all of `/sub`, else back.
    fn serve(&self, stream: TcpStream) {
        let mut head = [0; 8];
        stream.peek(&mut head).expect("a request, which comes in one piece");
        let clone = stream.try_clone().expect("a second handle");
        let mut writer = WebSocket::from_raw_socket(clone, Role::Server, None);
        let Ok(mut socket) = accept(stream) else { return };
        if head == *b"GET /sub" {
            self.subscribers.lock().expect("no panic").push(writer);
            while socket.read().is_ok() {}
            return;
        }
        while let Ok(message) = socket.read() {
            if !message.is_text() {
                continue;
            }
            if head == *b"GET /pub" {
                let mut subscribers = self.subscribers.lock().expect("no panic");
                let [first, rest @ ..] = &mut subscribers[..] else { continue };
                self.send(first, message.clone());
                for subscriber in rest {
                    let _ = subscriber.send(message.clone());
                }
            } else {
                self.send(&mut writer, message);
            }
        }
    }
}

/// The port of a server that tells this lie. It serves until the process ends.
fn start(lie: Lie) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let (count, subscribers) = (AtomicUsize::new(0), Mutex::default());
    let server = Arc::new(Server { lie, count, subscribers, kept: Mutex::default() });
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let server = Arc::clone(&server);
            thread::spawn(move || server.serve(stream));
        }
    });
    port
}

/// Runs a mode against such a server.
fn load(lie: Lie, mode: &str, flags: &str) -> Result<u64, Fault> {
    let path = if mode == "fanout" { "" } else { "/echo" };
    let url = format!("ws://127.0.0.1:{}{path}", start(lie));
    let common = "--duration 300ms --warm-up 50ms --patience 1s --quiet";
    let words = ["load", mode, &url].into_iter().chain(flags.split_whitespace());
    let options = Options::parse_from(words.chain(common.split_whitespace()));
    crate::run(&options).map(|outcome| outcome.messages)
}

/// An honest server is measured, and each lie ends the run with a fault.
fn every_lie_is_noticed(mode: &str, flags: &str) {
    assert!(load(Lie::None, mode, flags).expect("an honest server") > 0);
    for lie in [Lie::Loses, Lie::Doubles, Lie::Swaps, Lie::Alters, Lie::Retypes] {
        match load(lie, mode, flags) {
            Err(Fault::Message { .. } | Fault::Missing { .. }) => {}
            other => panic!("{mode}: {lie:?} ends with {other:?}"),
        }
    }
}

#[test]
fn echo_notices_every_lie() {
    every_lie_is_noticed("echo", "--connections 2 --in-flight 4");
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
