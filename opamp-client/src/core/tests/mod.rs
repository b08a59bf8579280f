//! The client core against scripted and model servers, in virtual time.
//!
//! The scenarios script both ends by hand through a [`pair::Pair`]; each file is about one concept
//! of the protocol. The properties in `model` let generated operations loose on the core and a
//! model server instead, and state what holds whatever happens.

mod model;
mod pair;
mod values;

mod changes;
mod command;
mod components;
mod config;
mod connection_settings;
mod connection_settings_model;
mod connections;
mod custom;
mod custom_model;
mod custom_received;
mod errors;
mod events;
mod full_state;
mod heartbeat;
mod http_status;
mod identity;
mod liveness;
mod malformed;
mod numbering;
mod opening;
mod packages;
mod parts;
mod polling;
mod quirks;
mod reconnect;
mod remote_config;
mod restored;
mod saving;
mod server_capabilities;
mod settings;
mod size;
mod stopping;
mod storm;
mod throttling;
