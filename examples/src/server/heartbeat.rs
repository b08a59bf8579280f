//! The heartbeat interval that agents are offered, together with the endpoint they use: an offer of
//! settings for the connection always has one.

use std::sync::{Arc, OnceLock};

use opamp_proto::{AgentCapabilities, v1};
use opamp_server::{AgentSnapshot, ConnectionSettings};

use super::Fleet;
use super::admin::Place;

/// Offers an interval to agents that have no connection settings yet.
#[derive(Debug, Clone)]
pub(super) struct Heartbeat {
    seconds: u64,
    /// Known when the server listens.
    place: Arc<OnceLock<Place>>,
}

impl Heartbeat {
    pub(super) fn new(seconds: u64) -> Self {
        Self { seconds, place: Arc::default() }
    }

    /// Agents reach the server there.
    pub(super) fn set_place(&self, place: &Place) {
        if place.base().is_empty() {
            tracing::warn!("no heartbeat interval is offered without --endpoint on this address");
        }
        // It is set once, by whoever started the server.
        let _ = self.place.set(place.clone());
    }

    /// Offers the interval to an agent, unless settings were set for it, or it takes none.
    pub(super) fn offer(&self, fleet: &Fleet, agent: &AgentSnapshot) {
        let key = *agent.key();
        let accepts = AgentCapabilities::ACCEPTS_OPAMP_CONNECTION_SETTINGS;
        let endpoint = self.place.get().map(|place| place.endpoint(agent.transport()));
        let Some(endpoint) = endpoint.filter(|endpoint| !endpoint.is_empty()) else { return };
        if !agent.capabilities().contains(accepts) || fleet.connection_settings(key).is_some() {
            return;
        }
        let opamp = v1::OpAmpConnectionSettings {
            destination_endpoint: endpoint,
            heartbeat_interval_seconds: self.seconds,
            ..Default::default()
        };
        let offers = v1::ConnectionSettingsOffers { opamp: Some(opamp), ..Default::default() };
        let offered = ConnectionSettings::new(offers).map_err(|error| error.to_string()).and_then(
            |settings| {
                fleet.set_connection_settings(key, settings).map_err(|error| error.to_string())
            },
        );
        if let Err(error) = offered {
            tracing::warn!(agent = %key, error, "no heartbeat interval is offered");
        }
    }
}
