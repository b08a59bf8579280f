//! The WebSocket codec: RFC 6455 rule by rule, against another implementation, and against any
//! bytes.

mod differential;
mod frames;
mod robustness;
mod rules;
