//! The ways in which the reference client can break.

/// Name and meaning of each.
pub const FAULTS: &[(&str, &str)] = &[
    ("full-state-flag-is-ignored", "ReportFullState causes no report"),
    ("full-state-is-repeated", "after the second message every one is a full report"),
];
