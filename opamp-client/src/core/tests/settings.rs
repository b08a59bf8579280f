//! Offers of settings for the OpAMP connection: tried out, and kept or taken back.

mod certificate;
mod outcomes;
mod policy;
mod restart;
mod stage;
mod together;
