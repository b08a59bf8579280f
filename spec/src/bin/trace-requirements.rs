//! Makes the report of what judges each requirement: see `--help`.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it is a program for a terminal")]

use std::process::ExitCode;

use opamp_spec::traceability::{CaseReport, Side, Traceability};

const HELP: &str = "\
Says which executed tests and conformance cases judge each row of the requirements catalogue.

usage: trace-requirements [--client REPORT.json] [--server REPORT.json] [--write FILE | --check FILE]

Tests leave their records below target/debug/traceability when they run; remove that directory and
run `cargo test --workspace` for records of the present tests alone.

  --client REPORT.json  what the conformance tester said of a client (a report of --json)
  --server REPORT.json  the same of a server
  --write FILE          write the report as Markdown, such as spec/TRACEABILITY.md
  --check FILE          fail if the file is not what would be written
  --help                this text

Exit status: 0 every row is judged or has a reason in spec/reasons.csv, and the file to be checked is
up to date; 1 otherwise; 2 bad usage.";

struct Args {
    reports: Vec<(Side, CaseReport)>,
    write: Option<String>,
    check: Option<String>,
}

fn main() -> ExitCode {
    let args = match parse(std::env::args().skip(1)) {
        Ok(Some(args)) => args,
        Ok(None) => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("trace-requirements: {error}");
            return ExitCode::from(2);
        }
    };
    let records = opamp_spec::records();
    let made = Traceability::new(&records, &args.reports);
    if let Some(path) = args.write
        && let Err(error) = std::fs::write(&path, made.to_markdown())
    {
        eprintln!("trace-requirements: {path}: {error}");
        return ExitCode::FAILURE;
    }
    for problem in made.problems() {
        println!("{problem}");
    }
    println!("{} records of tests, {} problems", records.len(), made.problems().len());
    let is_stale = args.check.is_some_and(|path| {
        let difference = difference(&path, &made.to_markdown());
        if let Some(difference) = &difference {
            println!("{path} is out of date, make it anew with --write: {difference}");
        }
        difference.is_some()
    });
    match made.problems().is_empty() && !is_stale {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Where a file first differs from what it should be.
fn difference(path: &str, expected: &str) -> Option<String> {
    let found = match std::fs::read_to_string(path) {
        Ok(found) => found,
        Err(error) => return Some(error.to_string()),
    };
    let (mut found, mut expected) = (found.lines(), expected.lines());
    for line in 1.. {
        match (found.next(), expected.next()) {
            (None, None) => break,
            (found, expected) if found == expected => {}
            (found, expected) => {
                let [found, expected] =
                    [found, expected].map(|line| line.unwrap_or("the end of the file"));
                return Some(format!("line {line} is\n  {found}\nand should be\n  {expected}"));
            }
        }
    }
    None
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Args>, String> {
    let mut parsed = Args { reports: Vec::new(), write: None, check: None };
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--client" => parsed.reports.push((Side::Client, read(&value()?)?)),
            "--server" => parsed.reports.push((Side::Server, read(&value()?)?)),
            "--write" => parsed.write = Some(value()?),
            "--check" => parsed.check = Some(value()?),
            "--help" | "-h" => return Ok(None),
            _ => return Err(format!("{arg} is unknown; see --help")),
        }
    }
    Ok(Some(parsed))
}

fn read(path: &str) -> Result<CaseReport, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    serde_json::from_str(&text)
        .map_err(|error| format!("{path}: no report of the conformance tester: {error}"))
}
