//! What a node has subscribed to, and who waits until it has.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};

use super::subject::Subject;
use crate::relay::Settling;

/// A subject stays subscribed for so long after the last one has left, so that a group that comes
/// and goes costs the engine nothing.
const LINGER: Duration = Duration::from_secs(2);

/// All subjects that somebody here is to hear.
#[derive(Debug, Default)]
pub(super) struct Interest {
    entries: HashMap<Subject, Entry>,
    /// Those that were left, in that order. One that somebody came back to is not among them any
    /// more as soon as its moment has come.
    left: VecDeque<(Instant, Subject)>,
    /// There was an engine, and now there is none.
    is_lost: bool,
}

#[derive(Debug)]
struct Entry {
    /// When the last one has left; `None` while there is one.
    left_at: Option<Instant>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The engine has not confirmed it; these wait.
    Asked(Vec<oneshot::Sender<()>>),
    Confirmed,
}

/// Whether what is sent to a subject is heard.
#[derive(Debug)]
pub(super) enum Settled {
    Yes,
    Soon(Settling),
    /// There is no engine that could say.
    Unknown,
}

impl Interest {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Somebody is to hear it; `true` if it has to be subscribed.
    pub(super) fn come(&mut self, subject: &Subject) -> bool {
        if let Some(entry) = self.entries.get_mut(subject) {
            entry.left_at = None;
            return false;
        }
        let entry = Entry { left_at: None, state: State::Asked(Vec::new()) };
        self.entries.insert(subject.clone(), entry);
        true
    }

    /// Nobody is there any more who is to hear it.
    pub(super) fn leave(&mut self, subject: &Subject, now: Instant) {
        if self.is_lost {
            self.entries.remove(subject);
        } else if let Some(entry) = self.entries.get_mut(subject) {
            entry.left_at = Some(now);
            self.left.push_back((now, subject.clone()));
        }
    }

    /// Whether the engine has confirmed it. What nobody is to hear needs no engine.
    pub(super) fn settled(&mut self, subject: &Subject) -> Settled {
        let Some(entry) = self.entries.get_mut(subject) else { return Settled::Yes };
        match &mut entry.state {
            State::Asked(_) if self.is_lost => Settled::Unknown,
            State::Asked(waiting) => {
                let (sender, settling) = oneshot::channel();
                waiting.push(sender);
                Settled::Soon(settling)
            }
            State::Confirmed => Settled::Yes,
        }
    }

    /// The engine has subscribed it.
    pub(super) fn confirm(&mut self, subject: &Subject) {
        let Some(entry) = self.entries.get_mut(subject) else { return };
        if let State::Asked(waiting) = std::mem::replace(&mut entry.state, State::Confirmed) {
            // Who does not wait any more needs no answer.
            for one in waiting {
                let _ = one.send(());
            }
        }
    }

    /// The engine is gone, and with it everything that it had confirmed. Nobody waits for what may
    /// take long.
    pub(super) fn unsettle(&mut self) {
        self.is_lost = true;
        self.left.clear();
        self.entries.retain(|_, entry| entry.left_at.is_none());
        self.entries.values_mut().for_each(|entry| entry.state = State::Asked(Vec::new()));
    }

    /// There is an engine: everything that has to be subscribed.
    pub(super) fn renew(&mut self) -> Vec<Subject> {
        self.is_lost = false;
        self.entries.keys().cloned().collect()
    }

    /// What was left long ago and is forgotten now: it has to be unsubscribed.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Subject> {
        let mut expired = Vec::new();
        while let Some((at, _)) = self.left.front()
            && now.duration_since(*at) >= LINGER
            && let Some((at, subject)) = self.left.pop_front()
        {
            match self.entries.get(&subject) {
                Some(Entry { left_at: Some(left_at), state }) if *left_at == at => match state {
                    State::Confirmed => {
                        self.entries.remove(&subject);
                        expired.push(subject);
                    }
                    // It is under way: what is unsubscribed must not be confirmed later.
                    State::Asked(_) => self.leave(&subject, now),
                },
                _ => {}
            }
        }
        expired
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn lobby() -> Subject {
        Subject::group("p", "h", "lobby")
    }

    fn soon(interest: &mut Interest) -> Settling {
        match interest.settled(&lobby()) {
            Settled::Soon(settling) => settling,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn who_comes_waits_until_it_is_confirmed() {
        let (mut interest, lobby) = (Interest::default(), lobby());
        assert!(matches!(interest.settled(&lobby), Settled::Yes), "nobody is there");
        assert!(interest.come(&lobby));
        let mut settling = soon(&mut interest);
        assert!((&mut settling).now_or_never().is_none());
        interest.confirm(&lobby);
        assert_eq!(settling.now_or_never(), Some(Ok(())));
        assert!(matches!(interest.settled(&lobby), Settled::Yes));
        assert!(!interest.come(&lobby), "it is subscribed");
    }

    #[test]
    fn without_an_engine_nobody_waits_and_all_that_is_heard_is_subscribed_anew() {
        let (mut interest, lobby) = (Interest::default(), lobby());
        let left = Subject::group("p", "h", "left");
        assert!(interest.come(&lobby) && interest.come(&left));
        interest.leave(&left, Instant::now());
        let settling = soon(&mut interest);
        interest.unsettle();
        assert!(settling.now_or_never().is_some_and(|told| told.is_err()));
        assert!(matches!(interest.settled(&lobby), Settled::Unknown));
        assert_eq!(interest.renew(), [lobby]);
        assert_eq!(interest.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_left_stays_for_a_while() {
        let (mut interest, lobby) = (Interest::default(), lobby());
        let start = Instant::now();
        interest.come(&lobby);
        interest.leave(&lobby, start);
        assert_eq!(interest.expire(start + LINGER), [], "it is not confirmed yet");
        interest.confirm(&lobby);
        assert!(!interest.come(&lobby), "who comes back finds it subscribed");
        assert_eq!(interest.expire(start + LINGER * 3), []);
        interest.leave(&lobby, start + LINGER * 3);
        assert_eq!(interest.expire(start + LINGER * 4 - Duration::from_millis(1)), []);
        assert_eq!(interest.expire(start + LINGER * 4).len(), 1);
        assert!(interest.come(&lobby), "it has to be subscribed again");
    }

    /// Between two looks at it, the group was left, joined and left: the first leaving is over.
    #[tokio::test(start_paused = true)]
    async fn who_flaps_is_counted_from_the_last_time() {
        let (mut interest, lobby) = (Interest::default(), lobby());
        let start = Instant::now();
        interest.come(&lobby);
        interest.confirm(&lobby);
        interest.leave(&lobby, start);
        interest.come(&lobby);
        interest.leave(&lobby, start + LINGER / 2);
        assert_eq!(interest.expire(start + LINGER), []);
        assert_eq!(interest.expire(start + LINGER + LINGER / 2), [lobby]);
    }
}
