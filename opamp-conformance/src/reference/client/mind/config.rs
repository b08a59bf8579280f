//! Remote and effective configuration.

use std::collections::BTreeMap;

use bytes::Bytes;
use opamp_proto::v1::{
    AgentConfigFile, AgentConfigMap, AgentRemoteConfig, EffectiveConfig, RemoteConfigStatus,
    RemoteConfigStatuses,
};

use tokio::time::{Duration, Instant};

use super::{Mind, Part};
use crate::mask::agent as mask;
use crate::wire::body::sha256;

/// What is offered within this time of another offer is right after it.
const JUST_NOW: Duration = Duration::from_millis(20);

impl Mind {
    pub(in crate::reference::client) fn effective_config(&self) -> EffectiveConfig {
        let file = AgentConfigFile {
            body: Bytes::copy_from_slice(self.kept.config.as_bytes()),
            content_type: "text/yaml".to_owned(),
        };
        let config_map = BTreeMap::from([("agent.yaml".to_owned(), file)]);
        EffectiveConfig { config_map: Some(AgentConfigMap { config_map }) }
    }

    pub(in crate::reference::client) fn configure(&mut self, offer: &AgentRemoteConfig) {
        let fault = |name| self.faults.has(name);
        if self.capabilities & mask::ACCEPTS_REMOTE_CONFIG == 0
            && !fault("config-is-taken-without-capability")
        {
            return;
        }
        if offer.config_hash == self.kept.config_status.last_remote_config_hash {
            if fault("same-config-is-reported-again") {
                self.unreported.insert(Part::RemoteConfigStatus);
            }
            return;
        }
        let just_now = self.configured_at.is_some_and(|at| at.elapsed() < JUST_NOW);
        if fault("config-is-not-answered") || just_now && fault("second-config-is-dropped") {
            return;
        }
        self.configured_at = Some(Instant::now());
        let (mut status, mut error_message) = match self.read(offer) {
            Ok(text) => {
                let is_told = !fault("effective-config-change-is-not-told");
                if text != self.kept.config && !fault("effective-config-is-that-of-the-start") {
                    self.kept.config = text;
                    if is_told {
                        self.unreported.insert(Part::EffectiveConfig);
                    }
                }
                (RemoteConfigStatuses::Applied, String::new())
            }
            Err(error) => (RemoteConfigStatuses::Failed, error),
        };
        if self.faults.has("config-stays-applying") {
            status = RemoteConfigStatuses::Applying;
        }
        if error_message.is_empty() && self.faults.has("config-error-outlives-it") {
            error_message.clone_from(&self.kept.config_status.error_message);
        }
        if error_message.is_empty() && self.faults.has("config-success-has-an-error") {
            "no error".clone_into(&mut error_message);
        }
        let mut hash = offer.config_hash.clone();
        if self.faults.has("config-hash-is-not-echoed") {
            hash = sha256(&hash);
        }
        self.kept.config_status = RemoteConfigStatus {
            last_remote_config_hash: hash,
            status: status as i32,
            error_message,
        };
        self.unreported.insert(Part::RemoteConfigStatus);
    }

    fn read(&self, offer: &AgentRemoteConfig) -> Result<String, String> {
        let files = offer.config.as_ref().map(|config| &config.config_map);
        let (name, file) =
            files.and_then(|files| files.first_key_value()).ok_or("the offer has no file")?;
        if name.is_empty() && self.faults.has("nameless-config-is-refused") {
            return Err("the file has no name".to_owned());
        }
        if file.content_type.is_empty() && self.faults.has("config-needs-a-content-type") {
            return Err("the file has no content type".to_owned());
        }
        let text = if self.faults.has("config-is-made-text") {
            String::from_utf8_lossy(&file.body).into_owned()
        } else {
            String::from_utf8(file.body.to_vec()).map_err(|error| error.to_string())?
        };
        let parsed: Result<yaml_serde::Value, _> = yaml_serde::from_str(&text);
        parsed.map(|_| text).map_err(|error| error.to_string())
    }
}
