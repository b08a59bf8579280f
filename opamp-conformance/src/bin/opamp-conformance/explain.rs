//! `opamp-conformance explain`.

use std::fmt::Write as _;
use std::path::Path;

use opamp_conformance::case::{Case, Script, cases};
use opamp_conformance::coverage::why_not;
use opamp_conformance::report::Side;
use opamp_conformance::selftest;
use opamp_spec::{Reading, Requirement, readings, requirement, requirements};

use crate::args::ExplainArgs;
use crate::list::{judging, weight};
use crate::write;

/// Columns the text is laid out for.
const WIDTH: usize = 100;
/// Where the text of a field begins.
const INDENT: usize = 14;

pub(crate) fn run(args: &ExplainArgs) -> Result<u8, String> {
    let texts: Result<Vec<_>, _> = args.what.iter().map(|what| explain(what)).collect();
    write(Path::new("-"), &texts?.join("\n"))?;
    Ok(0)
}

fn explain(what: &str) -> Result<String, String> {
    let id = what.to_ascii_uppercase();
    if let Some(row) = requirement(&id) {
        return Ok(of_row(row));
    }
    if let Some(reading) = readings().iter().find(|reading| reading.id == id) {
        return Ok(of_reading(reading));
    }
    let all = [Side::Server, Side::Client].map(cases).concat();
    if let Some(case) = all.iter().find(|case| case.name == what) {
        return Ok(of_case(case));
    }
    let near: Vec<_> = { all.iter().filter(|case| case.name.contains(what)) }
        .map(|case| case.name)
        .chain(requirements().iter().map(|row| row.id.as_str()).filter(|row| row.contains(&id)))
        .take(12)
        .collect();
    let hint = match near.len() {
        0 => "`opamp-conformance list` has all".to_owned(),
        _ => format!("did you mean {}?", near.join(", ")),
    };
    Err(format!("{what:?} is no requirement, reading or case; {hint}"))
}

fn of_row(row: &Requirement) -> String {
    let Requirement { id, section, anchor, party, level, maturity, since, .. } = row;
    let mut text = format!("{id}  {level}, {maturity}, since {since}, binds {party}\n");
    field(&mut text, "section", &format!("{section} ({anchor})"));
    field(&mut text, "requires", &row.requirement);
    field(&mut text, "test", &row.how_to_test);
    field(&mut text, "a miss is", weight(row));
    for reading in row.readings() {
        let Reading { id, title, text: how } = reading;
        field(&mut text, &format!("reading {id}"), &format!("{title} {how}"));
    }
    let judging = judging(id);
    for case in &judging {
        field(&mut text, "judged by", case.name);
        field(&mut text, "", &format!("does: {}", case.does));
        field(&mut text, "", &format!("expects: {}", case.expects));
    }
    if judging.is_empty() && row.observable == "no" {
        field(&mut text, "judged by", "no case, as it cannot be seen from the wire");
    }
    for side in [Side::Server, Side::Client] {
        if let Some(why) = why_not(side, id) {
            field(&mut text, "judged by", &format!("no case for a {}, as {why}", side.name()));
        }
    }
    text
}

fn of_reading(reading: &Reading) -> String {
    let mut text = format!("{}  {}\n", reading.id, reading.title);
    field(&mut text, "", &reading.text);
    let rows: Vec<_> = requirements()
        .iter()
        .filter(|row| row.readings().any(|of| of.id == reading.id))
        .map(|row| row.id.as_str())
        .collect();
    field(&mut text, "bears on", &rows.join(" "));
    text
}

fn of_case(case: &Case) -> String {
    let mut text = format!("{}\n", case.name);
    let over: Vec<_> = case.transports.iter().map(|transport| transport.name()).collect();
    field(
        &mut text,
        "over",
        &match case.script {
            Script::Observer(_) => "every conversation of a run".to_owned(),
            _ if case.alone => format!("{}, with no other case beside it", over.join(" and ")),
            _ => over.join(" and "),
        },
    );
    field(&mut text, "does", case.does);
    field(&mut text, "expects", case.expects);
    for row in case.judges.iter().filter_map(|row| requirement(row)) {
        let Requirement { id, level, maturity, requirement, .. } = row;
        field(&mut text, "judges", &format!("{id} ({level}, {maturity}): {requirement}"));
    }
    for fault in case.broken_by {
        let meaning = selftest::meaning(case.side(), fault).unwrap_or_default();
        field(&mut text, "proved by", &format!("{fault}: {meaning}"));
    }
    text
}

/// Appends a named text, wrapped and indented.
fn field(out: &mut String, name: &str, text: &str) {
    let _ = write!(out, "  {name:<12}");
    let mut column = INDENT;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if column > INDENT {
            if column + 1 + length > WIDTH {
                // Writing to a string does not fail.
                let _ = write!(out, "\n{:INDENT$}", "");
                column = INDENT;
            } else {
                out.push(' ');
                column += 1;
            }
        }
        out.push_str(word);
        column += length;
    }
    out.push('\n');
}
