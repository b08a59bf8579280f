//! What the reference server knows of its agents, and what it answers them.

use std::collections::HashMap;

use bytes::Bytes;
use http::HeaderMap;
use opamp_proto::v1::{AgentToServer, ServerToAgent};
use prost::Message as _;
use serde_json::{Value, json};

use crate::hook::{Action, HookError};
use crate::mask::agent as mask;
use crate::mask::flag::REPORT_FULL_STATE;
use crate::reference::Faults;
use crate::wire::authority::Authority;
use crate::wire::uid as ids;
use crate::wire::url::Url;

mod certificates;
mod config;
mod errors;
mod interop;
mod packages;
mod settings;

pub(super) use errors::malformed;
use packages::Download;

/// The agents and what they are to be offered.
pub(super) struct Desk {
    faults: Faults,
    agents: HashMap<Bytes, Agent>,
    /// Where the server is.
    url: Url,
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
}

impl Desk {
    pub(super) fn new(faults: Faults, url: Url) -> Self {
        let (agents, files) = (HashMap::new(), packages::Files::default());
        Self { faults, agents, url, authority: None, files }
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
            .or_else(|| config::objection(&report, &self.faults));
        if let Some(objection) = objection {
            return malformed(uid, objection, &self.faults);
        }
        if interop::has_unknown_value(&report) && self.faults.has("unknown-values-close") {
            return Reply { message: None, close: Some(1011) };
        }
        let known = self.agents.contains_key(&uid);
        let agent = self.agents.entry(uid.clone()).or_default();
        if agent.connection != connection || !agent.connected {
            agent.greeted = false;
            agent.config.may_be_offered_again();
            agent.settings.may_be_offered_again();
            agent.packages.may_be_offered_again();
        }
        agent.connection = connection;
        agent.connected = report.agent_disconnect.is_none();
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
        let request = report.connection_settings_request.clone();
        agent.merge(report, &self.faults);
        if let Some(why) = agent.request.ask(&uid, request.as_ref(), &self.faults) {
            return Reply {
                message: Some(certificates::refused(uid, &why, &self.faults)),
                close: None,
            };
        }
        let mut reply = ServerToAgent { instance_uid: uid, ..Default::default() };
        let is_ignored = self.faults.has("gap-is-ignored")
            || connection.is_none() && self.faults.has("gaps-are-ignored-over-http");
        if !complete && (!known || !is_next) && !is_ignored {
            reply.flags |= REPORT_FULL_STATE;
        }
        if agent.lacks_effective_config() && self.faults.has("effective-config-is-insisted-on") {
            reply.flags |= REPORT_FULL_STATE;
        }
        agent.fill(&mut reply, &self.faults);
        Reply { message: Some(reply), close: None }
    }

    /// What to push to an agent on a WebSocket now.
    pub(super) fn push(&mut self, uid: &[u8]) -> Option<(u32, ServerToAgent)> {
        let agent = self.agents.get_mut(uid)?;
        let connection = agent.connection.filter(|_| agent.connected)?;
        let instance_uid = Bytes::copy_from_slice(uid);
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
            Action::ShowAgent { instance_uid } => {
                let agent = self.agents.get(&uid(instance_uid)?).map(Agent::shown);
                Ok((json!({ "agent": agent }), None))
            }
            _ => Err(HookError::Unsupported),
        }
    }
}

impl Agent {
    /// Takes over what a report tells; what it leaves out stays.
    fn merge(&mut self, report: AgentToServer, faults: &Faults) {
        let mut old = std::mem::take(&mut self.state);
        if faults.has("omitted-status-is-forgotten") {
            old.remote_config_status = None;
        }
        self.state = AgentToServer {
            agent_description: report.agent_description.or(old.agent_description),
            capabilities: if report.capabilities == 0 {
                old.capabilities
            } else {
                report.capabilities
            },
            health: report.health.or(old.health),
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
    }

    /// Whether it takes configurations without ever having said what it runs.
    fn lacks_effective_config(&self) -> bool {
        self.state.capabilities & mask::ACCEPTS_REMOTE_CONFIG != 0
            && self.state.effective_config.is_none()
    }

    fn shown(&self) -> Value {
        json!({
            "connected": self.connected,
            "sequence_num": self.sequence_num,
            "health": self.state.health.as_ref().map(|health| json!({
                "healthy": health.healthy,
                "status": health.status,
                "last_error": health.last_error,
            })),
        })
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
