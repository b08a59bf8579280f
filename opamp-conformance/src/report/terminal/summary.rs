//! The summary after a run.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::super::text::{line_head, number, one_line, wrapped};
use super::super::{CaseResult, Report, RowResult, Transport, topic};
use super::{Paint, WIDTH};
use crate::verdict::{Finding, Verdict};

/// Lines of the transcript shown with a failure.
const LINES: usize = 4;

/// Requirement ids listed for one reason.
const IDS: usize = 30;

/// The summary while it is put together.
pub(super) struct Summary<'a> {
    report: &'a Report,
    paint: Paint,
    pub(super) text: String,
}

/// A finding together with the transports on which the same case found the same.
struct Group<'a> {
    finding: &'a Finding,
    case: &'a CaseResult,
    transports: Vec<Transport>,
}

impl<'a> Summary<'a> {
    pub(super) fn of(report: &'a Report, paint: Paint) -> Self {
        let mut summary = Self { report, paint, text: String::new() };
        summary.head();
        summary.failures();
        summary.harness_errors();
        summary.warnings();
        summary.notes();
        summary.not_judged();
        summary.counts();
        summary.baseline();
        summary.exit_status();
        summary
    }

    /// The requirements that the run was asked about.
    fn rows(&self) -> impl Iterator<Item = &'a RowResult> + use<'a> {
        self.report.rows.iter().filter(|row| row.is_selected())
    }

    fn heading(&mut self, title: &str, count: usize) {
        let title = self.paint.heading(&format!("{title} ({count})"));
        self.line(&format!("\n{title}"));
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn wrapped(&mut self, head: &str, text: &str) {
        wrapped(&mut self.text, head, text, WIDTH);
    }

    fn head(&mut self) {
        let Report { subject, tester, spec, seed, started, .. } = self.report;
        let title = format!("{} ({})", subject.title(), subject.side.name());
        let title = self.paint.heading(&one_line(&title, WIDTH));
        self.line(&title);
        self.wrapped("  reached by  ", &subject.reached_by);
        let (cases, seconds) = (number(self.report.cases.len(), "case"), self.seconds());
        self.wrapped("  held to     ", &format!("{spec}, by opamp-conformance {tester}"));
        self.wrapped("  run         ", &format!("{cases} in {seconds}, seed {seed}, {started}"));
    }

    fn seconds(&self) -> String {
        let tenths = self.report.duration_ms.saturating_add(50) / 100;
        format!("{}.{} s", tenths / 10, tenths % 10)
    }

    /// Such findings where the baseline does not know them, the same ones of one case together.
    fn groups(&self, such: impl Fn(&Finding) -> bool) -> Vec<Group<'a>> {
        let mut groups: Vec<Group<'a>> = Vec::new();
        for case in &self.report.cases {
            for finding in case.findings.iter().filter(|finding| such(finding)) {
                if case.known.contains_key(&finding.row) {
                    continue;
                }
                let same = groups.iter_mut().rev().take_while(|group| group.case.case == case.case);
                match { same }.find(|group| {
                    group.finding.row == finding.row
                        && group.finding.expected == finding.expected
                        && group.finding.actual == finding.actual
                }) {
                    Some(group) => group.transports.extend(case.transport),
                    None => groups.push(Group {
                        finding,
                        case,
                        transports: case.transport.into_iter().collect(),
                    }),
                }
            }
        }
        groups
    }

    fn failures(&mut self) {
        let groups = self.groups(|finding| finding.verdict == Verdict::Fail);
        if groups.is_empty() {
            return;
        }
        self.heading("FAILED", groups.len());
        for group in groups {
            self.miss(&group);
            self.transcript(group.case, group.finding.entry);
        }
    }

    fn warnings(&mut self) {
        let groups = self.groups(|finding| finding.verdict == Verdict::NonStrict);
        if groups.is_empty() {
            return;
        }
        self.heading("WARNINGS: recommended, and missed", groups.len());
        for group in groups {
            self.miss(&group);
        }
    }

    fn notes(&mut self) {
        let groups = self.groups(|finding| finding.noted);
        if groups.is_empty() {
            return;
        }
        self.heading("NOTED: advice or an option not followed", groups.len());
        for Group { finding, case, .. } in groups {
            let text = format!("{}; {}", finding.actual, case.case);
            self.wrapped(&format!("  {:<11}", finding.row), &text);
        }
    }

    /// One miss: requirement, case, expected and actual, and the reading it rests on.
    fn miss(&mut self, group: &Group<'_>) {
        let Group { finding, case, transports } = group;
        let row = self.report.row(&finding.row);
        let mut class = row.map(level_and_maturity).unwrap_or_default();
        if row.is_some_and(|row| !row.counts) {
            class.push_str(", does not count");
        }
        let id = format!("{:<11}", one_line(&finding.row, WIDTH));
        let id = self.paint.verdict(finding.verdict, &id);
        let class_and_case = one_line(&format!("{class}; {}", case.case), WIDTH);
        let _ = write!(self.text, "\n  {id}{class_and_case}");
        let over: Vec<_> = transports.iter().map(|transport| transport.name()).collect();
        if !over.is_empty() {
            let _ = write!(self.text, " over {}", over.join(" and "));
        }
        self.text.push('\n');
        self.wrapped("    expected  ", &finding.expected);
        self.wrapped("    actual    ", &finding.actual);
        if let Some(stopped) = &case.stopped {
            self.wrapped("    stopped   ", stopped);
        }
        for id in row.map(|row| row.readings.as_slice()).unwrap_or_default() {
            let title = opamp_spec::readings().iter().find(|reading| reading.id == *id);
            let title = title.map_or("", |reading| reading.title.as_str());
            self.wrapped("    reading   ", &format!("{id} {title}"));
        }
    }

    /// The lines of the transcript up to the one that decided, or the last ones.
    fn transcript(&mut self, case: &CaseResult, entry: Option<usize>) {
        let count = case.transcript.len();
        let end = entry.map_or(count, |entry| entry.saturating_add(1)).min(count);
        for (i, line) in case.transcript[end.saturating_sub(LINES)..end].iter().enumerate() {
            let head = if i == 0 { "    wire      " } else { "              " };
            let what = one_line(&line.what, WIDTH);
            let mut shown = format!("{head}{}  {what}", line_head(line));
            // Of an HTTP message the header fields come first; the message says more.
            let text = line.text.rsplit("\n\n").next().unwrap_or_default();
            if !text.is_empty() {
                let _ = write!(shown, "\n{:28}{}", "", one_line(text, WIDTH - 28));
            }
            let shown = self.paint.dim(&shown);
            self.line(&shown);
        }
        if end < count {
            let rest = format!("              (and {})", number(count - end, "later line"));
            let rest = self.paint.dim(&rest);
            self.line(&rest);
        }
    }

    fn harness_errors(&mut self) {
        let cases = &self.report.cases;
        let cases: Vec<_> =
            cases.iter().filter(|case| case.verdict == Verdict::HarnessError).collect();
        if cases.is_empty() {
            return;
        }
        self.heading("THE TESTER ITSELF COULD NOT GO ON", cases.len());
        for case in cases {
            let why = case.findings.iter().find(|f| f.verdict == Verdict::HarnessError);
            let why = why.map(|finding| finding.actual.as_str()).or(case.stopped.as_deref());
            self.line(&format!("\n  {}", one_line(&case.title(), WIDTH)));
            self.wrapped("    ", why.unwrap_or("no reason was given"));
        }
    }

    /// Requirements without a judgement, by reason: what could not be tested, then the rest.
    fn not_judged(&mut self) {
        for (title, verdict) in [
            ("UNTESTABLE in this run, by reason", Some(Verdict::Untestable)),
            ("NOT APPLICABLE, by reason", Some(Verdict::NotApplicable)),
            ("NOT JUDGED, by reason", None),
        ] {
            let mut reasons: BTreeMap<String, Vec<&str>> = BTreeMap::new();
            for row in self.rows().filter(|row| row.verdict == verdict) {
                reasons.entry(self.reason(row)).or_default().push(&row.row);
            }
            let count = reasons.values().map(Vec::len).sum();
            if count == 0 {
                continue;
            }
            let mut reasons: Vec<_> = reasons.into_iter().collect();
            reasons.sort_by_key(|(_, rows)| std::cmp::Reverse(rows.len()));
            self.heading(title, count);
            for (reason, rows) in reasons {
                self.wrapped(&format!("  {:>4}  ", rows.len()), &reason);
                let mut ids = rows[..rows.len().min(IDS)].join(" ");
                if rows.len() > IDS {
                    let _ = write!(ids, " and {} more", rows.len() - IDS);
                }
                self.wrapped("        ", &ids);
            }
        }
    }

    /// Why a requirement has no judgement: its own reason, or that of the first case that tried.
    fn reason(&self, row: &RowResult) -> String {
        let told = row.cases.iter().filter_map(|index| self.report.cases.get(*index));
        row.reason
            .clone()
            .or_else(|| {
                { told }.find_map(|case| {
                    let mut findings = case.findings.iter();
                    let finding =
                        findings.find(|f| f.row == row.row && Some(f.verdict) == row.verdict)?;
                    Some(finding.actual.clone()).filter(|actual| !actual.is_empty())
                })
            })
            .unwrap_or_else(|| "no reason was given".to_owned())
    }

    fn counts(&mut self) {
        /// A column for each verdict, and one for what no case judged.
        const COLUMNS: [(&str, Option<Verdict>); 7] = [
            ("pass", Some(Verdict::Pass)),
            ("non-strict", Some(Verdict::NonStrict)),
            ("fail", Some(Verdict::Fail)),
            ("untestable", Some(Verdict::Untestable)),
            ("n/a", Some(Verdict::NotApplicable)),
            ("error", Some(Verdict::HarnessError)),
            ("not judged", None),
        ];
        let mut topics: Vec<(&str, [usize; 7])> = Vec::new();
        let mut total = [0; 7];
        for row in self.rows() {
            let topic = topic(&row.row);
            if topics.last().is_none_or(|(last, _)| *last != topic) {
                topics.push((topic, [0; 7]));
            }
            for (i, (_, verdict)) in COLUMNS.iter().enumerate() {
                if row.verdict == *verdict {
                    total[i] += 1;
                    if let Some((_, counts)) = topics.last_mut() {
                        counts[i] += 1;
                    }
                }
            }
        }
        self.heading("REQUIREMENTS by topic", self.rows().count());
        let mut head = format!("  {:<9}", "");
        for (name, _) in COLUMNS {
            let _ = write!(head, "{name:>12}");
        }
        let head = self.paint.dim(&head);
        self.line(&head);
        for (topic, counts) in topics.into_iter().chain([("all", total)]) {
            let mut line = format!("  {:<9}", one_line(topic, 9));
            for (count, (_, verdict)) in counts.iter().zip(COLUMNS) {
                let cell = match count {
                    0 => format!("{:>12}", "·"),
                    count => format!("{count:>12}"),
                };
                line.push_str(&match verdict {
                    Some(verdict) if *count > 0 => self.paint.verdict(verdict, &cell),
                    _ => self.paint.dim(&cell),
                });
            }
            self.line(&line);
        }
    }

    fn baseline(&mut self) {
        let known: Vec<_> = self
            .report
            .cases
            .iter()
            .flat_map(|case| case.known.iter().map(move |(row, reason)| (case, row, reason)))
            .collect();
        if !known.is_empty() {
            self.heading("KNOWN from the baseline", known.len());
            for (case, row, reason) in known {
                self.wrapped(&format!("  {row:<11}"), &format!("{}: {reason}", case.title()));
            }
        }
        if !self.report.stale.is_empty() {
            let title = "STALE entries of the baseline: they pass now and have to go";
            self.heading(title, self.report.stale.len());
            for entry in &self.report.stale {
                self.wrapped("  ", entry);
            }
        }
    }

    fn exit_status(&mut self) {
        let status = self.report.exit_status;
        let counting = |verdict| {
            let mut rows = BTreeSet::new();
            for case in &self.report.cases {
                let counts = |f: &&Finding| f.verdict == verdict && self.report.counts(case, f);
                rows.extend(case.findings.iter().filter(counts).map(|f| &f.row));
            }
            rows.len()
        };
        let mut why = Vec::new();
        for (count, what) in [
            (counting(Verdict::Fail), "mandatory requirement"),
            (counting(Verdict::NonStrict), "recommended requirement"),
        ] {
            if count > 0 {
                why.push(format!("{} missed", number(count, what)));
            }
        }
        match self.report.stale.len() {
            0 => {}
            1 => why.push("1 entry of the baseline is stale".to_owned()),
            stale => why.push(format!("{stale} entries of the baseline are stale")),
        }
        let (verdict, words) = match status {
            0 => (Verdict::Pass, "conformant: nothing that counts was missed"),
            1 => (Verdict::Fail, "not conformant"),
            2 => (Verdict::NonStrict, "only recommendations were missed"),
            _ => (Verdict::HarnessError, "the tester could not do its work"),
        };
        let mut line = format!("exit status {status}: {words}");
        if !why.is_empty() {
            let _ = write!(line, " ({})", why.join(", "));
        }
        let line = self.paint.verdict(verdict, &line);
        self.line(&format!("\n{line}"));
    }
}

/// `MUST`, or `implied, beta` where the maturity says more than stable.
fn level_and_maturity(row: &RowResult) -> String {
    match row.maturity.as_str() {
        "stable" => row.level.clone(),
        maturity => format!("{}, {maturity}", row.level),
    }
}

#[cfg(test)]
mod tests {
    use crate::report::{sample, terminal};

    #[test]
    fn a_summary_says_what_failed_first_and_why() {
        let text = terminal::summary(&sample::server(), false);
        assert!(!text.contains('\x1b'), "{text}");
        let place = |what: &str| {
            text.find(what).unwrap_or_else(|| panic!("{what:?} is missing from\n{text}"))
        };
        let order = [
            "FAILED (2)",
            "SEQ-04     MUST; server/sequence/gap over websocket and http",
            "expected  ReportFullState",
            "actual    a reply without flags",
            "reading   A05 sequence_num",
            "tester  → subject",
            "CSR-15     MUST, development, does not count",
            "THE TESTER ITSELF COULD NOT GO ON (1)",
            "WARNINGS: recommended, and missed (1)",
            "NOTED: advice or an option not followed (1)",
            "ERR-04     capabilities beside the error; server/framing/header",
            "UNTESTABLE in this run, by reason (1)",
            "the hook offer-packages is missing",
            "REQUIREMENTS by topic",
            "KNOWN from the baseline (1)",
            "STALE entries of the baseline: they pass now and have to go (1)",
            "exit status 1: not conformant (1 mandatory requirement missed, 1 entry",
        ];
        let places: Vec<_> = order.iter().map(|what| place(what)).collect();
        assert!(places.is_sorted(), "{text}");
    }

    #[test]
    fn what_a_peer_sent_does_not_act_on_the_terminal() {
        let mut report = sample::server();
        report.subject.reached_by = "\x1b]0;owned\x07".into();
        report.stale.push("\x1b[1m".into());
        for row in &mut report.rows {
            (row.row, row.level) = ("\x07".into(), "\x07".into());
        }
        for case in &mut report.cases {
            case.case.push_str("\x1b[3m");
            case.known.insert("\x08".into(), "\x08".into());
            case.stopped = Some("\x1b[31m".into());
            for finding in &mut case.findings {
                finding.row.push('\x07');
                finding.actual = "\x1b[2J".into();
            }
            for line in &mut case.transcript {
                line.text = "\x1b[2J\u{9b}".into();
            }
        }
        let text = terminal::summary(&report, false);
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        assert!(terminal::summary(&report, true).contains("\x1b[31mSEQ-04"));
    }
}
