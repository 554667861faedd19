//! A load generator for WebSocket servers: epoll, and messages made beforehand.
//!
//! Nearly all that it costs is the kernel's, about as much as the bare loop of `examples/compare` costs: with small
//! messages one at a time a server on a core of its own is as busy as it is, and its `our own CPU` says so.
//!
//! ```text
//! cargo run --release --example load -- echo ws://127.0.0.1:8000/echo --pid $(pidof hubnerite)
//! cargo run --release --example load -- echo ws://127.0.0.1:8000/echo --in-flight 32 --json echo.json --plot echo.svg
//! cargo run --release --example load -- fanout ws://127.0.0.1:8000 --subscribers 1000 --window 16
//! cargo run --release --example load -- idle ws://127.0.0.1:8000/echo --connections 19000 --pid $(pidof hubnerite)
//! cargo run --release --example load -- connect ws://127.0.0.1:8000/echo
//! cargo run --release --example load -- churn ws://127.0.0.1:8000/echo
//! cargo run --release --example load -- rate ws://127.0.0.1:8000/echo --rate 20000
//! cargo run --release --example load -- fanout ws://127.0.0.1:9001/chat --preset broadcast
//! cargo run --release --example load -- publish ws://127.0.0.1:8000 --subscribers 100 --rate 2000 \
//!     --post-header "Authorization: Bearer $TOKEN" --post-header "Content-Type: text/plain"
//! ```
//!
//! To measure a server, give it a core of its own: `taskset -c 0 server`, `taskset -c 1 load ...`.
//!
//! Read on in this order: `frame` (messages made beforehand), `inbound` and `outbound` (the two halves of a connection), `session`,
//! `pool` (the loop), `echo` (the simplest mode), `run` (threads, stages, clocks), `report`.
//!
//! Exit code: 0, or 1 if anything at all went wrong.

#![allow(clippy::print_stdout, reason = "the report is what this program is for")]
#![cfg_attr(test, allow(clippy::expect_used, reason = "a test fails by a panic"))]

mod answer;
mod audience;
mod board;
mod connect;
mod echo;
mod fanout;
mod fault;
mod frame;
mod idle;
mod inbound;
mod ledger;
#[cfg(test)]
mod liar;
mod opener;
mod options;
mod outbound;
mod plot;
mod pool;
mod process;
mod protocol;
mod publish;
mod rate;
mod recorder;
mod report;
mod run;
mod session;
mod subject;
mod target;

use std::process::ExitCode;

use clap::Parser;

use crate::fault::Fault;
use crate::options::{Command, Options};
use crate::report::Report;
use crate::run::Outcome;
use crate::subject::Subject;

fn main() -> ExitCode {
    // As many sockets as may be; whether they suffice will show.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    match measure(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("load: {fault}");
            ExitCode::FAILURE
        }
    }
}

fn measure(options: &Options) -> Result<(), Fault> {
    let common = &options.common;
    let outcome = run(options)?;
    let report = Report::new(Subject::new(&options.command), &outcome);
    print!("{}", report.text());
    if let Some(file) = &common.json {
        report.write_json(file)?;
    }
    if let Some(file) = &common.plot {
        plot::draw(&report, file)?;
    }
    Ok(())
}

fn run(options: &Options) -> Result<Outcome, Fault> {
    let common = &options.common;
    match &options.command {
        Command::Echo(echo) => echo::run(common, echo),
        Command::Fanout(fanout) => fanout::run(common, fanout),
        Command::Publish(publish) => publish::run(common, publish),
        Command::Idle(idle) => idle::run(common, idle),
        Command::Connect(connect) => connect::run(common, connect),
        Command::Churn(connect) => connect::churn(common, connect),
        Command::Rate(rate) => rate::run(common, rate),
    }
}
