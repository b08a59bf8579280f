//! A remote configuration that is ready to be offered (CFG-01, CFG-25).

use std::fmt;

use bytes::Bytes;
use opamp_proto::{ConfigHash, Message, config_hash, v1};

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
