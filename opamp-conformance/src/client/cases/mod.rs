//! The cases that test a client, a file for each part of the protocol.

use crate::case::Case;

mod auth;
mod capabilities;
mod certificate_requests;
mod certificates;
mod closing;
mod command;
mod common;
mod components;
mod compression;
mod config;
mod connecting;
mod connection_settings;
mod custom;
mod description;
mod downloads;
mod endpoint;
mod errors;
mod every_message;
mod fallback;
mod first_use;
mod framing;
mod health;
mod heartbeat;
mod hostile;
mod http;
mod instance_uid;
mod interop;
mod limits;
mod moves;
mod package_failures;
mod package_statuses;
mod packages;
mod proxy;
mod reporting;
mod retry;
mod sequence;
mod telemetry;
mod telemetry_connection;
mod telemetry_left_out;
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
    compression::CASES,
    config::CASES,
    connecting::CASES,
    connection_settings::CASES,
    custom::CASES,
    description::CASES,
    downloads::CASES,
    endpoint::CASES,
    errors::CASES,
    every_message::CASES,
    fallback::CASES,
    first_use::CASES,
    framing::CASES,
    health::CASES,
    heartbeat::CASES,
    hostile::CASES,
    http::CASES,
    instance_uid::CASES,
    interop::CASES,
    limits::CASES,
    package_failures::CASES,
    package_statuses::CASES,
    packages::CASES,
    proxy::CASES,
    reporting::CASES,
    retry::CASES,
    sequence::CASES,
    telemetry::CASES,
    telemetry_connection::CASES,
    telemetry_left_out::CASES,
    throttling::CASES,
    tls::CASES,
];
