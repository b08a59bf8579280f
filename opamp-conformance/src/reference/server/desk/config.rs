//! Remote configuration on the desk: what is assigned to an agent, and when it is offered.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use opamp_proto::v1::{
    AgentConfigFile, AgentConfigMap, AgentRemoteConfig, AgentToServer, RemoteConfigStatus,
    ServerToAgent,
};
use prost::Message as _;

use crate::hook::{File, HookError};
use crate::mask::agent as mask;
use crate::reference::Faults;
use crate::wire::body;

/// What an agent is to have, and what it was told of that.
#[derive(Default)]
pub(super) struct Assigned {
    config: Option<AgentRemoteConfig>,
    /// The hash offered last in this session, not to be offered again unasked.
    offered: Bytes,
    /// With a fault: earlier configurations that are still to be offered.
    missed: VecDeque<AgentRemoteConfig>,
}

impl Assigned {
    /// A new session begins, or the agent has something new to say of its configuration.
    pub(super) fn may_be_offered_again(&mut self) {
        self.offered = Bytes::new();
    }

    /// Assigns a configuration.
    pub(super) fn assign(
        &mut self,
        files: &BTreeMap<String, File>,
        is_away: bool,
        faults: &Faults,
    ) -> Result<(), HookError> {
        let mut config_map = BTreeMap::new();
        for (name, File { body, content_type }) in files {
            let mut file =
                AgentConfigFile { body: super::base64(body)?, content_type: content_type.clone() };
            if faults.has("offered-files-become-text") {
                file.body = String::from_utf8_lossy(&file.body).into_owned().into();
            }
            let is_nameless = name.is_empty() && faults.has("files-are-given-names");
            let name = if is_nameless { "config.yaml".to_owned() } else { name.clone() };
            config_map.insert(name, file);
        }
        let hashed = if faults.has("config-hash-ignores-names") {
            config_map.values().map(|file| &file.body[..]).collect::<Vec<_>>().concat()
        } else {
            AgentConfigMap { config_map: config_map.clone() }.encode_to_vec()
        };
        if faults.has("content-types-are-dropped") {
            config_map.values_mut().for_each(|file| file.content_type.clear());
        }
        if faults.has("configurations-have-a-second-file") {
            config_map.insert("extra".to_owned(), AgentConfigFile::default());
        }
        let config = AgentRemoteConfig {
            config: Some(AgentConfigMap { config_map }),
            config_hash: body::sha256(&hashed),
        };
        let replaced = self.config.replace(config);
        if is_away && faults.has("missed-configurations-are-caught-up") {
            self.missed.extend(replaced);
        }
        Ok(())
    }

    /// Puts the configuration into a message where an offer of it is due.
    pub(super) fn fill(
        &mut self,
        message: &mut ServerToAgent,
        state: &AgentToServer,
        faults: &Faults,
    ) {
        let accepts = state.capabilities & mask::ACCEPTS_REMOTE_CONFIG != 0;
        if !accepts && !faults.has("configurations-are-offered-to-all") {
            return;
        }
        if let Some(missed) = self.missed.pop_front() {
            message.remote_config = Some(missed);
            return;
        }
        let Some(config) = &self.config else { return };
        let has = |status: &RemoteConfigStatus| {
            let hash = &status.last_remote_config_hash;
            let is_ignored = faults.has("reported-hashes-are-not-compared") && !hash.is_empty();
            is_ignored || *hash == config.config_hash
        };
        let has = state.remote_config_status.as_ref().is_some_and(has)
            && !faults.has("known-configurations-are-offered-again");
        if has || self.offered == config.config_hash {
            return;
        }
        self.offered = config.config_hash.clone();
        let mut offer = config.clone();
        if faults.has("configurations-have-no-hash") {
            offer.config_hash = Bytes::new();
        }
        message.remote_config = Some(offer);
    }
}
