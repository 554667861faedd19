//! Two ports, two services: both take both, so that no user has to rewrite a URL.
//!
//! A service SDK knows one endpoint and makes from it the URLs of its own calls (`/api/...`) and
//! those of clients (`/client/...`). The first bytes of a connection say which of the two it is.

use std::{fmt, future::poll_fn, io};

use crate::socket::Socket;

/// Where a connection came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Port {
    /// For clients, and `/api/`.
    Data,
    /// For backends, and `/client/`.
    Control,
}

/// The longest method that is looked behind.
const MAX_METHOD: usize = 8;

impl Port {
    /// Reads until it is known what is asked for, and appends what was read. Cancel safe.
    ///
    /// # Errors
    /// If the connection is lost before.
    pub(crate) async fn is_asked_for_control(
        self,
        socket: &mut Socket,
        read: &mut Vec<u8>,
    ) -> io::Result<bool> {
        loop {
            if let Some(answer) = self.judge(read) {
                return Ok(answer);
            }
            let mut bytes = [0; 1024];
            match poll_fn(|cx| socket.poll_read(cx, &mut bytes)).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => read.extend_from_slice(&bytes[..count]),
            }
        }
    }

    /// `None` while it is not known.
    fn judge(self, read: &[u8]) -> Option<bool> {
        match self {
            Self::Data => begins(read, b"/api/"),
            Self::Control => begins(read, b"/client/").map(|is_client| !is_client),
        }
    }
}

/// Whether the path behind the method begins like this.
fn begins(read: &[u8], path: &[u8]) -> Option<bool> {
    let Some(space) = read.iter().take(MAX_METHOD).position(|byte| *byte == b' ') else {
        return (read.len() >= MAX_METHOD).then_some(false);
    };
    let target = &read[space + 1..];
    let both = target.len().min(path.len());
    if target[..both] != path[..both] {
        return Some(false);
    }
    (both == path.len()).then_some(true)
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Data => "data",
            Self::Control => "control",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_known_by_its_first_bytes() {
        for (read, data, control) in [
            ("", None, None),
            ("GET", None, None),
            ("GET /", None, None),
            ("GET /a", None, Some(true)),
            ("GET /api/", Some(true), Some(true)),
            ("DELETE /api/hubs", Some(true), Some(true)),
            ("GET /c", Some(false), None),
            ("GET /client/hubs/x", Some(false), Some(false)),
            ("GET /metrics", Some(false), Some(true)),
            ("GET /apis", Some(false), Some(true)),
            ("\u{16}\u{3}\u{1}12345", Some(false), Some(true)),
            ("PROPFIND /api/", Some(false), Some(true)),
        ] {
            assert_eq!(Port::Data.judge(read.as_bytes()), data, "{read}");
            assert_eq!(Port::Control.judge(read.as_bytes()), control, "{read}");
        }
    }
}
