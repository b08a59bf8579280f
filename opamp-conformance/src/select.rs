//! Which requirements a run is about, and which cases that takes.

use std::collections::BTreeSet;

use opamp_spec::{Requirement, Weight, requirements};

use crate::case::{Case, cases};
use crate::report::Side;

/// What a run is narrowed down to; each part that says nothing lets everything through.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Ids of rows, for example `SEQ-03`; a pattern without `*` is a prefix, so `SEQ` works too.
    pub ids: Vec<String>,
    /// Prefixes of names of cases, for example `server/sequence`.
    pub cases: Vec<String>,
    /// Text in the heading or the anchor of the row's section.
    pub sections: Vec<String>,
    /// The weight a row has to have at least.
    pub level: Option<Weight>,
    /// The maturity a row has to have at least.
    pub maturity: Maturity,
    /// Capabilities the row is about, named as in the specification without prefix.
    pub capabilities: Vec<String>,
}

/// How settled a part of the specification is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Maturity {
    /// Everything.
    #[default]
    Development,
    /// Beta and stable parts.
    Beta,
    /// Stable parts.
    Stable,
}

impl Maturity {
    /// That of a row.
    #[must_use]
    pub fn of(row: &Requirement) -> Self {
        match row.maturity.as_str() {
            "stable" => Self::Stable,
            "beta" => Self::Beta,
            _ => Self::Development,
        }
    }
}

/// Why a selection is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// A part of it names nothing there is.
    #[error("no {what} is called {name:?}{hint}")]
    Unknown {
        /// What it should name.
        what: &'static str,
        /// The name.
        name: String,
        /// What could be meant.
        hint: &'static str,
    },
    /// Each part names something, but nothing is in all of them.
    #[error("no case of this side is left of the selection")]
    Empty,
    /// Everything selected is newer than the release of this name.
    #[error("everything selected is newer than {0}; select another --spec")]
    Newer(&'static str),
}

/// What a selection comes to for one side.
#[derive(Debug, Clone)]
pub struct Selected {
    /// The rows, by their ids.
    pub rows: BTreeSet<&'static str>,
    /// The cases that judge one of them.
    pub cases: Vec<&'static Case>,
}

impl Selection {
    /// The rows and cases of this side.
    ///
    /// # Errors
    ///
    /// When a name is unknown, or no case is left.
    pub fn of(&self, side: Side) -> Result<Selected, SelectError> {
        let selected = self.among(side, &cases(side))?;
        if selected.cases.is_empty() { Err(SelectError::Empty) } else { Ok(selected) }
    }

    /// As [`of`](Self::of), but no case may be left.
    ///
    /// # Errors
    ///
    /// When a name is unknown.
    pub fn among(&self, side: Side, all: &[&'static Case]) -> Result<Selected, SelectError> {
        self.check(all)?;
        let mut rows: BTreeSet<&'static str> = requirements()
            .iter()
            .filter(|row| concerns(side, row) && self.has(row))
            .map(|row| row.id.as_str())
            .collect();
        let named = |case: &Case| {
            self.cases.is_empty() || self.cases.iter().any(|prefix| case.name.starts_with(prefix))
        };
        let judges_one = |case: &Case| case.judges.iter().any(|row| rows.contains(row));
        let cases: Vec<_> =
            all.iter().copied().filter(|case| named(case) && judges_one(case)).collect();
        if !self.cases.is_empty() {
            let judged: BTreeSet<_> = cases.iter().flat_map(|case| case.judges).copied().collect();
            rows.retain(|row| judged.contains(row));
        }
        Ok(Selected { rows, cases })
    }

    fn check(&self, all: &[&'static Case]) -> Result<(), SelectError> {
        let unknown = |what, name: &str, hint| {
            Err(SelectError::Unknown { what, name: name.to_owned(), hint })
        };
        for id in &self.ids {
            if !requirements().iter().any(|row| matches(id, &row.id)) {
                return unknown("requirement", id, "; `opamp-conformance list` shows them");
            }
        }
        for prefix in &self.cases {
            if !all.iter().any(|case| case.name.starts_with(prefix)) {
                return unknown("case of this side", prefix, "; `opamp-conformance list` has all");
            }
        }
        for text in &self.sections {
            if !requirements().iter().any(|row| in_section(text, row)) {
                return unknown("section", text, "");
            }
        }
        for name in &self.capabilities {
            if topics_of(name).is_none() {
                return unknown("capability", name, "; write it as in `AcceptsRemoteConfig`");
            }
        }
        Ok(())
    }

    fn has(&self, row: &Requirement) -> bool {
        let any = |names: &[String], holds: &dyn Fn(&str) -> bool| {
            names.is_empty() || names.iter().any(|name| holds(name))
        };
        any(&self.ids, &|id| matches(id, &row.id))
            && any(&self.sections, &|text| in_section(text, row))
            && any(&self.capabilities, &|name| is_about(name, row))
            && self.level.is_none_or(|level| row.weight() >= level)
            && Maturity::of(row) >= self.maturity
    }
}

/// Whether the row binds this side.
#[must_use]
pub fn concerns(side: Side, row: &Requirement) -> bool {
    row.party == "both" || row.party == side.name()
}

/// Whether a name is meant by a pattern: `*` stands for anything, and without one the pattern is a
/// prefix.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.to_ascii_uppercase(), name.to_ascii_uppercase());
    let Some((head, rest)) = pattern.split_once('*') else {
        return name.starts_with(&pattern);
    };
    let Some(mut name) = name.strip_prefix(head) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return name.ends_with(part);
        }
        let Some(at) = name.find(part) else { return false };
        name = &name[at + part.len()..];
    }
    true
}

fn in_section(text: &str, row: &Requirement) -> bool {
    let text = text.to_lowercase();
    row.section.to_lowercase().contains(&text) || row.anchor.to_lowercase().contains(&text)
}

fn is_about(capability: &str, row: &Requirement) -> bool {
    let topic = row.id.rsplit_once('-').map_or("", |(topic, _)| topic);
    topics_of(capability).is_some_and(|topics| topics.contains(&topic))
        || row.requirement.split(|c: char| !c.is_alphanumeric()).any(|word| word == capability)
}

/// The topics of the catalogue that a capability is about; `None` for what is no capability.
fn topics_of(capability: &str) -> Option<&'static [&'static str]> {
    Some(match capability {
        "AcceptsRemoteConfig"
        | "ReportsEffectiveConfig"
        | "ReportsRemoteConfig"
        | "OffersRemoteConfig"
        | "AcceptsEffectiveConfig" => &["CFG"],
        "AcceptsPackages"
        | "ReportsPackageStatuses"
        | "OffersPackages"
        | "AcceptsPackagesStatus" => &["PKG"],
        "ReportsOwnTraces" | "ReportsOwnMetrics" | "ReportsOwnLogs" => &["TEL"],
        "AcceptsOpAMPConnectionSettings" => &["CONN", "CERT", "TLS", "PROXY", "TOFU"],
        "AcceptsOtherConnectionSettings" => &["OTHER"],
        "OffersConnectionSettings" => {
            &["CONN", "CERT", "TLS", "PROXY", "TOFU", "OTHER", "TEL", "CSR"]
        }
        "AcceptsConnectionSettingsRequest" => &["CSR"],
        "ReportsConnectionSettingsStatus" => &["CONN"],
        "AcceptsRestartCommand" => &["CMD"],
        "ReportsHealth" => &["HEALTH"],
        "ReportsHeartbeat" => &["HB"],
        "ReportsAvailableComponents" => &["COMP"],
        "ReportsStatus" | "AcceptsStatus" => &["STATUS", "DELTA", "DESC"],
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask;

    fn ids(selection: &Selection) -> Vec<&'static str> {
        selection.among(Side::Server, &cases(Side::Server)).unwrap().rows.into_iter().collect()
    }

    fn of(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn ids_are_exact_prefixes_or_patterns() {
        let select = |id: &str| ids(&Selection { ids: of(&[id]), ..Default::default() });
        assert_eq!(select("SEQ-03"), ["SEQ-03"]);
        assert_eq!(select("seq-03"), ["SEQ-03"]);
        assert!(select("SEQ").len() > 2 && select("SEQ").iter().all(|id| id.starts_with("SEQ-")));
        assert_eq!(select("S*Q-03"), ["SEQ-03"]);
        assert!(select("*-03").len() > 5);
        assert!(!matches("SEQ*4", "SEQ-03") && !matches("A*B*C", "AxC") && matches("A*B*", "AxBy"));
    }

    #[test]
    fn a_case_is_selected_for_one_of_its_rows_and_rows_for_their_case() {
        let by_row = Selection { ids: of(&["SEQ-04"]), ..Default::default() };
        let selected = by_row.of(Side::Server).unwrap();
        assert!(selected.cases.iter().all(|case| case.judges.contains(&"SEQ-04")));
        let by_case = Selection { cases: of(&["server/sequence/gap"]), ..Default::default() };
        assert_eq!(ids(&by_case), ["SEQ-03", "SEQ-04", "SEQ-05"]);
        let both = Selection { ids: of(&["SEQ-04"]), ..by_case };
        assert_eq!(ids(&both), ["SEQ-04"]);
    }

    #[test]
    fn level_and_maturity_are_at_least() {
        let must = Selection { level: Some(Weight::Must), ..Default::default() };
        let should = Selection { level: Some(Weight::Should), ..Default::default() };
        assert!(ids(&must).len() < ids(&should).len());
        let stable = Selection { maturity: Maturity::Stable, ..Default::default() };
        let beta = Selection { maturity: Maturity::Beta, ..Default::default() };
        let all = Selection::default();
        assert!(ids(&stable).len() < ids(&beta).len() && ids(&beta).len() < ids(&all).len());
    }

    #[test]
    fn every_capability_has_its_topics() {
        let agent = mask::names("AgentCapabilities", mask::agent::ALL);
        let server = mask::names("ServerCapabilities", mask::server::ALL);
        for name in agent.iter().chain(&server) {
            assert!(topics_of(name).is_some(), "{name}");
        }
        let health = Selection { capabilities: of(&["ReportsHealth"]), ..Default::default() };
        assert!(ids(&health).iter().any(|id| id.starts_with("HEALTH-")));
    }

    #[test]
    fn what_names_nothing_is_told() {
        for wrong in [
            Selection { ids: of(&["NOPE-01"]), ..Default::default() },
            Selection { cases: of(&["client/"]), ..Default::default() },
            Selection { sections: of(&["no such heading"]), ..Default::default() },
            Selection { capabilities: of(&["CanFly"]), ..Default::default() },
        ] {
            assert!(matches!(wrong.of(Side::Server), Err(SelectError::Unknown { .. })));
        }
    }
}
