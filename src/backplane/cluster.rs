//! The nodes that share an engine, and the questions to them that are under way.
//!
//! Nothing about nodes is stored anywhere: each says every second that it is there. Who has been
//! silent for some seconds is gone, and with it all that it could say of its connections: so there
//! is nobody in an answer who is not there.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, SemaphorePermit, oneshot},
    time::{Instant, timeout_at},
};

use super::{
    envelope::{To, Yes},
    node_id::NodeId,
    pending::Question,
};
use crate::question::{Answer, Ask, Told};

/// A node that was silent for so long is gone: five of its notes were lost in a row, while this
/// node's own came through.
const SILENCE: Duration = Duration::from_secs(5);

/// Questions to other nodes that are under way at once; further ones wait.
const MAX_QUESTIONS: usize = 256;

/// What one node knows of the others.
#[derive(Debug)]
pub(super) struct Cluster {
    state: Mutex<State>,
    places: Semaphore,
}

#[derive(Debug, Default)]
struct State {
    others: HashMap<NodeId, Other>,
    /// Those that were there when the engine was lost, and have not heard this node since.
    missed: HashSet<NodeId>,
    /// After that nobody waits for them.
    missed_until: Option<Instant>,
    questions: HashMap<u64, Question>,
    last_question: u64,
    /// Whether this node has said goodbye.
    is_left: bool,
}

/// Another node.
#[derive(Debug)]
struct Other {
    /// What the names of its connections begin with.
    process: NodeId,
    heard_at: Instant,
}

/// Those that are asked.
#[derive(Debug)]
pub(super) struct Audience {
    pub(super) to: To<'static>,
    pub(super) nodes: HashSet<NodeId>,
}

/// Whoever waits for the answers to a question. Dropped, later ones are nobody's.
#[derive(Debug)]
pub(super) struct Asking<'a> {
    cluster: &'a Cluster,
    pub(super) id: u64,
    done: oneshot::Receiver<()>,
    _room: SemaphorePermit<'a>,
}

impl Default for Cluster {
    fn default() -> Self {
        Self { state: Mutex::default(), places: Semaphore::new(MAX_QUESTIONS) }
    }
}

impl Cluster {
    /// A node has said that it is there; `true` if that is news.
    pub(super) fn hear(&self, node: NodeId, process: NodeId, now: Instant) -> bool {
        let other = Other { process, heard_at: now };
        self.lock().others.insert(node, other).is_none()
    }

    /// Whether a node was there before the engine was lost, and has not said since that it hears
    /// this one.
    pub(super) fn is_missed(&self, node: NodeId) -> bool {
        self.lock().missed.contains(&node)
    }

    /// A node has heard this one, since there is an engine again.
    pub(super) fn returned(&self, node: NodeId) {
        self.lock().missed.remove(&node);
    }

    /// The engine is lost: the others lose it too, and may come back later than this node.
    pub(super) fn lose(&self, now: Instant) {
        let mut state = self.lock();
        if state.missed_until.take_if(|until| *until < now).is_some() {
            state.missed.clear();
        }
        let others: Vec<_> = state.others.keys().copied().collect();
        state.missed.extend(others);
    }

    /// There is an engine again; `true` if the others are waited for.
    pub(super) fn wait_until(&self, until: Instant) -> bool {
        let mut state = self.lock();
        state.missed_until = Some(until);
        !state.missed.is_empty()
    }

    /// Whether all have come back that were there before the engine was lost.
    pub(super) fn is_complete(&self) -> bool {
        self.lock().missed.is_empty()
    }

    /// This node has said goodbye: it does not come back.
    pub(super) fn leave(&self) {
        self.lock().is_left = true;
    }

    pub(super) fn is_left(&self) -> bool {
        self.lock().is_left
    }

    /// Another node has said goodbye, and answers nothing any more.
    pub(super) fn forget(&self, node: NodeId) {
        let mut state = self.lock();
        state.others.remove(&node);
        state.missed.remove(&node);
        state.questions.values_mut().for_each(|question| question.give_up(node));
    }

    /// Forgets those who are silent, although they could be heard since then; how many others
    /// there are.
    pub(super) fn expire(&self, now: Instant, steady_since: Option<Instant>) -> usize {
        let mut state = self.lock();
        if let Some(since) = steady_since {
            let silence = |other: &Other| now.duration_since(other.heard_at.max(since));
            state.others.retain(|_, other| silence(other) < SILENCE);
        }
        state.others.len()
    }

    /// Who may have an answer. To ask for a connection of this process, nobody else is needed.
    pub(super) fn audience(&self, process: Option<NodeId>, now: Instant) -> Audience {
        let state = self.lock();
        if let Some(process) = process {
            let of = |(node, other): (&NodeId, &Other)| (other.process == process).then_some(*node);
            let nodes: HashSet<_> = state.others.iter().filter_map(of).collect();
            // There may be one that has just begun, and was not heard yet.
            if !nodes.is_empty() || process == NodeId::of_process() {
                return Audience { to: To::Node(process), nodes };
            }
        }
        let mut nodes: HashSet<_> = state.others.keys().copied().collect();
        if state.missed_until.is_none_or(|until| now < until) {
            // They may not listen yet, and then they are silent.
            nodes.extend(&state.missed);
        }
        Audience { to: To::Nodes(Yes), nodes }
    }

    /// Waits until there is room for one more question; `None` if there is none by then.
    pub(super) async fn room(&self, deadline: Instant) -> Option<SemaphorePermit<'_>> {
        timeout_at(deadline, self.places.acquire()).await.ok()?.ok()
    }

    /// Begins to wait for answers, which are put together with this one.
    pub(super) fn begin<'a>(
        &'a self,
        room: SemaphorePermit<'a>,
        ask: Ask,
        answer: Answer,
        silent: HashSet<NodeId>,
    ) -> Asking<'a> {
        let (question, done) = Question::new(ask, answer, silent);
        let mut state = self.lock();
        state.last_question += 1;
        let id = state.last_question;
        state.questions.insert(id, question);
        Asking { cluster: self, id, done, _room: room }
    }

    /// A node has answered. Too late, or to nothing that it was asked: then nothing happens.
    pub(super) fn answered(&self, node: NodeId, id: u64, answer: Answer) {
        if let Some(question) = self.lock().questions.get_mut(&id) {
            question.hear(node, answer);
        }
    }

    /// Survives a panic under the lock: every change is one call of a map's.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asking<'_> {
    /// What has been answered by then, or as soon as nothing is waited for any more.
    pub(super) async fn told(mut self, deadline: Instant) -> Option<Told> {
        // Who is silent by then is counted; and the other end goes with the question, below.
        let _ = timeout_at(deadline, &mut self.done).await;
        let question = self.cluster.lock().questions.remove(&self.id)?;
        Some(question.told())
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.cluster.lock().questions.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::question::{Counted, Whom};

    const DEADLINE: Duration = Duration::from_secs(1);

    fn counted(connections: usize, nodes: usize) -> Answer {
        Answer::Counted(Counted { connections, nodes })
    }

    /// A cluster that has heard these.
    fn heard(others: &[NodeId]) -> Cluster {
        let cluster = Cluster::default();
        for node in others {
            assert!(cluster.hear(*node, *node, Instant::now()));
        }
        cluster
    }

    async fn begin(cluster: &Cluster, ask: Ask, own: Answer) -> Asking<'_> {
        let room = cluster.room(Instant::now() + DEADLINE).await.unwrap();
        cluster.begin(room, ask, own, cluster.audience(None, Instant::now()).nodes)
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_silent_is_gone() {
        let (one, other) = (NodeId::random(), NodeId::random());
        let cluster = heard(&[one, other]);
        let start = Instant::now();
        assert!(!cluster.hear(one, one, start + SILENCE / 2), "it is known");
        let since = Some(start);
        assert_eq!(cluster.expire(start + SILENCE, since), 1);
        assert_eq!(cluster.audience(None, Instant::now()).nodes, HashSet::from([one]));
        assert_eq!(cluster.expire(start + SILENCE * 2, since), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_forgotten_while_nothing_comes_through() {
        let cluster = heard(&[NodeId::random()]);
        let later = Instant::now() + SILENCE * 2;
        assert_eq!(cluster.expire(later, None), 1, "nobody could be heard");
        assert_eq!(cluster.expire(later, Some(later)), 1, "it may be next");
        assert_eq!(cluster.expire(later + SILENCE, None), 1);
        cluster.lose(later + SILENCE);
        assert!(cluster.wait_until(later + SILENCE * 2), "it was not there before");
        assert_eq!(cluster.expire(later + SILENCE, Some(later)), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_were_there_are_missed_for_a_while() {
        let (one, other) = (NodeId::random(), NodeId::random());
        let (cluster, start) = (heard(&[one, other]), Instant::now());
        assert!(cluster.is_complete() && !cluster.wait_until(start), "nothing was lost");
        cluster.lose(start);
        assert!(cluster.wait_until(start + SILENCE) && !cluster.is_complete());
        cluster.hear(one, one, start);
        assert!(cluster.is_missed(one), "it may have said so before");
        cluster.returned(one);
        assert!(!cluster.is_missed(one) && !cluster.is_complete());
        cluster.forget(other);
        assert!(cluster.is_complete());
        cluster.lose(start);
        assert!(cluster.wait_until(start + SILENCE * 2), "one is there again");
        cluster.expire(start + SILENCE, Some(start));
        let asked = |now| cluster.audience(None, now).nodes;
        assert_eq!(asked(start + SILENCE), HashSet::from([one]), "it may have an answer");
        assert_eq!(asked(start + SILENCE * 2), HashSet::new(), "nobody waits for it any more");
        cluster.lose(start + SILENCE * 3);
        assert!(!cluster.wait_until(start + SILENCE * 4), "it has not come back");
    }

    #[tokio::test(start_paused = true)]
    async fn answers_are_put_together_and_end_the_waiting() {
        let (one, other) = (NodeId::random(), NodeId::random());
        let cluster = heard(&[one, other]);
        let asking = begin(&cluster, Ask::Count, counted(1, 1)).await;
        let id = asking.id;
        cluster.answered(one, id, counted(2, 1));
        cluster.answered(one, id, counted(2, 1));
        cluster.answered(NodeId::random(), id, counted(100, 1));
        cluster.answered(other, id + 1, counted(100, 1));
        cluster.answered(other, id, counted(4, 1));
        let start = Instant::now();
        let told = asking.told(start + DEADLINE).await;
        assert_eq!(told, Some(Told { answer: counted(7, 3), silent: 0 }));
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert!(cluster.lock().questions.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_answer_in_time_is_counted_and_who_says_goodbye_is_not() {
        let nodes = [NodeId::random(), NodeId::random(), NodeId::random()];
        let cluster = heard(&nodes);
        let asking = begin(&cluster, Ask::Count, counted(1, 1)).await;
        let id = asking.id;
        cluster.forget(nodes[0]);
        cluster.answered(nodes[1], id, counted(2, 1));
        let start = Instant::now();
        let told = asking.told(start + DEADLINE).await;
        assert_eq!(told, Some(Told { answer: counted(3, 2), silent: 1 }));
        assert_eq!(start.elapsed(), DEADLINE);
        cluster.answered(nodes[2], id, counted(4, 1));
        assert!(cluster.lock().questions.is_empty(), "a late answer is nobody's");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_waited_for_once_somebody_is_found() {
        let (one, other) = (NodeId::random(), NodeId::random());
        let cluster = heard(&[one, other]);
        let ask = Ask::Find { whom: Whom::User("ann".into()) };
        let asking = begin(&cluster, ask, Answer::Reached(0)).await;
        cluster.answered(one, asking.id, Answer::Reached(1));
        let told = asking.told(Instant::now() + DEADLINE).await;
        assert_eq!(told, Some(Told { answer: Answer::Reached(1), silent: 0 }));
    }

    #[tokio::test(start_paused = true)]
    async fn questions_are_bounded_and_one_that_is_given_up_makes_room() {
        let cluster = heard(&[NodeId::random()]);
        let mut all = Vec::new();
        for _ in 0..MAX_QUESTIONS {
            all.push(begin(&cluster, Ask::Count, counted(1, 1)).await);
        }
        let soon = || Instant::now() + DEADLINE;
        assert!(cluster.room(soon()).await.is_none());
        drop(all.pop());
        assert!(cluster.room(soon()).await.is_some());
        assert_eq!(cluster.lock().questions.len(), MAX_QUESTIONS - 1);
    }

    #[test]
    fn a_connection_is_asked_for_where_its_name_says() {
        let (node, process) = (NodeId::random(), NodeId::random());
        let cluster = Cluster::default();
        cluster.hear(node, process, Instant::now());
        cluster.hear(NodeId::random(), NodeId::random(), Instant::now());
        let there = cluster.audience(Some(process), Instant::now());
        assert_eq!((there.to, there.nodes), (To::Node(process), HashSet::from([node])));
        let unknown = cluster.audience(Some(NodeId::random()), Instant::now());
        assert_eq!((unknown.to, unknown.nodes.len()), (To::Nodes(Yes), 2));
        assert!(cluster.audience(Some(NodeId::of_process()), Instant::now()).nodes.is_empty());
    }
}
