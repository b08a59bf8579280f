//! The cases that test a client, a file for each part of the protocol.

use crate::case::Case;

mod common;
mod endpoint;
mod every_message;
mod framing;
mod sequence;

/// All of them.
pub const ALL: &[&[Case]] =
    &[endpoint::CASES, every_message::CASES, framing::CASES, sequence::CASES];
