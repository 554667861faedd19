//! Every knob, with its unit and default.

use std::{fs, num::NonZeroUsize, time::Duration};

use ipnet::IpNet;

use crate::origin::AllowedOrigin;

/// The limits and deadlines of a [`Server`](crate::Server).
///
/// ```
/// let config = hubnerite::Config { max_message_size: 64 * 1024, ..Default::default() };
/// # let _ = config;
/// ```
#[derive(Debug, Clone)]
pub struct Config {
    /// From accept to the answer of the opening handshake. Default 10 s.
    pub open_timeout: Duration,
    /// How long a connection may be silent before it is pinged; zero never pings. The ping
    /// leaves after between half and all of it. Default 20 s.
    pub ping_interval: Duration,
    /// How long after a ping any byte must have come. Default 20 s.
    pub ping_timeout: Duration,
    /// How long the closing handshake may take (RFC 6455 section 7). Default 5 s.
    pub close_timeout: Duration,
    /// How long a peer may take none of the bytes that wait for it. Default 10 s.
    pub send_timeout: Duration,
    /// From the first byte of a message to its last. Default 30 s.
    pub message_timeout: Duration,
    /// How long a server that stops waits for its connections to end. Default 30 s.
    pub shutdown_grace: Duration,
    /// The largest message and frame that is taken in, in bytes, inclusive. Default 1 MiB.
    pub max_message_size: usize,
    /// How many frames a message may come in. Default 1,024.
    pub max_fragments: u32,
    /// Pings, pongs and close frames a second that a peer may send for long. Default 20.
    pub control_frames_per_second: u32,
    /// How many of them it may send at once. Default 100.
    pub control_frames_burst: u32,
    /// Bytes queued for one connection, past which it is closed with 1013. What is queued
    /// while the queue is below its budget is always taken, so one message may exceed it.
    /// Default 1 MiB.
    pub max_backlog: usize,
    /// Bytes queued for all connections together, past which the slowest are closed with 1013. A
    /// message that is half read counts with the length that its headers announce.
    /// Default 25 % of the memory that this process may use.
    pub max_total_backlog: usize,
    /// Connections at once; further ones are answered 503. Default: the open-file limit
    /// less 256.
    pub max_connections: NonZeroUsize,
    /// Groups that one connection may be in. Default 128.
    pub max_groups: usize,
    /// The request head of the opening handshake, in bytes. Default 8 KiB.
    pub max_head_size: usize,
    /// Header fields in it. Default 64.
    pub max_headers: usize,
    /// What happens when a user who is connected connects again. Default `Allow`.
    pub same_user: SameUser,
    /// Messages a second that one connection may send for long, and at once; past it the
    /// connection is closed with 1008. Default 0: any number.
    pub messages_per_second: u32,
    /// Bytes a second that one connection may send for long; one second's worth, and at least one
    /// message of the largest size, at once. Past it the connection is not read from, and TCP holds
    /// the sender back; a sender that stays ahead of its rate for [`Config::message_timeout`] is
    /// closed with 1008: no message is waited for longer than that. Default 0: any number.
    pub bytes_per_second: usize,
    /// Connections of one IPv4 address, or of one IPv6 /64; further ones are answered 429.
    /// Default 0: any number.
    pub max_per_ip: u32,
    /// Opening handshakes a second of one address, and at once; further ones are answered 429.
    /// Default 0: any number.
    pub handshakes_per_second: u32,
    /// Web pages that may open a socket, beside those of the server's own host. Default none.
    pub allow_origins: Vec<AllowedOrigin>,
    /// Names that the server answers under, with or without a port; 421 for others. Default
    /// none: any name.
    pub allow_hosts: Vec<String>,
    /// Proxies whose `Forwarded`, `X-Forwarded-For` and PROXY protocol headers are believed; the
    /// former two where they do not contradict each other. Default none.
    pub trusted_proxies: Vec<IpNet>,
    /// What happens to a connection when its token expires. Default `Ignore`.
    pub expiry: Expiry,
    /// How long a server that stops still accepts connections, while `/readyz` says 503.
    /// Default 0 s.
    pub drain_delay: Duration,
    /// Over how long the clients of a server that stops are asked to come back. Default 0 s:
    /// all at once, a millisecond apart.
    pub drain_spread: Duration,
}

/// What happens to a connection when its token expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Expiry {
    /// It goes on: the token was for the opening handshake.
    #[default]
    Ignore,
    /// It is closed with 1008.
    Close,
}

/// What happens when a user who is connected connects again, to any node. Which of two connections
/// to two nodes is newer, their clocks say; with [`Reject`](Self::Reject), who comes to both in one
/// moment is let in twice. While the engine that joins the nodes is away, each has its own users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum SameUser {
    /// Both stay; messages to the user reach both.
    #[default]
    Allow,
    /// The older connections are closed with 4000.
    Replace,
    /// The newer one is answered 409 before the upgrade.
    Reject,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            open_timeout: Duration::from_secs(10),
            ping_interval: Duration::from_secs(20),
            ping_timeout: Duration::from_secs(20),
            close_timeout: Duration::from_secs(5),
            send_timeout: Duration::from_secs(10),
            message_timeout: Duration::from_secs(30),
            shutdown_grace: Duration::from_secs(30),
            max_message_size: 1 << 20,
            max_fragments: 1024,
            control_frames_per_second: 20,
            control_frames_burst: 100,
            max_backlog: 1 << 20,
            max_total_backlog: memory() / 4,
            max_connections: default_max_connections(),
            max_groups: 128,
            max_head_size: 8 << 10,
            max_headers: 64,
            same_user: SameUser::Allow,
            messages_per_second: 0,
            bytes_per_second: 0,
            max_per_ip: 0,
            handshakes_per_second: 0,
            allow_origins: Vec::new(),
            allow_hosts: Vec::new(),
            trusted_proxies: Vec::new(),
            expiry: Expiry::Ignore,
            drain_delay: Duration::ZERO,
            drain_spread: Duration::ZERO,
        }
    }
}

/// Files that are not connections: listeners, the runtime's own, logs, and some to spare.
const RESERVED_FILES: u64 = 256;

fn default_max_connections() -> NonZeroUsize {
    let files = rlimit::Resource::NOFILE.get_soft().unwrap_or(1024);
    let connections = files.saturating_sub(RESERVED_FILES).clamp(1, u64::from(u32::MAX));
    usize::try_from(connections).ok().and_then(NonZeroUsize::new).unwrap_or(NonZeroUsize::MIN)
}

/// The memory that this process may use: the control group's limit or the machine's, whichever
/// is less; 1 GiB where neither can be read.
fn memory() -> usize {
    let group = fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let group = group.and_then(|text| text.trim().parse::<usize>().ok());
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.trim().strip_suffix(" kB")?.parse::<usize>().ok()
    });
    let machine = machine.map(|kib| kib * 1024);
    group.into_iter().chain(machine).min().unwrap_or(1 << 30)
}

/// Parses `10s`, `500ms`, `2m`, `1h` or plain seconds (`0.5`).
///
/// # Errors
/// Says what was expected.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let factor = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("expected a duration such as 10s, 500ms, 2m or 1h".to_owned()),
    };
    let number = &text[..text.len() - unit.len()];
    let number: f64 = number.parse().map_err(|_| "expected a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(number * factor)
        .ok()
        .filter(|duration| *duration <= Duration::from_hours(24 * 365))
        .ok_or_else(|| "the duration is longer than a year".to_owned())
}

/// Parses `1MiB`, `64KiB`, `2GiB`, `10MB`, `5kB` or plain bytes.
///
/// # Errors
/// Says what was expected.
pub fn parse_size(text: &str) -> Result<usize, String> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let factor: usize = match unit {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "KiB" | "K" => 1 << 10,
        "MB" => 1_000_000,
        "MiB" | "M" => 1 << 20,
        "GB" => 1_000_000_000,
        "GiB" | "G" => 1 << 30,
        _ => return Err("expected a size such as 65536, 64KiB or 1MiB".to_owned()),
    };
    let number: usize = text[..text.len() - unit.len()]
        .parse()
        .map_err(|_| "expected a whole number of bytes".to_owned())?;
    number.checked_mul(factor).ok_or_else(|| "the size is too large".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_and_default_to_seconds() {
        for (text, millis) in
            [("10", 10_000), ("10s", 10_000), ("500ms", 500), ("0.5", 500), ("2m", 120_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "-1", "10 s", "1d", "1.2.3", "9e99", "99999999999999h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_have_units_and_default_to_bytes() {
        for (text, bytes) in
            [("65536", 65_536), ("64KiB", 65_536), ("1MiB", 1 << 20), ("5kB", 5_000)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "-1", "1.5MiB", "1TiB", "99999999999999999999"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
