//! `/ws` and `/echo`: the two endpoints without a protocol of their own.

use crate::{
    connection::{Closed, Connection},
    frame::Message,
    route::Params,
};

/// Text `X` comes back as `Message received: X`, binary as it is.
pub(super) async fn reply(mut connection: Connection, _: Params) {
    while let Some(message) = connection.recv().await {
        let answer = match message {
            Message::Text(text) => Message::from(format!("Message received: {text}")),
            binary @ Message::Binary(_) => binary,
        };
        if connection.send(answer).await == Err(Closed) {
            break;
        }
    }
}

/// Every message comes back unchanged.
pub(super) async fn echo(mut connection: Connection, _: Params) {
    while let Some(message) = connection.recv().await {
        if connection.send(message).await == Err(Closed) {
            break;
        }
    }
}
