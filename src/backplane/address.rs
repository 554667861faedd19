//! An engine's URL, as it was given: where its servers are, and who is asking.

use std::{fmt, path::PathBuf, str::FromStr};

use percent_encoding::percent_decode_str;

/// `scheme://[user[:password]@]host[:port][,host[:port]]...[/path][?ca=file&cert=file&key=file]`.
/// Nothing that prints it says more than the scheme, the hosts and the path.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct EngineUrl {
    pub(crate) scheme: String,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) hosts: Vec<Host>,
    /// Without the slash before it.
    pub(crate) path: String,
    pub(crate) pem: PemFiles,
}

/// What TLS needs beside what the system has. The files hold PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PemFiles {
    /// Who must have signed the server's certificate, in place of those whom the system trusts.
    pub(crate) authorities: Option<PathBuf>,
    /// Our certificate, for servers that ask for one, and its key.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
}

/// One server of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    /// A name or an address, an IPv6 one without its brackets.
    pub(crate) name: String,
    pub(crate) port: Option<u16>,
}

impl Host {
    /// For those who take both in one text.
    #[cfg(any(feature = "kafka", test))]
    pub(crate) fn with_port(&self, default: u16) -> String {
        let port = self.port.unwrap_or(default);
        Self { name: self.name.clone(), port: Some(port) }.to_string()
    }
}

impl FromStr for EngineUrl {
    type Err = &'static str;

    /// # Errors
    /// The rule that it breaks; never a part of it, which may be a password.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (scheme, rest) = text.split_once("://").ok_or("expected SCHEME://HOST")?;
        let (user_info, rest) = split_user_info(rest);
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, password) =
            match user_info.map(|both| both.split_once(':').unwrap_or((both, ""))) {
                Some((user, password)) => (decode(user)?, decode(password)?),
                None => (None, None),
            };
        let hosts = hosts.split(',').map(str::parse).collect::<Result<_, _>>()?;
        Ok(Self {
            scheme: scheme.to_ascii_lowercase(),
            user,
            password,
            hosts,
            path: path.to_owned(),
            pem: query.parse()?,
        })
    }
}

impl FromStr for PemFiles {
    type Err = &'static str;

    fn from_str(query: &str) -> Result<Self, Self::Err> {
        let (mut authorities, mut certificate, mut key) = (None, None, None);
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let (name, file) = part.split_once('=').unwrap_or((part, ""));
            let place = match name {
                "ca" => &mut authorities,
                "cert" => &mut certificate,
                "key" => &mut key,
                _ => return Err("behind ? come ca=FILE, cert=FILE and key=FILE, with & between"),
            };
            *place = Some(decode(file)?.ok_or("ca, cert and key are files")?.into());
        }
        let identity = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err("cert has a key, and key a cert"),
        };
        Ok(Self { authorities, identity })
    }
}

impl FromStr for Host {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, port) = match text.strip_prefix('[') {
            Some(rest) => rest.split_once(']').ok_or("an IPv6 address ends with ]")?,
            None => text.split_at(text.find(':').unwrap_or(text.len())),
        };
        if name.is_empty() || name.contains(|c: char| c.is_whitespace() || "?#".contains(c)) {
            return Err("each host is a name or an address");
        }
        let port = match port.strip_prefix(':') {
            Some(port) => Some(port.parse().map_err(|_| "a port is a number up to 65535")?),
            None if port.is_empty() => None,
            None => return Err("behind a host comes its port, or nothing"),
        };
        Ok(Self { name: name.to_owned(), port })
    }
}

/// It ends at the last `@` before the first slash: a password may have others in it.
fn split_user_info(rest: &str) -> (Option<&str>, &str) {
    let end = rest.find('/').unwrap_or(rest.len());
    match rest[..end].rsplit_once('@') {
        Some((user_info, _)) => (Some(user_info), &rest[user_info.len() + 1..]),
        None => (None, rest),
    }
}

fn decode(text: &str) -> Result<Option<String>, &'static str> {
    let text = percent_decode_str(text).decode_utf8();
    let text = text.map_err(|_| "user, password and files are UTF-8, percent-encoded")?;
    Ok((!text.is_empty()).then(|| text.into_owned()))
}

impl fmt::Display for EngineUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.scheme)?;
        for (index, host) in self.hosts.iter().enumerate() {
            write!(f, "{}{host}", if index == 0 { "" } else { "," })?;
        }
        if self.path.is_empty() { Ok(()) } else { write!(f, "/{}", self.path) }
    }
}

impl fmt::Debug for EngineUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        if name.contains(':') { write!(f, "[{name}]") } else { f.write_str(name) }?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_who_asks_and_several_hosts() {
        let url: EngineUrl = "Redis://me:p%40ss%2F@a,b:7000,[::1]:1/db".parse().unwrap();
        assert_eq!(url.scheme, "redis");
        assert_eq!((url.user.as_deref(), url.password.as_deref()), (Some("me"), Some("p@ss/")));
        let hosts: Vec<_> = url.hosts.iter().map(|host| host.with_port(6379)).collect();
        assert_eq!(hosts, ["a:6379", "b:7000", "[::1]:1"]);
        assert_eq!(url.path, "db");
    }

    #[test]
    fn a_url_names_files_for_tls() {
        let url: EngineUrl = "rediss://:p?@a,b?ca=/etc/c%26a.pem&key=k&cert=c".parse().unwrap();
        assert_eq!((url.password.as_deref(), url.hosts.len(), &*url.path), (Some("p?"), 2, ""));
        let identity = Some(("c".into(), "k".into()));
        assert_eq!(url.pem, PemFiles { authorities: Some("/etc/c&a.pem".into()), identity });
        let url: EngineUrl = "rediss://a/2?ca=b".parse().unwrap();
        assert_eq!((&*url.path, url.pem.authorities), ("2", Some("b".into())));
        assert_eq!("nats://a?".parse::<EngineUrl>().unwrap().pem, PemFiles::default());
    }

    #[test]
    fn what_is_printed_of_a_url_has_no_credential() {
        let url: EngineUrl = "nats://token@a:1,b/x?ca=secret".parse().unwrap();
        assert_eq!(url.user.as_deref(), Some("token"));
        assert_eq!(
            (format!("{url}"), format!("{url:?}")),
            ("nats://a:1,b/x".into(), "nats://a:1,b/x".into())
        );
    }

    #[test]
    fn a_url_that_cannot_be_used_is_refused_with_the_rule() {
        for (text, rule) in [
            ("localhost:6379", "expected SCHEME://HOST"),
            ("redis://", "each host is a name or an address"),
            ("redis://a,,b", "each host is a name or an address"),
            ("redis://:secret@", "each host is a name or an address"),
            ("redis://a:65536", "a port is a number up to 65535"),
            ("redis://[::1", "an IPv6 address ends with ]"),
            ("redis://[::1]6379", "behind a host comes its port, or nothing"),
            ("redis://%ff@a", "user, password and files are UTF-8, percent-encoded"),
            ("redis://a#b", "each host is a name or an address"),
            ("rediss://a?ssl=1", "behind ? come ca=FILE, cert=FILE and key=FILE, with & between"),
            ("rediss://a?ca=", "ca, cert and key are files"),
            ("rediss://a?ca=x&cert=y", "cert has a key, and key a cert"),
        ] {
            assert_eq!(text.parse::<EngineUrl>(), Err(rule), "{text}");
        }
    }
}
