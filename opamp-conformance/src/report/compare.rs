//! What changed from one report to another, by requirement and by case: for a gate that lets a
//! subject get better but not worse, and for a look at what a new version brought.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::text::{one_line, wrapped};
use super::{CaseResult, Report, Subject, Transport};
use crate::verdict::Verdict;

/// Columns the text is laid out for.
const WIDTH: usize = 100;

/// What changed from one report to another. Its [`Display`](fmt::Display) is for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison {
    /// The first run.
    pub before: Run,
    /// The second run.
    pub after: Run,
    /// What makes the two less comparable, such as another release of the specification.
    pub remarks: Vec<String>,
    /// Requirements that changed.
    pub requirements: Vec<Change>,
    /// Cases that changed.
    pub cases: Vec<Change>,
}

/// Which run a report is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// What was tested.
    pub subject: Subject,
    /// The release of the specification it was held to.
    pub spec: String,
    /// Version of the tester.
    pub tester: String,
    /// When the run started.
    pub started: String,
}

/// How one requirement or one case changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What kind of change it is.
    pub kind: Kind,
    /// Id of the requirement, or name of the case.
    pub what: String,
    /// The case's transport.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<Transport>,
    /// The verdict before; `None` where there was none.
    pub before: Option<Verdict>,
    /// The verdict after; `None` where there is none.
    pub after: Option<Verdict>,
    /// For a case in both runs: the requirements whose verdicts changed in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requirements: Vec<String>,
}

/// A kind of change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Missed, and not missed before, or only as a recommendation. What could not be judged before
    /// and is missed now is counted here too, as a gate had better not let it pass.
    Regressed,
    /// Missed before, and passes now or is missed only as a recommendation.
    Fixed,
    /// Not in the first report, whatever it comes to.
    New,
    /// No longer in the second report.
    Gone,
    /// Changed otherwise, for example from passed to untestable.
    Other,
}

impl Kind {
    /// All of them, in the order they are reported.
    pub const ALL: [Self; 5] = [Self::Regressed, Self::Fixed, Self::New, Self::Gone, Self::Other];

    fn of(before: Option<Verdict>, after: Option<Verdict>) -> Option<Self> {
        let (Some(old), Some(new)) = (before, after) else {
            return match (before, after) {
                (None, None) => None,
                (None, _) => Some(Self::New),
                (_, None) => Some(Self::Gone),
                _ => Some(Self::Other),
            };
        };
        match (old, new) {
            _ if old == new => None,
            (Verdict::Fail, Verdict::NonStrict) => Some(Self::Fixed),
            (_, Verdict::Fail | Verdict::NonStrict) => Some(Self::Regressed),
            (Verdict::Fail | Verdict::NonStrict, Verdict::Pass) => Some(Self::Fixed),
            _ => Some(Self::Other),
        }
    }

    fn heading(self) -> &'static str {
        match self {
            Self::Regressed => "REGRESSED",
            Self::Fixed => "FIXED",
            Self::New => "NEW",
            Self::Gone => "GONE",
            Self::Other => "CHANGED OTHERWISE",
        }
    }
}

/// What changed from `before` to `after`.
#[must_use]
pub fn compare(before: &Report, after: &Report) -> Comparison {
    let mut remarks = Vec::new();
    let mut differs = |what: &str, old: &str, new: &str| {
        if old != new {
            remarks.push(format!("{what} differs: {old} before, {new} after"));
        }
    };
    differs("the side", before.subject.side.name(), after.subject.side.name());
    differs("the subject", &before.subject.name, &after.subject.name);
    differs("the release of the specification", &before.spec, &after.spec);
    differs("the tester's version", &before.tester, &after.tester);

    let rows = |report: &Report| {
        let rows = report.rows.iter().map(|row| ((row.row.clone(), None), row.verdict));
        rows.collect::<Vec<_>>()
    };
    let requirements =
        changes(rows(before), rows(after), |_, old, new| (Kind::of(old, new), vec![]));

    let old_cases = by_key(before);
    let new_cases = by_key(after);
    let cases = |report: &Report| {
        let cases = report.cases.iter().map(|case| (key(case), Some(case.verdict)));
        cases.collect::<Vec<_>>()
    };
    let cases = changes(cases(before), cases(after), |key, old, new| {
        let (Some(old_case), Some(new_case)) = (old_cases.get(key), new_cases.get(key)) else {
            return (Kind::of(old, new), Vec::new());
        };
        // A case that fails as it did before may still have lost one requirement and won another.
        let (old_rows, new_rows) = (verdicts(old_case), verdicts(new_case));
        let ids: std::collections::BTreeSet<_> = old_rows.keys().chain(new_rows.keys()).collect();
        let mut kinds: Vec<_> = Kind::of(old, new).into_iter().collect();
        let mut changed = Vec::new();
        for id in ids {
            let (old, new) = (old_rows.get(id).copied(), new_rows.get(id).copied());
            if let Some(kind) = Kind::of(old, new) {
                // What the case did not judge before is not worth a line unless it went wrong.
                kinds.push(match kind {
                    Kind::New if new.is_some_and(Verdict::is_miss) => Kind::Regressed,
                    Kind::New | Kind::Gone => Kind::Other,
                    kind => kind,
                });
                changed.push((*id).to_owned());
            }
        }
        (kinds.into_iter().min(), changed)
    });
    Comparison { before: Run::of(before), after: Run::of(after), remarks, requirements, cases }
}

/// Name and transport of a case, or id of a requirement.
type Key = (String, Option<Transport>);

fn key(case: &CaseResult) -> Key {
    (case.case.clone(), case.transport)
}

fn by_key(report: &Report) -> BTreeMap<Key, &CaseResult> {
    report.cases.iter().map(|case| (key(case), case)).collect()
}

/// The greatest verdict of a case about each requirement.
fn verdicts(case: &CaseResult) -> BTreeMap<&str, Verdict> {
    let mut verdicts = BTreeMap::new();
    for finding in &case.findings {
        let verdict = verdicts.entry(finding.row.as_str()).or_insert(finding.verdict);
        *verdict = finding.verdict.max(*verdict);
    }
    verdicts
}

/// The changes between two lists, in the order of the second; what is gone comes last.
fn changes(
    before: Vec<(Key, Option<Verdict>)>,
    after: Vec<(Key, Option<Verdict>)>,
    judge: impl Fn(&Key, Option<Verdict>, Option<Verdict>) -> (Option<Kind>, Vec<String>),
) -> Vec<Change> {
    let old: BTreeMap<_, _> = before.iter().cloned().collect();
    let new: BTreeMap<_, _> = after.iter().cloned().collect();
    let gone = before.into_iter().map(|(key, _)| key).filter(|key| !new.contains_key(key));
    let keys: Vec<_> = after.into_iter().map(|(key, _)| key).chain(gone).collect();
    let change = |key: Key| {
        let verdict = |of: &BTreeMap<Key, Option<Verdict>>| of.get(&key).copied().flatten();
        let (before, after) = (verdict(&old), verdict(&new));
        let (kind, requirements) = judge(&key, before, after);
        let kind = kind?;
        Some(Change { kind, what: key.0, transport: key.1, before, after, requirements })
    };
    keys.into_iter().filter_map(change).collect()
}

impl Run {
    fn of(report: &Report) -> Self {
        Self {
            subject: report.subject.clone(),
            spec: report.spec.clone(),
            tester: report.tester.clone(),
            started: report.started.clone(),
        }
    }

    fn line(&self) -> String {
        let Self { subject, spec, tester, started } = self;
        format!(
            "{} ({}), held to {spec} by opamp-conformance {tester} on {started}",
            subject.title(),
            subject.side.name()
        )
    }
}

impl Comparison {
    /// Whether something got worse.
    #[must_use]
    pub fn regressed(&self) -> bool {
        self.requirements.iter().chain(&self.cases).any(|change| change.kind == Kind::Regressed)
    }

    /// The exit status that follows: 1 when something regressed, else 0.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        u8::from(self.regressed())
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        wrapped(&mut text, "before  ", &self.before.line(), WIDTH);
        wrapped(&mut text, "after   ", &self.after.line(), WIDTH);
        for remark in &self.remarks {
            wrapped(&mut text, "note    ", remark, WIDTH);
        }
        f.write_str(&text)?;
        for kind in Kind::ALL {
            let of = |changes: &'_ [Change]| changes.iter().filter(|c| c.kind == kind).count();
            let (requirements, cases) = (of(&self.requirements), of(&self.cases));
            if requirements + cases == 0 {
                continue;
            }
            let heading = kind.heading();
            writeln!(f, "\n{heading} ({requirements} of the requirements, {cases} of the cases)")?;
            let changes = self.requirements.iter().chain(&self.cases);
            for change in changes.filter(|change| change.kind == kind) {
                writeln!(f, "{change}")?;
            }
        }
        match (self.requirements.len() + self.cases.len(), self.regressed()) {
            (0, _) => writeln!(f, "\nnothing changed"),
            (_, true) => writeln!(f, "\nexit status 1: something regressed"),
            (_, false) => writeln!(f, "\nexit status 0: nothing regressed"),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |verdict: Option<Verdict>| verdict.map_or("–", Verdict::name);
        let (before, after) = (name(self.before), name(self.after));
        let what = one_line(&self.what, WIDTH);
        let what = match self.transport {
            Some(transport) => format!("{what} ({})", transport.name()),
            None => what,
        };
        write!(f, "  {what:<44}  {before} → {after}")?;
        if !self.requirements.is_empty() {
            write!(f, "  [{}]", one_line(&self.requirements.join(" "), WIDTH))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample::{case, finding, report};
    use crate::report::{Side, Transport};

    fn run(findings: &[(&str, Verdict)]) -> Report {
        let findings = findings.iter().map(|(row, verdict)| finding(row, *verdict, "")).collect();
        let cases = vec![case("server/a/b", Transport::Http, findings)];
        report(Side::Server, "sample", cases)
    }

    fn kinds(before: &Report, after: &Report) -> (Vec<(String, Kind)>, Vec<Kind>) {
        let comparison = compare(before, after);
        let of = |change: &Change| (change.what.clone(), change.kind);
        let cases = comparison.cases.iter().map(|change| change.kind);
        (comparison.requirements.iter().map(of).collect(), cases.collect())
    }

    #[test]
    fn each_kind_of_change_is_told_apart() {
        use Verdict::{Fail, HarnessError, NonStrict, NotApplicable, Pass, Untestable};
        for (before, after, kind) in [
            (Pass, Fail, Kind::Regressed),
            (Pass, NonStrict, Kind::Regressed),
            (NonStrict, Fail, Kind::Regressed),
            (Untestable, Fail, Kind::Regressed),
            (NotApplicable, NonStrict, Kind::Regressed),
            (Fail, Pass, Kind::Fixed),
            (NonStrict, Pass, Kind::Fixed),
            (Fail, NonStrict, Kind::Fixed),
            (Fail, Untestable, Kind::Other),
            (Pass, Untestable, Kind::Other),
            (Untestable, Pass, Kind::Other),
            (Pass, HarnessError, Kind::Other),
        ] {
            let (before_run, after_run) = (run(&[("SEQ-04", before)]), run(&[("SEQ-04", after)]));
            let (rows, cases) = kinds(&before_run, &after_run);
            assert_eq!(rows, [("SEQ-04".to_owned(), kind)], "{before} to {after}");
            assert_eq!(cases, [kind], "{before} to {after}");
            let status = compare(&before_run, &after_run).exit_status();
            assert_eq!(status, u8::from(kind == Kind::Regressed));
            assert_eq!(kinds(&after_run, &after_run), (vec![], vec![]));
        }
    }

    #[test]
    fn what_is_in_one_report_only_is_new_or_gone() {
        let (empty, failing) = (run(&[]), run(&[("SEQ-04", Verdict::Fail)]));
        let mut none = empty.clone();
        none.cases.clear();
        let rows = |kind| vec![("SEQ-04".to_owned(), kind)];
        assert_eq!(kinds(&none, &failing), (rows(Kind::New), vec![Kind::New]));
        assert_eq!(kinds(&failing, &none), (rows(Kind::Gone), vec![Kind::Gone]));
        assert!(!compare(&none, &failing).regressed());
    }

    #[test]
    fn a_case_that_fails_as_before_can_regress() {
        use Verdict::{Fail, Pass};
        let before = run(&[("SEQ-04", Fail), ("SEQ-05", Pass)]);
        let mut after = run(&[("SEQ-04", Pass), ("SEQ-05", Fail)]);
        after.spec = "main".into();
        let comparison = compare(&before, &after);
        assert_eq!(comparison.cases[0].kind, Kind::Regressed);
        assert_eq!(comparison.cases[0].requirements, ["SEQ-04", "SEQ-05"]);
        let text = comparison.to_string();
        for part in [
            "note    the release of the specification differs: v0.18.0 before, main after",
            "REGRESSED (1 of the requirements, 1 of the cases)",
            "SEQ-05                                        pass → fail",
            "server/a/b (http)                             fail → fail  [SEQ-04 SEQ-05]",
            "FIXED (1 of the requirements, 0 of the cases)",
            "exit status 1: something regressed",
        ] {
            assert!(text.contains(part), "{part:?} is missing from\n{text}");
        }
        let json = serde_json::to_string(&comparison).unwrap();
        assert_eq!(serde_json::from_str::<Comparison>(&json).unwrap(), comparison);
    }
}
