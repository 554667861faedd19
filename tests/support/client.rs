//! The client of tokio-tungstenite: an implementation that is not ours.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{
        Message,
        client::IntoClientRequest,
        handshake::client::Response,
        http::{HeaderName, HeaderValue},
    },
};

use super::within;

pub type WebSocket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Connects to a path.
pub async fn connect(address: SocketAddr, path: &str) -> WebSocket {
    let connected = connect_with(address, path, &[]).await;
    connected.unwrap_or_else(|error| panic!("{path}: {error}")).0
}

/// Connects to a path with more header fields; the error of an HTTP answer is
/// `tungstenite::Error::Http`.
pub async fn connect_with(
    address: SocketAddr,
    path: &str,
    fields: &[(&'static str, &str)],
) -> tokio_tungstenite::tungstenite::Result<(WebSocket, Response)> {
    let mut request = format!("ws://{address}{path}").into_client_request()?;
    for (name, value) in fields {
        let value = HeaderValue::from_str(value).unwrap();
        request.headers_mut().append(HeaderName::from_static(name), value);
    }
    within("an opening handshake", connect_async(request)).await
}

pub async fn send(socket: &mut WebSocket, message: impl Into<Message>) {
    within("a message to be sent", socket.send(message.into())).await.unwrap();
}

/// The next message, a close among them.
///
/// # Panics
/// If the connection ends instead.
pub async fn next_message(socket: &mut WebSocket) -> Message {
    let message = within("a message", socket.next()).await;
    message.expect("a message before the end").unwrap()
}

/// Reads up to the server's close frame and answers it: its code and reason.
pub async fn close_of(socket: &mut WebSocket) -> (u16, String) {
    loop {
        if let Message::Close(frame) = next_message(socket).await {
            // The answer is queued; an error says that it is written and all is over.
            let _ = within("the answer to a close", socket.flush()).await;
            let frame = frame.expect("a code");
            return (frame.code.into(), frame.reason.to_string());
        }
    }
}
