//! The report as JUnit XML, for the systems that run builds.
//!
//! A test suite is a topic folder of case names, a test case is a case over one transport. What is
//! red there is what sets the exit status: `failure` is a miss that counts, `error` is the tester's
//! own trouble. A miss that the baseline knows, a failure that does not count, and what could not
//! be judged are `skipped`, each with its reason; a recommendation missed without consequence
//! passes, and its output says so.

use std::fmt::Write as _;

use super::text::{line_head, one_line, visible};
use super::{CaseResult, Report};
use crate::verdict::{Finding, Verdict};

/// Bytes of a transcript that go into a failure; the JSON has the rest.
const TRANSCRIPT: usize = 32 * 1024;

/// Characters of a message attribute, which is shown on one line.
const MESSAGE: usize = 300;

/// The report as an XML document.
#[must_use]
pub fn document(report: &Report) -> String {
    let mut suites: Vec<Suite> = Vec::new();
    for case in &report.cases {
        let (folder, name) = case.case.rsplit_once('/').unwrap_or(("", &case.case));
        let index = suites.iter().position(|suite| suite.name == folder).unwrap_or_else(|| {
            suites.push(Suite::new(folder));
            suites.len() - 1
        });
        suites[index].case(name, report, case);
    }
    if !report.stale.is_empty() {
        let mut suite = Suite::new("baseline");
        for entry in &report.stale {
            let why = "passes now, and has to go from the baseline";
            suite.test(entry, 0, &Outcome::new("failure", "stale", why.into(), entry.clone()), "");
        }
        suites.push(suite);
    }

    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites");
    attribute(&mut out, "name", &format!("opamp-conformance {}", report.subject.title()));
    let total = |part: fn(&Suite) -> usize| suites.iter().map(part).sum();
    counts(&mut out, total(|s| s.tests), total(|s| s.failures), total(|s| s.errors));
    attribute(&mut out, "skipped", &total(|s| s.skipped).to_string());
    attribute(&mut out, "time", &seconds(report.duration_ms));
    out.push_str(">\n");
    for suite in &suites {
        suite.write(&mut out, report);
    }
    out.push_str("</testsuites>\n");
    out
}

/// What becomes of a test case other than passing: the element in it.
struct Outcome {
    element: &'static str,
    kind: String,
    message: String,
    body: String,
}

impl Outcome {
    fn new(element: &'static str, kind: &str, message: String, body: String) -> Self {
        Self { element, kind: kind.to_owned(), message, body }
    }

    fn of(report: &Report, case: &CaseResult) -> Option<Self> {
        let with = |verdict| case.findings.iter().filter(move |f| f.verdict == verdict);
        if case.verdict == Verdict::HarnessError {
            let why = with(Verdict::HarnessError).map(|finding| finding.actual.clone()).next();
            let why = why.or_else(|| case.stopped.clone()).unwrap_or_default();
            return Some(Self::new("error", "harness-error", why, body(report, case)));
        }
        let counting: Vec<_> = case.findings.iter().filter(|f| report.counts(case, f)).collect();
        if let [first, rest @ ..] = counting.as_slice() {
            let mut message = format!("{}: {}", first.row, first.actual);
            for finding in rest {
                let _ = write!(message, "; {}: {}", finding.row, finding.actual);
            }
            let kind = counting.iter().map(|finding| finding.verdict).max();
            let kind = kind.unwrap_or(Verdict::Fail).name();
            return Some(Self::new("failure", kind, message, body(report, case)));
        }
        let reason = match case.verdict {
            Verdict::Fail | Verdict::NonStrict if case.is_known() => {
                let known = case.known.iter().map(|(row, reason)| format!("{row} known: {reason}"));
                known.collect::<Vec<_>>().join("; ")
            }
            Verdict::Fail => {
                let misses = with(Verdict::Fail).map(|f| format!("{}: {}", f.row, f.actual));
                let misses = misses.collect::<Vec<_>>().join("; ");
                format!("failed, but does not count: {misses}")
            }
            verdict @ (Verdict::Untestable | Verdict::NotApplicable) => {
                let why = with(verdict).map(|finding| finding.actual.as_str()).next();
                let why = why.filter(|why| !why.is_empty()).or(case.stopped.as_deref());
                format!("{}: {}", verdict.name(), why.unwrap_or("no reason was given"))
            }
            _ => return None,
        };
        Some(Self::new("skipped", "", reason, String::new()))
    }
}

/// A `testsuite` while its cases are written.
#[derive(Default)]
struct Suite {
    name: String,
    tests: usize,
    failures: usize,
    errors: usize,
    skipped: usize,
    duration_ms: u64,
    xml: String,
}

impl Suite {
    fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    fn case(&mut self, name: &str, report: &Report, case: &CaseResult) {
        let name = match case.transport {
            Some(transport) => format!("{name} ({})", transport.name()),
            None => name.to_owned(),
        };
        match Outcome::of(report, case) {
            Some(outcome) => self.test(&name, case.duration_ms, &outcome, ""),
            None => {
                let passed = Outcome::new("", "", String::new(), String::new());
                let missed = case.findings.iter().any(|finding| finding.verdict.is_miss());
                let output = if missed { body(report, case) } else { String::new() };
                self.test(&name, case.duration_ms, &passed, &output);
            }
        }
    }

    fn test(&mut self, name: &str, duration_ms: u64, outcome: &Outcome, output: &str) {
        self.tests += 1;
        self.duration_ms = self.duration_ms.saturating_add(duration_ms);
        match outcome.element {
            "failure" => self.failures += 1,
            "error" => self.errors += 1,
            "skipped" => self.skipped += 1,
            _ => {}
        }
        let xml = &mut self.xml;
        xml.push_str("    <testcase");
        attribute(xml, "name", name);
        attribute(xml, "classname", &self.name.replace('/', "."));
        attribute(xml, "time", &seconds(duration_ms));
        xml.push('>');
        if !outcome.element.is_empty() {
            let _ = write!(xml, "<{}", outcome.element);
            if !outcome.kind.is_empty() {
                attribute(xml, "type", &outcome.kind);
            }
            attribute(xml, "message", &one_line(&outcome.message, MESSAGE));
            xml.push('>');
            escaped(xml, &outcome.body);
            let _ = write!(xml, "</{}>", outcome.element);
        }
        if !output.is_empty() {
            xml.push_str("<system-out>");
            escaped(xml, output);
            xml.push_str("</system-out>");
        }
        xml.push_str("</testcase>\n");
    }

    fn write(&self, out: &mut String, report: &Report) {
        out.push_str("  <testsuite");
        attribute(out, "name", &self.name);
        counts(out, self.tests, self.failures, self.errors);
        attribute(out, "skipped", &self.skipped.to_string());
        attribute(out, "time", &seconds(self.duration_ms));
        attribute(out, "timestamp", &report.started);
        out.push_str(">\n    <properties>\n");
        for (name, value) in [
            ("subject", report.subject.title()),
            ("side", report.subject.side.name().to_owned()),
            ("reached by", report.subject.reached_by.clone()),
            ("specification", report.spec.clone()),
            ("seed", report.seed.to_string()),
            ("tester", report.tester.clone()),
        ] {
            out.push_str("      <property");
            attribute(out, "name", name);
            attribute(out, "value", &value);
            out.push_str("/>\n");
        }
        out.push_str("    </properties>\n");
        out.push_str(&self.xml);
        out.push_str("  </testsuite>\n");
    }
}

/// What a person needs to understand a miss: the case, its misses and the transcript.
fn body(report: &Report, case: &CaseResult) -> String {
    let mut out = format!("does: {}\nexpects: {}\n", case.does, case.expects);
    if let Some(stopped) = &case.stopped {
        let _ = writeln!(out, "stopped: {stopped}");
    }
    for finding in case.findings.iter().filter(|finding| finding.verdict.is_miss()) {
        miss(&mut out, report, case, finding);
    }
    if !case.transcript.is_empty() {
        out.push_str("\ntranscript:\n");
    }
    let end = out.len() + TRANSCRIPT;
    for (i, line) in case.transcript.iter().enumerate() {
        let _ = writeln!(out, "{}  {}", line_head(line), line.what);
        for text in line.text.lines() {
            if out.len() > end {
                break;
            }
            let _ = writeln!(out, "               {text}");
        }
        if out.len() > end {
            let rest = case.transcript.len() - i;
            let _ = writeln!(out, "(cut; the JSON report has the last {rest} entries in full)");
            break;
        }
    }
    out
}

fn miss(out: &mut String, report: &Report, case: &CaseResult, finding: &Finding) {
    let Finding { row, verdict, expected, actual, .. } = finding;
    let row_result = report.row(row);
    let level = row_result.map_or("", |row| row.level.as_str());
    let _ = write!(out, "\n{row} ({level}): {verdict}");
    if let Some(reason) = case.known.get(row) {
        let _ = write!(out, ", known: {reason}");
    } else if row_result.is_some_and(|row| !row.counts) {
        out.push_str(", does not count");
    }
    let _ = writeln!(out, "\n  expected: {expected}\n  actual: {actual}");
    for reading in row_result.map(|row| row.readings.as_slice()).unwrap_or_default() {
        let title = opamp_spec::readings().iter().find(|known| known.id == *reading);
        let _ = writeln!(out, "  reading: {reading} {}", title.map_or("", |r| r.title.as_str()));
    }
}

fn counts(out: &mut String, tests: usize, failures: usize, errors: usize) {
    attribute(out, "tests", &tests.to_string());
    attribute(out, "failures", &failures.to_string());
    attribute(out, "errors", &errors.to_string());
}

fn attribute(out: &mut String, name: &str, value: &str) {
    let _ = write!(out, " {name}=\"");
    // A parser would turn these into spaces; the text is for one line anyway.
    escaped(out, &value.replace(['\n', '\t'], " "));
    out.push('"');
}

/// Appends `text` so that it stands for itself both between tags and in an attribute.
fn escaped(out: &mut String, text: &str) {
    for c in visible(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
}

fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    /// The test cases that have such an element.
    fn cases<'a>(xml: &'a str, element: &str) -> Vec<&'a str> {
        let start = format!("><{element}");
        xml.split("    <testcase").skip(1).filter(|case| case.contains(&start)).collect()
    }

    #[test]
    fn red_is_what_sets_the_exit_status() {
        let xml = document(&sample::server());
        let failures = cases(&xml, "failure");
        assert_eq!(failures.len(), 3, "one miss over two transports, and the stale entry: {xml}");
        assert!(failures[0].contains(r#"name="gap (websocket)" classname="server.sequence""#));
        assert!(failures[0].contains(r#"type="fail" message="SEQ-04: a reply without flags""#));
        assert!(failures[0].contains("reading: A05 ") && failures[0].contains("sequence_num: 5"));
        assert!(failures[2].contains(r#"name="server/framing/header WS-06""#));
        let errors = cases(&xml, "error");
        assert_eq!(errors.len(), 1);
        assert!(errors[0].contains("no port is free"));
        let skipped = cases(&xml, "skipped").join("\n");
        assert!(skipped.contains("CFG-03 known: offers only after a restart"), "{skipped}");
        assert!(skipped.contains("does not count: CSR-15: no answer"), "{skipped}");
        assert!(skipped.contains("not-applicable: newer than v0.18.0"), "{skipped}");
        let head = xml.lines().nth(1).unwrap();
        assert!(head.contains(r#"tests="8" failures="3" errors="1" skipped="3""#), "{head}");
    }

    #[test]
    fn a_recommendation_fails_only_when_it_counts() {
        let mut report = sample::server();
        report.cases[3].findings.retain(|finding| finding.row == "ERR-11");
        report.cases[3].verdict = Verdict::NonStrict;
        let xml = document(&report);
        let case = cases(&xml, "system-out")[0];
        assert!(case.contains("\"other (websocket)\"") && case.contains("a bare 400"), "{case}");
        report.rows.iter_mut().for_each(|row| row.counts = true);
        assert!(document(&report).contains(r#"type="non-strict" message="ERR-11: a bare 400""#));
    }

    #[test]
    fn no_text_breaks_the_document() {
        let mut report = sample::server();
        let evil = "\0\x1b]]><a b='\"&amp;\u{ffff}\u{85}\r\n\t";
        report.subject.name = evil.into();
        for case in &mut report.cases {
            case.case = format!("{evil}/{evil}");
            for finding in &mut case.findings {
                finding.actual = evil.into();
            }
            for line in &mut case.transcript {
                (line.what, line.text) = (evil.into(), evil.repeat(9000));
            }
        }
        let xml = document(&report);
        let shown = "\\u{0}\\u{1b}]]&gt;&lt;a b='&quot;&amp;amp;\\u{ffff}\\u{85}\\r  ";
        assert!(xml.contains(&format!("value=\"{shown} 1.2.3\"")));
        assert!(xml.chars().all(|c| c == '\n' || c == '\t' || !c.is_control()));
        assert!(xml.contains("(cut; the JSON report has the last 3 entries in full)"));
        // Every tag is one of ours: a `<` of a text would start another.
        let tags = xml.split('<').skip(1).map(|tag| {
            let end = tag.find(['>', ' ']).unwrap_or(tag.len());
            tag[..end].trim_start_matches('/').trim_end_matches('/')
        });
        const OURS: [&str; 10] = [
            "?xml",
            "testsuites",
            "testsuite",
            "testcase",
            "properties",
            "property",
            "failure",
            "error",
            "skipped",
            "system-out",
        ];
        for tag in tags {
            assert!(OURS.contains(&tag), "{tag}");
        }
    }
}
