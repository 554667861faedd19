//! What nodes say to each other: that they are there, what they ask, and what they answer.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    cluster::Audience,
    envelope::{Malformed, To, Yes},
    node::Node,
    node_id::NodeId,
};
use crate::{
    hub::Hub,
    question::{Answer, Ask, Newest, Told},
    relay::{self, Unreached},
};

/// How long others may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// The payload of a message to all nodes or to one.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Note {
    /// I am there. The names of my connections begin with the number of my process.
    Here { process: NodeId },
    /// I am gone, and so are my connections.
    Gone,
    /// Do you hear me? This is my connection to the engine of that number.
    Hear { link: u64 },
    /// I hear you, on the connection that you have named.
    Heard { link: u64 },
    /// Do this in that hub, and say what came of it, if there is a number to say it under.
    Ask { id: Option<u64>, hub: String, ask: Ask },
    /// This came of it.
    Answer { id: u64, answer: Answer },
}

impl Node {
    /// Tells the others that this node is there, until it has said goodbye.
    pub(super) fn announce(&self) {
        self.forget_silent();
        if !self.cluster.is_left() {
            self.tell(To::Nodes(Yes), &text(&here()));
        }
    }

    /// Tells the others that this node is gone: they need not wait for its silence. It is carried
    /// behind all that waits.
    pub(crate) fn leave(&self) {
        self.cluster.leave();
        // Without room they find out by themselves.
        let _ = self.tell_in_order(To::Nodes(Yes), &text(&Note::Gone));
    }

    /// Hears what another node says.
    pub(super) fn hear(
        self: &Arc<Self>,
        hub: &Hub,
        from: NodeId,
        payload: &[u8],
    ) -> Result<(), Malformed> {
        let note =
            serde_json::from_slice(payload).map_err(|error| Malformed::rule(&error.to_string()))?;
        match note {
            Note::Here { process } => {
                // One that has just begun is not left to wait for a second.
                if self.cluster.hear(from, process, Instant::now()) && !self.cluster.is_left() {
                    self.tell(To::Node(from), &text(&here()));
                }
                // An engine that has hung may bring what was said on a connection that is lost.
                if self.cluster.is_missed(from) {
                    self.tell(To::Node(from), &text(&Note::Hear { link: self.link() }));
                }
            }
            Note::Gone => {
                self.cluster.forget(from);
                self.go_on();
            }
            Note::Hear { link } => _ = self.tell(To::Node(from), &text(&Note::Heard { link })),
            Note::Heard { link } if link == self.link() => {
                self.cluster.returned(from);
                self.go_on();
            }
            Note::Heard { .. } => {}
            Note::Ask { id, hub: name, ask } => self.reply(&hub.named(&name), from, id, &ask),
            Note::Answer { id, answer } => self.cluster.answered(from, id, answer),
        }
        Ok(())
    }

    /// Which connection to the engine this is.
    fn link(&self) -> u64 {
        self.counters.connected.get()
    }

    /// Messages wait no longer once nobody is missed.
    fn go_on(&self) {
        if self.cluster.is_complete() {
            self.outbox.release();
        }
    }

    /// Carries out what another node asks. A join is answered once what others send to the group
    /// is heard here.
    fn reply(self: &Arc<Self>, hub: &Hub, to: NodeId, id: Option<u64>, ask: &Ask) {
        let answer = hub.answer(ask);
        let Some(id) = id else { return };
        let settling = hub.settling_of(ask);
        if settling.is_empty() {
            return self.answer(to, id, answer);
        }
        let node = Arc::clone(self);
        tokio::spawn(async move {
            relay::settled(settling, &*node).await;
            node.answer(to, id, answer);
        });
    }

    /// Sends an answer, or as much of it as the engine takes in one message.
    fn answer(&self, to: NodeId, id: u64, mut answer: Answer) {
        loop {
            let note = text(&Note::Answer { id, answer: answer.clone() });
            if self.fits(note.len()) {
                self.tell(To::Node(to), &note);
                return;
            }
            if !answer.halve() {
                return log::debug!("backplane: an answer is larger than the engine takes");
            }
        }
    }

    /// Asks the other nodes, and puts what they say together with what this one has said.
    pub(super) async fn gather(&self, hub: &str, ask: Ask, own: Answer) -> Told {
        let process = ask.connection().map(NodeId::of_connection);
        if ask.is_settled_by(&own) || process == Some(None) {
            // It is done, or it is for a connection of a name that none can have.
            return Told { answer: own, silent: 0 };
        }
        let Audience { to, nodes } = self.cluster.audience(process.flatten(), Instant::now());
        let is_ours = to == To::Node(NodeId::of_process());
        if nodes.is_empty() && (is_ours || self.is_ready()) {
            return Told { answer: own, silent: 0 };
        }
        let deadline = Instant::now() + PATIENCE;
        let count = nodes.len().max(1);
        let room = if self.is_ready() { self.cluster.room(deadline).await } else { None };
        let Some(room) = room else { return self.partial(own, count) };
        let asking = self.cluster.begin(room, ask.clone(), own.clone(), nodes);
        if self.put(to, asking.id, hub, ask).is_err() {
            return self.partial(own, count);
        }
        match asking.told(deadline).await {
            Some(told) if told.silent == 0 => told,
            Some(Told { answer, silent }) => self.partial(answer, silent),
            None => self.partial(own, count),
        }
    }

    /// Looking at something waits behind no message, and for no node that is to come back.
    fn put(&self, to: To<'_>, id: u64, hub: &str, ask: Ask) -> Result<(), Unreached> {
        let is_change = ask.is_change();
        let note = text(&Note::Ask { id: Some(id), hub: hub.to_owned(), ask });
        if is_change {
            return self.tell_in_order(to, &note);
        }
        if !self.fits(note.len()) {
            return Err(Unreached);
        }
        self.tell(to, &note);
        Ok(())
    }

    /// Not all have answered.
    fn partial(&self, answer: Answer, silent: usize) -> Told {
        self.counters.unanswered.add(1);
        log::debug!("backplane: {silent} nodes have not answered a question");
        Told { answer, silent }
    }

    /// Tells the nodes that a user is connected to that one of them has her connection of now.
    pub(super) fn demand(&self, hub: &str, user: &str, by: &Newest) {
        let ask = Ask::Replace { user: user.to_owned(), by: by.clone() };
        let note = text(&Note::Ask { id: None, hub: hub.to_owned(), ask });
        if self.tell_nodes_of(hub, user, &note).is_err() {
            self.counters.unanswered.add(1);
        }
    }
}

fn here() -> Note {
    Note::Here { process: NodeId::of_process() }
}

/// Texts, numbers and lists of them: that cannot fail.
fn text(note: &Note) -> Vec<u8> {
    serde_json::to_vec(note).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        backplane::{engine::Command, outbox::Batch},
        frame::Kind,
        metrics::BackplaneCounters,
        relay::{Post, Relay},
        target::Target,
    };

    const LONG: Duration = Duration::from_hours(1);

    /// Messages among what waits to be carried now.
    async fn messages(node: &Node) -> usize {
        let mut batch = Batch::default();
        node.outbox.take(&mut batch).await;
        batch.messages()
    }

    #[tokio::test(start_paused = true)]
    async fn messages_wait_for_those_who_say_that_they_hear_and_not_for_what_they_said_before() {
        let (hub, other) = (Hub::default(), NodeId::random());
        let counters = Arc::<BackplaneCounters>::default();
        let node = Arc::new(Node::new("p", 1 << 20, LONG, Arc::clone(&counters)));
        let say = |note: &Note| node.hear(&hub, other, &text(note)).unwrap();
        let connect = || {
            node.begin(1 << 20);
            node.wait_for_others(Instant::now() + LONG);
            counters.connected.add(1);
        };
        connect();
        say(&here());
        assert_eq!(messages(&node).await, 0, "what was said to the other");
        node.lose();
        let (target, wire) = (Target::Group("g"), [0x81, 1, b'x']);
        let post = Post {
            hub: "default",
            target,
            excluded: &[],
            filter: None,
            kind: Kind::Text,
            wire: &wire,
        };
        node.publish(&post, None).unwrap();
        connect();
        say(&here());
        let mut batch = Batch::default();
        node.outbox.take(&mut batch).await;
        assert!(matches!(&batch.commands[..], [Command::Publish(..)]), "it is asked");
        assert_eq!(batch.messages(), 0);
        say(&Note::Heard { link: 1 });
        say(&Note::Hear { link: 7 });
        assert_eq!(messages(&node).await, 0, "it has heard the connection that was lost");
        say(&Note::Heard { link: 2 });
        let now = Instant::now();
        assert_eq!((messages(&node).await, now.elapsed()), (1, Duration::ZERO));
    }
}
