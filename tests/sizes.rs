//! Messages of all sizes, however their bytes are cut on the way.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod support;

use hubnerite::Config;
use support::{ClientFrame, RawClient, ServerFrame, TestServer, eventually};
use tokio::{io::AsyncWriteExt, net::TcpStream};

const KIB: usize = 1 << 10;

/// Each has one more and one less beside it. tungstenite is handed 1 KiB at a time, from 4 KiB on a
/// payload is written where it is, and beyond 64 KiB one read does not bring it as a whole.
const SIZES: [usize; 7] = [1, 126, KIB, 4 * KIB, 16 * KIB, 64 * KIB, KIB * KIB - 1];

/// No two places in it look alike for long.
fn text(length: usize) -> String {
    let numbers = (0..length).flat_map(|number| number.to_string().into_bytes());
    String::from_utf8(numbers.take(length).collect()).unwrap()
}

/// Writes from a task of its own, so that the answers can be read meanwhile.
fn write_in_pieces(client: &RawClient, bytes: Vec<u8>, size: usize) {
    let socket = socket2::SockRef::from(&client.stream).try_clone().unwrap();
    let mut socket = TcpStream::from_std(socket.into()).unwrap();
    tokio::spawn(async move {
        for piece in bytes.chunks(size) {
            socket.write_all(piece).await.unwrap();
            // The server most likely reads before there is more.
            tokio::task::yield_now().await;
        }
    });
}

#[tokio::test]
async fn messages_of_every_size_come_back_however_they_are_cut() {
    let server = TestServer::start(Config::default()).await;
    let mut client = RawClient::open(server.address, "/echo").await;
    for size in SIZES.into_iter().flat_map(|size| [size - 1, size, size + 1]) {
        let large = text(size);
        let frames = [
            ClientFrame::text(&*large),
            ClientFrame::ping("p"),
            ClientFrame::text("small"),
            ClientFrame::binary(&*large),
        ];
        let bytes: Vec<u8> = frames.iter().flat_map(ClientFrame::encode).collect();
        for piece in [bytes.len(), 64 * KIB, 16 * KIB + 8, 5_000, bytes.len() / 300 + 1] {
            write_in_pieces(&client, bytes.clone(), piece);
            let what = format!("{size} bytes, cut every {piece}");
            assert_eq!(client.read_frame().await, ServerFrame::text(&*large), "{what}");
            assert_eq!(client.read_frame().await, ServerFrame::pong("p"), "{what}");
            client.expect_text("small").await;
            assert_eq!(client.read_frame().await, ServerFrame::binary(&*large), "{what}");
        }
    }
    drop(client);
    server.stop().await;
}

/// What is read with a large frame, and what its bytes are, is judged as it is elsewhere.
#[tokio::test]
async fn large_frames_and_what_follows_them_are_judged() {
    let server = TestServer::start(Config::default()).await;
    for size in [16 * KIB, 50_000, 200_000] {
        let large = text(size);
        let invalid = [large.as_bytes(), b"\xff"].concat();
        let follow =
            |frame: ClientFrame| [ClientFrame::text(&*large).encode(), frame.encode()].concat();
        let reserved = ClientFrame::text("x").rsv(4);
        let too_big = ClientFrame::text("x").declaring((KIB * KIB) as u64 + 1);
        let begun = ClientFrame::text(&*large).unfinished().encode();
        for (bytes, echoes, code) in [
            (ClientFrame::text(invalid).encode(), 0, 1007),
            (ClientFrame::text(&*large).rsv(4).encode(), 0, 1002),
            (ClientFrame::text(&*large).unmasked().encode(), 0, 1002),
            (follow(reserved), 1, 1002),
            (follow(too_big), 1, 1009),
            ([begun, ClientFrame::text("x").encode()].concat(), 0, 1002),
            (follow(ClientFrame::close(1000, "")), 1, 1000),
        ] {
            let mut client = RawClient::open(server.address, "/echo").await;
            client.write(bytes).await;
            for _ in 0..echoes {
                assert_eq!(client.read_frame().await, ServerFrame::text(&*large));
            }
            assert_eq!(client.expect_close().await.0, code, "{size} bytes, {echoes} echoes");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn an_end_within_a_large_frame_is_an_end() {
    let server = TestServer::start(Config::default()).await;
    for size in [16 * KIB, 200_000] {
        let bytes = ClientFrame::text(text(size)).encode();
        for sent in [14, 1_000, bytes.len() - 1] {
            let mut client = RawClient::open(server.address, "/echo").await;
            eventually("it is there", 1, || server.hub.counts().connections).await;
            client.write(&bytes[..sent]).await;
            drop(client);
            eventually("it is gone", 0, || server.hub.counts().connections).await;
        }
    }
    server.stop().await;
}
