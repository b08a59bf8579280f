//! What is asked for wrongly, and what needs no subject.

use crate::support::run;

const URL: &str = "ws://127.0.0.1:9";

#[test]
fn wrong_usage_is_status_3_and_help_is_0() {
    run(&["server"]).is_unable(&["--url"]);
    run(&["client"]).is_unable(&["--exec"]);
    run(&["fly"]).is_unable(&["fly"]);
    run(&["server", "--url", URL, "--timeout-scale", "0"]).is_unable(&["0.1 to 100"]);
    let help = run(&["--help"]);
    assert!(help.status == 0 && help.out.contains("Exit status:"), "{}", help.out);
}

#[test]
fn what_cannot_be_used_is_told_before_anything_runs() {
    let server = |more: &[&str]| run(&[&["server", "--url", URL], more].concat());
    server(&["--id", "NOPE-1"]).is_unable(&["no requirement is called \"NOPE-1\""]);
    server(&["--id", "CFG", "--case", "server/sequence"]).is_unable(&["no case"]);
    server(&["--id", "SIZE"]).is_unable(&["newer than v0.18.0"]);
    server(&["--hook", "/nowhere/hook"]).is_unable(&["hook cannot be used", "/nowhere/hook"]);
    server(&["--hook-url", "http://127.0.0.1:9"]).is_unable(&["hook cannot be used", "refused"]);
    server(&["--baseline", "/nowhere/b.yaml"]).is_unable(&["/nowhere/b.yaml"]);
    server(&["--baseline", "/dev/null"]).is_unable(&["Connection refused"]);
    server(&["--json", "/nowhere/r.json"]).is_unable(&["/nowhere/r.json"]);
    server(&["--header", "a b=c"]).is_unable(&["header"]);
    run(&["server", "--url", "wss://127.0.0.1:9"]).is_unable(&["--ca"]);
    run(&["server", "--url", "127.0.0.1:9"]).is_unable(&["no ws, wss, http or https URL"]);
    run(&["compare", "/nowhere/a", "/nowhere/b"]).is_unable(&["/nowhere/a"]);
    run(&["selftest", "--fault", "none-such"]).is_unable(&["none-such"]);
}

#[test]
fn cases_and_requirements_are_listed_and_explained() {
    let list = run(&["list", "--case", "server/sequence"]);
    assert!(list.status == 0 && list.out.contains("server/sequence/gap"), "{}", list.out);
    assert!(!list.out.contains("client/"), "{}", list.out);
    let list = run(&["list", "--requirements", "--id", "SEQ-04", "--json"]);
    let rows: serde_json::Value = serde_json::from_str(&list.out).unwrap();
    assert_eq!((rows[0]["row"].as_str(), rows[0]["miss"].as_str()), (Some("SEQ-04"), Some("fail")));

    let row = run(&["explain", "seq-04"]).out;
    assert!(row.contains("server/sequence/gap") && row.contains("reading A05"), "{row}");
    let case = run(&["explain", "server/sequence/gap"]).out;
    assert!(case.contains("SEQ-04") && case.contains("gap-is-ignored"), "{case}");
    run(&["explain", "server/sequence/gaps"]).is_unable(&["no requirement, reading or case"]);
}

#[test]
fn the_selftest_tells_what_it_proved() {
    let one = run(&["selftest", "--fault", "gap-is-ignored", "--verbose"]);
    assert_eq!(one.status, 0, "{}{}", one.out, one.err);
    assert!(one.err.contains("server with gap-is-ignored: as declared"), "{}", one.err);
    assert!(one.out.starts_with("1 reference peer"), "{}", one.out);
}
