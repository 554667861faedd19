//! What a message costs in allocations once everything is warm. All that this process allocates is
//! counted, so the clients here are blocking sockets with buffers of their own.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod support;

use std::{
    alloc::System,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{Mutex, PoisonError},
};

use hubnerite::Message;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use support::{ClientFrame, DEADLINE, TestServer, eventually, patient, upgrade};
use tokio::runtime::Runtime;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// One test at a time: the count is that of the process.
static ALONE: Mutex<()> = Mutex::new(());

const ROUNDS: usize = 500;

/// Once in a while the runtime itself needs something.
const HOUSEKEEPING: usize = ROUNDS / 50;

struct Client {
    socket: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    fn open(address: SocketAddr, path: &str) -> Self {
        let mut socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.write_all(upgrade(path).as_bytes()).unwrap();
        let mut client = Self { socket, buffer: vec![0; 64 << 10] };
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(client.expect(1)[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
        client
    }

    fn expect(&mut self, count: usize) -> &[u8] {
        let bytes = &mut self.buffer[..count];
        self.socket.read_exact(bytes).unwrap();
        bytes
    }
}

/// How often `each` makes this process allocate, all rounds together, after as many in vain.
fn allocations(mut each: impl FnMut()) -> usize {
    (0..ROUNDS).for_each(|_| each());
    let region = Region::new(ALLOCATOR);
    (0..ROUNDS).for_each(|_| each());
    let change = region.change();
    change.allocations + change.reallocations
}

fn with_server(test: impl FnOnce(&Runtime, &TestServer)) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = { runtime }.worker_threads(1).enable_all().build().unwrap();
    let server = runtime.block_on(TestServer::start(patient()));
    test(&runtime, &server);
    runtime.block_on(server.stop());
}

#[test]
fn a_delivery_of_a_broadcast_allocates_nothing() {
    const RECEIVERS: usize = 100;
    /// Its message, its wire bytes and what their receivers share; who is woken, and in turns.
    const PER_BROADCAST: usize = 5;
    with_server(|runtime, server| {
        let mut clients: Vec<_> =
            (0..RECEIVERS).map(|_| Client::open(server.address, "/client/hubs/chat")).collect();
        let hub = server.hub.named("chat");
        runtime.block_on(eventually("all are members", RECEIVERS, || hub.counts().members));
        let count = allocations(|| {
            hub.send_to_all(Message::from("0123456789"));
            for client in &mut clients {
                assert_eq!(client.expect(12), b"\x81\x0a0123456789");
            }
        });
        assert!(
            count <= ROUNDS * PER_BROADCAST + HOUSEKEEPING,
            "{count} allocations for {ROUNDS} broadcasts"
        );
    });
}

#[test]
fn an_echo_allocates_nothing() {
    for length in [10, 1_000, 4_000] {
        assert_echo_allocates(0, length);
    }
}

/// The place that it is read into and written from, and what tungstenite shares that by: two small
/// costs that save two copies.
#[test]
fn an_echo_of_a_large_message_allocates_its_place_and_no_copy() {
    for length in [5_000, 16 << 10, 40_000] {
        assert_echo_allocates(2, length);
    }
}

fn assert_echo_allocates(times: usize, length: usize) {
    with_server(|_, server| {
        let payload = "x".repeat(length);
        let mut client = Client::open(server.address, "/echo");
        let frame = ClientFrame::text(payload.as_str()).encode();
        // A server's frame has no mask.
        let answer = frame.len() - 4;
        let count = allocations(|| {
            client.socket.write_all(&frame).unwrap();
            assert!(client.expect(answer).ends_with(payload.as_bytes()));
        });
        assert!(
            count <= ROUNDS * times + HOUSEKEEPING,
            "{count} allocations for {ROUNDS} messages of {length} bytes"
        );
    });
}
