//! What a run is about, for its report.

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::options::{Audience, Command, Echo, Fanout, Messages, Publish, Rate};

/// What was run, in words and figures.
#[derive(Debug, Serialize)]
pub(crate) struct Subject {
    pub(crate) mode: &'static str,
    pub(crate) url: String,
    pub(crate) connections: u32,
    /// The mode's other parameters, such as `in_flight`.
    pub(crate) parameters: serde_json::Map<String, serde_json::Value>,
    /// What is counted: messages, deliveries, connections.
    pub(crate) unit: &'static str,
    /// What latency is measured.
    pub(crate) latency: &'static str,
    /// How many of them one publish makes, where that is what is asked for.
    pub(crate) each_publish: Option<u32>,
}

impl Subject {
    pub(crate) fn new(command: &Command) -> Self {
        match command {
            Command::Echo(Echo { messages, in_flight }) => {
                Self::of_messages("echo", messages, "in_flight", *in_flight)
            }
            Command::Rate(Rate { messages, rate }) => {
                Self::of_messages("rate", messages, "per_second", *rate)
            }
            Command::Fanout(Fanout { audience, publishers, window, .. }) => {
                Self::of_deliveries("fanout", audience, *publishers, "window", *window)
            }
            Command::Publish(Publish { audience, publishers, rate, .. }) => Self {
                each_publish: Some(audience.subscribers),
                ..Self::of_deliveries("publish", audience, *publishers, "per_second", *rate)
            },
            Command::Idle(idle) => {
                Self::of_connections("idle", &idle.url, idle.connections, "messages", "handshake")
            }
            Command::Connect(connect) => {
                let (url, connections) = (&connect.url, connect.connections);
                Self::of_connections("connect", url, connections, "handshakes", "handshake")
            }
            Command::Churn(churn) => {
                let (url, connections) = (&churn.url, churn.connections);
                Self::of_connections("churn", url, connections, "connections", "lifetime")
            }
        }
    }

    fn of_connections(
        mode: &'static str,
        url: &str,
        connections: u32,
        unit: &'static str,
        latency: &'static str,
    ) -> Self {
        let parameters = Map::new();
        let url = url.to_owned();
        Self { mode, url, connections, parameters, unit, latency, each_publish: None }
    }

    fn of_messages(mode: &'static str, messages: &Messages, name: &str, value: u32) -> Self {
        let opcode = if messages.binary { "binary" } else { "text" };
        let (url, connections) = (&messages.url, messages.connections);
        Self {
            parameters: parameters([
                (name, json!(value)),
                ("bytes", json!(messages.size)),
                ("opcode", json!(opcode)),
            ]),
            ..Self::of_connections(mode, url, connections, "messages", "latency")
        }
    }

    fn of_deliveries(
        mode: &'static str,
        audience: &Audience,
        publishers: u32,
        name: &str,
        value: u32,
    ) -> Self {
        let connections = audience.subscribers + publishers;
        Self {
            parameters: parameters([
                ("subscribers", json!(audience.subscribers)),
                ("publishers", json!(publishers)),
                (name, json!(value)),
                ("bytes", json!(audience.size)),
            ]),
            ..Self::of_connections(mode, &audience.url, connections, "deliveries", "latency")
        }
    }
}

fn parameters<const N: usize>(pairs: [(&str, Value); N]) -> Map<String, Value> {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
