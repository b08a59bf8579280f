//! The cases that test a server, a file for each part of the protocol.

use crate::case::Case;

mod sequence;

/// All of them.
pub const ALL: &[&[Case]] = &[sequence::CASES];
