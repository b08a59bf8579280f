//! The gateway's routing in virtual time.

mod bounds;
mod http;
mod outage;
mod scan;
mod sessions;
mod support;
