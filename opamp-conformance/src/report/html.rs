//! The report as one web page that needs nothing else: a matrix of implementations and
//! requirements, each cell opening the cases that judged it, their readings and transcripts.
//!
//! The page's own parts are fixed text; everything that comes from reports is data in it, as gzip
//! in base64, so that no text a peer sent is ever part of the markup. The script writes it as text
//! only, and a content security policy allows nothing but the page's own script and style.

use std::collections::BTreeSet;
use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::{Compression, GzBuilder};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::Report;

const PAGE: &str = include_str!("assets/page.html");
const STYLE: &str = include_str!("assets/page.css");
const SCRIPTS: [&str; 2] = [include_str!("assets/matrix.js"), include_str!("assets/detail.js")];

/// One page for all these reports, in their order. The same reports make the same page.
///
/// # Panics
///
/// Never: reports are data that always has a JSON form.
#[must_use]
pub fn page(reports: &[Report]) -> String {
    let json = serde_json::to_vec(&Data::of(reports)).expect("a report has a JSON form");
    let mut gzip = GzBuilder::new().write(Vec::new(), Compression::best());
    gzip.write_all(&json).expect("a vector takes everything");
    let gzip = gzip.finish().expect("a vector takes everything");

    let script = SCRIPTS.join("\n");
    let hash = |text: &str| BASE64.encode(Sha256::digest(text));
    let mut page = PAGE.to_owned();
    for (mark, content) in [
        ("@STYLE-HASH@", hash(STYLE)),
        ("@SCRIPT-HASH@", hash(&script)),
        ("@STYLE@", STYLE.to_owned()),
        ("@SCRIPT@", script),
        ("@DATA@", BASE64.encode(gzip)),
    ] {
        page = page.replacen(mark, &content, 1);
    }
    page
}

/// What the script of the page gets.
#[derive(Serialize)]
struct Data<'a> {
    reports: &'a [Report],
    requirements: Vec<Requirement<'a>>,
    readings: Vec<Reading>,
}

/// A requirement that at least one of the reports is about.
#[derive(Serialize)]
struct Requirement<'a> {
    id: &'a str,
    level: &'a str,
    maturity: &'a str,
    text: &'a str,
    section: &'a str,
    anchor: &'a str,
    since: &'a str,
    readings: &'a [String],
}

/// A reading that at least one of those requirements depends on.
#[derive(Serialize)]
struct Reading {
    id: &'static str,
    title: &'static str,
    text: &'static str,
}

impl<'a> Data<'a> {
    fn of(reports: &'a [Report]) -> Self {
        let order = |id: &str| opamp_spec::requirements().iter().position(|row| row.id == id);
        let mut seen = BTreeSet::new();
        let rows = reports.iter().flat_map(|report| &report.rows);
        let mut rows: Vec<_> = rows.filter(|row| seen.insert(row.row.as_str())).collect();
        // A row that this tester's catalogue lacks, from another version of it, comes last.
        rows.sort_by_cached_key(|row| order(&row.row).unwrap_or(usize::MAX));
        let requirements = rows.into_iter().map(|row| {
            let known = opamp_spec::requirement(&row.row);
            Requirement {
                id: &row.row,
                level: &row.level,
                maturity: &row.maturity,
                text: known.map_or("", |known| &known.requirement),
                section: known.map_or("", |known| &known.section),
                anchor: known.map_or("", |known| &known.anchor),
                since: known.map_or("", |known| &known.since),
                readings: &row.readings,
            }
        });
        let requirements: Vec<_> = requirements.collect();
        let used: BTreeSet<_> = requirements.iter().flat_map(|row| row.readings).collect();
        let readings = opamp_spec::readings().iter().filter(|reading| used.contains(&reading.id));
        let readings = readings.map(|reading| Reading {
            id: &reading.id,
            title: &reading.title,
            text: &reading.text,
        });
        Self { reports, readings: readings.collect(), requirements }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::report::sample;

    /// The data in a page, as the script reads it.
    fn data(page: &str) -> serde_json::Value {
        let (_, rest) = page.split_once("<script id=\"data\" type=\"application/gzip\">").unwrap();
        let (data, _) = rest.split_once("</script>").unwrap();
        let gzip = BASE64.decode(data.trim()).unwrap();
        let mut json = Vec::new();
        flate2::read::GzDecoder::new(gzip.as_slice()).read_to_end(&mut json).unwrap();
        serde_json::from_slice(&json).unwrap()
    }

    #[test]
    fn a_page_holds_its_reports_and_what_they_rest_on() {
        let report = sample::server();
        let page = page(std::slice::from_ref(&report));
        let data = data(&page);
        assert_eq!(data["reports"][0], serde_json::to_value(&report).unwrap());
        let rows = data["requirements"].as_array().unwrap();
        assert_eq!(rows.len(), report.rows.len());
        assert_eq!(rows[0]["id"], "NET-01");
        assert!(rows.iter().any(|row| row["id"] == "SEQ-04" && row["readings"][0] == "A05"));
        assert!(data["readings"].as_array().unwrap().iter().any(|r| r["id"] == "A05"));
        for mark in ["@STYLE", "@SCRIPT", "@DATA"] {
            assert!(!page.contains(mark), "{mark}");
        }
    }

    #[test]
    fn nothing_of_a_report_is_markup_and_nothing_is_loaded() {
        let empty = page(&[]);
        let mut report = sample::server();
        report.subject.name = "</script><img src=x onerror=alert(1)>".into();
        let page = page(&[report]);
        let outside = |page: &str| {
            let (head, rest) = page.split_once("type=\"application/gzip\">").unwrap();
            let (_, tail) = rest.split_once("</script>").unwrap();
            format!("{head}{tail}")
        };
        assert_eq!(outside(&page), outside(&empty), "reports change the data only");
        assert_eq!(page.matches("</script").count(), 2, "one script, and the data");
        for loads in ["src=", "@import", "url(", "fetch(", "innerHTML", "insertAdjacentHTML"] {
            assert!(!empty.contains(loads), "{loads}");
        }
    }
}
