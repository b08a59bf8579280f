//! Rows about clients.

use super::{Reason, Uncovered};

/// The topics whose rows are all judged or listed here.
#[cfg(test)]
pub(super) const FINISHED: &[&str] = &["CERT", "CSR", "OTHER", "PROXY", "TLS", "TOFU"];

pub(super) const UNCOVERED: &[Uncovered] = &[
    Uncovered {
        row: "CSR-03",
        reason: Reason::NeedsConfiguration,
        why: "the client would have to be started with a bootstrap certificate",
    },
    Uncovered {
        row: "TLS-04",
        reason: Reason::NeedsThirdParty,
        why: "it takes a server whose certificate the authorities of the client's system vouch for",
    },
];
