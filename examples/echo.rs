//! The ten-line endpoint: every message comes back as it was.
//!
//! ```text
//! $ cargo run --quiet --example echo
//! echo on ws://127.0.0.1:9000/echo, Ctrl-C stops it
//!
//! $ printf 'hello\nworld\n' | cargo run --quiet --example client -- ws://127.0.0.1:9000/echo
//! connected
//! hello
//! world
//! closed: 1000
//! ```
#![allow(clippy::print_stdout, reason = "an example says what it does")]

use hubnerite::{Closed, Connection, Params, Server};
use tokio::{net::TcpListener, signal::ctrl_c};

/// To be closed is how every connection ends: a handler that says so has not failed.
async fn echo(mut connection: Connection, _: Params) -> Result<(), Closed> {
    while let Some(message) = connection.recv().await {
        connection.send(message).await?;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:9000").await?;
    println!("echo on ws://127.0.0.1:9000/echo, Ctrl-C stops it");
    let stop = async { ctrl_c().await.unwrap_or_default() };
    Server::new().route("/echo", echo).run(listener, stop).await;
    Ok(())
}
