//! What a process costs, as Linux tells in `/proc`. Elsewhere nothing is known, and said so by `None`.

use std::fs;
use std::time::Duration;

use serde::Serialize;

/// The ticks that `/proc/PID/stat` counts in a second. It has been 100 on every Linux that Rust's
/// standard library supports.
const TICKS: u64 = 100;

/// The memory of a process, in bytes.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Memory {
    /// What is resident, shared libraries and files included.
    pub resident: u64,
    /// What is resident and belongs to the process alone: heap, stacks, written data.
    pub anonymous: u64,
}

/// The CPU time that a process had used at a moment.
#[derive(Debug, Clone, Copy)]
pub struct Cpu {
    /// Its threads that have ended included; in steps of 10 ms.
    whole: Duration,
    /// The threads that run, to the nanosecond; not every kernel counts that.
    threads: Option<Duration>,
}

impl Cpu {
    /// What was used since an earlier moment: to the nanosecond, unless threads have ended that had
    /// used more than the coarse count can hide.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Duration {
        let whole = self.whole.saturating_sub(earlier.whole);
        let threads = self.threads.zip(earlier.threads);
        let threads = threads.and_then(|(now, then)| now.checked_sub(then));
        let step = Duration::from_millis(2000 / TICKS);
        threads.filter(|threads| threads.abs_diff(whole) <= step).unwrap_or(whole)
    }
}

/// The CPU time that the process has used.
#[must_use]
pub fn cpu(pid: u32) -> Option<Cpu> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let fields: Vec<_> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = |field: usize| fields.get(field)?.parse::<u64>().ok();
    let ticks = ticks(11)? + ticks(12)?;
    let whole = Duration::from_millis(ticks * 1000 / TICKS);
    Some(Cpu { whole, threads: cpu_of_threads(pid) })
}

fn cpu_of_threads(pid: u32) -> Option<Duration> {
    let mut nanos = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        // A thread may end while they are listed.
        let Ok(stat) = fs::read_to_string(thread.ok()?.path().join("schedstat")) else { continue };
        nanos += stat.split(' ').next()?.parse::<u64>().ok()?;
    }
    (nanos > 0).then_some(Duration::from_nanos(nanos))
}

/// The memory of the process.
#[must_use]
pub fn memory(pid: u32) -> Option<Memory> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
    let (text, resident, anonymous) = match rollup {
        Ok(text) if text.contains("Rss:") => (text, "Rss:", "Anonymous:"),
        _ => (fs::read_to_string(format!("/proc/{pid}/status")).ok()?, "VmRSS:", "RssAnon:"),
    };
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    };
    Some(Memory { resident: field(resident)? * 1024, anonymous: field(anonymous)? * 1024 })
}

/// How many file descriptors the process has open.
#[must_use]
pub fn descriptors(pid: u32) -> Option<usize> {
    Some(fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count())
}

/// How many files this process may have open, where that is known and limited.
#[must_use]
pub fn allowed_descriptors() -> Option<usize> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_works_uses_cpu_and_memory() {
        let me = std::process::id();
        let before = cpu(me).unwrap();
        let held = vec![1u8; 64 << 20];
        let started = std::time::Instant::now();
        while cpu(me).unwrap().since(&before) < Duration::from_millis(20) {
            assert!(started.elapsed() < Duration::from_secs(60));
            std::hint::black_box(&held);
        }
        let memory = memory(me).unwrap();
        assert!(memory.anonymous >= 64 << 20 && memory.resident >= memory.anonymous, "{memory:?}");
        let open = descriptors(me).unwrap();
        assert!(open >= 3 && allowed_descriptors().is_none_or(|allowed| open <= allowed));
    }

    #[test]
    fn threads_that_have_ended_are_counted_in_steps() {
        let ms = Duration::from_millis;
        let cpu = |whole, threads: Option<u64>| Cpu { whole: ms(whole), threads: threads.map(ms) };
        let since = |now: Cpu, then: Cpu| now.since(&then);
        assert_eq!(since(cpu(110, Some(107)), cpu(100, Some(102))), ms(5));
        assert_eq!(since(cpu(900, Some(200)), cpu(100, Some(102))), ms(800));
        assert_eq!(since(cpu(110, Some(90)), cpu(100, Some(102))), ms(10));
        assert_eq!(since(cpu(110, None), cpu(100, None)), ms(10));
    }

    #[test]
    fn nothing_is_known_of_a_process_that_is_not() {
        let gone = u32::MAX - 1;
        assert!(cpu(gone).is_none() && memory(gone).is_none() && descriptors(gone).is_none());
    }
}
