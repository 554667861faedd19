//! tokio-tungstenite as its own examples use it: default configuration, `send` for each message, `split` and `forward`
//! for a subscriber.

use std::io;
use std::sync::Arc;

use futures_util::stream::{StreamExt, TryStreamExt};
use futures_util::{SinkExt, future};
use peers::Subscribers;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::WebSocketStream;

type All = Arc<Subscribers<Message>>;

#[tokio::main]
async fn main() -> io::Result<()> {
    let all = All::default();
    peers::accept_all(|stream| serve(stream, Arc::clone(&all))).await
}

async fn serve(stream: TcpStream, all: All) -> Result<(), Error> {
    let (path, socket) = peers::open(stream).await?;
    match path.as_str() {
        "/sub" => subscribe(socket, &all).await,
        "/pub" => publish(socket, &all).await,
        _ => echo(socket).await,
    }
}

async fn echo(mut socket: WebSocketStream<TcpStream>) -> Result<(), Error> {
    while let Some(message) = socket.next().await {
        let message = message?;
        if message.is_text() || message.is_binary() {
            socket.send(message).await?;
        }
    }
    Ok(())
}

async fn subscribe(socket: WebSocketStream<TcpStream>, all: &All) -> Result<(), Error> {
    let (number, receiver) = all.add();
    let (outgoing, incoming) = socket.split();
    let messages = futures_util::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|message| (Ok(message), receiver))
    });
    let reading = incoming.try_for_each(|_| future::ok(()));
    let writing = Box::pin(messages).forward(outgoing);
    future::select(Box::pin(reading), writing).await;
    all.remove(number);
    Ok(())
}

async fn publish(mut socket: WebSocketStream<TcpStream>, all: &All) -> Result<(), Error> {
    while let Some(message) = socket.next().await {
        let message = message?;
        if message.is_text() || message.is_binary() {
            all.publish(&message);
        }
    }
    Ok(())
}
