//! One question to other nodes: what they have said so far, and who is silent.

use std::collections::HashSet;

use tokio::sync::oneshot;

use super::node_id::NodeId;
use crate::question::{Answer, Ask, Told};

/// A question that is under way.
#[derive(Debug)]
pub(super) struct Question {
    ask: Ask,
    answer: Answer,
    /// Who has not answered.
    silent: HashSet<NodeId>,
    /// Told when nothing is waited for any more.
    done: Option<oneshot::Sender<()>>,
}

impl Question {
    /// Answers are put together with this one. What is returned is ready once nobody is silent.
    pub(super) fn new(
        ask: Ask,
        answer: Answer,
        silent: HashSet<NodeId>,
    ) -> (Self, oneshot::Receiver<()>) {
        let (sender, done) = oneshot::channel();
        (Self { ask, answer, silent, done: Some(sender) }, done)
    }

    /// What came of it.
    pub(super) fn told(self) -> Told {
        Told { answer: self.answer, silent: self.silent.len() }
    }

    /// A node has answered; one that was not asked, or has answered before, is not heard.
    pub(super) fn hear(&mut self, node: NodeId, answer: Answer) {
        if !self.silent.remove(&node) {
            return;
        }
        let so_far = std::mem::replace(&mut self.answer, Answer::Reached(0));
        self.answer = self.ask.both(so_far, answer);
        if self.ask.is_settled_by(&self.answer) {
            self.silent.clear();
        }
        self.look();
    }

    /// Nobody waits for this node any more.
    pub(super) fn give_up(&mut self, node: NodeId) {
        self.silent.remove(&node);
        self.look();
    }

    fn look(&mut self) {
        if self.silent.is_empty()
            && let Some(done) = self.done.take()
        {
            // Whoever asked may be gone.
            let _ = done.send(());
        }
    }
}
