//! The cases that test a server, a file for each part of the protocol.

use crate::case::Case;

mod every_message;
mod sequence;

/// All of them.
pub const ALL: &[&[Case]] = &[every_message::CASES, sequence::CASES];
