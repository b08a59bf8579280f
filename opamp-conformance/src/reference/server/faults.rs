//! The ways in which the reference server can break.

/// Name and meaning of each.
pub const FAULTS: &[(&str, &str)] = &[
    ("gap-is-ignored", "a gap in the sequence numbers causes no ReportFullState"),
    ("header-is-not-zero", "the header of WebSocket messages is 1"),
];
