//! Who may connect, and what is made of what agents say.

use opamp_proto::{InstanceUid, v1};
use opamp_server::fleet::{Claim, Denied};
use opamp_server::{AgentChange, BearerTokens, Changes, Handler, PeerCertificates, Rejection};

use super::heartbeat::Heartbeat;
use super::mailbox::Mailbox;

/// The agent that a peer's certificate names, if it has one that does: it speaks for no agent that
/// others speak for. Who comes without, or with a token that all have, could be anyone.
pub type Peer = Option<InstanceUid>;

/// Admits agents that present a token, if one is asked for, and tells the operator what they say.
pub(super) struct Desk {
    pub(super) tokens: Option<BearerTokens>,
    /// Who presents a certificate needs no token.
    pub(super) certificates: bool,
    /// The interval to offer, if one is.
    pub(super) heartbeat: Option<Heartbeat>,
    pub(super) mailbox: Mailbox,
}

impl Handler for Desk {
    type Identity = Peer;

    async fn admit(&self, request: &axum::http::request::Parts) -> Result<Peer, Rejection> {
        // The listener has verified it.
        let certificates = request.extensions.get::<PeerCertificates>();
        if !self.certificates || certificates.is_none() {
            self.tokens.as_ref().map_or(Ok(()), |tokens| tokens.check(request))?;
        }
        Ok(certificates.and_then(PeerCertificates::instance_uid))
    }

    fn authorize(&self, claim: Claim<'_, Peer>) -> Result<(), Denied> {
        let Some(named) = claim.identity() else { return Ok(()) };
        match claim.holder() {
            // One that was given another uid has the certificate of the old one at first.
            Some(Some(holder)) if holder != named => claim.only(*named),
            _ => Ok(()),
        }
    }

    async fn agent_changed(&self, change: AgentChange<Peer>) {
        let AgentChange { agent, changes, custom_messages, fleet, .. } = change;
        if let Some(heartbeat) = &self.heartbeat {
            heartbeat.offer(&fleet, &agent);
        }
        self.mailbox.add(*agent.uid(), custom_messages);
        if changes.intersects(Changes::CONNECTED | Changes::DISCONNECTED) {
            let connected = agent.is_connected();
            tracing::debug!(agent = %agent.key(), connected, "an agent came or went");
        }
        if changes.contains(Changes::REMOTE_CONFIG_STATUS)
            && let Some(status) = agent.state().remote_config_status()
            && status.status() != v1::RemoteConfigStatuses::Unset
        {
            let (outcome, error) = (status.status(), status.error_message);
            tracing::info!(agent = %agent.key(), ?outcome, error, "an agent told what became of a configuration");
        }
        if changes.contains(Changes::SILENT) {
            tracing::warn!(agent = %agent.key(), "an agent is silent and counts as gone");
        }
        if changes.contains(Changes::OFFER_TIMED_OUT) {
            tracing::warn!(agent = %agent.key(), "an agent did not say what became of an offer");
        }
        if changes.contains(Changes::DUPLICATE) {
            tracing::warn!(agent = %agent.key(), "another agent came with the same instance uid, and is given one of its own");
        }
    }
}
