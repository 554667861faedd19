//! What the peers have in common: how they accept, and who is subscribed.

use std::collections::HashMap;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

/// All subscribers, each behind an unbounded channel: the shape of tokio-tungstenite's own chat example.
#[derive(Debug)]
pub struct Subscribers<T> {
    next: AtomicU64,
    senders: Mutex<HashMap<u64, UnboundedSender<T>>>,
}

impl<T> Default for Subscribers<T> {
    fn default() -> Self {
        Self { next: AtomicU64::new(0), senders: Mutex::new(HashMap::new()) }
    }
}

impl<T: Clone> Subscribers<T> {
    /// A further subscriber: its number, and what is sent to it.
    pub fn add(&self) -> (u64, UnboundedReceiver<T>) {
        let (sender, receiver) = unbounded_channel();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.senders.lock().expect("no holder panics").insert(number, sender);
        (number, receiver)
    }

    pub fn remove(&self, number: u64) {
        self.senders.lock().expect("no holder panics").remove(&number);
    }

    /// Sends to all.
    pub fn publish(&self, message: &T) {
        for sender in self.senders.lock().expect("no holder panics").values() {
            // One that has just gone is about to be removed.
            let _ = sender.send(message.clone());
        }
    }
}

/// Accepts for ever, on loopback at the port that the first argument names; each connection is served in a task of its own.
pub async fn accept_all<F>(serve: impl Fn(TcpStream) -> F) -> io::Result<()>
where
    F: Future<Output: Send> + Send + 'static,
{
    let port = std::env::args().nth(1).and_then(|port| port.parse().ok()).unwrap_or(9000);
    let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, port)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(serve(stream));
    }
}

/// tungstenite's opening handshake: the path that was asked for, and the socket.
pub async fn open(stream: TcpStream) -> Result<(String, WebSocketStream<TcpStream>), Error> {
    let mut path = String::new();
    #[allow(clippy::result_large_err)]
    let note_path = |request: &Request, response: Response| {
        path = request.uri().path().to_owned();
        Ok(response)
    };
    let socket = accept_hdr_async(stream, note_path).await?;
    Ok((path, socket))
}
