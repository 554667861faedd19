//! The text between a NATS server and us: operations in lines, payloads behind theirs.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::backplane::subject::Subject;

/// A server's description of itself is the longest line, and grows with its cluster.
const MAX_LINE: usize = 256 << 10;

/// The most that any server can be told to take.
pub(super) const MAX_PAYLOAD: usize = 64 << 20;

const LINE_END: &[u8] = b"\r\n";

/// What a server says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    Info(Info),
    Message(Bytes),
    Ping,
    Pong,
    /// What it will not do. Some servers go on after it; we do not.
    Failed(String),
    /// Nothing that we wait for.
    Other,
}

/// What a server is and wants.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Info {
    pub(super) max_payload: usize,
    #[serde(default)]
    pub(super) tls_required: bool,
}

/// What we are and want.
#[derive(Serialize)]
pub(super) struct Connect<'a> {
    pub(super) verbose: bool,
    pub(super) pedantic: bool,
    pub(super) tls_required: bool,
    pub(super) name: &'a str,
    pub(super) lang: &'a str,
    pub(super) version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pass: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) auth_token: Option<&'a str>,
}

/// Takes the next operation off the input; `None` if it is not there as a whole.
///
/// # Errors
/// What is no NATS.
pub(super) fn next(input: &mut BytesMut) -> io::Result<Option<Said>> {
    let Some(length) = input.windows(2).position(|two| two == LINE_END) else {
        return if input.len() > MAX_LINE { Err(not_understood()) } else { Ok(None) };
    };
    let line = str::from_utf8(&input[..length]).map_err(|_| not_understood())?;
    let (name, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    let said = match name {
        "MSG" => {
            let payload = rest.rsplit([' ', '\t']).next().and_then(|size| size.parse().ok());
            let payload = payload.filter(|size| *size <= MAX_PAYLOAD).ok_or_else(not_understood)?;
            return take_message(input, length + LINE_END.len(), payload);
        }
        "INFO" => Said::Info(serde_json::from_str(rest).map_err(|_| not_understood())?),
        "PING" => Said::Ping,
        "PONG" => Said::Pong,
        "-ERR" => Said::Failed(rest.trim_matches('\'').to_owned()),
        "+OK" => Said::Other,
        _ => return Err(not_understood()),
    };
    input.advance(length + LINE_END.len());
    Ok(Some(said))
}

/// The payload is copied: a part of the read buffer would keep all of it alive.
fn take_message(input: &mut BytesMut, head: usize, payload: usize) -> io::Result<Option<Said>> {
    let whole = head + payload + LINE_END.len();
    if input.len() < whole {
        input.reserve(whole - input.len());
        return Ok(None);
    }
    if &input[whole - LINE_END.len()..whole] != LINE_END {
        return Err(not_understood());
    }
    let message = Bytes::copy_from_slice(&input[head..head + payload]);
    input.advance(whole);
    Ok(Some(Said::Message(message)))
}

fn not_understood() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "what the server says is not understood")
}

pub(super) fn connect(output: &mut BytesMut, connect: &Connect<'_>) -> io::Result<()> {
    output.put_slice(b"CONNECT ");
    output.put_slice(&serde_json::to_vec(connect)?);
    output.put_slice(LINE_END);
    Ok(())
}

pub(super) fn publish(output: &mut BytesMut, subject: &Subject, message: &[u8]) {
    let head = format!("PUB {} {}\r\n", subject.as_str(), message.len());
    output.reserve(head.len() + message.len() + LINE_END.len());
    output.put_slice(head.as_bytes());
    output.put_slice(message);
    output.put_slice(LINE_END);
}

pub(super) fn subscribe(output: &mut BytesMut, subject: &Subject, id: u64) {
    output.put_slice(format!("SUB {} {id}\r\n", subject.as_str()).as_bytes());
}

pub(super) fn unsubscribe(output: &mut BytesMut, id: u64) {
    output.put_slice(format!("UNSUB {id}\r\n").as_bytes());
}

pub(super) fn ping(output: &mut BytesMut) {
    output.put_slice(b"PING\r\n");
}

pub(super) fn pong(output: &mut BytesMut) {
    output.put_slice(b"PONG\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Vec<Said> {
        let mut input = BytesMut::from(text);
        std::iter::from_fn(|| next(&mut input).unwrap()).collect()
    }

    #[test]
    fn operations_are_taken_one_by_one() {
        let info = Said::Info(Info { max_payload: 7, tls_required: false });
        let message = |text: &'static str| Said::Message(Bytes::from_static(text.as_bytes()));
        assert_eq!(
            all(
                "INFO {\"max_payload\":7,\"more\":1} \r\nMSG a.b 1 3\r\n\r\nx\r\nMSG a 2 reply 0\r\n\r\nPING\r\n+OK\r\n\
                 -ERR 'Authorization Violation'\r\nPONG\r\nPIN"
            ),
            [
                info,
                message("\r\nx"),
                message(""),
                Said::Ping,
                Said::Other,
                Said::Failed("Authorization Violation".to_owned()),
                Said::Pong
            ]
        );
    }

    #[test]
    fn an_operation_is_taken_as_a_whole_however_it_is_cut() {
        let text = "MSG a 1 5\r\nhello\r\n";
        for cut in 0..text.len() {
            let mut input = BytesMut::from(&text[..cut]);
            assert_eq!(next(&mut input).unwrap(), None, "{cut}");
            input.put_slice(&text.as_bytes()[cut..]);
            assert_eq!(
                next(&mut input).unwrap(),
                Some(Said::Message(Bytes::from_static(b"hello")))
            );
            assert!(input.is_empty());
        }
    }

    #[test]
    fn what_is_no_nats_is_an_error() {
        for text in [
            "HTTP/1.1 400 Bad Request\r\n",
            "MSG a 1 x\r\n",
            "MSG a 1 99999999999\r\n",
            "MSG a 1 1\r\nxyz",
            "INFO {}\r\n",
        ] {
            assert!(next(&mut BytesMut::from(text)).is_err(), "{text}");
        }
        assert!(next(&mut BytesMut::from(&vec![b'x'; MAX_LINE + 1][..])).is_err());
        assert!(next(&mut BytesMut::from(&b"PING \xff\r\n"[..])).is_err());
    }
}
