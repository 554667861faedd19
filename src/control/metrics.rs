//! `GET /metrics`: what the process counts, for Prometheus.

use std::{
    fmt::{self, Error, Result},
    result,
    sync::Arc,
};

use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, MetricEncoder,
        NoLabelSet, text,
    },
    metrics::MetricType,
    registry::Registry,
};

use super::rest::CallCounts;
use crate::{
    counter::{ByNumber, Histogram},
    hub::Hub,
    metrics::{EventCounters, EventKind, EventOutcome},
    process::Process,
};
#[cfg(feature = "backplane")]
use crate::{metrics::BackplaneCounters, relay::RelayFigures};

/// The two forms of the text: scrapers ask for the newer one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// `OpenMetrics` 1.0.
    OpenMetrics,
    /// Prometheus 0.0.4, which every tool reads.
    Prometheus,
}

impl Format {
    /// What the `Accept` field of a request asks for.
    pub(super) fn accepted(accept: Option<&str>) -> Self {
        match accept {
            Some(accept) if accept.contains("application/openmetrics-text") => Self::OpenMetrics,
            _ => Self::Prometheus,
        }
    }

    /// The media type.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// All metrics as text.
pub(super) fn page(hub: &Hub, calls: &Arc<CallCounts>, format: Format) -> String {
    let (mut registry, mut page) = (Registry::default(), String::new());
    let (hub, calls) = (hub.clone(), Arc::clone(calls));
    registry.register_collector(Box::new(Figures { hub, calls }));
    // Writing to a string does not fail.
    let _ = text::encode(&mut page, &registry);
    match format {
        Format::OpenMetrics => page,
        Format::Prometheus => to_prometheus(&page),
    }
}

/// The older form names a counter with its `_total`, and knows no end mark.
fn to_prometheus(page: &str) -> String {
    let counters: Vec<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut old = String::with_capacity(page.len());
    for line in page.lines().filter(|line| *line != "# EOF") {
        let mut words = line.splitn(4, ' ');
        let name = match (words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP" | "TYPE"), Some(name)) => Some(name),
            _ => None,
        };
        match name.filter(|name| counters.contains(name)) {
            Some(name) => old.push_str(&line.replacen(name, &format!("{name}_total"), 1)),
            None => old.push_str(line),
        }
        old.push('\n');
    }
    old
}

/// Where the figures come from.
struct Figures {
    hub: Hub,
    calls: Arc<CallCounts>,
}

impl fmt::Debug for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> Result {
        f.write_str("Figures")
    }
}

impl Collector for Figures {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result {
        let mut page = Page(encoder);
        self.connections(&mut page)?;
        self.messages(&mut page)?;
        self.pressure(&mut page)?;
        self.calls(&mut page)?;
        events(&self.hub.metrics().events, &mut page)?;
        #[cfg(feature = "backplane")]
        if let Some(relay) = self.hub.relay() {
            backplane(&self.hub.metrics().backplane, relay.figures(), &mut page)?;
        }
        // Without /proc there is nothing to tell.
        Process::look().map_or(Ok(()), |process| about_process(&process, &mut page))
    }
}

impl Figures {
    fn connections(&self, page: &mut Page<'_>) -> Result {
        let metrics = self.hub.metrics();
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        page.gauges("hubnerite_build_info", "What was built", [(version, 1_u64)])?;
        let open = self.hub.counts().connections;
        page.gauge("hubnerite_connections", "Connections that are open", open)?;
        let help = "Connections that were opened";
        page.counter("hubnerite_connections_opened", help, metrics.opened.get())?;
        let help = "Connections that have ended, by close code; 1006 if they were lost";
        let codes = numbered("code", &metrics.closed_with);
        page.counters("hubnerite_connections_closed", help, codes)?;
        let help = "Answers to requests for connections and pages, by status";
        page.counters("hubnerite_handshakes", help, numbered("status", &metrics.answered))?;
        let help = "Requests answered with an error, or not at all";
        page.counter("hubnerite_handshakes_refused", help, metrics.refused.get())?;
        let help = "Handlers that failed or panicked";
        page.counter("hubnerite_handler_failures", help, metrics.handler_failures.get())
    }

    fn messages(&self, page: &mut Page<'_>) -> Result {
        let (metrics, (traffic, largest)) = (self.hub.metrics(), self.hub.traffic());
        let help = "Messages that clients have sent";
        page.counter("hubnerite_messages_received", help, traffic.messages_in)?;
        let help = "Messages to clients, replies included";
        page.counter("hubnerite_messages_sent", help, traffic.messages_out)?;
        let help = "Bytes read from WebSocket connections, below TLS";
        page.counter("hubnerite_received_bytes", help, traffic.bytes_in)?;
        let help = "Bytes written to WebSocket connections, below TLS";
        page.counter("hubnerite_sent_bytes", help, traffic.bytes_out)?;
        let deliveries = metrics.fan_out.sum();
        page.counter("hubnerite_deliveries", "Times that a publication was queued", deliveries)?;
        let help = "Connections that a publication was queued for";
        page.histogram("hubnerite_fanout_recipients", help, &metrics.fan_out, 1.0)?;
        let queued = self.hub.counts().queued_bytes;
        page.gauge("hubnerite_queue_bytes", "Bytes that wait for all connections", queued)?;
        let help = "Bytes that wait for the connection that has most";
        page.gauge("hubnerite_queue_largest_bytes", help, largest)
    }

    fn pressure(&self, page: &mut Page<'_>) -> Result {
        let metrics = self.hub.metrics();
        let overloaded = metrics.overloaded.get();
        let slow = metrics.evicted.get().saturating_sub(overloaded);
        let help = "Connections closed with 1013: too slow, or the largest when all were too much";
        let reasons = [([("reason", "slow")], slow), ([("reason", "overload")], overloaded)];
        page.counters("hubnerite_evictions", help, reasons)?;
        let help = "Deliveries thrown away because their connection closed";
        page.counter("hubnerite_deliveries_dropped", help, metrics.dropped.get())?;
        let help = "Messages that reached nobody";
        page.counter("hubnerite_messages_unheard", help, metrics.unheard.get())?;
        let help = "Time that a task waited for the lock of the hub";
        page.histogram("hubnerite_lock_wait_seconds", help, &metrics.lock_waits, MICROSECOND)
    }

    fn calls(&self, page: &mut Page<'_>) -> Result {
        let calls = self.calls.iter().flat_map(|(route, counts)| {
            let answered = counts.iter().filter(|(_, count)| *count > 0);
            answered.map(|(status, count)| {
                ([("route", route.clone()), ("status", label(status))], count)
            })
        });
        page.counters("hubnerite_rest_requests", "Calls of backends", calls)
    }
}

fn events(events: &EventCounters, page: &mut Page<'_>) -> Result {
    let outcomes = EventKind::ALL.into_iter().flat_map(|kind| {
        EventOutcome::ALL.map(|outcome| {
            ([("kind", kind.name()), ("outcome", outcome.name())], events.count(kind, outcome))
        })
    });
    page.counters("hubnerite_events", "Events for the event handler", outcomes)?;
    let help = "Attempts to send an event beyond the first";
    page.counter("hubnerite_event_retries", help, events.retries.get())?;
    let help = "Events that were given up before the handler could hear of them";
    page.counter("hubnerite_events_dropped", help, events.dropped.get())?;
    let help = "Time that an event took, retries and waiting included";
    let name = "hubnerite_event_handler_seconds";
    let times = EventKind::ALL.map(|kind| ([("kind", kind.name())], events.micros(kind)));
    page.histograms(name, help, times, MICROSECOND)
}

#[cfg(feature = "backplane")]
fn backplane(counters: &BackplaneCounters, now: RelayFigures, page: &mut Page<'_>) -> Result {
    let help = "Whether what is sent through the engine comes back";
    page.gauge("hubnerite_backplane_up", help, u64::from(now.is_up))?;
    let help = "Bytes that wait for the engine";
    page.gauge("hubnerite_backplane_waiting_bytes", help, now.waiting_bytes)?;
    let help = "Users, groups and hubs that are heard for";
    page.gauge("hubnerite_backplane_subscriptions", help, now.subscriptions)?;
    let help = "Nodes that are there, this one among them";
    page.gauge("hubnerite_backplane_nodes", help, now.nodes)?;
    for (name, help, counter) in [
        ("published", "Messages that the engine has taken", &counters.published),
        ("received", "Messages of other nodes that the engine has brought", &counters.received),
        ("repeated", "Messages that the engine has brought before", &counters.repeated),
        ("refused", "Publications that other nodes were not told of", &counters.refused),
        ("malformed", "Messages of the engine that made no sense", &counters.malformed),
        ("commands", "Commands of backends that were carried out, or rejected", &counters.commands),
        ("rejected_commands", "Commands that made no sense", &counters.rejected_commands),
        ("unconfirmed", "Joins that the engine had not confirmed", &counters.unconfirmed),
        ("unanswered", "Questions that not all nodes have answered", &counters.unanswered),
        ("connected", "Connections to the engine that were made", &counters.connected),
        ("lost", "Connections to the engine that were lost", &counters.lost),
    ] {
        page.counter(&format!("hubnerite_backplane_{name}"), help, counter.get())?;
    }
    let help = "Time that a message of the node to itself takes through the engine";
    let name = "hubnerite_backplane_round_trip_seconds";
    page.histogram(name, help, &counters.round_trips, MICROSECOND)
}

fn about_process(process: &Process, page: &mut Page<'_>) -> Result {
    let cpu = process.cpu.as_secs_f64();
    page.counter("process_cpu_seconds", "CPU time of the process", cpu)?;
    page.gauge("process_resident_memory_bytes", "Memory that is resident", process.memory)?;
    page.gauge("process_open_fds", "Files that are open", process.open_files)?;
    page.gauge("process_max_fds", "Files that may be open", process.max_files)
}

/// What a value in microseconds is multiplied with.
const MICROSECOND: f64 = 1e-6;

fn numbered(
    name: &'static str,
    counters: &ByNumber,
) -> impl Iterator<Item = ([(&'static str, String); 1], u64)> {
    counters.iter().map(move |(number, count)| ([(name, label(number))], count))
}

fn label(number: Option<u16>) -> String {
    number.map_or_else(|| "other".to_owned(), |number| number.to_string())
}

/// The page that is being written.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn family<'s>(
        &'s mut self,
        name: &'s str,
        help: &str,
        kind: MetricType,
    ) -> result::Result<MetricEncoder<'s>, Error> {
        self.0.encode_descriptor(name, help, None, kind)
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl EncodeGaugeValue + Copy) -> Result {
        self.family(name, help, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn gauges<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (L, u64)>,
    ) -> Result {
        let mut family = self.family(name, help, MetricType::Gauge)?;
        let mut values = values.into_iter();
        values.try_for_each(|(labels, value)| family.encode_family(&labels)?.encode_gauge(&value))
    }

    /// A counter; its name gets `_total` behind it.
    fn counter(&mut self, name: &str, help: &str, value: impl EncodeCounterValue + Copy) -> Result {
        let mut family = self.family(name, help, MetricType::Counter)?;
        family.encode_counter::<NoLabelSet, _, f64>(&value, None)
    }

    fn counters<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (L, u64)>,
    ) -> Result {
        let mut family = self.family(name, help, MetricType::Counter)?;
        values.into_iter().try_for_each(|(labels, value)| {
            let mut counter = family.encode_family(&labels)?;
            counter.encode_counter::<NoLabelSet, _, f64>(&value, None)
        })
    }

    fn histogram(&mut self, name: &str, help: &str, values: &Histogram, unit: f64) -> Result {
        let mut family = self.family(name, help, MetricType::Histogram)?;
        encode_histogram(&mut family, values, unit)
    }

    fn histograms<'h, L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (L, &'h Histogram)>,
        unit: f64,
    ) -> Result {
        let mut family = self.family(name, help, MetricType::Histogram)?;
        values.into_iter().try_for_each(|(labels, values)| {
            encode_histogram(&mut family.encode_family(&labels)?, values, unit)
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "53 bits are enough")]
fn encode_histogram(encoder: &mut MetricEncoder<'_>, values: &Histogram, unit: f64) -> Result {
    let bound = |bound: Option<u64>| bound.map_or(f64::INFINITY, |bound| bound as f64 * unit);
    let buckets: Vec<_> =
        values.buckets().map(|(largest, count)| (bound(largest), count)).collect();
    let count = buckets.iter().map(|(_, count)| count).sum();
    encoder.encode_histogram::<NoLabelSet>(values.sum() as f64 * unit, count, &buckets, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_form_has_each_counter_by_its_full_name() {
        let new = "# HELP a Of a.\n# TYPE a counter\na_total 1\n# HELP ab Of a b.\n# TYPE ab gauge\n\
                   ab 2\n# EOF\n";
        let old = "# HELP a_total Of a.\n# TYPE a_total counter\na_total 1\n# HELP ab Of a b.\n\
                   # TYPE ab gauge\nab 2\n";
        assert_eq!(to_prometheus(new), old);
    }

    #[test]
    fn scrapers_get_the_form_that_they_ask_for() {
        let accept = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5";
        assert_eq!(Format::accepted(Some(accept)), Format::OpenMetrics);
        assert_eq!(Format::accepted(Some("*/*")), Format::Prometheus);
        assert_eq!(Format::accepted(None), Format::Prometheus);
    }
}
