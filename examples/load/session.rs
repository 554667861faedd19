//! One connection, and what a mode does with it.

use std::time::{Duration, Instant};

use mio::net::TcpStream;

use crate::answer::Answer;
use crate::fault::{End, Fault};
use crate::inbound::{Arrival, Inbound, Piece};
use crate::outbound::Outbound;
use crate::pool::Pool;
use crate::target::judge;

/// What a mode does with its connections.
pub(crate) trait Mode {
    /// The opening handshake is done.
    fn opened(&mut self, session: &mut Session, now: Instant) -> Result<(), Fault>;

    /// A data message came, or a piece of one.
    fn piece(
        &mut self,
        session: &mut Session,
        piece: &Piece<'_>,
        now: Instant,
    ) -> Result<(), Fault>;

    /// An HTTP request is answered, with success.
    fn answered(&mut self, _: &mut Session) -> Result<(), Fault> {
        Ok(())
    }

    /// A connection ended. By default only a bad thing does that.
    fn ended(&mut self, session: &mut Session, end: End) -> Result<(), Fault> {
        Err(Fault::Ended { connection: session.number, end })
    }

    /// Called before each wait: opens and sends what is due, and says how long to wait at most; `None` ends the loop.
    fn turn(&mut self, pool: &mut Pool) -> Result<Option<Duration>, Fault>;
}

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Connecting,
    Handshake,
    Open,
    Gone,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Session {
    /// Its place in the pool.
    pub(crate) index: usize,
    /// Its number among all threads' connections, from 0.
    pub(crate) number: usize,
    pub(crate) outbound: Outbound,
    pub(crate) phase: Phase,
    /// When connecting began.
    pub(crate) began: Instant,
    inbound: Inbound,
    /// What comes instead of frames, where HTTP is spoken.
    pub(crate) answer: Option<Answer>,
    /// The answer to the opening handshake as far as it has come.
    head: Vec<u8>,
    /// None once it has ended.
    pub(crate) stream: Option<TcpStream>,
    /// Whether it is to be ended by us.
    pub(crate) hangs_up: bool,
}

impl Session {
    pub(crate) fn new(index: usize, number: usize) -> Self {
        Self {
            index,
            number,
            outbound: Outbound::default(),
            phase: Phase::Gone,
            began: Instant::now(),
            inbound: Inbound::default(),
            answer: None,
            head: Vec::new(),
            stream: None,
            hangs_up: false,
        }
    }

    /// Ends the connection without a closing handshake, once what is pending has been offered to the socket.
    pub(crate) fn hang_up(&mut self) {
        self.hangs_up = true;
    }

    /// Takes in what was read; the mode is told of each message.
    pub(crate) fn take(
        &mut self,
        mut bytes: &[u8],
        mode: &mut impl Mode,
        now: Instant,
    ) -> Result<Option<End>, Fault> {
        if let Some(answer) = &mut self.answer {
            return match answer.take(bytes) {
                Ok(true) => mode.answered(self).map(|()| None),
                Ok(false) => Ok(None),
                Err(answer) => Ok(Some(End::Refused(answer))),
            };
        }
        if self.phase != Phase::Open {
            self.head.extend_from_slice(bytes);
            match judge(&self.head) {
                Ok(None) => return Ok(None),
                Err(answer) => return Ok(Some(End::Refused(answer))),
                Ok(Some(length)) => {
                    // What stands behind the head is the server's first frames already.
                    bytes = &bytes[bytes.len() - (self.head.len() - length)..];
                    self.head = Vec::new();
                    self.phase = Phase::Open;
                    mode.opened(self, now)?;
                }
            }
        }
        let connection = self.number;
        while let Some(arrival) =
            self.inbound.next(&mut bytes).map_err(|breach| Fault::Breach { connection, breach })?
        {
            match arrival {
                Arrival::Piece(piece) => mode.piece(self, &piece, now)?,
                Arrival::Ping(payload) => self.outbound.put_pong(&payload),
                Arrival::Pong => {}
                Arrival::Close(code, reason) => {
                    self.outbound.put_close(if code == 1005 { 1000 } else { code });
                    return Ok(Some(End::Closed(code, reason)));
                }
            }
        }
        Ok(None)
    }
}
