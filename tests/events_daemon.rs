//! Event handlers of the daemon as a process of its own: flags, and `https`.

#![cfg(feature = "control")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]
#![allow(missing_docs, reason = "the names are the statements")]

mod support;

use support::{Backend, Daemon, Failed, JsonClient, RawClient, status};

#[tokio::test]
async fn the_flags_say_where_events_go_and_which() {
    let mut backend = Backend::answering(status(204)).await;
    let url = format!("--event-handler=http://{}/hubs/{{hub}}/{{event}}", backend.address);
    let flags = [&*url, "--events=connect,disconnected", "--event-timeout=1s"];
    let daemon = Daemon::start(
        &[&flags[..], &["--event-concurrency=1", "--event-origin=hub.example.com"]].concat(),
    )
    .await;
    let client = JsonClient::in_hub(daemon.address(), "chat").await;
    let connect = backend.expect("connect").await;
    assert_eq!(connect.path, "/hubs/chat/connect");
    assert_eq!(connect.header("webhook-request-origin"), "hub.example.com");
    drop(client);
    assert_eq!(backend.expect("disconnected").await.path, "/hubs/chat/disconnected");
    daemon.stop().await;
    backend.expect_nothing();
}

#[tokio::test]
async fn a_daemon_that_stops_tells_of_the_end_of_its_connections() {
    let mut backend = Backend::answering(status(204)).await;
    let url = format!("--event-handler=http://{}/", backend.address);
    let mut daemon = Daemon::start(&[&url, "--events=disconnected"]).await;
    let mut client = RawClient::open(daemon.address(), "/client/hubs/chat").await;
    daemon.signal("TERM").await;
    assert_eq!(client.expect_close().await.0, 1012);
    client.finish_close().await;
    drop(client);
    backend.expect("disconnected").await;
    assert_eq!(daemon.end().await.code(), Some(0));
}

#[tokio::test]
async fn a_wrong_flag_is_named_and_a_password_is_not_repeated() {
    for (flag, rule) in [
        ("--event-handler=http://user:secret@example.com/", "user or password"),
        ("--event-handler=ftp://secret.example.com/", "expected http"),
        ("--event-handler=http://example.com/{secret}", "no other braces"),
        ("--event-timeout=secret", "--event-timeout"),
        ("--event-concurrency=0", "--event-concurrency"),
        ("--events=connect", "--event-handler"),
    ] {
        let ended = Failed::of(&[flag]).await;
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(ended.stderr.contains(rule), "{ended:?}");
        let is_url = flag.starts_with("--event-handler");
        assert!(!is_url || !ended.stderr.contains("secret"), "{ended:?}");
    }
}

#[cfg(feature = "tls")]
mod tls {
    use std::{fs, path::PathBuf, sync::Arc};

    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use support::hubnerite;
    use tokio::{
        net::{TcpListener, TcpStream},
        task::JoinSet,
    };
    use tokio_rustls::{
        TlsAcceptor,
        rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer},
    };

    use super::*;

    /// Decrypts for a backend that speaks plain HTTP. Dropped, it is down.
    async fn https_before(
        backend: &Backend,
        certified: &CertifiedKey<rcgen::KeyPair>,
    ) -> (u16, JoinSet<()>) {
        let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key)
            .unwrap();
        let (acceptor, address) = (TlsAcceptor::from(Arc::new(config)), backend.address);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                connections.spawn(async move {
                    // Who does not trust the certificate gets no further.
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let mut plain = TcpStream::connect(address).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut plain).await;
                });
            }
        });
        (port, tasks)
    }

    /// The status that a client gets from a daemon that trusts this certificate.
    async fn status_with(port: u16, trusted: &str, name: &str) -> u16 {
        let folder = std::env::temp_dir();
        let path: PathBuf = folder.join(format!("hubnerite-{name}-{}.pem", std::process::id()));
        fs::write(&path, trusted).unwrap();
        let url = format!("--event-handler=https://localhost:{port}/");
        let mut command = hubnerite(&[&url, "--listen=127.0.0.1:0"]);
        command.env("SSL_CERT_FILE", &path).env_remove("SSL_CERT_DIR");
        let daemon = Daemon::spawn(command, 1).await;
        fs::remove_file(&path).unwrap();
        let mut client = RawClient::connect(daemon.address()).await;
        let answer = client.request(support::upgrade("/client/hubs/chat")).await;
        drop(client);
        daemon.stop().await;
        answer.status
    }

    #[tokio::test]
    async fn a_handler_with_https_needs_a_certificate_that_the_system_trusts() {
        let backend = Backend::answering(status(204)).await;
        let certified = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let other = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (port, _tasks) = https_before(&backend, &certified).await;
        assert_eq!(status_with(port, &certified.cert.pem(), "trusted").await, 101);
        assert_eq!(status_with(port, &other.cert.pem(), "other").await, 502);
    }
}
