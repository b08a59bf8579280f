//! What the operator wants Agents to have: configurations, connection settings and packages, for
//! all or for one, and custom messages.
//!
//! What is set is offered to each Agent that accepts it, pushed at once over a WebSocket and with
//! the next request over HTTP, until the Agent has said that it has it; a later value replaces an
//! earlier one (CFG-09, HTTP-10, CONN-42, TEL-04, PKG-02). Connection settings are offered once
//! they are stored, where there is a store (CONN-09). What became of it is in the Agent's
//! [`AgentSnapshot`](super::AgentSnapshot).

use std::sync::Arc;
use std::time::Instant;

use opamp_proto::{AgentCapabilities, ServerCapabilities, v1};

use super::shard::Slot;
use super::tally::Kind;
use super::{AgentKey, Fleet};
use crate::core::{
    ConnectionSettings, Desired, OperationError, Packages, RemoteConfig, SettingsParts,
};

/// What all Agents get that have none of their own.
impl<I> Fleet<I> {
    /// What Agents should have that have nothing of that kind of their own.
    #[must_use]
    pub fn defaults(&self) -> Desired {
        self.shards().next().map(|shard| shard.desired.clone()).unwrap_or_default()
    }

    /// The configuration for all Agents that have none of their own.
    #[must_use]
    pub fn default_remote_config(&self) -> Option<RemoteConfig> {
        self.defaults().remote_config
    }

    /// Sets the configuration for all Agents that have none of their own. Those on a WebSocket that
    /// need it get it pushed; the others get it with their next request (CFG-09, HTTP-10).
    ///
    /// # Errors
    ///
    /// [`OperationError::NotOffered`] if the Server does not announce that it offers
    /// configurations, and [`OperationError::TooLarge`] if the message with it could exceed the
    /// limit of what is sent; the configuration is then as it was (SIZE-12, SIZE-30).
    pub fn set_default_remote_config(&self, config: RemoteConfig) -> Result<(), OperationError> {
        self.check(ServerCapabilities::OFFERS_REMOTE_CONFIG, config.encoded_len())?;
        self.change_default(Kind::RemoteConfig, |desired| {
            desired.remote_config = Some(config.clone());
        });
        Ok(())
    }

    /// Stops to offer a configuration to Agents that have none of their own. They keep what they
    /// have.
    pub fn clear_default_remote_config(&self) {
        self.change_default(Kind::RemoteConfig, |desired| desired.remote_config = None);
    }

    /// Sets the connection settings for all Agents that have none of their own; each gets the parts
    /// it accepts (CONN-02 to CONN-06, TEL-03, TEL-04).
    ///
    /// # Errors
    ///
    /// [`OperationError::NotOffered`] and [`OperationError::TooLarge`], as for configurations.
    pub fn set_default_connection_settings(
        &self,
        settings: ConnectionSettings,
    ) -> Result<(), OperationError> {
        self.check(ServerCapabilities::OFFERS_CONNECTION_SETTINGS, settings.encoded_len())?;
        self.change_default(Kind::ConnectionSettings, |desired| {
            desired.connection_settings = Some(settings.clone());
        });
        Ok(())
    }

    /// Stops to offer connection settings to Agents that have none of their own. They keep what
    /// they have.
    pub fn clear_default_connection_settings(&self) {
        self.change_default(Kind::ConnectionSettings, |desired| desired.connection_settings = None);
    }

    /// Sets the packages for all Agents that have none of their own (PKG-02).
    ///
    /// # Errors
    ///
    /// [`OperationError::NotOffered`] and [`OperationError::TooLarge`], as for configurations.
    pub fn set_default_packages(&self, packages: Packages) -> Result<(), OperationError> {
        self.check(ServerCapabilities::OFFERS_PACKAGES, packages.encoded_len())?;
        self.change_default(Kind::Packages, |desired| {
            desired.packages = Some(packages.clone());
        });
        Ok(())
    }

    /// Stops to offer packages to Agents that have none of their own. They keep what they have.
    pub fn clear_default_packages(&self) {
        self.change_default(Kind::Packages, |desired| desired.packages = None);
    }

    /// Changes what is wanted of a kind for all, which concerns those that have nothing of their
    /// own.
    fn change_default(&self, kind: Kind, change: impl Fn(&mut Desired)) {
        let concerns = |own: &Desired| match kind {
            Kind::RemoteConfig => own.remote_config.is_none(),
            Kind::ConnectionSettings => own.connection_settings.is_none(),
            Kind::Packages => own.packages.is_none(),
            Kind::Command | Kind::CustomMessage => false,
        };
        let mut connected = Vec::new();
        // No generation is handed out before all shards agree.
        let changing = self.inner.saving.change_defaults(kind == Kind::ConnectionSettings);
        for (place, mut shard) in self.shards().enumerate() {
            change(&mut shard.desired);
            for slot in shard.slots.values_mut().filter(|slot| concerns(slot.agent.own())) {
                let route = slot.pushable().map(|route| (route.id, Arc::clone(route), slot.key()));
                connected.extend(route);
                self.inner.watching.note(place, &mut slot.changed_at);
            }
        }
        drop(changing);
        // In the order in which they came: so the memory of their connections was taken, here and
        // in the kernel, and to go through it from one end to the other costs much less than to and
        // fro.
        connected.sort_unstable_by_key(|(id, ..)| *id);
        for (_, route, key) in connected {
            route.wake(&key);
        }
    }

    fn check(&self, offers: ServerCapabilities, size: usize) -> Result<(), OperationError> {
        let config = self.config();
        if !config.capabilities.contains(offers) {
            return Err(OperationError::NotOffered);
        }
        config.check_size(size)
    }
}

/// What one Agent gets.
impl<I> Fleet<I> {
    /// Sets the configuration for one Agent, known to accept configurations or not: it is offered
    /// when and while it does (CFG-03, CAP-04).
    ///
    /// # Errors
    ///
    /// [`OperationError::UnknownAgent`], and those of
    /// [`set_default_remote_config`](Self::set_default_remote_config).
    pub fn set_remote_config(
        &self,
        key: impl Into<AgentKey>,
        config: RemoteConfig,
    ) -> Result<(), OperationError> {
        self.check(ServerCapabilities::OFFERS_REMOTE_CONFIG, config.encoded_len())?;
        self.with_slot(key, |slot| {
            slot.agent.set_remote_config(Some(config));
            // It is kept all the same: the Agent may begin to accept configurations.
            let accepted = accepts(slot, AgentCapabilities::ACCEPTS_REMOTE_CONFIG);
            let _counted = self.count_refused(Kind::RemoteConfig, accepted);
            Ok(())
        })
    }

    /// Gives an Agent the configuration for all again.
    ///
    /// # Errors
    ///
    /// [`OperationError::UnknownAgent`].
    pub fn clear_remote_config(&self, key: impl Into<AgentKey>) -> Result<(), OperationError> {
        self.with_slot(key, |slot| {
            slot.agent.set_remote_config(None);
            Ok(())
        })
    }

    /// Sets the connection settings for one Agent, in place of those for all, and returns the parts
    /// the Agent accepts, which are the ones it gets. The others it gets should it begin to accept
    /// them (CAP-04, CONN-02 to CONN-06).
    ///
    /// # Errors
    ///
    /// [`OperationError::UnknownAgent`]; [`OperationError::NotAccepted`] if the Agent accepts no
    /// part of the settings, which are then as they were; and those of
    /// [`set_default_connection_settings`](Self::set_default_connection_settings).
    ///
    /// ```
    /// use opamp_proto::v1;
    /// use opamp_server::{ConnectionSettings, Fleet, Now, Transport};
    /// # use opamp_proto::{AgentCapabilities, InstanceUid, Message as _, WireUid};
    /// # #[allow(clippy::disallowed_methods)]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let fleet = Fleet::<()>::default();
    /// # let uid = InstanceUid::from_parts(1, [1; 10]);
    /// # let report = v1::AgentToServer {
    /// #     instance_uid: uid.to_bytes(),
    /// #     capabilities: AgentCapabilities::REPORTS_OWN_METRICS.bits(),
    /// #     agent_description: Some(v1::AgentDescription::default()),
    /// #     ..Default::default()
    /// # };
    /// # let now = Now {
    /// #     instant: std::time::Instant::now(),
    /// #     system: std::time::SystemTime::now(),
    /// # };
    /// # let mut route = fleet.open_route(Transport::WebSocket, None, (), None);
    /// # let mut fresh = || uid;
    /// # let _ = fleet.receive(&mut route, &report.encode_to_vec(), now, &mut fresh, &mut Vec::new());
    /// # let uid = WireUid::from(uid);
    /// let own_metrics = v1::TelemetryConnectionSettings {
    ///     destination_endpoint: "https://metrics.example/v1/metrics".to_owned(),
    ///     ..Default::default()
    /// };
    /// let settings = ConnectionSettings::new(v1::ConnectionSettingsOffers {
    ///     own_metrics: Some(own_metrics),
    ///     ..Default::default()
    /// })?;
    /// let accepted = fleet.set_connection_settings(&uid, settings)?;
    /// println!("offered: {accepted:?}");
    /// let state = fleet.agent(&uid).and_then(|agent| agent.connection_settings());
    /// println!("by now: {:?}", state.map(|state| state.outcome()));
    /// # assert!(state.is_some());
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_connection_settings(
        &self,
        key: impl Into<AgentKey>,
        settings: ConnectionSettings,
    ) -> Result<SettingsParts, OperationError> {
        self.check(ServerCapabilities::OFFERS_CONNECTION_SETTINGS, settings.encoded_len())?;
        let set = self.with_slot(key, |slot| {
            let parts = settings.parts() & slot.agent.accepted_parts();
            if parts.is_empty() {
                return Err(OperationError::NotAccepted);
            }
            slot.agent.set_connection_settings(Some(settings));
            Ok(parts)
        });
        self.count_refused(Kind::ConnectionSettings, set)
    }

    /// Gives an Agent the connection settings for all again.
    ///
    /// # Errors
    ///
    /// [`OperationError::UnknownAgent`].
    pub fn clear_connection_settings(
        &self,
        key: impl Into<AgentKey>,
    ) -> Result<(), OperationError> {
        self.with_slot(key, |slot| {
            slot.agent.set_connection_settings(None);
            Ok(())
        })
    }

    /// The connection settings an Agent should have, be they its own or those for all; `None` if
    /// there are none or no such Agent.
    #[must_use]
    pub fn connection_settings(&self, key: impl Into<AgentKey>) -> Option<ConnectionSettings> {
        let key = key.into();
        let shard = self.shard(&key);
        let own = shard.slots.get(&key)?.agent.own();
        own.connection_settings.as_ref().or(shard.desired.connection_settings.as_ref()).cloned()
    }

    /// Sets the packages for one Agent, in place of those for all.
    ///
    /// # Errors
    ///
    /// [`OperationError::UnknownAgent`]; [`OperationError::NotAccepted`] if the Agent does not
    /// accept packages, and its packages are then as they were (PKG-01); and those of
    /// [`set_default_packages`](Self::set_default_packages).
    pub fn set_packages(
        &self,
        key: impl Into<AgentKey>,
        packages: Packages,
    ) -> Result<(), OperationError> {
        self.check(ServerCapabilities::OFFERS_PACKAGES, packages.encoded_len())?;
        let set = self.with_slot(key, |slot| {
            accepts(slot, AgentCapabilities::ACCEPTS_PACKAGES)?;
            slot.agent.set_packages(Some(packages));
            Ok(())
        });
        self.count_refused(Kind::Packages, set)
    }

    /// Gives an Agent the packages for all again.
    ///
    /// # Errors
    ///
    /// [`OperationError::UnknownAgent`].
    pub fn clear_packages(&self, key: impl Into<AgentKey>) -> Result<(), OperationError> {
        self.with_slot(key, |slot| {
            slot.agent.set_packages(None);
            Ok(())
        })
    }

    /// Sends an Agent a custom message, at most once, and returns the message's number: messages
    /// are sent in this order, and what became of them is in
    /// [`AgentSnapshot::custom_messages`](super::AgentSnapshot::custom_messages) (CUST-09,
    /// CUST-13).
    ///
    /// It waits for the Agent's next request or session at most as long as
    /// [`ServerConfig::custom_message_expiry`](crate::ServerConfig::custom_message_expiry).
    ///
    /// # Errors
    ///
    /// [`OperationError::UnknownAgent`]; [`OperationError::NotOffered`] if the capability is none
    /// of the Server's; [`OperationError::NotAccepted`] if the Agent has not announced it (CUST-03,
    /// CUST-04); [`OperationError::QueueFull`] if too much waits for the Agent; and
    /// [`OperationError::TooLarge`] if the message could exceed the limit of what is sent.
    pub fn send_custom_message(
        &self,
        key: impl Into<AgentKey>,
        message: v1::CustomMessage,
        now: Instant,
    ) -> Result<u64, OperationError> {
        let queued =
            self.with_slot(key, |slot| slot.agent.send_custom_message(message, self.config(), now));
        self.count_refused(Kind::CustomMessage, queued)
    }
}

fn accepts<I>(slot: &Slot<I>, capability: AgentCapabilities) -> Result<(), OperationError> {
    match slot.agent.state().capabilities().contains(capability) {
        true => Ok(()),
        false => Err(OperationError::NotAccepted),
    }
}
