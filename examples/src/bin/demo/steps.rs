//! The steps of the demo. Each does something, waits until the server knows of its effect, and says
//! what it saw.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use opamp_examples::program::Failure;
use opamp_proto::v1;
use opamp_proto::v1::RemoteConfigStatuses::{Applied, Failed};
use opamp_server::{AgentSnapshot, RemoteConfig};

use crate::stage::{AGENTS, HTTP, Stage, TLS, WEBSOCKET};

/// What a step saw, a line each.
type Facts = Result<Vec<String>, Failure>;

pub(crate) struct Step {
    pub(crate) title: &'static str,
    /// Whether to show the fleet afterwards.
    pub(crate) shows_fleet: bool,
    play: for<'a> fn(&'a mut Stage) -> Pin<Box<dyn Future<Output = Facts> + 'a>>,
}

impl Step {
    pub(crate) async fn play(&self, stage: &mut Stage) -> Facts {
        (self.play)(stage).await
    }
}

pub(crate) const ALL: [Step; 8] = [
    Step {
        title: "A server starts, and another one with TLS",
        shows_fleet: false,
        play: |stage| Box::pin(servers(stage)),
    },
    Step {
        title: "Three agents connect and report",
        shows_fleet: true,
        play: |stage| Box::pin(connect(stage)),
    },
    Step {
        title: "A configuration is offered to all",
        shows_fleet: false,
        play: |stage| Box::pin(configure(stage)),
    },
    Step {
        title: "A bad configuration is refused",
        shows_fleet: true,
        play: |stage| Box::pin(refuse(stage)),
    },
    Step { title: "Health changes", shows_fleet: false, play: |stage| Box::pin(health(stage)) },
    Step {
        title: "An agent is restarted",
        shows_fleet: false,
        play: |stage| Box::pin(restart(stage)),
    },
    Step {
        title: "The server restarts and has forgotten everything",
        shows_fleet: false,
        play: |stage| Box::pin(amnesia(stage)),
    },
    Step { title: "An agent leaves", shows_fleet: true, play: |stage| Box::pin(leave(stage)) },
];

const GOOD: &str = "greeting: hello from the server\n";
const BAD: &str = "greeting: [hello\nto: all\n";
const FAILING: &str = "fail_with: the disk is full\n";

fn config(body: &'static str) -> RemoteConfig {
    let file = v1::AgentConfigFile { body: body.into(), content_type: "text/yaml".to_owned() };
    RemoteConfig::new(v1::AgentConfigMap { config_map: [(String::new(), file)].into() })
}

/// Whether the agent reported this status for this configuration.
fn has_status(
    agent: &AgentSnapshot,
    config: &RemoteConfig,
    status: v1::RemoteConfigStatuses,
) -> bool {
    agent.state().remote_config_status().is_some_and(|reported| {
        reported.status() == status
            && reported.last_remote_config_hash == config.hash().as_bytes().as_slice()
    })
}

/// Whether this configuration is what the agent says it runs.
fn runs(agent: &AgentSnapshot, config: &RemoteConfig) -> bool {
    let effective = agent.state().effective_config();
    effective.and_then(|effective| effective.config_map) == Some(config.to_message())
}

fn is_complete(agent: &AgentSnapshot) -> bool {
    let state = agent.state();
    agent.is_connected()
        && state.agent_description().is_some()
        && state.health().is_some_and(|health| health.healthy)
        && state.effective_config().is_some()
}

fn short(config: &RemoteConfig) -> String {
    config.hash().to_string().chars().take(8).collect()
}

async fn servers(stage: &mut Stage) -> Facts {
    stage.start_servers().await?;
    let (plain, secure) = (stage.plain()?.opamp_addr(), stage.secure()?.opamp_addr());
    Ok(vec![
        format!("ws://{plain}/v1/opamp and http://{plain}/v1/opamp: one address, both transports"),
        format!("wss://{secure}/v1/opamp: with a certificate from an authority made just now"),
    ])
}

async fn connect(stage: &mut Stage) -> Facts {
    stage.start_agents().await?;
    for name in AGENTS {
        stage.until(name, "connected with a full report", is_complete).await?;
    }
    Ok(vec![
        format!("{WEBSOCKET} by WebSocket, {HTTP} by HTTP polling, {TLS} by WebSocket over TLS"),
        "each told what it is, how it fares and what it runs".to_owned(),
    ])
}

async fn configure(stage: &mut Stage) -> Facts {
    let good = config(GOOD);
    let began = Instant::now();
    let mut facts = vec![format!("offered {}: {}", short(&good), GOOD.trim_end())];
    for server in [stage.plain()?, stage.secure()?] {
        offer(server.fleet().set_default_remote_config(good.clone()))?;
    }
    for name in AGENTS {
        let done = |agent: &AgentSnapshot| has_status(agent, &good, Applied) && runs(agent, &good);
        stage.until(name, "running the offered configuration", done).await?;
        let took = began.elapsed();
        facts.push(format!("{name}: APPLIED after {took:.1?}, and reported as what it runs"));
    }
    Ok(facts)
}

async fn refuse(stage: &mut Stage) -> Facts {
    let (good, bad) = (config(GOOD), config(BAD));
    let (fleet, uid) = stage.place(WEBSOCKET)?;
    offer(fleet.set_remote_config(uid, bad.clone()))?;
    let agent = stage
        .until(WEBSOCKET, "FAILED for the bad configuration", |agent| {
            has_status(agent, &bad, Failed)
        })
        .await?;
    let why = agent.state().remote_config_status().unwrap_or_default().error_message;
    if !why.contains("line 2") || !runs(&agent, &good) {
        return Err(Failure::new(format!("not refused as it should be: {why:?}")));
    }
    Ok(vec![
        format!("offered {} to {WEBSOCKET}: {BAD:?}", short(&bad)),
        format!("FAILED: {why}"),
        "it goes on with the good one".to_owned(),
    ])
}

async fn health(stage: &mut Stage) -> Facts {
    let failing = config(FAILING);
    let (fleet, uid) = stage.place(HTTP)?;
    offer(fleet.set_remote_config(uid, failing.clone()))?;
    let agent = stage
        .until(HTTP, "unhealthy", |agent| {
            agent.state().health().is_some_and(|health| !health.healthy)
        })
        .await?;
    let health = agent.state().health().unwrap_or_default();
    let sick = format!("{HTTP} is {}: {}", health.status, health.last_error);
    let (fleet, uid) = stage.place(HTTP)?;
    offer(fleet.clear_remote_config(uid))?;
    let good = config(GOOD);
    let recovered = |agent: &AgentSnapshot| is_complete(agent) && runs(agent, &good);
    stage.until(HTTP, "healthy again", recovered).await?;
    Ok(vec![sick, "back on the configuration for all, it is healthy again".to_owned()])
}

async fn restart(stage: &mut Stage) -> Facts {
    let started = |agent: &AgentSnapshot| {
        agent.state().health().map_or(0, |health| health.start_time_unix_nano)
    };
    let (fleet, uid) = stage.place(TLS)?;
    let before = stage.agent(TLS).as_ref().map_or(0, started);
    offer(fleet.restart(uid, Instant::now()))?;
    let agent = stage.until(TLS, "restarted", |agent| started(agent) > before).await?;
    let ran = Duration::from_nanos(started(&agent) - before);
    Ok(vec![format!("{TLS} had run for {ran:.1?} and reports a new start time")])
}

async fn amnesia(stage: &mut Stage) -> Facts {
    stage.replace_plain_server().await?;
    let good = config(GOOD);
    offer(stage.plain()?.fleet().set_default_remote_config(good.clone()))?;
    let mut facts = vec!["a new server with an empty fleet is at the same address".to_owned()];
    for name in [WEBSOCKET, HTTP] {
        let back = |agent: &AgentSnapshot| {
            is_complete(agent) && runs(agent, &good) && has_status(agent, &good, Applied)
        };
        let agent = stage.until(name, "back with full state", back).await?;
        let number = agent.sequence_num();
        facts.push(format!("{name} is back with everything, at its message {number}"));
    }
    facts.push(format!("{WEBSOCKET} got the configuration for all again, and took it"));
    Ok(facts)
}

async fn leave(stage: &mut Stage) -> Facts {
    let began = Instant::now();
    stage.stop_agent(HTTP).await?;
    stage.until(HTTP, "disconnected", |agent| !agent.is_connected()).await?;
    let took = began.elapsed();
    Ok(vec![format!(
        "{HTTP} said goodbye: the server knows after {took:.1?}, with no connection to tell it"
    )])
}

fn offer(outcome: Result<(), opamp_server::OperationError>) -> Result<(), Failure> {
    outcome.map_err(|error| Failure::caused_by("the server refused", error))
}
