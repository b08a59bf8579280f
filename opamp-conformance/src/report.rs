//! The result of a run as data: what every form of report is made from, and the JSON that one run
//! hands to another. `schema` is raised when a field changes its meaning or goes away; fields may be
//! added without.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::verdict::{Finding, Verdict};

pub mod compare;
pub mod html;
pub mod junit;
pub mod terminal;

/// The version of the JSON schema written here.
pub const SCHEMA: u32 = 1;

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

impl Report {
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

fn count(verdicts: impl Iterator<Item = Verdict>) -> BTreeMap<Verdict, usize> {
    let mut counts = BTreeMap::new();
    for verdict in verdicts {
        *counts.entry(verdict).or_default() += 1;
    }
    counts
}
