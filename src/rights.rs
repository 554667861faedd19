//! What a connection may do in its hub.

use std::collections::HashSet;

/// Rights, as roles of the published protocol grant them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rights {
    everything: bool,
    roles: HashSet<String>,
    /// Roles for one group that are denied, whatever the others say.
    denied: Vec<String>,
}

/// Something that needs a right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action<'a> {
    /// To join or leave this group.
    JoinLeaveGroup(&'a str),
    /// To send to this group.
    SendToGroup(&'a str),
    /// To send to users.
    SendToUser,
    /// To send to everybody.
    SendToAll,
}

/// A right that a connection can be given, and that can be taken from it, while it is open: for
/// one group, or with `None` for every group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission<'a> {
    /// To join and leave it.
    JoinLeaveGroup(Option<&'a str>),
    /// To send to it.
    SendToGroup(Option<&'a str>),
}

impl Action<'_> {
    /// The role that gives the right to it, to every group where it is about one.
    pub(crate) fn role(self) -> &'static str {
        match self {
            Self::JoinLeaveGroup(_) => JOIN_LEAVE_GROUP,
            Self::SendToGroup(_) => SEND_TO_GROUP,
            Self::SendToUser => SEND_TO_USER,
            Self::SendToAll => SEND_TO_ALL,
        }
    }
}

const JOIN_LEAVE_GROUP: &str = "webpubsub.joinLeaveGroup";
const SEND_TO_GROUP: &str = "webpubsub.sendToGroup";
const SEND_TO_USER: &str = "webpubsub.sendToUser";
const SEND_TO_ALL: &str = "webpubsub.sendToAll";

impl Rights {
    /// Every right: what a server without tokens gives to everybody.
    #[must_use]
    pub fn everything() -> Self {
        Self { everything: true, ..Self::default() }
    }

    /// The rights of these roles: `webpubsub.joinLeaveGroup`, `webpubsub.sendToGroup`, both also
    /// with `.<group>` behind, `webpubsub.sendToUser` and `webpubsub.sendToAll`. Others mean
    /// nothing.
    pub fn of_roles(roles: impl IntoIterator<Item = String>) -> Self {
        Self { roles: roles.into_iter().collect(), ..Self::default() }
    }

    /// Whether this may be done.
    #[must_use]
    pub fn allow(&self, action: Action<'_>) -> bool {
        let role = action.role();
        match action {
            Action::JoinLeaveGroup(group) | Action::SendToGroup(group) => {
                self.allow_group(role, Some(group))
            }
            Action::SendToUser | Action::SendToAll => self.everything || self.roles.contains(role),
        }
    }

    /// Whether this permission is there; for every group, if it names none.
    #[must_use]
    pub fn has(&self, permission: Permission<'_>) -> bool {
        let (role, group) = permission.role();
        self.allow_group(role, group)
    }

    /// Gives a permission.
    pub fn grant(&mut self, permission: Permission<'_>) {
        let (role, group) = permission.role();
        let granted = group.map_or_else(|| role.to_owned(), |group| of_group(role, group));
        self.denied
            .retain(|denied| *denied != granted && !(group.is_none() && is_of(denied, role)));
        self.roles.insert(granted);
    }

    /// Takes a permission: for one group, even if it is there for every group; without a group,
    /// for all of them.
    pub fn revoke(&mut self, permission: Permission<'_>) {
        if std::mem::take(&mut self.everything) {
            let all = [JOIN_LEAVE_GROUP, SEND_TO_GROUP, SEND_TO_USER, SEND_TO_ALL];
            self.roles.extend(all.map(str::to_owned));
        }
        let (role, group) = permission.role();
        let Some(group) = group else {
            return self.roles.retain(|held| held != role && !is_of(held, role));
        };
        let revoked = of_group(role, group);
        self.roles.remove(&revoked);
        if self.roles.contains(role) && !self.denied.contains(&revoked) {
            self.denied.push(revoked);
        }
    }

    fn allow_group(&self, role: &str, group: Option<&str>) -> bool {
        if self.everything {
            return true;
        }
        let general = self.roles.contains(role);
        match group {
            None => general,
            Some(_) if general && self.denied.is_empty() => true,
            Some(group) => {
                let one = of_group(role, group);
                (general || self.roles.contains(&one)) && !self.denied.contains(&one)
            }
        }
    }
}

impl<'a> Permission<'a> {
    fn role(self) -> (&'static str, Option<&'a str>) {
        match self {
            Self::JoinLeaveGroup(group) => (JOIN_LEAVE_GROUP, group),
            Self::SendToGroup(group) => (SEND_TO_GROUP, group),
        }
    }
}

fn of_group(role: &str, group: &str) -> String {
    format!("{role}.{group}")
}

/// Whether `held` is `role` for one group.
fn is_of(held: &str, role: &str) -> bool {
    held.strip_prefix(role).is_some_and(|rest| rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_for_one_group_is_for_no_other() {
        let rights = Rights::of_roles(["webpubsub.sendToGroup.a".to_owned()]);
        assert!(rights.allow(Action::SendToGroup("a")));
        assert!(!rights.allow(Action::SendToGroup("a.b")));
        assert!(!rights.allow(Action::SendToGroup("")));
        assert!(!rights.allow(Action::JoinLeaveGroup("a")));
        assert!(!rights.allow(Action::SendToAll));
    }

    #[test]
    fn a_role_without_a_group_is_for_all_of_them() {
        let rights = Rights::of_roles(["webpubsub.joinLeaveGroup".to_owned()]);
        assert!(rights.allow(Action::JoinLeaveGroup("any")));
        assert!(!rights.allow(Action::SendToGroup("any")));
    }

    #[test]
    fn what_is_granted_is_there_and_what_is_revoked_is_not() {
        for mut rights in [Rights::default(), Rights::everything()] {
            for group in [None, Some("a")] {
                let permission = Permission::SendToGroup(group);
                rights.grant(permission);
                assert!(rights.has(permission), "{rights:?}");
                rights.revoke(permission);
                assert!(!rights.has(permission), "{rights:?}");
                rights.grant(permission);
                assert!(rights.has(permission), "{rights:?}");
            }
        }
    }

    #[test]
    fn revoked_for_one_group_it_stays_for_the_others() {
        let mut rights = Rights::everything();
        rights.revoke(Permission::JoinLeaveGroup(Some("a")));
        assert!(!rights.allow(Action::JoinLeaveGroup("a")));
        assert!(rights.allow(Action::JoinLeaveGroup("b")));
        assert!(rights.allow(Action::SendToGroup("a")) && rights.allow(Action::SendToAll));
        rights.grant(Permission::JoinLeaveGroup(None));
        assert!(rights.allow(Action::JoinLeaveGroup("a")));
    }

    #[test]
    fn revoked_for_all_groups_it_is_gone_for_each() {
        let mut rights = Rights::of_roles(["webpubsub.sendToGroup.a".to_owned()]);
        rights.revoke(Permission::SendToGroup(None));
        assert!(!rights.allow(Action::SendToGroup("a")));
    }
}
