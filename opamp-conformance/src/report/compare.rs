//! The compare form of a report.
