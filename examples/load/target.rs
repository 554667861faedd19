//! The server under load: its address, its opening handshake, and where our connections to it come from.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use mio::net::TcpStream;
use socket2::{Domain, Protocol, Socket, Type};

use crate::fault::Fault;

/// A key fixed for all connections, and the only right answer to it: the pair of RFC 6455, section 1.3. It saves a hash
/// per handshake here, and costs the server exactly what any other key does.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A head longer than this is not an answer to an opening handshake.
const LONGEST_HEAD: usize = 16 * 1024;

/// `EINPROGRESS` on Linux and on BSD and macOS: the standard library has no stable name for it.
const IN_PROGRESS: [i32; 2] = [115, 36];

/// How many source addresses to take for so many connections, unless told otherwise: one for each 10,000. An address has
/// 28,000 ports, and from half of them on the kernel searches long for a free one.
pub(crate) fn spread(connections: u32) -> u32 {
    if connections > 10_000 { connections.div_ceil(10_000) } else { 0 }
}

/// What is spoken with a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    WebSocket,
    Http,
}

impl Scheme {
    /// How its URLs begin.
    fn prefix(self) -> &'static str {
        match self {
            Self::WebSocket => "ws://",
            Self::Http => "http://",
        }
    }
}

/// Who is connected to, and what is said first.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    scheme: Scheme,
    /// One, or several nodes of a cluster, which get connections in turn.
    hosts: Vec<Host>,
    /// The path of the URL; `{id}` in it is a connection's number.
    pub(crate) path: String,
    headers: String,
    /// Number of source addresses, of 127.1.0.0/16; 0 leaves the choice to the kernel.
    sources: u32,
    /// Whether a dropped connection is reset (RST) instead of closed (FIN).
    resets: bool,
}

/// One server.
#[derive(Debug, Clone)]
struct Host {
    address: SocketAddr,
    /// Its name and port as they were given.
    authority: String,
}

impl Host {
    fn look_up(authority: &str) -> Result<Self, Fault> {
        let has_port = authority.rsplit(':').next().is_some_and(|port| port.parse::<u16>().is_ok());
        let with_port = if has_port { authority.to_owned() } else { format!("{authority}:80") };
        let address = with_port
            .to_socket_addrs()
            .map_err(Fault::io(format!("looking up {authority}")))?
            .next()
            .ok_or_else(|| Fault::Usage(format!("{authority}: the host has no address")))?;
        Ok(Self { address, authority: authority.to_owned() })
    }
}

impl Target {
    /// Takes a URL of the form `ws://host:port/path` apart and looks its host up. Several hosts, with commas between
    /// them, get connections in turn.
    pub(crate) fn new(url: &str, headers: &[String], remote: bool) -> Result<Self, Fault> {
        Self::parse(Scheme::WebSocket, url, headers, remote)
    }

    /// The same of the form `http://host:port/path`, for plain requests.
    pub(crate) fn http(url: &str, headers: &[String], remote: bool) -> Result<Self, Fault> {
        Self::parse(Scheme::Http, url, headers, remote)
    }

    fn parse(scheme: Scheme, url: &str, headers: &[String], remote: bool) -> Result<Self, Fault> {
        let usage = |why: &str| Fault::Usage(format!("{url}: {why}"));
        let prefix = scheme.prefix();
        let rest = url.strip_prefix(prefix).ok_or_else(|| {
            usage(&format!("the URL must begin with {prefix} (there is no TLS here)"))
        })?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let hosts = authority.split(',').map(Host::look_up).collect::<Result<Vec<_>, _>>()?;
        let is_remote = |host: &Host| !host.address.ip().is_loopback();
        if hosts.iter().any(is_remote) && !remote {
            return Err(usage("this is another machine: --remote says that it is yours to load"));
        }
        let mut lines = String::new();
        for header in headers {
            if !header.contains(':') || header.contains(['\r', '\n']) {
                return Err(usage(&format!(
                    "{header:?} is not a header of the form 'Name: value'"
                )));
            }
            lines.push_str(header);
            lines.push_str("\r\n");
        }
        Ok(Self { scheme, hosts, path: path.to_owned(), headers: lines, sources: 0, resets: false })
    }

    /// The same server, with connections from so many source addresses (one address has 28,000 ports by default).
    pub(crate) fn with_sources(mut self, sources: u32) -> Self {
        self.sources = sources;
        self
    }

    /// The same server, with connections that end by a reset.
    pub(crate) fn resetting(mut self) -> Self {
        self.resets = true;
        self
    }

    /// The same server at another path.
    pub(crate) fn at(&self, path: &str) -> Self {
        Self { path: path.to_owned(), ..self.clone() }
    }

    /// The same server at a path below this one.
    pub(crate) fn below(&self, path: &str) -> Self {
        self.at(&format!("{}{path}", self.path.trim_end_matches('/')))
    }

    /// The host of connection `number`.
    fn host(&self, number: usize) -> &Host {
        &self.hosts[number % self.hosts.len()]
    }

    /// Where answers to HTTP requests are expected, not a WebSocket's frames.
    pub(crate) fn is_http(&self) -> bool {
        self.scheme == Scheme::Http
    }

    /// A request that posts `body`, which will be `length` bytes long once it is filled in.
    pub(crate) fn post(&self, body: &str, length: usize) -> String {
        let path = if self.path.is_empty() { "/" } else { &self.path };
        format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {length}\r\n{}\r\n{body}",
            self.host(0).authority,
            self.headers
        )
    }

    /// The head of the opening handshake of connection `number` (RFC 6455, section 4.1); HTTP has none.
    pub(crate) fn request(&self, number: usize) -> Vec<u8> {
        if self.is_http() {
            return Vec::new();
        }
        let path = self.path.replace("{id}", &number.to_string());
        let path = if path.is_empty() { "/" } else { &path };
        format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{}\r\n",
            self.host(number).authority,
            self.headers
        )
        .into_bytes()
    }

    /// Begins to connect; the socket is writable once it is connected.
    pub(crate) fn connect(&self, number: usize) -> io::Result<TcpStream> {
        let address = self.host(number).address;
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if self.resets {
            socket.set_linger(Some(Duration::ZERO))?;
        }
        if let Some(source) = self.source(number) {
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        match socket.connect(&address.into()) {
            Err(error) if !error.raw_os_error().is_some_and(|code| IN_PROGRESS.contains(&code)) => {
                Err(error)
            }
            _ => Ok(TcpStream::from_std(socket.into())),
        }
    }

    /// A source address of its own for every `sources`-th connection, where the server is on 127.0.0.0/8.
    fn source(&self, number: usize) -> Option<IpAddr> {
        let IpAddr::V4(server) = self.host(number).address.ip() else { return None };
        if self.sources == 0 || !server.is_loopback() {
            return None;
        }
        let [high, low] =
            u16::try_from(number as u64 % u64::from(self.sources)).ok()?.to_be_bytes();
        Some(Ipv4Addr::new(127, 1, high, low.saturating_add(1)).into())
    }
}

/// Looks for the end of the answer to an opening handshake. `Ok(None)`: more bytes are needed. `Ok(Some(n))`: it is
/// accepted, and its head is `n` bytes long. `Err`: refused, with the status line or the reason.
pub(crate) fn judge(head: &[u8]) -> Result<Option<usize>, String> {
    let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") else {
        return if head.len() > LONGEST_HEAD {
            Err("the answer has no end".to_owned())
        } else {
            Ok(None)
        };
    };
    let text = String::from_utf8_lossy(&head[..end]);
    let mut lines = text.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("101") {
        return Err(status.to_owned());
    }
    let accepted = lines.filter_map(|line| line.split_once(':')).any(|(name, value)| {
        name.eq_ignore_ascii_case("sec-websocket-accept") && value.trim() == ACCEPT
    });
    if accepted {
        Ok(Some(end + 4))
    } else {
        Err("Sec-WebSocket-Accept is missing or wrong".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_judged_when_its_blank_line_has_come() {
        let answer =
            format!("HTTP/1.1 101 Switching Protocols\r\nSEC-WebSocket-accept:{ACCEPT}\r\n\r\n");
        for cut in 0..answer.len() {
            assert_eq!(judge(&answer.as_bytes()[..cut]), Ok(None));
        }
        assert_eq!(judge(format!("{answer}first frame").as_bytes()), Ok(Some(answer.len())));
        assert_eq!(
            judge(b"HTTP/1.1 404 Not Found\r\n\r\n"),
            Err("HTTP/1.1 404 Not Found".to_owned())
        );
        assert!(judge(b"HTTP/1.1 101 Fine\r\nSec-WebSocket-Accept: no\r\n\r\n").is_err());
    }

    #[test]
    fn only_this_machine_is_loaded_unasked() {
        assert!(Target::new("ws://192.0.2.1:80/", &[], false).is_err());
        assert!(Target::new("ws://192.0.2.1:80/", &[], true).is_ok());
        let target = Target::new("ws://127.0.0.1:9000/ws/{id}", &["A: b".to_owned()], false)
            .expect("a valid URL");
        let request = String::from_utf8(target.request(7)).expect("UTF-8");
        assert!(
            request.starts_with("GET /ws/7 HTTP/1.1\r\nHost: 127.0.0.1:9000\r\n")
                && request.ends_with("\r\nA: b\r\n\r\n")
        );
    }

    #[test]
    fn nodes_get_connections_in_turn() {
        let target = Target::new("ws://127.0.0.1:1,127.0.0.2:2/ws", &[], false).expect("a URL");
        let hosts = [0, 1, 2].map(|number| target.host(number).authority.as_str());
        assert_eq!(hosts, ["127.0.0.1:1", "127.0.0.2:2", "127.0.0.1:1"]);
        assert!(Target::new("ws://127.0.0.1:1,192.0.2.1:2/", &[], false).is_err());
    }

    #[test]
    fn a_post_says_how_long_its_body_will_be() {
        let header = "Content-Type: text/plain".to_owned();
        let target =
            Target::http("http://127.0.0.1:9001/a:send", &[header], false).expect("a valid URL");
        assert_eq!(
            target.post("{payload}", 64),
            "POST /a:send HTTP/1.1\r\nHost: 127.0.0.1:9001\r\nContent-Length: 64\r\n\
             Content-Type: text/plain\r\n\r\n{payload}"
        );
        assert!(target.is_http() && target.request(0).is_empty());
        assert!(Target::http("ws://127.0.0.1:9001", &[], false).is_err());
    }

    #[test]
    fn sources_are_spread_over_loopback_addresses() {
        let target =
            Target::new("ws://127.0.0.1:9000", &[], false).expect("a valid URL").with_sources(3);
        let sources: Vec<_> = (0..4)
            .filter_map(|number| target.source(number))
            .map(|source| source.to_string())
            .collect();
        assert_eq!(sources, ["127.1.0.1", "127.1.0.2", "127.1.0.3", "127.1.0.1"]);
    }
}
