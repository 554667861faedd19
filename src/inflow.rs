//! How many bytes a second are read from one connection.
//!
//! When they are used up, the socket is not read from, and TCP holds the sender back. Who is held
//! back for a moment loses nothing; who is ahead of its rate for long is told to go.

use std::time::Duration;

use tokio::time::Instant;

use crate::{close::CloseReason, config::Config};

/// What a frame's header adds to its payload at most (RFC 6455 section 5.2).
const MAX_HEADER: f64 = 14.0;

/// Reading goes on once a tenth of a second's worth is there: woken for each byte, a connection
/// that sends too much would cost more than one that does not.
const PARTS: f64 = 10.0;

/// Without a pause for so long, a peer is no longer ahead of its rate. That its data is all read
/// for a moment says less: more may be on its way.
const CAUGHT_UP: Duration = Duration::from_secs(1);

/// A token bucket of bytes. It holds a second's worth, and at least one message of the largest
/// size.
#[derive(Debug)]
pub(crate) struct Inflow {
    per_second: f64,
    burst: f64,
    /// How long a peer may be ahead of its rate.
    patience: Duration,
    tokens: f64,
    filled_at: Instant,
    /// When the pause ends that there is now.
    resumes_at: Option<Instant>,
    /// When the last pause began after which there was none for a while, and when the last ends.
    ahead: Option<(Instant, Instant)>,
}

impl Inflow {
    /// `None` where the rate is not limited. Boxed, because then it shall cost nothing.
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 52 bits")]
    pub(crate) fn new(config: &Config) -> Option<Box<Self>> {
        let per_second = config.bytes_per_second as f64;
        let burst = per_second.max(config.max_message_size as f64 + MAX_HEADER);
        (config.bytes_per_second > 0).then(|| {
            Box::new(Self {
                per_second,
                burst,
                patience: config.message_timeout,
                tokens: burst,
                filled_at: Instant::now(),
                resumes_at: None,
                ahead: None,
            })
        })
    }

    /// How many bytes may be read now; 0 stops the reading until [`Inflow::resumes_at`]. An error
    /// says that the peer has been ahead of its rate for too long.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is cut off")]
    pub(crate) fn room(&mut self) -> Result<usize, CloseReason> {
        let now = Instant::now();
        let elapsed = now.duration_since(self.filled_at).as_secs_f64();
        self.filled_at = now;
        self.tokens = (self.tokens + elapsed * self.per_second).min(self.burst);
        if self.tokens < 1.0 || self.resumes_at.is_some_and(|at| now < at) {
            return self.pause(now).map(|()| 0);
        }
        self.resumes_at = None;
        Ok(self.tokens as usize)
    }

    fn pause(&mut self, now: Instant) -> Result<(), CloseReason> {
        let missing = (self.per_second / PARTS).max(1.0) - self.tokens;
        let until = now + Duration::from_secs_f64(missing.max(0.0) / self.per_second);
        let ahead = self.ahead.filter(|(_, until)| now < *until + CAUGHT_UP);
        let since = ahead.map_or(now, |(since, _)| since);
        if since + self.patience <= now {
            return Err(CloseReason::Policy("too many bytes"));
        }
        (self.resumes_at, self.ahead) = (Some(until), Some((since, until)));
        Ok(())
    }

    /// So many bytes were read.
    #[expect(clippy::cast_precision_loss, reason = "it is no more than was allowed")]
    pub(crate) fn take(&mut self, bytes: usize) {
        self.tokens -= bytes as f64;
    }

    /// When reading may go on; `None` while nothing stops it.
    pub(crate) fn resumes_at(&self) -> Option<Instant> {
        self.resumes_at
    }

    /// Nothing stops it any more.
    pub(crate) fn resume(&mut self) {
        self.resumes_at = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inflow(max_message_size: usize, bytes_per_second: usize) -> Inflow {
        let config = Config { max_message_size, bytes_per_second, ..Config::default() };
        *Inflow::new(&config).unwrap()
    }

    /// Waits as long as it says, and reads all that there is room for then.
    async fn pause_and_read(inflow: &mut Inflow) -> Result<usize, CloseReason> {
        assert_eq!(inflow.room()?, 0);
        tokio::time::sleep_until(inflow.resumes_at().unwrap()).await;
        let room = inflow.room()?;
        inflow.take(room);
        Ok(room)
    }

    #[tokio::test(start_paused = true)]
    async fn the_largest_message_passes_and_then_the_rate_and_then_it_is_enough() {
        let mut inflow = inflow(1000, 100);
        assert_eq!(inflow.room().unwrap(), 1014);
        inflow.take(1014);
        let (start, mut read) = (Instant::now(), 0);
        let reason = loop {
            match pause_and_read(&mut inflow).await {
                Ok(count) => read += count,
                Err(reason) => break reason,
            }
        };
        assert_eq!(reason, CloseReason::Policy("too many bytes"));
        assert_eq!(start.elapsed().as_secs(), Config::default().message_timeout.as_secs());
        assert!((2950..=3050).contains(&read), "{read} bytes in {:?}", start.elapsed());
    }

    /// Whether all is read that it sends, or nobody has asked for its messages.
    #[tokio::test(start_paused = true)]
    async fn who_has_not_been_held_back_for_a_while_is_not_ahead() {
        let mut inflow = inflow(10, 100);
        inflow.take(100);
        for _ in 0..100 {
            assert_eq!(inflow.room().unwrap(), 0);
            tokio::time::advance(Duration::from_millis(1200)).await;
            assert_eq!(inflow.room().unwrap(), 100);
            inflow.take(100);
        }
    }

    #[test]
    fn without_a_rate_there_is_none() {
        assert!(Inflow::new(&Config::default()).is_none());
    }
}
