//! What the reference server knows of its agents, and what it answers them.

use std::collections::{BTreeSet, HashMap, HashSet};

use bytes::Bytes;
use http::HeaderMap;
use opamp_proto::v1::{
    AgentIdentification, AgentToServer, CustomMessage, RemoteConfigStatus, RemoteConfigStatuses,
    ServerToAgent,
};
use prost::Message as _;
use serde_json::{Value, json};

use crate::hook::{Action, HookError};
use crate::mask::agent as mask;
use crate::mask::flag::{REPORT_AVAILABLE_COMPONENTS, REPORT_FULL_STATE, REQUEST_INSTANCE_UID};
use crate::reference::Faults;
use crate::wire::authority::Authority;
use crate::wire::uid as ids;
use crate::wire::url::Url;

mod certificates;
mod config;
mod errors;
mod interop;
mod objection;
mod outbox;
mod packages;
mod settings;
mod shown;

pub(super) use errors::{malformed, not_sent, unavailable};
pub(super) use interop::is_odd;
use packages::Download;

/// The agents and what they are to be offered.
pub(super) struct Desk {
    faults: Faults,
    agents: HashMap<Bytes, Agent>,
    /// Where the server is.
    url: Url,
    /// The hashes of components whose map was told.
    components: HashSet<Bytes>,
    /// Made when a certificate is first needed.
    authority: Option<Authority>,
    files: packages::Files,
}

/// What to do about a message.
#[derive(Default)]
pub(super) struct Reply {
    /// The answer, if any.
    pub(super) message: Option<ServerToAgent>,
    /// The code to close the WebSocket with afterwards.
    pub(super) close: Option<u16>,
}

#[derive(Default)]
struct Agent {
    connection: Option<u32>,
    connected: bool,
    greeted: bool,
    sequence_num: u64,
    state: AgentToServer,
    config: config::Assigned,
    settings: settings::Settings,
    request: certificates::Request,
    packages: packages::Packages,
    outbox: outbox::Outbox,
    /// The HTTP connection of its first request, for a fault.
    http_connection: Option<u32>,
}

impl Desk {
    pub(super) fn new(faults: Faults, url: Url, authority: Option<Authority>) -> Self {
        let (agents, files) = (HashMap::new(), packages::Files::default());
        let components = HashSet::new();
        Self { faults, agents, url, components, authority, files }
    }

    /// The answer to a message that came over this WebSocket, or by plain HTTP.
    pub(super) fn handle(&mut self, connection: Option<u32>, bytes: &Bytes) -> Reply {
        let Ok(report) = AgentToServer::decode(bytes.clone()) else {
            return malformed(Bytes::new(), "the message is no AgentToServer", &self.faults);
        };
        let uid = report.instance_uid.clone();
        let objection = errors::objection_to_uid(&report, &self.faults)
            .or_else(|| errors::wrong_objection(&report, &self.faults))
            .or_else(|| interop::wrong_objection(&report, bytes, &self.faults))
            .or_else(|| objection::objection(&report, &self.faults));
        if let Some(objection) = objection {
            return malformed(uid, objection, &self.faults);
        }
        if interop::has_unknown_value(&report) && self.faults.has("unknown-values-close") {
            return Reply { message: None, close: Some(1011) };
        }
        let known = self.agents.contains_key(&uid);
        let agent = self.agents.entry(uid.clone()).or_default();
        if agent.connection != connection || !agent.connected {
            agent.greeted &= self.faults.has("capabilities-are-announced-once");
            agent.config.may_be_offered_again();
            agent.settings.may_be_offered_again();
            agent.packages.may_be_offered_again();
            agent.outbox.new_session();
        }
        agent.connection = connection;
        let leaves = report.agent_disconnect.is_some();
        agent.connected = !leaves || self.faults.has("agent-disconnect-is-ignored");
        let is_repeated = known && report.sequence_num == agent.sequence_num;
        let is_next = report.sequence_num == agent.sequence_num.wrapping_add(1);
        agent.sequence_num = report.sequence_num;
        let complete = report.agent_description.is_some();
        if report.remote_config_status.is_some()
            && report.remote_config_status != agent.state.remote_config_status
        {
            agent.config.may_be_offered_again();
        }
        if report.connection_settings_status.is_some() {
            agent.settings.may_be_offered_again();
        }
        if report.package_statuses.is_some() {
            agent.packages.may_be_offered_again();
        }
        if connection.is_some() && self.faults.is_silent(&report, is_repeated) {
            return Reply::default();
        }
        let asks_for_components = match &report.available_components {
            Some(of) if !of.components.is_empty() => {
                self.components.insert(of.hash.clone());
                false
            }
            Some(of) => {
                !self.components.contains(&of.hash)
                    || self.faults.has("known-components-are-asked-for")
            }
            None => false,
        };
        let wants_new_uid = report.flags & REQUEST_INSTANCE_UID != 0;
        let request = report.connection_settings_request.clone();
        agent.outbox.hear(&report, &self.faults);
        agent.merge(report, &self.faults);
        if let Some(why) = agent.request.ask(&uid, request.as_ref(), &self.faults) {
            return Reply {
                message: Some(certificates::refused(uid, &why, &self.faults)),
                close: None,
            };
        }
        let mut reply = ServerToAgent { instance_uid: uid.clone(), ..Default::default() };
        let is_ignored = if known {
            self.faults.has("gap-is-ignored")
                || connection.is_none() && self.faults.has("gaps-are-ignored-over-http")
        } else {
            self.faults.has("unknown-agents-are-not-asked")
        };
        if !complete && (!known || !is_next) && !is_ignored {
            reply.flags |= REPORT_FULL_STATE;
        }
        if agent.lacks_effective_config() && self.faults.has("effective-config-is-insisted-on")
            || self.faults.has("full-reports-are-asked-for-always")
        {
            reply.flags |= REPORT_FULL_STATE;
        }
        let has_components = agent.state.capabilities & mask::REPORTS_AVAILABLE_COMPONENTS != 0;
        if asks_for_components && has_components || self.faults.has("components-are-asked-of-all") {
            reply.flags |= REPORT_AVAILABLE_COMPONENTS;
        }
        agent.fill(&mut reply, &self.faults);
        if wants_new_uid && !self.faults.has("requested-uid-is-not-made") {
            self.rename(&uid, &mut reply);
        }
        if self.faults.has("shared-connections-are-one-agent")
            && let Some(first) = self.first_on(connection)
        {
            reply.instance_uid = first;
        }
        let closes = leaves && self.faults.has("agent-disconnect-closes");
        Reply { message: Some(reply), close: closes.then_some(1000) }
    }

    /// The earlier WebSocket of the agent that a message is from, unless the message goes on where
    /// that one stopped.
    pub(super) fn contested(&self, connection: u32, bytes: &Bytes) -> Option<u32> {
        let report = AgentToServer::decode(bytes.clone()).ok()?;
        let agent = self.agents.get(&report.instance_uid).filter(|agent| agent.connected)?;
        let earlier = agent.connection.filter(|earlier| *earlier != connection)?;
        let continues = report.sequence_num == agent.sequence_num.wrapping_add(1)
            && !self.faults.has("continued-agents-are-renamed");
        (!continues && !self.faults.has("duplicates-are-not-detected")).then_some(earlier)
    }

    /// The answer to a message of another agent with an id that is in use.
    pub(super) fn duplicate(&mut self, connection: u32, bytes: &Bytes) -> Reply {
        let Ok(report) = AgentToServer::decode(bytes.clone()) else { return Reply::default() };
        let uid = report.instance_uid;
        let keeps = self.faults.has("duplicates-keep-their-id");
        let new = if keeps { uid.clone() } else { self.new_uid() };
        let agent = Agent { connection: Some(connection), connected: true, ..Default::default() };
        self.agents.insert(new.clone(), agent);
        let mut reply = ServerToAgent {
            instance_uid: uid,
            capabilities: crate::mask::server::ALL,
            ..Default::default()
        };
        self.name(new, &mut reply);
        Reply { message: Some(reply), close: None }
    }

    /// With a fault: whether a plain HTTP request came over another connection than the agent's
    /// first.
    pub(super) fn has_moved(&mut self, connection: u32, bytes: &Bytes) -> bool {
        let Ok(report) = AgentToServer::decode(bytes.clone()) else { return false };
        let agent = self.agents.get_mut(&report.instance_uid);
        let first =
            agent.map_or(connection, |agent| *agent.http_connection.get_or_insert(connection));
        first != connection && self.faults.has("http-sessions-need-keep-alive")
    }

    fn new_uid(&self) -> Bytes {
        if self.faults.has("new-uid-is-not-v7") {
            return Bytes::copy_from_slice(uuid::Uuid::from_u128(rand::random()).as_bytes());
        }
        let length = if self.faults.has("new-uid-is-short") { 15 } else { 16 };
        ids::fresh(&mut rand::rng(), ids::now_ms()).slice(..length)
    }

    /// Gives an agent a new id.
    fn rename(&mut self, uid: &Bytes, reply: &mut ServerToAgent) {
        let new = self.new_uid();
        if let Some(mut agent) = self.agents.remove(uid) {
            agent.request.renamed();
            self.agents.insert(new.clone(), agent);
        }
        self.name(new, reply);
    }

    /// Tells an agent its new id.
    fn name(&self, new: Bytes, reply: &mut ServerToAgent) {
        if self.faults.has("renaming-is-for-the-new-uid") {
            reply.instance_uid = new.clone();
        }
        reply.agent_identification = Some(AgentIdentification { new_instance_uid: new });
    }

    /// With a fault: of several agents that share this WebSocket, the one with the smallest id.
    fn first_on(&self, connection: Option<u32>) -> Option<Bytes> {
        let on = |agent: &Agent| agent.connection.is_some() && agent.connection == connection;
        let on = self.agents.iter().filter(|(_, agent)| on(agent)).map(|(uid, _)| uid);
        let uids: BTreeSet<_> = on.collect();
        uids.first().filter(|_| uids.len() > 1).map(|uid| (*uid).clone())
    }

    /// What to push to an agent on a WebSocket now.
    pub(super) fn push(&mut self, uid: &[u8]) -> Option<(u32, ServerToAgent)> {
        let agent = self.agents.get_mut(uid)?;
        let connection = agent.connection.filter(|_| agent.connected)?;
        let mut instance_uid = Bytes::copy_from_slice(uid);
        if self.faults.has("pushes-have-no-uid") {
            instance_uid.clear();
        }
        if self.faults.has("pushes-have-another-uid") {
            instance_uid = instance_uid.iter().rev().copied().collect();
        }
        if let Some(why) = agent.request.refusal() {
            return Some((connection, certificates::refused(instance_uid, &why, &self.faults)));
        }
        let mut message = ServerToAgent { instance_uid, ..Default::default() };
        agent.fill(&mut message, &self.faults);
        Some((connection, message))
    }

    /// Whether somebody with this Authorization header may come in; anybody without one may.
    pub(super) fn admits(&mut self, authorization: &str) -> bool {
        let faults = &self.faults;
        match authorization.strip_prefix("Bearer ") {
            Some(token) => self.agents.values_mut().any(|a| a.settings.admits(token, faults)),
            None => true,
        }
    }

    /// What a GET of this path comes to; `None` where there never are files.
    pub(super) fn download(&self, path: &str, headers: &HeaderMap) -> Option<Download> {
        self.files.get(path, headers, &self.faults)
    }

    pub(super) fn connection_of(&self, uid: &[u8]) -> Option<u32> {
        self.agents.get(uid).and_then(|agent| agent.connection)
    }

    pub(super) fn connection_lost(&mut self, connection: u32) {
        for agent in self.agents.values_mut() {
            if agent.connection == Some(connection) {
                agent.connected = false;
            }
        }
    }

    /// Does what a hook asks for; gives the answer, and the agent to push to, if any.
    pub(super) fn hook(&mut self, action: &Action) -> Result<(Value, Option<Bytes>), HookError> {
        match action {
            Action::OfferConfig { instance_uid, files } => {
                let uid = uid(instance_uid)?;
                let agent = self.agents.entry(uid.clone()).or_default();
                let is_away = !agent.connected || agent.connection.is_none();
                agent.config.assign(files, is_away, &self.faults)?;
                let waits = self.faults.has("configurations-wait-for-a-report");
                Ok((json!({}), Some(uid).filter(|_| !waits)))
            }
            Action::OfferConnectionSettings { instance_uid, settings } => {
                let uid = uid(instance_uid)?;
                let agent = self.agents.entry(uid.clone()).or_default();
                agent.settings.change(settings, &self.url.to_string(), &self.faults)?;
                Ok((json!({}), Some(uid)))
            }
            Action::OfferPackages { instance_uid, packages } => {
                let uid = uid(instance_uid)?;
                let agent = self.agents.entry(uid.clone()).or_default();
                agent.packages.change(packages, &self.url, &mut self.files, &self.faults)?;
                Ok((json!({}), Some(uid)))
            }
            Action::DecideCertificateRequest { instance_uid, approve } => {
                let uid = uid(instance_uid)?;
                let authority = certificates::authority(&mut self.authority)?;
                let agent = self.agents.entry(uid.clone()).or_default();
                if let Some(issued) = agent.request.decide(*approve, authority, &self.faults)? {
                    agent.settings.give(issued, None, &self.url.to_string(), &self.faults);
                }
                Ok((json!({}), Some(uid)))
            }
            Action::ApproveAgent { instance_uid } => {
                let uid = uid(instance_uid)?;
                let authority = certificates::authority(&mut self.authority)?;
                let issued = certificates::personal(authority, instance_uid)?;
                let agent = self.agents.entry(uid.clone()).or_default();
                if !self.faults.has("approval-leads-to-nothing") {
                    let (url, token) = (self.url.to_string(), Some(instance_uid.clone()));
                    agent.settings.give(issued, token, &url, &self.faults);
                }
                Ok((json!({}), Some(uid)))
            }
            Action::RestartAgent { instance_uid } => {
                let uid = uid(instance_uid)?;
                let agent = self.agents.entry(uid.clone()).or_default();
                agent.outbox.restart(agent.state.capabilities, &self.faults)?;
                Ok((json!({}), Some(uid)))
            }
            Action::SendCustomMessage { instance_uid: Some(id), capability, r#type, data } => {
                let uid = uid(id)?;
                let agent = self.agents.entry(uid.clone()).or_default();
                let (capability, r#type) = (capability.clone(), r#type.clone());
                let message = CustomMessage { capability, r#type, data: base64(data)? };
                agent.outbox.send(message, &self.faults)?;
                Ok((json!({}), Some(uid)))
            }
            Action::ShowAgent { instance_uid } => {
                let agent = self.agents.get(&uid(instance_uid)?).map(shown::shown);
                Ok((json!({ "agent": agent }), None))
            }
            _ => Err(HookError::Unsupported),
        }
    }
}

impl Agent {
    /// Takes over what a report tells; what it leaves out stays.
    fn merge(&mut self, mut report: AgentToServer, faults: &Faults) {
        let mut old = std::mem::take(&mut self.state);
        if faults.has("omitted-parts-are-deleted") {
            old = AgentToServer { capabilities: old.capabilities, ..Default::default() };
        }
        if faults.has("omitted-status-is-forgotten") {
            old.remote_config_status = None;
        }
        if let Some(health) =
            report.health.as_mut().filter(|_| faults.has("nested-health-is-cut-off"))
        {
            objection::cut_off(health, 8);
        }
        self.state = AgentToServer {
            agent_description: report.agent_description.or(old.agent_description),
            capabilities: if report.capabilities == 0
                || old.capabilities != 0 && faults.has("capability-changes-are-ignored")
            {
                old.capabilities
            } else {
                report.capabilities
            },
            health: report.health.or(old.health).filter(|_| !faults.has("health-is-not-kept")),
            effective_config: report.effective_config.or(old.effective_config),
            remote_config_status: report.remote_config_status.or(old.remote_config_status),
            package_statuses: report.package_statuses.or(old.package_statuses),
            available_components: report.available_components.or(old.available_components),
            connection_settings_status: report
                .connection_settings_status
                .or(old.connection_settings_status),
            ..Default::default()
        };
    }

    /// Puts into a message to the agent what is due.
    fn fill(&mut self, message: &mut ServerToAgent, faults: &Faults) {
        if !self.greeted || self.connection.is_none() {
            message.capabilities = interop::mask(&self.state, faults);
            self.greeted = true;
        }
        if self.connection.is_some() || !faults.has("nothing-is-offered-over-http") {
            self.config.fill(message, &self.state, faults);
        }
        self.settings.fill(message, &self.state, faults);
        self.packages.fill(message, &self.state, faults);
        self.outbox.fill(message, self.connection.is_some(), faults);
    }

    /// Whether it takes configurations without ever having said what it runs.
    fn lacks_effective_config(&self) -> bool {
        self.state.capabilities & mask::ACCEPTS_REMOTE_CONFIG != 0
            && self.state.effective_config.is_none()
    }
}

impl Faults {
    /// Whether a message gets no reply over a WebSocket.
    fn is_silent(&self, report: &AgentToServer, is_repeated: bool) -> bool {
        let status = report.remote_config_status.as_ref().map(RemoteConfigStatus::status);
        is_repeated && self.has("repeated-messages-are-not-answered")
            || is_bare(report) && self.has("heartbeats-are-not-answered")
            || status == Some(RemoteConfigStatuses::Applying)
                && self.has("progress-is-not-answered")
    }
}

/// Whether a message has nothing but what every message has.
pub(super) fn is_bare(report: &AgentToServer) -> bool {
    *report
        == AgentToServer {
            instance_uid: report.instance_uid.clone(),
            sequence_num: report.sequence_num,
            capabilities: report.capabilities,
            ..Default::default()
        }
}

/// The id in a hook's text.
pub(super) fn uid(text: &str) -> Result<Bytes, HookError> {
    ids::parse(text).ok_or_else(|| HookError::Failed(format!("{text:?} is no instance uid")))
}

/// The bytes a hook gives as base64.
pub(super) fn base64(text: &str) -> Result<Bytes, HookError> {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.decode(text);
    bytes.map(Bytes::from).map_err(|error| HookError::Failed(format!("no base64: {error}")))
}
