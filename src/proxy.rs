//! Whom a connection comes from when a proxy stands between.
//!
//! Only addresses that the operator trusts are believed: anybody can write these headers.

use std::{
    io,
    net::{IpAddr, Ipv6Addr},
};

use ipnet::IpNet;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::http::HeaderMap;

/// What the PROXY protocol version 2 begins with: bytes that no request begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Version 2, and the connection is made for somebody else.
const PROXIED: u8 = 0x21;

/// Addresses take 36 bytes at most; what else may follow is of no use to us.
const MAX_LENGTH: usize = 1024;

/// Who is meant where a proxy speaks of a client and cannot be understood. All of them count as
/// one address: to be unreadable must not be a way around the limits.
pub(crate) const NOBODY: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// Addresses and networks that may speak for others.
#[derive(Debug, Clone, Default)]
pub(crate) struct TrustedProxies(pub(crate) Vec<IpNet>);

impl TrustedProxies {
    pub(crate) fn contain(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The client that a trusted proxy names: the last address in its list that is not itself a
    /// trusted proxy. [`NOBODY`] if what it says names none; `None` if it says nothing.
    pub(crate) fn client(&self, headers: &HeaderMap) -> Option<IpAddr> {
        let forwarded = elements(headers, "forwarded").map(|all| self.last(all.map(node)));
        let plain = elements(headers, "x-forwarded-for").map(|all| self.last(all.map(address)));
        match (forwarded, plain) {
            // A proxy writes one of them, and may pass on what a client has put into the other.
            (Some(one), Some(other)) if one != other => Some(NOBODY),
            (one, other) => one.or(other).map(|client| client.unwrap_or(NOBODY)),
        }
    }

    fn last(&self, chain: impl DoubleEndedIterator<Item = Option<IpAddr>>) -> Option<IpAddr> {
        let mut last = None;
        // What stands before an address that cannot be read was written by nobody we trust.
        for address in chain.rev().map_while(|address| address) {
            last = Some(address);
            if !self.contain(address) {
                break;
            }
        }
        last
    }
}

/// The elements of a list that may come in several fields; `None` without any field.
fn elements<'a>(
    headers: &'a HeaderMap,
    name: &str,
) -> Option<impl DoubleEndedIterator<Item = &'a [u8]>> {
    let values = headers.get_all(name);
    let elements =
        values.into_iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    headers.contains_key(name).then_some(elements)
}

/// `for=192.0.2.1;proto=https` and `for="[2001:db8::1]:4711"` (RFC 7239).
fn node(element: &[u8]) -> Option<IpAddr> {
    let pairs =
        std::str::from_utf8(element).ok()?.split(';').filter_map(|pair| pair.split_once('='));
    let is_for = |name: &str| name.trim().eq_ignore_ascii_case("for");
    let node = pairs.into_iter().find(|(name, _)| is_for(name))?.1;
    address(node.trim().trim_matches('"').as_bytes())
}

/// An address with or without brackets and port.
fn address(element: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(element).ok()?.trim();
    if let Some(rest) = text.strip_prefix('[') {
        return rest.split(']').next()?.parse().ok();
    }
    let host = text.split_once(':').filter(|(_, port)| !port.contains(':'));
    host.map_or(text, |(host, _)| host).parse().ok()
}

/// Reads a PROXY protocol header if the connection begins with one, and nothing else. Returns the
/// client's address; `None` without a header, or if it names none.
pub(crate) async fn read_header(stream: &mut TcpStream) -> io::Result<Option<IpAddr>> {
    if !begins_with_signature(stream).await? {
        return Ok(None);
    }
    let mut head = [0; 16];
    stream.read_exact(&mut head).await?;
    let length = usize::from(u16::from_be_bytes([head[14], head[15]]));
    if head[12] >> 4 != 2 || length > MAX_LENGTH {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    if head[12] != PROXIED {
        return Ok(None);
    }
    let family = head[13] >> 4;
    Ok(match family {
        1 => body.first_chunk::<4>().map(|bytes| IpAddr::from(*bytes)),
        2 => body.first_chunk::<16>().map(|bytes| IpAddr::from(*bytes)),
        _ => None,
    })
}

/// Looks without taking, until the bytes differ from the signature or are all there.
async fn begins_with_signature(stream: &TcpStream) -> io::Result<bool> {
    let mut seen = 0;
    loop {
        let mut start = [0; SIGNATURE.len()];
        let count = stream.peek(&mut start).await?;
        if count == 0 || start[..count] != SIGNATURE[..count] {
            return Ok(false);
        }
        if count == SIGNATURE.len() {
            return Ok(true);
        }
        if count == seen {
            // More has to come, and the kernel does not tell when: what is there is readable.
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        seen = count;
    }
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};

    use super::*;

    fn client(fields: &[(&'static str, &str)]) -> Option<String> {
        let proxies = TrustedProxies(vec!["10.0.0.0/8".parse().unwrap()]);
        let fields = fields.iter().map(|(name, value)| (HeaderName::from_static(name), value));
        let fields = fields.map(|(name, value)| (name, HeaderValue::from_str(value).unwrap()));
        let mut headers = HeaderMap::new();
        fields.for_each(|(name, value)| _ = headers.append(name, value));
        proxies.client(&headers).map(|address| address.to_string())
    }

    #[test]
    fn the_last_address_that_is_no_proxy_is_the_client() {
        for (value, expected) in [
            ("192.0.2.1", "192.0.2.1"),
            ("6.6.6.6, 192.0.2.1, 10.0.0.2", "192.0.2.1"),
            ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
            ("nonsense, 10.0.0.2", "10.0.0.2"),
            ("\u{e4}, 192.0.2.1", "192.0.2.1"),
            ("192.0.2.1, nonsense", "::"),
            ("[2001:db8::1]:80", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
            ("192.0.2.1:4711", "192.0.2.1"),
            ("", "::"),
        ] {
            assert_eq!(client(&[("x-forwarded-for", value)]).as_deref(), Some(expected), "{value}");
        }
    }

    #[test]
    fn forwarded_is_read_too() {
        for (value, expected) in [
            ("for=192.0.2.1", "192.0.2.1"),
            ("For=\"[2001:db8::1]:4711\";proto=https", "2001:db8::1"),
            ("for=6.6.6.6, for=192.0.2.1;by=1.1.1.1, for=10.0.0.2", "192.0.2.1"),
            ("for=_hidden", "::"),
        ] {
            assert_eq!(client(&[("forwarded", value)]).as_deref(), Some(expected), "{value}");
        }
    }

    #[test]
    fn headers_that_contradict_each_other_name_nobody() {
        let plain = ("x-forwarded-for", "192.0.2.1");
        assert_eq!(client(&[]), None);
        assert_eq!(client(&[plain, ("forwarded", "for=192.0.2.1")]).as_deref(), Some("192.0.2.1"));
        for other in ["for=6.6.6.6", "for=unknown", ""] {
            assert_eq!(client(&[plain, ("forwarded", other)]).as_deref(), Some("::"), "{other}");
        }
    }
}
