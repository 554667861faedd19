//! What nodes call each other.

use std::{
    borrow::Cow,
    fmt,
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicBool, Ordering::SeqCst},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use crate::peer::process_number;

/// The name of a node: 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct NodeId(u64);

impl NodeId {
    /// The first node of a process has the number that the names of its connections begin with.
    pub(crate) fn next() -> Self {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        if TAKEN.swap(true, SeqCst) {
            return Self(RandomState::new().hash_one(0));
        }
        Self(process_number())
    }

    /// What the names of connections of this process begin with.
    pub(super) fn of_process() -> Self {
        Self(process_number())
    }

    /// The node that has a connection of this name, if any connection can have it.
    pub(crate) fn of_connection(name: &str) -> Option<Self> {
        let (head, tail) = name.split_at_checked(16)?;
        Self::parse(tail).and(Self::parse(head))
    }

    #[cfg(test)]
    pub(super) fn random() -> Self {
        Self(RandomState::new().hash_one(0))
    }

    fn parse(text: &str) -> Option<Self> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let right = text.len() == 16 && text.bytes().all(is_digit);
        u64::from_str_radix(text, 16).ok().filter(|_| right).map(Self)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Serialize for NodeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        let rule = || Error::custom("node: must be 16 hexadecimal digits");
        Self::parse(&text).ok_or_else(rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_names_its_node() {
        let digits = "0123456789abcdef";
        let node = NodeId::of_connection(&digits.repeat(2)).unwrap();
        assert_eq!(node.to_string(), digits);
        for wrong in ["", digits, &digits.repeat(3), &format!("{digits}0123456789abcdeF")] {
            assert_eq!(NodeId::of_connection(wrong), None, "{wrong}");
        }
        assert_ne!(NodeId::next(), NodeId::next(), "two of one process");
    }
}
