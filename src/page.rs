//! Lists, a page at a time, that several nodes have parts of.
//!
//! A page ends with the last connection that it names, and the next one begins behind it. Names
//! are in one order over all nodes, and each node gives them out in order: so a list that is asked
//! for in pages misses nobody who was there all the time, and names nobody twice.

use serde::{Deserialize, Serialize};

use crate::peer::ConnectionId;

/// Entries in a page, at most.
pub(crate) const MAX_ENTRIES: usize = 200;

/// The first entries of a list behind some name, in the order of names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Page<T> {
    pub(crate) entries: Vec<T>,
    /// There may be others behind the last one; otherwise these are all.
    pub(crate) more: bool,
}

/// What stands in a list.
pub(crate) trait Listed {
    /// The name of the connection.
    fn name(&self) -> &str;
}

/// A connection of a group or a user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Found {
    connection_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<String>,
}

/// Ours: what an operator wants to know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Connected {
    pub(crate) connection_id: String,
    pub(crate) user_id: Option<String>,
    pub(crate) groups: Vec<String>,
    pub(crate) remote_address: Option<String>,
    pub(crate) subprotocol: Option<String>,
    /// Seconds since 1970.
    pub(crate) opened_at: u64,
    pub(crate) queued_bytes: usize,
    pub(crate) messages_in: u64,
    pub(crate) messages_out: u64,
    pub(crate) round_trip_ms: Option<f64>,
}

impl<T: Listed> Page<T> {
    /// `entries` has one more than `limit` if there are others.
    pub(crate) fn new(entries: impl IntoIterator<Item = T>, limit: usize) -> Self {
        let mut page = Self { entries: entries.into_iter().collect(), more: false };
        page.cut(limit);
        page
    }

    /// Puts two parts of one list, of two nodes, together. Behind the end of a part that has more nothing is
    /// known, so the whole ends there too.
    #[cfg(feature = "backplane")]
    pub(crate) fn and(self, other: Self, limit: usize) -> Self {
        let end = |page: &Self| {
            page.entries.last().filter(|_| page.more).map(|last| last.name().to_owned())
        };
        let known_to = [end(&self), end(&other)].into_iter().flatten().min();
        let more = self.more || other.more;
        let mut entries = self.entries;
        entries.extend(other.entries);
        entries.retain(|entry| known_to.as_deref().is_none_or(|end| entry.name() <= end));
        entries.sort_by(|one, other| one.name().cmp(other.name()));
        let mut page = Self { entries, more };
        page.cut(limit);
        page
    }

    /// Leaves the first half of the entries, if there are two or more.
    #[cfg(feature = "backplane")]
    pub(crate) fn halve(&mut self) -> bool {
        let length = self.entries.len();
        self.cut(length / 2);
        self.entries.len() < length
    }

    /// Leaves so many entries at most, and one at least.
    fn cut(&mut self, limit: usize) {
        self.more |= self.entries.len() > limit.max(1);
        self.entries.truncate(limit.max(1));
    }
}

impl Listed for Found {
    fn name(&self) -> &str {
        &self.connection_id
    }
}

impl Listed for Connected {
    fn name(&self) -> &str {
        &self.connection_id
    }
}

impl Found {
    pub(crate) fn new(id: ConnectionId, user: Option<&str>) -> Self {
        Self { connection_id: id.to_string(), user_id: user.map(str::to_owned) }
    }
}

#[cfg(all(test, feature = "backplane"))]
mod tests {
    use super::*;

    impl Listed for String {
        fn name(&self) -> &str {
            self
        }
    }

    fn page(names: &str, limit: usize) -> Page<String> {
        Page::new(names.chars().map(String::from), limit)
    }

    #[test]
    fn parts_are_put_together_in_the_order_of_names() {
        assert_eq!(page("ad", 9).and(page("bc", 9), 9), page("abcd", 9));
        assert_eq!(page("", 9).and(page("bc", 9), 9), page("bc", 9));
        assert_eq!(page("ad", 9).and(page("bc", 9), 3), page("abcd", 3));
    }

    #[test]
    fn nothing_is_said_of_what_lies_behind_the_end_of_a_part() {
        let whole = page("acd", 2).and(page("bxyz", 9), 9);
        assert_eq!(whole, Page { entries: vec!["a".into(), "b".into(), "c".into()], more: true });
    }

    #[test]
    fn half_a_page_says_that_there_is_more() {
        let mut half = page("abcde", 9);
        assert!(half.halve());
        assert_eq!(half, Page { entries: vec!["a".into(), "b".into()], more: true });
        assert!(half.halve() && !half.halve(), "one is left");
        assert_eq!(half.entries, ["a"]);
        let mut nobody = page("", 9);
        assert!(!nobody.halve() && !nobody.more);
    }

    #[test]
    fn it_does_not_matter_who_answers_first_nor_where_parts_are_cut() {
        let (all, limit) = ("abcdefghijkl", 4);
        for cuts in 0..3_usize.pow(12) / 7 {
            let parts = [0, 1, 2].map(|part| {
                let mine =
                    |at: &usize| cuts * 7 / 3_usize.pow(u32::try_from(*at).unwrap()) % 3 == part;
                let names: String =
                    all.char_indices().filter(|(at, _)| mine(at)).map(|(_, name)| name).collect();
                page(&names, 1 + (cuts + part) % 5)
            });
            let [a, b, c] = parts.clone();
            let one = a.and(b, limit).and(c, limit);
            let [a, b, c] = parts;
            let other = c.and(a, limit).and(b, limit);
            assert_eq!(one, other);
            let expected: Vec<String> = all.chars().map(String::from).collect();
            assert_eq!(one.entries, expected[..one.entries.len()]);
            assert!(one.more && !one.entries.is_empty());
        }
    }
}
