//! The daemon as a process of its own.

use std::{
    net::SocketAddr,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStderr, Command},
    sync::watch,
};

use super::within;

/// A daemon that listens. Dropped, it is killed.
pub struct Daemon {
    child: Child,
    /// What it says that it listens on, in the order of its flags.
    pub listening: Vec<String>,
    log: Arc<Mutex<Vec<String>>>,
    news: watch::Receiver<()>,
}

/// What came of a daemon that ended by itself.
#[derive(Debug)]
pub struct Failed {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// The daemon's command, with none of its environment variables set.
pub fn hubnerite(flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hubnerite"));
    command.args(flags).stdin(Stdio::null()).kill_on_drop(true);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("HUBNERITE_") {
            command.env_remove(name);
        }
    }
    command
}

impl Daemon {
    /// Starts it with these flags, on a free port of 127.0.0.1 unless they say where.
    pub async fn start(flags: &[&str]) -> Self {
        let listens = flags.iter().filter(|flag| flag.starts_with("--listen")).count();
        let mut command = hubnerite(flags);
        if listens == 0 {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        Self::spawn(command, listens.max(1)).await
    }

    /// Starts it and waits until it says that it listens on that many addresses.
    pub async fn spawn(mut command: Command, listens: usize) -> Self {
        // Tests run beside each other, and the default port for backends is one.
        command.env("HUBNERITE_CONTROL", "127.0.0.1:0");
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let (sender, news) = watch::channel(());
        let log = Arc::new(Mutex::new(Vec::new()));
        tokio::spawn(keep_lines(stderr, Arc::clone(&log), sender));
        let mut daemon = Self { child, listening: Vec::new(), log, news };
        let is_listening = |line: &String| line.contains("listening on ");
        daemon
            .log_until("its addresses", |log| {
                log.iter().filter(|l| is_listening(l)).count() >= listens
            })
            .await;
        let lines = daemon.log().into_iter().filter(is_listening);
        daemon.listening = lines.map(|line| address_in(&line)).collect();
        daemon
    }

    /// The first internet address that it listens on.
    pub fn address(&self) -> SocketAddr {
        let mut addresses = self.listening.iter().filter_map(|address| address.parse().ok());
        addresses.next().unwrap_or_else(|| panic!("no address among {:?}", self.listening))
    }

    pub fn pid(&self) -> u32 {
        self.child.id().expect("a running daemon")
    }

    /// What it has logged so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// Waits for a line with this text in it, and returns the first one.
    pub async fn log_line(&mut self, text: &str) -> String {
        let found = |log: &[String]| log.iter().any(|line| line.contains(text));
        self.log_until(text, found).await;
        self.log().into_iter().find(|line| line.contains(text)).unwrap()
    }

    async fn log_until(&mut self, what: &str, found: impl Fn(&[String]) -> bool) {
        let seen = async {
            while !found(&self.log.lock().unwrap()) {
                let ended = self.news.changed().await.is_err();
                let log = self.log.lock().unwrap();
                assert!(!ended || found(&log), "the daemon ended without {what}: {log:#?}");
            }
        };
        within(what, seen).await;
    }

    /// Sends a signal by its name, `TERM` or `INT`.
    pub async fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.pid());
        let status = Command::new("sh").args(["-c", &kill]).status();
        assert!(within("kill", status).await.unwrap().success(), "{kill}");
    }

    /// Waits for its end.
    pub async fn end(&mut self) -> ExitStatus {
        within("the daemon's end", self.child.wait()).await.unwrap()
    }

    /// Asks it to stop, and expects exit code 0.
    pub async fn stop(mut self) {
        self.signal("TERM").await;
        assert_eq!(self.end().await.code(), Some(0), "{:#?}", self.log());
    }

    /// The memory that it holds, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
    }

    /// The files that it holds open.
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }
}

impl Failed {
    /// Runs a daemon with these flags that is to end by itself.
    pub async fn of(flags: &[&str]) -> Self {
        Self::run(hubnerite(flags)).await
    }

    /// Runs a command that is to end by itself.
    pub async fn run(mut command: Command) -> Self {
        let output = within("the daemon's end", command.output()).await.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

async fn keep_lines(stderr: ChildStderr, log: Arc<Mutex<Vec<String>>>, news: watch::Sender<()>) {
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        log.lock().unwrap().push(line);
        news.send_replace(());
    }
}

/// `127.0.0.1:8000` or `unix:PATH`, with or without a scheme before it and words behind it.
fn address_in(line: &str) -> String {
    let rest = line.split_once("listening on ").unwrap().1;
    let word = rest.split([' ', ',']).next().unwrap();
    word.split_once("://").map_or(word, |(_, address)| address).to_owned()
}
