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
        }
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
