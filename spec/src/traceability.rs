//! The report "requirement → tests and cases → result", made from what was executed.
//!
//! There are two kinds of evidence: the [records](crate::records) that tests left, and the reports
//! of the conformance tester on the example programs. A row that binds both ends needs evidence for
//! each, in which that end has a part: tests of what both share are enough for the encoding alone.
//! What has none needs a line in `reasons.csv`, with a [`Reason`] from a closed list; a line for
//! what has evidence is out of date, and as much of a [problem](Traceability::problems) as a
//! missing one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::Deserialize;

use crate::{Outcome, Record, Requirement, requirement, requirements};

/// One of the two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The Agent's end.
    Client,
    /// The Server's end.
    Server,
}

impl Side {
    /// Both ends.
    pub const ALL: [Self; 2] = [Self::Client, Self::Server];

    const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }

    fn is_bound_by(self, row: &Requirement) -> bool {
        row.party == self.name() || row.party == "both"
    }
}

/// Why nothing that is executed judges a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Advice to those who run or build upon an end, which the end itself cannot keep.
    Advice,
    /// It is decided by the application that embeds the crate.
    Application,
    /// It is about another party than the ends, such as a telemetry backend or a proxy.
    ThirdParty,
    /// It allows something that this family does not do.
    NotDone,
    /// It is about something that this family does not have, such as an extension of WebSocket.
    Absent,
    /// It defines a term or leaves a choice, and nothing an end does could contradict it.
    Definition,
    /// It binds the Supervisor or the Collector.
    Supervisor,
}

/// A line of `reasons.csv`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Excuse {
    id: String,
    side: Side,
    reason: Reason,
    why: String,
}

/// A report of the conformance tester, as far as it matters here.
#[derive(Debug, Clone, Deserialize)]
pub struct CaseReport {
    cases: Vec<CaseResult>,
}

#[derive(Debug, Clone, Deserialize)]
struct CaseResult {
    case: String,
    findings: Vec<Finding>,
}

#[derive(Debug, Clone, Deserialize)]
struct Finding {
    row: String,
    verdict: String,
}

/// What judged a row at one end.
#[derive(Debug, Default, Clone)]
struct Evidence {
    /// Names of tests that passed, by source file.
    tests: BTreeMap<String, BTreeSet<String>>,
    /// Cases that passed.
    cases: BTreeSet<String>,
}

impl Evidence {
    fn is_empty(&self) -> bool {
        self.tests.is_empty() && self.cases.is_empty()
    }

    /// Whether there is more than tests of what both ends share.
    fn involves_an_end(&self) -> bool {
        !self.cases.is_empty() || self.tests.keys().any(|file| !file.starts_with("opamp-proto/"))
    }
}

/// The report.
#[derive(Debug)]
pub struct Traceability {
    evidence: BTreeMap<(&'static str, Side), Evidence>,
    excuses: BTreeMap<(&'static str, Side), Excuse>,
    problems: Vec<String>,
}

impl Traceability {
    /// Makes the report of what tests left and of what the tester said of each end.
    #[must_use]
    pub fn new(records: &[Record], cases: &[(Side, CaseReport)]) -> Self {
        let mut made =
            Self { evidence: BTreeMap::new(), excuses: BTreeMap::new(), problems: Vec::new() };
        for record in records {
            made.add_record(record);
        }
        for (side, report) in cases {
            made.add_cases(*side, report);
        }
        made.evidence
            .retain(|(id, _), evidence| OF_THE_ENCODING.contains(id) || evidence.involves_an_end());
        made.add_excuses(include_str!("../reasons.csv"));
        made.check();
        made
    }

    /// What is wrong with the coverage: rows without a judge or a reason, failures, stale reasons.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    fn add_record(&mut self, record: &Record) {
        let sides = sides_of(&record.file);
        for id in &record.ids {
            let Some(row) = requirement(id) else {
                self.problems.push(format!("{}: there is no row {id}", record.test));
                continue;
            };
            if record.outcome == Outcome::Failed {
                self.problems.push(format!("{id}: {} in {} failed", record.test, record.file));
                continue;
            }
            for &side in sides.iter().filter(|side| side.is_bound_by(row)) {
                let evidence = self.evidence.entry((row.id.as_str(), side)).or_default();
                let tests = evidence.tests.entry(record.file.clone()).or_default();
                tests.insert(record.test.clone());
            }
        }
    }

    fn add_cases(&mut self, side: Side, report: &CaseReport) {
        for case in &report.cases {
            for finding in &case.findings {
                let Some(row) = requirement(&finding.row) else {
                    self.problems.push(format!("{}: there is no row {}", case.case, finding.row));
                    continue;
                };
                match finding.verdict.as_str() {
                    "pass" if side.is_bound_by(row) => {
                        let evidence = self.evidence.entry((row.id.as_str(), side)).or_default();
                        evidence.cases.insert(case.case.clone());
                    }
                    "fail" | "error" => {
                        let problem = format!("{}: case {} is missed", finding.row, case.case);
                        self.problems.push(problem);
                    }
                    _ => {}
                }
            }
        }
    }

    fn add_excuses(&mut self, csv: &str) {
        for excuse in csv::Reader::from_reader(csv.as_bytes()).into_deserialize::<Excuse>() {
            match excuse {
                Err(error) => self.problems.push(format!("spec/reasons.csv: {error}")),
                Ok(excuse) => match requirement(&excuse.id) {
                    None => {
                        self.problems.push(format!("reasons.csv: there is no row {}", excuse.id))
                    }
                    Some(row) => {
                        self.excuses.insert((row.id.as_str(), excuse.side), excuse);
                    }
                },
            }
        }
    }

    fn check(&mut self) {
        for (row, side) in bound() {
            let key = (row.id.as_str(), side);
            let judged = self.evidence.get(&key).is_some_and(|evidence| !evidence.is_empty());
            let side = side.name();
            match (judged, self.excuses.contains_key(&key)) {
                (false, false) => self.problems.push(format!(
                    "{} ({side}): judged by nothing, and spec/reasons.csv does not say why",
                    row.id
                )),
                (true, true) => self.problems.push(format!(
                    "{} ({side}): spec/reasons.csv says why nothing judges it, but something does",
                    row.id
                )),
                _ => {}
            }
        }
    }

    /// The report as a page of Markdown.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let mut page = String::from(HEAD);
        let mut totals = [Tally::default(); 2];
        let mut topics: BTreeMap<&str, [Tally; 2]> = BTreeMap::new();
        for (row, side) in bound() {
            let key = (row.id.as_str(), side);
            let of_topic = &mut topics.entry(topic(row)).or_default()[side as usize];
            for tally in [of_topic, &mut totals[side as usize]] {
                tally.add(self.evidence.get(&key));
            }
        }
        for side in Side::ALL {
            let _ = write!(page, "\n| {} {COLUMNS}", side.name());
            for (topic, tallies) in &topics {
                tallies[side as usize].line(topic, &mut page);
            }
            totals[side as usize].line("**all**", &mut page);
        }
        page.push_str("\n## Row by row\n");
        let mut last = "";
        for (row, side) in bound() {
            if std::mem::replace(&mut last, topic(row)) != topic(row) {
                let _ = write!(page, "\n### {}\n\n{TABLE}", topic(row));
            }
            self.line(row, side, &mut page);
        }
        page
    }

    fn line(&self, row: &Requirement, side: Side, page: &mut String) {
        let key = (row.id.as_str(), side);
        let (mut tests, mut cases) = (String::new(), String::new());
        match (self.evidence.get(&key), self.excuses.get(&key)) {
            (Some(evidence), _) => {
                for (file, names) in &evidence.tests {
                    let comma = if tests.is_empty() { "" } else { ", " };
                    let _ = write!(tests, "{comma}[{file}](../{file})");
                    if names.len() > 1 {
                        let _ = write!(tests, " ({})", names.len());
                    }
                }
                cases = { evidence.cases.iter().map(|case| format!("`{case}`")) }
                    .collect::<Vec<_>>()
                    .join(", ");
            }
            (None, Some(excuse)) => tests = format!("*{}*", excuse.why),
            (None, None) => tests.push_str("**nothing**"),
        }
        let Requirement { id, level, .. } = row;
        let _ = writeln!(page, "| {id} | {} | {level} | {tests} | {cases} |", side.name());
    }
}

const HEAD: &str = "# What judges each requirement

Made by `cargo run -p opamp-spec --bin trace-requirements` from tests and conformance cases that were executed; do not edit.
Rows are those of [`requirements.csv`](requirements.csv); a row that binds both ends is listed for each. Why nothing judges
a row is said in italics, from [`reasons.csv`](reasons.csv).
";

const COLUMNS: &str = "| rows | by tests | by cases | by either | with a reason |
| --- | --: | --: | --: | --: | --: |
";

const TABLE: &str = "| row | end | level | tests | cases |\n| --- | --- | --- | --- | --- |\n";

#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    rows: usize,
    by_tests: usize,
    by_cases: usize,
    judged: usize,
}

impl Tally {
    fn add(&mut self, evidence: Option<&Evidence>) {
        self.rows += 1;
        let Some(evidence) = evidence else { return };
        self.by_tests += usize::from(!evidence.tests.is_empty());
        self.by_cases += usize::from(!evidence.cases.is_empty());
        self.judged += usize::from(!evidence.is_empty());
    }

    fn line(self, name: &str, page: &mut String) {
        let Self { rows, by_tests, by_cases, judged } = self;
        if rows > 0 {
            let excused = rows - judged;
            let _ = writeln!(
                page,
                "| {name} | {rows} | {by_tests} | {by_cases} | {judged} | {excused} |"
            );
        }
    }
}

/// The rows with each end they bind.
fn bound() -> impl Iterator<Item = (&'static Requirement, Side)> {
    requirements().iter().flat_map(|row| {
        Side::ALL.into_iter().filter(|side| side.is_bound_by(row)).map(move |side| (row, side))
    })
}

fn topic(row: &Requirement) -> &str {
    row.id.split_once('-').map_or(row.id.as_str(), |(topic, _)| topic)
}

/// Rows about the encoding alone, which `opamp-proto` decides for both ends: its tests are enough.
/// In any other row they count beside evidence in which the end itself has a part, and not alone.
const OF_THE_ENCODING: [&str; 3] = ["CFG-11", "COMP-14", "INTEROP-10"];

/// Whose behaviour the tests in a file judge. Those of the tester judge the tester.
fn sides_of(file: &str) -> &'static [Side] {
    let is_below = |folders: &[&str]| folders.iter().any(|folder| file.starts_with(folder));
    if is_below(&["opamp-client/", "examples/src/agent/"]) {
        &[Side::Client]
    } else if is_below(&["opamp-server/", "examples/src/server/"]) {
        &[Side::Server]
    } else if is_below(&["opamp-conformance/", "spec/"]) {
        &[]
    } else {
        &Side::ALL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(file: &str, id: &str, outcome: Outcome) -> Record {
        Record {
            binary: String::new(),
            file: file.to_owned(),
            test: "a_test".to_owned(),
            ids: vec![id.to_owned()],
            outcome,
        }
    }

    fn has(made: &Traceability, start: &str) -> bool {
        made.problems().iter().any(|problem| problem.starts_with(start))
    }

    #[test]
    fn a_row_for_both_needs_evidence_for_each() {
        // ID-01 binds both ends.
        assert_eq!(requirement("ID-01").unwrap().party, "both");
        let of_one = [record("opamp-client/src/a.rs", "ID-01", Outcome::Passed)];
        let made = Traceability::new(&of_one, &[]);
        assert!(has(&made, "ID-01 (server): judged by nothing"));
        assert!(!has(&made, "ID-01 (client)"));
        let of_both = [record("tests/tests/a.rs", "ID-01", Outcome::Passed)];
        assert!(!has(&Traceability::new(&of_both, &[]), "ID-01"));
    }

    #[test]
    fn a_failure_is_a_problem_and_no_evidence() {
        let failed = [record("tests/tests/a.rs", "ID-01", Outcome::Failed)];
        let made = Traceability::new(&failed, &[]);
        assert!(has(&made, "ID-01: a_test in tests/tests/a.rs failed"));
        assert!(has(&made, "ID-01 (server): judged by nothing"));
    }

    #[test]
    fn a_case_that_passed_is_evidence_for_its_end() {
        let json = r#"{"cases":[{"case":"server/a","findings":[
            {"row":"ID-01","verdict":"pass"},{"row":"SEQ-03","verdict":"fail"}]}]}"#;
        let report = serde_json::from_str(json).unwrap();
        let made = Traceability::new(&[], &[(Side::Server, report)]);
        assert!(!has(&made, "ID-01 (server)"));
        assert!(has(&made, "ID-01 (client): judged by nothing"));
        assert!(has(&made, "SEQ-03: case server/a is missed"));
        assert!(made.to_markdown().contains("`server/a`"));
    }

    #[test]
    fn a_reason_for_what_is_judged_is_out_of_date() {
        // Advice, which is in the file of reasons.
        let judged = [record("opamp-client/src/a.rs", "SEC-02", Outcome::Passed)];
        assert!(has(&Traceability::new(&judged, &[]), "SEC-02 (client): spec/reasons.csv says"));
        assert!(!has(&Traceability::new(&[], &[]), "SEC-02"));
    }

    #[test]
    fn tests_of_what_both_ends_share_are_enough_for_the_encoding_alone() {
        let made = |files: &[&str], id| {
            let records = files.iter().map(|file| record(file, id, Outcome::Passed));
            Traceability::new(&records.collect::<Vec<_>>(), &[])
        };
        let of_both = "opamp-proto/src/a.rs";
        for side in ["client", "server"] {
            let missed = format!("ID-01 ({side}): judged by nothing");
            assert!(has(&made(&[of_both], "ID-01"), &missed));
            let its_own = format!("opamp-{side}/src/a.rs");
            let page = made(&[of_both, &its_own], "ID-01").to_markdown();
            assert!(page.contains(&format!("| ID-01 | {side} | ")) && page.contains(of_both));
        }
        for id in OF_THE_ENCODING {
            assert!(!has(&made(&[of_both], id), id), "{id}");
            assert!(requirement(id).is_some(), "{id}");
        }
    }

    #[test]
    fn each_example_program_is_one_end() {
        let of_the_server = [record("examples/src/server/a.rs", "ID-01", Outcome::Passed)];
        let made = Traceability::new(&of_the_server, &[]);
        assert!(has(&made, "ID-01 (client): judged by nothing"));
        assert!(!has(&made, "ID-01 (server)"));
    }

    #[test]
    fn the_testers_own_tests_judge_neither_end() {
        let of_the_tester = [record("opamp-conformance/src/a.rs", "ID-01", Outcome::Passed)];
        assert!(has(&Traceability::new(&of_the_tester, &[]), "ID-01 (server): judged by nothing"));
    }
}
