//! Getting a server to deliver something to a scripted agent: a configuration by the hook, or
//! whatever else it has for the agent.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use opamp_proto::v1::{
    AgentRemoteConfig, AgentToServer, RemoteConfigStatus, RemoteConfigStatuses, ServerToAgent,
};
use tokio::time::Instant;

use crate::hook::{Action, File};
use crate::judge::Stop;
use crate::mask::{agent as mask, server};
use crate::report::Transport;
use crate::server::{Agent, ServerStage};

/// The capabilities of an agent whose configuration is the server's.
pub(super) const CONFIGURABLE: u64 = mask::REPORTS_STATUS
    | mask::ACCEPTS_REMOTE_CONFIG
    | mask::REPORTS_REMOTE_CONFIG
    | mask::REPORTS_EFFECTIVE_CONFIG;

/// The files of a configuration, for the hook.
pub(super) fn files(files: &[(&str, &[u8], &str)]) -> BTreeMap<String, File> {
    let encode = |body: &[u8]| base64::engine::general_purpose::STANDARD.encode(body);
    let file = |(name, body, content_type): &(&str, &[u8], &str)| {
        let file = File { body: encode(body), content_type: (*content_type).to_owned() };
        ((*name).to_owned(), file)
    };
    files.iter().map(file).collect()
}

/// A configuration of one YAML file.
pub(super) fn one_file(body: &str) -> BTreeMap<String, File> {
    files(&[("", body.as_bytes(), "text/yaml")])
}

impl ServerStage {
    /// A connected agent that takes configurations. What the server offers it of its own accord is
    /// applied and reported, so that the next offer is another one.
    ///
    /// # Errors
    ///
    /// [`Stop::NotApplicable`] when the server offers no configurations, and as
    /// [`reported`](Self::reported).
    pub(super) async fn configurable(&mut self) -> Result<(Agent, ServerToAgent), Stop> {
        let (mut agent, reply) = self.reported(CONFIGURABLE).await?;
        self.requires(&reply, server::OFFERS_REMOTE_CONFIG)?;
        if let Some(config) = &reply.remote_config {
            let report = agent.config_status(&config.config_hash, RemoteConfigStatuses::Applied);
            agent.exchange(report).await?;
        }
        Ok((agent, reply))
    }

    /// Has the hook make these files the agent's configuration and waits for the offer of it.
    ///
    /// # Errors
    ///
    /// As [`hook`](Self::hook), and [`Stop::Unreached`] when no offer comes.
    pub(super) async fn offer(
        &mut self,
        agent: &mut Agent,
        files: BTreeMap<String, File>,
    ) -> Result<AgentRemoteConfig, Stop> {
        let wanted: Vec<String> = files.values().map(|file| file.body.clone()).collect();
        let instance_uid = agent.uid_text();
        self.hook(Action::OfferConfig { instance_uid, files }).await?;
        let has = agent.config_hash.clone();
        let mut other = None;
        let encode = |body: &[u8]| base64::engine::general_purpose::STANDARD.encode(body);
        // A server may offer a default configuration at any time; it is taken for the one asked for
        // only if nothing better comes.
        let is_it = |message: &ServerToAgent| {
            let new = |config: &&AgentRemoteConfig| {
                config.config_hash.is_empty() || config.config_hash != has
            };
            let Some(config) = message.remote_config.as_ref().filter(new) else {
                return false;
            };
            let mut files = config.config.iter().flat_map(|config| config.config_map.values());
            let is_it = files.any(|file| wanted.contains(&encode(&file.body)));
            if !is_it {
                other = Some(config.clone());
            }
            is_it
        };
        let heard = agent.deliver(self.pace.work(), is_it).await?;
        heard.and_then(|message| message.remote_config).or(other).ok_or_else(|| {
            Stop::Unreached("the hook assigned a configuration, and no offer of it came".to_owned())
        })
    }
}

impl Agent {
    /// The next message with the status of a configuration of this hash, which becomes the one the
    /// agent reports in full reports.
    pub(super) fn config_status(
        &mut self,
        hash: &Bytes,
        status: RemoteConfigStatuses,
    ) -> AgentToServer {
        self.config_hash = hash.clone();
        let failed = status == RemoteConfigStatuses::Failed;
        let remote_config_status = Some(RemoteConfigStatus {
            last_remote_config_hash: hash.clone(),
            status: status.into(),
            error_message: if failed { "it cannot be applied".to_owned() } else { String::new() },
        });
        AgentToServer { remote_config_status, ..self.message() }
    }

    /// Waits for a message for which `is_it` holds, as [`hear`](Self::hear), and sends a message
    /// now and then for a server that delivers only in replies.
    ///
    /// # Errors
    ///
    /// As [`hear`](Self::hear).
    pub(super) async fn deliver(
        &mut self,
        within: Duration,
        mut is_it: impl FnMut(&ServerToAgent) -> bool,
    ) -> Result<Option<ServerToAgent>, Stop> {
        if self.dialer.url.transport == Transport::Http {
            return self.hear(within, is_it).await;
        }
        let until = Instant::now() + within;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let heard = self.hear(left.min(self.pace.quiet()), &mut is_it).await?;
            if heard.is_some() || Instant::now() >= until {
                return Ok(heard);
            }
            let nudge = self.message();
            self.send(nudge).await?;
        }
    }

    /// Sends a message and gives whatever comes for which `is_it` holds, be it the reply or what
    /// follows shortly.
    ///
    /// # Errors
    ///
    /// [`Stop::Unreached`] when there is no reply.
    pub(super) async fn provoke(
        &mut self,
        message: AgentToServer,
        mut is_it: impl FnMut(&ServerToAgent) -> bool,
    ) -> Result<Option<ServerToAgent>, Stop> {
        let reply = self.exchange(message).await?;
        if is_it(&reply) {
            return Ok(Some(reply));
        }
        self.hear(self.pace.quiet(), is_it).await
    }
}
