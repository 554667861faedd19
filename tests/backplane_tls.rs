//! Servers joined by engines that speak TLS, under an authority that no system knows: Redis, also
//! behind a Sentinel, and NATS.

#![cfg(all(any(feature = "nats", feature = "redis"), feature = "tls"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

#[allow(dead_code, unused_imports, reason = "some of the promises are enough here")]
mod contract;
mod support;

use std::{marker::PhantomData, process::Command};

use hubnerite::Backplane;
use support::{Authority, Daemon, EngineServer, Failed, eventually_within};

use crate::contract::Bench;

/// An engine that shows a certificate, and asks for one and for a password.
struct Secure<E> {
    server: EngineServer,
    authority: Authority,
    engine: PhantomData<E>,
}

/// What is different from one to another.
trait Engine: Sized {
    /// Of the URL.
    const SCHEME: &str;

    /// A server whose certificates are in this folder.
    fn command(port: u16, folder: &str, pem: &str) -> Command;

    /// [`Bench::publish`].
    fn publish(to: &Secure<Self>, subject: &str, bytes: &[u8]) -> impl Future<Output = ()>;
}

impl<E: Engine> Secure<E> {
    fn url(&self, rest: &str) -> String {
        format!("{}://node:s3cret@localhost:{}{rest}", E::SCHEME, self.server.port)
    }

    /// Behind a URL.
    fn files(&self) -> String {
        let [ca, cert, key] = ["ca.pem", "node.pem", "node.key"].map(|n| self.authority.path(n));
        format!("?ca={ca}&cert={cert}&key={key}")
    }
}

impl<E: Engine> Bench for Secure<E> {
    async fn start() -> Self {
        let authority = Authority::new();
        sign(&authority);
        let pem = authority.path("");
        let server = EngineServer::start(move |port, folder| E::command(port, folder, &pem)).await;
        Self { server, authority, engine: PhantomData }
    }

    fn backplane(&self) -> Backplane {
        Backplane::new(&self.url(&self.files())).unwrap()
    }

    async fn publish(&self, subject: &str, bytes: &[u8]) {
        E::publish(self, subject, bytes).await;
    }

    async fn stop(&mut self) {
        self.server.kill();
    }

    /// With a certificate of another authority: the files are read for each connection.
    async fn restart(&mut self) {
        self.authority.renew();
        sign(&self.authority);
        self.server.revive().await;
    }

    fn pause(&self) {
        self.server.signal("STOP");
    }

    fn resume(&self) {
        self.server.signal("CONT");
    }
}

fn sign(authority: &Authority) {
    authority.sign("server");
    authority.sign("node");
}

/// Why a daemon cannot use the engine at this URL.
async fn refusal(url: &str) -> String {
    let mut daemon = Daemon::start(&["--backplane", url]).await;
    let line = daemon.log_line(" is lost: ").await;
    for never in ["joined by", "s3cret"] {
        assert!(!daemon.log().iter().any(|line| line.contains(never)), "{:#?}", daemon.log());
    }
    line
}

/// On a busy machine a handshake may take longer than either side waits: then another daemon asks.
async fn expect_refusal(url: &str, rule: &str) {
    let ask = async || {
        let why = refusal(url).await;
        if why.contains(rule) { rule.to_owned() } else { why }
    };
    eventually_within(contract::RETURN, url, rule.to_owned(), ask).await;
}

/// Refused: an authority or a name that is not the right one, no certificate of ours, and `rest`.
async fn expect_refusals<E: Engine>(bench: &Secure<E>, rest: &[(String, &str)]) {
    let (files, other) = (bench.files(), Authority::new());
    let ca = |authority: &Authority| format!("?ca={}", authority.path("ca.pem"));
    let each = [
        (bench.url(""), "invalid peer certificate"),
        (bench.url(&ca(&other)), "invalid peer certificate"),
        (bench.url(&files).replace("localhost", "127.0.0.1"), "not valid for name"),
        (bench.url(&ca(&bench.authority)), "received fatal alert"),
    ];
    for (url, rule) in each.iter().chain(rest) {
        expect_refusal(url, rule).await;
    }
}

#[cfg(feature = "redis")]
mod redis {
    use std::process::Stdio;

    use hubnerite::Config;
    use serde_json::json;
    use tokio::{io::AsyncWriteExt, process};

    use super::{
        Backplane, Bench, Command, Engine, EngineServer, Secure, contract, expect_refusals,
    };
    use crate::{
        contract::Node,
        support::{command, within},
    };

    struct Redis;

    /// Flags, or lines of a file, after what begins them.
    fn settings(port: u16, pem: &str, begin: &str) -> String {
        [
            "port 0".to_owned(),
            format!("tls-port {port}"),
            "bind 127.0.0.1".to_owned(),
            format!("tls-cert-file {pem}server.pem"),
            format!("tls-key-file {pem}server.key"),
            format!("tls-ca-cert-file {pem}ca.pem"),
        ]
        .map(|setting| format!("{begin}{setting}\n"))
        .concat()
    }

    impl Engine for Redis {
        const SCHEME: &str = "rediss";

        fn command(port: u16, folder: &str, pem: &str) -> Command {
            let rights = "on >s3cret &hubnerite.* +hello +publish +subscribe +unsubscribe";
            let users = format!("--user node {rights} --user asking {rights} +role");
            let flags = settings(port, pem, "--");
            command("redis-server", &format!("{flags} {users} --dir {folder} --save"))
        }

        async fn publish(to: &Secure<Self>, subject: &str, bytes: &[u8]) {
            let mut publish = cli(to).args(["-x", "PUBLISH", subject]).spawn().unwrap();
            publish.stdin.take().unwrap().write_all(bytes).await.unwrap();
            assert!(within("redis-cli", publish.wait()).await.unwrap().success());
        }
    }

    /// `redis-cli`, connected to it.
    fn cli(to: &Secure<Redis>) -> process::Command {
        let path = |name| to.authority.path(name);
        let mut cli = process::Command::new("redis-cli");
        cli.args(["-h", "localhost", "-p", &to.server.port.to_string(), "--tls"])
            .args(["--cacert", &path("ca.pem"), "--cert", &path("node.pem")])
            .args(["--key", &path("node.key")])
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        cli
    }

    contract! { @ Secure<Redis> [ignore = "needs redis-server: the step redis of tests/all"]
        every_target_is_reached_and_nobody_else
        binary_payloads_and_large_ones_arrive_as_they_were
        a_backend_publishes_with_a_line_of_json
        a_restarted_engine_joins_all_again_and_a_gap_is_told_once
    }

    #[tokio::test]
    #[ignore = "needs redis-server: the step redis of tests/all"]
    async fn a_server_that_cannot_be_believed_is_not_used() {
        let bench = Secure::<Redis>::start().await;
        let plain = bench.url("").replace("rediss", "redis");
        expect_refusals(&bench, &[(plain, "")]).await;
    }

    #[tokio::test]
    #[ignore = "needs redis-server: the step redis of tests/all"]
    async fn a_sentinel_names_the_primary() {
        let bench = Secure::<Redis>::start().await;
        let (pem, watched) = (bench.authority.path(""), bench.server.port);
        let sentinel = EngineServer::start(move |port, folder| {
            let config = format!("{folder}/sentinel.conf");
            let text = format!(
                "{}tls-replication yes\nsentinel resolve-hostnames yes\n\
                 sentinel announce-hostnames yes\nsentinel monitor main localhost {watched} 1\n",
                settings(port, &pem, "")
            );
            std::fs::write(&config, text).unwrap();
            command("redis-server", &format!("{config} --sentinel --dir {folder}"))
        })
        .await;
        let url = format!(
            "rediss+sentinel://asking:s3cret@localhost:{}/main{}",
            sentinel.port,
            bench.files()
        );
        let start = || Node::start(Config::default(), Backplane::new(&url).unwrap());
        let (one, other) = (start().await, start().await);
        let (mut ann, mut ben) = (one.user("ann").await, other.user("ben").await);
        ann.send(&json!({"type": "sendToUser", "user": "ben", "data": 1})).await;
        assert_eq!(ben.next().await["data"], 1);
    }

    #[tokio::test]
    #[ignore = "needs redis-server: the step redis of tests/all"]
    async fn commands_come_the_same_way() {
        let bench = Secure::<Redis>::start().await;
        // Who reads a stream needs more rights.
        let url = bench.url(&bench.files()).replace("node:s3cret@", "");
        let backplane = Backplane::new(&url).unwrap().commands_from(&url, "redis-stream:todo");
        let node = Node::start(Config::default(), backplane.unwrap()).await;
        let mut ann = node.user("ann").await;
        let command = r#"{"to":{"user":"ann"},"data":1}"#;
        let status = cli(&bench).args(["XADD", "todo", "*", "command", command]).status();
        assert!(within("redis-cli", status).await.unwrap().success());
        assert_eq!(ann.next().await["data"], 1);
    }
}

#[cfg(feature = "nats")]
mod nats {
    use std::sync::Arc;

    use tokio::{io::AsyncReadExt, net::TcpStream};
    use tokio_rustls::{
        TlsConnector,
        rustls::{pki_types::ServerName, version::TLS13},
    };

    use super::{Bench, Command, Engine, EngineServer, Secure, contract, expect_refusals};
    use crate::{
        contract::served::publish_to_nats,
        support::{command, within},
    };

    /// A server that asks for TLS.
    struct Nats;

    impl Engine for Nats {
        const SCHEME: &str = "nats";

        fn command(port: u16, folder: &str, pem: &str) -> Command {
            let config = format!("{folder}/nats.conf");
            let files = format!("cert_file: \"{pem}server.pem\", key_file: \"{pem}server.key\"");
            let tls = format!("tls {{ {files}, ca_file: \"{pem}ca.pem\", verify: true }}");
            let user = "authorization { user: node, password: s3cret }";
            std::fs::write(&config, format!("max_payload: 8MB\n{tls}\n{user}\n")).unwrap();
            command("nats-server", &format!("--config {config} --addr 127.0.0.1 --port {port}"))
        }

        async fn publish(to: &Secure<Self>, subject: &str, bytes: &[u8]) {
            let mut stream = TcpStream::connect(("127.0.0.1", to.server.port)).await.unwrap();
            while within("its first line", stream.read_u8()).await.unwrap() != b'\n' {}
            let config = Arc::new(to.authority.client(&[&TLS13], Some("node")));
            let name = ServerName::try_from("localhost").unwrap();
            let stream = TlsConnector::from(config).connect(name, stream).await.unwrap();
            let login = r#"{"verbose":false,"user":"node","pass":"s3cret"}"#;
            publish_to_nats(stream, login, subject, bytes).await;
        }
    }

    contract! { @ Secure<Nats> [ignore = "needs nats-server: the step nats of tests/all"]
        every_target_is_reached_and_nobody_else
        binary_payloads_and_large_ones_arrive_as_they_were
        a_backend_publishes_with_a_line_of_json
        a_restarted_engine_joins_all_again_and_a_gap_is_told_once
    }

    #[tokio::test]
    #[ignore = "needs nats-server: the step nats of tests/all"]
    async fn a_server_that_cannot_be_believed_is_not_used() {
        let bench = Secure::<Nats>::start().await;
        let insistent = bench.url("").replace("nats", "tls");
        expect_refusals(&bench, &[(insistent, "invalid peer certificate")]).await;
    }

    /// Neither where the URL says TLS nor where it names files for it, whatever the server says.
    #[tokio::test]
    #[ignore = "needs nats-server: the step nats of tests/all"]
    async fn nothing_is_said_in_plain_text_where_tls_is_wanted() {
        let plain = EngineServer::nats("").await;
        let (authority, port) = (super::Authority::new(), plain.port);
        for url in [
            format!("tls://localhost:{port}"),
            format!("nats://localhost:{port}?ca={}", authority.path("ca.pem")),
        ] {
            super::expect_refusal(&url, "corrupt message").await;
        }
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_named() {
    let authority = Authority::new();
    sign(&authority);
    let [ca, cert, missing] = ["ca.pem", "node.pem", "missing.pem"].map(|n| authority.path(n));
    let (scheme, user) =
        if cfg!(feature = "redis") { ("rediss", "ann:s3cret") } else { ("tls", "s3cret") };
    for (query, file, rule) in [
        (format!("ca={missing}"), &missing, "No such file"),
        (
            format!("ca={}", authority.path("node.key")),
            &authority.path("node.key"),
            "no certificate",
        ),
        (format!("ca={ca}&cert={cert}&key={cert}"), &cert, "no items found"),
    ] {
        let ended =
            Failed::of(&["--backplane", &format!("{scheme}://{user}@localhost?{query}")]).await;
        assert_eq!(ended.code, Some(2), "{}", ended.stderr);
        for part in ["--backplane: ", file.as_str(), rule] {
            assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
        }
        assert!(!ended.stderr.contains("s3cret"), "{}", ended.stderr);
    }
}
