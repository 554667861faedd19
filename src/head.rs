//! The head of a request, read and judged byte by byte before anything parses it.
//!
//! httparse, which tungstenite uses, is lenient where proxies are strict. What two parsers can
//! read in two ways is refused here, so that nothing can be smuggled past either (RFC 9112
//! section 11.2).

use std::{future::poll_fn, io};

use crate::{auth::Rejection, config::Config, socket::Socket};

/// The longest request target.
const MAX_TARGET: usize = 2 << 10;

/// The longest line that it stands in.
const MAX_REQUEST_LINE: usize = MAX_TARGET + "GET  HTTP/1.1".len();

/// What may come behind the head before it is answered.
const MAX_EARLY: usize = 4 << 10;

/// The head's bytes with its blank line, and what came behind it.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) bytes: Vec<u8>,
    pub(crate) early: Vec<u8>,
}

/// Why there is no head.
#[derive(Debug)]
pub(crate) enum NoHead {
    Lost(io::Error),
    Refused(Rejection),
}

/// Reads up to the blank line, behind the bytes that were read already. Every byte is looked at
/// once, however slowly they come.
pub(crate) async fn read(
    socket: &mut Socket,
    mut bytes: Vec<u8>,
    config: &Config,
) -> Result<Head, NoHead> {
    let mut scan = Scan::default();
    let mut seen = 0;
    loop {
        if let Some(end) = scan.advance(&bytes[seen..], config).map_err(NoHead::Refused)? {
            let early = bytes.split_off(seen + end);
            return Ok(Head { bytes, early });
        }
        if bytes.len() > config.max_head_size {
            return Err(NoHead::Refused(too_large()));
        }
        seen = bytes.len();
        let room = (seen * 2).clamp(1 << 10, config.max_head_size + MAX_EARLY);
        if room == seen {
            return Err(NoHead::Refused(too_large()));
        }
        bytes.resize(room, 0);
        let read = poll_fn(|cx| socket.poll_read(cx, &mut bytes[seen..])).await;
        let count = read.map_err(NoHead::Lost)?;
        if count == 0 {
            return Err(NoHead::Lost(io::ErrorKind::UnexpectedEof.into()));
        }
        bytes.truncate(seen + count);
    }
}

/// Where in the head the next byte stands.
#[derive(Debug, Default)]
struct Scan {
    length: usize,
    lines: usize,
    line_length: usize,
    in_value: bool,
    after_cr: bool,
    last: u8,
}

impl Scan {
    /// How many of `bytes` belong to the head, once its end has come.
    fn advance(&mut self, bytes: &[u8], config: &Config) -> Result<Option<usize>, Rejection> {
        let mut seen = 0;
        loop {
            seen += self.pass_plain(&bytes[seen..], config);
            let Some(&byte) = bytes.get(seen) else { return Ok(None) };
            seen += 1;
            self.length += 1;
            if self.length > config.max_head_size {
                return Err(too_large());
            }
            if self.after_cr {
                if byte != b'\n' {
                    return Err(bad("a carriage return without a line feed"));
                }
                if self.line_length == 0 && self.lines > 0 {
                    return Ok(Some(seen));
                }
                self.end_line(config)?;
            } else {
                self.judge(byte)?;
            }
        }
    }

    /// Passes over the bytes that are right wherever in a line they stand, as most are, and says how
    /// many there were: it stops where a limit begins to matter.
    fn pass_plain(&mut self, bytes: &[u8], config: &Config) -> usize {
        if self.after_cr {
            return 0;
        }
        let line = if self.lines == 0 { MAX_REQUEST_LINE } else { usize::MAX };
        let room = (config.max_head_size - self.length).min(line - self.line_length);
        let is_plain = |byte: &&u8| byte.is_ascii_graphic() && **byte != b':';
        let count = bytes.iter().take(room).take_while(is_plain).count();
        if let Some(last) = count.checked_sub(1) {
            self.last = bytes[last];
        }
        self.length += count;
        self.line_length += count;
        count
    }

    fn end_line(&mut self, config: &Config) -> Result<(), Rejection> {
        if self.lines > 0 && !self.in_value {
            return Err(bad("a header field without a colon"));
        }
        if self.lines > config.max_headers {
            return Err(Rejection::new(431, "too many header fields"));
        }
        *self = Self { length: self.length, lines: self.lines + 1, ..Self::default() };
        Ok(())
    }

    fn judge(&mut self, byte: u8) -> Result<(), Rejection> {
        let first = self.line_length == 0;
        match byte {
            b'\r' => {
                self.after_cr = true;
                return Ok(());
            }
            b'\n' => return Err(bad("a line feed without a carriage return")),
            b' ' | b'\t' if first => return Err(bad("a line that begins with white space")),
            b'\t' if self.in_value => {}
            0..0x20 | 0x7f => return Err(bad("a control character")),
            0x80.. if !self.in_value => return Err(bad("a byte that is not ASCII")),
            b':' if self.lines > 0 && !self.in_value => {
                if first || self.last == b' ' {
                    return Err(bad("a header field without a proper name"));
                }
                self.in_value = true;
            }
            _ => {}
        }
        self.line_length += 1;
        self.last = byte;
        if self.lines == 0 && self.line_length > MAX_REQUEST_LINE {
            return Err(Rejection::new(414, "the request target is too long"));
        }
        Ok(())
    }
}

/// `METHOD target HTTP/1.x`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RequestLine<'a> {
    pub(crate) method: &'a str,
    /// The path of the target, whether it comes alone or with scheme and host.
    pub(crate) path: &'a str,
    /// The host that an absolute target names.
    authority: Option<&'a str>,
    needs_host: bool,
}

impl<'a> RequestLine<'a> {
    pub(crate) fn parse(head: &'a [u8]) -> Result<Self, Rejection> {
        let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let line = std::str::from_utf8(line).map_err(|_| bad("a byte that is not ASCII"))?;
        let mut parts = line.split(' ');
        let parts = (parts.next(), parts.next(), parts.next(), parts.next());
        let (Some(method), Some(target), Some(version), None) = parts else {
            return Err(bad("a malformed request line"));
        };
        let is_token = |byte: u8| byte.is_ascii_uppercase() || byte == b'-';
        if method.is_empty() || !method.bytes().all(is_token) {
            return Err(bad("a malformed method"));
        }
        let needs_host = match version {
            "HTTP/1.1" => true,
            "HTTP/1.0" => false,
            v if v.starts_with("HTTP/") => {
                return Err(Rejection::new(505, "HTTP/1.1 is spoken here"));
            }
            _ => return Err(bad("a malformed request line")),
        };
        let (authority, path) = split_target(target).ok_or_else(|| bad("a malformed target"))?;
        let path = path.split(['?', '#']).next().unwrap_or_default();
        Ok(Self { method, path, authority, needs_host })
    }
}

/// A path, or a URI with scheme and host (RFC 9112 section 3.2).
fn split_target(target: &str) -> Option<(Option<&str>, &str)> {
    let Some((scheme, rest)) = target.split_once("://").filter(|_| !target.starts_with('/')) else {
        // What is no path is one that nothing is found under.
        return Some((None, target));
    };
    let known = ["http", "https", "ws", "wss"].iter().any(|one| scheme.eq_ignore_ascii_case(one));
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let path = if path.starts_with('/') { path } else { "/" };
    (known && !authority.is_empty()).then_some((Some(authority), path))
}

/// One host, no body: nothing that a proxy before us could have understood in another way.
pub(crate) fn check_framing(head: &[u8], line: &RequestLine<'_>) -> Result<(), Rejection> {
    let (mut host, mut length) = (None, None);
    for field in head.split(|byte| *byte == b'\n').skip(1) {
        let Some(colon) = field.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (&field[..colon], field[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"host") {
            if host.replace(value).is_some() {
                return Err(bad("there must be one Host"));
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            return Err(bad("Transfer-Encoding is not taken here"));
        } else if name.eq_ignore_ascii_case(b"content-length")
            && (value != b"0" || length.replace(value).is_some())
        {
            return Err(bad("a body is not taken here"));
        }
    }
    match host {
        None if line.needs_host => Err(bad("there must be one Host")),
        Some(host) if line.authority.is_some_and(|named| named.as_bytes() != host) => {
            Err(bad("the target names another host than Host"))
        }
        _ => Ok(()),
    }
}

fn too_large() -> Rejection {
    Rejection::new(431, "the request head is too large")
}

/// The text names the rule and never repeats what was sent.
pub(crate) fn bad(what: &str) -> Rejection {
    Rejection::new(400, format!("bad request: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(head: &[u8]) -> Result<Option<usize>, u16> {
        let config = Config { max_head_size: 200, max_headers: 3, ..Config::default() };
        Scan::default().advance(head, &config).map_err(|refused| refused.status.as_u16())
    }

    #[test]
    fn a_head_ends_with_its_blank_line_however_it_is_cut() {
        let head = b"GET / HTTP/1.1\r\nHost: h\r\nX:\r\n\r\n";
        let config = Config::default();
        for cut in 1..=head.len() {
            let mut scan = Scan::default();
            let mut ends = head.chunks(cut).map(|part| scan.advance(part, &config).unwrap());
            assert!(ends.any(|end| end.is_some()), "cut at {cut}");
        }
        assert_eq!(scan(b"GET / HTTP/1.1\r\nHost: h\r\n\r\nearly"), Ok(Some(27)));
    }

    #[test]
    fn what_parsers_read_differently_is_400() {
        for line in [
            "Host: h\nX: y",
            " folded: x",
            "Host: h\r\n folded",
            "Host : h",
            ": h",
            "no colon",
            "X: a\0b",
            "X: a\x1bb",
            "X: a\rb",
            "X\x7f: a",
            "Höst: h",
            "X\t: a",
        ] {
            let head = format!("GET / HTTP/1.1\r\n{line}\r\n\r\n");
            assert_eq!(scan(head.as_bytes()), Err(400), "{line:?}");
        }
        assert_eq!(scan(b"\x16\x03\x01\x02"), Err(400));
    }

    #[test]
    fn sizes_have_limits() {
        let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(300));
        assert_eq!(scan(long.as_bytes()), Err(431));
        assert_eq!(scan(b"GET / HTTP/1.1\r\na:\r\nb:\r\nc:\r\n\r\n"), Ok(Some(30)));
        assert_eq!(scan(b"GET / HTTP/1.1\r\na:\r\nb:\r\nc:\r\nd:\r\n\r\n"), Err(431));
    }

    #[test]
    fn limits_hold_to_the_byte_however_the_head_is_cut() {
        let status = |config: &Config, head: &[u8], cut: usize| {
            let mut scan = Scan::default();
            let mut parts = head.chunks(cut).map(|part| scan.advance(part, config));
            let end = parts.find(|end| !matches!(end, Ok(None))).unwrap();
            end.err().map(|refused| refused.status.as_u16())
        };
        let config = Config::default();
        let head = |target: &str| format!("GET {target} HTTP/1.1\r\nX: y\r\n\r\n").into_bytes();
        let (longest, longer) = (head(&"t".repeat(2048)), head(&"t".repeat(2049)));
        for cut in [1, 7, 2000, 4096] {
            assert_eq!(status(&config, &longest, cut), None);
            assert_eq!(status(&config, &longer, cut), Some(414));
        }
        let head = head("/");
        for cut in 1..=head.len() {
            let mut config = Config { max_head_size: head.len(), ..Config::default() };
            assert_eq!(status(&config, &head, cut), None);
            config.max_head_size -= 1;
            assert_eq!(status(&config, &head, cut), Some(431));
        }
    }

    #[test]
    fn a_request_line_has_three_parts() {
        for (line, path) in [
            ("GET /ws HTTP/1.1", "/ws"),
            ("GET /ws?x=/y HTTP/1.1", "/ws"),
            ("GET http://h:1/ws?x HTTP/1.1", "/ws"),
            ("GET http://h HTTP/1.1", "/"),
            ("GET http://h?x HTTP/1.0", "/"),
        ] {
            assert_eq!(RequestLine::parse(line.as_bytes()).unwrap().path, path, "{line}");
        }
        for line in [
            "",
            "GET",
            "GET /",
            "GET  / HTTP/1.1",
            "get / HTTP/1.1",
            "GET / x HTTP/1.1",
            "GET :// HTTP/1.1",
            "GET http:// HTTP/1.1",
        ] {
            assert_eq!(RequestLine::parse(line.as_bytes()).unwrap_err().status, 400, "{line}");
        }
        assert_eq!(RequestLine::parse(b"GET / HTTP/2.0").unwrap_err().status, 505);
    }
}
