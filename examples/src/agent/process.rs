//! What the agent's process uses, by the semantic conventions for process metrics (TEL-10, TEL-11).
//!
//! Where the system does not tell, there is less: the time since the start is known everywhere, the
//! rest on Linux.

use std::time::{Duration, SystemTime};

use opamp_proto::v1::KeyValue;

use super::otlp::{CUMULATIVE, Gauge, Metric, Point, Sum};
use super::work::unix_nanos;

/// What the kernel counts processor time in, for programs on every architecture: 10 ms.
const TICK: f64 = 0.01;

/// The metrics of this process, which started then, as of now.
pub(super) fn metrics(started: SystemTime, now: SystemTime) -> Vec<Metric> {
    let at = |value: Value| Point {
        start_time_unix_nano: unix_nanos(started),
        time_unix_nano: unix_nanos(now),
        as_double: value.double(),
        as_int: value.int(),
        attributes: Vec::new(),
    };
    let uptime = now.duration_since(started).unwrap_or(Duration::ZERO).as_secs_f64();
    let mut metrics = vec![Metric {
        name: "process.uptime".to_owned(),
        unit: "s".to_owned(),
        gauge: Some(Gauge { data_points: vec![at(Value::Double(uptime))] }),
        sum: None,
    }];
    if let Some([user, system]) = read("/proc/self/stat").as_deref().and_then(processor_time) {
        let mode = |name: &str, seconds: f64| Point {
            attributes: vec![KeyValue::new("cpu.mode", name)],
            ..at(Value::Double(seconds))
        };
        let points = vec![mode("user", user), mode("system", system)];
        metrics.push(sum("process.cpu.time", "s", true, points));
    }
    let status = read("/proc/self/status").unwrap_or_default();
    for (field, name, unit, factor) in [
        ("VmRSS", "process.memory.usage", "By", 1024),
        ("VmSize", "process.memory.virtual", "By", 1024),
        ("Threads", "process.thread.count", "{thread}", 1),
    ] {
        if let Some(value) = number(&status, field) {
            let points = vec![at(Value::Int(value.saturating_mul(factor)))];
            metrics.push(sum(name, unit, false, points));
        }
    }
    metrics
}

#[derive(Clone, Copy)]
enum Value {
    Double(f64),
    Int(i64),
}

impl Value {
    fn double(self) -> Option<f64> {
        match self {
            Self::Double(value) => Some(value),
            Self::Int(_) => None,
        }
    }

    fn int(self) -> Option<i64> {
        match self {
            Self::Int(value) => Some(value),
            Self::Double(_) => None,
        }
    }
}

fn sum(name: &str, unit: &str, is_monotonic: bool, data_points: Vec<Point>) -> Metric {
    let sum = Sum { data_points, aggregation_temporality: CUMULATIVE, is_monotonic };
    Metric { name: name.to_owned(), unit: unit.to_owned(), gauge: None, sum: Some(sum) }
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// Seconds in user mode and in the kernel: the 14th and 15th field, counted from behind the name,
/// which may contain anything.
fn processor_time(stat: &str) -> Option<[f64; 2]> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut seconds = || Some(fields.next()?.parse::<f64>().ok()? * TICK);
    Some([seconds()?, seconds()?])
}

/// The number in a line such as `VmRSS:  1234 kB`.
fn number(status: &str, field: &str) -> Option<i64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_read() {
        let stat = "42 (odd) name) S 1 2 3 4 5 6 7 8 9 10 250 31 0 0 20 0";
        assert_eq!(processor_time(stat), Some([2.5, 0.31]));
        assert_eq!(processor_time("42 (short) S"), None);
        let status = "Name:\tVmRSS\nVmRSS:\t  1234 kB\nThreads:\t7\n";
        assert_eq!(number(status, "VmRSS"), Some(1234));
        assert_eq!(number(status, "Threads"), Some(7));
        assert_eq!(number(status, "VmSize"), None);
    }

    #[test]
    fn there_are_metrics_of_this_process() {
        let _judged = opamp_spec::judges(&["TEL-10", "TEL-11"]);
        let now = SystemTime::now();
        let metrics = metrics(now - Duration::from_secs(3), now);
        let names: Vec<_> = metrics.iter().map(|metric| metric.name.as_str()).collect();
        assert!(names.contains(&"process.uptime"), "{names:?}");
        if cfg!(target_os = "linux") {
            assert_eq!(names.len(), 5, "{names:?}");
        }
    }
}
