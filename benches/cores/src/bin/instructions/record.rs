//! The figures that were accepted, and what became of them.

use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

/// By which part instructions may grow before it counts. The same program counts alike within 0.5 %, and
/// within 2 % where much is allocated.
const TOLERANCE: f64 = 0.05;

/// What an operation takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Count {
    pub(crate) instructions: f64,
    pub(crate) allocations: f64,
}

/// Figures, and what they depend on.
pub(crate) struct Record {
    pub(crate) conditions: String,
    pub(crate) counts: Vec<(String, Count)>,
}

/// What became of the figures as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    Same,
    Shrunk,
    /// Or there was none.
    Grown,
}

const HEADER: &str = "operation,instructions,allocations";

impl Record {
    pub(crate) fn read(file: &Path) -> Result<Option<Self>, String> {
        match fs::read_to_string(file) {
            Ok(text) => Self::parse(&text)
                .map(Some)
                .ok_or_else(|| format!("{}: it is damaged; --accept writes it", file.display())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("{}: {error}", file.display())),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let conditions = lines.next()?.strip_prefix("# ")?.to_owned();
        if lines.next() != Some(HEADER) {
            return None;
        }
        let parse = |line: &str| {
            // Names may have commas, figures have none.
            let (rest, allocations) = line.rsplit_once(',')?;
            let (name, instructions) = rest.rsplit_once(',')?;
            let count = Count {
                instructions: instructions.parse().ok()?,
                allocations: allocations.parse().ok()?,
            };
            Some((name.trim_matches('"').to_owned(), count))
        };
        let counts = lines.map(parse).collect::<Option<_>>()?;
        Some(Self { conditions, counts })
    }

    fn text(&self) -> String {
        let mut text = format!("# {}\n{HEADER}\n", self.conditions);
        for (name, Count { instructions, allocations }) in &self.counts {
            // Writing to a text does not fail.
            let _ = writeln!(text, "\"{name}\",{instructions:.0},{}", number(*allocations));
        }
        text
    }

    pub(crate) fn write(&self, file: &Path) -> Result<(), String> {
        fs::write(file, self.text()).map_err(|error| format!("{}: {error}", file.display()))
    }

    fn count(&self, name: &str) -> Option<Count> {
        self.counts.iter().find(|(known, _)| known == name).map(|(_, count)| *count)
    }
}

/// Two digits behind the point where they say something.
fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A table of the figures, and what became of them.
pub(crate) fn compare(now: &Record, before: Option<&Record>) -> (String, Verdict) {
    let mut verdict = Verdict::Same;
    let mut table = format!(
        "{:<58} {:>12} {:>10} {:>12}\n",
        "operation", "instructions", "change", "allocations"
    );
    for (name, count) in &now.counts {
        let known = before.and_then(|before| before.count(name));
        let judged = judge(*count, known);
        verdict = verdict.max(judged);
        let change = known.map_or_else(
            || "new".to_owned(),
            |known| format!("{:+.1} %", 100.0 * (count.instructions / known.instructions - 1.0)),
        );
        let mark = if judged == Verdict::Grown { "  <-" } else { "" };
        let mut allocations = number(count.allocations);
        if let Some(known) = known.filter(|known| !same(known.allocations, count.allocations)) {
            allocations = format!("{} -> {allocations}", number(known.allocations));
        }
        // Writing to a text does not fail.
        let _ = writeln!(
            table,
            "{name:<58} {:>12.0} {change:>10} {allocations:>12}{mark}",
            count.instructions
        );
    }
    (table, verdict)
}

/// What is lost when it is written down.
fn same(one: f64, other: f64) -> bool {
    (one - other).abs() < 0.01
}

fn judge(now: Count, before: Option<Count>) -> Verdict {
    let Some(before) = before else { return Verdict::Grown };
    let ratio = now.instructions / before.instructions;
    let same = same(now.allocations, before.allocations);
    if ratio > 1.0 + TOLERANCE || (!same && now.allocations > before.allocations) {
        Verdict::Grown
    } else if ratio < 1.0 - TOLERANCE || !same {
        Verdict::Shrunk
    } else {
        Verdict::Same
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(instructions: f64, allocations: f64) -> Count {
        Count { instructions, allocations }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let counts = vec![
            ("server: a heartbeat, answered".to_owned(), count(1234.0, 0.0)),
            ("fleet: sweep".to_owned(), count(56_789.0, 1.25)),
        ];
        let record = Record { conditions: "rustc, valgrind".to_owned(), counts };
        let read = Record::parse(&record.text()).expect("it can be read");
        assert_eq!((read.conditions, read.counts), (record.conditions, record.counts));
        assert!(Record::parse("").is_none());
        assert!(Record::parse(&format!("# x\n{HEADER}\nname,much,1\n")).is_none());
    }

    #[test]
    fn more_than_the_tolerance_is_growth_and_so_is_any_allocation() {
        let before = Some(count(1000.0, 2.0));
        assert_eq!(judge(count(1049.0, 2.0), before), Verdict::Same);
        assert_eq!(judge(count(1051.0, 2.0), before), Verdict::Grown);
        assert_eq!(judge(count(949.0, 2.0), before), Verdict::Shrunk);
        assert_eq!(judge(count(1000.0, 2.02), before), Verdict::Grown);
        assert_eq!(judge(count(1000.0, 1.0), before), Verdict::Shrunk);
        assert_eq!(judge(count(900.0, 3.0), before), Verdict::Grown);
        assert_eq!(judge(count(1000.0, 2.0), None), Verdict::Grown);
    }

    #[test]
    fn one_figure_that_grew_is_enough() {
        let record = |figures: [f64; 2]| Record {
            conditions: String::new(),
            counts: vec![
                ("one".to_owned(), count(figures[0], 0.0)),
                ("two".to_owned(), count(figures[1], 0.0)),
            ],
        };
        let before = record([100.0, 100.0]);
        let verdict = |figures| compare(&record(figures), Some(&before)).1;
        assert_eq!(verdict([100.0, 100.0]), Verdict::Same);
        assert_eq!(verdict([100.0, 50.0]), Verdict::Shrunk);
        assert_eq!(verdict([110.0, 50.0]), Verdict::Grown);
    }
}
