//! A chat in plain text. A line is for everybody, unless it begins with `+group` (join), `-group`
//! (leave), `#group text` (to a group) or `@name text` (to a user).
//!
//! ```text
//! $ cargo run --quiet --example chat
//! chat on ws://127.0.0.1:9000/chat/NAME, Ctrl-C stops it
//!
//! $ cargo run --quiet --example client -- ws://127.0.0.1:9000/chat/alice
//! connected
//! * alice is here
//! * bob is here
//! #rust who is here?
//! @bob hello
//! closed: 1000
//!
//! $ cargo run --quiet --example client -- ws://127.0.0.1:9000/chat/bob
//! connected
//! * bob is here
//! +rust
//! * you are in rust
//! alice to rust: who is here?
//! alice to you: hello
//! * alice has left
//! closed: 1000
//! ```
#![allow(clippy::print_stdout, reason = "an example says what it does")]

use hubnerite::{Config, Connection, Hub, Member, Params, SameUser, Server};
use tokio::{net::TcpListener, signal::ctrl_c};

/// Closed with this code, a client knows that it has to come back under another name.
const NAME_TAKEN: u16 = 4001;

async fn chat(mut connection: Connection, params: Params, hub: Hub) {
    let name = &params["name"];
    // Held for as long as this function runs. Dropped, it leaves the hub and every group.
    let Ok(member) = connection.join(&hub, Some(name)) else {
        return connection.close(NAME_TAKEN, "the name is taken");
    };
    hub.send_to_all(format!("* {name} is here"));
    while let Some(message) = connection.recv().await {
        let reply = match message.as_text() {
            Some(line) => obey(line, name, &member),
            None => Some("* text only, please".to_owned()),
        };
        if let Some(reply) = reply
            && connection.send(reply).await.is_err()
        {
            break;
        }
    }
    drop(member);
    hub.send_to_all(format!("* {name} has left"));
}

/// Carries out one line; returns what only its writer is told.
fn obey(line: &str, name: &str, member: &Member) -> Option<String> {
    let mut rest = line.chars();
    let mark = rest.next()?;
    let (target, text) = rest.as_str().split_once(' ').unwrap_or((rest.as_str(), ""));
    let hub = member.hub();
    match mark {
        '+' => match member.join_group(target) {
            Ok(()) => Some(format!("* you are in {target}")),
            Err(error) => Some(format!("* {error}")),
        },
        '-' => {
            member.leave_group(target);
            Some(format!("* you are out of {target}"))
        }
        '#' => {
            let sent = hub.send_to_group(target, format!("{name} to {target}: {text}"));
            (sent.recipients == 0).then(|| format!("* nobody is in {target}"))
        }
        '@' => {
            let sent = hub.send_to_user(target, format!("{name} to you: {text}"));
            (sent.recipients == 0).then(|| format!("* {target} is not here"))
        }
        _ => {
            hub.send_to_all(format!("{name}: {line}"));
            None
        }
    }
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:9000").await?;
    println!("chat on ws://127.0.0.1:9000/chat/NAME, Ctrl-C stops it");
    let config = Config { same_user: SameUser::Reject, ..Config::default() };
    let server = Server::with_config(config);
    let hub = server.hub();
    let chat = move |connection: Connection, params: Params| chat(connection, params, hub.clone());
    let stop = async { ctrl_c().await.unwrap_or_default() };
    server.route("/chat/{name}", chat).run(listener, stop).await;
    Ok(())
}
