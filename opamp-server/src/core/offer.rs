//! Remote configurations, and when to offer one (CFG-01 to CFG-03, CFG-18, CFG-19, CFG-24, CFG-25;
//! reading A32).
//!
//! An offer is due when the Agent accepts configurations and the hash it last reported is not that of
//! the configuration it should have, whatever became of it: a FAILED with the right hash gets no
//! second offer. What was offered on a session is not offered there again until the Agent reported
//! something new about it, the configuration changed, or a pause went by; and an Agent that answers
//! every offer with another wrong hash gets a bounded number of them in each pause.

use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;
use opamp_proto::{ConfigHash, Message, config_hash, v1};

/// Offers of one configuration to one Agent in one pause.
const MAX_OFFERS_PER_PAUSE: u8 = 8;

/// A configuration ready to be offered: encoded once, however many Agents it goes to.
///
/// Clones share the bytes. Its hash follows from its content (CFG-25, CFG-26).
///
/// ```
/// use opamp_proto::v1;
/// use opamp_server::RemoteConfig;
///
/// let file = v1::AgentConfigFile { body: "receivers: {}".into(), ..Default::default() };
/// let config = RemoteConfig::new(v1::AgentConfigMap {
///     config_map: [(String::new(), file)].into(),
/// });
/// assert_eq!(config, RemoteConfig::new(config.to_message()));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct RemoteConfig {
    hash: ConfigHash,
    /// A `ServerToAgent` with nothing but `remote_config`.
    encoded: Bytes,
}

impl RemoteConfig {
    /// Encodes a collection of configuration files.
    #[must_use]
    pub fn new(config: v1::AgentConfigMap) -> Self {
        let hash = config_hash(&config);
        let offer = v1::AgentRemoteConfig { config: Some(config), config_hash: hash.to_bytes() };
        let message = v1::ServerToAgent { remote_config: Some(offer), ..Default::default() };
        Self { hash, encoded: message.encode_to_vec().into() }
    }

    /// The configuration's hash.
    #[must_use]
    pub const fn hash(&self) -> ConfigHash {
        self.hash
    }

    /// The bytes the offer adds to a message.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        self.encoded.len()
    }

    /// The collection of files, decoded.
    #[must_use]
    pub fn to_message(&self) -> v1::AgentConfigMap {
        let message = v1::ServerToAgent::decode(self.encoded.clone()).unwrap_or_default();
        message.remote_config.and_then(|offer| offer.config).unwrap_or_default()
    }

    /// The offer's encoded fields, to be appended to a message.
    pub(super) fn tail(&self) -> Bytes {
        self.encoded.clone()
    }
}

impl fmt::Debug for RemoteConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteConfig")
            .field("hash", &format_args!("{}", self.hash))
            .field("encoded_len", &self.encoded.len())
            .finish_non_exhaustive()
    }
}

/// What one Agent was offered on its session, and what it says it has.
#[derive(Debug, Default, Clone)]
pub(super) struct Offers {
    /// `last_remote_config_hash`; `None` as long as no status was reported.
    reported: Option<Bytes>,
    offered: Option<Offered>,
}

#[derive(Debug, Clone)]
struct Offered {
    hash: ConfigHash,
    /// The offer may be repeated before the pause is over.
    repeatable: bool,
    last: Instant,
    /// When the pause began in which `count` offers were made.
    first: Instant,
    count: u8,
}

impl Offers {
    /// A new session knows of no offers.
    pub(super) fn session_began(&mut self) {
        self.offered = None;
    }

    /// The Agent reported a status that differs from the one before.
    pub(super) fn status_changed(&mut self, status: &v1::RemoteConfigStatus) {
        self.reported = Some(Bytes::copy_from_slice(&status.last_remote_config_hash));
        self.may_repeat();
    }

    /// The offer did not arrive, as it seems.
    pub(super) fn may_repeat(&mut self) {
        if let Some(offered) = &mut self.offered {
            offered.repeatable = true;
        }
    }

    /// Whether to offer this configuration now.
    pub(super) fn is_due(&self, config: &RemoteConfig, pause: Duration, now: Instant) -> bool {
        if self.reported.as_ref().is_some_and(|hash| hash == config.hash.as_bytes().as_slice()) {
            return false;
        }
        let Some(offered) = self.offered.as_ref().filter(|offered| offered.hash == config.hash)
        else {
            return true;
        };
        let paused = |since| now.saturating_duration_since(since) >= pause;
        if offered.repeatable {
            return offered.count < MAX_OFFERS_PER_PAUSE || paused(offered.first);
        }
        // To an Agent that reports no status, once is enough.
        self.reported.is_some() && paused(offered.last)
    }

    /// This configuration is being offered.
    pub(super) fn offered(&mut self, config: &RemoteConfig, pause: Duration, now: Instant) {
        let earlier = self.offered.take().filter(|earlier| {
            earlier.hash == config.hash && now.saturating_duration_since(earlier.first) < pause
        });
        let (first, count) = earlier.map_or((now, 0), |earlier| (earlier.first, earlier.count));
        self.offered = Some(Offered {
            hash: config.hash,
            repeatable: false,
            last: now,
            first,
            count: count.saturating_add(1),
        });
    }
}
