//! A small report of each side for the tests of the forms.

use super::{
    By, CaseResult, Line, Report, RowResult, SCHEMA, Side, Subject, Transport, Verdict as V,
};
use crate::verdict::Finding;

/// A finding about a requirement.
pub(super) fn finding(row: &str, verdict: V, actual: &str) -> Finding {
    let expected = match row {
        "SEQ-04" => "ReportFullState in the reply to a message with a gap before it",
        _ => "what the requirement asks for",
    };
    let entry = (verdict == V::Fail).then_some(1);
    let (row, expected, actual) = (row.into(), expected.into(), actual.into());
    Finding { row, verdict, noted: false, expected, actual, entry }
}

/// A case with a short transcript.
pub(super) fn case(name: &str, transport: Transport, findings: Vec<Finding>) -> CaseResult {
    let line = |at_ms, by, what: &str, text: &str, hex: &str| {
        let (what, text, hex) = (what.into(), text.into(), hex.into());
        Line { at_ms, connection: 1, by, what, text, hex }
    };
    CaseResult {
        case: name.into(),
        transport: Some(transport),
        does: "sends a report, leaves out a number, and sends another".into(),
        expects: "an answer".into(),
        verdict: findings.iter().map(|finding| finding.verdict).max().unwrap_or(V::Untestable),
        stopped: None,
        findings,
        known: [].into(),
        duration_ms: 1250,
        transcript: vec![
            line(3, By::Tester, "message, 3 bytes", "sequence_num: 5", "001005"),
            line(9, By::Subject, "message, 1 byte", "", "00"),
            line(9, By::Remark, "the tester closes", "", ""),
        ],
    }
}

/// A report of these cases about a subject; a row for each requirement they judge.
pub(super) fn report(side: Side, name: &str, cases: Vec<CaseResult>) -> Report {
    let row = |requirement: &opamp_spec::Requirement| {
        let judged = |case: &CaseResult| case.findings.iter().any(|f| f.row == requirement.id);
        let findings = cases.iter().flat_map(|case| &case.findings);
        let verdicts = findings.filter(|f| f.row == requirement.id).map(|f| f.verdict);
        let verdict = verdicts.max();
        RowResult {
            row: requirement.id.clone(),
            level: requirement.level.clone(),
            maturity: requirement.maturity.clone(),
            readings: requirement.readings().map(|reading| reading.id.clone()).collect(),
            verdict,
            reason: verdict.is_none().then(|| "no case of this run judges it".into()),
            counts: requirement.maturity != "development"
                && requirement.weight() == opamp_spec::Weight::Must,
            cases: (0..cases.len()).filter(|index| judged(&cases[*index])).collect(),
        }
    };
    let other = if side == Side::Server { "client" } else { "server" };
    let rows = opamp_spec::requirements().iter().filter(|r| r.party != other).map(row).collect();
    Report {
        schema: SCHEMA,
        tester: "0.1.0".into(),
        subject: Subject {
            name: name.into(),
            version: Some("1.2.3".into()),
            side,
            reached_by: "ws://127.0.0.1:4320/v1/opamp".into(),
        },
        spec: "v0.18.0".into(),
        seed: 7,
        timeout_scale: 1.0,
        started: "2026-08-01T12:00:00Z".into(),
        duration_ms: 41_260,
        cases,
        rows,
        stale: Vec::new(),
        exit_status: 0,
    }
}

/// A report about a server with everything in it: one of each verdict, a miss that does not count,
/// one that the baseline knows, and a stale entry.
pub(super) fn server() -> Report {
    use Transport::{Http, WebSocket};
    let gap = || vec![finding("SEQ-04", V::Fail, "a reply without flags")];
    let mut known =
        case("server/config/offer", Http, vec![finding("CFG-03", V::Fail, "no remote_config")]);
    known.known.insert("CFG-03".into(), "offers only after a restart".into());
    let other = vec![
        finding("CSR-15", V::Fail, "no answer"),
        finding("ERR-11", V::NonStrict, "a bare 400"),
        finding("PKG-02", V::Untestable, "the hook offer-packages is missing"),
    ];
    let mut broken = case("server/limits/flood", WebSocket, Vec::new());
    broken.verdict = V::HarnessError;
    broken.stopped = Some("no port is free".into());
    let mut noted = finding("ERR-04", V::Pass, "capabilities beside the error");
    noted.noted = true;
    let header = vec![finding("WS-06", V::Pass, "0x00"), noted];
    let cases = vec![
        case("server/framing/header", WebSocket, header),
        case("server/sequence/gap", WebSocket, gap()),
        case("server/sequence/gap", Http, gap()),
        case("server/hostile/other", WebSocket, other),
        known,
        case(
            "server/http/health",
            Http,
            vec![finding("CLOSE-07", V::NotApplicable, "newer than v0.18.0")],
        ),
        broken,
    ];
    let mut report = report(Side::Server, "sample server", cases);
    report.stale.push("server/framing/header WS-06".into());
    report.exit_status = 1;
    report
}
