//! A token bucket: so many at once, so many a second for long.

use tokio::time::Instant;

#[derive(Debug)]
pub(crate) struct Bucket {
    tokens: f32,
    filled_at: Instant,
}

impl Bucket {
    /// A full bucket.
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 24 bits")]
    pub(crate) fn new(burst: u32) -> Self {
        Self { tokens: burst as f32, filled_at: Instant::now() }
    }

    /// Takes `count` tokens; `false` if there were fewer.
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 24 bits")]
    pub(crate) fn take(&mut self, count: u32, per_second: u32, burst: u32) -> bool {
        let now = Instant::now();
        let elapsed = now.duration_since(self.filled_at).as_secs_f32();
        self.filled_at = now;
        self.tokens = (self.tokens + elapsed * per_second as f32).min(burst as f32) - count as f32;
        self.tokens >= 0.0
    }
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
}
