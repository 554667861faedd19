//! TLS, on the daemon as a process of its own.

#![cfg(feature = "tls")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]
#![allow(missing_docs, reason = "the names are the statements")]

mod support;

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{io::AsyncReadExt, net::TcpStream};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        SupportedProtocolVersion,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
        version::{TLS12, TLS13},
    },
};

use support::{Authority, ClientFrame, Daemon, RawClient, upgrade, within};

fn flags(authority: &Authority) -> [String; 2] {
    let (certificate, key) = (authority.path("server.pem"), authority.path("server.key"));
    [format!("--tls-cert={certificate}"), format!("--tls-key={key}")]
}

/// Connects with these versions, and this certificate if one is named.
async fn connect(
    authority: &Authority,
    daemon: &Daemon,
    versions: &[&'static SupportedProtocolVersion],
    identity: Option<&str>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut config = authority.client(versions, identity);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = TcpStream::connect(daemon.address()).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    within("a TLS handshake", connecting).await
}

async fn expect_echo(client: &mut RawClient<TlsStream<TcpStream>>, text: &str) {
    client.send(ClientFrame::text(text)).await;
    client.expect_text(text).await;
}

#[tokio::test]
async fn both_versions_of_tls_carry_messages() {
    let authority = Authority::new();
    authority.sign("server");
    let flags = flags(&authority);
    let daemon = Daemon::start(&[&flags[0], &flags[1]]).await;
    for version in [&TLS12, &TLS13] {
        let stream = connect(&authority, &daemon, &[version], None).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        let mut client = RawClient::over(stream);
        assert_eq!(client.handshake("/echo").await.status, 101);
        expect_echo(&mut client, "hello").await;
        expect_echo(&mut client, &"large ".repeat(20_000)).await;
        client.send(ClientFrame::close(1000, "")).await;
        assert_eq!(client.expect_close().await.0, 1000);
    }
    daemon.stop().await;
}

#[tokio::test]
async fn plain_text_on_a_tls_port_is_400_and_tls_on_a_plain_port_too() {
    let authority = Authority::new();
    authority.sign("server");
    let flags = flags(&authority);
    let daemon = Daemon::start(&[&flags[0], &flags[1]]).await;
    let answer = RawClient::connect(daemon.address()).await.request(upgrade("/echo")).await;
    assert_eq!((answer.status, answer.text()), (400, "this port speaks TLS\n"));
    daemon.stop().await;

    let daemon = Daemon::start(&[]).await;
    let hello = [0x16, 3, 1, 0, 5, 1, 0, 0, 1, 3];
    assert_eq!(RawClient::connect(daemon.address()).await.request(hello).await.status, 400);
    daemon.stop().await;
}

/// A `ClientHello` of TLS 1.1 (RFC 4346 section 7.4.1.2), with the one extension that is asked for.
fn hello_of_tls_1_1() -> Vec<u8> {
    let record_and_handshake = [0x16, 3, 1, 0, 57, 1, 0, 0, 53];
    let (version, random) = ([3, 2], [7; 32]);
    let (no_session, suites, no_compression) = ([0], [0, 4, 0xc0, 0x14, 0, 0x2f], [1, 0]);
    let signatures = [0, 8, 0, 13, 0, 4, 0, 2, 4, 1];
    let start = [&record_and_handshake[..], &version, &random].concat();
    [&start[..], &no_session, &suites, &no_compression, &signatures].concat()
}

#[tokio::test]
async fn tls_1_1_is_refused_within_a_second() {
    const ALERT_OF_A_BAD_VERSION: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 70];
    let authority = Authority::new();
    authority.sign("server");
    let flags = flags(&authority);
    let daemon = Daemon::start(&[&flags[0], &flags[1]]).await;
    let mut client = RawClient::connect(daemon.address()).await;
    let start = Instant::now();
    client.write(hello_of_tls_1_1()).await;
    let mut answer = Vec::new();
    within("the end", client.stream.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer, ALERT_OF_A_BAD_VERSION);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    daemon.stop().await;
}

#[tokio::test]
async fn a_tls_handshake_that_does_not_end_has_the_open_timeout() {
    const OPEN_TIMEOUT: Duration = Duration::from_millis(500);
    let authority = Authority::new();
    authority.sign("server");
    let flags = flags(&authority);
    let daemon = Daemon::start(&[&flags[0], &flags[1], "--open-timeout=500ms"]).await;
    let hello = hello_of_tls_1_1();
    for sent in [&[][..], &hello[..1], &hello[..20]] {
        let mut client = RawClient::connect(daemon.address()).await;
        let start = Instant::now();
        client.write(sent).await;
        let mut answer = Vec::new();
        // With bytes unread, the end is a reset.
        let _ = within("the end", client.stream.read_to_end(&mut answer)).await;
        assert!(answer.is_empty(), "{answer:?} after {} bytes", sent.len());
        let took = start.elapsed();
        assert!(took >= OPEN_TIMEOUT && took < OPEN_TIMEOUT * 4, "{took:?}");
    }
    daemon.stop().await;
}

#[tokio::test]
async fn a_client_certificate_names_the_user() {
    let authority = Authority::new();
    authority.sign("server");
    authority.sign("alice");
    let flags = flags(&authority);
    let ca = format!("--tls-client-ca={}", authority.path("ca.pem"));
    let daemon = Daemon::start(&[&flags[0], &flags[1], &ca, "--listen=127.0.0.1:0"]).await;
    for (path, status) in [("/ws/alice", 101), ("/ws/bob", 403), ("/echo", 101)] {
        let stream = connect(&authority, &daemon, &[&TLS13], Some("alice")).await.unwrap();
        let answer = RawClient::over(stream).request(upgrade(path)).await;
        assert_eq!(answer.status, status, "{path}");
    }
    // With TLS 1.2 the handshake itself fails for a client without a certificate.
    assert!(connect(&authority, &daemon, &[&TLS12], None).await.is_err());
    daemon.stop().await;
}

#[cfg(feature = "control")]
#[tokio::test]
async fn a_client_certificate_is_shown_to_the_event_handler() {
    let authority = Authority::new();
    authority.sign("server");
    let alice = authority.sign("alice");
    let mut backend = support::Backend::answering(support::status(204)).await;
    let flags = flags(&authority);
    let ca = format!("--tls-client-ca={}", authority.path("ca.pem"));
    let url = format!("--event-handler=http://{}/", backend.address);
    let daemon = Daemon::start(&[&flags[0], &flags[1], &ca, &url, "--events=connect"]).await;
    let stream = connect(&authority, &daemon, &[&TLS13], Some("alice")).await.unwrap();
    assert_eq!(RawClient::over(stream).request(upgrade("/client/hubs/chat")).await.status, 101);
    let heard = backend.expect("connect").await;
    assert_eq!(heard.header("ce-userid"), "alice");
    let shown = &heard.json()["clientCertificates"][0];
    let content = shown["content"].as_str().unwrap();
    assert_eq!(CertificateDer::from_pem_slice(content.as_bytes()).unwrap(), alice);
    let thumbprint = shown["thumbprint"].as_str().unwrap();
    assert!(thumbprint.len() == 40 && thumbprint.bytes().all(|byte| byte.is_ascii_hexdigit()));
    daemon.stop().await;
}

#[tokio::test]
async fn certificates_are_read_again_on_sighup_and_open_connections_stay() {
    let authority = Authority::new();
    let first = authority.sign("server");
    let flags = flags(&authority);
    let mut daemon = Daemon::start(&[&flags[0], &flags[1]]).await;
    let served = |stream: &TlsStream<TcpStream>| {
        stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    };
    let stream = connect(&authority, &daemon, &[&TLS13], None).await.unwrap();
    assert_eq!(served(&stream), first);
    let mut old = RawClient::over(stream);
    assert_eq!(old.handshake("/echo").await.status, 101);

    fs::write(authority.path("server.pem"), "nonsense").unwrap();
    daemon.signal("HUP").await;
    assert!(daemon.log_line("not reloaded").await.contains("server.pem"));
    let stream = connect(&authority, &daemon, &[&TLS13], None).await.unwrap();
    assert_eq!(served(&stream), first, "the old one is kept");

    let second = authority.sign("server");
    daemon.signal("HUP").await;
    support::eventually("the second reload", 2, || {
        daemon.log().iter().filter(|line| line.contains("] reloaded")).count()
    })
    .await;
    let stream = connect(&authority, &daemon, &[&TLS13], None).await.unwrap();
    assert_eq!(served(&stream), second);
    expect_echo(&mut old, "still here").await;
    daemon.stop().await;
}
