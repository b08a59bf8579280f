//! Having a server offer connection settings or packages, waiting for the offer, and finding the
//! offers among all that was recorded.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response};
use opamp_proto::v1::{
    AgentDisconnect, AgentToServer, ConnectionSettingsOffers, PackagesAvailable, ServerToAgent,
};
use rand::RngExt as _;
use serde_json::Value;
use tokio::time::timeout;

use super::{Agent, ServerStage};
use crate::case::Observed;
use crate::hook::Action;
use crate::judge::Stop;
use crate::log::Entry;
use crate::report::{By, Transport};
use crate::wire::http_client::Dialer;

/// A message with an offer, and what is known of the agent it went to.
pub(super) struct Offer<'a> {
    pub(super) entry: &'a Entry,
    pub(super) message: ServerToAgent,
    /// All capabilities the agent ever had in the conversation.
    pub(super) capabilities: u64,
    /// Whether a certificate request had been sent in the conversation, under this id of the agent
    /// or one it had before.
    pub(super) has_asked: bool,
}

impl ServerStage {
    /// A short name that appears nowhere else, to know an offer by.
    pub(super) fn marker(&mut self) -> String {
        format!("x{:08x}", self.rng.random::<u32>())
    }

    /// Has the server offer connection settings to the agent.
    pub(super) async fn offer_settings(
        &mut self,
        agent: &mut Agent,
        settings: Value,
    ) -> Result<(), Stop> {
        let instance_uid = agent.uid_text();
        let action = Action::OfferConnectionSettings { instance_uid, settings };
        self.try_hook(action).await?.map(drop).map_err(Stop::Unreached)
    }

    /// Has the server offer packages to the agent.
    pub(super) async fn offer_packages(
        &mut self,
        agent: &mut Agent,
        packages: Value,
    ) -> Result<(), Stop> {
        let instance_uid = agent.uid_text();
        let action = Action::OfferPackages { instance_uid, packages };
        self.try_hook(action).await?.map(drop).map_err(Stop::Unreached)
    }

    /// Fetches something an offer gives the URL of, with these header fields and none of those that
    /// are for the server itself.
    pub(super) async fn get(
        &self,
        url: &str,
        fields: &[(String, String)],
    ) -> Result<Response<Bytes>, Stop> {
        let unreached = |why: &dyn std::fmt::Display| Stop::Unreached(format!("{url}: {why}"));
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let name = HeaderName::try_from(name.as_str()).map_err(|error| unreached(&error))?;
            headers.append(name, HeaderValue::try_from(value).map_err(|error| unreached(&error))?);
        }
        let dialer = Dialer {
            url: url.parse().map_err(|error: String| unreached(&error))?,
            headers,
            ..self.dialer()
        };
        let fetched = async {
            let request = dialer.request(Method::GET, &HeaderMap::new(), Bytes::new())?;
            dialer.http().await?.send(request).await
        };
        match timeout(self.pace.work(), fetched).await {
            Ok(response) => response.map_err(|lost| unreached(&lost)),
            Err(_) => Err(unreached(&"no response in time")),
        }
    }
}

/// Waits for connection settings of which `is_it` holds.
pub(super) async fn settings(
    agent: &mut Agent,
    within: Duration,
    mut is_it: impl FnMut(&ConnectionSettingsOffers) -> bool,
) -> Result<Option<ConnectionSettingsOffers>, Stop> {
    let heard =
        agent.hear(within, |message| message.connection_settings.as_ref().is_some_and(&mut is_it));
    Ok(heard.await?.and_then(|message| message.connection_settings))
}

/// Waits for packages of which `is_it` holds.
pub(super) async fn packages(
    agent: &mut Agent,
    within: Duration,
    mut is_it: impl FnMut(&PackagesAvailable) -> bool,
) -> Result<Option<PackagesAvailable>, Stop> {
    let heard =
        agent.hear(within, |message| message.packages_available.as_ref().is_some_and(&mut is_it));
    Ok(heard.await?.and_then(|message| message.packages_available))
}

/// Whether a text is anywhere in a message.
pub(super) fn mentions(message: &impl prost::Message, text: &str) -> bool {
    message.encode_to_vec().windows(text.len()).any(|window| window == text.as_bytes())
}

/// Takes leave and drops the connection.
pub(super) async fn leave(agent: &mut Agent) -> Result<(), Stop> {
    let goodbye = AgentToServer { agent_disconnect: Some(AgentDisconnect {}), ..agent.message() };
    if agent.dialer.url.transport == Transport::Http {
        agent.ask(goodbye).await?;
    } else {
        agent.send(goodbye).await?;
    }
    agent.vanish();
    Ok(())
}

/// Every offer of a run.
pub(super) fn all(observed: &Observed) -> Vec<Offer<'_>> {
    let mut offers = Vec::new();
    for conversation in &observed.conversations {
        let is_offer = |entry: &Entry| entry.by == By::Subject && offer_in(entry).is_some();
        let Some(last) = conversation.entries.iter().rposition(is_offer) else { continue };
        // What agents can do, by their id and by the connection they are on.
        let mut agents: HashMap<Bytes, u64> = HashMap::new();
        let mut on: HashMap<u32, u64> = HashMap::new();
        let mut has_asked = false;
        for entry in &conversation.entries[..=last] {
            match entry.by {
                By::Tester => {
                    let Some(report) = entry.agent_to_server() else { continue };
                    *on.entry(entry.connection).or_default() |= report.capabilities;
                    *agents.entry(report.instance_uid).or_default() |= report.capabilities;
                    has_asked |= report.connection_settings_request.is_some();
                }
                By::Subject => {
                    let Some(message) = offer_in(entry) else { continue };
                    let known = agents.get(&message.instance_uid).or(on.get(&entry.connection));
                    if let Some(capabilities) = known.copied() {
                        offers.push(Offer { entry, message, capabilities, has_asked });
                    }
                }
                By::Remark => {}
            }
        }
    }
    offers
}

fn offer_in(entry: &Entry) -> Option<ServerToAgent> {
    entry.server_to_agent().filter(|message| {
        message.connection_settings.is_some() || message.packages_available.is_some()
    })
}
