//! The observable rows of the catalogue that no case judges, and why.

use crate::report::Side;

mod client;
mod server;

/// Why a row cannot be judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It leaves the choice to the subject, and nothing that can be seen contradicts it.
    NoRoomForChoice,
    /// It takes somebody beside tester and subject, such as a backend or a certificate authority.
    NeedsThirdParty,
    /// The subject would have to be set up in another way, for which there is no contract.
    NeedsConfiguration,
    /// It shows at the other end only.
    NotOnThisSide,
    /// It cannot be told apart from another row.
    JudgedWith(&'static str),
    /// It compares the subject with another implementation of the same side.
    NeedsSecondImplementation,
}

/// A row that no case judges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uncovered {
    /// Its id.
    pub row: &'static str,
    /// Why it cannot be judged.
    pub reason: Reason,
    /// The same in words, for this row.
    pub why: &'static str,
}

/// The observable rows that no case for this side judges.
#[must_use]
pub fn uncovered(side: Side) -> &'static [Uncovered] {
    match side {
        Side::Server => server::UNCOVERED,
        Side::Client => client::UNCOVERED,
    }
}

/// Why no case for this side judges a row, in words; `None` where one does.
#[must_use]
pub fn why_not(side: Side, row: &str) -> Option<&'static str> {
    { uncovered(side).iter() }.find(|uncovered| uncovered.row == row).map(|uncovered| uncovered.why)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::case::cases;

    fn check(side: Side) {
        let judged: BTreeSet<_> =
            cases(side).iter().flat_map(|case| case.judges).copied().collect();
        let listed: BTreeSet<_> = uncovered(side).iter().map(|uncovered| uncovered.row).collect();
        let rows = opamp_spec::requirements().iter().filter(|row| {
            row.observable == "yes" && (row.party == side.name() || row.party == "both")
        });
        let rows: BTreeSet<_> = rows.map(|row| row.id.as_str()).collect();
        let both: Vec<_> = judged.intersection(&listed).collect();
        assert!(both.is_empty(), "judged by a case and listed as uncovered: {both:?}");
        let unknown: Vec<_> = listed.difference(&rows).collect();
        assert!(unknown.is_empty(), "no observable rows of the {}: {unknown:?}", side.name());
        let missing: Vec<_> =
            rows.into_iter().filter(|row| !judged.contains(row) && !listed.contains(row)).collect();
        assert!(missing.is_empty(), "neither judged nor listed: {missing:?}");
    }

    #[test]
    fn every_row_of_a_server_is_judged_or_has_a_reason() {
        check(Side::Server);
    }

    #[test]
    fn every_row_of_a_client_is_judged_or_has_a_reason() {
        check(Side::Client);
    }
}
