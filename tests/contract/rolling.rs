//! Nodes are restarted one after the other while their clients talk.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{SinkExt, StreamExt, future::join_all};
use hubnerite::Config;
use serde_json::{Value, json};
use tokio::{task::JoinHandle, time::sleep};
use tokio_tungstenite::tungstenite::Message;

use super::{Bench, Node};
use crate::support::{JsonClient, WebSocket, ack, connect_with, eventually_within};

const NODES: usize = 3;
const SPEAKERS: usize = 12;
const LISTENERS: usize = 4;

/// What each speaker says before the next node is restarted, and again after it.
const BETWEEN: u64 = 50;

/// Of all that the speakers have to say in between.
const LIMIT: Duration = Duration::from_secs(30);

/// Says numbers to the group, each once and behind the ack of the one before; connects to another
/// node whenever its own goes.
struct Speaker {
    number: usize,
    addresses: Arc<Mutex<Vec<SocketAddr>>>,
    stop: Arc<AtomicBool>,
    /// Numbers that were acknowledged.
    acknowledged: Mutex<Vec<u64>>,
    next: AtomicU64,
}

impl Speaker {
    async fn run(self: Arc<Self>) {
        let mut attempt = self.number;
        while !self.stop.load(Relaxed) {
            let addresses = self.addresses.lock().unwrap().clone();
            let address = addresses[attempt % addresses.len()];
            attempt += 1;
            let path = format!("/ws/speaker-{}", self.number);
            match connect_with(address, &path, &[]).await {
                Ok((socket, _)) => drop(self.talk(socket, attempt).await),
                // It is just going, or not there yet.
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// `None` once the connection is over.
    async fn talk(&self, mut socket: WebSocket, connection: usize) -> Option<()> {
        while !self.stop.load(Relaxed) {
            let number = self.next.fetch_add(1, Relaxed);
            let data = json!([self.number, connection, number]);
            let message =
                json!({"type": "sendToGroup", "group": "all", "ackId": number, "data": data});
            socket.send(Message::text(message.to_string())).await.ok()?;
            self.acknowledge(&mut socket, number).await?;
        }
        Some(())
    }

    /// Waits for the ack of a number.
    async fn acknowledge(&self, socket: &mut WebSocket, number: u64) -> Option<()> {
        loop {
            let Message::Text(text) = socket.next().await?.ok()? else { continue };
            let told: Value = serde_json::from_str(&text).unwrap();
            if told == ack(number) {
                self.acknowledged.lock().unwrap().push(number);
                return Some(());
            }
            // Refused, because its node is about to stop: it was not said.
            if told["ackId"] == number {
                return Some(());
            }
        }
    }

    fn count(&self) -> u64 {
        self.acknowledged.lock().unwrap().len() as u64
    }
}

/// All speakers have said so much more, each of them.
async fn go_on(speakers: &[Arc<Speaker>]) {
    let until: Vec<_> = speakers.iter().map(|speaker| speaker.count() + BETWEEN).collect();
    let silent =
        async || speakers.iter().zip(&until).filter(|(one, until)| one.count() < **until).count();
    eventually_within(LIMIT, "speakers that have not gone on", 0, silent).await;
}

/// Listens to one group until it is told to end; what it has heard, by speaker.
async fn listen(mut client: JsonClient) -> HashMap<usize, Vec<(u64, u64)>> {
    let mut heard: HashMap<usize, Vec<(u64, u64)>> = HashMap::new();
    loop {
        let message = client.next().await;
        let numbers = message["data"].as_array().unwrap_or_else(|| panic!("{message}"));
        let numbers: Vec<_> = numbers.iter().map(|number| number.as_u64().unwrap()).collect();
        match numbers[..] {
            [speaker, connection, number] => {
                let speaker = usize::try_from(speaker).unwrap();
                heard.entry(speaker).or_default().push((connection, number));
            }
            _ => return heard,
        }
    }
}

/// What a listener must have heard of one speaker: all that was acknowledged since it listens.
fn check(heard: &[(u64, u64)], acknowledged: &[u64], first: u64) {
    let numbers: HashSet<_> = heard.iter().map(|(_, number)| *number).collect();
    assert_eq!(numbers.len(), heard.len(), "something was heard twice");
    let due = acknowledged.iter().filter(|number| **number >= first);
    let lost: Vec<_> = due.filter(|number| !numbers.contains(number)).collect();
    assert!(lost.is_empty(), "acknowledged and not heard: {lost:?}");
    let mut newest: HashMap<u64, u64> = HashMap::new();
    for (connection, number) in heard {
        let before = newest.insert(*connection, *number);
        assert!(before.is_none_or(|before| before < *number), "heard out of order: {number}");
    }
}

type Listening = JoinHandle<HashMap<usize, Vec<(u64, u64)>>>;

/// Listeners on all nodes but one.
async fn listeners(nodes: &[Option<Node>], but: usize) -> Vec<Listening> {
    let mut all = Vec::new();
    for (place, node) in nodes.iter().enumerate().filter(|(place, _)| *place != but) {
        let node = node.as_ref().unwrap();
        for number in 0..LISTENERS {
            let mut client = node.user(&format!("listener-{but}-{place}-{number}")).await;
            let join = json!({"type": "joinGroup", "group": "all", "ackId": 1});
            client.send(&join).await;
            // What is said on this node may be heard before the engine has confirmed the rest.
            while client.next().await != ack(1) {}
            all.push(tokio::spawn(listen(client)));
        }
    }
    all
}

pub async fn nodes_are_restarted_one_by_one_and_nothing_acknowledged_is_lost<B: Bench>() {
    let bench = B::start().await;
    let config = Config { drain_spread: Duration::from_millis(500), ..Config::default() };
    let start = async || Some(Node::start(config.clone(), bench.backplane()).await);
    let mut nodes: Vec<_> = join_all((0..NODES).map(|_| start())).await;
    let all = |nodes: &[Option<Node>]| -> Vec<SocketAddr> {
        nodes.iter().flatten().map(|node| node.server.address).collect()
    };
    let addresses = Arc::new(Mutex::new(all(&nodes)));
    let stop = Arc::new(AtomicBool::new(false));
    let speaker = |number| {
        let (addresses, stop) = (Arc::clone(&addresses), Arc::clone(&stop));
        let (acknowledged, next) = (Mutex::default(), AtomicU64::new(1));
        Arc::new(Speaker { number, addresses, stop, acknowledged, next })
    };
    let speakers: Vec<_> = (0..SPEAKERS).map(speaker).collect();
    let talking: Vec<_> =
        speakers.iter().map(|speaker| tokio::spawn(Arc::clone(speaker).run())).collect();
    for place in 0..NODES {
        go_on(&speakers).await;
        let listening = listeners(&nodes, place).await;
        let first: Vec<_> = speakers.iter().map(|speaker| speaker.next.load(Relaxed)).collect();
        go_on(&speakers).await;
        nodes[place].take().unwrap().server.stop().await;
        go_on(&speakers).await;
        nodes[place] = start().await;
        *addresses.lock().unwrap() = all(&nodes);
        go_on(&speakers).await;
        let acknowledged: Vec<_> =
            speakers.iter().map(|speaker| speaker.acknowledged.lock().unwrap().clone()).collect();
        // What each of them says now comes behind that.
        go_on(&speakers).await;
        let end = json!({"data": []}).to_string();
        nodes[place].as_ref().unwrap().server.hub.send_to_group("all", end);
        for listener in listening {
            let heard = listener.await.unwrap();
            for (number, acknowledged) in acknowledged.iter().enumerate() {
                check(&heard[&number], acknowledged, first[number]);
            }
        }
    }
    stop.store(true, Relaxed);
    join_all(talking).await;
    for node in nodes.into_iter().flatten() {
        node.server.stop().await;
    }
}
