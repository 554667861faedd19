//! A real engine for a test: a process of its own, on a port of its own. The crate's own tests
//! use it too.

#![allow(dead_code, reason = "each user uses a part of this")]
#![allow(unreachable_pub, reason = "a module of many crates, each with a face of its own")]

use std::{
    collections::BTreeSet,
    fs,
    net::Ipv4Addr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    net::{TcpSocket, TcpStream},
    time::interval,
};

/// How long it may take to start.
const START: Duration = Duration::from_secs(20);

/// Starts a server on a port, with a folder for its files.
type Start = Box<dyn Fn(u16, &str) -> Command + Send>;

/// What has to be done on that port once it takes connections.
type Prepare = Box<dyn Fn(u16) + Send>;

/// A server that runs. Dropped, it is killed.
pub struct EngineServer {
    pub port: u16,
    folder: PathBuf,
    start: Start,
    prepare: Prepare,
    process: Child,
}

impl EngineServer {
    /// Starts it and waits until it takes connections.
    pub async fn start(start: impl Fn(u16, &str) -> Command + Send + 'static) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name =
            format!("hubnerite-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        let port = free_port();
        let process = spawn(start(port, folder.to_str().unwrap()), port).await;
        Self { port, folder, start: Box::new(start), prepare: Box::new(|_| ()), process }
    }

    /// Prepares it now, and whenever it is started anew.
    pub fn prepared(mut self, prepare: impl Fn(u16) + Send + 'static) -> Self {
        prepare(self.port);
        self.prepare = Box::new(prepare);
        self
    }

    /// `redis-server`, with these flags too.
    pub async fn redis(flags: &'static str) -> Self {
        Self::start(move |port, folder| {
            let base = format!("--port {port} --bind 127.0.0.1 --dir {folder} --save {flags}");
            command("redis-server", &base)
        })
        .await
    }

    /// `nats-server`, with these settings too.
    pub async fn nats(settings: &'static str) -> Self {
        Self::start(move |port, folder| {
            let config = format!("{folder}/nats.conf");
            let text = format!("listen: \"127.0.0.1:{port}\"\nmax_payload: 8MB\n{settings}\n");
            fs::write(&config, text).unwrap();
            command("nats-server", &format!("--config {config}"))
        })
        .await
    }

    /// `tansu`, a Kafka broker, with a topic `hub`. When it is killed it has kept nothing: started
    /// anew, it has the topic again, and nothing in it. While several produce, who reads may miss a
    /// message in some thousands: it is not for several nodes.
    pub async fn tansu(partitions: u32) -> Self {
        let url = |port| format!("tcp://127.0.0.1:{port}");
        let start = move |port, _: &str| {
            let flags = format!("--listener-url {0} --advertised-listener-url {0}", url(port));
            command("tansu", &format!("broker {flags} --storage-engine memory://tansu/"))
        };
        let create = move |port| {
            let flags = format!("--partitions {partitions} --config max.message.bytes=8388608");
            run(&mut command("tansu", &format!("topic create hub --broker {} {flags}", url(port))));
        };
        Self::start(start).await.prepared(create)
    }

    /// Ends it, without a word to anybody.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it anew on the same port, when it was killed.
    pub async fn revive(&mut self) {
        let command = (self.start)(self.port, self.folder.to_str().unwrap());
        self.process = spawn(command, self.port).await;
        (self.prepare)(self.port);
    }

    /// `STOP` and `CONT`: it keeps its connections and says nothing.
    pub fn signal(&self, name: &str) {
        run(&mut command("kill", &format!("-s {name} {}", self.process.id())));
    }
}

impl Drop for EngineServer {
    fn drop(&mut self) {
        // It may have been killed before.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A port that nobody listens on, and that no other test of this process was given.
///
/// To find it, it is bound and not listened on: what another thread starts meanwhile holds a copy
/// of the socket until its program runs, and would take connections for a server that is not there
/// yet, only to reset them.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let socket = TcpSocket::new_v4().unwrap();
        // With that copy about, a server may still take the port.
        socket.set_reuseaddr(true).unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let port = socket.local_addr().unwrap().port();
        if GIVEN.lock().unwrap().insert(port) {
            return port;
        }
    }
}

/// A command, its flags one after another in a line.
pub fn command(program: &str, flags: &str) -> Command {
    let mut command = Command::new(program);
    command.args(flags.split_whitespace());
    command
}

/// Runs a command that must succeed.
fn run(command: &mut Command) {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{command:?}: {done:?}");
}

async fn spawn(mut command: Command, port: u16) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let program = command.get_program().to_string_lossy().into_owned();
    let process = command.spawn().unwrap_or_else(|error| panic!("{program}: {error}"));
    let (since, mut again) = (Instant::now(), interval(Duration::from_millis(10)));
    while !is_served(port).await {
        assert!(since.elapsed() < START, "{program} takes no connections");
        again.tick().await;
    }
    process
}

/// Whether a server takes connections. Where there is none, one may be connected to itself.
async fn is_served(port: u16) -> bool {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await;
    stream.is_ok_and(|stream| stream.local_addr().ok() != stream.peer_addr().ok())
}
