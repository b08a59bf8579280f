//! The client's end of OpAMP as a state machine without I/O.
//!
//! [`ClientCore`] owns no socket, no clock, no task, no lock and no source of randomness. What
//! happens in the world comes in as arguments, what should happen goes out as return values, so one
//! machine serves WebSocket, HTTP, a virtual network in a test, or a million simulated agents:
//!
//! ```text
//!            mutators                                  poll_event
//!   agent ────────────────►┌──────────────────────┐──────────────────► agent
//!          set_health …    │      ClientCore      │   RemoteConfig …
//!            handle_*      │ report · link · offer│ poll_connection, poll_transmit
//!  driver ────────────────►└──────────────────────┘──────────────────► driver
//!          received, lost,         ▲      │             connect, send, close
//!          timeout                 └──────┘
//!                                poll_timeout
//! ```
//!
//! A driver loops: give in what happened, then poll, in this order: [`poll_connection`] until
//! `None`; [`poll_transmit`] as long as the transport takes messages; [`poll_event`] as long as the
//! application takes events; [`poll_custom_outcome`] until `None`; [`poll_save`] where there is a
//! store, and [`poll_package_action`] until `None` where the agent takes packages; then wait for
//! the next happening, no longer than [`poll_timeout`].
//! Polling too often does no harm. A connection that is neither polled nor answered harms no one
//! but itself.
//!
//! ```
//! use std::time::Instant;
//! use opamp_client::core::{ClientConfig, ClientCore, ClientState, ConnectionAction, Transmit};
//! use opamp_proto::{InstanceUid, v1};
//!
//! # let now = Instant::now();
//! let state = ClientState::new(InstanceUid::from_parts(1_700_000_000_000, *b"ten random"));
//! let description = v1::AgentDescription {
//!     identifying_attributes: vec![v1::KeyValue::new("service.name", "my-agent")],
//!     ..Default::default()
//! };
//! let mut core = ClientCore::new(ClientConfig::new(state, description), now)?;
//!
//! let Some(ConnectionAction::Connect { epoch, .. }) = core.poll_connection(now) else { panic!() };
//! // … the driver opens a WebSocket …
//! core.handle_connected(epoch, now);
//! let Some(Transmit::Message { message, .. }) = core.poll_transmit(now) else { panic!() };
//! assert_eq!(message[0], 0, "the header, then the first status report");
//! # Ok::<(), opamp_client::core::ConfigError>(())
//! ```
//!
//! [`poll_connection`]: ClientCore::poll_connection
//! [`poll_transmit`]: ClientCore::poll_transmit
//! [`poll_event`]: ClientCore::poll_event
//! [`poll_custom_outcome`]: ClientCore::poll_custom_outcome
//! [`poll_save`]: ClientCore::poll_save
//! [`poll_package_action`]: ClientCore::poll_package_action
//! [`poll_timeout`]: ClientCore::poll_timeout

mod backoff;
mod certificate;
mod components;
mod config;
mod connection_settings;
mod connections;
mod custom;
mod event;
mod fallback;
mod link;
mod offer;
mod pacing;
pub mod packages;
mod part;
mod receive;
mod report;
mod saving;
mod server_url;
mod settings;
mod settings_offer;
mod state;
mod timer;
mod transmit;

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use bytes::Bytes;
use opamp_proto::{AgentCapabilities, InstanceUid, ServerCapabilities, v1};

pub use self::backoff::BackoffConfig;
pub use self::certificate::CertificateOrder;
pub use self::config::{ClientConfig, ConfigError, Storage, Transport};
pub use self::connection_settings::{
    ConnectionSettingsOffer, ConnectionSettingsResolution, PendingConnectionSettings,
    SettingsFailure,
};
pub use self::connections::{Connection, ConnectionKinds, Connections};
pub use self::custom::{
    CustomCapabilities, CustomMessageId, CustomOutcome, InvalidCapability, NotSent,
};
pub use self::event::{Event, Failure, FailureKind, PackageStoreTask, PeerMisbehaved};
pub use self::link::{ConnectionAction, Epoch, Loss, Ticket};
pub use self::offer::{NotPending, OfferId, RemoteConfigOffer, Resolution};
pub use self::part::Parts;
pub use self::receive::{Received, Response};
pub use self::saving::Save;
pub use self::server_url::ServerUrl;
pub use self::settings::SettingsCheck;
pub use self::state::{CertificateRequest, ClientState, SettingsCandidate, StateError};
pub use self::transmit::Transmit;

use self::backoff::Backoff;
use self::certificate::Certificates;
use self::connection_settings::ConnectionSettings;
use self::custom::Custom;
use self::event::Events;
use self::link::{After, Closing, Link};
use self::offer::Outcome;
use self::pacing::Ration;
use self::packages::Packages;
use self::report::Report;
use self::saving::Saving;
use self::settings::Settings;
use self::timer::{Timer, Timers};

/// Starts of the agent that an offer may be pending for: one that makes the agent crash must not be
/// offered to it for ever.
const MAX_PENDING_STARTS: u32 = 3;

/// Before the first number come 24 bits: enough to tell processes apart, few enough to read.
const FIRST_NUMBERS: u64 = (1 << 24) - 1;

/// The client's end of OpAMP for one agent: see the [module](self) for how to drive it.
///
/// Whatever the server does, no method fails because of it: what it did wrong becomes an
/// [`Event::PeerMisbehaved`] and a decision taken here.
#[derive(Debug)]
pub struct ClientCore {
    config: ClientConfig,
    state: ClientState,
    state_version: u64,
    saving: Saving,
    /// The uids that the present one replaced, newest last: answers to them may still be under way.
    previous_uids: Vec<InstanceUid>,
    server_capabilities: Option<ServerCapabilities>,
    report: Report,
    remote_config: RemoteConfig,
    connection_settings: ConnectionSettings,
    settings: Settings,
    certificates: Certificates,
    /// That of the settings in use.
    transport: Transport,
    packages: Option<Box<Packages>>,
    custom: Custom,
    last_offer: u64,
    full_state_asked: bool,
    components_asked: bool,
    full_state_ration: Ration,
    report_ration: Ration,
    trial_ration: Ration,
    link: Link,
    epoch: Epoch,
    /// A connection the driver is to drop.
    abort: Option<Epoch>,
    /// Whether the present connection has brought a good reply.
    good: bool,
    immediate_reconnect: Option<Instant>,
    /// Connections in a row that were left because of a message above the receive limit.
    oversized: u32,
    outstanding_request: Option<Ticket>,
    last_request: u64,
    heartbeat_due: bool,
    /// A heartbeat of this connection is unanswered.
    heartbeat_unanswered: bool,
    /// A message was sent whose answer is waited for, from when it is sent.
    answer_awaited: bool,
    /// The server has answered a heartbeat of this connection.
    answers_heartbeats: bool,
    ping_due: bool,
    backoff: Backoff,
    timers: Timers,
    events: Events,
}

/// The newest configuration offer, and what tells it from others.
#[derive(Debug, Default)]
struct RemoteConfig {
    /// What identifies the last offer, answered or not.
    identity: Option<Bytes>,
    /// The offer that has no outcome yet.
    pending: Option<RemoteConfigOffer>,
    /// Whether the application has been told of it.
    announced: bool,
}

impl ClientCore {
    /// A client that has not connected yet.
    ///
    /// # Errors
    ///
    /// When the configuration cannot work: see [`ConfigError`].
    pub fn new(config: ClientConfig, now: Instant) -> Result<Self, ConfigError> {
        config.validate()?;
        let state = config.state.clone();
        let mut snapshot = v1::AgentToServer {
            instance_uid: state.instance_uid.to_bytes(),
            agent_description: Some(config.description.clone()),
            health: config.health.clone(),
            effective_config: config.effective_config.clone(),
            ..Default::default()
        };
        if config.request_instance_uid {
            snapshot.flags = v1::AgentToServerFlags::RequestInstanceUid as u64;
        }
        if config.accepts_remote_config {
            // A status without a hash says that no offer was ever taken (CAP-08).
            snapshot.remote_config_status =
                Some(state.remote_config_status.clone().unwrap_or_default());
        }
        snapshot.capabilities = config.capabilities(&snapshot).to_wire();
        let packages = config.packages.clone();
        let packages = packages.map(|packages| Packages::new(packages, config.seed));
        let full_state_interval = config
            .heartbeat_interval
            .unwrap_or(config.polling_interval)
            .max(Duration::from_secs(1));
        let mut core = Self {
            state_version: 0,
            saving: Saving::default(),
            previous_uids: Vec::new(),
            server_capabilities: None,
            // A number of its own, so that what a process before had sent and comes late does not
            // pass for the next message of this one (SEQ-02, SEQ-04).
            report: Report::new(snapshot, config.seed & FIRST_NUMBERS),
            remote_config: RemoteConfig::default(),
            connection_settings: ConnectionSettings::default(),
            settings: Settings::default(),
            certificates: Certificates::default(),
            transport: config.transport,
            packages: packages.map(Box::new),
            custom: Custom::default(),
            last_offer: 0,
            full_state_asked: false,
            components_asked: false,
            full_state_ration: Ration::new(pacing::FULL_REPORTS, full_state_interval, now),
            report_ration: Ration::new(pacing::REPORTS, pacing::REPORT_INTERVAL, now),
            trial_ration: Ration::new(pacing::TRIALS, pacing::TRIAL_INTERVAL, now),
            link: Link::Idle { paused: false },
            epoch: Epoch::FIRST,
            abort: None,
            good: false,
            immediate_reconnect: None,
            oversized: 0,
            outstanding_request: None,
            last_request: 0,
            heartbeat_due: false,
            heartbeat_unanswered: false,
            answer_awaited: false,
            answers_heartbeats: false,
            ping_due: false,
            backoff: Backoff::new(config.backoff.clone(), config.seed),
            timers: Timers::default(),
            events: Events::default(),
            state,
            config,
        };
        core.restore_remote_config(now);
        if !core.config.accepts_remote_config {
            core.withdraw_remote_config();
        }
        core.restore_settings(now);
        core.restore_certificate_request();
        core.restore_connection_settings(now);
        core.set_available_components(core.config.available_components.clone());
        core.set_custom_capabilities(core.config.custom_capabilities.clone());
        Ok(core)
    }

    /// An offer that had no outcome when the last process ended is offered again.
    fn restore_remote_config(&mut self, now: Instant) {
        self.remote_config.identity = self.known_hash();
        let known = self.state.remote_config_status.as_ref();
        let pending = self.state.pending_remote_config.clone();
        if let Some(v1::AgentRemoteConfig { config: Some(config), config_hash: hash }) = pending {
            self.last_offer = 1;
            self.remote_config.identity = Some(match hash.is_empty() {
                true => opamp_proto::config_hash(&config).to_bytes(),
                false => hash.clone(),
            });
            let id = OfferId(self.last_offer);
            self.remote_config.pending = Some(RemoteConfigOffer { id, config, hash });
            self.timers.set(Timer::Offer, now.checked_add(self.config.offer_timeout));
            self.state.pending_starts = self.state.pending_starts.saturating_add(1);
            self.state_changed();
            if self.state.pending_starts > MAX_PENDING_STARTS {
                let starts = self.state.pending_starts;
                self.fail_pending(&format!("the agent started {starts} times without an outcome"));
            }
        } else if let Some(status) = known
            && status.status == v1::RemoteConfigStatuses::Applying as i32
        {
            let hash = status.last_remote_config_hash.clone();
            let why = "interrupted by a restart of the agent".to_owned();
            self.set_remote_config_status(hash, v1::RemoteConfigStatuses::Failed, why);
        }
    }

    /// The hash of the last offer that has an outcome.
    fn known_hash(&self) -> Option<Bytes> {
        let status = self.state.remote_config_status.as_ref()?;
        Some(status.last_remote_config_hash.clone()).filter(|hash| !hash.is_empty())
    }

    /// The agent's present instance uid.
    #[must_use]
    pub fn instance_uid(&self) -> InstanceUid {
        self.state.instance_uid
    }

    /// What the agent announces.
    #[must_use]
    pub fn capabilities(&self) -> AgentCapabilities {
        AgentCapabilities::from_bits_retain(self.report.snapshot().capabilities)
    }

    /// What the server announced; `None` until it did (A25).
    #[must_use]
    pub fn server_capabilities(&self) -> Option<ServerCapabilities> {
        self.server_capabilities
    }

    /// The number of the last message sent; before the first, one that follows from
    /// [`ClientConfig::seed`] (SEQ-01).
    #[must_use]
    pub fn sequence_num(&self) -> u64 {
        self.report.sequence_num()
    }

    /// Whether the server can be reached as far as is known: a WebSocket is open, or the last HTTP
    /// exchange went well.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        match self.transport {
            Transport::WebSocket => self.link == Link::Open,
            Transport::Http => self.good && self.link != Link::Stopped,
        }
    }

    /// Whether the client has stopped for good.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.link == Link::Stopped
    }

    /// What has to survive a restart, as of now.
    #[must_use]
    pub fn state(&self) -> &ClientState {
        &self.state
    }

    /// A number that grows whenever the [`state`](Self::state) changes.
    #[must_use]
    pub fn state_version(&self) -> u64 {
        self.state_version
    }

    /// What would be told the server in a full report. Its sequence number is not meaningful.
    #[must_use]
    pub fn status(&self) -> &v1::AgentToServer {
        self.report.snapshot()
    }

    /// Describes the agent anew. A description that means the same, in whatever order, is no change
    /// and causes no message.
    pub fn set_description(&mut self, description: v1::AgentDescription) {
        let present = self.report.snapshot().agent_description.as_ref();
        if present.is_some_and(|present| present.equivalent(&description)) {
            return;
        }
        self.report.update(Parts::DESCRIPTION, |s| &mut s.agent_description, Some(description));
    }

    /// Reports the agent's health, or withdraws the capability with `None` (CAP-03).
    pub fn set_health(&mut self, health: Option<v1::ComponentHealth>) {
        self.report.update(Parts::HEALTH, |s| &mut s.health, health);
        self.update_capabilities();
    }

    /// Reports what the agent runs (CFG-04), or withdraws the capability with `None` (CAP-03).
    pub fn set_effective_config(&mut self, config: Option<v1::EffectiveConfig>) {
        self.report.update(Parts::EFFECTIVE_CONFIG, |s| &mut s.effective_config, config);
        self.update_capabilities();
    }

    /// Turns remote configuration on or off (CAP-03). Turning it off drops a pending offer.
    pub fn set_accepts_remote_config(&mut self, accepts: bool) {
        if self.config.accepts_remote_config == accepts {
            return;
        }
        self.config.accepts_remote_config = accepts;
        if accepts {
            self.remote_config.identity = self.known_hash();
            let status = self.state.remote_config_status.clone().unwrap_or_default();
            self.report_remote_config_status(Some(status));
        } else {
            self.withdraw_remote_config();
        }
        self.update_capabilities();
    }

    /// A pending offer is dropped as if it had never come, so that it is offered again when the
    /// agent takes offers again.
    fn withdraw_remote_config(&mut self) {
        if let Some(offer) = self.remote_config.pending.as_ref() {
            let hash = offer.hash.clone();
            let mine = |status: &v1::RemoteConfigStatus| status.last_remote_config_hash == hash;
            if self.state.remote_config_status.as_ref().is_some_and(mine) {
                self.state.remote_config_status = None;
            }
            self.clear_pending();
        }
        self.remote_config.identity = None;
        self.report_remote_config_status(None);
    }

    fn report_remote_config_status(&mut self, status: Option<v1::RemoteConfigStatus>) {
        self.report.update(Parts::REMOTE_CONFIG_STATUS, |s| &mut s.remote_config_status, status);
    }

    /// Turns the restart command on or off (CAP-03).
    pub fn set_accepts_restart(&mut self, accepts: bool) {
        self.config.accepts_restart = accepts;
        self.update_capabilities();
    }

    /// Asks the server for another instance uid (ID-07); the present one serves until it comes
    /// (ID-08), as [`Event::InstanceUidChanged`]. A server may not answer: until it does, every
    /// report asks.
    pub fn request_instance_uid(&mut self) {
        self.report.set_flags(v1::AgentToServerFlags::RequestInstanceUid as u64);
    }

    fn update_capabilities(&mut self) {
        let capabilities = self.config.capabilities(self.report.snapshot());
        self.report.set_capabilities(capabilities);
    }

    /// Tells what became of an offer.
    ///
    /// # Errors
    ///
    /// [`NotPending`] when a newer offer took its place or its deadline passed: the server is not
    /// told the outcome. What the agent runs now, if it was said, is told all the same (CFG-04).
    pub fn resolve(&mut self, mut resolution: Resolution) -> Result<(), NotPending> {
        if let Some(effective) = resolution.take_effective() {
            self.set_effective_config(Some(effective));
        }
        let pending = self.remote_config.pending.as_ref();
        let Some(offer) = pending.filter(|offer| offer.id == resolution.id) else {
            return Err(NotPending);
        };
        let hash = offer.hash.clone();
        let (status, why) = match resolution.outcome {
            Outcome::Applying => (v1::RemoteConfigStatuses::Applying, String::new()),
            Outcome::Applied(_) => (v1::RemoteConfigStatuses::Applied, String::new()),
            Outcome::Failed(why) => (v1::RemoteConfigStatuses::Failed, offer::cut(why)),
        };
        if status != v1::RemoteConfigStatuses::Applying {
            self.clear_pending();
        }
        self.set_remote_config_status(hash, status, why);
        Ok(())
    }

    fn fail_pending(&mut self, why: &str) {
        if let Some(hash) = self.remote_config.pending.as_ref().map(|offer| offer.hash.clone()) {
            self.clear_pending();
            self.set_remote_config_status(hash, v1::RemoteConfigStatuses::Failed, why.to_owned());
        }
    }

    fn clear_pending(&mut self) {
        self.remote_config.pending = None;
        self.timers.stop(Timer::Offer);
        self.save_pending();
    }

    fn save_pending(&mut self) {
        self.state.pending_remote_config =
            self.remote_config.pending.as_ref().map(|offer| v1::AgentRemoteConfig {
                config: Some(offer.config.clone()),
                config_hash: offer.hash.clone(),
            });
        self.state.pending_starts = 0;
        self.state_changed();
    }

    fn state_changed(&mut self) {
        self.state_version += 1;
        self.events.push(Event::StateChanged);
    }

    fn set_remote_config_status(
        &mut self,
        hash: Bytes,
        status: v1::RemoteConfigStatuses,
        error_message: String,
    ) {
        let status = v1::RemoteConfigStatus {
            last_remote_config_hash: hash,
            status: status.into(),
            error_message,
        };
        self.state.remote_config_status = Some(status.clone());
        self.state_changed();
        self.report_remote_config_status(Some(status));
    }

    /// Stops in an orderly way: what is untold is told, then the goodbye is said (CLOSE-01), all
    /// within `close_timeout`. [`Event::Stopped`] is the last event; an offer that the application
    /// has not taken by then stays in the [`state`](Self::state), for the next start.
    pub fn stop(&mut self, now: Instant) {
        match &mut self.link {
            Link::Stopped => {}
            Link::Closing { then, .. } => *then = After::Stop,
            Link::Open => self.leave(Closing::Goodbye, After::Stop, now),
            Link::Idle { paused: false }
                if self.transport == Transport::Http && self.last_request > 0 =>
            {
                self.leave(Closing::Goodbye, After::Stop, now);
            }
            Link::Connecting => {
                self.abort = Some(self.epoch);
                self.stopped();
            }
            Link::Idle { .. } => self.stopped(),
        }
    }

    /// Something to tell the application, if anything.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        if let Some(event) = self.events.pop() {
            return Some(event);
        }
        if self.is_stopped() {
            return None;
        }
        if self.remote_config.pending.is_some() && !self.remote_config.announced {
            self.remote_config.announced = true;
            return self.remote_config.pending.clone().map(Event::RemoteConfig);
        }
        if let Some(offer) = self.connection_settings.announce() {
            return Some(Event::ConnectionSettings(offer));
        }
        if let Some(event) = self.poll_package_event() {
            return Some(event);
        }
        self.custom.pop_incoming()
    }

    /// Whether [`poll_event`](Self::poll_event) has something to tell.
    #[must_use]
    pub fn has_events(&self) -> bool {
        !self.events.is_empty() || self.has_offer_to_announce() || self.has_package_event()
    }

    fn has_offer_to_announce(&self) -> bool {
        let config = &self.remote_config;
        let offered = config.pending.is_some() && !config.announced
            || self.connection_settings.unannounced().is_some()
            || self.custom.has_incoming();
        offered && !self.is_stopped()
    }
}
