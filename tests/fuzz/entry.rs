//! What the fuzz targets run: bytes into private modules, and what must be true of what comes out. Compiled for
//! `cargo fuzz` and for tests, which run every seed once.

use std::{
    collections::VecDeque,
    future::Future,
    sync::LazyLock,
    task::{Context, Poll, Waker},
};

use serde_json::value::RawValue;
use tokio::{
    io::AsyncWriteExt,
    net::UnixStream,
    runtime::{Builder, Runtime},
};
use tokio_tungstenite::tungstenite::{
    handshake::machine::TryParse,
    http::{self, header},
};

use crate::{
    about::{About, Origin},
    close::CloseReason,
    config::Config,
    frame::{Form, Publication, payloads},
    head::{self, Head, NoHead, RequestLine},
    protocol::{self, Action, Batch, ClientFrame, ErrorName, Payload, Source},
    route::{Match, Params, Pattern},
    socket::Socket,
    wire::{Control, Wire},
};

/// Splits the input: its first byte says how the rest is cut.
fn cut(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (first, rest) = bytes.split_first()?;
    Some((usize::from(*first).max(1), rest))
}

/// Drives a future that other futures of this thread feed, in a runtime of its own.
fn block_on<F: Future>(future: F) -> F::Output {
    thread_local! {
        static RUNTIME: Runtime =
            Builder::new_current_thread().enable_io().build().unwrap_or_else(|e| panic!("{e}"));
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}

/// A socket, and its other end.
fn pair() -> (Socket, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap_or_else(|error| panic!("{error}"));
    (Socket::Unix(ours), theirs)
}

// ---- The request head.

/// Reads a head from a socket that is fed in pieces: the head and what came behind it, or a status; `None` if the bytes
/// end before the head does.
async fn read_head(bytes: &[u8], piece: usize) -> Option<Result<Head, u16>> {
    let (mut socket, mut peer) = pair();
    let config = Config::default();
    let feed = async {
        for part in bytes.chunks(piece) {
            // The reader may have had enough.
            if peer.write_all(part).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        peer.shutdown().await.ok();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        biased;
        read = head::read(&mut socket, Vec::new(), &config) => match read {
            Ok(head) => Some(Ok(head)),
            Err(NoHead::Refused(rejection)) => Some(Err(rejection.status.as_u16())),
            Err(NoHead::Lost(_)) => None,
        },
        () = feed => None,
    }
}

/// A head means the same however it is cut; one that we take has one meaning, and httparse finds the same one.
///
/// # Panics
/// If not.
pub fn head(bytes: &[u8]) {
    let Some((piece, bytes)) = cut(bytes) else { return };
    let whole = block_on(read_head(bytes, bytes.len().max(1)));
    let pieces = block_on(read_head(bytes, piece));
    let of = |read: &Option<Result<Head, u16>>| {
        read.as_ref().map(|read| read.as_ref().map(|head| head.bytes.clone()).map_err(|s| *s))
    };
    assert_eq!(of(&whole), of(&pieces), "in pieces of {piece}");
    let Some(Ok(read)) = whole else { return };
    assert!(read.bytes.ends_with(b"\r\n\r\n") && bytes.starts_with(&read.bytes));
    assert!(bytes[read.bytes.len()..].starts_with(&read.early), "what came behind the head");
    let Ok(line) = RequestLine::parse(&read.bytes) else { return };
    if head::check_framing(&read.bytes, &line).is_err() {
        return;
    }
    let Ok(Some((length, request))) = http::Request::<()>::try_parse(&read.bytes) else { return };
    assert_eq!(length, read.bytes.len(), "httparse sees another end");
    let count = |name| request.headers().get_all(name).iter().count();
    assert_eq!(count(header::HOST), 1, "hosts");
    assert_eq!(count(header::TRANSFER_ENCODING), 0, "codings");
    assert!(count(header::CONTENT_LENGTH) <= 1, "lengths");
    assert!(request.headers().get(header::CONTENT_LENGTH).is_none_or(|length| length == "0"));
    assert_eq!(line.method, request.method().as_str());
    // What is no path is one that nothing is found under.
    let routed = line.path.starts_with('/');
    assert!(!routed || line.path == request.uri().path(), "what is routed is what a guard sees");
}

// ---- The router.

static PATTERNS: LazyLock<Vec<Pattern>> = LazyLock::new(|| {
    let templates = ["/", "/ws", "/echo", "/ws/{user_id}", "/client/hubs/{hub}", "/{a}/x/{b}"];
    templates.into_iter().map(Pattern::new).collect()
});

/// A path that fits has the pattern's shape, and its parameters are what was written there.
///
/// # Panics
/// If not.
pub fn route(bytes: &[u8]) {
    let Ok(path) = std::str::from_utf8(bytes) else { return };
    for pattern in &*PATTERNS {
        match pattern.matches(path) {
            Match::No => {}
            Match::Bad(name) => assert!(["user_id", "hub", "a", "b"].contains(&&*name)),
            Match::Yes(params) => check_params(path, &params),
        }
    }
}

fn check_params(path: &str, params: &Params) {
    let segments: Vec<_> = path.split('/').collect();
    for (name, index) in [("user_id", 2), ("hub", 3), ("a", 1), ("b", 3)] {
        let Some(value) = params.get(name) else { continue };
        assert!(!["", ".", ".."].contains(&value), "{path}");
        let written = segments[index];
        let plain = !written.contains('%');
        assert!(!plain || written == value, "{written} became {value}");
        assert!(value.len() <= written.len(), "{written} became {value}");
    }
}

// ---- The JSON protocol.

/// A frame that is taken is carried to its receivers in valid JSON and as it came; one that is not is answered in valid
/// JSON.
///
/// # Panics
/// If not.
pub fn json(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match ClientFrame::parse(text) {
        Err(bad) => {
            let failure = protocol::failure(bad.ack_id, ErrorName::BadRequest, &bad.message);
            let value = parse::<serde_json::Value>(failure.as_bytes());
            assert_eq!(value["ackId"].as_u64(), bad.ack_id);
        }
        Ok(frame) => match frame.action {
            Action::JoinGroup(group) | Action::LeaveGroup(group) => check_group(&group),
            Action::SendToGroup { group, payload, .. } => {
                check_group(&group);
                check_carried(text, Source::Group(&group), payload);
            }
            Action::SendToUsers { users, payload } => {
                assert!(users.is_sorted() && !users.is_empty() && !users.contains(&String::new()));
                check_carried(text, Source::User, payload);
            }
            Action::SendToAll { payload, .. } => check_carried(text, Source::All, payload),
            _ => {}
        },
    }
}

fn parse<'a, T: serde::Deserialize<'a>>(bytes: &'a [u8]) -> T {
    serde_json::from_slice(bytes)
        .unwrap_or_else(|error| panic!("{error} in {}", bytes.escape_ascii()))
}

fn check_group(group: &str) {
    assert!(!group.trim().is_empty() && group.chars().count() <= 1024);
}

fn check_carried(text: &str, source: Source<'_>, payload: Payload<'_>) {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Envelope<'a> {
        from_user_id: String,
        #[serde(borrow)]
        data: &'a RawValue,
    }
    const USER: &str = "\"\\\u{1}ü";
    let mut batch = Batch::default();
    batch.push(source, Some(USER), payload);
    batch.push(source, Some(USER), payload);
    for form in [Form::Bare, Form::Envelope] {
        let wire = batch.encode(form);
        assert_eq!(payloads(&wire).count(), 2);
        if form == Form::Envelope {
            for envelope in payloads(&wire) {
                let envelope = parse::<Envelope<'_>>(envelope);
                assert_eq!(envelope.from_user_id, USER);
                assert!(text.contains(envelope.data.get()), "data was changed");
            }
        }
    }
}

// ---- The wire stream.

/// What a connection has heard, in a form that can be compared.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Text(String),
    Binary(Vec<u8>),
    Control,
    Close(Option<u16>),
    End(u16),
}

const LIMITS: (usize, u32) = (1000, 5);

/// What a connection hears when its peer sends these bytes in pieces of that size and goes away. Between any two
/// messages the decoder goes back to the thread, as it does while a handler waits.
async fn listen(bytes: &[u8], piece: usize, park: bool) -> Vec<Heard> {
    let (max_message_size, max_fragments) = LIMITS;
    let config = Config { max_message_size, max_fragments, ..Config::default() };
    let (socket, mut peer) = pair();
    let mut wire = Wire::new(socket, Vec::new(), &config);
    let mut heard = Vec::new();
    for part in bytes.chunks(piece) {
        if peer.write_all(part).await.is_err() {
            break;
        }
        // Readiness is told by the runtime.
        tokio::task::yield_now().await;
        if hear(&mut wire, &config, park, &mut heard) {
            return heard;
        }
    }
    peer.shutdown().await.ok();
    while !hear(&mut wire, &config, park, &mut heard) {
        tokio::task::yield_now().await;
    }
    heard
}

/// Takes everything that there is; says whether the connection has ended.
fn hear(wire: &mut Wire, config: &Config, park: bool, heard: &mut Vec<Heard>) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    let about = About::new(Origin::default());
    loop {
        let mut messages = VecDeque::new();
        let mut decoded = wire.decode(&mut messages, usize::MAX);
        if matches!(decoded, Ok(None)) && messages.is_empty() {
            match wire.poll_read(&mut context, config, &about) {
                Poll::Pending => {
                    wire.park();
                    return false;
                }
                Poll::Ready(read) => decoded = read.map(|()| None),
            }
        }
        if park {
            wire.park();
        }
        heard.extend(messages.iter().map(|message| match message.as_text() {
            Some(text) => Heard::Text(text.to_owned()),
            None => Heard::Binary(message.as_bytes().to_vec()),
        }));
        match decoded {
            Ok(None) => {}
            // The one before them is answered first.
            Ok(Some(_)) if !messages.is_empty() => panic!("a control frame behind messages"),
            Ok(Some(Control::Ping | Control::Pong)) => heard.push(Heard::Control),
            Ok(Some(Control::Close(frame))) => {
                heard.push(Heard::Close(frame.map(|frame| frame.code.into())));
                return true;
            }
            Err(reason) => {
                check_reason(&reason);
                heard.push(Heard::End(reason.code()));
                return true;
            }
        }
    }
}

fn check_reason(reason: &CloseReason) {
    assert!([1002, 1006, 1007, 1008, 1009].contains(&reason.code()), "{reason}");
}

/// A stream means the same however it is cut and wherever its decoder has been, and no message is above the limits.
///
/// # Panics
/// If not.
pub fn wire(bytes: &[u8]) {
    let Some((piece, bytes)) = cut(bytes) else { return };
    let whole = block_on(listen(bytes, bytes.len().max(1), false));
    for message in &whole {
        let length = match message {
            Heard::Text(text) => text.len(),
            Heard::Binary(bytes) => bytes.len(),
            _ => 0,
        };
        assert!(length <= LIMITS.0, "a message of {length} bytes");
    }
    for (piece, park) in [(bytes.len().max(1), true), (piece, false), (piece, true)] {
        let again = block_on(listen(bytes, piece, park));
        assert_eq!(whole, again, "in pieces of {piece}, parked {park}");
    }
}

// ---- Tokens.

#[cfg(not(feature = "jwt"))]
#[doc(hidden)]
pub fn token(_: &[u8]) {}

#[cfg(feature = "jwt")]
pub use jwt::token;

#[cfg(feature = "jwt")]
mod jwt {
    use std::{env, fs, net::Ipv4Addr, pin::Pin, process, sync::Arc, time::SystemTime};

    use data_encoding::BASE64URL_NOPAD;
    use jsonwebtoken::{Algorithm, EncodingKey, crypto::sign};

    use super::{Future, LazyLock, Params, Poll, Waker, http};
    use crate::{
        auth::{Guard, Identity, Rejection, Request},
        origin::Verdict,
        socket::PeerAddr,
        token::TokenGuard,
        token_keys::TokenKeys,
    };

    const SECRET: &[u8] = b"a secret that is only known here, 48 bytes long.";

    static GUARD: LazyLock<TokenGuard> = LazyLock::new(|| {
        let path = env::temp_dir().join(format!("hubnerite-fuzz-{}.key", process::id()));
        let guard = fs::write(&path, SECRET).ok().and_then(|()| {
            let file = format!("HS256:{}", path.display()).parse().ok()?;
            TokenKeys::load(vec![file]).ok()
        });
        fs::remove_file(&path).ok();
        TokenGuard::new(Arc::new(guard.unwrap_or_else(|| panic!("no key")))).cookie("token")
    });

    fn ask(value: &str) -> Option<Result<Identity, Rejection>> {
        let request = http::Request::get("/client/hubs/chat").header("authorization", value);
        let request = Request {
            http: request.body(()).ok()?,
            params: Params::default(),
            peer: PeerAddr::Tcp((Ipv4Addr::LOCALHOST, 1).into()),
            client: None,
            origin: Verdict::Absent,
            certificate_subject: None,
            #[cfg(feature = "control")]
            certificate: None,
        };
        let mut check = GUARD.check(&request);
        let mut context = std::task::Context::from_waker(Waker::noop());
        match Pin::new(&mut check).poll(&mut context) {
            Poll::Ready(checked) => Some(checked),
            Poll::Pending => panic!("a token guard waits for nothing"),
        }
    }

    /// Nobody is let in but by our signature, for the time that it was made for. The first byte says whether the rest is
    /// what was sent, or a header and claims (with a line feed between them) that are signed with the key.
    ///
    /// # Panics
    /// If not.
    pub fn token(bytes: &[u8]) {
        let Some((mode, bytes)) = bytes.split_first() else { return };
        if mode % 2 == 0 {
            let Ok(text) = std::str::from_utf8(bytes) else { return };
            let checked = ask(&format!("Bearer {text}"));
            assert!(!matches!(checked, Some(Ok(_))), "a token that nobody signed: {text}");
            return;
        }
        let mut parts = bytes.splitn(2, |byte| *byte == b'\n');
        let (Some(header), Some(claims)) = (parts.next(), parts.next()) else { return };
        let encode = |part: &[u8]| BASE64URL_NOPAD.encode(part);
        let message = format!("{}.{}", encode(header), encode(claims));
        let key = EncodingKey::from_secret(SECRET);
        let Ok(signature) = sign(message.as_bytes(), &key, Algorithm::HS256) else { return };
        match ask(&format!("Bearer {message}.{signature}")) {
            Some(Ok(_)) => check_accepted(header, claims),
            Some(Err(rejection)) => {
                assert!([401, 403].contains(&rejection.status.as_u16()), "{rejection:?}");
            }
            None => {}
        }
    }

    fn check_accepted(header: &[u8], claims: &[u8]) {
        // What nobody reads in it need not be UTF-8.
        let read = |bytes| {
            let text = String::from_utf8_lossy(bytes);
            serde_json::from_str::<serde_json::Value>(&text).unwrap_or_default()
        };
        let (header, claims) = (read(header), read(claims));
        assert_eq!(header["alg"], "HS256");
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap_or_default().as_secs_f64();
        let expires = claims["exp"].as_f64();
        assert!(expires.is_some_and(|at| at > now - 7.0), "accepted with exp {expires:?}");
        let begins = claims["nbf"].as_f64();
        assert!(begins.is_none_or(|at| at < now + 7.0), "accepted with nbf {begins:?}");
    }
}

// ---- What comes through a backplane.

/// Without a backplane nothing comes through one.
#[cfg(not(feature = "backplane"))]
pub fn envelope(_: &[u8]) {}

/// An envelope that makes sense still says the same once it is written anew.
#[cfg(feature = "backplane")]
pub fn envelope(bytes: &[u8]) {
    use crate::backplane::Envelope;

    let Ok(Envelope { mut header, payloads }) = Envelope::parse(bytes) else { return };
    let said = format!("{header:?}");
    let again = header.seal(&payloads);
    let again = Envelope::parse(&again).unwrap_or_else(|error| panic!("{said}: {error}"));
    assert_eq!((format!("{:?}", again.header), again.payloads), (said, payloads));
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::{Heard, block_on, listen, read_head};

    /// What compares two silences has compared nothing.
    #[test]
    fn something_is_heard() {
        let stream = [0x81, 0x82, 0, 0, 0, 0, b'h', b'i', 0x89, 0x80, 0, 0, 0, 0];
        let expected = [Heard::Text("hi".into()), Heard::Control, Heard::End(1006)];
        assert_eq!(block_on(listen(&stream, 3, true)), expected);
        let head = b"GET / HTTP/1.1\r\nHost: h\r\n\r\nearly";
        assert_eq!(block_on(read_head(head, 3)).unwrap().unwrap().bytes, head[..27]);
    }

    /// Every seed, and every input that once was a finding.
    fn run_seeds(target: &str, run: fn(&[u8])) {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds").join(target);
        let mut count = 0;
        for entry in fs::read_dir(seeds).unwrap() {
            let path = entry.unwrap().path();
            eprintln!("{}", path.display());
            run(&fs::read(path).unwrap());
            count += 1;
        }
        assert!(count > 0, "no seeds for {target}");
    }

    #[test]
    fn heads_of_the_seeds_have_one_meaning() {
        run_seeds("head", super::head);
    }

    #[test]
    fn paths_of_the_seeds_are_routed_by_their_shape() {
        run_seeds("route", super::route);
    }

    #[test]
    fn frames_of_the_seeds_are_carried_as_they_came() {
        run_seeds("json", super::json);
    }

    #[test]
    fn streams_of_the_seeds_mean_the_same_however_they_are_cut() {
        run_seeds("wire", super::wire);
    }

    #[test]
    fn envelopes_of_the_seeds_say_the_same_when_they_are_written_anew() {
        run_seeds("envelope", super::envelope);
    }

    #[test]
    fn tokens_of_the_seeds_are_believed_only_with_our_signature() {
        run_seeds("token", super::token);
    }
}
