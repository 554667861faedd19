//! What a run says about itself: for people, and as JSON.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::fault::Fault;
use crate::process::Memory;
use crate::run::Outcome;
use crate::subject::Subject;

/// Fewer connections than these say nothing about the memory of one.
const FEW: u64 = 1000;

/// All figures of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    #[serde(flatten)]
    pub(crate) subject: Subject,
    pub(crate) seconds: f64,
    pub(crate) opened_in_seconds: f64,
    pub(crate) count: u64,
    pub(crate) per_second: f64,
    /// Publishes that all their receivers had.
    pub(crate) publishes_per_second: Option<f64>,
    /// CPU time of the server for one of those with all its deliveries, in microseconds.
    pub(crate) server_cpu_us_per_publish: Option<f64>,
    /// CPU time of the server for each, in microseconds.
    pub(crate) server_cpu_us: Option<f64>,
    /// CPU time of the server, in cores.
    pub(crate) server_cores: Option<f64>,
    pub(crate) load_cpu_us: f64,
    pub(crate) load_cores: f64,
    pub(crate) latency_us: Percentiles,
    pub(crate) memory: Option<MemoryReport>,
    /// Count a second, each tenth of a second.
    pub(crate) samples: Vec<f64>,
    /// Percentile and latency in microseconds.
    pub(crate) curve: Vec<(f64, f64)>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Percentiles {
    p50: f64,
    p90: f64,
    p99: f64,
    #[serde(rename = "p99.9")]
    p999: f64,
    max: f64,
}

#[derive(Debug, Serialize)]
pub(crate) struct MemoryReport {
    before: Memory,
    open: Memory,
    end: Memory,
    /// Growth of anonymous memory for each connection, in bytes.
    bytes_per_connection: Option<f64>,
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn ratio(part: f64, whole: u64) -> f64 {
    part / (whole.max(1) as f64)
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn microseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1000.0
}

impl Report {
    #[allow(clippy::cast_precision_loss, reason = "figures for people")]
    pub(crate) fn new(subject: Subject, outcome: &Outcome) -> Self {
        let seconds = outcome.elapsed.as_secs_f64();
        let each = |time: std::time::Duration| ratio(time.as_secs_f64() * 1e6, outcome.messages);
        let connections = u64::from(subject.connections);
        let deliveries = subject.each_publish.map(f64::from);
        let per_second = outcome.messages as f64 / seconds;
        let server_cpu_us = outcome.server.filter(|_| outcome.messages > 0).map(each);
        Self {
            seconds,
            opened_in_seconds: outcome.opened.as_secs_f64(),
            count: outcome.messages,
            per_second,
            publishes_per_second: deliveries.map(|deliveries| per_second / deliveries),
            server_cpu_us_per_publish: deliveries.zip(server_cpu_us).map(|(count, us)| count * us),
            server_cpu_us,
            server_cores: outcome.server.map(|time| time.as_secs_f64() / seconds),
            load_cpu_us: each(outcome.own),
            load_cores: outcome.own.as_secs_f64() / seconds,
            latency_us: Percentiles::new(&outcome.latency),
            memory: outcome.memory.map(|[before, open, end]| MemoryReport {
                before,
                open,
                end,
                // With few connections it would be the growth of something else.
                bytes_per_connection: (connections >= FEW)
                    .then(|| ratio(open.anonymous as f64 - before.anonymous as f64, connections)),
            }),
            samples: outcome.samples.clone(),
            curve: curve(&outcome.latency),
            subject,
        }
    }

    /// A few lines for people.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{}: {} connections", self.subject.mode, self.subject.connections);
        for (name, value) in &self.subject.parameters {
            let _ = write!(text, ", {} {value}", name.replace('_', " "));
        }
        let _ = writeln!(text, ", {:.1} s, {}", self.seconds, self.subject.url);
        if self.count > 0 {
            let _ = writeln!(
                text,
                "  {:<16} {:>12} {}/s",
                "throughput",
                grouped(self.per_second),
                self.subject.unit
            );
        }
        if let Some(publishes) = self.publishes_per_second {
            let _ = writeln!(text, "  {:<16} {:>12} publishes/s", "", grouped(publishes));
        }
        let share = |cores: f64| format!("{:.0} % of a core", cores * 100.0);
        if let Some(cores) = self.server_cores {
            let each =
                self.server_cpu_us.map_or_else(String::new, |each| format!("{each:.3} µs each, "));
            let _ = writeln!(text, "  {:<16} {:>12}", "server's CPU", each + &share(cores));
        }
        if let Some(each) = self.server_cpu_us_per_publish {
            let _ =
                writeln!(text, "  {:<16} {each:>12.3} µs a publish, its deliveries included", "");
        }
        let each = if self.count > 0 {
            format!("{:.3} µs each, ", self.load_cpu_us)
        } else {
            String::new()
        };
        let _ = writeln!(text, "  {:<16} {:>12}", "our own CPU", each + &share(self.load_cores));
        let latency = &self.latency_us;
        let names = ["p50", "p90", "p99", "p99.9", "max"].map(str::to_owned);
        let figures = [latency.p50, latency.p90, latency.p99, latency.p999, latency.max].map(time);
        for (title, row) in [(self.subject.latency, names), ("", figures)] {
            let [p50, p90, p99, p999, max] = row;
            let _ =
                writeln!(text, "  {title:<16} {p50:>10} {p90:>10} {p99:>10} {p999:>10} {max:>10}");
        }
        if let Some(memory) = &self.memory {
            text.push_str(&memory.text(self.opened_in_seconds));
        }
        if self.subject.mode == "idle" {
            text.push_str(match &self.memory {
                None => "  per connection   not measured: say the server's process with --pid\n",
                Some(MemoryReport { bytes_per_connection: None, .. }) => {
                    "  per connection   too few connections to say\n"
                }
                Some(_) => "",
            });
        }
        text
    }

    /// Writes all figures to a file.
    pub(crate) fn write_json(&self, file: &Path) -> Result<(), Fault> {
        let text =
            serde_json::to_string_pretty(self).map_err(|error| Fault::Usage(error.to_string()))?;
        fs::write(file, text + "\n").map_err(Fault::io(format!("writing {}", file.display())))
    }
}

impl MemoryReport {
    fn text(&self, opened: f64) -> String {
        let mebibytes =
            |bytes: u64| format!("{:.1} MiB", microseconds(bytes) * 1000.0 / f64::from(1 << 20));
        let [before, open, end] =
            [self.before, self.open, self.end].map(|memory| mebibytes(memory.resident));
        let all = format!(
            "{before} before, {open} with all connections (opened in {opened:.2} s), {end} at the end"
        );
        let mut text = format!("  {:<16} {all}\n", "server's memory");
        if let Some(bytes) = self.bytes_per_connection {
            let _ =
                writeln!(text, "  {:<16} {} bytes of user space", "per connection", grouped(bytes));
        }
        text
    }
}

impl Percentiles {
    fn new(latency: &Histogram<u64>) -> Self {
        let at = |quantile| microseconds(latency.value_at_quantile(quantile));
        Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: microseconds(latency.max()),
        }
    }
}

/// Points for a picture: percentiles with ever more nines.
fn curve(latency: &Histogram<u64>) -> Vec<(f64, f64)> {
    let steps = latency.iter_quantiles(5).filter(|step| step.quantile_iterated_to() < 1.0);
    steps
        .map(|step| (step.quantile_iterated_to() * 100.0, microseconds(step.value_iterated_to())))
        .collect()
}

/// `1234567.8` as `1,234,568`.
fn grouped(number: f64) -> String {
    let digits = format!("{:.0}", number.abs());
    let mut text = String::from(if number < -0.5 { "-" } else { "" });
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A latency with its unit.
fn time(microseconds: f64) -> String {
    if microseconds < 1000.0 {
        format!("{microseconds:.1} µs")
    } else {
        format!("{:.2} ms", microseconds / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_grouped() {
        assert_eq!(grouped(1_234_567.8), "1,234,568");
        assert_eq!(grouped(999.0), "999");
        assert_eq!(grouped(-1000.0), "-1,000");
        assert_eq!(time(12.34), "12.3 µs");
        assert_eq!(time(12_340.0), "12.34 ms");
    }
}
