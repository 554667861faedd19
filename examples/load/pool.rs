//! The connections of one thread and the loop that waits for them.
//!
//! Sockets are edge-triggered: a read that does not fill the buffer has emptied the socket (epoll(7), question 9), so that one
//! message costs one wait, one read and one write. Unless its end has come with the same event: nothing tells of that again.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token, Waker};

use crate::answer::Answer;
use crate::fault::{End, Fault};
use crate::frame::Template;
use crate::inbound::Piece;
use crate::session::{Mode, Phase, Session};
use crate::target::Target;

/// One read takes at most this much; it stays in the second-level cache.
const INBOX: usize = 256 * 1024;

/// The token of the waker, by which another thread ends our waiting.
const WAKE: Token = Token(usize::MAX);

/// All connections of a thread.
pub(crate) struct Pool {
    poll: Poll,
    /// The server, and who says what first; modes may change it between two openings.
    pub(crate) target: Arc<Target>,
    pub(crate) sessions: Vec<Session>,
    pub(crate) templates: Vec<Template>,
    /// Opening handshakes under way.
    pub(crate) opening: usize,
    inbox: Vec<u8>,
    scratch: Vec<u8>,
}

impl Pool {
    pub(crate) fn new(target: Arc<Target>, templates: Vec<Template>) -> Result<Self, Fault> {
        let poll = Poll::new().map_err(Fault::io("making an epoll instance"))?;
        Ok(Self {
            poll,
            target,
            sessions: Vec::new(),
            templates,
            opening: 0,
            inbox: vec![0; INBOX],
            scratch: Vec::new(),
        })
    }

    /// Ends this pool's waiting from another thread.
    pub(crate) fn waker(&self) -> Result<Arc<Waker>, Fault> {
        Waker::new(self.poll.registry(), WAKE).map(Arc::new).map_err(Fault::io("making a waker"))
    }

    /// Makes a place for a further connection.
    pub(crate) fn reserve(&mut self) -> usize {
        let index = self.sessions.len();
        self.sessions.push(Session::new(index, 0));
        index
    }

    /// Begins a further connection, with its number.
    pub(crate) fn add(&mut self, number: usize) -> Result<usize, Fault> {
        let index = self.reserve();
        let request = self.target.request(number);
        self.open(index, number, &request).map(|()| index)
    }

    /// Begins a connection in a place that is free, and will say `request` first.
    pub(crate) fn open(
        &mut self,
        index: usize,
        number: usize,
        request: &[u8],
    ) -> Result<(), Fault> {
        let doing = || format!("opening connection {number}");
        let mut stream = self.target.connect(number).map_err(Fault::io(doing()))?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll
            .registry()
            .register(&mut stream, Token(index), interest)
            .map_err(Fault::io(doing()))?;
        let mut session = Session::new(index, number);
        session.phase = Phase::Connecting;
        session.stream = Some(stream);
        session.outbound.put_first(request);
        session.answer = self.target.is_http().then(Answer::default);
        self.sessions[index] = session;
        self.opening += 1;
        Ok(())
    }

    /// Whether any connection is not ended.
    pub(crate) fn is_alive(&self) -> bool {
        self.sessions.iter().any(|session| session.phase != Phase::Gone)
    }

    /// Runs the loop until the mode ends it.
    pub(crate) fn run(&mut self, mode: &mut impl Mode) -> Result<(), Fault> {
        let mut events = Events::with_capacity(1024);
        while let Some(longest) = mode.turn(self)? {
            match self.poll.poll(&mut events, Some(longest)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    return Err(Fault::Io { doing: "waiting".to_owned(), source: error });
                }
                _ => {}
            }
            for event in events.iter().filter(|event| event.token() != WAKE) {
                let ends = event.is_read_closed() || event.is_error();
                self.serve(event.token().0, event.is_readable() || ends, ends, mode)?;
            }
        }
        Ok(())
    }

    /// Writes what the mode has allowed a connection to send.
    #[inline]
    pub(crate) fn flush(&mut self, index: usize, mode: &mut impl Mode) -> Result<(), Fault> {
        match self.write(index) {
            Ok(()) => Ok(()),
            Err(error) => self.end(index, End::Broken(error), mode),
        }
    }

    fn write(&mut self, index: usize) -> io::Result<()> {
        let Session { outbound, stream, phase, .. } = &mut self.sessions[index];
        match stream {
            Some(stream) if *phase != Phase::Connecting => {
                outbound.write(stream, &mut self.templates, &mut self.scratch)
            }
            _ => Ok(()),
        }
    }

    /// Handles one event of one connection.
    fn serve(
        &mut self,
        index: usize,
        readable: bool,
        ends: bool,
        mode: &mut impl Mode,
    ) -> Result<(), Fault> {
        let session = &mut self.sessions[index];
        let Some(stream) = &mut session.stream else { return Ok(()) };
        if session.phase == Phase::Connecting {
            match stream.take_error() {
                Ok(None) if session.answer.is_some() => {
                    session.phase = Phase::Open;
                    self.opening -= 1;
                    mode.opened(session, Instant::now())?;
                }
                Ok(None) => session.phase = Phase::Handshake,
                Ok(Some(error)) | Err(error) => return self.end(index, End::Broken(error), mode),
            }
        }
        let end = if readable { self.read(index, ends, mode)? } else { None };
        if self.sessions[index].outbound.is_pending() {
            // A close frame or a reset that has come says more than the write that it made fail.
            if let (Err(error), None) = (self.write(index), &end) {
                return self.end(index, End::Broken(error), mode);
            }
        }
        match end {
            Some(end) => self.end(index, end, mode),
            None if self.sessions[index].hangs_up => self.end(index, End::Ours, mode),
            None => Ok(()),
        }
    }

    /// Reads until the socket is empty, or to its end.
    fn read(
        &mut self,
        index: usize,
        ends: bool,
        mode: &mut impl Mode,
    ) -> Result<Option<End>, Fault> {
        let session = &mut self.sessions[index];
        loop {
            let Some(stream) = &mut session.stream else { return Ok(None) };
            let count = match stream.read(&mut self.inbox) {
                Ok(0) => return Ok(Some(End::Silent)),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Ok(Some(End::Broken(error))),
            };
            let was_open = session.phase == Phase::Open;
            let end = session.take(&self.inbox[..count], mode, Instant::now())?;
            if !was_open && session.phase == Phase::Open {
                self.opening -= 1;
            }
            if end.is_some() || (count < self.inbox.len() && !ends) {
                return Ok(end);
            }
        }
    }

    fn end(&mut self, index: usize, end: End, mode: &mut impl Mode) -> Result<(), Fault> {
        let session = &mut self.sessions[index];
        if matches!(session.phase, Phase::Connecting | Phase::Handshake) {
            self.opening -= 1;
        }
        session.stream = None;
        session.phase = Phase::Gone;
        mode.ended(session, end)
    }

    /// Says goodbye on every connection and waits a second for the answers. What else still comes is the mode's to judge:
    /// a message that came twice may show only now.
    pub(crate) fn farewell(&mut self, judge: &mut impl Mode) -> Result<(), Fault> {
        let until = Instant::now() + Duration::from_secs(1);
        let mut mode = Farewell { until, judge };
        for index in 0..self.sessions.len() {
            let session = &mut self.sessions[index];
            if session.phase != Phase::Open {
                continue;
            }
            if session.answer.is_some() {
                self.end(index, End::Ours, &mut mode)?;
            } else {
                session.outbound.put_close(1000);
                self.flush(index, &mut mode)?;
            }
        }
        self.run(&mut mode)
    }
}

/// The closing handshake, during which no end is an error any more.
struct Farewell<'a, M> {
    until: Instant,
    judge: &'a mut M,
}

impl<M: Mode> Mode for Farewell<'_, M> {
    fn opened(&mut self, _: &mut Session, _: Instant) -> Result<(), Fault> {
        Ok(())
    }

    fn piece(
        &mut self,
        session: &mut Session,
        piece: &Piece<'_>,
        now: Instant,
    ) -> Result<(), Fault> {
        self.judge.piece(session, piece, now)
    }

    fn ended(&mut self, _: &mut Session, _: End) -> Result<(), Fault> {
        Ok(())
    }

    fn turn(&mut self, pool: &mut Pool) -> Result<Option<Duration>, Fault> {
        let over = !pool.is_alive() || Instant::now() >= self.until;
        Ok(if over { None } else { Some(Duration::from_millis(20)) })
    }
}
