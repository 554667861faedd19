//! Attacks with frames (README.md, "Trouble, and what it gets").

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

#[path = "support/scene.rs"]
mod scene;
mod support;

use std::time::{Duration, Instant};

use hubnerite::Config;
use scene::{Scene, Watched};
use support::{
    ClientFrame, End, LengthForm, RawClient, ServerFrame, eventually, within, within_time,
};

const MIB: usize = 1 << 20;

/// How late a deadline may be noticed on a machine that does other things too.
const LATE: Duration = Duration::from_millis(1500);

/// More control frames than any test sends.
const ANY_CONTROL_FRAMES: [&str; 4] =
    ["--control-frames-per-second", "100000000", "--control-frames-burst", "100000000"];

/// Sends bytes to `path` on a connection of its own; the code that it is closed with within 1 s. The close is answered,
/// and the server must then close the connection.
async fn verdict(scene: &Scene, path: &str, bytes: &[u8]) -> Result<u16, String> {
    let mut client = scene.open(path).await;
    client.write(bytes).await;
    let closed = async {
        loop {
            match client.next_frame().await {
                Ok(frame) if frame.is_close() => return Ok(frame.close_code_and_reason().0),
                Ok(frame) if frame.opcode == 1 && path != "/echo" => {} // `connected`
                Ok(frame) => return Err(format!("{frame:?}")),
                Err(end) => return Err(format!("{end:?}")),
            }
        }
    };
    let code = tokio::time::timeout(Duration::from_secs(1), closed).await;
    let code = code.unwrap_or_else(|_| Err("nothing within 1 s".to_owned()))?;
    // It may be gone already: we are not asked.
    let _ = client.try_write(ClientFrame::close(code, "").encode()).await;
    match client.next_frame().await {
        Err(End::Closed) => Ok(code),
        other => Err(format!("{code}, and then {other:?}")),
    }
}

/// Each of the byte sequences is answered with this close code within 1 s. All that are not are named together.
async fn expect_code(scene: &Scene, path: &str, code: u16, cases: &[(String, Vec<u8>)]) {
    let mut others = Vec::new();
    for (what, bytes) in cases {
        let verdict = verdict(scene, path, bytes).await;
        if verdict != Ok(code) {
            others.push(format!("{what}: {verdict:?}"));
        }
    }
    assert!(others.is_empty(), "on {path}, not closed with {code}: {others:#?}");
}

fn named(cases: &[(&str, ClientFrame)]) -> Vec<(String, Vec<u8>)> {
    cases.iter().map(|(what, frame)| ((*what).to_owned(), frame.encode())).collect()
}

fn expect_about(elapsed: Duration, deadline: Duration) {
    let range = deadline.mul_f32(0.9)..deadline + LATE;
    assert!(range.contains(&elapsed), "after {elapsed:?} instead of {deadline:?}");
}

// ---- Many fragments, and a message that never ends.

#[tokio::test]
async fn a_message_may_come_in_1024_fragments_and_in_no_more() {
    let scene = Scene::start(Config::default()).await;
    for payload in ["", "x"] {
        let fragments = |count: usize| {
            let first = ClientFrame::text(payload).unfinished();
            let rest = (1..count).map(|_| ClientFrame::continuation(payload).unfinished());
            std::iter::once(first).chain(rest).collect::<Vec<_>>()
        };
        let mut client = scene.open("/echo").await;
        let mut frames = fragments(1024);
        frames[1023].fin = true;
        client.send_all(frames).await;
        client.expect_text(&payload.repeat(1024)).await;
        client.send_all(fragments(1025)).await;
        assert_eq!(client.expect_close().await.0, 1008);
        drop(client);
    }
    scene.end().await;
}

/// ws CVE-2026-48779, bandit CVE-2026-65623: fragments without end and without content.
#[tokio::test]
async fn endless_empty_fragments_are_1008_and_cost_little() {
    let mut scene = Watched::start(&[]).await;
    let memory = scene.daemon.resident_bytes();
    let before = scene.processor_time();
    let mut frames = ClientFrame::text("").unfinished().encode();
    (0..40_000).for_each(|_| frames.extend(ClientFrame::continuation("").unfinished().encode()));
    let flood = async {
        for _ in 0..20 {
            let mut client = RawClient::open(scene.daemon.address(), "/echo").await;
            // What comes behind the 1,025th is not read for long.
            let _ = client.try_write(&frames).await;
            assert_eq!(client.expect_close().await.0, 1008);
        }
    };
    scene.witness.watch(flood).await;
    scene.expect_little_work_since(before);
    scene.expect_growth_below(2 * MIB as u64, memory);
    scene.end().await;
}

#[tokio::test]
async fn control_frames_between_fragments_do_not_count_as_fragments() {
    let scene = Scene::start(Config { max_fragments: 3, ..Config::default() }).await;
    let mut client = scene.open("/echo").await;
    client.send(ClientFrame::text("a").unfinished()).await;
    for index in 0..5 {
        client.send(ClientFrame::ping([index])).await;
        assert_eq!(client.read_frame().await, ServerFrame::pong([index]));
    }
    client.send(ClientFrame::continuation("b").unfinished()).await;
    client.send(ClientFrame::pong("unasked")).await;
    client.send(ClientFrame::continuation("c")).await;
    client.expect_text("abc").await;
    drop(client);
    scene.end().await;
}

#[tokio::test]
async fn a_message_that_never_ends_is_1008_however_lively_it_comes() {
    const MESSAGE_TIMEOUT: Duration = Duration::from_millis(500);
    let mut scene =
        Scene::start(Config { message_timeout: MESSAGE_TIMEOUT, ..Config::default() }).await;
    let fragment = ClientFrame::continuation("x").unfinished();
    for (begin, drop) in [
        (ClientFrame::text("x").unfinished(), fragment.encode()),
        (ClientFrame::binary([]).declaring(MIB as u64), b"x".to_vec()),
    ] {
        let mut client = scene.open("/echo").await;
        let drip = async {
            let start = Instant::now();
            let mut pace = tokio::time::interval(Duration::from_millis(10));
            client.send(begin).await;
            loop {
                tokio::select! {
                    _ = pace.tick() => client.write(&drop).await,
                    answered = client.stream.readable() => break answered.unwrap(),
                }
            }
            assert_eq!(client.expect_close().await.0, 1008);
            expect_about(start.elapsed(), MESSAGE_TIMEOUT);
        };
        scene.witness.watch(drip).await;
    }
    scene.end().await;
}

/// The deadline is for one message, not for all of them: whoever sends without a pause may do so.
#[tokio::test]
async fn a_client_that_is_always_within_some_message_is_not_cut_off() {
    const MESSAGE_TIMEOUT: Duration = Duration::from_millis(500);
    let mut scene =
        Scene::start(Config { message_timeout: MESSAGE_TIMEOUT, ..Config::default() }).await;
    let mut client = scene.open("/echo").await;
    let frame = ClientFrame::text("x".repeat(100)).encode();
    let stream = async {
        let start = Instant::now();
        client.write(&frame[..50]).await;
        while start.elapsed() < 4 * MESSAGE_TIMEOUT {
            client.write(&frame[50..]).await;
            client.write(&frame[..50]).await;
            let answer = client.read_frame().await;
            assert!(!answer.is_close(), "after {:?}: {answer:?}", start.elapsed());
            let mut pace = tokio::time::interval(Duration::from_millis(10));
            pace.tick().await;
            pace.tick().await;
        }
    };
    scene.witness.watch(stream).await;
    drop(client);
    scene.end().await;
}

// ---- Frames that break RFC 6455 section 5.

fn broken_frames() -> Vec<(String, Vec<u8>)> {
    let mut cases = named(&[
        ("unmasked text", ClientFrame::text("x").unmasked()),
        ("unmasked, empty", ClientFrame::text("").unmasked()),
        ("unmasked ping", ClientFrame::ping("").unmasked()),
        ("unmasked close", ClientFrame::close(1000, "").unmasked()),
        ("RSV1 (compression that nobody agreed to)", ClientFrame::text("x").rsv(4)),
        ("RSV2", ClientFrame::text("x").rsv(2)),
        ("RSV3", ClientFrame::binary("x").rsv(1)),
        ("RSV1 on a ping", ClientFrame::ping("x").rsv(4)),
        ("RSV1 on a close", ClientFrame::close(1000, "").rsv(4)),
        ("all reserved bits", ClientFrame::text("").rsv(7)),
        ("a fragmented ping", ClientFrame::ping("x").unfinished()),
        ("a fragmented pong", ClientFrame::pong("").unfinished()),
        ("a fragmented close", ClientFrame::close(1000, "").unfinished()),
        ("a ping of 126 bytes", ClientFrame::ping([0; 126])),
        ("a pong of 126 bytes", ClientFrame::pong([0; 126])),
        ("a close of 126 bytes", ClientFrame::close(1000, [b'x'; 124])),
        ("a ping of 64 KiB", ClientFrame::ping(vec![0; 65_536])),
        ("a continuation of nothing", ClientFrame::continuation("x")),
        ("a first fragment of nothing", ClientFrame::continuation("x").unfinished()),
    ]);
    for opcode in [3, 4, 5, 6, 7, 0xb, 0xc, 0xd, 0xe, 0xf] {
        let what = format!("opcode {opcode:#x}");
        cases.push((what.clone(), ClientFrame::new(opcode, "x").encode()));
        cases.push((what + ", unfinished", ClientFrame::new(opcode, "").unfinished().encode()));
    }
    let begun = ClientFrame::text("x").unfinished().encode();
    for (what, next) in [
        ("a new text within a message", ClientFrame::text("x")),
        ("a new binary within a message", ClientFrame::binary("x")),
        ("a new first fragment within a message", ClientFrame::text("").unfinished()),
        ("an unmasked continuation", ClientFrame::continuation("x").unmasked()),
        ("RSV1 on a continuation", ClientFrame::continuation("x").rsv(4)),
    ] {
        cases.push((what.to_owned(), [&begun[..], &next.encode()].concat()));
    }
    cases
}

#[tokio::test]
async fn frames_that_break_the_rules_are_1002_within_a_second() {
    let scene = Scene::start(Config::default()).await;
    for path in ["/echo", "/ws/alice"] {
        expect_code(&scene, path, 1002, &broken_frames()).await;
    }
    scene.end().await;
}

/// What a header shows needs no payload to be judged: it would be waited for until the message deadline.
#[tokio::test]
async fn broken_headers_are_1002_before_their_payload_has_come() {
    let scene = Scene::start(Config::default()).await;
    let announced = 1000;
    let cases = named(&[
        ("unmasked", ClientFrame::text("").unmasked().declaring(announced)),
        ("RSV1", ClientFrame::text("").rsv(4).declaring(announced)),
        ("RSV2", ClientFrame::text("").rsv(2).declaring(announced)),
        ("RSV3", ClientFrame::text("").rsv(1).declaring(announced)),
        ("opcode 3", ClientFrame::new(3, "").declaring(announced)),
        ("opcode 0xb", ClientFrame::new(0xb, "").declaring(100)),
        ("a fragmented ping", ClientFrame::ping("").unfinished().declaring(100)),
        ("a ping of 126 bytes", ClientFrame::ping("").declaring(126)),
        ("a ping of 1 MiB", ClientFrame::ping("").declaring(MIB as u64)),
        ("a close of 126 bytes", ClientFrame::new(8, "").declaring(126)),
        ("a close of one byte", ClientFrame::new(8, "").declaring(1)),
        ("a continuation of nothing", ClientFrame::continuation("").declaring(announced)),
    ]);
    expect_code(&scene, "/echo", 1002, &cases).await;
    scene.end().await;
}

/// A verdict on one frame does not wait for what comes behind it, and nothing behind it is carried out.
#[tokio::test]
async fn what_comes_before_a_broken_frame_is_served_and_what_comes_behind_it_is_not() {
    let scene = Scene::start(Config::default()).await;
    for (what, broken) in broken_frames() {
        let mut client = scene.open("/echo").await;
        let before = ClientFrame::text("before").encode();
        let behind = ClientFrame::text("behind").encode();
        client.write([&before[..], &broken, &behind].concat()).await;
        client.expect_text("before").await;
        assert_eq!(client.expect_close().await.0, 1002, "{what}");
        assert_eq!(client.expect_end().await, End::Closed, "{what}");
    }
    scene.end().await;
}

/// RFC 6455 section 5.2 asks for the shortest form; nobody is hurt by a longer one, and all of them mean the same.
#[tokio::test]
async fn lengths_in_a_longer_form_are_understood() {
    let scene = Scene::start(Config::default()).await;
    let mut client = scene.open("/echo").await;
    for form in [LengthForm::Shortest, LengthForm::Two, LengthForm::Eight] {
        client.send(ClientFrame::text("hello").length_form(form)).await;
        client.expect_text("hello").await;
    }
    drop(client);
    scene.end().await;
}

#[tokio::test]
async fn every_masking_key_is_taken_off() {
    let scene = Scene::start(Config::default()).await;
    let mut client = scene.open("/echo").await;
    for key in [[0; 4], [255; 4], [0, 0, 0, 1], [0x80, 0, 0, 0]] {
        for length in [0, 1, 3, 4, 5, 125, 126, 4096, 65_535, 65_536] {
            let payload = vec![b'm'; length];
            client.send(ClientFrame::binary(payload.clone()).masked_with(key)).await;
            assert_eq!(client.read_frame().await, ServerFrame::binary(payload));
        }
    }
    drop(client);
    scene.end().await;
}

// ---- Text that is not UTF-8.

const BAD_UTF8: [(&str, &[u8]); 14] = [
    ("a lone continuation byte", b"\x80"),
    ("0xff", b"\xff"),
    ("0xfe", b"\xfe"),
    ("an overlong slash", b"\xc0\xaf"),
    ("an overlong NUL", b"\xc0\x80"),
    ("an overlong slash in three", b"\xe0\x80\xaf"),
    ("an overlong slash in four", b"\xf0\x80\x80\xaf"),
    ("a high surrogate", b"\xed\xa0\x80"),
    ("a pair of surrogates", b"\xed\xa0\xbd\xed\xb2\xa9"),
    ("above U+10FFFF", b"\xf4\x90\x80\x80"),
    ("five bytes", b"\xf8\x88\x80\x80\x80"),
    ("two of three bytes and a letter", b"\xe2\x82x"),
    ("cut within a character", b"\xe2\x82"),
    ("cut after the first of four", b"\xf0"),
];

#[tokio::test]
async fn text_that_is_not_utf8_is_1007_however_it_is_cut() {
    let scene = Scene::start(Config::default()).await;
    let mut cases = Vec::new();
    for (what, bad) in BAD_UTF8 {
        let text = [b"good ", bad].concat();
        cases.push((what.to_owned(), ClientFrame::text(text.clone()).encode()));
        for cut in 0..=text.len() {
            let first = ClientFrame::text(&text[..cut]).unfinished().encode();
            let last = ClientFrame::continuation(&text[cut..]).encode();
            cases.push((format!("{what}, cut at {cut}"), [first, last].concat()));
        }
        let bytes = |byte: &u8| ClientFrame::continuation([*byte]).unfinished().encode();
        let mut single = ClientFrame::text("").unfinished().encode();
        single.extend(text.iter().flat_map(bytes));
        single.extend(ClientFrame::continuation("").encode());
        cases.push((format!("{what}, in single bytes"), single));
    }
    expect_code(&scene, "/echo", 1007, &cases).await;
    scene.end().await;
}

#[tokio::test]
async fn bad_utf8_is_1007_before_the_message_ends() {
    let scene = Scene::start(Config::default()).await;
    let begun = |bad: &[u8]| ClientFrame::text([b"good ", bad].concat()).unfinished().encode();
    let cut_only = |what: &str| what.starts_with("cut ");
    let cases = BAD_UTF8.iter().filter(|(what, _)| !cut_only(what));
    let cases: Vec<_> = cases.map(|(what, bad)| ((*what).to_owned(), begun(bad))).collect();
    expect_code(&scene, "/echo", 1007, &cases).await;
    scene.end().await;
}

#[tokio::test]
async fn good_utf8_may_be_cut_anywhere() {
    let scene = Scene::start(Config::default()).await;
    let mut client = scene.open("/echo").await;
    let text = "aä€\u{10ffff}\u{fffe}\0\u{d7ff}\u{e000}";
    for cut in 0..=text.len() {
        client.send(ClientFrame::text(&text.as_bytes()[..cut]).unfinished()).await;
        client.send(ClientFrame::ping("between")).await;
        assert_eq!(client.read_frame().await, ServerFrame::pong("between"));
        client.send(ClientFrame::continuation(&text.as_bytes()[cut..])).await;
        client.expect_text(text).await;
    }
    drop(client);
    scene.end().await;
}

#[tokio::test]
async fn a_close_reason_that_is_not_utf8_is_1007() {
    let scene = Scene::start(Config::default()).await;
    let close = |bad: &[u8]| ClientFrame::close(1000, [b"good ", bad].concat()).encode();
    let cases: Vec<_> =
        BAD_UTF8.iter().map(|(what, bad)| ((*what).to_owned(), close(bad))).collect();
    expect_code(&scene, "/echo", 1007, &cases).await;
    scene.end().await;
}

#[tokio::test]
async fn binary_is_not_judged_as_text() {
    let scene = Scene::start(Config::default()).await;
    let mut client = scene.open("/echo").await;
    for (_, bad) in BAD_UTF8 {
        client.send(ClientFrame::binary(bad)).await;
        assert_eq!(client.read_frame().await, ServerFrame::binary(bad));
    }
    drop(client);
    scene.end().await;
}

// ---- Floods of control frames.

#[tokio::test]
async fn floods_of_pings_and_pongs_are_1008_behind_a_burst_of_100() {
    let mut scene = Scene::start(Config::default()).await;
    for (what, frame) in [
        ("empty pings", ClientFrame::ping("")),
        ("full pings", ClientFrame::ping([b'x'; 125])),
        ("pongs", ClientFrame::pong("")),
        ("pings within a message", ClientFrame::ping("x")),
    ] {
        for path in ["/echo", "/ws/alice", "/client/hubs/chat"] {
            let mut client = scene.open(path).await;
            let flood = async {
                if what.ends_with("message") {
                    client.send(ClientFrame::text("x").unfinished()).await;
                }
                // A burst of 100 passes: it is answered, and so is a message behind it.
                client.send_all((0..100).map(|_| frame.clone())).await;
                if what == "pongs" && path == "/echo" {
                    client.send(ClientFrame::text("still here")).await;
                    client.expect_text("still here").await;
                }
                client.send_all((0..200).map(|_| frame.clone())).await;
                client.expect_close_behind_others().await.0
            };
            assert_eq!(scene.witness.watch(flood).await, 1008, "{what} on {path}");
        }
    }
    scene.end().await;
}

#[tokio::test]
async fn a_ping_a_second_for_long_is_answered_each_time() {
    // 50 ms instead of a second: at the rate that is allowed for long, a burst of one is enough.
    let config = Config { control_frames_burst: 5, ..Config::default() };
    let mut scene = Scene::start(config).await;
    let mut client = scene.open("/echo").await;
    let pings = async {
        let mut pace = tokio::time::interval(Duration::from_millis(60));
        for index in 0..40_u8 {
            pace.tick().await;
            client.send(ClientFrame::ping([index])).await;
            assert_eq!(client.read_frame().await, ServerFrame::pong([index]));
        }
    };
    scene.witness.watch(pings).await;
    drop(client);
    scene.end().await;
}

#[tokio::test]
async fn a_flood_of_closes_is_answered_once() {
    let mut scene = Scene::start(Config::default()).await;
    let mut client = scene.open("/echo").await;
    let flood = async {
        let closes = ClientFrame::close(1000, "bye").encode().repeat(10_000);
        // After the first one, what comes is thrown away, and not for long.
        let _ = client.try_write(closes).await;
        assert_eq!(client.expect_close().await, (1000, "bye".to_owned()));
        client.expect_end().await;
    };
    scene.witness.watch(flood).await;
    scene.end().await;
}

#[tokio::test]
async fn ping_floods_from_many_clients_cost_little() {
    let mut scene = Watched::start(&[]).await;
    let memory = scene.daemon.resident_bytes();
    let before = scene.processor_time();
    let flood = async {
        for _ in 0..100 {
            let mut client = RawClient::open(scene.daemon.address(), "/echo").await;
            let _ = client.try_write(ClientFrame::ping([b'x'; 125]).encode().repeat(1000)).await;
            while client.next_frame().await.is_ok_and(|frame| !frame.is_close()) {}
        }
    };
    scene.witness.watch(flood).await;
    scene.expect_little_work_since(before);
    scene.expect_growth_below(2 * MIB as u64, memory);
    scene.end().await;
}

// ---- Pings whose pongs are not read.

/// Writes until the server takes no more for a while; how much it took.
async fn fill(client: &mut RawClient, bytes: &[u8], at_most: usize) -> usize {
    let mut taken = 0;
    let mut at = 0;
    while taken < at_most {
        let writable = client.stream.writable();
        if tokio::time::timeout(Duration::from_millis(500), writable).await.is_err() {
            break;
        }
        match client.stream.try_write(&bytes[at..]) {
            Ok(count) => {
                taken += count;
                at = (at + count) % bytes.len();
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => panic!("after {taken} bytes: {error}"),
        }
    }
    taken
}

#[tokio::test]
async fn unread_pongs_are_bounded() {
    let mut scene = Watched::start(&ANY_CONTROL_FRAMES).await;
    let memory = scene.daemon.resident_bytes();
    let mut client = RawClient::connect_with_small_buffer(scene.daemon.address(), 4096).await;
    client.handshake("/echo").await;
    let pings = ClientFrame::ping([b'x'; 125]).encode().repeat(100);
    let taken = scene.witness.watch(fill(&mut client, &pings, 200 * MIB)).await;
    assert!(taken < 100 * MIB, "{taken} bytes of pings were taken from a client that reads none");
    scene.expect_growth_below(2 * MIB as u64, memory);
    drop(client);
    scene.end().await;
}

/// Whoever reads its pongs late is served late, but served.
#[tokio::test]
async fn pongs_that_are_read_late_all_come() {
    let flags =
        [&ANY_CONTROL_FRAMES[..], &["--send-timeout", "1m", "--ping-interval", "1h"]].concat();
    let mut scene = Watched::start(&flags).await;
    let mut client = RawClient::connect_with_small_buffer(scene.daemon.address(), 4096).await;
    client.handshake("/echo").await;
    let ping = ClientFrame::ping([b'x'; 125]).encode();
    let pings = ping.repeat(100);
    let late = async {
        let taken = fill(&mut client, &pings, 200 * MIB).await;
        for _ in 0..taken / ping.len() {
            assert_eq!(client.read_frame().await, ServerFrame::pong([b'x'; 125]));
        }
    };
    within_time(Duration::from_mins(1), "all pongs", scene.witness.watch(late)).await;
    drop(client);
    scene.end().await;
}

// ---- Too big.

#[tokio::test]
async fn a_message_of_exactly_1_mib_is_taken_in_one_frame_and_in_many() {
    let mut scene = Scene::start(Config::default()).await;
    let payload = vec![b'x'; MIB];
    let mut client = scene.open("/echo").await;
    let large = async {
        client.send(ClientFrame::binary(payload.clone())).await;
        assert_eq!(client.read_frame().await, ServerFrame::binary(payload.clone()));
        client.send(ClientFrame::binary(&payload[..1000]).unfinished()).await;
        client.send(ClientFrame::continuation(&payload[1000..])).await;
        assert_eq!(client.read_frame().await, ServerFrame::binary(payload));
    };
    scene.witness.watch(large).await;
    drop(client);
    scene.end().await;
}

#[tokio::test]
async fn a_byte_more_than_1_mib_is_1009_from_the_header() {
    let scene = Scene::start(Config::default()).await;
    let too_long = MIB as u64 + 1;
    let whole = ClientFrame::binary(vec![0; MIB]).unfinished().encode();
    let small = ClientFrame::binary([0; 10]).unfinished().encode();
    let rest = |length: u64| ClientFrame::continuation([]).declaring(length);
    let mut cases = named(&[
        ("one frame", ClientFrame::binary([]).declaring(too_long)),
        ("text", ClientFrame::text([]).declaring(too_long)),
        ("a first fragment", ClientFrame::text([]).unfinished().declaring(too_long)),
    ]);
    cases.push(("a second fragment".into(), [&whole[..], &rest(1).encode()].concat()));
    cases.push((
        "a large second fragment".into(),
        [&whole[..], &rest(MIB as u64).encode()].concat(),
    ));
    cases.push(("the sum".into(), [&small[..], &rest(MIB as u64 - 9).encode()].concat()));
    expect_code(&scene, "/echo", 1009, &cases).await;
    expect_code(&scene, "/ws/alice", 1009, &cases).await;
    scene.end().await;
}

#[tokio::test]
async fn what_is_too_big_is_not_buffered() {
    let mut scene = Watched::start(&[]).await;
    let memory = scene.daemon.resident_bytes();
    // Masked before the watch begins, which shares its thread with the flood.
    let frame = ClientFrame::binary(vec![0; 4 * MIB]).encode();
    let flood = async {
        for _ in 0..50 {
            let mut client = RawClient::open(scene.daemon.address(), "/echo").await;
            // The server stops to read: 64 KiB, so that its close frame is not lost, and no more.
            let _ = client.try_write(&frame).await;
            if let Ok(frame) = client.next_frame().await {
                assert_eq!(frame.close_code_and_reason().0, 1009);
            }
        }
    };
    scene.witness.watch(flood).await;
    scene.expect_growth_below(2 * MIB as u64, memory);
    scene.end().await;
}

// ---- Announced lengths.

/// NATS CVE-2026-27889, gorilla CVE-2020-27813: lengths that overflow when they are added to.
#[tokio::test]
async fn lengths_that_overflow_are_1009_at_once() {
    let scene = Scene::start(Config::default()).await;
    let lengths =
        [1 << 31, (1 << 32) - 1, 1 << 32, (1 << 32) + 5, (1 << 63) - 1, 1 << 63, (1 << 63) + 1];
    let lengths = lengths.into_iter().chain([u64::MAX - 13, u64::MAX - 1, u64::MAX]);
    let begun = ClientFrame::text("x").unfinished().encode();
    let mut cases = Vec::new();
    for length in lengths {
        let frame = ClientFrame::text("x").declaring(length);
        cases.push((format!("{length:#x}"), frame.encode()));
        let frame = ClientFrame::continuation("x").declaring(length);
        cases.push((format!("{length:#x} in a fragment"), [&begun[..], &frame.encode()].concat()));
    }
    expect_code(&scene, "/echo", 1009, &cases).await;
    scene.end().await;
}

#[tokio::test]
async fn an_announced_length_without_data_is_1008_after_the_deadline() {
    const MESSAGE_TIMEOUT: Duration = Duration::from_millis(500);
    let mut scene =
        Scene::start(Config { message_timeout: MESSAGE_TIMEOUT, ..Config::default() }).await;
    let frame = ClientFrame::binary("x").declaring(MIB as u64).encode();
    for sent in [&frame[..1], &frame[..2], &frame[..10], &frame[..14], &frame[..]] {
        for path in ["/echo", "/ws/alice", "/client/hubs/chat"] {
            let mut client = scene.open(path).await;
            let start = Instant::now();
            client.write(sent).await;
            let code = scene.witness.watch(client.expect_close_behind_others()).await.0;
            assert_eq!(code, 1008, "{} bytes on {path}", sent.len());
            expect_about(start.elapsed(), MESSAGE_TIMEOUT);
        }
    }
    scene.end().await;
}

#[tokio::test]
async fn announced_lengths_cost_no_memory() {
    const CLIENTS: usize = 300;
    let mut scene = Watched::start(&[]).await;
    let memory = scene.daemon.resident_bytes();
    let announce = async {
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            let mut client = RawClient::open(scene.daemon.address(), "/echo").await;
            client.send(ClientFrame::binary([0; 1000]).declaring(MIB as u64)).await;
            clients.push(client);
        }
        // Each is read by now: its thread answers in turn.
        for client in &mut clients {
            client.send(ClientFrame::binary([])).await;
        }
        clients
    };
    let clients = scene.witness.watch(announce).await;
    scene.witness.expect_prompt_echo().await;
    // 16 KiB each: the connection, what it sent, and the page that its buffer begins in.
    scene.expect_growth_below(CLIENTS as u64 * (16 << 10), memory);
    drop(clients);
    scene.end().await;
}

/// tungstenite makes room for what a header announces: no page of it is touched, and it is counted.
#[tokio::test]
async fn announced_lengths_count_against_the_budget_until_they_are_there() {
    const CLIENTS: usize = 200;
    let scene = Scene::start(Config::default()).await;
    let queued = || scene.server.hub.counts().queued_bytes;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = scene.open("/echo").await;
        client.send(ClientFrame::binary([7]).declaring(MIB as u64)).await;
        clients.push(client);
    }
    eventually("bytes announced", CLIENTS * MIB, queued).await;
    let mut whole = clients.pop().unwrap();
    let mask = ClientFrame::binary([]).mask.unwrap();
    let rest: Vec<u8> = mask.iter().copied().cycle().skip(1).take(MIB - 1).collect();
    whole.write(rest).await;
    let mut payload = vec![0; MIB];
    payload[0] = 7;
    assert_eq!(whole.read_frame().await, ServerFrame::binary(payload));
    eventually("bytes announced", (CLIENTS - 1) * MIB, queued).await;
    drop((whole, clients));
    eventually("bytes announced", 0, queued).await;
    scene.end().await;
}

#[tokio::test]
async fn those_who_announce_more_than_the_process_has_left_are_1013_and_nobody_else() {
    const FIT: usize = 8;
    let max_total_backlog = FIT * MIB + MIB / 2;
    let mut scene = Scene::start(Config { max_total_backlog, ..Config::default() }).await;
    let mut small = scene.open("/echo").await;
    small.send(ClientFrame::text("a").unfinished()).await;
    let mut clients = Vec::new();
    for _ in 0..3 * FIT {
        let mut client = scene.open("/echo").await;
        client.send(ClientFrame::binary([0]).declaring(MIB as u64)).await;
        clients.push(client);
    }
    let metrics = scene.server.hub.metrics();
    eventually("evicted", 2 * FIT as u64, || metrics.evicted.get()).await;
    scene.witness.expect_prompt_echo().await;
    small.send(ClientFrame::continuation("b")).await;
    small.expect_text("ab").await;
    clients.into_iter().for_each(RawClient::abort);
    drop(small);
    scene.end().await;
}

// ---- Abuse of the closing handshake.

#[tokio::test]
async fn close_codes_that_may_not_be_sent_are_1002() {
    let scene = Scene::start(Config::default()).await;
    let codes = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535];
    let mut cases: Vec<_> = codes
        .iter()
        .map(|code| (code.to_string(), ClientFrame::close(*code, "").encode()))
        .collect();
    cases.extend(named(&[
        ("a body of one byte", ClientFrame::new(8, "x")),
        ("a reason of 124 bytes", ClientFrame::close(1000, [b'x'; 124])),
        ("a reason of 64 KiB", ClientFrame::close(1000, vec![b'x'; 65_536])),
    ]));
    for path in ["/echo", "/ws/alice"] {
        expect_code(&scene, path, 1002, &cases).await;
    }
    scene.end().await;
}

#[tokio::test]
async fn close_codes_that_may_be_sent_come_back() {
    let scene = Scene::start(Config::default()).await;
    let mut codes: Vec<_> =
        (1000..=1003).chain(1007..=1013).chain([3000, 3999, 4000, 4999]).collect();
    codes.dedup();
    for code in codes {
        let mut client = scene.open("/echo").await;
        client.send(ClientFrame::close(code, [b'x'; 123])).await;
        assert_eq!(client.expect_close().await.0, code);
        assert_eq!(client.expect_end().await, End::Closed);
    }
    let mut client = scene.open("/echo").await;
    client.send(ClientFrame::new(8, [])).await;
    assert_eq!(client.expect_close().await.0, 1005);
    assert_eq!(client.expect_end().await, End::Closed);
    scene.end().await;
}

#[tokio::test]
async fn what_comes_behind_a_close_frame_is_ignored() {
    let scene = Scene::start(Config::default()).await;
    for behind in [
        ClientFrame::text("behind"),
        ClientFrame::ping("behind"),
        ClientFrame::close(1001, "again"),
        ClientFrame::close(999, ""),
        ClientFrame::new(0xf, "").unmasked(),
        ClientFrame::binary("").declaring(u64::MAX),
    ] {
        // In one piece, and in two.
        for at_once in [true, false] {
            let mut client = scene.open("/echo").await;
            let close = ClientFrame::close(1000, "bye").encode();
            if at_once {
                client.write([close, behind.encode()].concat()).await;
                assert_eq!(client.expect_close().await, (1000, "bye".to_owned()));
            } else {
                client.write(close).await;
                assert_eq!(client.expect_close().await, (1000, "bye".to_owned()));
                let _ = client.try_write(behind.encode()).await;
            }
            // A reset is as good an end here: bytes are on their way to a socket that is gone.
            client.expect_end().await;
        }
    }
    scene.end().await;
}

const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// A client that the server has told to go (1003: its endpoint takes text only).
async fn told_to_go(scene: &Scene) -> RawClient {
    let mut client = scene.open("/ws/alice").await;
    client.send(ClientFrame::binary("x")).await;
    assert_eq!(client.expect_close_behind_others().await.0, 1003);
    client
}

fn impatient() -> Config {
    Config { close_timeout: CLOSE_TIMEOUT, ..Config::default() }
}

#[tokio::test]
async fn a_peer_that_does_not_answer_our_close_is_reset() {
    let mut scene = Scene::start(impatient()).await;
    let mut client = told_to_go(&scene).await;
    let start = Instant::now();
    let end = scene.witness.watch(client.expect_end()).await;
    expect_about(start.elapsed(), CLOSE_TIMEOUT);
    assert_eq!(end, End::Reset);
    scene.end().await;
}

#[tokio::test]
async fn a_peer_that_answers_our_close_and_stays_is_let_go() {
    let scene = Scene::start(impatient()).await;
    let mut client = told_to_go(&scene).await;
    client.send(ClientFrame::close(1000, "")).await;
    assert_eq!(client.expect_end().await, End::Closed);
    // Our side stays open: the server's side of the socket must not.
    scene.end().await;
    drop(client);
}

/// Behind our close frame 64 KiB are read and thrown away, in whatever form they come.
#[tokio::test]
async fn a_peer_that_goes_on_talking_behind_our_close_is_reset_after_64_kib() {
    let mut scene =
        Scene::start(Config { close_timeout: Duration::from_mins(1), ..Config::default() }).await;
    for (what, frame) in [
        ("messages", ClientFrame::text("x".repeat(1000))),
        ("fragments", ClientFrame::continuation("x".repeat(1000)).unfinished()),
        ("empty messages", ClientFrame::text("")),
        ("full pings", ClientFrame::ping([b'x'; 125])),
        ("a large message", ClientFrame::binary(vec![0; MIB])),
    ] {
        let mut client = told_to_go(&scene).await;
        let frame = frame.encode();
        let talk = async {
            if what == "fragments" {
                client.send(ClientFrame::text("").unfinished()).await;
            }
            let mut sent = 0;
            while client.try_write(&frame).await.is_ok() {
                sent += frame.len();
                // The kernels on both sides take some megabytes that the server never sees.
                assert!(sent < 16 * MIB, "{what}: {sent} bytes were taken");
                tokio::task::yield_now().await;
            }
        };
        within(what, scene.witness.watch(talk)).await;
    }
    scene.end().await;
}

#[tokio::test]
async fn a_reset_within_a_frame_ends_one_connection_and_nothing_else() {
    let scene = Scene::start(Config::default()).await;
    let frame = ClientFrame::text("x".repeat(70_000)).encode();
    for cut in [1, 2, 9, 10, 13, 14, 15, 1000, 65_536, frame.len() - 1] {
        for path in ["/echo", "/ws/alice"] {
            let mut client = scene.open(path).await;
            client.write(&frame[..cut]).await;
            client.abort();
            let mut client = scene.open(path).await;
            client.write(&frame[..cut]).await;
            drop(client);
        }
    }
    scene.end().await;
}
