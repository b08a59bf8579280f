//! The ways in which the reference client can break.

use crate::reference::{Fault, concat, count};

mod packages;
mod reports;
mod settings;
mod telemetry;
mod transport;

/// Name and meaning of each.
pub const FAULTS: &[Fault] = &concat::<{ count(TOPICS) }>(TOPICS);

const TOPICS: &[&[Fault]] = &[
    OTHERS,
    packages::FAULTS,
    reports::FAULTS,
    settings::FAULTS,
    telemetry::FAULTS,
    transport::FAULTS,
];

const OTHERS: &[Fault] = &[
    ("speaks-without-http", "the first bytes on a connection are an OpAMP message"),
    ("path-is-fixed", "the path of the URL is not used"),
    ("default-path-is-another", "without a path in the URL it is /opamp"),
    ("handshake-version-is-8", "the handshake asks for version 8 of WebSocket"),
    ("text-message-is-sent", "a message of type text follows the first message"),
    ("header-is-not-zero", "a message with header 1 follows the first message"),
    ("bytes-follow-the-message", "a message with half a field at its end follows the first one"),
    ("unknown-field-is-sent", "WebSocket messages have a field the schema does not have"),
    ("probes-with-head", "a HEAD request comes before the second message"),
    ("body-has-a-header", "an HTTP body with a header of zero comes before the second message"),
    ("gzip-is-not-announced", "a gzipped body comes before the second message unannounced"),
    ("content-type-is-missing", "requests have no Content-Type"),
    ("uid-field-is-missing", "requests have no OpAMP-Instance-UID"),
    ("uid-field-is-hexadecimal", "OpAMP-Instance-UID has no hyphens"),
    ("reserved-bit-is-set", "capabilities have a bit that is not defined"),
    ("text-message-is-processed", "messages of type text are processed"),
    ("padded-header-is-refused", "a header of more than one byte closes the connection"),
    ("header-without-end-is-skipped", "what follows a header of 11 bytes is processed"),
    ("header-without-end-crashes", "a header of 11 bytes ends the client"),
    ("header-is-not-looked-at", "messages with another header than 0 are processed"),
    ("other-header-crashes", "another header than 0 ends the client"),
    ("empty-message-is-refused", "a message without data closes the connection"),
    ("fragments-are-dropped", "a message in several frames is dropped"),
    ("second-of-two-messages-is-dropped", "a message right after another is dropped"),
];
