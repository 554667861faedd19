//! What messages are published to: a name that every engine takes.

use std::{fmt, sync::Arc};

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

/// A longer name goes by its digest: engines limit their subjects, and users' names may be long.
const MAX_ENCODED: usize = 128;

/// The name of a channel (Redis), a subject (NATS) or a key (Kafka): words of letters, digits,
/// `-`, `_`, `=` and `~`, with dots between.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Subject(Arc<str>);

impl Subject {
    /// Everybody in a hub, single connections, and what nodes ask each other.
    pub(crate) fn all(prefix: &str, hub: &str) -> Self {
        Self(format!("{prefix}.{}.all", Word(hub)).into())
    }

    /// The connections of a user.
    pub(crate) fn user(prefix: &str, hub: &str, user: &str) -> Self {
        Self(format!("{prefix}.{}.user.{}", Word(hub), Word(user)).into())
    }

    /// The members of a group.
    pub(crate) fn group(prefix: &str, hub: &str, group: &str) -> Self {
        Self(format!("{prefix}.{}.group.{}", Word(hub), Word(group)).into())
    }

    /// All nodes. No hub has a name that begins with `_`.
    pub(crate) fn nodes(prefix: &str) -> Self {
        Self(format!("{prefix}._nodes").into())
    }

    /// One node.
    pub(crate) fn node(prefix: &str, node: &str) -> Self {
        Self(format!("{prefix}._node.{node}").into())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Any text as one word of a subject: what is no letter, digit, `-` or `_` becomes `=` and two
/// hexadecimal digits for each byte.
struct Word<'a>(&'a str);

impl fmt::Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        let length: usize = self.0.bytes().map(|byte| if is_plain(byte) { 1 } else { 3 }).sum();
        if length > MAX_ENCODED {
            return write!(f, "~{}", HEXLOWER.encode(&Sha256::digest(self.0.as_bytes())));
        }
        for byte in self.0.bytes() {
            if is_plain(byte) {
                write!(f, "{}", char::from(byte))?;
            } else {
                write!(f, "={byte:02x}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_words_of_a_subject() {
        let subject = |group| Subject::group("hubnerite", "default", group).0.to_string();
        assert_eq!(subject("lobby-1_A"), "hubnerite.default.group.lobby-1_A");
        assert_eq!(subject("a.b"), "hubnerite.default.group.a=2eb");
        assert_eq!(subject("*>~= ü"), "hubnerite.default.group.=2a=3e=7e=3d=20=c3=bc");
        assert_eq!(Subject::all("p", "a.b").as_str(), "p.a=2eb.all");
        assert_eq!(Subject::user("p", "a", "user").as_str(), "p.a.user.user");
    }

    #[test]
    fn a_long_name_goes_by_its_digest() {
        let (long, longer) = ("x".repeat(128), "x".repeat(129));
        let subject = |group| Subject::group("p", "h", group).as_str().len();
        assert_eq!(subject(&long), "p.h.group.".len() + 128);
        assert_eq!(subject(&longer), "p.h.group.~".len() + 64);
        assert_ne!(Subject::group("p", "h", &longer), Subject::group("p", "h", &"y".repeat(129)));
    }
}
