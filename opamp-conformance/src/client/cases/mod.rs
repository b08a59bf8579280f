//! The cases that test a client, a file for each part of the protocol.

use crate::case::Case;

mod capabilities;
mod certificate_requests;
mod certificates;
mod command;
mod common;
mod components;
mod compression;
mod config;
mod connection_settings;
mod custom;
mod description;
mod downloads;
mod endpoint;
mod every_message;
mod fallback;
mod first_use;
mod framing;
mod health;
mod heartbeat;
mod instance_uid;
mod moves;
mod package_failures;
mod package_statuses;
mod packages;
mod proxy;
mod reporting;
mod sequence;
mod telemetry;
mod telemetry_connection;
mod telemetry_left_out;
mod tls;

/// All of them.
pub const ALL: &[&[Case]] = &[
    capabilities::CASES,
    certificate_requests::CASES,
    certificates::CASES,
    command::CASES,
    components::CASES,
    compression::CASES,
    config::CASES,
    connection_settings::CASES,
    custom::CASES,
    downloads::CASES,
    description::CASES,
    endpoint::CASES,
    every_message::CASES,
    fallback::CASES,
    first_use::CASES,
    framing::CASES,
    health::CASES,
    heartbeat::CASES,
    instance_uid::CASES,
    package_failures::CASES,
    package_statuses::CASES,
    packages::CASES,
    proxy::CASES,
    reporting::CASES,
    sequence::CASES,
    telemetry::CASES,
    telemetry_connection::CASES,
    telemetry_left_out::CASES,
    tls::CASES,
];
