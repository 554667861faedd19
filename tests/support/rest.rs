//! A server with a control port, and a caller of its REST API, request by request on one connection.

use std::{
    net::SocketAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use hubnerite::{AccessKeys, Address, Config, Listener, Server, Sharing};
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{HttpAnswer, TestServer, within};

pub const KEY: &str = "an-access-key-of-the-tests-32-long";
pub const SECOND_KEY: &str = "the-key-that-is-to-follow-it-soon";

/// The daemon's routes and its control port, and where that is.
pub async fn start_with_control(config: Config) -> (TestServer, SocketAddr) {
    let keys = AccessKeys::new([KEY, SECOND_KEY].map(str::to_owned).to_vec()).unwrap();
    let anywhere: Address = "127.0.0.1:0".parse().unwrap();
    let listener = Listener::bind(&anywhere, Sharing::Exclusive).await.unwrap();
    let address = listener.local_address().parse().unwrap();
    let routes = |server: Server| server.daemon_routes().control(keys, vec![listener]);
    (TestServer::start_with(config, routes).await, address)
}

/// A backend's connection.
pub struct Caller {
    pub stream: TcpStream,
    unread: Vec<u8>,
    address: SocketAddr,
}

impl Caller {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = within("a TCP connection", TcpStream::connect(address)).await.unwrap();
        Self { stream, unread: Vec::new(), address }
    }

    /// A signed call with a body.
    pub async fn call(&mut self, method: &str, path: &str, kind: &str, body: &str) -> HttpAnswer {
        let token = token(&self.url(path), KEY, 60);
        let fields = [("Content-Type", kind), ("Authorization", &format!("Bearer {token}"))];
        self.request(method, path, &fields, body).await
    }

    /// A signed call; its status.
    pub async fn status(&mut self, method: &str, path: &str) -> u16 {
        self.call(method, path, "text/plain", "").await.status
    }

    /// A signed GET; its JSON.
    pub async fn get(&mut self, path: &str) -> Value {
        let answer = self.call("GET", path, "text/plain", "").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        serde_json::from_slice(&answer.body).unwrap()
    }

    pub async fn request(
        &mut self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: &str,
    ) -> HttpAnswer {
        let fields: Vec<_> =
            fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let fields = fields.concat();
        let length = body.len();
        self.write(&format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{fields}\r\n{body}"
        ))
        .await;
        self.answer(method).await
    }

    pub async fn write(&mut self, bytes: &str) {
        within("the server to read", self.stream.write_all(bytes.as_bytes())).await.unwrap();
    }

    /// The next answer, with the body that `Content-Length` says.
    pub async fn answer(&mut self, method: &str) -> HttpAnswer {
        let end = loop {
            if let Some(at) = self.unread.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            assert!(self.read().await, "the end where an answer was expected");
        };
        let mut answer = HttpAnswer::parse(&self.unread.drain(..end).collect::<Vec<_>>());
        let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
        if method != "HEAD" {
            while self.unread.len() < length {
                assert!(self.read().await, "the end within a body");
            }
            answer.body = self.unread.drain(..length).collect();
        }
        answer
    }

    /// `false` at the end.
    pub async fn read(&mut self) -> bool {
        within("an answer", self.stream.read_buf(&mut self.unread))
            .await
            .is_ok_and(|count| count > 0)
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

/// A token for a URL, that expires in so many seconds.
pub fn token(url: &str, key: &str, seconds: i64) -> String {
    sign(&json!({"aud": url, "exp": in_seconds(seconds)}), key)
}

pub fn sign(claims: &Value, key: &str) -> String {
    let key = EncodingKey::from_secret(key.as_bytes());
    encode(&Header::default(), claims, &key).unwrap()
}

pub fn in_seconds(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    i64::try_from(now).unwrap() + seconds
}

/// Status and error code of a refusal, which names what is wrong with it.
pub fn error(answer: &HttpAnswer) -> (u16, String) {
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    assert!(body["error"]["message"].as_str().unwrap().len() > 3, "{body}");
    (answer.status, body["error"]["code"].as_str().unwrap().to_owned())
}
