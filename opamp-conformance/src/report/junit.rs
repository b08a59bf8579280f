//! The junit form of a report.
