//! What the task of an engine's connection hands over to the half that listens.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::engine::{Inbound, Io};

/// Bytes that may wait for a node that takes them more slowly than they come. Past it the link
/// ends, so that what is lost is known to be lost; it is what Redis keeps for a slow subscriber
/// twice over.
const MAX_UNREAD: usize = 64 << 20;

/// Where messages are put. Cheap to clone.
#[derive(Clone)]
pub(super) struct Inbox {
    messages: UnboundedSender<io::Result<Bytes>>,
    unread: Arc<AtomicUsize>,
}

/// Where they come out.
pub(super) struct Messages {
    messages: UnboundedReceiver<io::Result<Bytes>>,
    unread: Arc<AtomicUsize>,
}

impl Inbox {
    pub(super) fn new() -> (Self, Messages) {
        let (sender, messages) = unbounded_channel();
        let unread = Arc::new(AtomicUsize::new(0));
        (Self { messages: sender, unread: Arc::clone(&unread) }, Messages { messages, unread })
    }

    /// # Errors
    /// If nobody listens any more, or too slowly: the connection is to end.
    pub(super) fn put(&self, message: Bytes) -> Result<(), Ended> {
        let length = message.len();
        if self.unread.fetch_add(length, Ordering::Relaxed) + length > MAX_UNREAD {
            self.end(io::Error::other("messages come faster than this node takes them"));
            return Err(Ended);
        }
        self.messages.send(Ok(message)).map_err(|_| Ended)
    }

    /// The connection has ended. What has come before is still taken out.
    pub(super) fn end(&self, why: io::Error) {
        // Nobody listens any more: then it does not matter.
        let _ = self.messages.send(Err(why));
    }
}

/// No more messages are taken.
#[derive(Debug)]
pub(super) struct Ended;

impl Inbound for Messages {
    fn receive(&mut self) -> Io<'_, Bytes> {
        Box::pin(async {
            let lost = || io::Error::new(io::ErrorKind::ConnectionReset, "the connection was lost");
            let message = self.messages.recv().await.ok_or_else(lost)??;
            self.unread.fetch_sub(message.len(), Ordering::Relaxed);
            Ok(message)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_listens_too_slowly_is_told_after_what_it_still_gets() {
        let (inbox, mut messages) = Inbox::new();
        let half = Bytes::from(vec![0; MAX_UNREAD / 2]);
        assert!(inbox.put(half.clone()).is_ok() && inbox.put(half.clone()).is_ok());
        assert!(inbox.put(Bytes::from_static(b"x")).is_err());
        assert_eq!(messages.receive().await.unwrap(), half);
        assert_eq!(messages.receive().await.unwrap(), half);
        assert!(messages.receive().await.unwrap_err().to_string().contains("faster"));
    }

    #[tokio::test]
    async fn what_was_taken_out_makes_room() {
        let (inbox, mut messages) = Inbox::new();
        for _ in 0..3 {
            inbox.put(Bytes::from(vec![0; MAX_UNREAD])).unwrap();
            assert_eq!(messages.receive().await.unwrap().len(), MAX_UNREAD);
        }
        drop(inbox);
        assert_eq!(messages.receive().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}
