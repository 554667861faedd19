//! Numbers that many tasks count together, without a lock.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    /// The number now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Counters by a number that says how something ended: one for each that is known, so that nobody
/// can make them more.
#[derive(Debug)]
pub struct ByNumber {
    known: &'static [u16],
    counters: Box<[Counter]>,
    others: Counter,
}

impl ByNumber {
    pub(crate) fn new(known: &'static [u16]) -> Self {
        let counters = known.iter().map(|_| Counter::default()).collect();
        Self { known, counters, others: Counter::default() }
    }

    pub(crate) fn add(&self, number: u16) {
        let place = self.known.iter().position(|known| *known == number);
        place.map_or(&self.others, |place| &self.counters[place]).add(1);
    }

    /// Each number that is known and its count; last, as `None`, all others together.
    pub fn iter(&self) -> impl Iterator<Item = (Option<u16>, u64)> {
        let known = self.known.iter().zip(&self.counters);
        let known = known.map(|(number, counter)| (Some(*number), counter.get()));
        known.chain([(None, self.others.get())])
    }
}

/// How often values were how large.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64],
    counters: Box<[Counter]>,
    beyond: Counter,
    sum: Counter,
}

impl Histogram {
    /// `bounds` are the largest values of each bucket, in order.
    pub(crate) fn new(bounds: &'static [u64]) -> Self {
        let counters = bounds.iter().map(|_| Counter::default()).collect();
        Self { bounds, counters, beyond: Counter::default(), sum: Counter::default() }
    }

    pub(crate) fn record(&self, value: u64) {
        let place = self.bounds.iter().position(|bound| value <= *bound);
        place.map_or(&self.beyond, |place| &self.counters[place]).add(1);
        if value > 0 {
            self.sum.add(value);
        }
    }

    /// How many values there were up to each bound and above the one before; last, as `None`, how
    /// many were above all bounds.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<u64>, u64)> {
        let within = self.bounds.iter().zip(&self.counters);
        let within = within.map(|(bound, counter)| (Some(*bound), counter.get()));
        within.chain([(None, self.beyond.get())])
    }

    /// All values together.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.sum.get()
    }
}

/// How many are at something now.
#[derive(Debug, Default)]
pub(crate) struct Gauge(AtomicUsize);

impl Gauge {
    /// Counts one more until what is returned is dropped.
    pub(crate) fn enter(&self) -> impl Drop {
        self.0.fetch_add(1, Relaxed);
        Entered(self)
    }

    pub(crate) fn count(&self) -> usize {
        self.0.load(Relaxed)
    }
}

struct Entered<'a>(&'a Gauge);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_not_known_is_one_of_the_others() {
        let counters = ByNumber::new(&[200, 404]);
        for status in [404, 404, 418, 65_535] {
            counters.add(status);
        }
        let counts: Vec<_> = counters.iter().collect();
        assert_eq!(counts, [(Some(200), 0), (Some(404), 2), (None, 2)]);
    }

    #[test]
    fn a_bound_is_within_its_bucket() {
        let histogram = Histogram::new(&[0, 10]);
        for value in [0, 1, 10, 11] {
            histogram.record(value);
        }
        let buckets: Vec<_> = histogram.buckets().collect();
        assert_eq!((buckets, histogram.sum()), (vec![(Some(0), 1), (Some(10), 2), (None, 1)], 22));
    }
}
