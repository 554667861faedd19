//! Whom a connection comes from when a proxy stands between.
//!
//! Only addresses that the operator trusts are believed: anybody can write these headers.

use std::{io, net::IpAddr};

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

/// Addresses and networks that may speak for others.
#[derive(Debug, Clone, Default)]
pub(crate) struct TrustedProxies(pub(crate) Vec<IpNet>);

impl TrustedProxies {
    pub(crate) fn contain(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The client that a trusted proxy names: the last address in the list that is not itself a
    /// trusted proxy. `None` if it names none.
    pub(crate) fn client(&self, headers: &HeaderMap) -> Option<IpAddr> {
        let mut chain = forwarded(headers);
        if chain.is_empty() {
            chain = x_forwarded_for(headers);
        }
        // What stands before an address that cannot be read was written by nobody we trust.
        let known = chain.into_iter().rev().map_while(|address| address);
        let mut last = None;
        for address in known {
            last = Some(address);
            if !self.contain(address) {
                break;
            }
        }
        last
    }
}

fn lines<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(','))
}

fn x_forwarded_for(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    lines(headers, "x-forwarded-for").map(|text| address(text.trim())).collect()
}

/// `for=192.0.2.1;proto=https, for="[2001:db8::1]:4711"` (RFC 7239).
fn forwarded(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let node = |element: &str| {
        let pairs = element.split(';').filter_map(|pair| pair.split_once('='));
        let node = pairs.into_iter().find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?.1;
        address(node.trim().trim_matches('"'))
    };
    lines(headers, "forwarded").map(node).collect()
}

/// An address with or without brackets and port.
fn address(text: &str) -> Option<IpAddr> {
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
    use super::*;

    fn client(name: &'static str, value: &str) -> Option<String> {
        let proxies = TrustedProxies(vec!["10.0.0.0/8".parse().unwrap()]);
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        proxies.client(&headers).map(|address| address.to_string())
    }

    #[test]
    fn the_last_address_that_is_no_proxy_is_the_client() {
        for (value, expected) in [
            ("192.0.2.1", Some("192.0.2.1")),
            ("6.6.6.6, 192.0.2.1, 10.0.0.2", Some("192.0.2.1")),
            ("10.0.0.3, 10.0.0.2", Some("10.0.0.3")),
            ("nonsense, 10.0.0.2", Some("10.0.0.2")),
            ("192.0.2.1, nonsense", None),
            ("[2001:db8::1]:80", Some("2001:db8::1")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("192.0.2.1:4711", Some("192.0.2.1")),
            ("", None),
        ] {
            assert_eq!(client("x-forwarded-for", value).as_deref(), expected, "{value}");
        }
    }

    #[test]
    fn forwarded_is_read_too() {
        for (value, expected) in [
            ("for=192.0.2.1", Some("192.0.2.1")),
            ("For=\"[2001:db8::1]:4711\";proto=https", Some("2001:db8::1")),
            ("for=6.6.6.6, for=192.0.2.1;by=1.1.1.1, for=10.0.0.2", Some("192.0.2.1")),
            ("for=_hidden", None),
        ] {
            assert_eq!(client("forwarded", value).as_deref(), expected, "{value}");
        }
    }
}
