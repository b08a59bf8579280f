//! The times and bounds of the service.

use std::time::Duration;

use super::overload::OverloadLimits;
use super::proxies::TrustedProxies;
use super::store::StoreFailure;
use crate::core::Rate;

/// Times and bounds of the service, beside those of [`ServerConfig`](crate::ServerConfig).
///
/// The times for WebSockets are kept by one coarse clock for all of them: they may be exceeded by a
/// second.
///
/// ```
/// use std::time::Duration;
///
/// let mut config = opamp_server::ServiceConfig::default();
/// config.ping_interval = Duration::from_secs(60);
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServiceConfig {
    /// How long [`Handler::admit`](crate::Handler::admit) may take; the request is then answered
    /// with 503. Default: 10 s.
    pub admission_deadline: Duration,
    /// How long any body of a request may take to arrive, and the longest pause in one; then 408.
    /// And how long any message on a WebSocket may take from its first byte to its last; then
    /// Close 1008. Default: 30 s. A body that keeps up [`min_body_rate`](Self::min_body_rate) may
    /// take up to twenty times as long.
    pub body_deadline: Duration,
    /// Bytes each second, on the whole, that a body has to come at beyond `body_deadline`. Default:
    /// 1,024, which is what very slow links still do.
    pub min_body_rate: u32,
    /// The frames one WebSocket is read at in a second, control frames and fragments included; 0 is
    /// no limit. More wait, which its peer notices as a connection that is slow. Default: 20,000,
    /// which is what a gateway may send for a thousand Agents that all report at once, in
    /// fragments.
    pub max_frames_per_second: u32,
    /// Bytes of messages that have arrived in part, and of bodies that are unpacked, on all
    /// connections together. Nobody may hold more than is left free, so alone a message may have
    /// half of it: keep it at twice the limit of a message at least. Others are closed with code
    /// 1013, or told 503. The first 4 KiB of each do not count, but over HTTP/2, where a connection
    /// has many. Default: 256 MiB.
    pub max_in_progress: usize,
    /// The proxies whose word about a client's address is taken. Default: none, so that the address
    /// is that of the connection.
    pub trusted_proxies: TrustedProxies,
    /// Connections from one address, or from one network of 64 bits with IPv6; one more is
    /// told 429. Connections of a trusted proxy count for nobody, its clients' WebSockets do.
    /// Default: 5,000, as the Agents of a site may share an address.
    pub max_connections_per_address: usize,
    /// HTTP requests, handshakes of WebSockets included, from one address; more are told 429.
    /// Default: 500 each second and 5,000 at once.
    pub requests_per_address: Rate,
    /// WebSockets of one [account](crate::Handler::account); one more is told 429. Default: 10,000.
    pub max_connections_per_account: usize,
    /// HTTP requests of one [account](crate::Handler::account); more are told 429. Default: 1,000
    /// each second and 10,000 at once.
    pub requests_per_account: Rate,
    /// When the Server takes itself for overloaded; `None` leaves that to
    /// [`Fleet::set_load`](crate::Fleet::set_load).
    pub overload: Option<OverloadLimits>,
    /// How long an HTTP response waits for
    /// [`Handler::agent_changed`](crate::Handler::agent_changed), so that what it sets goes out in
    /// that response. Default: 1 s.
    pub reply_deadline: Duration,
    /// HTTP responses of at least this many bytes are compressed for clients that accept it.
    /// Default: 1 KiB, below which it gains nothing (HTTP-24).
    pub min_compressed: usize,
    /// How long a WebSocket may be open before its first message. Default: 30 s.
    pub first_message_timeout: Duration,
    /// Silence of a WebSocket's peer after which it is pinged. Default: 30 s, within the time most
    /// proxies keep a silent connection.
    pub ping_interval: Duration,
    /// How long after a ping a peer may stay silent. Default: 20 s.
    pub pong_timeout: Duration,
    /// How long a peer may take nothing of what waits to be sent: on a WebSocket, and on every
    /// connection of a [`Server`](crate::Server). Default: 30 s. The HTTP responses of a mounted
    /// service are written by its host, which has to bound the time for that itself.
    pub write_timeout: Duration,
    /// How long the closing handshake of a WebSocket may take (CLOSE-04), and how long the rest of
    /// a refused request's body is read so that the answer is not lost. Default: 5 s.
    pub close_timeout: Duration,
    /// Malformed messages in a row after which a WebSocket is closed, beyond one for each Agent on
    /// it. Default: 16.
    pub max_malformed: u32,
    /// Messages in a row for Agents the peer may not speak for, after which a WebSocket is closed,
    /// beyond one for each Agent it does speak for. Default: 3, as there is nothing the peer could
    /// do better next time.
    pub max_denied: u32,
    /// Calls of [`Handler::agent_changed`](crate::Handler::agent_changed) at a time. Default: 64.
    pub handler_concurrency: usize,
    /// How long one such call may take before it is dropped. Default: 60 s, so that calls that hang
    /// cannot use up the concurrency for good.
    pub handler_deadline: Duration,
    /// Has certificates issued to Agents that ask for them. Default: `None`, and the Server does
    /// not say that it takes requests (CSR-24).
    #[cfg(feature = "ca")]
    pub certificates: Option<super::CertificateIssuing>,
    /// The certificates that are not taken any more. Default: `None`.
    #[cfg(feature = "ca")]
    pub revocations: Option<super::Revocations>,
    /// How long a reply waits for what changed to be [stored](crate::service::store). Default: 10
    /// s, within the time in which Agents wait for one.
    pub store_deadline: Duration,
    /// What becomes of a reply that has waited so long. Default: [`StoreFailure::Refuse`].
    pub store_failure: StoreFailure,
    /// When an Agent whose news could not be stored is told to come again. Default: 30 s.
    pub store_retry_after: Duration,
    /// How far numbers and times in the store may lag behind. Default: 10 s. The shorter, the fewer
    /// Agents are asked for their full state after a crash: of those that have heartbeats every 30
    /// s a sixth, on average. The longer, the less is written: about 100 bytes for each Agent that
    /// had one.
    pub store_lag: Duration,
}

impl Default for ServiceConfig {
    fn default() -> Self {
        Self {
            admission_deadline: Duration::from_secs(10),
            body_deadline: Duration::from_secs(30),
            min_body_rate: 1024,
            max_frames_per_second: 20_000,
            max_in_progress: 256 * 1024 * 1024,
            trusted_proxies: TrustedProxies::default(),
            max_connections_per_address: 5_000,
            requests_per_address: Rate::per_second(500).with_burst(5_000),
            max_connections_per_account: 10_000,
            requests_per_account: Rate::per_second(1_000).with_burst(10_000),
            overload: Some(OverloadLimits::default()),
            reply_deadline: Duration::from_secs(1),
            min_compressed: 1024,
            first_message_timeout: Duration::from_secs(30),
            ping_interval: Duration::from_secs(30),
            pong_timeout: Duration::from_secs(20),
            write_timeout: Duration::from_secs(30),
            close_timeout: Duration::from_secs(5),
            max_malformed: 16,
            max_denied: 3,
            handler_concurrency: 64,
            handler_deadline: Duration::from_secs(60),
            #[cfg(feature = "ca")]
            certificates: None,
            #[cfg(feature = "ca")]
            revocations: None,
            store_deadline: Duration::from_secs(10),
            store_failure: StoreFailure::default(),
            store_retry_after: Duration::from_secs(30),
            store_lag: Duration::from_secs(10),
        }
    }
}

impl ServiceConfig {
    /// The period of the coarse clock: a fraction of the shortest time it has to keep.
    pub(super) fn tick(&self) -> Duration {
        let times =
            [self.first_message_timeout, self.ping_interval, self.pong_timeout, self.write_timeout];
        let shortest = times.into_iter().min().unwrap_or_default();
        (shortest / 4).clamp(Duration::from_millis(10), Duration::from_secs(1))
    }
}
