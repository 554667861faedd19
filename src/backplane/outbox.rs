//! What waits for the engine.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use super::engine::Command;
use crate::relay::Room;

/// What one call of an engine carries at most: enough that a round trip is shared by many, and
/// little enough that it is over long before its deadline.
const MAX_BATCH_BYTES: usize = 256 << 10;

/// See [`MAX_BATCH_BYTES`].
const MAX_BATCH: usize = 1024;

/// Commands for the engine, in the order in which they are carried out.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queue: Mutex<Queue>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    /// What nodes have to say about themselves does not wait behind messages, nor for an engine.
    first: VecDeque<Command>,
    is_open: bool,
    /// The room is given back with the last part of a message.
    messages: VecDeque<(Command, Waits)>,
    /// Until then messages stay where they are.
    held_until: Option<Instant>,
}

/// Commands that an engine carries out now.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) commands: Vec<Command>,
    /// Of the messages among them, which stand last.
    waits: VecDeque<Waits>,
}

/// What waits, with the room that it takes.
#[derive(Debug)]
enum Waits {
    /// Part of a message, which outlasts an engine.
    Message(#[expect(dead_code, reason = "held until it is dropped")] Option<Room>),
    /// A question, whose answer nobody waits for any more when there is an engine again.
    Question(#[expect(dead_code, reason = "held until it is dropped")] Room),
}

impl Outbox {
    /// Before all messages; for nothing if there is no engine.
    pub(super) fn push_first(&self, command: Command) {
        let mut queue = self.lock();
        if queue.is_open {
            queue.first.push_back(command);
            drop(queue);
            self.filled.notify_one();
        }
    }

    /// There is an engine.
    pub(super) fn open(&self) {
        self.lock().is_open = true;
    }

    pub(super) fn push(&self, command: Command, room: Option<Room>) {
        self.lock().messages.push_back((command, Waits::Message(room)));
        self.filled.notify_one();
    }

    /// Behind all messages; `false` if there is no engine.
    pub(super) fn push_question(&self, command: Command, room: Room) -> bool {
        let mut queue = self.lock();
        let is_open = queue.is_open;
        if is_open {
            queue.messages.push_back((command, Waits::Question(room)));
            drop(queue);
            self.filled.notify_one();
        }
        is_open
    }

    /// Keeps messages until then: those for whom they are may not listen yet.
    pub(super) fn hold(&self, until: Instant) {
        self.lock().held_until = Some(until);
    }

    /// Keeps messages no longer.
    pub(super) fn release(&self) {
        if self.lock().held_until.take().is_some() {
            self.filled.notify_one();
        }
    }

    /// Takes what is to be carried next, as soon as there is something. Cancel safe.
    pub(super) async fn take(&self, batch: &mut Batch) {
        loop {
            let held_until = self.lock().take(batch);
            if !batch.commands.is_empty() {
                return;
            }
            let filled = self.filled.notified();
            match held_until {
                Some(until) => drop(timeout_at(until, filled).await),
                None => filled.await,
            }
        }
    }

    /// There is no engine any more. What is no message was for that one.
    pub(super) fn close(&self) {
        let mut queue = self.lock();
        queue.is_open = false;
        queue.first.clear();
        queue.messages.retain(|(_, waits)| matches!(waits, Waits::Message(_)));
    }

    /// An engine has perhaps not carried these: the messages among them come first on the next.
    pub(super) fn put_back(&self, mut batch: Batch) {
        let mut queue = self.lock();
        while let (Some(waits), Some(command)) = (batch.waits.pop_back(), batch.commands.pop()) {
            if matches!(waits, Waits::Message(_)) {
                queue.messages.push_front((command, waits));
            }
        }
    }

    /// Survives a panic under the lock: what is there is whole between any two lines.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// Returns how long messages are held.
    fn take(&mut self, batch: &mut Batch) -> Option<Instant> {
        batch.commands.extend(self.first.drain(..));
        self.held_until = self.held_until.filter(|until| *until > Instant::now());
        if self.held_until.is_some() {
            return self.held_until;
        }
        let (mut bytes, mut count) = (0, 0);
        while bytes < MAX_BATCH_BYTES
            && count < MAX_BATCH
            && let Some((message, waits)) = self.messages.pop_front()
        {
            bytes += message.len();
            count += 1;
            batch.commands.push(message);
            batch.waits.push_back(waits);
        }
        None
    }
}

impl Batch {
    /// The engine has carried them.
    pub(super) fn clear(&mut self) {
        self.commands.clear();
        self.waits.clear();
    }

    /// How many of them are messages of clients.
    pub(super) fn messages(&self) -> usize {
        self.waits.len()
    }

    /// Takes out the messages that are larger than `limit`; how many there were.
    pub(super) fn drop_larger(&mut self, limit: usize) -> usize {
        if self.commands.iter().all(|command| command.len() <= limit) {
            return 0;
        }
        let first = self.commands.len() - self.waits.len();
        let messages = self.commands.split_off(first).into_iter().zip(self.waits.drain(..));
        let (kept, dropped): (Vec<_>, Vec<_>) =
            messages.partition(|(message, _)| message.len() <= limit);
        for (message, waits) in kept {
            self.commands.push(message);
            self.waits.push_back(waits);
        }
        dropped.len()
    }
}

impl Command {
    /// Bytes of a message.
    fn len(&self) -> usize {
        match self {
            Self::Publish(_, bytes) => bytes.len(),
            Self::Subscribe(_) | Self::Unsubscribe(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use tokio::sync::Semaphore;

    use super::*;
    use crate::backplane::subject::Subject;

    fn message(length: usize) -> Command {
        Command::Publish(Subject::all("p", "h"), vec![7; length].into())
    }

    #[tokio::test]
    async fn what_nodes_say_comes_first_and_messages_in_their_order() {
        let (outbox, mut batch) = (Outbox::default(), Batch::default());
        let subscribe = Command::Subscribe(Subject::nodes("p"));
        outbox.push_first(subscribe.clone());
        outbox.open();
        outbox.push(message(1), None);
        outbox.push(message(2), None);
        outbox.push_first(subscribe.clone());
        outbox.take(&mut batch).await;
        assert_eq!(batch.commands, [subscribe, message(1), message(2)]);
    }

    #[tokio::test]
    async fn what_was_perhaps_not_carried_is_carried_first() {
        let (outbox, mut batch) = (Outbox::default(), Batch::default());
        outbox.open();
        outbox.push_first(Command::Subscribe(Subject::nodes("p")));
        outbox.push(message(1), None);
        outbox.push(message(2), None);
        outbox.take(&mut batch).await;
        outbox.push(message(3), None);
        outbox.push_first(Command::Subscribe(Subject::nodes("p")));
        outbox.put_back(std::mem::take(&mut batch));
        outbox.close();
        outbox.take(&mut batch).await;
        assert_eq!(batch.commands, [message(1), message(2), message(3)]);
    }

    #[tokio::test(start_paused = true)]
    async fn messages_are_held_until_their_moment_and_nothing_else_is() {
        let (outbox, mut batch) = (Outbox::default(), Batch::default());
        let (start, hold) = (Instant::now(), Duration::from_secs(6));
        outbox.open();
        outbox.hold(start + hold);
        outbox.push(message(1), None);
        outbox.push_first(Command::Subscribe(Subject::nodes("p")));
        outbox.take(&mut batch).await;
        assert_eq!((batch.commands.len(), batch.messages()), (1, 0));
        batch.clear();
        outbox.take(&mut batch).await;
        assert_eq!((batch.messages(), start.elapsed()), (1, hold));
        batch.clear();
        outbox.hold(start + hold * 2);
        outbox.push(message(1), None);
        outbox.release();
        outbox.take(&mut batch).await;
        assert_eq!((batch.messages(), start.elapsed()), (1, hold), "it is not held any more");
    }

    #[tokio::test]
    async fn a_question_keeps_its_place_and_does_not_outlast_the_engine() {
        let rooms = Arc::new(Semaphore::new(2));
        let room = || Arc::clone(&rooms).try_acquire_owned().unwrap();
        let (outbox, mut batch) = (Outbox::default(), Batch::default());
        assert!(!outbox.push_question(message(7), room()), "there is no engine");
        outbox.open();
        outbox.push(message(1), None);
        assert!(outbox.push_question(message(7), room()));
        outbox.push(message(2), None);
        outbox.take(&mut batch).await;
        assert_eq!(batch.commands, [message(1), message(7), message(2)]);
        assert!(outbox.push_question(message(8), room()));
        outbox.put_back(std::mem::take(&mut batch));
        outbox.close();
        assert_eq!(rooms.available_permits(), 2, "their room is free again");
        outbox.take(&mut batch).await;
        assert_eq!(batch.commands, [message(1), message(2)]);
    }

    #[tokio::test]
    async fn a_batch_is_bounded_and_no_message_is_too_large_for_it() {
        let (outbox, mut batch) = (Outbox::default(), Batch::default());
        (0..3).for_each(|_| outbox.push(message(MAX_BATCH_BYTES), None));
        outbox.take(&mut batch).await;
        assert_eq!(batch.commands.len(), 1);
        batch.clear();
        outbox.take(&mut batch).await;
        assert_eq!((batch.drop_larger(MAX_BATCH_BYTES - 1), batch.messages()), (1, 0));
    }
}
