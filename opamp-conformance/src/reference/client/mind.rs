//! What the reference client knows and decides, without any I/O: what to report, and what a message
//! of the server changes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use opamp_proto::v1::any_value::Value;
use opamp_proto::v1::{
    AgentDescription, AgentDisconnect, AgentToServer, AnyValue, ComponentHealth, KeyValue,
    RemoteConfigStatus, ServerToAgent,
};
use tokio::time::Instant;

use super::custom::Custom;
use super::packages::{Job, Packages, Progress};
use super::patience::Patience;
use super::settings::{self, Connection, Settings};
use super::telemetry::{Exporter, Telemetry};
use crate::mask::agent as mask;
use crate::mask::{flag, server};
use crate::net::Network;
use crate::reference::Faults;
use crate::wire::{attribute, uid};

mod components;
mod config;
mod connection;
mod failures;
mod hooks;

/// How long the server may take to answer on a connection that has to prove offered settings.
const TRIAL: Duration = Duration::from_secs(10);
/// How long the answer to a report may take.
const ANSWER: Duration = Duration::from_secs(20);
/// Longer than any case.
pub(super) const NEVER: Duration = Duration::from_secs(1_000_000);

/// A part of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Description,
    Health,
    EffectiveConfig,
    RemoteConfigStatus,
    PackageStatuses,
    ConnectionSettingsStatus,
    CustomCapabilities,
    /// The hash of the components.
    Components,
    /// The component map beside its hash; only on request.
    ComponentMap,
    /// Only once.
    CertificateRequest,
    /// Nothing but what every message has.
    Presence,
}

const FULL: [Part; 8] = [
    Part::Description,
    Part::Health,
    Part::EffectiveConfig,
    Part::RemoteConfigStatus,
    Part::PackageStatuses,
    Part::ConnectionSettingsStatus,
    Part::CustomCapabilities,
    Part::Components,
];

/// What outlives the process.
#[derive(Clone)]
pub(super) struct Kept {
    pub(super) uid: Bytes,
    connection: settings::Kept,
    pub(super) config: String,
    pub(super) config_status: RemoteConfigStatus,
    pub(super) packages: Packages,
}

impl Kept {
    pub(super) fn new(uid: Bytes) -> Self {
        let config_status = RemoteConfigStatus::default();
        let connection = settings::Kept::default();
        let packages = Packages::default();
        let config = "greeting: hello\n".to_owned();
        Self { uid, connection, config, config_status, packages }
    }
}

/// What the driver has to do after a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing special.
    GoOn,
    /// Leave, and come back after this time.
    Wait(Duration),
    /// Report, and leave for the settings that were offered.
    Move,
    /// Leave, and come back as a new process would.
    Restart,
}

/// The client's mind.
pub(super) struct Mind {
    faults: Faults,
    kept: Kept,
    connection: Connection,
    telemetry: Telemetry,
    last_sent: Instant,
    /// What the interval of heartbeats counts from.
    beat: Instant,
    /// How many heartbeats have gone since there was anything to report.
    idle: u32,
    sequence_num: u64,
    capabilities: u64,
    /// What the server announced; `None` until it did.
    server: Option<u64>,
    health: ComponentHealth,
    attributes: BTreeMap<String, String>,
    custom: Custom,
    wants_uid: bool,
    configured_at: Option<Instant>,
    /// Whether its description was changed by a hook.
    is_changed: bool,
    /// The id before the one the server gave; only to break.
    uid_before: Option<Bytes>,
    unreported: BTreeSet<Part>,
    in_flight: BTreeSet<Part>,
    patience: Patience,
    /// What was too large to be sent, until there is something new.
    held: BTreeSet<Part>,
    /// When what is in flight was sent.
    reported: Instant,
    /// Changes of health that wait to be reported one by one; only to break.
    queued: VecDeque<ComponentHealth>,
}

impl Mind {
    /// Of a client that was started with these settings; `persistent` says whether what it keeps
    /// survives it.
    pub(super) fn new(faults: Faults, mut kept: Kept, given: Settings, persistent: bool) -> Self {
        let connection =
            Connection::new(faults.clone(), given, kept.connection.clone(), persistent);
        let custom = Custom::new(&faults);
        kept.packages.wake();
        let patience = Patience::new(faults.clone());
        Self {
            health: healthy(&faults),
            custom,
            wants_uid: faults.has("uid-is-requested-at-first"),
            configured_at: None,
            is_changed: false,
            uid_before: None,
            faults,
            kept,
            connection,
            telemetry: Telemetry::new(),
            last_sent: Instant::now(),
            beat: Instant::now(),
            idle: 0,
            sequence_num: 0,
            capabilities: mask::REPORTS_STATUS
                | mask::ACCEPTS_REMOTE_CONFIG
                | mask::ACCEPTS_PACKAGES
                | mask::REPORTS_OWN_TRACES
                | mask::REPORTS_OWN_METRICS
                | mask::REPORTS_OWN_LOGS
                | mask::REPORTS_PACKAGE_STATUSES
                | mask::REPORTS_EFFECTIVE_CONFIG
                | mask::REPORTS_REMOTE_CONFIG
                | mask::REPORTS_HEALTH
                | mask::REPORTS_OWN_METRICS
                | mask::ACCEPTS_OPAMP_CONNECTION_SETTINGS
                | mask::REPORTS_CONNECTION_SETTINGS_STATUS
                | mask::ACCEPTS_RESTART_COMMAND
                | mask::REPORTS_HEARTBEAT
                | mask::REPORTS_AVAILABLE_COMPONENTS,
            server: None,
            attributes: BTreeMap::from([
                ("os.type".to_owned(), "linux".to_owned()),
                ("host.name".to_owned(), "reference".to_owned()),
                ("telemetry.sdk.language".to_owned(), "rust".to_owned()),
            ]),
            unreported: FULL.into(),
            in_flight: BTreeSet::new(),
            patience,
            held: BTreeSet::new(),
            reported: Instant::now(),
            queued: VecDeque::new(),
        }
    }

    pub(super) fn uid(&self) -> &Bytes {
        &self.kept.uid
    }

    pub(super) fn kept(&self) -> Kept {
        Kept { connection: self.connection.kept(), ..self.kept.clone() }
    }

    /// Whether there is something to say now.
    pub(super) fn is_due(&self) -> bool {
        self.in_flight.is_empty() && !(self.unreported.is_empty() && self.queued.is_empty())
            || self.custom.has_waiting()
    }

    /// Whether it sends heartbeats at all; over HTTP it polls in any case.
    pub(super) fn has_heartbeats(&self) -> bool {
        self.capabilities & mask::REPORTS_HEARTBEAT != 0
            || self.faults.has("heartbeats-come-without-capability")
    }

    pub(super) fn has_said_nothing(&self) -> bool {
        self.sequence_num == 0
    }

    /// When the next heartbeat or poll is due.
    pub(super) fn heartbeat_at(&self) -> Instant {
        let stopped = self.idle >= 4 && self.faults.has("heartbeats-stop");
        match self.connection.good().heartbeat {
            Duration::ZERO => self.last_sent + NEVER,
            _ if stopped => self.last_sent + NEVER,
            heartbeat if self.faults.has("heartbeats-are-slow") => self.beat + 2 * heartbeat,
            heartbeat => self.beat + heartbeat,
        }
    }

    /// The next message: what is unreported, or a heartbeat where that is nothing.
    pub(super) fn compose(&mut self) -> AgentToServer {
        if let Some(health) = self.queued.pop_front() {
            self.health = health;
            self.unreported.insert(Part::Health);
        }
        let mut parts = std::mem::take(&mut self.unreported);
        if !parts.is_empty() && self.faults.has("report-is-always-full") {
            parts.extend(FULL);
        }
        if self.sequence_num == 0 && self.faults.has("first-report-is-empty") {
            self.unreported = std::mem::take(&mut parts);
        }
        if !parts.is_empty() {
            parts.append(&mut self.held);
            self.reported = Instant::now();
        }
        let mut message = self.bare();
        if self.sequence_num == 1 && self.faults.has("capabilities-come-late") {
            message.capabilities = 0;
        }
        if parts.is_empty() {
            self.spoil_heartbeat(&mut message);
            self.idle += 1;
        } else {
            self.idle = 0;
        }
        if parts.is_empty() || !self.faults.has("heartbeats-ignore-reports") {
            self.beat = self.last_sent;
        }
        for part in &parts {
            self.put(*part, &mut message);
        }
        self.in_flight.extend(parts);
        message.custom_message = self.custom.next();
        message
    }

    /// The last message before leaving.
    pub(super) fn goodbye(&mut self) -> AgentToServer {
        if self.faults.has("goodbye-repeats-the-number") {
            self.sequence_num -= 1;
        }
        AgentToServer { agent_disconnect: Some(AgentDisconnect {}), ..self.bare() }
    }

    fn bare(&mut self) -> AgentToServer {
        self.sequence_num += 1;
        self.last_sent = Instant::now();
        let mut message = AgentToServer {
            instance_uid: self.kept.uid.clone(),
            sequence_num: self.sequence_num,
            capabilities: self.announced(),
            ..Default::default()
        };
        if self.wants_uid {
            let without = |fault| self.faults.has(fault);
            if !without("uid-is-requested-without-flag") {
                message.flags |= flag::REQUEST_INSTANCE_UID;
            }
            if without("uid-is-requested-without-temporary-one") {
                message.instance_uid.clear();
            }
        }
        message
    }

    fn announced(&self) -> u64 {
        let mut mask = self.capabilities;
        for (fault, bit) in [
            ("capability-change-is-not-told", mask::REPORTS_HEALTH),
            ("reserved-bit-is-set", 1 << 40),
        ] {
            if self.faults.has(fault) {
                mask |= bit;
            }
        }
        for (fault, bit) in [
            ("heartbeats-are-not-announced", mask::REPORTS_HEARTBEAT),
            ("status-is-not-announced", mask::REPORTS_STATUS),
            ("components-come-without-capability", mask::REPORTS_AVAILABLE_COMPONENTS),
            ("effective-config-comes-without-capability", mask::REPORTS_EFFECTIVE_CONFIG),
        ] {
            if self.faults.has(fault) {
                mask &= !bit;
            }
        }
        mask
    }

    /// Breaks what has nothing but what every message has.
    fn spoil_heartbeat(&mut self, message: &mut AgentToServer) {
        if self.sequence_num > 5 && self.faults.has("heartbeats-lack-the-uid") {
            message.instance_uid.clear();
        }
        if self.faults.has("capabilities-are-left-out-of-heartbeats") {
            message.capabilities = 0;
        }
        if self.faults.has("heartbeats-take-no-number") {
            self.sequence_num -= 1;
            message.sequence_num = self.sequence_num;
        }
    }

    fn put(&self, part: Part, message: &mut AgentToServer) {
        let has = |bit| self.capabilities & bit != 0;
        // An unknown mask restricts nothing (A25).
        let any = self.faults.has("server-capabilities-are-ignored");
        let takes = |bit| any || self.server.is_none_or(|mask| mask & bit != 0);
        match part {
            Part::Description => message.agent_description = Some(self.description()),
            Part::Health if self.faults.has("health-is-only-promised") => {}
            Part::Health if has(mask::REPORTS_HEALTH) => {
                message.health = Some(self.health.clone());
            }
            Part::EffectiveConfig
                if has(mask::REPORTS_EFFECTIVE_CONFIG)
                    && takes(server::ACCEPTS_EFFECTIVE_CONFIG) =>
            {
                message.effective_config = Some(self.effective_config());
            }
            Part::RemoteConfigStatus if has(mask::REPORTS_REMOTE_CONFIG) => {
                message.remote_config_status = Some(self.kept.config_status.clone());
            }
            Part::PackageStatuses
                if has(mask::REPORTS_PACKAGE_STATUSES)
                    && takes(server::ACCEPTS_PACKAGES_STATUS)
                    && !(message.agent_description.is_some()
                        && self.faults.has("full-report-lacks-package-statuses")) =>
            {
                message.package_statuses = Some(self.kept.packages.report(&self.faults));
            }
            Part::ConnectionSettingsStatus if has(mask::REPORTS_CONNECTION_SETTINGS_STATUS) => {
                message.connection_settings_status = Some(self.connection.status());
            }
            Part::CertificateRequest => {
                message.connection_settings_request = Some(self.connection.request());
            }
            Part::CustomCapabilities => {
                message.custom_capabilities = Some(self.custom.own());
            }
            Part::Components if self.faults.has("components-are-only-promised") => {}
            Part::Components | Part::ComponentMap if has(mask::REPORTS_AVAILABLE_COMPONENTS) => {
                message.available_components = Some(self.components(part == Part::ComponentMap));
            }
            _ => {}
        }
    }

    fn description(&self) -> AgentDescription {
        let id = uid::text(&self.kept.uid);
        if self.is_changed && self.faults.has("changed-attribute-is-sent-alone") {
            return AgentDescription::default();
        }
        let mut description = AgentDescription {
            identifying_attributes: vec![
                attribute("service.name", "io.opentelemetry.collector"),
                attribute("service.version", "1.0.0"),
                attribute("service.instance.id", &id),
            ],
            non_identifying_attributes: self
                .attributes
                .iter()
                .map(|(key, value)| attribute(key, value))
                .collect(),
        };
        if self.faults.has("attribute-is-of-another-type") {
            description.identifying_attributes[1] = KeyValue {
                key: "service.version".to_owned(),
                value: Some(AnyValue { value: Some(Value::IntValue(1)) }),
            };
        }
        if self.faults.has("description-is-thin") {
            description.identifying_attributes.truncate(1);
            let made = |attribute: &KeyValue| !attribute.key.starts_with("conformance.");
            description.non_identifying_attributes.retain(|attribute| !made(attribute));
        }
        description
    }

    /// Takes in a message of the server.
    pub(super) fn receive(&mut self, message: ServerToAgent) -> Next {
        if !message.instance_uid.is_empty() && message.instance_uid != self.kept.uid {
            return Next::GoOn;
        }
        if let Some(error) = &message.error_response {
            if self.faults.has("acts-on-what-is-beside-an-error") && message.flags != 0 {
                self.unreported.extend(FULL);
            }
            return self.refused(error);
        }
        self.patience.succeeded();
        self.in_flight.clear();
        if self.connection.proven() {
            self.unreported.insert(Part::ConnectionSettingsStatus);
        }
        if message.capabilities & !server::ALL != 0
            && self.faults.has("unknown-server-capability-ends-the-session")
        {
            return Next::Wait(NEVER);
        }
        if message.capabilities != 0 || self.faults.has("server-mask-of-zero-counts") {
            self.server = Some(message.capabilities);
            if self.faults.has("needs-a-capable-server")
                && message.capabilities & server::OFFERS_REMOTE_CONFIG == 0
            {
                return Next::Wait(NEVER);
            }
        }
        if message.command.as_ref().is_some_and(|command| command.r#type != 0)
            && self.faults.has("unknown-command-crashes")
        {
            return Next::Wait(NEVER);
        }
        // Restart is the only command there is.
        if message.command.as_ref().is_some_and(|command| command.r#type == 0) && self.restarts() {
            if let Some(offer) = &message.remote_config
                && self.faults.has("command-is-not-alone")
            {
                self.configure(offer);
            }
            return Next::Restart;
        }
        if message.custom_message.is_some()
            && self.faults.has("unknown-custom-message-ends-the-session")
        {
            return Next::Wait(NEVER);
        }
        if let Some(announced) = message.custom_capabilities {
            self.custom.heard(announced, &self.faults);
        }
        if message.flags | message.capabilities == 0
            && message.remote_config.is_none()
            && self.last_sent.elapsed() > Duration::from_millis(100)
            && self.faults.has("every-message-causes-a-report")
        {
            self.unreported.insert(Part::Health);
        }
        if let Some(offer) = &message.remote_config
            && self.faults.has("only-one-field-is-processed")
        {
            self.configure(offer);
            return Next::GoOn;
        }
        let asked = message.flags & flag::REPORT_FULL_STATE != 0
            && !self.faults.has("full-state-flag-is-ignored");
        if asked
            || ((3..100).contains(&self.sequence_num) && self.faults.has("full-state-is-repeated"))
        {
            self.unreported.extend(FULL);
            if self.faults.has("full-state-lacks-the-health") {
                self.unreported.remove(&Part::Health);
            }
        }
        if message.flags & flag::REPORT_AVAILABLE_COMPONENTS != 0
            && !self.faults.has("components-are-not-sent")
            || self.sequence_num < 20 && self.faults.has("components-come-again")
        {
            self.unreported.insert(Part::ComponentMap);
        }
        if let Some(identification) = &message.agent_identification {
            self.identify(&identification.new_instance_uid);
        }
        if let Some(offer) = &message.remote_config {
            self.configure(offer);
        }
        if let Some(offer) = &message.packages_available
            && self.kept.packages.offer(offer, &self.faults)
        {
            self.unreported.insert(Part::PackageStatuses);
        }
        if let Some(offer) = &message.connection_settings {
            return self.reconnect(offer);
        }
        self.telemetry.nothing_offered(&self.faults);
        Next::GoOn
    }

    /// The exporters to run from now on, if they are others than before.
    pub(super) fn exporters(&mut self, network: &Network) -> Option<Vec<Exporter>> {
        let destinations = self.telemetry.changed()?;
        let exporter = |(signal, to)| Exporter {
            signal,
            to,
            given: self.connection.good().clone(),
            description: self.description(),
            network: network.clone(),
            faults: self.faults.clone(),
        };
        Some(destinations.into_iter().map(exporter).collect())
    }

    /// The next package to work on.
    pub(super) fn next_package(&mut self) -> Option<Job> {
        self.kept.packages.next()
    }

    /// Takes in how the work on a package goes.
    pub(super) fn progress(&mut self, progress: Progress) {
        if self.kept.packages.progress(progress, &self.faults) {
            self.unreported.insert(Part::PackageStatuses);
        }
    }

    fn identify(&mut self, given: &Bytes) {
        let any_length = self.faults.has("new-uid-of-any-length-is-taken");
        if self.faults.has("new-uid-is-ignored") || given.len() != 16 && !any_length {
            return;
        }
        if self.faults.has("new-uid-is-lost-with-the-connection") {
            self.uid_before = Some(self.kept.uid.clone());
        }
        let is_new = self.kept.uid != *given;
        self.kept.uid = given.clone();
        self.wants_uid = false;
        if is_new {
            self.renew_certificate();
        }
    }

    fn restarts(&self) -> bool {
        let able = self.capabilities & mask::ACCEPTS_RESTART_COMMAND != 0;
        (able || self.faults.has("restart-without-capability"))
            && !self.faults.has("restart-is-ignored")
    }

    /// Starts as a new process would.
    pub(super) fn restart(&mut self) {
        self.health = healthy(&self.faults);
        self.in_flight.clear();
        self.unreported = FULL.into();
        self.server = None;
    }
}

/// The health of one that has just been started.
fn healthy(faults: &Faults) -> ComponentHealth {
    let now = uid::now_ms() * 1_000_000;
    let in_seconds = faults.has("start-time-is-in-seconds");
    let is_old = faults.has("status-time-is-too-old");
    ComponentHealth {
        healthy: true,
        start_time_unix_nano: if in_seconds { now / 1_000_000_000 } else { now },
        status: "running".to_owned(),
        status_time_unix_nano: if is_old { 1 } else { now },
        ..Default::default()
    }
}
