//! Rows about servers.

use super::Reason::{NeedsConfiguration, NoRoomForChoice};
use super::Uncovered;

/// The topics whose rows are all judged or listed here.
#[cfg(test)]
pub(super) const FINISHED: &[&str] =
    &["CERT", "CONN", "CSR", "OTHER", "PKG", "PROXY", "SEC", "TEL", "TLS", "TOFU"];

pub(super) const UNCOVERED: &[Uncovered] = &[
    Uncovered {
        row: "CONN-36",
        reason: NoRoomForChoice,
        why: "a server that does not disconnect conforms as well",
    },
    Uncovered {
        row: "TOFU-06",
        reason: NeedsConfiguration,
        why: "nothing tells whether the credentials a server was set up with are for first use only",
    },
];
