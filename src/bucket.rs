//! A token bucket: so many at once, so many a second for long.

use std::sync::OnceLock;

use tokio::time::Instant;

/// 8 bytes, because every connection has some.
#[derive(Debug)]
pub(crate) struct Bucket {
    tokens: f32,
    filled_at: u32,
}

impl Bucket {
    /// A full bucket.
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 24 bits")]
    pub(crate) fn new(burst: u32) -> Self {
        Self { tokens: burst as f32, filled_at: now() }
    }

    /// Takes `count` tokens; `false` if there were fewer, and then none is taken: who asks too
    /// often gets the rate all the same.
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 24 bits")]
    pub(crate) fn take(&mut self, count: u32, per_second: u32, burst: u32) -> bool {
        let now = now();
        let elapsed = now.wrapping_sub(self.filled_at) as f32 / 1000.0;
        self.filled_at = now;
        self.tokens = (self.tokens + elapsed * per_second as f32).min(burst as f32);
        let enough = self.tokens >= count as f32;
        if enough {
            self.tokens -= count as f32;
        }
        enough
    }

    /// How long the bucket was left alone, in milliseconds.
    pub(crate) fn age(&self) -> u32 {
        now().wrapping_sub(self.filled_at)
    }
}

/// Milliseconds of the monotonic clock. They wrap after 49 days; a difference does not mind.
#[expect(clippy::cast_possible_truncation, reason = "wrapping is what is wanted")]
fn now() -> u32 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_millis() as u32
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_and_then_the_rate() {
        let mut bucket = Bucket::new(3);
        assert!(bucket.take(3, 2, 3));
        assert!(!bucket.take(1, 2, 3));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(bucket.take(1, 2, 3));
        tokio::time::advance(Duration::from_mins(1)).await;
        assert!(bucket.take(3, 2, 3));
        assert!(!bucket.take(1, 2, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_too_often_still_gets_the_rate() {
        let mut bucket = Bucket::new(1);
        let mut taken = 0;
        for _ in 0..1000 {
            taken += u32::from(bucket.take(1, 2, 1));
            tokio::time::advance(Duration::from_millis(10)).await;
        }
        assert!((19..=21).contains(&taken), "{taken} in ten seconds");
    }
}
