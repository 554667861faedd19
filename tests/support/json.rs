//! A client of the JSON protocol.

use std::{future::ready, net::SocketAddr, time::Duration};

use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::{WebSocket, close_of, connect, connect_with, next_message, send, within_time};

pub struct JsonClient {
    pub socket: WebSocket,
    /// The first frame.
    pub connected: Value,
}

impl JsonClient {
    /// Connects as a named user of the hub `default`.
    pub async fn user(address: SocketAddr, name: &str) -> Self {
        Self::over(connect(address, &format!("/ws/{name}")).await).await
    }

    /// Connects to `/client/hubs/{hub}` with the published subprotocol.
    pub async fn in_hub(address: SocketAddr, hub: &str) -> Self {
        let subprotocol = [("sec-websocket-protocol", "json.webpubsub.azure.v1")];
        let connected = connect_with(address, &format!("/client/hubs/{hub}"), &subprotocol).await;
        Self::over(connected.unwrap().0).await
    }

    /// Reads the first frame, which must be `connected`.
    pub async fn over(mut socket: WebSocket) -> Self {
        let first = next_message(&mut socket).await;
        let connected: Value = serde_json::from_str(first.to_text().unwrap()).unwrap();
        assert_eq!(connected["type"], "system", "{connected}");
        assert_eq!(connected["event"], "connected", "{connected}");
        Self { socket, connected }
    }

    /// Sends a frame, byte for byte.
    pub async fn send_text(&mut self, frame: &str) {
        send(&mut self.socket, frame).await;
    }

    pub async fn send(&mut self, frame: &Value) {
        self.send_text(&frame.to_string()).await;
    }

    /// The next frame, byte for byte.
    pub async fn next_text(&mut self) -> String {
        match next_message(&mut self.socket).await {
            Message::Text(text) => text.to_string(),
            other => panic!("{other:?} where a text frame was expected"),
        }
    }

    pub async fn next(&mut self) -> Value {
        let text = self.next_text().await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    /// [`next`](Self::next) within another time.
    pub async fn next_within(&mut self, limit: Duration) -> Value {
        let mut texts =
            (&mut self.socket).filter(|next| ready(!matches!(next, Ok(Message::Ping(_)))));
        let next = within_time(limit, "a frame", texts.next()).await;
        let message = next.expect("a frame before the end").unwrap();
        serde_json::from_str(message.to_text().unwrap()).unwrap()
    }

    /// Sends a frame and returns the next one that comes.
    pub async fn ask(&mut self, frame: &Value) -> Value {
        self.send(frame).await;
        self.next().await
    }

    /// The next frame must be this one.
    pub async fn expect(&mut self, frame: &Value) {
        assert_eq!(self.next().await, *frame);
    }

    /// Joins a group, and waits until it has.
    pub async fn join(&mut self, group: &str, ack_id: u64) {
        let answer = self.ask(&json!({"type": "joinGroup", "group": group, "ackId": ack_id})).await;
        assert_eq!(answer, ack(ack_id));
    }

    /// Everything that this client has sent is carried out, and nothing has come but what was
    /// read: the next frame is the answer to a ping.
    pub async fn expect_nothing(&mut self) {
        let answer = self.ask(&json!({"type": "ping"})).await;
        assert_eq!(answer, json!({"type": "pong"}));
    }

    /// Reads up to the server's close frame: its code and reason.
    pub async fn close(&mut self) -> (u16, String) {
        close_of(&mut self.socket).await
    }
}

/// The last frame of a client that is closed.
pub fn disconnected(why: &str) -> String {
    let why = serde_json::to_string(why).unwrap();
    format!(r#"{{"type":"system","event":"disconnected","message":{why}}}"#)
}

/// The ack of a frame that was carried out.
pub fn ack(id: u64) -> Value {
    json!({"type": "ack", "ackId": id, "success": true})
}

/// A failed ack or an error, whatever its message says.
pub fn expect_failure(frame: &Value, ack_id: Option<u64>, name: &str, what: &str) {
    let message = frame["error"]["message"].as_str().unwrap_or_else(|| panic!("{what}: {frame}"));
    assert!(!message.is_empty(), "{what}");
    let error = json!({"name": name, "message": message});
    let expected = match ack_id {
        Some(id) => json!({"type": "ack", "ackId": id, "success": false, "error": error}),
        None => json!({"type": "error", "error": error}),
    };
    assert_eq!(*frame, expected, "{what}");
}
