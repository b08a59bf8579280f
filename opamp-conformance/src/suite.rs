//! A run as a whole: the selected cases against one subject, held to one release of the
//! specification, with what is known of the subject taken into account; and the report of it.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use opamp_spec::{Requirement, Weight, requirement, requirements};
use tokio::time::Instant;

use crate::baseline::Baseline;
use crate::case::{Case, Script, cases};
use crate::coverage::why_not;
use crate::preflight::{self, Unreachable};
use crate::report::{self, CaseResult, NOT_SELECTED, Report, RowResult, SCHEMA, Side};
use crate::run::{self, Options, Subject};
use crate::select::{Maturity, SelectError, Selected, Selection, concerns};
use crate::verdict::Verdict;

/// Cases whose conversations observers look at where none other was selected.
const BASICS: [&str; 2] = ["server/sequence/gap", "client/sequence/full-state"];

/// What to run, and what it is held to.
#[derive(Debug, Clone, Default)]
pub struct Suite {
    /// Which requirements and cases.
    pub selection: Selection,
    /// The specification the subject implements.
    pub spec: Spec,
    /// Whether missing requirements of development maturity sets the exit status.
    pub count_development: bool,
    /// What is known of the subject.
    pub baseline: Baseline,
    /// How to run.
    pub options: Options,
}

/// The specification a subject is held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Spec {
    /// The last release.
    #[default]
    Released,
    /// The specification as it stands in its repository.
    Main,
}

impl Spec {
    /// The release's name, or `main`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Released => "v0.18.0",
            Self::Main => "main",
        }
    }

    fn has(self, row: &Requirement) -> bool {
        self == Self::Main || row.since != "main"
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Spec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Released, Self::Main]
            .into_iter()
            .find(|spec| spec.name() == text || spec.name().strip_prefix('v') == Some(text))
            .ok_or_else(|| format!("{text:?} is neither {} nor main", Self::Released))
    }
}

/// Why there is no report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SuiteError {
    /// There is nothing to run.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// There is nothing to run it against.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
}

/// A suite that is ready to run.
#[derive(Debug)]
pub struct Plan<'a> {
    suite: &'a Suite,
    selected: Selected,
    /// The selected cases, and those that only give observers something to look at.
    all: Vec<&'static Case>,
}

impl Suite {
    /// Tests a subject, from a first look at it to the report; for use in a test of one's own.
    ///
    /// # Errors
    ///
    /// When the selection is none, or the subject cannot be reached.
    pub async fn test(&self, subject: &Subject, name: &str) -> Result<Report, SuiteError> {
        let mut suite = self.clone();
        suite.plan(subject.side())?;
        let options = &mut suite.options;
        let found = preflight::look(subject, &options.transports, options.pace).await?;
        if subject.side() == Side::Client {
            // One it does not speak would take a long wait for each case.
            options.transports = found.transports;
        }
        let about = report::Subject {
            name: name.to_owned(),
            version: None,
            side: subject.side(),
            reached_by: match subject {
                Subject::Server(target) => target.url.to_string(),
                Subject::Client(_) => "a test".to_owned(),
            },
        };
        Ok(suite.plan(subject.side())?.run(subject, about, |_| {}).await)
    }

    /// Settles which cases run against a subject of this side.
    ///
    /// # Errors
    ///
    /// When the selection is none.
    pub fn plan(&self, side: Side) -> Result<Plan<'_>, SelectError> {
        let mut selected = self.selection.of(side)?;
        let holds = |row: &&str| selected.rows.contains(*row) && self.spec_has(row);
        selected.cases.retain(|case| case.judges.iter().any(&holds));
        if selected.cases.is_empty() {
            return Err(SelectError::Newer(self.spec.name()));
        }
        let mut all = selected.cases.clone();
        if all.iter().all(|case| matches!(case.script, Script::Observer(_))) {
            all.extend(cases(side).into_iter().filter(|case| BASICS.contains(&case.name)));
        }
        Ok(Plan { suite: self, selected, all })
    }

    fn spec_has(&self, row: &str) -> bool {
        requirement(row).is_some_and(|row| self.spec.has(row))
    }

    /// Whether missing the row sets the exit status.
    fn counts(&self, row: &Requirement) -> bool {
        let least = match self.selection.level {
            None | Some(Weight::Must) => Weight::Must,
            Some(Weight::Should | Weight::Note) => Weight::Should,
        };
        row.weight() >= least
            && self.spec.has(row)
            && (self.count_development || Maturity::of(row) > Maturity::Development)
    }
}

impl Plan<'_> {
    /// How many results the run will have.
    #[must_use]
    pub fn count(&self, subject: &Subject) -> usize {
        run::count(subject, &self.selected.cases, &self.suite.options)
    }

    /// Runs the cases, tells `ended` of each, and makes the report.
    pub async fn run(
        &self,
        subject: &Subject,
        about: report::Subject,
        mut ended: impl FnMut(&CaseResult),
    ) -> Report {
        let began = Instant::now();
        let started = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let mut stale = Vec::new();
        let results = run::run(subject, &self.all, &self.suite.options, |result| {
            if self.has(&result.case) {
                self.hold(result);
                stale.extend(self.suite.baseline.apply(result));
                ended(result);
            }
        });
        let mut cases = results.await;
        cases.retain(|result| self.has(&result.case));
        let options = &self.suite.options;
        let mut report = Report {
            schema: SCHEMA,
            tester: env!("CARGO_PKG_VERSION").to_owned(),
            rows: self.rows(about.side, &cases),
            subject: about,
            spec: self.suite.spec.name().to_owned(),
            seed: options.seed,
            timeout_scale: options.pace.scale(),
            started,
            duration_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            cases,
            stale,
            exit_status: 0,
        };
        report.exit_status = exit_status(&report);
        report
    }

    fn has(&self, case: &str) -> bool {
        self.selected.cases.iter().any(|selected| selected.name == case)
    }

    /// Holds a result to what was selected and to the release.
    fn hold(&self, result: &mut CaseResult) {
        result.findings.retain(|finding| self.selected.rows.contains(finding.row.as_str()));
        for finding in &mut result.findings {
            if !self.suite.spec_has(&finding.row) {
                finding.verdict = Verdict::NotApplicable;
                finding.noted = false;
                finding.actual = self.newer();
            }
        }
        let verdict = result.findings.iter().map(|finding| finding.verdict).max();
        result.verdict = verdict.unwrap_or(Verdict::NotApplicable);
    }

    fn newer(&self) -> String {
        format!("newer than {}", self.suite.spec)
    }

    fn rows(&self, side: Side, results: &[CaseResult]) -> Vec<RowResult> {
        let judged: BTreeSet<&str> =
            cases(side).iter().flat_map(|case| case.judges).copied().collect();
        requirements()
            .iter()
            .filter(|row| concerns(side, row))
            .map(|row| self.row(side, row, results, judged.contains(row.id.as_str())))
            .collect()
    }

    fn row(
        &self,
        side: Side,
        row: &Requirement,
        results: &[CaseResult],
        has_cases: bool,
    ) -> RowResult {
        let findings = || {
            results.iter().enumerate().filter_map(|(index, result)| {
                let finding = result.findings.iter().find(|finding| finding.row == row.id)?;
                Some((index, finding))
            })
        };
        let mut verdict = findings().map(|(_, finding)| finding.verdict).max();
        let mut reason = None;
        if verdict.is_none() {
            reason = Some(if !self.selected.rows.contains(row.id.as_str()) {
                NOT_SELECTED.to_owned()
            } else if row.observable == "no" {
                "cannot be seen from the wire".to_owned()
            } else if !has_cases {
                why_not(side, &row.id).unwrap_or("no case judges it").to_owned()
            } else if self.suite.spec.has(row) {
                "its cases do not run over the transports of this run".to_owned()
            } else {
                verdict = Some(Verdict::NotApplicable);
                self.newer()
            });
        }
        RowResult {
            row: row.id.clone(),
            level: row.level.clone(),
            maturity: row.maturity.clone(),
            readings: row.readings().map(|reading| reading.id.clone()).collect(),
            verdict,
            reason,
            counts: self.suite.counts(row),
            cases: findings().map(|(index, _)| index).collect(),
        }
    }
}

/// What a report comes to: 1 for a mandatory requirement that was missed or a stale baseline, else
/// 3 where the tester could not do all of its work or nothing at all was testable, else 2 for a
/// recommendation that was missed and counts, else 0.
fn exit_status(report: &Report) -> u8 {
    let counting = |verdict| {
        report.cases.iter().any(|case| {
            { case.findings.iter() }.any(|f| f.verdict == verdict && report.counts(case, f))
        })
    };
    if !report.stale.is_empty() || counting(Verdict::Fail) {
        1
    } else if report.cases.iter().any(|case| case.verdict == Verdict::HarnessError)
        || report.cases.iter().map(|case| case.verdict).max() == Some(Verdict::Untestable)
    {
        3
    } else if counting(Verdict::NonStrict) {
        2
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Network;
    use crate::reference::Faults;
    use crate::reference::server::ReferenceServer;

    fn about(side: Side) -> report::Subject {
        report::Subject { name: "reference".into(), version: None, side, reached_by: String::new() }
    }

    /// A report about the reference server with this fault, in virtual time.
    fn report(suite: &Suite, fault: Option<&'static str>) -> Report {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let faults = fault.map_or_else(Faults::none, Faults::only);
            let server = ReferenceServer::start(&Network::in_memory(), faults).await.unwrap();
            let subject = Subject::Server(server.target());
            let plan = suite.plan(Side::Server).unwrap();
            let mut seen = 0;
            let report = plan.run(&subject, about(Side::Server), |_| seen += 1).await;
            assert_eq!((seen, seen), (report.cases.len(), plan.count(&subject)));
            report
        })
    }

    fn only(ids: &[&str]) -> Suite {
        let ids = ids.iter().map(|id| (*id).to_owned()).collect();
        Suite { selection: Selection { ids, ..Default::default() }, ..Default::default() }
    }

    #[test]
    fn rows_come_to_the_worst_and_others_say_why_not() {
        let report = report(&only(&["SEQ-04"]), Some("gap-is-ignored"));
        assert_eq!(report.exit_status, 1);
        let row = report.row("SEQ-04").unwrap();
        assert_eq!((row.verdict, row.counts), (Some(Verdict::Fail), true));
        assert!(row.cases.len() >= 2, "both transports");
        let rows = report.cases.iter().flat_map(|case| &case.findings).map(|f| f.row.as_str());
        assert!(rows.clone().all(|row| row == "SEQ-04"), "{:?}", rows.collect::<Vec<_>>());
        let other = report.row("SEQ-05").unwrap();
        assert_eq!(other.verdict, None);
        assert_eq!(other.reason.as_deref(), Some("not selected in this run"));
        assert!(report.rows.iter().all(|row| requirement(&row.row).unwrap().party != "client"));
    }

    #[test]
    fn the_baseline_and_its_staleness_decide() {
        let text = "- {case: server/sequence/gap, rows: [SEQ-04], reason: later}";
        let mut suite = only(&["SEQ-04"]);
        suite.selection.cases = vec!["server/sequence/gap".into()];
        suite.baseline = Baseline::parse(text, Side::Server).unwrap();
        assert_eq!(report(&suite, Some("gap-is-ignored")).exit_status, 0);
        let stale = report(&suite, None);
        assert_eq!((stale.exit_status, stale.stale.len()), (1, 2));
        suite.baseline = Baseline::default();
        let text = Baseline::write(&report(&suite, Some("gap-is-ignored")));
        assert!(text.contains("- case: server/sequence/gap\n  rows: [SEQ-04]\n  reason: \"\"\n"));
        assert!(
            Baseline::parse(&text, Side::Server).unwrap_err().to_string().contains("no reason")
        );
    }

    #[test]
    fn observers_alone_are_given_something_to_look_at() {
        let mut suite = Suite::default();
        suite.selection.cases = vec!["server/every-message/header".into()];
        let report = report(&suite, Some("header-is-not-zero"));
        assert_eq!((report.cases.len(), report.exit_status), (1, 1));
        for basic in BASICS {
            let known = [Side::Server, Side::Client].map(cases).concat();
            assert!(known.iter().any(|case| case.name == basic), "{basic}");
        }
    }

    #[test]
    fn level_development_and_release_decide_what_counts() {
        let counting = |suite: &Suite, holds: &dyn Fn(&Requirement) -> bool| {
            requirements().iter().filter(|row| holds(row) && suite.counts(row)).count()
        };
        let newer = |row: &Requirement| row.since == "main";
        let development = |row: &Requirement| row.maturity == "development";
        let should = |row: &Requirement| row.weight() == Weight::Should;
        let suite = Suite::default();
        for holds in [&newer as &dyn Fn(&Requirement) -> bool, &development, &should] {
            assert_eq!(counting(&suite, holds), 0);
        }
        assert!(counting(&Suite { spec: Spec::Main, ..Suite::default() }, &newer) > 0);
        let all = Suite { count_development: true, ..Suite::default() };
        assert!(counting(&all, &development) > 0);
        let mut all = Suite::default();
        all.selection.level = Some(Weight::Should);
        assert!(counting(&all, &should) > 0);
        assert_eq!("0.18.0".parse(), Ok(Spec::Released));
        assert!("v9".parse::<Spec>().is_err());
    }
}
