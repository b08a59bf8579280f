//! Known failures: a YAML file that says which misses of a subject are known, and why. A known miss
//! does not set the exit status; an entry for what passes is stale and does, so that the file only
//! ever gets shorter by being right.
//!
//! ```yaml
//! - case: server/sequence/gap@http   # without a transport: over each one it runs over
//!   rows: [SEQ-03, SEQ-04]
//!   reason: state is kept per connection only; see issue 12
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Deserialize;

use crate::case::{Case, cases};
use crate::report::{CaseResult, Report, Side, Transport};
use crate::verdict::Verdict;

/// The known failures of one subject.
#[derive(Debug, Clone, Default)]
pub struct Baseline {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    case: String,
    rows: Vec<String>,
    #[serde(default)]
    reason: String,
}

/// Why some text is no baseline.
#[derive(Debug, thiserror::Error)]
pub enum BaselineError {
    /// It is not YAML of this form.
    #[error("{0}")]
    Malformed(#[from] yaml_serde::Error),
    /// An entry says something that cannot be.
    #[error("the entry for {entry}: {why}")]
    Entry {
        /// What it is for.
        entry: String,
        /// What is wrong with it.
        why: String,
    },
}

impl Baseline {
    /// Reads the baseline of a subject of this side.
    ///
    /// # Errors
    ///
    /// When it is malformed, names a case or a row that does not exist, or gives no reason.
    pub fn parse(text: &str, side: Side) -> Result<Self, BaselineError> {
        let entries: Option<Vec<Entry>> = yaml_serde::from_str(text)?;
        let entries = entries.unwrap_or_default();
        let all = cases(side);
        for entry in &entries {
            entry
                .check(&all)
                .map_err(|why| BaselineError::Entry { entry: entry.case.clone(), why })?;
        }
        Ok(Self { entries })
    }

    /// Marks the misses it knows with their reasons, and gives what is stale.
    pub fn apply(&self, result: &mut CaseResult) -> Vec<String> {
        let mut stale = Vec::new();
        for entry in &self.entries {
            if !entry.covers(result) {
                continue;
            }
            for finding in result.findings.iter().filter(|f| entry.rows.contains(&f.row)) {
                if finding.verdict.is_miss() {
                    result.known.insert(finding.row.clone(), entry.reason.clone());
                } else if finding.verdict == Verdict::Pass {
                    stale.push(format!("{} {}", result.title(), finding.row));
                }
            }
        }
        stale
    }

    /// A baseline of the misses that count in a report, with its known reasons, and empty ones to
    /// be filled in.
    #[must_use]
    pub fn write(report: &Report) -> String {
        let mut misses: BTreeMap<(&str, &str), Vec<Option<Transport>>> = BTreeMap::new();
        let mut reasons: BTreeMap<(&str, &str), &str> = BTreeMap::new();
        for case in &report.cases {
            for finding in case.findings.iter().filter(|finding| finding.verdict.is_miss()) {
                let known = case.known.get(&finding.row);
                if known.is_some() || report.counts(case, finding) {
                    let key = (case.case.as_str(), finding.row.as_str());
                    misses.entry(key).or_default().push(case.transport);
                    if let Some(reason) = known {
                        reasons.insert(key, reason);
                    }
                }
            }
        }
        let all = cases(report.subject.side);
        let mut entries: BTreeMap<(String, &str), Vec<&str>> = BTreeMap::new();
        for ((case, row), transports) in misses {
            let reason = reasons.get(&(case, row)).copied().unwrap_or_default();
            let known = all.iter().find(|known| known.name == case);
            let everywhere = known.is_none_or(|known| known.transports.len() <= transports.len());
            for transport in transports {
                let name = match transport {
                    Some(transport) if !everywhere => format!("{case}@{}", transport.name()),
                    _ => case.to_owned(),
                };
                let rows = entries.entry((name, reason)).or_default();
                if !rows.contains(&row) {
                    rows.push(row);
                }
            }
        }
        let mut text = format!(
            "# Known failures of {}. Each entry needs a reason.\n",
            report.subject.title().replace(char::is_control, " ")
        );
        if entries.is_empty() {
            text.push_str("[]\n");
        }
        for ((name, reason), rows) in entries {
            // JSON strings are YAML strings. Writing to a string does not fail.
            let reason = serde_json::Value::from(reason);
            let rows = rows.join(", ");
            let _ = writeln!(text, "- case: {name}\n  rows: [{rows}]\n  reason: {reason}");
        }
        text
    }
}

impl Entry {
    fn name_and_transport(&self) -> (&str, Option<&str>) {
        match self.case.split_once('@') {
            Some((name, transport)) => (name, Some(transport)),
            None => (&self.case, None),
        }
    }

    fn covers(&self, result: &CaseResult) -> bool {
        let (name, transport) = self.name_and_transport();
        name == result.case
            && transport.is_none_or(|name| result.transport.is_some_and(|t| t.name() == name))
    }

    fn check(&self, all: &[&'static Case]) -> Result<(), String> {
        let (name, transport) = self.name_and_transport();
        let case = all.iter().find(|case| case.name == name);
        let case = case.ok_or_else(|| "there is no such case for this side".to_owned())?;
        if let Some(transport) = transport
            && !case.transports.iter().any(|known| known.name() == transport)
        {
            return Err(format!("the case does not run over {transport:?}"));
        }
        if self.rows.is_empty() {
            return Err("it names no rows".to_owned());
        }
        if let Some(row) = self.rows.iter().find(|row| !case.judges.contains(&row.as_str())) {
            return Err(format!("the case does not judge {row}"));
        }
        if self.reason.trim().is_empty() {
            return Err("it gives no reason".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Finding;

    fn result(transport: Transport, verdicts: &[(&str, Verdict)]) -> CaseResult {
        let finding = |(row, verdict): &(&str, Verdict)| Finding {
            row: (*row).to_owned(),
            verdict: *verdict,
            noted: false,
            expected: String::new(),
            actual: String::new(),
            entry: None,
        };
        CaseResult {
            case: "server/sequence/gap".to_owned(),
            transport: Some(transport),
            does: String::new(),
            expects: String::new(),
            verdict: Verdict::Fail,
            stopped: None,
            findings: verdicts.iter().map(finding).collect(),
            known: BTreeMap::new(),
            duration_ms: 0,
            transcript: Vec::new(),
        }
    }

    fn parse(text: &str) -> Result<Baseline, BaselineError> {
        Baseline::parse(text, Side::Server)
    }

    #[test]
    fn a_miss_is_known_a_pass_is_stale_and_what_was_not_judged_stays() {
        let baseline = parse(
            "- {case: server/sequence/gap, rows: [SEQ-03, SEQ-04], reason: later}\n\
             - {case: server/sequence/gap@http, rows: [SEQ-05], reason: never}\n",
        );
        let mut results = [
            result(
                Transport::WebSocket,
                &[("SEQ-03", Verdict::Fail), ("SEQ-04", Verdict::Pass), ("SEQ-05", Verdict::Fail)],
            ),
            result(
                Transport::Http,
                &[("SEQ-03", Verdict::Untestable), ("SEQ-05", Verdict::NonStrict)],
            ),
        ];
        let baseline = baseline.unwrap();
        let stale: Vec<_> = results.iter_mut().flat_map(|r| baseline.apply(r)).collect();
        assert_eq!(stale, ["server/sequence/gap (websocket) SEQ-04"]);
        assert_eq!(results[0].known, BTreeMap::from([("SEQ-03".into(), "later".into())]));
        assert_eq!(results[1].known, BTreeMap::from([("SEQ-05".into(), "never".into())]));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let wrong = |text: &str| parse(text).unwrap_err().to_string();
        assert!(wrong("- {case: server/no/such, rows: [SEQ-03], reason: r}").contains("no such"));
        let entry = |rest: &str| wrong(&format!("- {{case: server/sequence/gap{rest}}}"));
        assert!(entry("@http, rows: [SEQ-03]").contains("no reason"));
        assert!(entry("@http, rows: [SEQ-03], reason: ' '").contains("no reason"));
        assert!(entry("@udp, rows: [SEQ-03], reason: r").contains("does not run over"));
        assert!(entry(", rows: [CFG-01], reason: r").contains("does not judge CFG-01"));
        assert!(entry(", rows: [], reason: r").contains("no rows"));
        assert!(entry(", rows: [SEQ-03], reason: r, extra: 1").contains("unknown field"));
        assert!(parse("").unwrap().entries.is_empty());
        assert!(parse("# nothing\n[]\n").unwrap().entries.is_empty());
    }
}
