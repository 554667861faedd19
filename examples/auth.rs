//! A guard: it turns a request into a user id, or refuses it before the socket opens.
//!
//! The token comes in a header, as programs send it, or in the query, as browsers have to.
//!
//! ```text
//! $ cargo run --quiet --example auth
//! auth on ws://127.0.0.1:9000/whoami, Ctrl-C stops it
//!
//! $ address=ws://127.0.0.1:9000/whoami
//! $ cargo run --quiet --example client -- $address
//! refused: 401 Unauthorized (unauthorized)
//!
//! $ echo hello | cargo run --quiet --example client -- $address?access_token=wonderland
//! connected
//! alice says hello
//! closed: 1000
//! ```
#![allow(clippy::print_stdout, reason = "an example says what it does")]

use hubnerite::{Closed, Connection, Identity, Params, Rejection, Request, Route, Server};
use tokio::{net::TcpListener, signal::ctrl_c};

/// Stands for your sessions: who holds which token.
#[expect(clippy::unused_async, reason = "yours will ask a database")]
async fn user_of(token: &str) -> Option<&'static str> {
    match token {
        "wonderland" => Some("alice"),
        "sponge" => Some("bob"),
        _ => None,
    }
}

/// Runs before the 101. It may wait, for a database for example, for as long as `open_timeout`.
async fn get_user(request: &Request) -> Result<Identity, Rejection> {
    let bearer = request.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
    let query = request.query("access_token");
    let token = bearer.or(query.as_deref()).ok_or_else(Rejection::unauthorized)?;
    let user = user_of(token).await.ok_or_else(Rejection::unauthorized)?;
    Ok(Identity::user(user))
}

/// Whoever comes here has passed the guard, and the connection knows who it is.
async fn whoami(mut connection: Connection, _: Params) -> Result<(), Closed> {
    let user = connection.identity().user_id().unwrap_or("nobody").to_owned();
    while let Some(message) = connection.recv().await {
        let text = message.as_text().unwrap_or("something binary");
        connection.send_text(format!("{user} says {text}")).await?;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:9000").await?;
    println!("auth on ws://127.0.0.1:9000/whoami, Ctrl-C stops it");
    let stop = async { ctrl_c().await.unwrap_or_default() };
    let guarded = Route::new(whoami).guard(get_user);
    Server::new().route("/whoami", guarded).run(listener, stop).await;
    Ok(())
}
