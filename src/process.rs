//! What the kernel knows of this process.

use std::{
    fs,
    io::{self, Error, ErrorKind::InvalidData},
    time::Duration,
};

use rlimit::Resource;

/// Clock ticks a second, in which the kernel tells CPU time to programs (`USER_HZ`): 100 on every
/// architecture that Rust runs on with Linux, Alpha aside.
const TICKS: u32 = 100;

/// One look at it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Process {
    /// CPU time of all threads, that of the kernel for them included.
    pub(crate) cpu: Duration,
    /// Bytes of memory that are resident.
    pub(crate) memory: u64,
    pub(crate) open_files: u64,
    pub(crate) max_files: u64,
}

impl Process {
    /// Looks, which takes some 50 us.
    ///
    /// # Errors
    /// If `/proc` is not mounted.
    pub(crate) fn look() -> io::Result<Self> {
        let (stat, status) =
            (fs::read_to_string("/proc/self/stat")?, fs::read_to_string("/proc/self/status")?);
        let (Some(cpu), Some(memory)) = (cpu(&stat), memory(&status)) else {
            return Err(Error::from(InvalidData));
        };
        let (max_files, _) = Resource::NOFILE.get()?;
        Ok(Self { cpu, memory, open_files: open_files()?, max_files })
    }
}

/// The 14th and 15th field; the second is a name in parentheses that may hold anything.
fn cpu(stat: &str) -> Option<Duration> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    let ticks = ticks()? + ticks()?;
    Some(Duration::from_millis(ticks * 1000) / TICKS)
}

fn memory(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// The kernel says it as a size since 6.2; before, they have to be counted.
fn open_files() -> io::Result<u64> {
    match fs::metadata("/proc/self/fd")?.len() {
        0 => Ok(fs::read_dir("/proc/self/fd")?.count() as u64),
        count => Ok(count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_is_skipped() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 150 0 0 20 0 1 0 5 0 0";
        assert_eq!(cpu(stat), Some(Duration::from_secs(4)));
    }

    #[test]
    fn this_process_has_memory_and_files() {
        let process = Process::look().unwrap();
        assert!(process.memory > 1 << 20, "{process:?}");
        assert!((3..=process.max_files).contains(&process.open_files), "{process:?}");
    }
}
