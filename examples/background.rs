//! Work beside the receive loop: each message starts a job, and a client who leaves ends its own.
//!
//! ```text
//! $ cargo run --quiet --example background
//! jobs on ws://127.0.0.1:9000/jobs, Ctrl-C stops it
//! one started
//! one done
//! two started
//! three started
//! four started
//! two cancelled: the client has left
//! three cancelled: the client has left
//! four cancelled: the client has left
//!
//! $ cargo run --quiet --example client -- ws://127.0.0.1:9000/jobs
//! connected
//! one
//! one: 50 %
//! one: 100 %
//! two
//! three
//! four
//! five
//! five: busy, later please
//! three: 50 %
//! two: 50 %
//! four: 50 %
//! closed: 1000
//! ```
#![allow(clippy::print_stdout, reason = "an example says what it does")]

use std::{sync::Arc, time::Duration};

use hubnerite::{Closed, Connection, Params, Sender, Server};
use tokio::{net::TcpListener, signal::ctrl_c, sync::Semaphore, time::sleep};

/// Jobs of one connection at once. Without a limit one client could start any number of them.
const MAX_JOBS: usize = 3;

async fn jobs(mut connection: Connection, _: Params) -> Result<(), Closed> {
    let places = Arc::new(Semaphore::new(MAX_JOBS));
    while let Some(message) = connection.recv().await {
        let name = message.as_text().unwrap_or("binary").to_owned();
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            connection.send(format!("{name}: busy, later please")).await?;
            continue;
        };
        let sender = connection.sender();
        // Ends with the connection at the latest: its future is dropped where it waits.
        connection.spawn(async move {
            let mut job = Job { name, done: false };
            // To be closed is how a job ends early; nobody is left to be told.
            let _ = job.run(&sender).await;
            drop(place);
        });
    }
    Ok(())
}

struct Job {
    name: String,
    done: bool,
}

impl Job {
    async fn run(&mut self, sender: &Sender) -> Result<(), Closed> {
        println!("{} started", self.name);
        for percent in [50, 100] {
            sleep(Duration::from_millis(500)).await;
            sender.send(format!("{}: {percent} %", self.name))?;
        }
        self.done = true;
        println!("{} done", self.name);
        Ok(())
    }
}

/// What a job holds is given back when it is dropped, done or not.
impl Drop for Job {
    fn drop(&mut self) {
        if !self.done {
            println!("{} cancelled: the client has left", self.name);
        }
    }
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:9000").await?;
    println!("jobs on ws://127.0.0.1:9000/jobs, Ctrl-C stops it");
    let stop = async { ctrl_c().await.unwrap_or_default() };
    Server::new().route("/jobs", jobs).run(listener, stop).await;
    Ok(())
}
