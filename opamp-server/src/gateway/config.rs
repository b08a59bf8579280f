//! The bounds and times of a gateway.

use std::time::Duration;

use opamp_proto::DEFAULT_MAX_MESSAGE_SIZE;

/// The bounds and times of a [`Gateway`](super::Gateway).
///
/// ```
/// let mut config = opamp_server::gateway::GatewayConfig::default();
/// config.connections = 4;
/// assert_eq!(config.max_agents_per_upstream, 1_000);
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct GatewayConfig {
    /// Connections to the Server; 0 counts as 1. Default: 1.
    pub connections: usize,
    /// Agents with a session on one of them. Default: 1,000, as servers bound the Agents of a
    /// connection: this crate's at 1,024. What is beyond all connections together is refused.
    pub max_agents_per_upstream: usize,
    /// Agents on one downstream connection. Default: 1,024, so that one gateway can stand behind
    /// another.
    pub max_agents_per_connection: usize,
    /// Agents known at a time, those that have just left included. Default: 100,000.
    pub max_agents: usize,
    /// The largest message the Server takes, with its header (SIZE-01); it would close the
    /// connection for all over a larger one. Default: 64 MiB. Of Agents over HTTP, whose messages
    /// have no header (SIZE-18), a byte less is passed on: where they may send as much as that, let
    /// the Server take a byte more, and say so here.
    pub max_message_bytes: usize,
    /// Bytes that wait to be sent to the Server, on all connections together; a message beyond that
    /// is refused with UNAVAILABLE. Default: 256 MiB. A single message is taken whatever its size.
    /// Each message counts 64 bytes more than it has.
    pub max_waiting_bytes: usize,
    /// Bytes waiting for one upstream connection above which those who send to it are not read
    /// any more. Default: 1 MiB.
    pub upstream_high_water: usize,
    /// Bytes waiting from one downstream connection above which it is not read any more. Default:
    /// 64 KiB.
    pub connection_high_water: usize,
    /// Bytes that wait to be sent on one downstream connection, or for an HTTP Agent's next
    /// request. A connection that has more is closed. Default: 4 MiB; a single message may have
    /// more.
    pub max_unread_bytes: usize,
    /// The same of all Agents together; who is furthest behind is closed first. Default: 256 MiB.
    pub max_unread_bytes_in_all: usize,
    /// Requests of one HTTP Agent that wait for a reply at a time. Default: 4.
    pub max_requests_per_agent: usize,
    /// How long an HTTP request waits for the Server's reply; then 503. Default: 10 s.
    pub reply_deadline: Duration,
    /// How long messages wait for a lost upstream connection to come back; then they are refused
    /// with UNAVAILABLE, and so are new ones. Default: 10 s.
    pub outage_patience: Duration,
    /// The pause Agents are told at least when they are refused. Default: 30 s, the least a client
    /// is advised to wait (THR-12). To spread their return each is told up to half as much more.
    pub retry_after: Duration,
    /// Silence after which an HTTP Agent counts as gone (CLOSE-08). Default: 90 s.
    pub http_offline_after: Duration,
    /// Agents asked for their full state in a second after an upstream connection was lost.
    /// Default: 500.
    pub full_state_per_second: u32,
    /// Malformed messages in a row after which a downstream connection is closed, beyond one for
    /// each Agent on it. Default: 16.
    pub max_malformed: u32,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            connections: 1,
            max_agents_per_upstream: 1_000,
            max_agents_per_connection: 1_024,
            max_agents: 100_000,
            max_message_bytes: DEFAULT_MAX_MESSAGE_SIZE,
            max_waiting_bytes: 256 * 1024 * 1024,
            upstream_high_water: 1024 * 1024,
            connection_high_water: 64 * 1024,
            max_unread_bytes: 4 * 1024 * 1024,
            max_unread_bytes_in_all: 256 * 1024 * 1024,
            max_requests_per_agent: 4,
            reply_deadline: Duration::from_secs(10),
            outage_patience: Duration::from_secs(10),
            retry_after: Duration::from_secs(30),
            http_offline_after: Duration::from_secs(90),
            full_state_per_second: 500,
            max_malformed: 16,
        }
    }
}
