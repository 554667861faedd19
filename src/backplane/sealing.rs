//! What a node has to say, as messages for the engine: to which subjects, and how it is cut.

use std::{borrow::Cow, sync::atomic::Ordering::Relaxed};

use bytes::Bytes;

use super::{
    envelope::{Header, To, Yes},
    node::Node,
    node_id::NodeId,
    subject::Subject,
};
use crate::{frame::payloads, relay::Post, target::Target};

/// What a header takes at most, unless names are very long; and each further payload in it.
const HEADER: usize = 512;

/// Digits and a comma.
const PER_PAYLOAD: usize = 12;

impl Node {
    /// Whether the engine takes a payload of so many bytes.
    pub(super) fn fits(&self, bytes: usize) -> bool {
        bytes.saturating_add(HEADER + PER_PAYLOAD) <= self.max_message.load(Relaxed)
    }

    pub(super) fn subject_of(&self, node: NodeId) -> Subject {
        Subject::node(&self.prefix, &node.to_string())
    }

    /// What is told of by its members coming and going.
    pub(super) fn subject(&self, hub: &str, target: Target<'_>) -> Option<Subject> {
        match target {
            Target::All => Some(Subject::all(&self.prefix, hub)),
            Target::Group(group) => Some(Subject::group(&self.prefix, hub, group)),
            Target::User(user) => Some(Subject::user(&self.prefix, hub, user)),
            Target::Users(_) | Target::Connection(_) | Target::Foreign(_) => None,
        }
    }

    /// Where a message is published, once for each of several users.
    fn addresses<'a>(&self, hub: &str, target: Target<'a>) -> Vec<(Subject, To<'a>)> {
        let to = match target {
            Target::All => To::All(Yes),
            Target::Group(group) => To::Group(group.into()),
            Target::User(user) => To::User(user.into()),
            Target::Users(users) => {
                let each = |user: &'a String| self.addresses(hub, Target::User(user));
                return users.iter().flat_map(each).collect();
            }
            Target::Connection(id) => return self.address_of(id.to_string().into()),
            Target::Foreign(name) => return self.address_of(name.into()),
        };
        self.subject(hub, target).into_iter().map(|subject| (subject, to.clone())).collect()
    }

    fn address_of<'a>(&self, connection: Cow<'a, str>) -> Vec<(Subject, To<'a>)> {
        let node = NodeId::of_connection(&connection);
        let address = node.map(|node| (self.subject_of(node), To::Connection(connection)));
        address.into_iter().collect()
    }

    /// The post as messages that nobody has said, so that this node delivers them like the others;
    /// `None` if it is larger than the engine takes.
    pub(super) fn seal_for_all(&self, post: &Post<'_>) -> Option<Vec<(Subject, Bytes)>> {
        self.seal(post, None)
    }

    /// The post as messages for the engine, each as large as it takes; `None` if a payload is
    /// larger.
    pub(super) fn seal(
        &self,
        post: &Post<'_>,
        from: Option<NodeId>,
    ) -> Option<Vec<(Subject, Bytes)>> {
        let mut messages = Vec::new();
        let parts = self.parts(post)?;
        for (subject, to) in self.addresses(post.hub, post.target) {
            let mut header = Header::new(self.id, post.hub, to, post.kind);
            header.node = from;
            header.excluded = Cow::Borrowed(post.excluded);
            header.filter = post.filter.map(Cow::Borrowed);
            for part in &parts {
                header.id = from.map(|_| self.next_id());
                messages.push((subject.clone(), header.seal(part)));
            }
        }
        Some(messages)
    }

    fn parts<'a>(&self, post: &Post<'a>) -> Option<Vec<Vec<&'a [u8]>>> {
        let names = post.excluded.iter().map(|name| name.len() + 3).sum::<usize>();
        let limit = self.max_message.load(Relaxed);
        let limit = limit.saturating_sub(HEADER + names + post.filter.map_or(0, str::len));
        let (mut parts, mut part, mut bytes) = (Vec::new(), Vec::new(), 0_usize);
        for payload in payloads(post.wire) {
            let length = payload.len() + PER_PAYLOAD;
            if length > limit {
                return None;
            }
            if bytes + length > limit {
                parts.push(std::mem::take(&mut part));
                bytes = 0;
            }
            part.push(payload);
            bytes += length;
        }
        parts.push(part);
        Some(parts)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{
        backplane::envelope::Envelope,
        frame::{Kind, Opcode, push_frame},
        metrics::BackplaneCounters,
    };

    #[test]
    fn a_batch_is_cut_to_what_the_engine_takes() {
        let counters = Arc::new(BackplaneCounters::default());
        let node = Node::new("p", 1 << 20, Duration::ZERO, counters);
        node.max_message.store(HEADER + 100, Relaxed);
        let mut wire = Vec::new();
        let all: Vec<_> = [40, 40, 40, 88].into_iter().map(|length| vec![b'x'; length]).collect();
        for payload in &all {
            push_frame(&mut wire, Opcode::Text, payload);
        }
        let target = Target::Users(&["a".to_owned(), "b".to_owned()]);
        let (excluded, filter, kind) = (&[][..], None, Kind::Text);
        let post = Post { hub: "h", target, excluded, filter, kind, wire: &wire };
        let messages = node.seal(&post, Some(node.id)).unwrap();
        assert_eq!(messages.len(), 2 * 4, "one in each");
        assert!(messages.iter().all(|(_, bytes)| bytes.len() <= HEADER + 100));
        let payloads = messages.iter().flat_map(|(_, bytes)| {
            Envelope::parse(bytes).unwrap().payloads.into_iter().map(<[u8]>::to_vec)
        });
        assert!(payloads.eq(all.iter().chain(&all).cloned()));
        let mut large = Vec::new();
        push_frame(&mut large, Opcode::Text, &[b'x'; 89]);
        assert!(node.seal(&Post { wire: &large, ..post }, None).is_none(), "one is too large");
    }
}
