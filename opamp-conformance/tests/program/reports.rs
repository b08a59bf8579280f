//! A run against a server on real sockets: status, reports and baseline.

use std::fs;

use opamp_conformance::report::Report;
use opamp_conformance::verdict::Verdict;

use crate::support::{run, run_against};

const SELECT: [&str; 5] = ["server", "--url", "{url}", "--case", "server/sequence/gap"];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    SELECT.iter().copied().chain(more.iter().copied()).collect()
}

#[test]
fn the_status_and_every_report_say_what_was_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (good, bad) = (path("good.json"), path("bad.json"));
    let (junit, page, matrix) = (path("junit.xml"), path("page.html"), path("matrix.html"));

    let ran = run_against(None, &with(&["--json", &good, "--seed", "7"]));
    assert_eq!(ran.status, 0, "{}{}", ran.out, ran.err);
    assert!(ran.out.contains("exit status 0"), "{}", ran.out);
    let report = Report::read(&good).unwrap();
    assert_eq!((report.seed, report.cases.len()), (7, 2));
    assert_eq!(report.row("SEQ-04").unwrap().verdict, Some(Verdict::Pass));

    let more = ["--json", &bad, "--junit", &junit, "--html", &page, "--name", "a", "--quiet"];
    let ran = run_against(Some("gap-is-ignored"), &with(&more));
    assert_eq!((ran.status, ran.out.as_str(), ran.err.as_str()), (1, "", ""));
    assert_eq!(Report::read(&bad).unwrap().row("SEQ-04").unwrap().verdict, Some(Verdict::Fail));
    assert!(fs::read_to_string(&junit).unwrap().contains("<failure"));
    assert!(fs::read_to_string(&page).unwrap().starts_with("<!doctype html>"));

    let compared = run(&["compare", &good, &bad]);
    assert!(compared.status == 1 && compared.out.contains("REGRESSED"), "{}", compared.out);
    assert_eq!(run(&["compare", &bad, &good]).status, 0);
    assert_eq!(run(&["html", &matrix, &good, &bad]).status, 0);
    assert!(fs::metadata(&matrix).unwrap().len() > 1000);
}

#[test]
fn a_report_to_standard_output_is_alone_there() {
    let ran = run_against(None, &with(&["--transport", "http", "--json", "-"]));
    let report = Report::from_json(ran.out.as_bytes()).unwrap();
    assert_eq!(report.cases.len(), 1);
    assert!(ran.err.contains("exit status 0"), "{}", ran.err);
}

#[test]
fn a_baseline_is_written_filled_in_and_becomes_stale() {
    let dir = tempfile::tempdir().unwrap();
    let baseline = dir.path().join("baseline.yaml");
    let path = baseline.to_str().unwrap();
    let fault = Some("gap-is-ignored");
    assert_eq!(run_against(fault, &with(&["--write-baseline", path])).status, 1);
    run_against(fault, &with(&["--baseline", path])).is_unable(&["no reason"]);

    let text = fs::read_to_string(&baseline).unwrap();
    fs::write(&baseline, text.replace("\"\"", "\"not yet\"")).unwrap();
    let known = run_against(fault, &with(&["--baseline", path]));
    assert_eq!(known.status, 0, "{}{}", known.out, known.err);
    assert!(known.out.contains("KNOWN from the baseline") && known.out.contains("not yet"));

    let stale = run_against(None, &with(&["--baseline", path]));
    assert_eq!(stale.status, 1, "{}{}", stale.out, stale.err);
    assert!(stale.out.contains("STALE"), "{}", stale.out);
}
