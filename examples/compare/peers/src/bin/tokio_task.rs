//! What a task for each connection costs at least: `bare.c` once more, but on tokio's one-threaded runtime, with a channel
//! to each subscriber. It checks nothing either, and has no deadlines.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::mem::take;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;

use peers::Subscribers;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What one read may bring.
const SCRATCH: usize = 256 * 1024;

type All = Arc<Subscribers<Arc<[u8]>>>;

thread_local! {
    /// Lent to whoever reads: nobody waits with it, unless half a frame is in it.
    static BYTES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let all = All::default();
    peers::accept_all(|stream| serve(stream, Arc::clone(&all))).await
}

async fn serve(stream: TcpStream, all: All) -> io::Result<()> {
    let (path, socket) = peers::open(stream).await.map_err(io::Error::other)?;
    // A client says nothing before it has seen the 101: what tungstenite keeps is empty.
    let socket = socket.into_inner();
    // Boxed: what the opening took is not kept for as long as the connection is open.
    match path.as_str() {
        "/sub" => Box::pin(subscribe(socket, &all)).await,
        "/pub" => Box::pin(publish(socket, &all)).await,
        _ => Box::pin(echo(socket)).await,
    }
}

async fn echo(mut socket: TcpStream) -> io::Result<()> {
    let mut kept = Vec::new();
    while let Some((bytes, whole)) = next_frames(&mut socket, &mut kept).await? {
        socket.write_all(&bytes[whole]).await?;
        give_back(bytes);
    }
    Ok(())
}

async fn subscribe(mut socket: TcpStream, all: &All) -> io::Result<()> {
    let (number, mut receiver) = all.add();
    while let Some(bytes) = receiver.recv().await {
        if socket.write_all(&bytes).await.is_err() {
            break;
        }
    }
    all.remove(number);
    Ok(())
}

async fn publish(mut socket: TcpStream, all: &All) -> io::Result<()> {
    let mut kept = Vec::new();
    while let Some((bytes, whole)) = next_frames(&mut socket, &mut kept).await? {
        all.publish(&bytes[whole].into());
        give_back(bytes);
    }
    Ok(())
}

/// Reads until a frame is whole. Returns a buffer and where in it stands what a server sends; `None` at the end. Half a
/// frame is kept for the next call.
async fn next_frames(
    socket: &mut TcpStream,
    kept: &mut Vec<u8>,
) -> io::Result<Option<(Vec<u8>, Range<usize>)>> {
    let mut bytes = take(kept);
    loop {
        let count = poll_fn(|cx| {
            let lent = bytes.is_empty();
            if lent {
                bytes = BYTES.take();
            }
            bytes.reserve(missing(&bytes).max(SCRATCH.saturating_sub(bytes.len())));
            let read = pin!(socket.read_buf(&mut bytes)).poll(cx);
            if lent && read.is_pending() {
                give_back(take(&mut bytes));
            }
            read
        });
        if count.await? == 0 {
            return Ok(None);
        }
        let (whole, used) = turn(&mut bytes);
        if used > 0 {
            kept.extend_from_slice(&bytes[used..]);
            return Ok(Some((bytes, whole)));
        }
    }
}

fn give_back(mut bytes: Vec<u8>) {
    bytes.clear();
    BYTES.set(bytes);
}

/// How much of the first frame has not come.
fn missing(bytes: &[u8]) -> usize {
    frame(bytes).map_or(0, |(header, payload)| (header + payload).saturating_sub(bytes.len()))
}

/// The lengths of the header at the front and of its payload.
fn frame(bytes: &[u8]) -> Option<(usize, usize)> {
    let (header, payload) = match bytes.get(1)? & 127 {
        126 => (8, u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?).into()),
        127 => (14, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize),
        short => (6, usize::from(short)),
    };
    (bytes.len() >= header).then_some((header, payload))
}

/// Turns all whole frames in place into what a server sends; they then stand next to each other, where the first range
/// says. How many bytes that took.
fn turn(bytes: &mut [u8]) -> (Range<usize>, usize) {
    let (mut used, mut out) = (0, 4..4);
    while let Some((header, payload)) = frame(&bytes[used..])
        && used + header + payload <= bytes.len()
    {
        let start = used + header;
        let key = bytes[start - 4..start].try_into().unwrap_or_default();
        unmask(&mut bytes[start..start + payload], key);
        // The server's header is as long as the client's without the key, and stands four bytes further on.
        bytes.copy_within(used..start - 4, used + 4);
        bytes[used + 5] &= 127;
        if used + 4 > out.end {
            bytes.copy_within(used + 4..start + payload, out.end);
        }
        out.end += header - 4 + payload;
        used = start + payload;
    }
    (out, used)
}

fn unmask(payload: &mut [u8], key: [u8; 4]) {
    let mask = u64::from(u32::from_ne_bytes(key)) * 0x1_0000_0001;
    let mut words = payload.chunks_exact_mut(8);
    for word in &mut words {
        let plain = u64::from_ne_bytes((&*word).try_into().unwrap_or_default()) ^ mask;
        word.copy_from_slice(&plain.to_ne_bytes());
    }
    for (byte, key) in words.into_remainder().iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}
