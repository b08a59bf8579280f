//! The limits and times of a Server, with the reasons for their defaults.

use std::time::{Duration, Instant};

use opamp_proto::{MessageLimits, ServerCapabilities};

use super::OperationError;
use super::custom::CustomCapabilities;
use super::rate::Rate;
use super::reply::MAX_HEAD;

/// Deviations from the specification that are served although a row of the catalogue calls them
/// malformed. All are off by default; every use is [counted](crate::Counters), and logged once for
/// each session or connection.
///
/// What Agents in the field do, and what becomes of it:
///
/// | an Agent | is served |
/// | --- | --- |
/// | sends a ULID, hexadecimal digits or a UUID's text as `instance_uid` | with [`legacy_instance_uid`](Self::legacy_instance_uid) |
/// | sends a WebSocket message without the header byte | with [`missing_header`](Self::missing_header) |
/// | opens its connection with a custom message of nobody's | with [`missing_instance_uid`](Self::missing_instance_uid) |
/// | states another `OpAMP-Instance-UID` in the header, such as a GUID in mixed endianness | always: the message counts |
/// | begins to count at 0, repeats a number, or sends the same message again | always: a repetition asks for nothing |
/// | polls with nothing but its `instance_uid`, or with capabilities 0 | always: what is known stays (reading A02) |
/// | never sets `ReportsStatus` | always |
/// | leaves out on a reconnect what has not changed, or all of it | always, and asked for what is missing |
/// | reports an unset configuration status after a reconnect | always: it gets the same offer again |
/// | ignores its new `instance_uid` | always, under the old one |
/// | ignores UNAVAILABLE | the handshake is answered with 503 and `Retry-After` as well |
/// | leaves without `agent_disconnect` | always: [`ServerConfig::http_offline_after`], or a ping |
/// | sends no heartbeats, or at an interval of its own | always: see [`ServerConfig::missed_heartbeats`] |
/// | sends fragments, offers permessage-deflate, probes with HEAD | always: 405 to the probe, and no compression |
/// | adds parameters to its `Content-Type`, or uses another path or another `Authorization` scheme | always: path and admission are the application's |
/// | says nothing at all on a connection | until `ServiceConfig::first_message_timeout`, as nobody knows who it is |
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tolerances {
    /// Takes an `instance_uid` that is the text of a ULID, 32 hexadecimal digits or the text of a
    /// UUID instead of 16 bytes (ID-05, reading A33). The Agent is known, and addressed, by the
    /// very bytes it sent.
    pub legacy_instance_uid: bool,
    /// Takes a WebSocket message without the header byte (WS-07, WS-08, reading A29).
    pub missing_header: bool,
    /// Takes a message without `instance_uid` that has nothing but a custom message, as Bindplane's
    /// gateway opens its connections with one (ID-01, reading A33). It belongs to no Agent, so it
    /// is dropped: over WebSocket without a reply, as that gateway gives up a connection on which
    /// it gets a message for nobody.
    pub missing_instance_uid: bool,
}

/// What a Server offers, and what it grants its Agents.
///
/// ```
/// let mut config = opamp_server::ServerConfig::default();
/// config.max_agents = 10_000;
/// config.tolerances.missing_header = true;
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServerConfig {
    /// The mask sent to Agents. Default: everything this Server does, but
    /// `AcceptsConnectionSettingsRequest` only if there is somebody to decide: a service with an
    /// authority for certificates sets it (CSR-24). That it offers packages and connection settings
    /// is announced before there are any, as they can be set at any time and a mask is told once;
    /// what is taken out here is neither offered nor asked for (INTEROP-05). `AcceptsStatus` is
    /// added if it is missing, and undefined bits are never sent (CAP-09, CAP-13, INTEROP-08).
    pub capabilities: ServerCapabilities,
    /// The custom capabilities announced to Agents. Default: none. Custom messages of others are
    /// neither sent nor taken (CUST-06, CUST-09).
    pub custom_capabilities: CustomCapabilities,
    /// The greatest message taken and sent, on either transport. Default: 64 MiB each (SIZE-02,
    /// SIZE-03, SIZE-19, SIZE-20). Every connection may make the Server hold as much as
    /// `max_receive` for the time of one message: where that is too much, lower it to what Agents
    /// really report. A `max_send` below 512 bytes leaves no room for the text of an error.
    pub limits: MessageLimits,
    /// Deviations that are served. Default: none.
    pub tolerances: Tolerances,
    /// Agents the registry holds; one more is told UNAVAILABLE. Default: 1,000,000.
    pub max_agents: usize,
    /// Connections and Agents that may arrive: handshakes of WebSockets, first messages of Agents
    /// that are not there, further Agents on a WebSocket. Polls and heartbeats are none. Others are
    /// told UNAVAILABLE, and 503 over HTTP, with a time to come back that is another for each
    /// ([`Arrivals`](crate::core::Arrivals)). Default: 1,000 each second and 10,000 at once, so
    /// that 100,000 Agents that all come back are there within two minutes.
    pub arrivals: Rate,
    /// The longest time somebody who arrives is told to stay away. Default: 15 min, so that the
    /// Agents of a Server that is down for long do not stay away for longer than that afterwards.
    pub max_arrival_wait: Duration,
    /// The shortest time Agents are told to stay away by an overloaded Server, and half the
    /// longest. Default: 30 s (THR-12).
    pub overload_pause: Duration,
    /// Agents that may share one connection; one more is told UNAVAILABLE (ID-11). Default: 1,024.
    pub max_agents_per_connection: usize,
    /// Bytes of reported state kept for one Agent; a report that would exceed it is told
    /// BAD_REQUEST and changes nothing. Default: 16 MiB. A full report has some kB, and with the
    /// configuration files of a large installation a few MiB; and it still takes more than a
    /// hundred Agents that report as much as they may to use up `max_fleet_bytes`.
    pub max_retained_bytes: usize,
    /// Bytes of reported state kept for all Agents together; a report that would exceed it is told
    /// UNAVAILABLE and changes nothing, and one that adds nothing is served on. Default: 2 GiB,
    /// which is 2 KiB for each of `max_agents`: raise it where there are that many, or lower it to
    /// what memory there is. What the registry keeps beside that, about 600 bytes for each Agent, and
    /// the configurations set by the operator do not count.
    pub max_fleet_bytes: usize,
    /// The pause before an Agent that did not deliver its full state is asked again. Default: 60 s.
    pub full_state_pause: Duration,
    /// Agents asked for their full state in a second, beside those the operator asks; others that
    /// owe it are asked in their turn ([`FullStatePace`](crate::core::FullStatePace)). 0 asks all
    /// of them at once. Default: 500, so that 100,000 Agents that all owe it, after a crash or a
    /// start without a store, are asked within 200 s, and their reports are a small part of what a
    /// Server can take.
    pub full_state_rate: u32,
    /// The pause before the same configuration, settings or packages are offered again on a session
    /// without any news from the Agent (readings A32, A35). Default: 60 s.
    pub offer_pause: Duration,
    /// How long an Agent may take from an offer to success or failure before the offer counts as
    /// [timed out](crate::Outcome::TimedOut). Default: 10 min, as packages have to be downloaded.
    pub offer_deadline: Duration,
    /// Custom messages that may wait to be sent to one Agent, and that it may send before the
    /// handler has taken them. Default: 64.
    pub max_custom_messages: usize,
    /// The bytes of these, each way. Default: 256 KiB. What Agents sent counts towards
    /// `max_fleet_bytes`, too.
    pub max_custom_bytes: usize,
    /// How long a custom message waits for its Agent. Default: 5 min.
    pub custom_message_expiry: Duration,
    /// Sets of available components remembered by their hash, so that Agents with the same set need
    /// not send it; 0 asks for none (COMP-08, COMP-10). Default: 1,024. A set of more than 1 MiB is
    /// not remembered.
    pub max_remembered_components: usize,
    /// How long a command waits for its Agent. Default: 60 s: a restart that was meant for now
    /// should not happen tomorrow.
    pub command_expiry: Duration,
    /// How long a rename waits for the Agent to speak under its new instance uid. Default: 24 h.
    pub rename_expiry: Duration,
    /// Heartbeats in a row, or polls, that an Agent may leave out before it counts as disconnected,
    /// if it has agreed to an interval: it reported settings as applied that this Server offered
    /// with one. On a WebSocket that concerns Agents that set ReportsHeartbeat; no other is ever
    /// disconnected for its silence (HB-10, HB-18). Half an interval, at most 10 s, is granted on
    /// top. Default: 3; 0 expects nothing.
    pub missed_heartbeats: u32,
    /// How long a connected Agent has to give a sign of life when another one comes under its
    /// instance uid: with one the other is renamed, without one it takes over (DUP-05, reading
    /// A13). Default: 5 s, which a ping there and back takes on a very bad link; an Agent that
    /// comes back while its old connection seems open waits as long.
    pub duplicate_probe_timeout: Duration,
    /// How long an HTTP Agent may be silent before it counts as disconnected (CLOSE-08), unless it
    /// has agreed to an interval. Default: 90 s, three of the advised polling intervals.
    pub http_offline_after: Duration,
    /// Bytes of a certificate request that are taken; a longer one is told BAD_REQUEST. Default: 64
    /// KiB, while one with an RSA key of 4,096 bits has 2 KiB. What waits for a decision counts
    /// towards `max_fleet_bytes`.
    pub max_certificate_request: usize,
    /// How long a certificate request waits for a decision without being repeated. Default: 24 h.
    pub certificate_request_expiry: Duration,
    /// How long a disconnected Agent is remembered, and what was set for it. Default: 24 h. Time
    /// for which a Server with a store is down does not count.
    pub retain_disconnected: Duration,
    /// Parts the registry is divided into, each behind a lock of its own. Default: 64.
    pub shards: usize,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            capabilities: ServerCapabilities::ACCEPTS_STATUS
                | ServerCapabilities::OFFERS_REMOTE_CONFIG
                | ServerCapabilities::ACCEPTS_EFFECTIVE_CONFIG
                | ServerCapabilities::OFFERS_PACKAGES
                | ServerCapabilities::ACCEPTS_PACKAGES_STATUS
                | ServerCapabilities::OFFERS_CONNECTION_SETTINGS,
            custom_capabilities: CustomCapabilities::default(),
            limits: MessageLimits::default(),
            tolerances: Tolerances::default(),
            max_agents: 1_000_000,
            arrivals: Rate::per_second(1_000).with_burst(10_000),
            max_arrival_wait: Duration::from_secs(15 * 60),
            overload_pause: Duration::from_secs(30),
            max_agents_per_connection: 1_024,
            max_retained_bytes: 16 * 1024 * 1024,
            max_fleet_bytes: 2 * 1024 * 1024 * 1024,
            full_state_pause: Duration::from_secs(60),
            full_state_rate: 500,
            offer_pause: Duration::from_secs(60),
            offer_deadline: Duration::from_secs(600),
            max_custom_messages: 64,
            max_custom_bytes: 256 * 1024,
            custom_message_expiry: Duration::from_secs(300),
            max_remembered_components: 1_024,
            command_expiry: Duration::from_secs(60),
            rename_expiry: Duration::from_secs(24 * 60 * 60),
            missed_heartbeats: 3,
            duplicate_probe_timeout: Duration::from_secs(5),
            http_offline_after: Duration::from_secs(90),
            max_certificate_request: 64 * 1024,
            certificate_request_expiry: Duration::from_secs(24 * 60 * 60),
            retain_disconnected: Duration::from_secs(24 * 60 * 60),
            shards: 64,
        }
    }
}

impl ServerConfig {
    /// The mask as it is sent.
    #[must_use]
    pub fn sent_capabilities(&self) -> ServerCapabilities {
        ServerCapabilities::from_bits_truncate(self.capabilities.bits())
            | ServerCapabilities::ACCEPTS_STATUS
    }

    /// The bytes of the reply to a heartbeat over HTTP: the instance uid and the mask.
    #[cfg(feature = "service")]
    pub(crate) fn usual_reply(&self) -> usize {
        let mask = self.sent_capabilities().to_wire();
        2 + 16 + prost::encoding::uint64::encoded_len(7, &mask)
    }

    /// Whether a message with an offer of so many bytes is within the limit of what is sent,
    /// whatever else has to be in it (SIZE-12, SIZE-30).
    pub(crate) fn check_size(&self, offer: usize) -> Result<(), OperationError> {
        let limit = self.limits.max_send();
        let head = MAX_HEAD + self.custom_capabilities.encoded().len();
        match offer.saturating_add(head) {
            size if size > limit => Err(OperationError::TooLarge { size, limit }),
            _ => Ok(()),
        }
    }
}

/// The moment after a span of time, be it as long as it may.
pub(crate) fn later(now: Instant, span: Duration) -> Instant {
    /// Beyond any use, and within what clocks can count.
    const LONGEST: Duration = Duration::from_secs(50 * 365 * 24 * 60 * 60);
    now + span.min(LONGEST)
}
