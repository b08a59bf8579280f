//! The report for a person at a terminal: what happens while a run goes on, and a summary after it.
//!
//! Both go to where the caller wants them; colour and the line that changes in place are used only
//! when asked for, and no verdict is told by colour alone.

use std::io;

use super::text::{number, one_line};
use super::{CaseResult, Report, Subject};
use crate::verdict::Verdict;

mod summary;

/// Columns the text is laid out for.
const WIDTH: usize = 100;

/// Columns of the line that changes in place; one that wraps could not be taken back.
const LIVE_WIDTH: usize = 79;

/// A person's summary of a report: what failed first, then what was warned of, what could not be
/// tested and why, counts by topic, what the baseline knows, and the exit status in words.
#[must_use]
pub fn summary(report: &Report, color: bool) -> String {
    summary::Summary::of(report, Paint { color }).text
}

/// Tells how a run goes on while it does.
///
/// On a terminal ([`live`](Self::live)) one line changes in place and only cases that went wrong
/// leave a line of their own; elsewhere each case is a line.
#[derive(Debug)]
pub struct Progress<W> {
    out: W,
    live: bool,
    paint: Paint,
    cases: usize,
    done: usize,
    failed: usize,
    errors: usize,
    warned: usize,
    /// Whether the line that changes in place is shown and has to be taken back.
    shown: bool,
}

impl<W: io::Write> Progress<W> {
    /// Progress written to `out` as plain lines without colour.
    pub fn new(out: W) -> Self {
        Self {
            out,
            live: false,
            paint: Paint { color: false },
            cases: 0,
            done: 0,
            failed: 0,
            errors: 0,
            warned: 0,
            shown: false,
        }
    }

    /// Whether `out` is a terminal, so that a line can change in place.
    #[must_use]
    pub fn live(mut self, live: bool) -> Self {
        self.live = live;
        self
    }

    /// Whether to use colour.
    #[must_use]
    pub fn color(mut self, color: bool) -> Self {
        self.paint.color = color;
        self
    }

    /// A run of this many cases starts.
    ///
    /// # Errors
    ///
    /// When writing fails.
    pub fn started(&mut self, subject: &Subject, cases: usize) -> io::Result<()> {
        (self.cases, self.done) = (cases, 0);
        (self.failed, self.errors, self.warned) = (0, 0, 0);
        let what = one_line(&subject.title(), WIDTH);
        writeln!(self.out, "{}: {} {what}", number(cases, "case"), subject.side.name())?;
        self.status("…")
    }

    /// A case came to its end.
    ///
    /// # Errors
    ///
    /// When writing fails.
    pub fn finished(&mut self, case: &CaseResult) -> io::Result<()> {
        let known = case.is_known();
        self.done += 1;
        match case.verdict {
            _ if known => {}
            Verdict::HarnessError => self.errors += 1,
            Verdict::Fail => self.failed += 1,
            Verdict::NonStrict => self.warned += 1,
            _ => {}
        }
        if case.verdict >= Verdict::NonStrict && !known || !self.live {
            self.clear()?;
            let digits = self.cases.to_string().len();
            let word = format!("{:<14}", case.verdict.name());
            write!(self.out, "[{:>digits$}/{}] ", self.done, self.cases)?;
            let title = one_line(&case.title(), WIDTH);
            write!(self.out, "{} {title}", self.paint.verdict(case.verdict, &word))?;
            if known {
                write!(self.out, ", known")?;
            }
            if let Some(why) = headline(case) {
                write!(self.out, "\n{:1$}{why}", "", 2 * digits + 4)?;
            }
            writeln!(self.out)?;
        }
        self.status(&case.title())
    }

    /// The run is over; the line that changes in place goes away.
    ///
    /// # Errors
    ///
    /// When writing fails.
    pub fn ended(&mut self) -> io::Result<()> {
        self.clear()?;
        self.out.flush()
    }

    fn clear(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.shown) { write!(self.out, "\r\x1b[2K") } else { Ok(()) }
    }

    fn status(&mut self, last: &str) -> io::Result<()> {
        if self.live {
            self.clear()?;
            let Self { cases, done, failed, warned, errors, .. } = self;
            let (errors, warned) = (number(*errors, "error"), number(*warned, "warning"));
            let line = format!("[{done}/{cases}] {failed} failed, {errors}, {warned}; {last}");
            write!(self.out, "{}", one_line(&line, LIVE_WIDTH))?;
            self.shown = true;
        }
        self.out.flush()
    }
}

/// The first finding that made a case what it is, on one line; one that is not known if there is.
fn headline(case: &CaseResult) -> Option<String> {
    if case.verdict < Verdict::NonStrict {
        return None;
    }
    let findings = case.findings.iter().filter(|finding| finding.verdict == case.verdict);
    let finding = { findings }.min_by_key(|finding| case.known.contains_key(&finding.row));
    let line = match (finding, &case.stopped) {
        (Some(finding), _) => format!("{}: {}", finding.row, finding.actual),
        (None, Some(stopped)) => stopped.clone(),
        (None, None) => return None,
    };
    Some(one_line(&line, WIDTH))
}

/// Colours, where they are wanted.
#[derive(Debug, Clone, Copy)]
struct Paint {
    color: bool,
}

impl Paint {
    fn with(self, code: &str, text: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn verdict(self, verdict: Verdict, text: &str) -> String {
        let code = match verdict {
            Verdict::Pass => "32",
            Verdict::NonStrict => "33",
            Verdict::Fail => "31",
            Verdict::HarnessError => "35",
            Verdict::Untestable | Verdict::NotApplicable => "2",
        };
        self.with(code, text)
    }

    fn heading(self, text: &str) -> String {
        self.with("1", text)
    }

    fn dim(self, text: &str) -> String {
        self.with("2", text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    fn progress(live: bool) -> String {
        let report = sample::server();
        let mut out = Vec::new();
        let mut progress = Progress::new(&mut out).live(live);
        progress.started(&report.subject, report.cases.len()).unwrap();
        for case in &report.cases {
            progress.finished(case).unwrap();
        }
        progress.ended().unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn away_from_a_terminal_each_case_is_a_plain_line() {
        let text = progress(false);
        assert!(!text.contains('\x1b') && !text.contains('\r'), "{text}");
        let cases: Vec<&str> = text.lines().filter(|line| line.starts_with('[')).collect();
        assert_eq!(cases.len(), sample::server().cases.len());
        assert_eq!(cases[0], "[1/7] pass           server/framing/header (websocket)");
        assert_eq!(cases[4], "[5/7] fail           server/config/offer (http), known");
        assert!(text.contains("\n      SEQ-04: a reply without flags\n"), "{text}");
    }

    #[test]
    fn on_a_terminal_only_what_went_wrong_stays() {
        let text = progress(true);
        assert!(text.ends_with("\r\x1b[2K"), "the changing line is taken back: {text:?}");
        let stays: Vec<&str> = text
            .lines()
            .filter_map(|line| line.rsplit("\x1b[2K").next())
            .filter(|line| line.starts_with('['))
            .collect();
        assert_eq!(stays.len(), 4, "{stays:?}");
        assert!(text.contains("[7/7] 3 failed, 1 error, 0 warnings; "), "{text:?}");
    }
}
