//! What the peers have in common: who is subscribed.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

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

/// The address to listen on: loopback, at the port that the first argument names.
pub fn address() -> (std::net::Ipv4Addr, u16) {
    let port = std::env::args().nth(1).and_then(|port| port.parse().ok()).unwrap_or(9000);
    (std::net::Ipv4Addr::LOCALHOST, port)
}
