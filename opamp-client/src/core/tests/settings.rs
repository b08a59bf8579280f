//! Offers of settings for the OpAMP connection: tried out, and kept or taken back.

mod adverse;
mod certificate;
mod fallback;
mod faults;
mod model;
mod outcomes;
mod pace;
mod policy;
mod restart;
mod stage;
mod together;
mod world;
