//! A terminal client: lines from standard input are sent as text, what comes is printed.
//!
//! Ctrl-D closes the connection and waits for the server's close frame. The exit code is 0 if the
//! connection was closed with 1000.
//!
//! ```text
//! $ cargo run --quiet --example client -- ws://127.0.0.1:8000/ws
//! connected
//! hello
//! Message received: hello
//! closed: 1000
//! ```

use std::{env, error::Error, io, io::Write, process::ExitCode, thread};

use futures_util::{SinkExt, StreamExt};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_tungstenite::{
    connect_async,
    tungstenite::protocol::{CloseFrame, frame::coding::CloseCode},
    tungstenite::{self, ClientRequestBuilder, Message},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let Some(url) = arguments.next() else {
        eprintln!("usage: client URL [SUBPROTOCOL]");
        return ExitCode::from(2);
    };
    match talk(&url, arguments.next()).await {
        Ok(CloseCode::Normal) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns the code that the connection was closed with.
async fn talk(url: &str, subprotocol: Option<String>) -> Result<CloseCode, Box<dyn Error>> {
    let mut request = ClientRequestBuilder::new(url.parse()?);
    if let Some(name) = subprotocol {
        request = request.with_sub_protocol(name);
    }
    let (mut socket, _) = connect_async(request).await.map_err(explain)?;
    eprintln!("connected");
    let mut lines = lines_of_stdin();
    let mut open = true;
    loop {
        tokio::select! {
            line = lines.recv(), if open => {
                open = line.is_some();
                let normal = CloseFrame { code: CloseCode::Normal, reason: "".into() };
                let close = Message::Close(Some(normal));
                socket.send(line.map_or(close, Message::text)).await?;
            }
            // Pings are answered on the way.
            message = socket.next() => match message.transpose()? {
                Some(Message::Text(text)) => writeln!(io::stdout(), "{}", printable(&text))?,
                Some(Message::Binary(bytes)) => writeln!(io::stdout(), "({} bytes)", bytes.len())?,
                Some(Message::Close(frame)) => return Ok(closed(frame)),
                Some(_) => {}
                None => return Err("the connection was lost".into()),
            }
        }
    }
}

/// Read by a thread of its own: a read from a terminal cannot be cancelled, and tokio would wait
/// for it before the process may end.
fn lines_of_stdin() -> UnboundedReceiver<String> {
    let (sender, lines) = unbounded_channel();
    thread::spawn(move || {
        io::stdin().lines().map_while(Result::ok).try_for_each(|l| sender.send(l))
    });
    lines
}

/// What others wrote must not steer this terminal.
fn printable(text: &str) -> String {
    text.replace(|c: char| c.is_control() && !"\t\n".contains(c), "\u{fffd}")
}

fn closed(frame: Option<CloseFrame>) -> CloseCode {
    let (code, reason) = frame.map_or((CloseCode::Status, "".into()), |f| (f.code, f.reason));
    eprintln!("{}", format!("closed: {code} {}", printable(&reason)).trim_end());
    code
}

/// A refusal, with the text that came with it.
fn explain(error: tungstenite::Error) -> String {
    let tungstenite::Error::Http(answer) = error else { return error.to_string() };
    let body = answer.body().as_deref().unwrap_or_default();
    format!("refused: {} ({})", answer.status(), printable(String::from_utf8_lossy(body).trim()))
}
