//! Rows about clients.

use super::Uncovered;

/// The topics whose rows are all judged or listed here.
#[cfg(test)]
pub(super) const FINISHED: &[&str] = &[];

pub(super) const UNCOVERED: &[Uncovered] = &[];
