//! Servers joined by the shards of a Redis Cluster.

#![cfg(feature = "redis")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod contract;
mod support;

use std::process::Stdio;

use hubnerite::Backplane;
use support::{EngineServer, command, eventually_within, free_port, within};
use tokio::{io::AsyncWriteExt, process};

use crate::contract::Bench;

const SLOTS: usize = 16384;

/// Three servers, each with a third of the slots. What happens to the engine happens to them all.
struct Cluster([EngineServer; 3]);

impl Cluster {
    fn url(&self) -> String {
        let hosts = self.0.each_ref().map(|server| format!("127.0.0.1:{}", server.port));
        format!("redis://{}", hosts.join(","))
    }

    /// All of them know that all slots are served.
    async fn until_whole(&self) {
        for server in &self.0 {
            eventually_within(contract::RETURN, "the cluster's state", true, async || {
                ask(server, "cluster info").await.contains("cluster_state:ok")
            })
            .await;
        }
    }
}

/// A server of a cluster, which speaks to the others on a port that stays the same too.
async fn server() -> (EngineServer, u16) {
    let others = free_port();
    let start = move |port, folder: &str| {
        let cluster = "--cluster-enabled yes --cluster-node-timeout 2000";
        let ports = format!("--port {port} --cluster-port {others} --bind 127.0.0.1");
        command("redis-server", &format!("{ports} {cluster} --dir {folder} --save"))
    };
    (EngineServer::start(start).await, others)
}

/// What `redis-cli` says to a line.
async fn ask(server: &EngineServer, line: &str) -> String {
    let flags = ["-p", &server.port.to_string()];
    let asked = process::Command::new("redis-cli").args(flags).args(line.split(' ')).output();
    let answer = within("redis-cli", asked).await.unwrap();
    String::from_utf8(answer.stdout).unwrap()
}

impl Bench for Cluster {
    const ONE_ORDER: bool = false;

    async fn start() -> Self {
        let servers = [server().await, server().await, server().await];
        let first = &servers[0].0;
        for (place, (server, others)) in servers.iter().enumerate() {
            let [from, to] = [place, place + 1].map(|place| SLOTS * place / servers.len());
            let slots = format!("cluster addslotsrange {from} {}", to - 1);
            let epoch = format!("cluster set-config-epoch {}", place + 1);
            let meet = format!("cluster meet 127.0.0.1 {} {others}", server.port);
            for (asked, line) in [(server, slots), (server, epoch), (first, meet)] {
                assert_eq!(ask(asked, &line).await, "OK\n", "{line}");
            }
        }
        let cluster = Self(servers.map(|(server, _)| server));
        cluster.until_whole().await;
        cluster
    }

    fn backplane(&self) -> Backplane {
        Backplane::sharded(&self.url()).unwrap()
    }

    async fn publish(&self, subject: &str, bytes: &[u8]) {
        let mut publish = process::Command::new("redis-cli")
            .args(["-c", "-p", &self.0[0].port.to_string(), "-x", "SPUBLISH", subject])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        publish.stdin.take().unwrap().write_all(bytes).await.unwrap();
        assert!(within("redis-cli", publish.wait()).await.unwrap().success());
    }

    async fn stop(&mut self) {
        for server in &mut self.0 {
            server.kill();
        }
    }

    async fn restart(&mut self) {
        for server in &mut self.0 {
            server.revive().await;
        }
    }

    fn pause(&self) {
        for server in &self.0 {
            server.signal("STOP");
        }
    }

    fn resume(&self) {
        for server in &self.0 {
            server.signal("CONT");
        }
    }
}

contract!(Cluster, ignore = "needs redis-server: the step redis of tests/all");
