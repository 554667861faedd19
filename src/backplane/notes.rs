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
                if self.cluster.is_complete() {
                    self.outbox.release();
                }
            }
            Note::Gone => self.cluster.forget(from),
            Note::Ask { id, hub: name, ask } => self.reply(&hub.named(&name), from, id, &ask),
            Note::Answer { id, answer } => self.cluster.answered(from, id, answer),
        }
        Ok(())
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
