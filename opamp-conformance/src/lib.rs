//! Tests any OpAMP server or client, in any language, against the specification.

pub mod report;
pub mod verdict;
pub mod wire;
