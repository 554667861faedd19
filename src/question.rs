//! What is asked of connections, wherever they are, and what comes of it.
//!
//! Each node carries a question out for the connections that it has; the answers of all of them,
//! put together, are the answer. A connection is named by text, for it may be another node's.

use serde::{Deserialize, Serialize};

use crate::{
    page::{Connected, Found, Page},
    peer::{ConnectionId, Peer},
    rights::Permission,
    selection::Selection,
    target::Target,
};

/// What a node is asked to do, for one hub. Nothing is changed by carrying it out twice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Ask {
    /// Is anybody of them there?
    Find { whom: Whom },
    /// Who is there? [`Answer::Members`]
    Members { whom: Whom, after: Option<String>, limit: usize },
    /// The same of the whole hub, with all that is known. [`Answer::Connections`]
    Connections { after: Option<String>, limit: usize },
    /// Close them once they have written what is queued for them.
    Close { whom: Whom, selection: Selection, reason: String },
    /// Close those of a user that are older than this connection: the user has connected again.
    Replace { user: String, by: Newest },
    /// Put them into groups.
    Join { whom: Whom, groups: Vec<String>, selection: Selection },
    /// Take them out of these groups, or without any out of all.
    Leave { whom: Whom, groups: Option<Vec<String>>, selection: Selection },
    /// Look at a permission of a connection, or change it.
    Permission { connection: String, change: Change, to: Act, group: Option<String> },
    /// How many are connected to the hub? [`Answer::Counted`]
    Count,
}

/// [`Target`], as other nodes are told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Whom {
    All,
    Group(String),
    User(String),
    Users(Vec<String>),
    Connection(String),
}

/// The newest connection of a user, as far as a node knows. Of two connections one is newer, and
/// all nodes agree on which: so one remains, however many come in the same moment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Newest {
    /// Milliseconds since 1970, by the clock of its node.
    pub(crate) opened_at: u64,
    pub(crate) connection: String,
}

/// What is done to a permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Change {
    Grant,
    Revoke,
    /// Nothing: [`Answer::Reached`] says whether it is there.
    Look,
}

/// [`Permission`] without its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Act {
    JoinLeaveGroup,
    SendToGroup,
}

/// What came of an [`Ask`], on one node or on all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Answer {
    /// So many connections were meant, and it is done.
    Reached(usize),
    /// At least one of them could not join all groups, for it may be in so many; the others have.
    TooMany(usize),
    Members(Page<Found>),
    Connections(Page<Connected>),
    Counted(Counted),
}

/// What all nodes have answered together.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Told {
    pub(crate) answer: Answer,
    /// Nodes that were asked and have not answered in time; or one, if there may be some that were
    /// not reached.
    pub(crate) silent: usize,
}

/// How many there are in a hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counted {
    pub(crate) connections: usize,
    pub(crate) nodes: usize,
}

/// What other nodes are asked, and what they answer.
#[cfg(feature = "backplane")]
impl Ask {
    /// Whether it changes something: then it has a place among the messages, for those who are asked
    /// to close hear first what was said to them before.
    pub(crate) fn is_change(&self) -> bool {
        match self {
            Self::Find { .. } | Self::Members { .. } | Self::Connections { .. } | Self::Count => {
                false
            }
            Self::Permission { change, .. } => *change != Change::Look,
            Self::Close { .. } | Self::Replace { .. } | Self::Join { .. } | Self::Leave { .. } => {
                true
            }
        }
    }

    /// Whether no node can add anything to this answer: a connection is on one, and who is
    /// somewhere is there.
    pub(crate) fn is_settled_by(&self, answer: &Answer) -> bool {
        let is_one = self.connection().is_some() || matches!(self, Self::Find { .. });
        is_one && answer.reached() > 0
    }

    /// Puts two answers to this together. The order in which answers come makes no difference. One
    /// that answers something else is nobody's: the first stays.
    pub(crate) fn both(&self, one: Answer, other: Answer) -> Answer {
        match (one, other) {
            (Answer::Reached(one), Answer::Reached(other)) => {
                Answer::Reached(one.saturating_add(other))
            }
            (Answer::TooMany(one), Answer::TooMany(other)) => Answer::TooMany(one.max(other)),
            (Answer::Reached(_), many @ Answer::TooMany(_)) => many,
            (Answer::Members(one), Answer::Members(other)) => {
                Answer::Members(one.and(other, self.limit()))
            }
            (Answer::Connections(one), Answer::Connections(other)) => {
                Answer::Connections(one.and(other, self.limit()))
            }
            (Answer::Counted(one), Answer::Counted(other)) => Answer::Counted(Counted {
                connections: one.connections.saturating_add(other.connections),
                nodes: one.nodes.saturating_add(other.nodes),
            }),
            (one, _) => one,
        }
    }

    /// How many entries a page has at most.
    fn limit(&self) -> usize {
        match self {
            Self::Members { limit, .. } | Self::Connections { limit, .. } => *limit,
            _ => usize::MAX,
        }
    }

    /// The one connection that is meant, if it is one.
    pub(crate) fn connection(&self) -> Option<&str> {
        match self {
            Self::Find { whom }
            | Self::Members { whom, .. }
            | Self::Close { whom, .. }
            | Self::Join { whom, .. }
            | Self::Leave { whom, .. } => match whom {
                Whom::Connection(name) => Some(name),
                _ => None,
            },
            Self::Permission { connection, .. } => Some(connection),
            Self::Connections { .. } | Self::Replace { .. } | Self::Count => None,
        }
    }
}

impl Answer {
    /// How many connections were meant; 0 of an answer that does not say.
    pub(crate) fn reached(&self) -> usize {
        if let Self::Reached(count) = self { *count } else { 0 }
    }

    /// Takes the second half of a page away, if there is one: what is left says that there is more.
    #[cfg(feature = "backplane")]
    pub(crate) fn halve(&mut self) -> bool {
        match self {
            Self::Members(page) => page.halve(),
            Self::Connections(page) => page.halve(),
            _ => false,
        }
    }
}

impl Whom {
    pub(crate) fn target(&self) -> Target<'_> {
        match self {
            Self::All => Target::All,
            Self::Group(group) => Target::Group(group),
            Self::User(user) => Target::User(user),
            Self::Users(users) => Target::Users(users),
            Self::Connection(name) => {
                // One that no connection here can have is that of nobody, or of one elsewhere.
                ConnectionId::parse(name).map_or(Target::Foreign(name), Target::Connection)
            }
        }
    }
}

impl Newest {
    pub(crate) fn of(peer: &Peer) -> Self {
        let opened_at = peer.about.opened_at_milliseconds();
        Self { opened_at, connection: peer.id.to_string() }
    }
}

impl Act {
    pub(crate) fn permission(self, group: Option<&str>) -> Permission<'_> {
        match self {
            Self::JoinLeaveGroup => Permission::JoinLeaveGroup(group),
            Self::SendToGroup => Permission::SendToGroup(group),
        }
    }
}

#[cfg(all(test, feature = "backplane"))]
mod tests {
    use super::*;

    fn join() -> Ask {
        let (groups, selection) = (vec!["g".to_owned()], Selection::default());
        Ask::Join { whom: Whom::User("ann".into()), groups, selection }
    }

    #[test]
    fn it_does_not_matter_who_answers_first() {
        let counted = |connections| Answer::Counted(Counted { connections, nodes: 1 });
        for (ask, one, other, both) in [
            (join(), Answer::Reached(1), Answer::Reached(2), Answer::Reached(3)),
            (join(), Answer::Reached(1), Answer::TooMany(8), Answer::TooMany(8)),
            (join(), Answer::TooMany(9), Answer::TooMany(8), Answer::TooMany(9)),
            (
                Ask::Count,
                counted(2),
                counted(3),
                Answer::Counted(Counted { connections: 5, nodes: 2 }),
            ),
        ] {
            assert_eq!(ask.both(one.clone(), other.clone()), both);
            assert_eq!(ask.both(other, one), both);
        }
        assert_eq!(join().both(Answer::Reached(1), counted(1)), Answer::Reached(1));
    }

    #[test]
    fn one_answer_is_enough_where_no_other_can_add_to_it() {
        let find = |whom| Ask::Find { whom };
        let one = Ask::Leave {
            whom: Whom::Connection("c".into()),
            groups: None,
            selection: Selection::default(),
        };
        assert!(find(Whom::User("ann".into())).is_settled_by(&Answer::Reached(1)));
        assert!(!find(Whom::User("ann".into())).is_settled_by(&Answer::Reached(0)));
        assert!(one.is_settled_by(&Answer::Reached(1)));
        assert!(!join().is_settled_by(&Answer::Reached(1)), "she may be on two nodes");
    }

    #[test]
    fn questions_and_answers_are_read_as_they_were_written() {
        let selection = Selection {
            filter: Some(crate::filter::Filter::parse("userId eq 'a'").unwrap()),
            excluded: vec!["c".into()],
        };
        let whom = Whom::Group("g".into());
        let ask = Ask::Close { whom, selection, reason: "over".into() };
        let text = serde_json::to_string(&ask).unwrap();
        assert_eq!(
            text,
            r#"{"close":{"whom":{"group":"g"},"selection":{"filter":"userId eq 'a'","excluded":["c"]},"reason":"over"}}"#
        );
        assert_eq!(serde_json::from_str::<Ask>(&text).unwrap(), ask);
        let answer = Answer::Members(Page { entries: Vec::new(), more: false });
        let text = serde_json::to_string(&answer).unwrap();
        assert_eq!(text, r#"{"members":{"entries":[],"more":false}}"#);
        assert_eq!(serde_json::from_str::<Answer>(&text).unwrap(), answer);
    }
}
