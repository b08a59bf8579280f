//! What a case says about the requirements it judges.

use std::collections::BTreeMap;

use opamp_spec::requirement;

use crate::log::{Entry, Log};
use crate::verdict::{Finding, Verdict};

/// Why a case ends before its end. What it has not judged by then is not judged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// The subject did not get the conversation to where the case begins.
    #[error("the subject does not get this far: {0}")]
    Unreached(String),
    /// Something the user has to supply is missing: a hook, a placeholder, a setting.
    #[error("needs {0}")]
    Missing(String),
    /// The case does not concern this subject.
    #[error("{0}")]
    NotApplicable(String),
    /// The tester itself cannot go on.
    #[error("the tester cannot go on: {0}")]
    Harness(String),
}

/// Collects the findings of one case.
#[derive(Debug)]
pub struct Judge {
    rows: &'static [&'static str],
    log: Log,
    findings: BTreeMap<&'static str, Finding>,
}

impl Judge {
    /// For a case that judges these rows of the catalogue.
    #[must_use]
    pub fn new(rows: &'static [&'static str], log: Log) -> Self {
        Self { rows, log, findings: BTreeMap::new() }
    }

    /// Judges a requirement: whether what is `expected` was seen, and what was. Gives `holds` back.
    /// Judged several times, the worst stands.
    ///
    /// A row the case does not declare to judge is a mistake in the case and becomes a harness
    /// error.
    pub fn expect(
        &mut self,
        row: &str,
        holds: bool,
        expected: impl Into<String>,
        actual: impl Into<String>,
    ) -> bool {
        let verdict = match requirement(row) {
            _ if holds => Verdict::Pass,
            Some(requirement) => Verdict::of_miss(requirement),
            None => Verdict::HarnessError,
        };
        let noted = !holds && verdict == Verdict::Pass;
        self.find(row, verdict, noted, expected.into(), actual.into());
        holds
    }

    /// Shows an event of another case in the transcript of this one, if it is worth it; for
    /// observers, before they judge it.
    pub fn quote(&mut self, entry: &Entry, is_worth_it: bool) {
        if is_worth_it {
            self.log.quote(entry);
        }
    }

    /// Records what was seen about a requirement that leaves the choice to the subject.
    pub fn note(&mut self, row: &str, seen: impl Into<String>) {
        self.find(row, Verdict::Pass, false, "either is conformant".to_owned(), seen.into());
    }

    /// Says that a requirement does not concern this subject, and why.
    pub fn not_applicable(&mut self, row: &str, why: impl Into<String>) {
        self.find(row, Verdict::NotApplicable, false, String::new(), why.into());
    }

    /// Says that a requirement could not be seen, and why.
    pub fn untestable(&mut self, row: &str, why: impl Into<String>) {
        self.find(row, Verdict::Untestable, false, String::new(), why.into());
    }

    fn find(&mut self, row: &str, verdict: Verdict, noted: bool, expected: String, actual: String) {
        let Some(known) = self.rows.iter().find(|known| **known == row) else {
            self.log.remark(format!("the case judges {row} without declaring it"));
            if let Some(first) = self.rows.first() {
                let actual = format!("the case judges {row} without declaring it");
                let finding = finding(first, Verdict::HarnessError, String::new(), actual);
                self.findings.insert(first, finding);
            }
            return;
        };
        let worse = |old: &Finding| (verdict, noted) > (old.verdict, old.noted);
        if self.findings.get(known).is_none_or(worse) {
            let entry = self.log.len().checked_sub(1);
            let mut finding = finding(known, verdict, expected, actual);
            (finding.entry, finding.noted) = (entry, noted);
            self.findings.insert(known, finding);
        }
    }

    /// What was found about each declared row, in their order. `stopped` says why the case ended
    /// early, if it did.
    #[must_use]
    pub fn into_findings(mut self, stopped: Option<&Stop>) -> Vec<Finding> {
        let rows = self.rows;
        rows.iter()
            .map(|row| {
                self.findings.remove(row).unwrap_or_else(|| {
                    let (verdict, why) = match stopped {
                        Some(Stop::NotApplicable(_)) => (Verdict::NotApplicable, stopped),
                        Some(Stop::Harness(_)) => (Verdict::HarnessError, stopped),
                        _ => (Verdict::Untestable, stopped),
                    };
                    let why = why.map_or_else(
                        || "nothing was seen that it could be judged by".to_owned(),
                        ToString::to_string,
                    );
                    finding(row, verdict, String::new(), why)
                })
            })
            .collect()
    }
}

fn finding(row: &str, verdict: Verdict, expected: String, actual: String) -> Finding {
    Finding { row: row.to_owned(), verdict, noted: false, expected, actual, entry: None }
}
