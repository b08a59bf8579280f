//! Remote and effective configuration.

use std::collections::BTreeMap;

use bytes::Bytes;
use opamp_proto::v1::{
    AgentConfigFile, AgentConfigMap, AgentRemoteConfig, EffectiveConfig, RemoteConfigStatus,
    RemoteConfigStatuses,
};

use super::{Mind, Part};
use crate::mask::agent as mask;

impl Mind {
    pub(in crate::reference::client) fn effective_config(&self) -> EffectiveConfig {
        let file = AgentConfigFile {
            body: Bytes::copy_from_slice(self.kept.config.as_bytes()),
            content_type: "text/yaml".to_owned(),
        };
        let config_map = BTreeMap::from([(String::new(), file)]);
        EffectiveConfig { config_map: Some(AgentConfigMap { config_map }) }
    }

    pub(in crate::reference::client) fn configure(&mut self, offer: &AgentRemoteConfig) {
        if self.capabilities & mask::ACCEPTS_REMOTE_CONFIG == 0
            || offer.config_hash == self.kept.config_status.last_remote_config_hash
        {
            return;
        }
        let (status, error_message) = match read(offer) {
            Ok(text) => {
                if text != self.kept.config {
                    self.kept.config = text;
                    self.unreported.insert(Part::EffectiveConfig);
                }
                (RemoteConfigStatuses::Applied, String::new())
            }
            Err(error) => (RemoteConfigStatuses::Failed, error),
        };
        self.kept.config_status = RemoteConfigStatus {
            last_remote_config_hash: offer.config_hash.clone(),
            status: status as i32,
            error_message,
        };
        self.unreported.insert(Part::RemoteConfigStatus);
    }
}

fn read(offer: &AgentRemoteConfig) -> Result<String, String> {
    let files = offer.config.as_ref().map(|config| &config.config_map);
    let file = files.and_then(|files| files.values().next()).ok_or("the offer has no file")?;
    let text = String::from_utf8(file.body.to_vec()).map_err(|error| error.to_string())?;
    let parsed: Result<yaml_serde::Value, _> = yaml_serde::from_str(&text);
    parsed.map(|_| text).map_err(|error| error.to_string())
}
