//! The cases that test a server, a file for each part of the protocol.

use opamp_proto::v1::ServerToAgent;

use crate::case::Case;
use crate::judge::Stop;
use crate::mask::flag::REPORT_FULL_STATE;
use crate::server::Heard;

mod auth;
mod capabilities;
mod certificate_requests;
mod certificates;
mod closing;
mod command;
mod components;
mod config;
mod connection_settings;
mod custom;
mod duplicates;
mod endpoint;
mod errors;
mod every_message;
mod first_use;
mod framing;
mod health;
mod heartbeat;
mod hostile;
mod http;
mod instance_uid;
mod interop;
mod limits;
mod packages;
mod reporting;
mod retry;
mod send_limits;
mod sequence;
mod telemetry;
mod throttling;
mod tls;

/// All of them.
pub const ALL: &[&[Case]] = &[
    auth::CASES,
    capabilities::CASES,
    certificate_requests::CASES,
    certificates::CASES,
    closing::CASES,
    command::CASES,
    components::CASES,
    config::CASES,
    connection_settings::CASES,
    custom::CASES,
    duplicates::CASES,
    endpoint::CASES,
    errors::CASES,
    every_message::CASES,
    first_use::CASES,
    framing::CASES,
    health::CASES,
    heartbeat::CASES,
    hostile::CASES,
    http::CASES,
    instance_uid::CASES,
    interop::CASES,
    limits::CASES,
    packages::CASES,
    reporting::CASES,
    retry::CASES,
    send_limits::CASES,
    sequence::CASES,
    telemetry::CASES,
    throttling::CASES,
    tls::CASES,
];

/// Whether a full report is asked for.
fn asks_for_all(message: &ServerToAgent) -> bool {
    message.flags & REPORT_FULL_STATE != 0
}

/// What was heard, unless it cannot be read: then there is nothing to judge but that.
fn readable(heard: Heard) -> Result<Heard, Stop> {
    match heard {
        Heard::Malformed(what) => Err(Stop::Unreached(format!("the reply is malformed: {what}"))),
        heard => Ok(heard),
    }
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
