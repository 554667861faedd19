//! Which `ackId`s a connection has used.

/// A set of numbers that mostly come in a row: kept as the runs between them.
#[derive(Debug, Default)]
pub(crate) struct AckIds {
    /// First and last of each run, in order, with a gap between any two.
    runs: Vec<(u64, u64)>,
}

/// A client that counts needs one run. One that draws its ids at random is remembered this far;
/// then the lowest are forgotten.
const MAX_RUNS: usize = 1024;

impl AckIds {
    /// Whether the id is there.
    pub(crate) fn contains(&self, id: u64) -> bool {
        let next = self.runs.partition_point(|(first, _)| *first <= id);
        next > 0 && self.runs[next - 1].1 >= id
    }

    /// Puts the id in; `false` if it was there already.
    pub(crate) fn insert(&mut self, id: u64) -> bool {
        let next = self.runs.partition_point(|(first, _)| *first <= id);
        let before = next.checked_sub(1).map(|index| self.runs[index]);
        if before.is_some_and(|(_, last)| last >= id) {
            return false;
        }
        let touches_before = before.is_some_and(|(_, last)| last.checked_add(1) == Some(id));
        let touches_next =
            self.runs.get(next).is_some_and(|(first, _)| first.checked_sub(1) == Some(id));
        match (touches_before, touches_next) {
            (true, true) => {
                self.runs[next - 1].1 = self.runs[next].1;
                self.runs.remove(next);
            }
            (true, false) => self.runs[next - 1].1 = id,
            (false, true) => self.runs[next].0 = id,
            (false, false) => self.runs.insert(next, (id, id)),
        }
        if self.runs.len() > MAX_RUNS {
            self.runs.remove(0);
        }
        true
    }

    /// Takes the id out again.
    #[cfg(feature = "control")]
    pub(crate) fn remove(&mut self, id: u64) {
        let next = self.runs.partition_point(|(first, _)| *first <= id);
        let Some(index) = next.checked_sub(1).filter(|index| self.runs[*index].1 >= id) else {
            return;
        };
        let (first, last) = self.runs[index];
        let before = (first < id).then(|| (first, id - 1));
        let behind = (id < last).then(|| (id + 1, last));
        self.runs.splice(index..=index, before.into_iter().chain(behind));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn it_is_a_set() {
        let (mut ids, mut set) = (AckIds::default(), HashSet::new());
        let mut random = 1_u64;
        for _ in 0..10_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let id = random >> 55;
            assert_eq!(ids.contains(id), set.contains(&id), "{id}");
            assert_eq!(ids.insert(id), set.insert(id), "{id}");
        }
        assert!(ids.insert(u64::MAX) && !ids.insert(u64::MAX));
    }

    #[cfg(feature = "control")]
    #[test]
    fn what_is_taken_out_is_gone_and_nothing_else() {
        let mut ids = AckIds::default();
        assert!((0..10).chain([20, u64::MAX]).all(|id| ids.insert(id)));
        for id in [0, 5, 9, 20, 21, u64::MAX] {
            ids.remove(id);
            assert!(!ids.contains(id), "{id}");
        }
        assert!([1, 4, 6, 8].into_iter().all(|id| ids.contains(id)));
        assert!(ids.insert(5) && ids.runs == [(1, 8)]);
    }

    #[test]
    fn counting_costs_one_run() {
        let mut ids = AckIds::default();
        assert!((0..100_000).all(|id| ids.insert(id)));
        assert_eq!(ids.runs.len(), 1);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut ids = AckIds::default();
        assert!((0..10_000).all(|id| ids.insert(id * 2)));
        assert_eq!(ids.runs.len(), MAX_RUNS);
    }
}
