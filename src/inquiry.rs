//! Questions, carried out by the hub of this process.

use crate::{
    hub::Hub,
    page::{Connected, Found, MAX_ENTRIES, Page},
    peer::ConnectionId,
    question::{Act, Answer, Ask, Change, Counted},
};

impl Hub {
    /// Asks every node that this hub is on.
    #[expect(clippy::unused_async, reason = "there is no other node yet")]
    pub(crate) async fn ask(&self, ask: Ask) -> Answer {
        self.answer(&ask)
    }

    /// What this process has to say.
    pub(crate) fn answer(&self, ask: &Ask) -> Answer {
        match ask {
            Ask::Find { whom } => Answer::Reached(usize::from(self.has(whom.target()))),
            Ask::Members { whom, after, limit } => {
                let (after, limit) = (start(after.as_deref()), bounded(*limit));
                let found = self.page(whom.target(), after, limit + 1);
                let found = found.into_iter().map(|(id, user)| Found::new(id, user.as_deref()));
                Answer::Members(Page::new(found, limit))
            }
            Ask::Connections { after, limit } => {
                let (after, limit) = (start(after.as_deref()), bounded(*limit));
                let connections = self.connections(after, limit + 1);
                let connections = connections.into_iter().map(Connected::from);
                Answer::Connections(Page::new(connections, limit))
            }
            Ask::Close { whom, selection, with } => {
                let wanted = selection.wanted();
                Answer::Reached(self.close_where(whom.target(), &with.reason(), wanted))
            }
            Ask::Join { whom, groups, selection } => {
                let joined = self.join_where(whom.target(), groups, selection.wanted());
                joined.map_or_else(Answer::TooMany, Answer::Reached)
            }
            Ask::Leave { whom, groups, selection } => {
                let wanted = selection.wanted();
                Answer::Reached(self.leave_where(whom.target(), groups.as_deref(), wanted))
            }
            Ask::Permission { connection, change, to, group } => {
                self.change(connection, *change, *to, group.as_deref())
            }
            Ask::Count => {
                let connections = self.counts().members;
                Answer::Counted(Counted { connections, nodes: 1 })
            }
        }
    }

    fn change(&self, connection: &str, change: Change, to: Act, group: Option<&str>) -> Answer {
        let permission = to.permission(group);
        let done = ConnectionId::parse(connection).and_then(|id| {
            self.with_rights(id, |rights| match change {
                Change::Grant => {
                    rights.grant(permission);
                    true
                }
                Change::Revoke => {
                    rights.revoke(permission);
                    true
                }
                Change::Look => rights.has(permission),
            })
        });
        Answer::Reached(usize::from(done.unwrap_or(false)))
    }
}

/// Where a page begins here. One that was asked for by a name that is none begins at the beginning.
fn start(after: Option<&str>) -> Option<ConnectionId> {
    after.and_then(ConnectionId::floor)
}

/// How much is looked at for a page, whatever others ask for.
fn bounded(limit: usize) -> usize {
    limit.clamp(1, MAX_ENTRIES)
}
