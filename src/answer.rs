//! Answers over plain HTTP: pages, and everything that an opening handshake can come to but 101.

use std::{fmt::Write as _, future::poll_fn, io, time::Duration};

use tokio::time::timeout;
use tokio_tungstenite::tungstenite::http;

use crate::{auth::Rejection, output::Output, socket::Socket};

/// How long a refused peer may take to read why.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// How much of what it still sends is read meanwhile: closed with bytes unread, the socket would
/// be reset and the answer lost.
const MAX_UNREAD: usize = 64 << 10;

/// An answer over plain HTTP, after which the socket is closed.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    status: http::StatusCode,
    headers: Vec<(&'static str, String)>,
    content_length: usize,
    body: Vec<u8>,
}

impl From<Rejection> for Answer {
    fn from(rejection: Rejection) -> Self {
        let body = format!("{}\n", rejection.text).into_bytes();
        let answer = Self::new(rejection.status, "text/plain; charset=utf-8", body);
        if rejection.status == http::StatusCode::UNAUTHORIZED {
            return answer.with("www-authenticate", "Bearer");
        }
        answer
    }
}

impl Answer {
    pub(crate) fn new(status: http::StatusCode, content_type: &str, body: Vec<u8>) -> Self {
        let headers = vec![("content-type", content_type.to_owned())];
        Self { status, headers, content_length: body.len(), body }
    }

    /// Keeps the head as it is, and what it says of the body.
    pub(crate) fn without_body(mut self) -> Self {
        self.body.clear();
        self
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn status(&self) -> http::StatusCode {
        self.status
    }

    fn to_bytes(&self) -> Vec<u8> {
        let reason = self.status.canonical_reason().unwrap_or("Error");
        let mut text = format!("HTTP/1.1 {} {reason}\r\n", self.status.as_u16());
        for (name, value) in &self.headers {
            text.extend([name, ": ", value, "\r\n"]);
        }
        text.push_str("x-content-type-options: nosniff\r\ncache-control: no-store\r\n");
        let connection = if self.names_upgrade() { "close, upgrade" } else { "close" };
        let length = self.content_length;
        let _ = write!(text, "content-length: {length}\r\nconnection: {connection}\r\n\r\n");
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// An `Upgrade` field has to be named by `Connection` (RFC 9110 section 7.8).
    fn names_upgrade(&self) -> bool {
        self.headers.iter().any(|(name, _)| *name == "upgrade")
    }

    /// Writes the answer, says that nothing will follow, and gives the peer a moment to take it.
    pub(crate) async fn send(&self, socket: &mut Socket) {
        // A peer that is gone or does not listen has lost nothing that it wanted.
        let _ = timeout(REFUSAL_TIMEOUT, self.try_send(socket)).await;
    }

    async fn try_send(&self, socket: &mut Socket) -> io::Result<()> {
        let mut output = Output::default();
        output.push_with(|own| *own = self.to_bytes());
        poll_fn(|cx| output.poll_write(cx, socket, &mut 0)).await?;
        linger(socket, MAX_UNREAD).await
    }
}

/// Says that nothing will follow, and gives the peer a moment to take what was written.
#[cfg(feature = "control")]
pub(crate) async fn part(mut socket: Socket, max_unread: usize) {
    let _ = timeout(REFUSAL_TIMEOUT, linger(&mut socket, max_unread)).await;
}

async fn linger(socket: &mut Socket, max_unread: usize) -> io::Result<()> {
    poll_fn(|cx| socket.poll_shutdown(cx)).await?;
    let mut unread = [0; 4096];
    let mut left = max_unread;
    while left > 0 {
        match poll_fn(|cx| socket.poll_read(cx, &mut unread)).await? {
            0 => return Ok(()),
            count => left = left.saturating_sub(count),
        }
    }
    Ok(())
}
