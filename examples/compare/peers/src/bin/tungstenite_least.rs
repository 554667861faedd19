//! What tungstenite costs at least: the echo of `tokio_task.rs`, read by tungstenite and written as raw frames. Its protocol
//! object and the buffer for reading are lent by the thread, and all that came is answered with one write. It looks at nothing
//! that tungstenite does not look at, answers no pings, and has no limits and no deadlines.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io::{self, ErrorKind, Read, Write};
use std::pin::pin;

use bytes::Buf;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};

/// What one read may bring.
const SCRATCH: usize = 64 * 1024;

/// What tungstenite takes at a time.
const CHUNK: usize = 2048;

/// Payloads from this size on are written where they are.
const BY_REFERENCE: usize = 4 * 1024;

/// tungstenite, and what it has taken and given: between two messages as much.
struct Reader {
    context: WebSocketContext,
    taken: usize,
    given: usize,
}

thread_local! {
    static READER: RefCell<Option<Reader>> = const { RefCell::new(None) };
    static BYTES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static REPLIES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    peers::accept_all(serve).await
}

async fn serve(stream: TcpStream) -> io::Result<()> {
    // A client says nothing before it has seen the 101: what tungstenite keeps is empty.
    let mut socket = peers::open(stream).await.map_err(io::Error::other)?.1.into_inner();
    let mut kept = None;
    while let Some(bytes) = next_bytes(&mut socket).await? {
        let mut reader = kept.take().or_else(|| READER.take()).unwrap_or_else(Reader::new);
        let mut unread = Unread(&bytes);
        let (mut replies, mut large) = (REPLIES.take(), Vec::new());
        while let Some(message) = reader.next(&mut unread)? {
            let opcode = OpCode::Data(if message.is_text() { Data::Text } else { Data::Binary });
            let payload = message.into_data();
            let header = FrameHeader { opcode, ..FrameHeader::default() };
            header.format(payload.len() as u64, &mut replies).map_err(io::Error::other)?;
            if payload.len() < BY_REFERENCE {
                replies.extend_from_slice(&payload);
            } else {
                large.push((replies.len(), payload));
            }
        }
        BYTES.set(bytes);
        if reader.taken == reader.given {
            READER.set(Some(reader));
        } else {
            kept = Some(reader);
        }
        write(&mut socket, &replies, large).await?;
        replies.clear();
        REPLIES.set(replies);
    }
    Ok(())
}

async fn next_bytes(socket: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    poll_fn(|cx| {
        let mut bytes = BYTES.take();
        bytes.clear();
        bytes.reserve(SCRATCH);
        let read = pin!(socket.read_buf(&mut bytes)).poll(cx);
        if read.is_pending() {
            BYTES.set(bytes);
            return read.map_ok(|_| None);
        }
        read.map_ok(|count| (count > 0).then_some(bytes))
    })
    .await
}

/// Writes the replies, and each large payload behind its header.
async fn write(
    socket: &mut TcpStream,
    replies: &[u8],
    large: Vec<(usize, Bytes)>,
) -> io::Result<()> {
    let mut done = 0;
    for (end, payload) in large {
        socket.write_all_buf(&mut Buf::chain(&replies[done..end], payload)).await?;
        done = end;
    }
    if done < replies.len() { socket.write_all(&replies[done..]).await } else { Ok(()) }
}

impl Reader {
    fn new() -> Self {
        let settings = WebSocketConfig::default().read_buffer_size(CHUNK).write_buffer_size(0);
        Self { context: WebSocketContext::new(Role::Server, Some(settings)), taken: 0, given: 0 }
    }

    /// The next message of data in what was read; an error at the end.
    fn next(&mut self, unread: &mut Unread<'_>) -> io::Result<Option<Message>> {
        let before = unread.0.len();
        let read = self.context.read(unread);
        self.taken += before - unread.0.len();
        match read {
            Ok(message) if message.is_text() || message.is_binary() => {
                let length = message.len();
                let header = if length < 126 {
                    6
                } else if length < 0x1_0000 {
                    8
                } else {
                    14
                };
                self.given += header + length;
                Ok(Some(message))
            }
            Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Ok(_) => Err(ErrorKind::ConnectionAborted.into()),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}

/// What tungstenite takes for its stream.
struct Unread<'a>(&'a [u8]);

impl Read for Unread<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match Read::read(&mut self.0, into)? {
            0 => Err(ErrorKind::WouldBlock.into()),
            count => Ok(count),
        }
    }
}

/// Answers to pings and closes are thrown away.
impl Write for Unread<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
