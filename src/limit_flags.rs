//! The flags that say how much there may be, and how long it may take.

use std::{num::NonZeroUsize, time::Duration};

use hubnerite::{Config, SameUser, parse_duration, parse_size};

use crate::access_flags::AccessFlags;

/// How much, and how long.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitFlags {
    /// When a user who is connected connects again: allow both, replace the older (closed with
    /// 4000) or reject the newer (answered 409)
    #[arg(long, env = "HUBNERITE_SAME_USER", value_name = "POLICY", default_value = "allow")]
    #[arg(hide_possible_values = true)]
    same_user: SameUser,

    /// From accept to the answer of the opening handshake
    #[arg(long, env = "HUBNERITE_OPEN_TIMEOUT", value_name = "DURATION", default_value = "10s")]
    #[arg(value_parser = parse_duration)]
    open_timeout: Duration,

    /// How long a connection may be silent before it is pinged; 0 never pings
    #[arg(long, env = "HUBNERITE_PING_INTERVAL", value_name = "DURATION", default_value = "20s")]
    #[arg(value_parser = parse_duration)]
    ping_interval: Duration,

    /// How long after a ping any byte must have come
    #[arg(long, env = "HUBNERITE_PING_TIMEOUT", value_name = "DURATION", default_value = "20s")]
    #[arg(value_parser = parse_duration)]
    ping_timeout: Duration,

    /// How long the closing handshake may take
    #[arg(long, env = "HUBNERITE_CLOSE_TIMEOUT", value_name = "DURATION", default_value = "5s")]
    #[arg(value_parser = parse_duration)]
    close_timeout: Duration,

    /// How long a client may take none of the bytes that wait for it
    #[arg(long, env = "HUBNERITE_SEND_TIMEOUT", value_name = "DURATION", default_value = "10s")]
    #[arg(value_parser = parse_duration)]
    send_timeout: Duration,

    /// From the first byte of a message to its last
    #[arg(long, env = "HUBNERITE_MESSAGE_TIMEOUT", value_name = "DURATION", default_value = "30s")]
    #[arg(value_parser = parse_duration)]
    message_timeout: Duration,

    /// How long connections may take to end when the daemon stops
    #[arg(long, env = "HUBNERITE_SHUTDOWN_GRACE", value_name = "DURATION", default_value = "30s")]
    #[arg(value_parser = parse_duration)]
    shutdown_grace: Duration,

    /// The largest message and frame that is taken in, inclusive
    #[arg(long, env = "HUBNERITE_MAX_MESSAGE_SIZE", value_name = "SIZE", default_value = "1MiB")]
    #[arg(value_parser = parse_size)]
    max_message_size: usize,

    /// Frames that a message may come in
    #[arg(long, env = "HUBNERITE_MAX_FRAGMENTS", value_name = "COUNT", default_value_t = 1024)]
    max_fragments: u32,

    /// Pings, pongs and close frames a second that a client may send for long
    #[arg(long, env = "HUBNERITE_CONTROL_FRAMES_PER_SECOND", value_name = "COUNT")]
    #[arg(default_value_t = 20)]
    control_frames_per_second: u32,

    /// Pings, pongs and close frames that a client may send at once
    #[arg(long, env = "HUBNERITE_CONTROL_FRAMES_BURST", value_name = "COUNT")]
    #[arg(default_value_t = 100)]
    control_frames_burst: u32,

    /// Bytes queued for one connection, past which it is closed with 1013
    #[arg(long, env = "HUBNERITE_MAX_BACKLOG", value_name = "SIZE", default_value = "1MiB")]
    #[arg(value_parser = parse_size)]
    max_backlog: usize,

    /// Bytes queued for all connections, past which the slowest are closed [default: 25 % of memory]
    #[arg(long, env = "HUBNERITE_MAX_TOTAL_BACKLOG", value_name = "SIZE", value_parser = parse_size)]
    max_total_backlog: Option<usize>,

    /// Connections at once; others are answered 503 [default: the open-file limit less 256]
    #[arg(long, env = "HUBNERITE_MAX_CONNECTIONS", value_name = "COUNT")]
    max_connections: Option<NonZeroUsize>,

    /// Groups that one connection may be in
    #[arg(long, env = "HUBNERITE_MAX_GROUPS", value_name = "COUNT", default_value_t = 128)]
    max_groups: usize,

    /// The largest request head; above it the answer is 431
    #[arg(long, env = "HUBNERITE_MAX_HEAD_SIZE", value_name = "SIZE", default_value = "8KiB")]
    #[arg(value_parser = parse_size)]
    max_head_size: usize,

    /// Header fields in a request; above it the answer is 431
    #[arg(long, env = "HUBNERITE_MAX_HEADERS", value_name = "COUNT", default_value_t = 64)]
    max_headers: usize,

    /// Messages a second of one connection, past which it is closed with 1008; 0 for any number
    #[arg(long, env = "HUBNERITE_MESSAGES_PER_SECOND", value_name = "COUNT", default_value_t = 0)]
    messages_per_second: u32,

    /// Bytes a second of one connection, past which it is read from no faster, and closed with
    /// 1008 if it keeps on for --message-timeout; 0 for any number
    #[arg(long, env = "HUBNERITE_BYTES_PER_SECOND", value_name = "SIZE", default_value = "0")]
    #[arg(value_parser = parse_size)]
    bytes_per_second: usize,

    /// Connections of one address; others are answered 429; 0 for any number
    #[arg(long, env = "HUBNERITE_MAX_PER_IP", value_name = "COUNT", default_value_t = 0)]
    max_per_ip: u32,

    /// Opening handshakes a second of one address; others are answered 429; 0 for any number
    #[arg(
        long,
        env = "HUBNERITE_HANDSHAKES_PER_SECOND",
        value_name = "COUNT",
        default_value_t = 0
    )]
    handshakes_per_second: u32,

    /// How long the daemon still accepts connections when it stops, while /readyz says 503
    #[arg(long, env = "HUBNERITE_DRAIN_DELAY", value_name = "DURATION", default_value = "0s")]
    #[arg(value_parser = parse_duration)]
    drain_delay: Duration,

    /// Over how long clients are asked to come back when the daemon stops
    #[arg(long, env = "HUBNERITE_DRAIN_SPREAD", value_name = "DURATION", default_value = "0s")]
    #[arg(value_parser = parse_duration)]
    drain_spread: Duration,
}

impl LimitFlags {
    /// What the library is told of them, and of what the access flags limit.
    pub(crate) fn config(&self, access: &AccessFlags) -> Config {
        let default = Config::default();
        Config {
            allow_origins: access.allow_origin.clone(),
            allow_hosts: access.allow_host.clone(),
            trusted_proxies: access.trusted_proxy.clone(),
            expiry: access.expiry(),
            same_user: self.same_user,
            open_timeout: self.open_timeout,
            ping_interval: self.ping_interval,
            ping_timeout: self.ping_timeout,
            close_timeout: self.close_timeout,
            send_timeout: self.send_timeout,
            message_timeout: self.message_timeout,
            shutdown_grace: self.shutdown_grace,
            max_message_size: self.max_message_size,
            max_fragments: self.max_fragments,
            control_frames_per_second: self.control_frames_per_second,
            control_frames_burst: self.control_frames_burst,
            max_backlog: self.max_backlog,
            max_total_backlog: self.max_total_backlog.unwrap_or(default.max_total_backlog),
            max_connections: self.max_connections.unwrap_or(default.max_connections),
            max_groups: self.max_groups,
            max_head_size: self.max_head_size,
            max_headers: self.max_headers,
            messages_per_second: self.messages_per_second,
            bytes_per_second: self.bytes_per_second,
            max_per_ip: self.max_per_ip,
            handshakes_per_second: self.handshakes_per_second,
            drain_delay: self.drain_delay,
            drain_spread: self.drain_spread,
        }
    }
}
