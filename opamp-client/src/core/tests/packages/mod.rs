//! Packages: scenarios scripted by hand, and a model that is let loose on them.

mod depot;

mod downloads;
mod hand_over;
mod install;
mod model;
mod offers;
mod restart;
mod statuses;
mod store;
mod verification;
