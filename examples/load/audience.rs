//! The subscribers of one thread: each gets every message of every publisher once, in order, unaltered.

use std::sync::Arc;

use crate::fault::Fault;
use crate::frame::{DIGITS, Digits, Payload, TEXT, mask_key, masked};
use crate::inbound::Piece;
use crate::opener::Opener;
use crate::options::{self, Common};
use crate::pool::Pool;
use crate::protocol::{Mark, Protocol};
use crate::recorder::Recorder;
use crate::session::Session;
use crate::target::{Target, spread};

/// What all subscribers are told and expect.
pub(crate) struct Programme {
    pub(crate) protocol: Protocol,
    mark: Mark,
    /// By publisher.
    pub(crate) payloads: Vec<Payload>,
}

impl Programme {
    pub(crate) fn new(
        protocol: Protocol,
        options: &options::Audience,
        publishers: u32,
    ) -> Result<Self, Fault> {
        let mark = Mark::new();
        let payloads = (0..publishers as usize)
            .map(|number| mark.payload(number, options.size))
            .collect::<Result<_, _>>()?;
        Ok(Self { protocol, mark, payloads })
    }

    /// The server under its URL alone; subscribers and publishers have their paths behind it.
    pub(crate) fn target(
        &self,
        common: &Common,
        options: &options::Audience,
    ) -> Result<Target, Fault> {
        let headers: Vec<_> = self
            .protocol
            .header
            .iter()
            .map(|&header| header.to_owned())
            .chain(common.header.clone())
            .collect();
        let target = Target::new(&options.url, &headers, common.remote)?;
        Ok(target.with_sources(common.sources.unwrap_or(spread(options.subscribers))))
    }
}

/// One message that came whole and was the next of its publisher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) publisher: usize,
    pub(crate) sequence: u64,
}

/// The subscribers of one thread, who are the first in its pool.
pub(crate) struct Audience<'a> {
    programme: &'a Programme,
    opener: Opener,
    share: usize,
    subscribed: Vec<bool>,
    /// By subscriber and publisher: what comes next.
    expected: Vec<Digits>,
    /// By subscriber and publisher: messages received.
    received: Vec<u64>,
    /// Messages that reads have cut, by subscriber.
    halves: Vec<Vec<u8>>,
    /// Where in a message the last payload was found.
    hint: usize,
    /// Whether deliveries are text: as the first one is, all have to be.
    text: Option<bool>,
}

impl<'a> Audience<'a> {
    pub(crate) fn new(
        programme: &'a Programme,
        common: &Common,
        options: &options::Audience,
        thread: usize,
    ) -> Self {
        let opener = Opener::new(common, thread, options.subscribers);
        let (share, publishers) = (opener.share(), programme.payloads.len());
        Self {
            programme,
            opener,
            share,
            subscribed: vec![false; share],
            expected: vec![Digits::new(0); share * publishers],
            received: vec![0; share * publishers],
            halves: vec![Vec::new(); share],
            hint: 0,
            text: None,
        }
    }

    /// How many they are.
    pub(crate) fn share(&self) -> usize {
        self.share
    }

    /// Whether a connection is one of theirs.
    #[inline]
    pub(crate) fn has(&self, session: &Session) -> bool {
        session.index < self.share
    }

    /// Opens subscribers first, so that nobody publishes before anybody listens. From then on the pool connects to
    /// `next`. False while there are subscribers to open.
    pub(crate) fn open(&mut self, pool: &mut Pool, next: &Arc<Target>) -> Result<bool, Fault> {
        let is_next = Arc::ptr_eq(&pool.target, next);
        if !is_next && (self.opener.open_more(pool, |_| ())? || pool.opening > 0) {
            return Ok(false);
        }
        pool.target = Arc::clone(next);
        Ok(true)
    }

    /// A subscriber's opening handshake is done.
    pub(crate) fn opened(&mut self, session: &mut Session, recorder: &Recorder) {
        let protocol = &self.programme.protocol;
        if !protocol.subscribe.is_empty() {
            let text = protocol.subscribe.replace("{id}", &session.number.to_string());
            session.outbound.put_first(&masked(TEXT, text.as_bytes(), mask_key(session.number)));
        }
        if protocol.ready.is_empty() {
            self.subscribed(session.index, recorder);
        }
    }

    fn subscribed(&mut self, index: usize, recorder: &Recorder) {
        if !std::mem::replace(&mut self.subscribed[index], true) {
            recorder.ready();
        }
    }

    /// Checks a piece of what a subscriber got; `Some` when it was the last of a message.
    #[inline]
    pub(crate) fn check(
        &mut self,
        session: &Session,
        piece: &Piece<'_>,
        recorder: &Recorder,
    ) -> Result<Option<Delivery>, Fault> {
        if piece.whole() {
            return self.message(session, piece.text, piece.bytes, recorder);
        }
        self.halves[session.index].extend_from_slice(piece.bytes);
        if !piece.last {
            return Ok(None);
        }
        let mut message = std::mem::take(&mut self.halves[session.index]);
        let delivery = self.message(session, piece.text, &message, recorder)?;
        message.clear();
        self.halves[session.index] = message;
        Ok(delivery)
    }

    /// A whole message to a subscriber.
    #[inline]
    fn message(
        &mut self,
        session: &Session,
        text: bool,
        message: &[u8],
        recorder: &Recorder,
    ) -> Result<Option<Delivery>, Fault> {
        let Some((at, publisher)) = self.programme.mark.find(message, self.hint) else {
            if contains(message, self.programme.protocol.ready.as_bytes()) {
                self.subscribed(session.index, recorder);
            }
            return Ok(None);
        };
        self.hint = at;
        let Some(payload) = self.programme.payloads.get(publisher) else {
            return Err(self.surprise(session, publisher, None, message));
        };
        let row = session.index * self.programme.payloads.len() + publisher;
        let end = (at + payload.bytes.len()).min(message.len());
        let whole = end - at == payload.bytes.len();
        if *self.text.get_or_insert(text) != text {
            return Err(Fault::Message {
                connection: session.number,
                expected: "one of the type of those before".to_owned(),
                got: format!("one as {}", if text { "text" } else { "binary" }),
            });
        }
        if !whole || !payload.agrees(&self.expected[row], 0, &message[at..end]) {
            return Err(self.surprise(session, publisher, Some(row), message));
        }
        self.expected[row].count_up();
        let sequence = self.received[row];
        self.received[row] += 1;
        Ok(Some(Delivery { publisher, sequence }))
    }

    #[cold]
    fn surprise(
        &self,
        session: &Session,
        publisher: usize,
        row: Option<usize>,
        message: &[u8],
    ) -> Fault {
        let expected = row.map_or_else(String::new, |row| {
            String::from_utf8_lossy(self.expected[row].low(DIGITS)).into_owned()
        });
        let start = &message[..message.len().min(200)];
        Fault::Message {
            connection: session.number,
            expected: format!("{expected} of publisher {publisher}"),
            got: format!("{:?}", String::from_utf8_lossy(start)),
        }
    }

    /// How many messages have not come, where each publisher has sent `total` of them.
    pub(crate) fn missing(&self, total: impl Fn(usize) -> u64) -> u64 {
        let publishers = self.programme.payloads.len();
        let lacks = |(row, received): (usize, &u64)| total(row % publishers) - received;
        self.received.iter().enumerate().map(lacks).fold(0, u64::saturating_add)
    }
}

/// Whether `part` is not empty and stands somewhere in `whole`.
fn contains(whole: &[u8], part: &[u8]) -> bool {
    !part.is_empty() && whole.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::options::{Command, Options};
    use crate::run::Shared;

    /// What one subscriber makes of the messages of two publishers, each a publisher's number and a sequence number.
    fn hear(messages: &[(usize, u64)]) -> Result<u64, Fault> {
        let options = Options::parse_from(["load", "publish", "--subscribers", "1"]);
        let Command::Publish(publish) = &options.command else { panic!("another mode") };
        let protocol = Protocol::new(&publish.audience);
        let programme = Programme::new(protocol, &publish.audience, 2)?;
        let mut audience = Audience::new(&programme, &options.common, &publish.audience, 0);
        let recorder = Recorder::new(&Arc::new(Shared::new(1)), 0);
        let session = Session::new(0, 0);
        for &(publisher, sequence) in messages {
            let mut message = b"wrapped ".to_vec();
            let payload = &programme.payloads[publisher];
            let place = payload.places[0] + message.len();
            message.extend_from_slice(&payload.bytes);
            message[place..][..DIGITS].copy_from_slice(Digits::new(sequence).low(DIGITS));
            let (first, rest) = message.split_at(20);
            let half = Piece { offset: 0, bytes: first, last: false, text: true };
            assert_eq!(audience.check(&session, &half, &recorder)?, None);
            let half = Piece { offset: 20, bytes: rest, last: true, text: true };
            let delivery = audience.check(&session, &half, &recorder)?;
            assert_eq!(delivery, Some(Delivery { publisher, sequence }));
        }
        Ok(audience.missing(|_| 3))
    }

    #[test]
    fn each_publisher_has_an_order_of_its_own() {
        assert_eq!(hear(&[(0, 0), (1, 0), (1, 1), (0, 1)]).expect("all in order"), 2);
        assert_eq!(hear(&[]).expect("nothing is in order too"), 6);
    }

    #[test]
    fn what_is_lost_doubled_or_out_of_order_is_a_fault() {
        for messages in [[(0, 0), (0, 2)], [(0, 0), (0, 0)], [(1, 1), (1, 0)]] {
            assert!(matches!(hear(&messages), Err(Fault::Message { .. })), "{messages:?}");
        }
    }
}
