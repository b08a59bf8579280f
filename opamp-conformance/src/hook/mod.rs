//! What a tester cannot bring about from the wire, the implementer's own hooks do: "offer this
//! config now", "set health". A hook is a command or an HTTP endpoint that takes one JSON object
//! and answers with one; `hooks/README.md` has the contract. A hook that is not there makes a case
//! untestable, never passed.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

mod command;
mod http;

pub use command::CommandHook;
pub use http::HttpHook;

/// How long a hook may take.
pub const LIMIT: Duration = Duration::from_secs(60);
/// How long an answer may be.
const MAX_ANSWER: usize = 4 << 20;

/// What to do. In JSON an object with the action's name in `hook`, for example
/// `{"hook": "restart_agent", "instance_uid": "01890a5d-ac96-774b-bcce-b302099a8057"}`. Ids are
/// canonical UUID text, byte strings are base64.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "hook", rename_all = "snake_case")]
pub enum Action {
    /// Server: make this the remote configuration of the agent, and offer it as soon as possible.
    OfferConfig {
        /// The agent.
        instance_uid: String,
        /// The files by name.
        files: BTreeMap<String, File>,
    },
    /// Server: offer these connection settings to the agent. The shape is that of
    /// ConnectionSettingsOffers in snake case, without the hash, which the server makes, for
    /// example `{"own_metrics": {"destination_endpoint": "https://…/v1/metrics", "headers":
    /// {"headers": [{"key": "a", "value": "b"}]}}}`. Classes that are left out stay as they are,
    /// and so does the endpoint of `opamp`.
    OfferConnectionSettings {
        /// The agent.
        instance_uid: String,
        /// The settings.
        settings: Value,
    },
    /// Server: offer these packages to the agent and no others. The shape is that of
    /// PackagesAvailable in snake case, with `content` (base64) for each package instead of `file`,
    /// for example
    /// `{"packages": {"main": {"type": "TopLevel", "version": "1.0", "content": "…"}}}`; the other
    /// type is `Addon`. The server hosts the content and makes the hashes.
    OfferPackages {
        /// The agent.
        instance_uid: String,
        /// The packages.
        packages: Value,
    },
    /// Server: send the Restart command to the agent.
    RestartAgent {
        /// The agent.
        instance_uid: String,
    },
    /// Server or client: send this custom message.
    SendCustomMessage {
        /// The agent; absent for a client.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        instance_uid: Option<String>,
        /// The capability it belongs to.
        capability: String,
        /// Its type.
        r#type: String,
        /// Its data, base64.
        data: String,
    },
    /// Server: answer with what is known of the agent: `{"agent": {...}}` in the shape of the
    /// example server's admin API, or `{"agent": null}` for an agent it does not know.
    ShowAgent {
        /// The agent.
        instance_uid: String,
    },
    /// Server: ask the agent for a full report.
    RequestFullState {
        /// The agent.
        instance_uid: String,
    },
    /// Server: close the agent's connection in an orderly way.
    Disconnect {
        /// The agent.
        instance_uid: String,
    },
    /// Server: behave as overloaded from now on, or no longer.
    Overload {
        /// Whether it is.
        on: bool,
    },
    /// Server: restart with its memory of agents lost, at the same address.
    RestartServer,
    /// Server: approve what the agent asked for with a certificate request, or refuse it.
    DecideCertificateRequest {
        /// The agent.
        instance_uid: String,
        /// Whether it is approved.
        approve: bool,
    },
    /// Server: approve an agent that connected for the first time without credentials of its own,
    /// so that it is offered some.
    ApproveAgent {
        /// The agent.
        instance_uid: String,
    },
    /// Client: set the health to be reported.
    SetHealth {
        /// Whether the agent is well.
        healthy: bool,
        /// The text for `last_error`.
        #[serde(default)]
        last_error: String,
    },
    /// Client: set non-identifying attributes of the description, beside those it has.
    SetDescription {
        /// The attributes.
        attributes: BTreeMap<String, String>,
    },
    /// Client: change the configuration locally, so that the effective configuration changes.
    SetEffectiveConfig {
        /// The new content of its one file.
        body: String,
    },
    /// Client: announce these custom capabilities from now on.
    SetCustomCapabilities {
        /// Their names.
        capabilities: Vec<String>,
    },
    /// Client: turn a capability on or off at run time; names are those of AgentCapabilities
    /// without prefix.
    SetCapability {
        /// Its name, for example `ReportsHealth`.
        name: String,
        /// Whether it is to be announced.
        on: bool,
    },
    /// Client: ask the server for an instance uid.
    RequestInstanceUid,
    /// Client: ask the server for a certificate.
    RequestCertificate,
}

/// A file of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Its content, base64.
    pub body: String,
    /// Its MIME type; may be empty.
    #[serde(default)]
    pub content_type: String,
}

/// Why a hook did nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HookError {
    /// There is no hook, or it does not know this action.
    #[error("not supported")]
    Unsupported,
    /// It tried and failed, or could not be called.
    #[error("{0}")]
    Failed(String),
}

/// Where hooks are called.
#[async_trait]
pub trait Hooks: Send + Sync {
    /// Does what the action says and gives the answer's JSON object.
    ///
    /// # Errors
    ///
    /// When the hook does not support the action or fails.
    async fn call(&self, action: &Action) -> Result<Value, HookError>;
}

/// No hooks at all.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoHooks;

#[async_trait]
impl Hooks for NoHooks {
    async fn call(&self, _: &Action) -> Result<Value, HookError> {
        Err(HookError::Unsupported)
    }
}

impl Action {
    /// Its name, as in the JSON.
    #[must_use]
    pub fn name(&self) -> String {
        let value = serde_json::to_value(self).unwrap_or_default();
        value["hook"].as_str().unwrap_or_default().to_owned()
    }
}

/// The JSON of an action with some more members.
fn request(action: &Action, about: &Map<String, Value>) -> Vec<u8> {
    let mut request = serde_json::to_value(action).unwrap_or_default();
    if let Value::Object(members) = &mut request {
        members.extend(about.clone());
    }
    request.to_string().into_bytes()
}

/// Reads the answer of a hook: a JSON object, or nothing at all.
fn answer(bytes: &[u8]) -> Result<Value, HookError> {
    if bytes.trim_ascii().is_empty() {
        return Ok(Value::Object(Map::new()));
    }
    match serde_json::from_slice(bytes) {
        Ok(answer @ Value::Object(_)) => Ok(answer),
        Ok(_) => Err(HookError::Failed("the answer is no JSON object".to_owned())),
        Err(error) => Err(HookError::Failed(format!("the answer is not JSON: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_contract_shows_every_action_as_it_is() {
        let contract = include_str!("../../hooks/README.md");
        let examples =
            contract.split("```jsonl\n").nth(1).and_then(|rest| rest.split("```").next());
        let shown: BTreeSet<_> = examples
            .unwrap()
            .lines()
            .map(|line| {
                let action: Action = serde_json::from_str(line).unwrap();
                let told: Value = serde_json::from_str(line).unwrap();
                assert_eq!(serde_json::to_value(&action).unwrap(), told);
                action.name()
            })
            .collect();
        // The error names all there are.
        let error = serde_json::from_str::<Action>(r#"{"hook": "?"}"#).unwrap_err().to_string();
        let known = error.split('`').skip(3).step_by(2).map(str::to_owned).collect();
        assert_eq!(shown, known);
        for name in shown {
            assert!(contract.contains(&format!("| `{name}` |")), "{name} is not explained");
        }
    }
}
