//! `opamp-conformance list`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use opamp_conformance::case::{Case, Script, cases};
use opamp_conformance::coverage::why_not;
use opamp_conformance::report::Side;
use opamp_conformance::select::concerns;
use opamp_spec::{Requirement, Weight, requirement, requirements};
use serde_json::{Value, json};

use crate::args::ListArgs;
use crate::write;

pub(crate) fn run(args: &ListArgs) -> Result<u8, String> {
    let selection = args.select.selection();
    let mut found: Vec<&'static Case> = Vec::new();
    let mut rows: BTreeSet<&'static str> = BTreeSet::new();
    let sides: Vec<Side> = match args.side {
        Some(side) => vec![side.side()],
        None => vec![Side::Server, Side::Client],
    };
    let mut errors = Vec::new();
    for side in &sides {
        match selection.among(*side, &cases(*side)) {
            Ok(selected) => {
                found.extend(selected.cases);
                rows.extend(selected.rows);
            }
            // A case of one side is none of the other.
            Err(error) => errors.push(error.to_string()),
        }
    }
    if errors.len() == sides.len() {
        return Err(errors.swap_remove(0));
    }
    let transports = args.select.transports();
    found.retain(|case| {
        case.transports.is_empty() || case.transports.iter().any(|t| transports.contains(t))
    });
    let text = if args.requirements {
        let rows = requirements().iter().filter(|row| {
            rows.contains(row.id.as_str()) && sides.iter().any(|side| concerns(*side, row))
        });
        if args.json { json_text(rows.map(row_json)) } else { row_table(rows) }
    } else if args.json {
        json_text(found.iter().map(|case| case_json(case)))
    } else {
        case_table(&found)
    };
    write(Path::new("-"), &text)?;
    Ok(0)
}

fn json_text(items: impl Iterator<Item = Value>) -> String {
    format!("{:#}\n", Value::from_iter(items))
}

fn case_table(cases: &[&Case]) -> String {
    let width = cases.iter().map(|case| case.name.len()).max().unwrap_or_default();
    let mut text = String::new();
    for case in cases {
        // Writing to a string does not fail.
        let _ =
            writeln!(text, "{:<width$}  {:<9}  {}", case.name, how(case), case.judges.join(" "));
    }
    let _ = writeln!(text, "{} cases", cases.len());
    text
}

/// Over which transports a case runs, in a word.
fn how(case: &Case) -> &'static str {
    match case.transports {
        [] => "every",
        [one] => one.name(),
        _ => "both",
    }
}

fn row_table<'a>(rows: impl Iterator<Item = &'a Requirement>) -> String {
    let (mut text, mut count) = (String::new(), 0);
    for row in rows {
        count += 1;
        let Requirement { id, level, maturity, since, party, .. } = row;
        let judging = judging(id).len();
        let cases = match (judging, row.observable.as_str()) {
            (0, "no") => "not observable".to_owned(),
            (1, _) => "1 case".to_owned(),
            (judging, _) => format!("{judging} cases"),
        };
        let _ =
            writeln!(text, "{id:<11} {level:<10}  {maturity:<11}  {since:<7}  {party:<6}  {cases}");
    }
    let _ = writeln!(text, "{count} requirements");
    text
}

/// The cases that judge a row.
pub(crate) fn judging(row: &str) -> Vec<&'static Case> {
    [Side::Server, Side::Client]
        .into_iter()
        .flat_map(cases)
        .filter(|case| case.judges.contains(&row))
        .collect()
}

/// What missing a row comes to.
pub(crate) fn weight(row: &Requirement) -> &'static str {
    match row.weight() {
        Weight::Must => "fail",
        Weight::Should => "non-strict",
        Weight::Note => "noted only",
    }
}

fn case_json(case: &Case) -> Value {
    json!({
        "case": case.name,
        "side": case.side().name(),
        "transports": case.transports,
        "observer": matches!(case.script, Script::Observer(_)),
        "alone": case.alone,
        "does": case.does,
        "expects": case.expects,
        "judges": case.judges.iter().filter_map(|id| requirement(id)).map(|row| json!({
            "row": row.id,
            "level": row.level,
            "maturity": row.maturity,
            "since": row.since,
            "miss": weight(row),
        })).collect::<Vec<_>>(),
        "broken_by": case.broken_by,
    })
}

fn row_json(row: &Requirement) -> Value {
    let sides = [Side::Server, Side::Client];
    let uncovered = sides.iter().find_map(|side| why_not(*side, &row.id));
    let names: Vec<_> = judging(&row.id).iter().map(|case| case.name).collect();
    json!({
        "row": row.id,
        "requirement": row.requirement,
        "section": row.section,
        "party": row.party,
        "level": row.level,
        "maturity": row.maturity,
        "since": row.since,
        "observable": row.observable == "yes",
        "miss": weight(row),
        "readings": row.readings().map(|reading| reading.id.as_str()).collect::<Vec<_>>(),
        "cases": names,
        "uncovered": uncovered,
    })
}
