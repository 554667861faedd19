//! What comes from other nodes, on its way to those who are here.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    envelope::{Envelope, Header, Malformed, To},
    node::Node,
    node_id::NodeId,
};
use crate::{
    fan_out::Sent,
    frame::{Form, Kind, Opcode, Publication, push_frame},
    hub::Hub,
    peer::ConnectionId,
    protocol::{self, Batch},
    selection::Selection,
    target::Target,
};

/// How often it is said that messages make no sense.
const LOG_INTERVAL: Duration = Duration::from_mins(1);

/// Takes what the engine brings.
pub(super) struct Delivery {
    node: Arc<Node>,
    hub: Hub,
    recent: Recent,
    logged_at: Option<Instant>,
}

impl Delivery {
    pub(super) fn new(node: Arc<Node>, hub: Hub) -> Self {
        Self { node, hub, recent: Recent::default(), logged_at: None }
    }

    /// Takes one message.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        let taken = Envelope::parse(bytes).and_then(|envelope| self.take_envelope(&envelope));
        if let Err(malformed) = taken {
            self.node.counters.malformed.add(1);
            if self.logged_at.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
                log::warn!("backplane: a message makes no sense: {malformed}");
                self.logged_at = Some(Instant::now());
            }
        }
    }

    fn take_envelope(&mut self, envelope: &Envelope<'_>) -> Result<(), Malformed> {
        let Envelope { header, payloads } = envelope;
        if header.node == Some(self.node.id) {
            self.take_own(header);
            return Ok(());
        }
        self.node.counters.received.add(1);
        if !self.recent.is_first(header) {
            self.node.counters.repeated.add(1);
            return Ok(());
        }
        match header.to {
            To::Nodes(_) | To::Node(_) => self.hear(header, payloads)?,
            _ => {
                // What comes now is behind all that may have been missed.
                self.tell_gap();
                self.deliver(header, payloads)?;
            }
        }
        Ok(())
    }

    /// Tells those who may have missed something, once.
    fn tell_gap(&self) {
        if self.node.health.take_gap() {
            self.hub.tell_json_clients(protocol::GAP);
        }
    }

    /// What this node has said comes back: those who are here have heard it, and a message to
    /// itself says that the engine is alive.
    fn take_own(&self, header: &Header<'_>) {
        let now = Instant::now();
        let probe = header.id.filter(|_| header.to == To::Node(self.node.id));
        let Some(took) = probe.and_then(|id| self.node.health.returned(id, now)) else { return };
        self.node.counters.round_trips.record(micros(took));
        self.tell_gap();
    }

    /// What another node says to this one.
    fn hear(&self, header: &Header<'_>, payloads: &[&[u8]]) -> Result<(), Malformed> {
        let from = header.node.ok_or_else(|| Malformed::rule("node: must say who speaks"))?;
        payloads.iter().try_for_each(|payload| self.node.hear(&self.hub, from, payload))
    }

    fn deliver(&self, header: &Header<'_>, payloads: &[&[u8]]) -> Result<Sent, Malformed> {
        let hub = self.hub.named(&header.hub);
        let selection = Selection::new(header.filter.as_deref(), header.excluded.to_vec())
            .map_err(|error| Malformed::rule(&error.to_string()))?;
        let wanted = selection.wanted();
        let mut users = Vec::new();
        let Some(target) = target(&header.to, &mut users) else { return Ok(Sent::default()) };
        Ok(match header.kind {
            Kind::Message => hub.deliver_where(target, &mut messages(payloads), wanted),
            kind => hub.deliver_where(target, &mut Plain { kind, payloads }, wanted),
        })
    }
}

/// `None` if it is for nobody who can be here.
fn target<'a>(to: &'a To<'_>, users: &'a mut Vec<String>) -> Option<Target<'a>> {
    match to {
        To::All(_) => Some(Target::All),
        To::Group(group) => Some(Target::Group(group)),
        To::User(user) => Some(Target::User(user)),
        To::Users(names) => {
            users.clone_from(names);
            users.sort_unstable();
            users.dedup();
            Some(Target::Users(users))
        }
        To::Connection(name) => ConnectionId::parse(name).map(Target::Connection),
        To::Nodes(_) | To::Node(_) => None,
    }
}

fn messages(payloads: &[&[u8]]) -> Batch {
    let mut batch = Batch::default();
    for payload in payloads {
        batch.push_encoded(payload);
    }
    batch
}

fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}

/// What a program on another node has sent, the same to everybody.
struct Plain<'a> {
    kind: Kind,
    payloads: &'a [&'a [u8]],
}

impl Publication for Plain<'_> {
    fn encode(&mut self, _: Form) -> Vec<u8> {
        let opcode = if self.kind == Kind::Binary { Opcode::Binary } else { Opcode::Text };
        let mut wire = Vec::new();
        self.payloads.iter().for_each(|payload| push_frame(&mut wire, opcode, payload));
        wire
    }

    fn kind(&self) -> Kind {
        self.kind
    }
}

/// What has come lately. A node that loses its engine sends again what it had sent last, and
/// cannot know whether it was carried.
#[derive(Debug, Default)]
struct Recent {
    known: HashSet<(NodeId, u64)>,
    in_order: VecDeque<(NodeId, u64)>,
}

impl Recent {
    /// More than several nodes send in one batch.
    const MAX: usize = 8192;

    /// Whether it has not come before. Of what no node has said, nobody can know.
    fn is_first(&mut self, header: &Header<'_>) -> bool {
        let Some(name) = header.node.zip(header.id) else { return true };
        if !self.known.insert(name) {
            return false;
        }
        self.in_order.push_back(name);
        if self.in_order.len() > Self::MAX
            && let Some(oldest) = self.in_order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_come_is_known_for_a_while() {
        let (mut recent, node) = (Recent::default(), NodeId::next());
        let mut header = Header::new(node, "default", To::Group("g".into()), Kind::Message);
        assert!(recent.is_first(&header) && recent.is_first(&header), "without an id");
        for id in 0..=Recent::MAX as u64 {
            header.id = Some(id);
            assert!(recent.is_first(&header) && !recent.is_first(&header), "{id}");
        }
        assert_eq!((recent.known.len(), recent.in_order.len()), (Recent::MAX, Recent::MAX));
        header.id = Some(0);
        assert!(recent.is_first(&header), "it is forgotten");
    }
}
