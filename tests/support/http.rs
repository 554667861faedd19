//! Requests of the opening handshake, and answers.

/// The key of RFC 6455 section 1.3, and what it has to be answered with.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The head of a right opening handshake.
pub fn upgrade(path: &str) -> String {
    upgrade_with(path, &[])
}

/// The head of an opening handshake with these header fields: each takes the place of the usual
/// field of its name, or comes behind them. An empty value leaves the field out.
pub fn upgrade_with(path: &str, fields: &[(&str, &str)]) -> String {
    let usual = [
        ("Host", "localhost"),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", KEY),
        ("Sec-WebSocket-Version", "13"),
    ];
    let is_given = |name: &str| fields.iter().any(|(given, _)| given.eq_ignore_ascii_case(name));
    let kept = usual.iter().filter(|(name, _)| !is_given(name));
    let given = fields.iter().filter(|(_, value)| !value.is_empty());
    let lines = kept.chain(given).map(|(name, value)| format!("{name}: {value}\r\n"));
    format!("GET {path} HTTP/1.1\r\n{}\r\n", lines.collect::<String>())
}

/// A request that asks for no upgrade.
pub fn plain(method: &str, path: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

/// What a request was answered.
#[derive(Debug, Clone)]
pub struct HttpAnswer {
    pub status: u16,
    pub status_line: String,
    /// Names in lower case, in the order in which they came.
    pub headers: Vec<(String, String)>,
    /// Empty for a 101: what follows it are frames.
    pub body: Vec<u8>,
}

impl HttpAnswer {
    /// Parses a head with its blank line.
    pub fn parse(head: &[u8]) -> Self {
        let head = std::str::from_utf8(head).expect("a head in ASCII");
        let mut lines = head.strip_suffix("\r\n\r\n").expect("a blank line").split("\r\n");
        let status_line = lines.next().expect("a status line").to_owned();
        let status = status_line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
        let status = status.and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("a status line and not {status_line:?}"));
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("{line:?}"));
            (name.to_ascii_lowercase(), value.to_owned())
        });
        Self { status, headers: headers.collect(), status_line, body: Vec::new() }
    }

    /// The header field of that name (in lower case).
    ///
    /// # Panics
    /// If there are two.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(key, _)| key == name);
        let value = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "two header fields {name}");
        value
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body in UTF-8")
    }

    /// Every answer but a 101 and a page has the same shape: a short text, and the end.
    pub fn expect_refusal(&self, status: u16, what: &str) {
        assert_eq!(self.status, status, "{what}: {self:?}");
        assert_eq!(self.header("content-type"), Some("text/plain; charset=utf-8"), "{what}");
        let connection = self.header("connection").expect("a field Connection");
        assert!(connection.split(", ").any(|option| option == "close"), "{what}: {connection}");
        assert!((2..=80).contains(&self.body.len()), "{what}: {:?}", self.text());
        assert!(self.text().ends_with('\n'), "{what}: {:?}", self.text());
    }
}
