//! The cases that test a server, a file for each part of the protocol.

use opamp_proto::v1::ServerToAgent;

use crate::case::Case;
use crate::mask::flag::REPORT_FULL_STATE;
use crate::server::Heard;

mod certificate_requests;
mod certificates;
mod config;
mod connection_settings;
mod endpoint;
mod errors;
mod every_message;
mod first_use;
mod framing;
mod http;
mod interop;
mod packages;
mod sequence;
mod telemetry;

/// All of them.
pub const ALL: &[&[Case]] = &[
    certificate_requests::CASES,
    certificates::CASES,
    config::CASES,
    connection_settings::CASES,
    endpoint::CASES,
    errors::CASES,
    every_message::CASES,
    first_use::CASES,
    framing::CASES,
    http::CASES,
    interop::CASES,
    packages::CASES,
    sequence::CASES,
    telemetry::CASES,
];

/// Whether a full report is asked for.
fn asks_for_all(message: &ServerToAgent) -> bool {
    message.flags & REPORT_FULL_STATE != 0
}

/// Whether what was heard is a message without an error.
fn is_good(heard: &Heard) -> bool {
    matches!(heard, Heard::Message(message) if message.error_response.is_none())
}

/// What was heard, in words.
fn told(heard: &Heard) -> String {
    match heard {
        Heard::Message(message) => parts(message),
        Heard::Malformed(what) => format!("something malformed: {what}"),
        Heard::Closed(_, how) => how.clone(),
        Heard::Silence => "nothing".to_owned(),
    }
}

/// The names of the fields a message has beside its id, in words.
fn parts(message: &ServerToAgent) -> String {
    let mut parts = Vec::new();
    if let Some(error) = &message.error_response {
        parts.push(format!("error_response {:?} {:?}", error.r#type(), error.error_message));
    }
    if message.flags != 0 {
        parts.push(format!("flags {:#x}", message.flags));
    }
    let set = [
        ("remote_config", message.remote_config.is_some()),
        ("connection_settings", message.connection_settings.is_some()),
        ("packages_available", message.packages_available.is_some()),
        ("capabilities", message.capabilities != 0),
        ("agent_identification", message.agent_identification.is_some()),
        ("command", message.command.is_some()),
        ("custom_capabilities", message.custom_capabilities.is_some()),
        ("custom_message", message.custom_message.is_some()),
    ];
    parts.extend(set.into_iter().filter(|(_, set)| *set).map(|(name, _)| name.to_owned()));
    if parts.is_empty() {
        "a message with nothing but its id".to_owned()
    } else {
        format!("a message with {}", parts.join(", "))
    }
}
