//! Questions, carried out by the hub of this process.

use std::time::SystemTime;

use futures_util::future::join;

#[cfg(feature = "backplane")]
use crate::question::Whom;
use crate::{
    close::CloseReason,
    config::SameUser,
    directory::ConnectionInfo,
    filter::{Filter, Subject},
    hub::Hub,
    page::{Connected, Found, MAX_ENTRIES, Page},
    peer::{ConnectionId, Peer},
    question::{Act, Answer, Ask, Change, Counted, Newest, Told},
    relay::{Settling, settled},
    selection::Selection,
    state::State,
    target::Target,
};

impl Hub {
    /// Asks every node that this hub is on.
    pub(crate) async fn ask(&self, ask: Ask) -> Told {
        let own = self.answer(&ask);
        let Some(relay) = self.relay() else { return Told { answer: own, silent: 0 } };
        let settling = self.settling_of(&ask);
        let (told, ()) = join(relay.ask(&self.name, ask, own), settled(settling, relay)).await;
        told
    }

    /// Whether a node says that this user is connected, who must not be connected once more.
    #[cfg(feature = "backplane")]
    pub(crate) async fn is_taken(&self, user: &str) -> bool {
        if self.shared.same_user != SameUser::Reject || !self.is_joined() {
            return false;
        }
        let told = self.ask(Ask::Find { whom: Whom::User(user.to_owned()) }).await;
        told.answer.reached() > 0
    }

    /// Tells other nodes that a user has connected here, if they have to let go of her.
    pub(crate) fn tell_of(&self, user: &str, peer: &Peer) {
        if let Some(relay) = self.relay().filter(|_| self.shared.same_user == SameUser::Replace) {
            relay.replace(&self.name, user, &Newest::of(peer));
        }
    }

    /// Whether there may be other nodes.
    #[cfg(feature = "backplane")]
    pub(crate) fn is_joined(&self) -> bool {
        self.relay().is_some()
    }

    /// What has to be ready until those who have joined a group hear what others send to it.
    pub(crate) fn settling_of(&self, ask: &Ask) -> Vec<Settling> {
        let Ask::Join { groups, .. } = ask else { return Vec::new() };
        groups.iter().filter_map(|group| self.settling(Target::Group(group))).collect()
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
            Ask::Close { whom, selection, reason } => {
                let reason = CloseReason::Local { code: 1000, reason: reason.clone() };
                Answer::Reached(self.close_where(whom.target(), &reason, selection.wanted()))
            }
            Ask::Replace { user, by } => Answer::Reached(self.replace(user, by)),
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

    fn replace(&self, user: &str, by: &Newest) -> usize {
        let (count, newer) = self.replace_older(user, by);
        if let Some((newer, relay)) = newer.zip(self.relay()) {
            relay.replace(&self.name, user, &newer);
        }
        count
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

impl Selection {
    /// A question under the hub's lock, for each connection of a target.
    pub(crate) fn wanted(&self) -> impl Fn(&State, &Peer) -> bool {
        // Connections that are not of this process are excluded already.
        let excluded: Vec<_> =
            self.excluded.iter().filter_map(|name| ConnectionId::parse(name)).collect();
        move |state, peer| {
            let fits = |filter: &Filter| {
                subject(state, peer).is_some_and(|subject| filter.matches(&subject))
            };
            !excluded.contains(&peer.id) && self.filter.as_ref().is_none_or(fits)
        }
    }
}

/// `None` if it has just left.
fn subject<'a>(state: &'a State, peer: &Peer) -> Option<Subject<'a>> {
    let membership = state.membership(peer.id)?;
    let (user, groups) = (membership.user.as_deref(), &membership.groups[..]);
    Some(Subject { id: peer.id, user, groups })
}

impl From<ConnectionInfo> for Connected {
    fn from(info: ConnectionInfo) -> Self {
        let since = info.opened_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self {
            connection_id: info.id.to_string(),
            user_id: info.user.as_deref().map(str::to_owned),
            groups: info.groups.iter().map(|group| group.as_ref().to_owned()).collect(),
            remote_address: info.address.map(|address| address.to_string()),
            subprotocol: info.subprotocol.as_deref().map(str::to_owned),
            opened_at: since.as_secs(),
            queued_bytes: info.queued_bytes,
            messages_in: info.messages_in,
            messages_out: info.messages_out,
            round_trip_ms: info.round_trip.map(|time| time.as_secs_f64() * 1e3),
        }
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
