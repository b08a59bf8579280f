//! The memory of the subject's process, as Linux tells it.

/// How many rounds pass before memory counts: caches and pools fill first.
const WARM_UP: u64 = 200;
/// How often it is looked at, in rounds.
const EVERY: u64 = 100;
/// Growth that is a finding: this many bytes, and as much again as there were.
const GROWTH: u64 = 64 << 20;

/// Watches one process.
pub(super) struct Watch {
    pid: Option<u32>,
    warm: Option<u64>,
}

impl Watch {
    pub(super) fn new(pid: Option<u32>) -> Self {
        Self { pid, warm: None }
    }

    /// Says by how much memory grew, if that is a finding.
    pub(super) fn grown(&mut self, rounds: u64) -> Option<String> {
        if rounds < WARM_UP || !rounds.is_multiple_of(EVERY) {
            return None;
        }
        let now = resident(self.pid?)?;
        let warm = *self.warm.get_or_insert(now);
        if now < warm + GROWTH.max(warm) {
            return None;
        }
        self.warm = Some(now);
        Some(format!("resident memory grew from {} to {} MiB", warm >> 20, now >> 20))
    }
}

fn resident(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes << 10)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_a_process_is_read() {
        assert!(resident(std::process::id()).is_some_and(|bytes| bytes > 1 << 20));
    }

    #[test]
    fn only_much_growth_is_told() {
        let mut watch = Watch::new(Some(std::process::id()));
        assert_eq!(watch.grown(WARM_UP), None);
        watch.warm = Some(1);
        let memory = vec![1_u8; 80 << 20];
        assert!(watch.grown(2 * WARM_UP).is_some(), "{}", memory.len());
    }
}
