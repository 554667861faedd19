//! Access tokens, on the daemon as a process of its own.

#![cfg(feature = "jwt")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]
#![allow(missing_docs, reason = "the names are the statements")]

mod support;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
use serde_json::{Value, json};

use support::{Daemon, Failed, HttpAnswer, JsonClient, RawClient, hubnerite, upgrade_with};

const SECRET: &str = "a secret of this test, at least 32 bytes long";
const OTHER_SECRET: &str = "another secret of this test, just as long as that";

/// A folder of this test's own, gone at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("hubnerite-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Writes a file and returns its `--token-key`.
    fn key(&self, algorithm: &str, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        format!("--token-key={algorithm}:{}", path.display())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn in_seconds(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    i64::try_from(now).unwrap() + seconds
}

fn sign(algorithm: Algorithm, key: &EncodingKey, claims: &Value) -> String {
    encode(&Header::new(algorithm), claims, key).unwrap()
}

/// A token of an hour, signed with [`SECRET`], with these claims beside `exp`.
fn token(claims: Value) -> String {
    let mut claims = claims;
    if claims.get("exp").is_none() {
        claims["exp"] = in_seconds(3600).into();
    }
    sign(Algorithm::HS256, &EncodingKey::from_secret(SECRET.as_bytes()), &claims)
}

async fn ask(address: SocketAddr, path: &str, fields: &[(&str, &str)]) -> HttpAnswer {
    RawClient::connect(address).await.request(upgrade_with(path, fields)).await
}

async fn with_token(address: SocketAddr, path: &str, token: &str) -> HttpAnswer {
    ask(address, path, &[("Authorization", &format!("Bearer {token}"))]).await
}

/// Everything that is wrong with a token is answered in one way, so that nobody learns which.
fn assert_unauthorized(answer: &HttpAnswer, why: &str) {
    assert_eq!((answer.status, answer.text()), (401, "unauthorized\n"), "{why}");
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{why}");
}

#[tokio::test]
async fn a_token_is_believed_in_header_subprotocol_cookie_and_query() {
    let folder = Folder::new("places");
    let key = folder.key("HS256", "secret", format!("{SECRET}\n"));
    let daemon = Daemon::start(&[&key, "--token-cookie=hub"]).await;
    let (address, token) = (daemon.address(), token(json!({ "sub": "alice" })));
    let own = format!("http://{address}");
    let host = address.to_string();

    assert_eq!(with_token(address, "/ws/alice", &token).await.status, 101);
    let query = format!("/ws/alice?x=1&access_token={token}");
    assert_eq!(ask(address, &query, &[]).await.status, 101);

    let offer = format!("bearer, {token}");
    let answer = ask(address, "/ws/alice", &[("Sec-WebSocket-Protocol", &offer)]).await;
    assert_eq!(answer.header("sec-websocket-protocol"), Some("bearer"));
    let offer = format!("bearer, {token}, json.webpubsub.azure.v1");
    let answer = ask(address, "/ws/alice", &[("Sec-WebSocket-Protocol", &offer)]).await;
    assert_eq!(answer.header("sec-websocket-protocol"), Some("json.webpubsub.azure.v1"));

    let cookie = format!("a=b; hub={token}");
    let fields = [("Host", host.as_str()), ("Origin", &own), ("Cookie", &cookie)];
    assert_eq!(ask(address, "/ws/alice", &fields).await.status, 101);
    let answer = ask(address, "/ws/alice", &[("Cookie", &cookie)]).await;
    assert_unauthorized(&answer, "a cookie without an Origin");

    let fields = [("Authorization", "Bearer nonsense")];
    assert_unauthorized(&ask(address, &query, &fields).await, "the first that is there decides");
    for path in ["/ws", "/echo", "/ws/alice", "/client/hubs/chat"] {
        assert_unauthorized(&ask(address, path, &[]).await, path);
    }
    assert!(daemon.log().iter().all(|line| !line.contains(&token)));
    daemon.stop().await;
}

#[tokio::test]
async fn a_token_that_is_wrong_in_any_way_is_401_with_one_body() {
    let folder = Folder::new("wrong");
    let public = fs::read(keys().join("rsa-public.pem")).unwrap();
    let flags = [folder.key("HS256", "secret", SECRET), folder.key("RS256", "rsa.pem", &public)];
    let daemon = Daemon::start(&[&flags[0], &flags[1], "--max-head-size=256KiB"]).await;
    let secret = EncodingKey::from_secret(SECRET.as_bytes());
    let other = EncodingKey::from_secret(OTHER_SECRET.as_bytes());
    let public = EncodingKey::from_secret(&public);
    let good = json!({ "sub": "alice", "exp": in_seconds(3600) });
    let signed = sign(Algorithm::HS256, &secret, &good);
    let (_, payload) =
        signed.rsplit_once('.').map(|(text, _)| text.split_once('.').unwrap()).unwrap();
    // {"alg":"none","typ":"JWT"}
    let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{payload}.");
    for (why, token) in [
        ("empty", String::new()),
        ("nonsense", "a.b.c".to_owned()),
        ("alg none", unsigned),
        ("another secret", sign(Algorithm::HS256, &other, &good)),
        ("the public key as a secret", sign(Algorithm::HS256, &public, &good)),
        ("an algorithm that the key is not for", sign(Algorithm::HS384, &secret, &good)),
        ("expired", token(json!({ "sub": "alice", "exp": in_seconds(-6) }))),
        ("not yet valid", token(json!({ "sub": "alice", "nbf": in_seconds(60) }))),
        ("without exp", sign(Algorithm::HS256, &secret, &json!({ "sub": "alice" }))),
        ("for another path", token(json!({ "sub": "alice", "aud": "http://h/ws/bob" }))),
        ("cut", signed[..signed.len() - 1].to_owned()),
        ("100 KiB long", token(json!({ "sub": "alice", "x": "x".repeat(100 << 10) }))),
    ] {
        assert_unauthorized(&with_token(daemon.address(), "/ws/alice", &token).await, why);
    }
    for (why, token) in [
        ("within the leeway", token(json!({ "sub": "alice", "exp": in_seconds(-2) }))),
        ("for this path", token(json!({ "sub": "alice", "aud": ["x", "http://h/ws/alice"] }))),
    ] {
        assert_eq!(with_token(daemon.address(), "/ws/alice", &token).await.status, 101, "{why}");
    }
    daemon.stop().await;
}

fn keys() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys")
}

#[tokio::test]
async fn every_algorithm_works_and_several_keys_work_at_once() {
    let folder = Folder::new("algorithms");
    let rsa = |name: &str| fs::read(keys().join(name)).unwrap();
    let ec = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let ed = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let flags = [
        folder.key("HS256", "old", OTHER_SECRET),
        folder.key("HS256", "new", SECRET),
        folder.key("HS384", "384", SECRET),
        folder.key("HS512", "512", format!("{SECRET} {SECRET}")),
        folder.key("RS256", "rsa", rsa("rsa-public.pem")),
        folder.key("ES256", "ec", ec.public_key_pem()),
        folder.key("EdDSA", "ed", ed.public_key_pem()),
    ];
    let daemon = Daemon::start(&flags.each_ref().map(String::as_str)).await;
    let long_secret = format!("{SECRET} {SECRET}");
    let secret = |text: &str| EncodingKey::from_secret(text.as_bytes());
    let claims = json!({ "sub": "alice", "exp": in_seconds(3600) });
    for (algorithm, key) in [
        (Algorithm::HS256, secret(OTHER_SECRET)),
        (Algorithm::HS256, secret(SECRET)),
        (Algorithm::HS384, secret(SECRET)),
        (Algorithm::HS512, secret(&long_secret)),
        (Algorithm::RS256, EncodingKey::from_rsa_pem(&rsa("rsa-private.pem")).unwrap()),
        (Algorithm::ES256, EncodingKey::from_ec_pem(ec.serialize_pem().as_bytes()).unwrap()),
        (Algorithm::EdDSA, EncodingKey::from_ed_pem(ed.serialize_pem().as_bytes()).unwrap()),
    ] {
        let token = sign(algorithm, &key, &claims);
        let answer = with_token(daemon.address(), "/ws/alice", &token).await;
        assert_eq!(answer.status, 101, "{algorithm:?}");
    }
    daemon.stop().await;
}

#[tokio::test]
async fn keys_are_read_again_on_sighup_and_a_bad_one_changes_nothing() {
    let folder = Folder::new("reload");
    let key = folder.key("HS256", "secret", OTHER_SECRET);
    let mut daemon = Daemon::start(&[&key]).await;
    let token = token(json!({ "sub": "alice" }));
    assert_unauthorized(&with_token(daemon.address(), "/ws/alice", &token).await, "not yet");

    folder.key("HS256", "secret", "short");
    daemon.signal("HUP").await;
    let line = daemon.log_line("not reloaded").await;
    assert!(
        line.contains("ERROR") && line.contains("32 bytes") && !line.contains("short"),
        "{line}"
    );

    folder.key("HS256", "secret", SECRET);
    daemon.signal("HUP").await;
    support::eventually("the second reload", 2, || {
        daemon.log().iter().filter(|line| line.contains("] reloaded")).count()
    })
    .await;
    assert_eq!(with_token(daemon.address(), "/ws/alice", &token).await.status, 101);
    daemon.stop().await;
}

#[tokio::test]
async fn a_token_is_for_its_own_user() {
    let folder = Folder::new("user");
    let daemon = Daemon::start(&[&folder.key("HS256", "secret", SECRET)]).await;
    let alice = token(json!({ "sub": "alice" }));
    assert_eq!(with_token(daemon.address(), "/ws/alice", &alice).await.status, 101);
    assert_eq!(with_token(daemon.address(), "/ws/bob", &alice).await.status, 403);
    let nobody = token(json!({}));
    assert_eq!(with_token(daemon.address(), "/ws/alice", &nobody).await.status, 403);
    assert_eq!(with_token(daemon.address(), "/client/hubs/chat", &nobody).await.status, 101);
    daemon.stop().await;
}

/// A client of `/ws/{user}` with these claims.
async fn client(daemon: &Daemon, user: &str, mut claims: Value) -> JsonClient {
    claims["sub"] = user.into();
    let header = format!("Bearer {}", token(claims));
    let fields = [("authorization", header.as_str())];
    let connected = support::connect_with(daemon.address(), &format!("/ws/{user}"), &fields).await;
    JsonClient::over(connected.unwrap().0).await
}

async fn outcome(client: &mut JsonClient, frame: Value) -> String {
    let ack = client.ask(&frame).await;
    ack["error"]["name"]
        .as_str()
        .unwrap_or(if ack["success"] == true { "done" } else { "?" })
        .into()
}

#[tokio::test]
async fn roles_decide_on_joining_and_sending() {
    let folder = Folder::new("roles");
    let daemon = Daemon::start(&[&folder.key("HS256", "secret", SECRET)]).await;
    let to_group = |group: &str| json!({ "type": "sendToGroup", "group": group, "data": 1 });
    let join = |group: &str| json!({ "type": "joinGroup", "group": group });
    let to_user = json!({ "type": "sendToUser", "user": "none", "data": 1 });
    let to_all = json!({ "type": "sendToAll", "data": 1, "noEcho": true });

    let mut none = client(&daemon, "none", json!({})).await;
    let mut some = client(
        &daemon,
        "some",
        json!({ "role": [
        "webpubsub.joinLeaveGroup.a", "webpubsub.sendToGroup.b", "webpubsub.sendToUser"
    ] }),
    )
    .await;
    let mut id = 0;
    let mut numbered = |mut frame: Value| {
        id += 1;
        frame["ackId"] = id.into();
        frame
    };
    for frame in [join("a"), to_group("a"), to_user.clone(), to_all.clone()] {
        assert_eq!(outcome(&mut none, numbered(frame)).await, "Forbidden");
    }
    for (frame, expected) in [
        (join("a"), "done"),
        (join("b"), "Forbidden"),
        (json!({ "type": "leaveGroup", "group": "a" }), "done"),
        (json!({ "type": "leaveGroup", "group": "b" }), "Forbidden"),
        (to_group("a"), "Forbidden"),
        (to_group("b"), "done"),
        (to_user.clone(), "done"),
        (to_all.clone(), "Forbidden"),
    ] {
        assert_eq!(outcome(&mut some, numbered(frame.clone())).await, expected, "{frame}");
    }
    let mut every = client(&daemon, "every", json!({ "role": "webpubsub.sendToAll" })).await;
    assert_eq!(outcome(&mut every, numbered(to_all)).await, "done");
    daemon.stop().await;
}

#[tokio::test]
async fn groups_of_the_token_are_joined_at_once() {
    let folder = Folder::new("groups");
    let daemon = Daemon::start(&[&folder.key("HS256", "secret", SECRET)]).await;
    let mut member = client(&daemon, "member", json!({ "webpubsub.group": ["a", "b"] })).await;
    let role = json!({ "role": "webpubsub.sendToGroup" });
    let mut sender = client(&daemon, "sender", role).await;
    sender.send(&json!({ "type": "sendToGroup", "group": "b", "data": "hello" })).await;
    assert_eq!(member.next().await["data"], "hello");
    daemon.stop().await;
}

#[tokio::test]
async fn a_connection_ends_with_its_token_where_that_is_asked_for() {
    let folder = Folder::new("expiry");
    let key = folder.key("HS256", "secret", SECRET);
    let daemon = Daemon::start(&[&key, "--close-on-expiry"]).await;
    let mut client = client(&daemon, "alice", json!({ "exp": in_seconds(1) })).await;
    assert_eq!(client.close().await, (1008, "the token has expired".to_owned()));
    daemon.stop().await;
}

#[tokio::test]
async fn without_a_key_only_loopback_is_served() {
    for listen in ["0.0.0.0:0", "[::]:0", "example.com:80"] {
        let failed = Failed::run(hubnerite(&["--listen", listen])).await;
        assert_eq!(failed.code, Some(2), "{listen}");
        assert!(failed.stderr.contains("--allow-open"), "{}", failed.stderr);
    }
    let daemon = Daemon::start(&["--listen=0.0.0.0:0", "--allow-open"]).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_key_file_that_cannot_be_used_is_named_and_never_shown() {
    let folder = Folder::new("bad");
    for (algorithm, content) in [
        ("HS256", "short secret"),
        ("RS256", "no pem at all"),
        ("HS256", "-----BEGIN PUBLIC KEY-----"),
    ] {
        let key = folder.key(algorithm, "key-file", content);
        let failed = Failed::run(hubnerite(&[&key])).await;
        assert_eq!(failed.code, Some(1));
        assert!(failed.stderr.contains("key-file"), "{}", failed.stderr);
        assert!(!failed.stderr.contains(content), "{}", failed.stderr);
    }
}
