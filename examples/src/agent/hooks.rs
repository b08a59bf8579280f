//! What the conformance tester may have the agent do: its hooks, served by HTTP.
//!
//! An action is posted as JSON; the answer is status 200 when it was accepted, 501 when the agent
//! cannot do it, 400 when it refuses or does not understand. See
//! `opamp-conformance/hooks/README.md`.

use std::net::SocketAddr;
use std::time::Duration;

use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use opamp_client::core::{ConnectionKinds, CustomCapabilities, CustomOutcome};
use opamp_client::{Client, CustomDelivery};
use opamp_proto::v1;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use crate::program::Failure;

/// Actions that wait for the agent. The tester waits for each answer.
const WAITING: usize = 4;

/// How long a custom message may take to be dropped, which is a refusal of the action.
const REFUSAL: Duration = Duration::from_millis(300);

/// An action and where its answer goes.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) action: Value,
    pub(super) answer: oneshot::Sender<Answer>,
}

/// What becomes of an action.
#[derive(Debug)]
pub(super) enum Answer {
    Done,
    Unsupported,
    Refused(String),
    /// It depends on what becomes of a custom message.
    Sent(CustomDelivery),
}

/// The actions that the tester posts to an address.
#[derive(Debug)]
pub(super) struct Hooks {
    address: SocketAddr,
    asked: Option<mpsc::Receiver<Asked>>,
}

impl Hooks {
    /// None, unless there is an address.
    pub(super) fn at(address: Option<SocketAddr>) -> Option<Self> {
        Some(Self { address: address?, asked: None })
    }

    /// The next action. Listens from the first call on.
    pub(super) async fn next(&mut self) -> Result<Asked, Failure> {
        if self.asked.is_none() {
            let address = self.address;
            let unusable = |error| Failure::caused_by(format!("cannot listen at {address}"), error);
            let listener = TcpListener::bind(address).await.map_err(unusable)?;
            let (ask, asked) = mpsc::channel(WAITING);
            let handler = move |Json(action): Json<Value>| serve(ask.clone(), action);
            let router = Router::new().fallback(post(handler));
            tokio::spawn(async move { axum::serve(listener, router).await });
            self.asked = Some(asked);
        }
        match &mut self.asked {
            Some(asked) => asked.recv().await,
            None => None,
        }
        .ok_or_else(|| Failure::new("the hooks are no longer served"))
    }
}

async fn serve(ask: mpsc::Sender<Asked>, action: Value) -> (StatusCode, String) {
    let (answer, answered) = oneshot::channel();
    let stopped = || (StatusCode::BAD_REQUEST, "the agent stops".to_owned());
    if ask.send(Asked { action, answer }).await.is_err() {
        return stopped();
    }
    match answered.await {
        Ok(Answer::Done) => (StatusCode::OK, json!({}).to_string()),
        Ok(Answer::Unsupported) => (StatusCode::NOT_IMPLEMENTED, String::new()),
        Ok(Answer::Refused(why)) => (StatusCode::BAD_REQUEST, why),
        Ok(Answer::Sent(delivery)) => match tokio::time::timeout(REFUSAL, delivery).await {
            Ok(CustomOutcome::Dropped(why)) => (StatusCode::BAD_REQUEST, why.to_string()),
            _ => (StatusCode::OK, json!({}).to_string()),
        },
        Err(_) => stopped(),
    }
}

/// Does what concerns the client alone; `None` for other actions.
pub(super) fn act(client: &Client, action: &Value) -> Option<Answer> {
    Some(match action["hook"].as_str()? {
        "set_custom_capabilities" => {
            let names = action["capabilities"].as_array().into_iter().flatten();
            match CustomCapabilities::new(names.filter_map(Value::as_str)) {
                Ok(capabilities) => {
                    client.set_custom_capabilities(capabilities);
                    Answer::Done
                }
                Err(error) => Answer::Refused(error.to_string()),
            }
        }
        "send_custom_message" => match custom_message(action) {
            Some(message) => match client.send_custom_message(message) {
                Ok(delivery) => Answer::Sent(delivery),
                Err(error) => Answer::Refused(error.to_string()),
            },
            None => Answer::Refused("no custom message".to_owned()),
        },
        "request_instance_uid" => {
            client.request_instance_uid();
            Answer::Done
        }
        "set_capability" => set_capability(client, action)?,
        _ => return None,
    })
}

fn custom_message(action: &Value) -> Option<v1::CustomMessage> {
    let data = BASE64_STANDARD.decode(action["data"].as_str()?).ok()?;
    Some(v1::CustomMessage {
        capability: action["capability"].as_str()?.to_owned(),
        r#type: action["type"].as_str()?.to_owned(),
        data: data.into(),
    })
}

/// What an agent gave up it does not take up again: the values are gone.
fn set_capability(client: &Client, action: &Value) -> Option<Answer> {
    let on = action["on"] == true;
    match action["name"].as_str()? {
        "AcceptsRemoteConfig" | "ReportsRemoteConfig" => client.set_accepts_remote_config(on),
        "AcceptsRestartCommand" => client.set_accepts_restart(on),
        "ReportsHeartbeat" if !on => client.set_heartbeat_interval(None),
        "ReportsHealth" if !on => client.set_health(None),
        "ReportsEffectiveConfig" if !on => client.set_effective_config(None),
        "ReportsAvailableComponents" if !on => client.set_available_components(None),
        "AcceptsOpAMPConnectionSettings" | "ReportsConnectionSettingsStatus" if !on => {
            client.set_accepted_settings(ConnectionKinds::empty());
        }
        _ => return None,
    }
    Some(Answer::Done)
}
