//! The result of a run as data: what every form of report is made from, and the JSON that one run
//! hands to another. `schema` is raised when a field changes its meaning or goes away; fields may
//! be added without.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::verdict::{Finding, Verdict};

pub mod compare;
pub mod html;
pub mod junit;
#[cfg(test)]
mod sample;
pub mod terminal;
mod text;

/// The version of the JSON schema written here.
pub const SCHEMA: u32 = 1;

/// The reason of rows that a run was not asked about.
pub const NOT_SELECTED: &str = "not selected in this run";

/// Everything one run found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`] of the tester that wrote it.
    pub schema: u32,
    /// Version of the tester.
    pub tester: String,
    /// What was tested.
    pub subject: Subject,
    /// The release of the specification it was held to: `v0.18.0` or `main`.
    pub spec: String,
    /// The seed ids and other arbitrary content came from.
    pub seed: u64,
    /// What every wait was multiplied with.
    pub timeout_scale: f64,
    /// When the run started, RFC 3339.
    pub started: String,
    /// How long it took.
    pub duration_ms: u64,
    /// What each case came to, in the order of the cases.
    pub cases: Vec<CaseResult>,
    /// What each requirement of the subject's side comes to over all cases, in catalogue order.
    pub rows: Vec<RowResult>,
    /// Entries of the baseline that passed in this run and have to go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stale: Vec<String>,
    /// The exit status that follows.
    pub exit_status: u8,
}

impl RowResult {
    /// Whether the run was asked about it.
    #[must_use]
    pub fn is_selected(&self) -> bool {
        self.reason.as_deref() != Some(NOT_SELECTED)
    }
}

/// What was tested.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// Its name, for example `opamp-go server`.
    pub name: String,
    /// Its version, where the user gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Which end it is: `server` or `client`.
    pub side: Side,
    /// The URL or the command line.
    pub reached_by: String,
}

/// An end of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The management server.
    Server,
    /// The agent's end.
    Client,
}

impl Side {
    /// `server` or `client`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
        }
    }
}

/// A transport of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// A WebSocket.
    WebSocket,
    /// Plain HTTP.
    Http,
}

impl Transport {
    /// Both.
    pub const BOTH: &'static [Self] = &[Self::WebSocket, Self::Http];

    /// `websocket` or `http`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::Http => "http",
        }
    }
}

/// What one case came to over one transport.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CaseResult {
    /// Name of the case, for example `server/sequence/gap`.
    pub case: String,
    /// The transport it ran over; `None` for a case that looks at everything the run recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<Transport>,
    /// What the tester did.
    pub does: String,
    /// What it expected.
    pub expects: String,
    /// The greatest verdict of the findings.
    pub verdict: Verdict,
    /// What stopped the conversation early, if something did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
    /// One for each requirement the case judges.
    pub findings: Vec<Finding>,
    /// Reasons of the baseline for misses that are known: requirement id to reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub known: BTreeMap<String, String>,
    /// How long it took.
    pub duration_ms: u64,
    /// What went over the wire.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub transcript: Vec<Line>,
}

/// One line of a transcript.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Milliseconds since the case began.
    pub at_ms: u64,
    /// Which connection of the case, from 1; 0 for none.
    pub connection: u32,
    /// Who did it.
    pub by: By,
    /// What it was, for example `WebSocket message, 42 bytes`.
    pub what: String,
    /// Its content, decoded.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// Its bytes in hexadecimal, cut where `what` says so.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hex: String,
}

/// Who did something in a transcript.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// The tester sent it.
    Tester,
    /// The subject sent it.
    Subject,
    /// A remark of the tester, such as a hook it called.
    Remark,
}

/// What one requirement comes to over all cases that judged it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowResult {
    /// Its id.
    pub row: String,
    /// `MUST`, `SHOULD`, …, `implied`, as in the catalogue.
    pub level: String,
    /// `stable`, `beta` or `development`.
    pub maturity: String,
    /// The readings it depends on, for example `A05`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub readings: Vec<String>,
    /// The greatest verdict; `None` where no case judged it.
    pub verdict: Option<Verdict>,
    /// Why no case judges it, or why it was not judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether a miss sets the exit status.
    pub counts: bool,
    /// Indices into [`Report::cases`] of the cases that judged it.
    pub cases: Vec<usize>,
}

/// Why a file is no report that this tester can read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file's content is no report.
    #[error("{}: {source}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ParseError,
    },
}

/// Why some bytes are no report that this tester can read.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// They are not JSON.
    #[error("not JSON: {0}")]
    NotJson(serde_json::Error),
    /// They are JSON of some other kind.
    #[error("not a report of this tester: {0}")]
    NotAReport(serde_json::Error),
    /// The report has another schema.
    #[error("a report of schema {found}, written by opamp-conformance {tester}; this tester, \
             {}, reads schema {SCHEMA}", env!("CARGO_PKG_VERSION"))]
    OtherSchema {
        /// The schema it says it has.
        found: u32,
        /// The version of the tester that wrote it.
        tester: String,
    },
}

impl Report {
    /// Reads the report in a file.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or has no report of the schema [`SCHEMA`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self, ReadError> {
        let path = path.as_ref();
        let bytes = std::fs::read(path)
            .map_err(|source| ReadError::Unreadable { path: path.to_owned(), source })?;
        Self::from_json(&bytes)
            .map_err(|source| ReadError::Malformed { path: path.to_owned(), source })
    }

    /// Reads a report from its JSON.
    ///
    /// # Errors
    ///
    /// When the bytes are no report of the schema [`SCHEMA`].
    pub fn from_json(bytes: &[u8]) -> Result<Self, ParseError> {
        /// What every schema has; looked at first, as the rest may differ.
        #[derive(Deserialize)]
        struct Head {
            schema: u32,
            #[serde(default)]
            tester: String,
        }
        let wrong = |error: serde_json::Error| match error.classify() {
            serde_json::error::Category::Data => ParseError::NotAReport(error),
            _ => ParseError::NotJson(error),
        };
        let head: Head = serde_json::from_slice(bytes).map_err(wrong)?;
        if head.schema != SCHEMA {
            return Err(ParseError::OtherSchema { found: head.schema, tester: head.tester });
        }
        serde_json::from_slice(bytes).map_err(wrong)
    }

    /// The report as JSON, indented, with a line feed at its end.
    ///
    /// # Errors
    ///
    /// None with the types of this module; the writer's error type says so only in general.
    pub fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self).map(|json| json + "\n")
    }

    /// Writes the report's JSON into a file, replacing it.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn write(&self, path: impl AsRef<Path>) -> io::Result<()> {
        std::fs::write(path, self.to_json()?)
    }

    /// For tests: goes on only if the subject conforms.
    ///
    /// # Panics
    ///
    /// With the summary for a person, where the exit status is not 0.
    #[track_caller]
    pub fn assert_conformant(&self) {
        assert!(self.exit_status == 0, "{}", terminal::summary(self, false));
    }

    /// What this requirement comes to; `None` where it is not one of the subject's side.
    #[must_use]
    pub fn row(&self, id: &str) -> Option<&RowResult> {
        self.rows.iter().find(|row| row.row == id)
    }

    /// Whether this finding of this case sets the exit status: a miss that counts and that the
    /// baseline does not know.
    #[must_use]
    pub fn counts(&self, case: &CaseResult, finding: &Finding) -> bool {
        finding.verdict.is_miss()
            && !case.known.contains_key(&finding.row)
            && self.row(&finding.row).is_some_and(|row| row.counts)
    }

    /// How many cases came to each verdict.
    #[must_use]
    pub fn case_counts(&self) -> BTreeMap<Verdict, usize> {
        count(self.cases.iter().map(|case| case.verdict))
    }

    /// How many requirements came to each verdict; those that no case judged are left out.
    #[must_use]
    pub fn row_counts(&self) -> BTreeMap<Verdict, usize> {
        count(self.rows.iter().filter_map(|row| row.verdict))
    }
}

impl CaseResult {
    /// The case and its transport, for example `server/sequence/gap (websocket)`.
    #[must_use]
    pub fn title(&self) -> String {
        match self.transport {
            Some(transport) => format!("{} ({})", self.case, transport.name()),
            None => self.case.clone(),
        }
    }

    /// Whether it went wrong in no other way than the baseline knows.
    #[must_use]
    pub fn is_known(&self) -> bool {
        let mut misses = self.findings.iter().filter(|finding| finding.verdict.is_miss());
        self.verdict.is_miss() && misses.all(|miss| self.known.contains_key(&miss.row))
    }
}

impl Subject {
    /// Its name, with its version where that is known.
    #[must_use]
    pub fn title(&self) -> String {
        match &self.version {
            Some(version) => format!("{} {version}", self.name),
            None => self.name.clone(),
        }
    }
}

/// The topic of a requirement's id: `SEQ` of `SEQ-03`.
fn topic(row: &str) -> &str {
    row.rsplit_once('-').map_or(row, |(topic, _)| topic)
}

fn count(verdicts: impl Iterator<Item = Verdict>) -> BTreeMap<Verdict, usize> {
    let mut counts = BTreeMap::new();
    for verdict in verdicts {
        *counts.entry(verdict).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_survives_its_json() {
        let report = sample::server();
        let json = report.to_json().unwrap();
        assert_eq!(Report::from_json(json.as_bytes()).unwrap(), report);
    }

    #[test]
    fn what_is_no_report_is_refused_with_its_reason() {
        let error = |bytes: &[u8]| Report::from_json(bytes).unwrap_err().to_string();
        assert!(error(b"<html>").starts_with("not JSON: "));
        assert!(error(b"").starts_with("not JSON: "));
        assert!(error(br#"{"schema": 1, "tester": "0.1.0""#).starts_with("not JSON: "));
        assert!(error(b"[1]").starts_with("not a report"));
        assert!(error(br#"{"schema": 1}"#).starts_with("not a report"));
        let other = error(br#"{"schema": 7, "tester": "9.1.0", "cases": 3}"#);
        assert!(other.contains("schema 7") && other.contains("9.1.0"), "{other}");
        assert!(other.contains("reads schema 1"), "{other}");
        let unreadable = Report::read("/nowhere/report.json").unwrap_err().to_string();
        assert!(unreadable.contains("/nowhere/report.json"), "{unreadable}");
    }
}
