//! An engine that joins servers of one process: the twin of the real ones, for tests.

use std::{
    collections::{HashMap, HashSet},
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use super::{
    engine::{Command, Engine, Inbound, Io, Link, Outbound},
    subject::Subject,
};

/// Joins servers of one process. Every clone is the same engine.
///
/// ```
/// use hubnerite::{Backplane, Memory, Server};
///
/// let engine = Memory::default();
/// let one = Server::new().backplane(Backplane::over(&engine));
/// let other = Server::new().backplane(Backplane::over(&engine));
/// ```
///
/// Its switches do what happens to real ones: [`stop`](Self::stop) is a crash,
/// [`pause`](Self::pause) a process that hangs.
#[derive(Clone, Default)]
pub struct Memory(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    mode: watch::Sender<Mode>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Running,
    Paused,
    Stopped,
}

#[derive(Default)]
struct State {
    last_link: u64,
    links: HashMap<u64, Subscriber>,
}

/// One that listens. What it has not taken yet waits in memory.
struct Subscriber {
    subjects: HashSet<Subject>,
    messages: mpsc::UnboundedSender<Bytes>,
}

impl Memory {
    /// The largest message that it takes, in bytes.
    pub const MAX_MESSAGE: usize = 8 << 20;

    /// Ends every connection and takes no others until it is started again.
    pub fn stop(&self) {
        self.0.mode.send_replace(Mode::Stopped);
        self.0.lock().links.clear();
    }

    /// Keeps every connection and carries nothing until it is started again.
    pub fn pause(&self) {
        self.0.mode.send_replace(Mode::Paused);
    }

    /// Goes on.
    pub fn start(&self) {
        self.0.mode.send_replace(Mode::Running);
    }

    /// Brings these bytes to whoever has subscribed to the subject, as a backend might.
    pub fn publish(&self, subject: &str, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        for link in self.0.lock().links.values() {
            if link.subjects.iter().any(|known| known.as_str() == subject) {
                link.take(&bytes);
            }
        }
    }
}

impl Default for Shared {
    fn default() -> Self {
        Self { state: Mutex::default(), mode: watch::Sender::new(Mode::Running) }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while it is paused.
    async fn running(&self) -> io::Result<()> {
        let mut mode = self.mode.subscribe();
        let mode = mode.wait_for(|mode| *mode != Mode::Paused).await;
        match mode.map(|mode| *mode) {
            Ok(Mode::Running) => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::ConnectionRefused, "the engine is stopped")),
        }
    }
}

impl State {
    fn carry(&mut self, number: u64, command: &Command) -> io::Result<()> {
        let gone = || io::Error::from(io::ErrorKind::ConnectionReset);
        let link = self.links.get_mut(&number).ok_or_else(gone)?;
        match command {
            Command::Subscribe(subject) => {
                link.subjects.insert(subject.clone());
            }
            Command::Unsubscribe(subject) => {
                link.subjects.remove(subject);
            }
            Command::Publish(subject, bytes) => {
                let receivers = self.links.values().filter(|one| one.subjects.contains(subject));
                receivers.for_each(|one| one.take(bytes));
            }
        }
        Ok(())
    }
}

impl Subscriber {
    fn take(&self, bytes: &Bytes) {
        // One that has gone hears nothing.
        let _ = self.messages.send(bytes.clone());
    }
}

impl Engine for Memory {
    fn connect(&self) -> Io<'_, Link> {
        Box::pin(async {
            self.0.running().await?;
            let (sender, messages) = mpsc::unbounded_channel();
            let mut state = self.0.lock();
            state.last_link += 1;
            let number = state.last_link;
            let subscriber = Subscriber { subjects: HashSet::new(), messages: sender };
            state.links.insert(number, subscriber);
            let outbound = Box::new(Speaker { engine: self.clone(), number });
            Ok(Link { outbound, inbound: Box::new(Listener(messages)) })
        })
    }

    fn address(&self) -> &'static str {
        "memory"
    }
}

struct Speaker {
    engine: Memory,
    number: u64,
}

impl Outbound for Speaker {
    fn carry<'a>(&'a mut self, commands: &'a [Command]) -> Io<'a, ()> {
        Box::pin(async {
            self.engine.0.running().await?;
            let mut state = self.engine.0.lock();
            commands.iter().try_for_each(|command| state.carry(self.number, command))
        })
    }

    fn max_message(&self) -> usize {
        Memory::MAX_MESSAGE
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        self.engine.0.lock().links.remove(&self.number);
    }
}

struct Listener(mpsc::UnboundedReceiver<Bytes>);

impl Inbound for Listener {
    fn receive(&mut self) -> Io<'_, Bytes> {
        Box::pin(async {
            self.0.recv().await.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionReset))
        })
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("mode", &*self.0.mode.borrow()).finish_non_exhaustive()
    }
}
