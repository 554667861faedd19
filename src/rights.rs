//! What a connection may do in its hub.

use std::collections::HashSet;

/// Rights, as roles of the published protocol grant them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rights {
    everything: bool,
    roles: HashSet<String>,
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

impl Rights {
    /// Every right: what a server without tokens gives to everybody.
    #[must_use]
    pub fn everything() -> Self {
        Self { everything: true, roles: HashSet::new() }
    }

    /// The rights of these roles: `webpubsub.joinLeaveGroup`, `webpubsub.sendToGroup`, both also
    /// with `.<group>` behind, `webpubsub.sendToUser` and `webpubsub.sendToAll`. Others mean
    /// nothing.
    pub fn of_roles(roles: impl IntoIterator<Item = String>) -> Self {
        Self { everything: false, roles: roles.into_iter().collect() }
    }

    /// Whether this may be done.
    #[must_use]
    pub fn allow(&self, action: Action<'_>) -> bool {
        let has = |role: &str| self.roles.contains(role);
        self.everything
            || match action {
                Action::JoinLeaveGroup(group) => {
                    has("webpubsub.joinLeaveGroup")
                        || has(&format!("webpubsub.joinLeaveGroup.{group}"))
                }
                Action::SendToGroup(group) => {
                    has("webpubsub.sendToGroup") || has(&format!("webpubsub.sendToGroup.{group}"))
                }
                Action::SendToUser => has("webpubsub.sendToUser"),
                Action::SendToAll => has("webpubsub.sendToAll"),
            }
    }
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
}
