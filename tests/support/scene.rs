//! A server under attack: how it is seen from outside, before and after.
//!
//! Each fault test ends its scene, and the scene looks at what all of them ask for: a witness is
//! answered promptly, and no connection is left over.

#![allow(dead_code, reason = "each test file uses a part of this")]
#![allow(unreachable_pub, reason = "a module of many crates, each with a face of its own")]

use std::{fs, net::SocketAddr, time::Duration};

use hubnerite::{Config, Server};

use crate::support::{Daemon, RawClient, TestServer, Witness, eventually};

/// A server in this process, and a witness.
pub struct Scene {
    pub server: TestServer,
    pub witness: Witness,
}

impl Scene {
    /// The daemon's routes with these limits.
    pub async fn start(config: Config) -> Self {
        Self::start_with(config, |server| server).await
    }

    /// The daemon's routes behind those that `routes` adds.
    pub async fn start_with(config: Config, routes: impl FnOnce(Server) -> Server) -> Self {
        let server = TestServer::start_with(config, |server| routes(server).daemon_routes()).await;
        let witness = Witness::connect(server.address).await;
        Self { server, witness }
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address
    }

    pub async fn open(&self, path: &str) -> RawClient {
        self.server.open(path).await
    }

    /// Nobody but the witness is left, it is answered promptly, and the server stops as it should.
    pub async fn end(mut self) {
        expect_prompt(&mut self.witness).await;
        eventually("open connections", 1, || self.server.hub.counts().connections).await;
        drop(self.witness);
        self.server.stop().await;
    }
}

/// The daemon as a process of its own, whose memory and processor time can be measured, and a witness.
pub struct Watched {
    pub daemon: Daemon,
    pub witness: Witness,
    files: usize,
}

impl Watched {
    pub async fn start(flags: &[&str]) -> Self {
        Self::over(Daemon::start(flags).await).await
    }

    pub async fn over(daemon: Daemon) -> Self {
        let mut witness = Witness::connect(daemon.address()).await;
        // Some files are opened when it begins to accept.
        witness.expect_prompt_echo().await;
        let files = daemon.open_files();
        Self { daemon, witness, files }
    }

    pub fn address(&self) -> SocketAddr {
        self.daemon.address()
    }

    pub async fn open(&self, path: &str) -> RawClient {
        RawClient::open(self.address(), path).await
    }

    /// The processor time that it has used.
    pub fn processor_time(&self) -> Duration {
        processor_time(self.daemon.pid())
    }

    /// The processor time that it has used since it had used `before`.
    pub fn processor_time_since(&self, before: Duration) -> Duration {
        self.processor_time().saturating_sub(before)
    }

    /// Less than 3 s of processor time are used since it had used `before`.
    pub fn expect_little_work_since(&self, before: Duration) {
        let used = self.processor_time_since(before);
        assert!(used < Duration::from_secs(3), "{used:?} of processor time");
    }

    /// Its memory is less than so many bytes above what it was `before`.
    pub fn expect_growth_below(&self, bytes: u64, before: u64) {
        let grown = self.daemon.resident_bytes().saturating_sub(before);
        assert!(grown < bytes, "grown by {grown} bytes");
    }

    /// It has given back every socket but that of the witness, which is answered promptly, and it stops as it should.
    pub async fn end(mut self) {
        expect_prompt(&mut self.witness).await;
        eventually("open files", self.files, || self.daemon.open_files()).await;
        drop(self.witness);
        self.daemon.stop().await;
    }
}

/// User and system time of a process.
pub fn processor_time(pid: u32) -> Duration {
    const TICK: Duration = Duration::from_millis(10);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name in parentheses may have spaces in it; the fields that follow it are numbered from 3.
    let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks = |field: usize| fields[field - 3].parse::<u32>().unwrap();
    TICK * (ticks(14) + ticks(15))
}

/// Echoes within 100 ms. The machine is shared: measured up to three times.
pub async fn expect_prompt(witness: &mut Witness) {
    for _ in 0..2 {
        if witness.echo().await <= Duration::from_millis(100) {
            return;
        }
    }
    witness.expect_prompt_echo().await;
}
