//! The OpAMP requirements catalogue as data, and the register of the tests that judge it.
//!
//! `requirements.csv` has one row per requirement of the specification, `schema.csv` one row per
//! field and enum value of the wire schema; `README.md` beside them settles what the specification
//! leaves open. Tests name the rows they judge with [`judges`]: the name of a row that does not
//! exist fails the test, and what was judged with which result is recorded, so that a traceability
//! report can be made from tests that really ran rather than from text found in sources.

use std::collections::BTreeMap;
use std::sync::LazyLock;

mod register;
pub mod traceability;

pub use register::{Judged, Outcome, Record, judges, records};

/// One row of `requirements.csv`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct Requirement {
    /// The row's id, for example `SEQ-03`. Never reused or renumbered.
    pub id: String,
    /// Heading of the section in the specification.
    pub section: String,
    /// Anchor of that section.
    pub anchor: String,
    /// Whose behaviour it is: `client`, `server` or `both`.
    pub party: String,
    /// `MUST`, `MUST NOT`, `SHOULD`, `SHOULD NOT`, `MAY` or `implied`.
    pub level: String,
    /// `stable`, `beta` or `development`.
    pub maturity: String,
    /// The requirement, restated.
    pub requirement: String,
    /// `yes` where a tester can see it on a wire it plays.
    pub observable: String,
    /// A way to test it.
    pub how_to_test: String,
    /// The release of the specification that has it first; `main` where none has yet.
    pub since: String,
}

/// What missing a requirement amounts to, by the policy of the catalogue's README.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Weight {
    /// A miss is only worth a note: MAY rows, rows worded "can" or "may", advice.
    Note,
    /// A miss is a warning: SHOULD rows, rows worded "is expected" or "advised".
    Should,
    /// A miss is a failure: MUST rows and all other rows without a keyword.
    Must,
}

impl Requirement {
    /// What missing this requirement amounts to.
    #[must_use]
    pub fn weight(&self) -> Weight {
        let worded = |words: &[&str]| {
            let text = format!(" {} ", self.requirement.replace([',', ';', '.', ':'], " "));
            words.iter().any(|word| text.contains(&format!(" {word} ")))
        };
        if SOFTENED_BY_A_READING.contains(&self.id.as_str()) {
            return Weight::Note;
        }
        if BY_RULES_OF_LEVEL_SHOULD.contains(&self.id.as_str()) {
            return Weight::Should;
        }
        match self.level.as_str() {
            "MUST" | "MUST NOT" => Weight::Must,
            "SHOULD" | "SHOULD NOT" => Weight::Should,
            "MAY" => Weight::Note,
            _ if self.requirement.starts_with("Advice") => Weight::Note,
            _ if worded(&["is expected", "are expected", "advised"]) => Weight::Should,
            _ if worded(&["has to", "have to"]) || STATED_PLAINLY.contains(&self.id.as_str()) => {
                Weight::Must
            }
            _ if worded(&["can", "may"]) => Weight::Note,
            _ => Weight::Must,
        }
    }

    /// The readings of the catalogue's README this row depends on, for example `A05`.
    pub fn readings(&self) -> impl Iterator<Item = &'static Reading> {
        let text = format!("{} {}", self.requirement, self.how_to_test);
        READINGS.iter().filter(move |reading| {
            text.split("See reading").skip(1).any(|rest| rest.contains(reading.id.as_str()))
        })
    }
}

/// Rows for which a reading asks for no more than a note: A08 and A24.
const SOFTENED_BY_A_READING: [&str; 7] =
    ["ERR-04", "DESC-04", "DESC-05", "DESC-06", "DESC-07", "DESC-08", "DESC-09"];

/// Rows that only refer to rules which are SHOULD themselves: AUTH-05 to EST-04 and EST-05.
const BY_RULES_OF_LEVEL_SHOULD: [&str; 1] = ["AUTH-05"];

/// Rows that contain "can" or "may" beside what they ask for.
const STATED_PLAINLY: [&str; 6] = ["WS-12", "ID-11", "DELTA-04", "CONN-41", "TLS-08", "PKG-06"];

/// How something that the specification leaves open is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Its id, for example `A05`.
    pub id: String,
    /// What is open.
    pub title: String,
    /// The rows it bears on, and how it is read.
    pub text: String,
}

static READINGS: LazyLock<Vec<Reading>> = LazyLock::new(|| {
    include_str!("../README.md")
        .lines()
        .filter_map(|line| {
            let (head, text) = line.strip_prefix("- **A")?.split_once("**")?;
            let (number, title) = head.split_once(' ')?;
            Some(Reading {
                id: format!("A{number}"),
                title: title.to_owned(),
                text: text.trim_start().to_owned(),
            })
        })
        .collect()
});

/// Every reading of the catalogue's README, in its order.
#[must_use]
pub fn readings() -> &'static [Reading] {
    &READINGS
}

/// One row of `schema.csv`: a field of a message, or a value of an enum.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct SchemaRow {
    /// Name of the message or enum.
    pub message_or_enum: String,
    /// `message` or `enum`.
    pub kind: String,
    /// Field number or enum value; `None` in the one row of a message without fields.
    pub number: Option<u64>,
    /// Name of the field or enum value; empty in the one row of a message without fields.
    pub name: String,
    /// Type of the field; `bit` or `value` for an enum.
    #[serde(rename = "type")]
    pub kind_of_value: String,
    /// `singular`, `repeated`, `map` or `oneof:NAME`; empty for enums.
    pub label: String,
    /// `stable`, `beta` or `development`.
    pub maturity: String,
}

static REQUIREMENTS: LazyLock<Vec<Requirement>> =
    LazyLock::new(|| rows(include_str!("../requirements.csv"), "requirements.csv"));
static BY_ID: LazyLock<BTreeMap<&'static str, &'static Requirement>> =
    LazyLock::new(|| REQUIREMENTS.iter().map(|row| (row.id.as_str(), row)).collect());
static SCHEMA: LazyLock<Vec<SchemaRow>> =
    LazyLock::new(|| rows(include_str!("../schema.csv"), "schema.csv"));

fn rows<T: serde::de::DeserializeOwned>(text: &str, file: &str) -> Vec<T> {
    csv::Reader::from_reader(text.as_bytes())
        .into_deserialize()
        .collect::<Result<_, _>>()
        .unwrap_or_else(|error| panic!("spec/{file}: {error}"))
}

/// Every row of the requirements catalogue, in its order.
///
/// # Panics
///
/// When the catalogue file that was built in is not well formed.
#[must_use]
pub fn requirements() -> &'static [Requirement] {
    &REQUIREMENTS
}

/// The row with this id, or `None` when the catalogue has none.
///
/// # Panics
///
/// When the catalogue file that was built in is not well formed.
#[must_use]
pub fn requirement(id: &str) -> Option<&'static Requirement> {
    BY_ID.get(id).copied()
}

/// Every row of the wire schema, in its order.
///
/// # Panics
///
/// When the schema file that was built in is not well formed.
#[must_use]
pub fn schema() -> &'static [SchemaRow] {
    &SCHEMA
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_is_whole() {
        assert_eq!(requirements().len(), 555);
        assert_eq!(BY_ID.len(), 555, "ids are unique");
        assert_eq!(schema().len(), 185);
        for row in requirements() {
            assert!(["client", "server", "both"].contains(&row.party.as_str()), "{}", row.id);
            assert!(["yes", "no"].contains(&row.observable.as_str()), "{}", row.id);
            assert!(["v0.18.0", "main"].contains(&row.since.as_str()), "{}", row.id);
        }
        assert_eq!(requirements().iter().filter(|row| row.since == "main").count(), 39);
        assert_eq!(readings().len(), 39);
    }

    #[test]
    fn a_row_weighs_what_the_policy_says() {
        let weight = |id| requirement(id).unwrap().weight();
        assert_eq!(weight("SEQ-04"), Weight::Must);
        assert_eq!(weight("WS-06"), Weight::Must, "without a keyword, plainly stated");
        assert_eq!(weight("SEQ-08"), Weight::Must);
        assert_eq!(weight("STATUS-09"), Weight::Note);
        assert_eq!(weight("HB-05"), Weight::Should, "is expected");
        assert_eq!(weight("THR-12"), Weight::Should, "advised");
        assert_eq!(weight("SEC-11"), Weight::Note, "advice");
        assert_eq!(weight("AUTH-05"), Weight::Should, "by rules that are SHOULD");
        assert_eq!(weight("ERR-04"), Weight::Note, "softened by A08");
        assert_eq!(weight("ERR-03"), Weight::Must, "has to, though another part is worded may");
        assert_eq!(weight("ID-16"), Weight::Must, "cannot is not can");
    }

    #[test]
    fn a_row_names_its_readings() {
        let ids =
            |id| requirement(id).unwrap().readings().map(|r| r.id.as_str()).collect::<Vec<_>>();
        assert_eq!(ids("SIZE-11"), ["A10", "A12"]);
        assert_eq!(ids("ERR-12"), ["A09"]);
        assert!(ids("ERR-13").is_empty());
        assert!(readings().iter().all(|reading| !reading.title.is_empty()));
    }

    #[test]
    #[should_panic(expected = "NOPE-01")]
    fn an_unknown_id_fails_the_test_that_names_it() {
        let _judged = judges(&["SEQ-03", "NOPE-01"]);
    }

    #[test]
    fn a_judgement_is_recorded_with_its_result() {
        drop(judges(&["SEQ-03", "SEQ-04"]));
        let mine = records()
            .into_iter()
            .find(|record| record.test.ends_with("a_judgement_is_recorded_with_its_result"));
        let mine = mine.expect("the record is on disk");
        assert_eq!(mine.ids, ["SEQ-03", "SEQ-04"]);
        assert_eq!(mine.outcome, Outcome::Passed);
    }
}
