//! What a process has used, from /proc.

use std::fs;
use std::time::Duration;

use serde::Serialize;

use crate::fault::Fault;

/// One or more processes that are the server together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Processes(Vec<u32>);

/// Memory at one moment, in bytes.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Memory {
    /// Resident, shared pages included.
    pub(crate) resident: u64,
    /// Resident and backed by no file: heap and stacks.
    pub(crate) anonymous: u64,
}

impl Processes {
    /// These processes and their children as they are now.
    pub(crate) fn new(pids: &[u32]) -> Result<Self, Fault> {
        let mut all = Vec::new();
        let mut waiting = pids.to_vec();
        while let Some(pid) = waiting.pop() {
            fs::metadata(format!("/proc/{pid}"))
                .map_err(Fault::io(format!("looking for process {pid}")))?;
            waiting.extend(children(pid).into_iter().filter(|child| !all.contains(child)));
            all.push(pid);
        }
        Ok(Self(all))
    }

    /// The load generator itself.
    pub(crate) fn own() -> Self {
        Self(vec![std::process::id()])
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// CPU time of all threads that live, to the nanosecond; the scheduler's own clock, not a tick's.
    pub(crate) fn cpu_time(&self) -> Duration {
        let threads = self.0.iter().flat_map(|pid| entries(&format!("/proc/{pid}/task")));
        Duration::from_nanos(
            threads.filter_map(|thread| first_number(&format!("{thread}/schedstat"))).sum(),
        )
    }

    pub(crate) fn memory(&self) -> Memory {
        let mut memory = Memory::default();
        for pid in &self.0 {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
            memory.resident += kibibytes(&text, "Rss:") * 1024;
            memory.anonymous += kibibytes(&text, "Anonymous:") * 1024;
        }
        memory
    }
}

fn children(pid: u32) -> Vec<u32> {
    let lists = entries(&format!("/proc/{pid}/task"))
        .into_iter()
        .map(|thread| format!("{thread}/children"));
    let text: String = lists.filter_map(|list| fs::read_to_string(list).ok()).collect();
    text.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

fn entries(folder: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .map(|entry| entry.path().to_string_lossy().into_owned())
        .collect()
}

fn first_number(file: &str) -> Option<u64> {
    fs::read_to_string(file).ok()?.split_whitespace().next()?.parse().ok()
}

fn kibibytes(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_sees_its_own_work() {
        let before = Processes::own().cpu_time();
        let memory = Processes::own().memory();
        assert!(memory.resident >= memory.anonymous && memory.anonymous > 0);
        // The scheduler brings the figure up to date at each tick, 10 ms at most.
        let until = std::time::Instant::now() + Duration::from_millis(100);
        while std::time::Instant::now() < until {}
        assert!(Processes::own().cpu_time() > before);
        assert!(Processes::new(&[u32::MAX]).is_err());
    }
}
