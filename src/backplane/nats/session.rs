//! The task of one connection: it reads, answers pings, and writes what it is ordered to.

use std::{collections::VecDeque, io};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{mpsc, oneshot},
};

use super::{
    protocol::{self, Said},
    stream::Stream,
};
use crate::backplane::inbox::Inbox;

/// The most that is read at once.
pub(super) const READ_BUFFER: usize = 64 << 10;

/// Operations that end with a ping, and who waits for the answer to it.
pub(super) struct Order {
    pub(super) operations: BytesMut,
    pub(super) confirmed: oneshot::Sender<()>,
}

/// Ends when nobody orders or listens any more, or with the connection: the inbox says which.
pub(super) async fn run(
    stream: Box<dyn Stream>,
    input: BytesMut,
    orders: mpsc::Receiver<Order>,
    inbox: Inbox,
) {
    let unconfirmed = VecDeque::new();
    let session = Session { input, output: BytesMut::new(), unconfirmed, inbox: &inbox };
    if let Err(error) = session.serve(stream, orders).await {
        inbox.end(error);
    }
}

struct Session<'a> {
    input: BytesMut,
    /// Whole operations; what of them is written is gone.
    output: BytesMut,
    unconfirmed: VecDeque<oneshot::Sender<()>>,
    inbox: &'a Inbox,
}

impl Session<'_> {
    async fn serve(
        mut self,
        stream: Box<dyn Stream>,
        mut orders: mpsc::Receiver<Order>,
    ) -> io::Result<()> {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let mut is_written = true;
        loop {
            self.hear()?;
            is_written &= self.output.is_empty();
            self.input.reserve(READ_BUFFER);
            tokio::select! {
                read = reader.read_buf(&mut self.input) => if read? == 0 {
                    return Err(closed());
                },
                // Cancel safe: what was written has gone from the buffer.
                written = async {
                    writer.write_all_buf(&mut self.output).await?;
                    writer.flush().await
                }, if !is_written => {
                    written?;
                    is_written = true;
                }
                order = orders.recv(), if is_written => match order {
                    Some(order) => self.take(order),
                    None => return Ok(()),
                },
            }
        }
    }

    fn take(&mut self, order: Order) {
        self.output = order.operations;
        self.unconfirmed.push_back(order.confirmed);
    }

    fn hear(&mut self) -> io::Result<()> {
        while let Some(said) = protocol::next(&mut self.input)? {
            match said {
                Said::Message(message) => self.inbox.put(message).map_err(|_| closed())?,
                Said::Ping => protocol::pong(&mut self.output),
                // Who waited may have gone: then it connects anew.
                Said::Pong => _ = self.unconfirmed.pop_front().map(|waits| waits.send(())),
                Said::Failed(why) => return Err(io::Error::other(why)),
                Said::Info(_) | Said::Other => {}
            }
        }
        Ok(())
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the server has closed the connection")
}
