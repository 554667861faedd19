//! Opens a thread's share of the connections, a few at a time.

use crate::fault::Fault;
use crate::options::Common;
use crate::pool::Pool;

/// Connections that are still to be opened.
#[derive(Debug)]
pub(crate) struct Opener {
    next: usize,
    total: usize,
    step: usize,
    at_once: usize,
}

impl Opener {
    /// Of `total` connections, every `common.threads`-th is this thread's.
    pub(crate) fn new(common: &Common, thread: usize, total: u32) -> Self {
        Self {
            next: thread,
            total: total as usize,
            step: common.threads as usize,
            at_once: common.opening as usize,
        }
    }

    /// How many connections this thread opens in all.
    pub(crate) fn share(&self) -> usize {
        self.total.saturating_sub(self.next).div_ceil(self.step)
    }

    /// Begins as many as may be under way at once; `begun` is told the index of each. False when none is left.
    pub(crate) fn open_more(
        &mut self,
        pool: &mut Pool,
        mut begun: impl FnMut(usize),
    ) -> Result<bool, Fault> {
        while self.next < self.total && pool.opening < self.at_once {
            begun(pool.add(self.next)?);
            self.next += self.step;
        }
        Ok(self.next < self.total)
    }
}
