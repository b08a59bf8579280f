//! The Restart command.

use opamp_proto::v1::{AgentToServer, CommandType, ServerToAgent, ServerToAgentCommand};

use tokio::time::Instant;

use super::common::ask;
use super::config::Offer;
use super::moves::{connections, provoke, without};
use crate::case::{Case, Script};
use crate::client::{ClientStage, Host};
use crate::judge::Stop;
use crate::mask::agent::ACCEPTS_RESTART_COMMAND;
use crate::report::Transport;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "client/command/restart",
        judges: &["CMD-02", "CMD-03"],
        transports: Transport::BOTH,
        does: "sends the Restart command together with a configuration",
        expects: "the agent restarts, and makes nothing of the configuration",
        alone: false,
        broken_by: &["command-is-not-alone", "restart-is-ignored"],
        script: Script::Client(|stage| Box::pin(restart(stage))),
    },
    Case {
        name: "client/command/not-accepted",
        judges: &["CMD-04"],
        transports: Transport::BOTH,
        does: "sends the Restart command to a client without AcceptsRestartCommand",
        expects: "the session goes on",
        alone: false,
        broken_by: &["capabilities-come-late", "polls-have-health", "restart-without-capability"],
        script: Script::Client(|stage| Box::pin(not_accepted(stage))),
    },
];

fn command(host: &Host) -> ServerToAgent {
    let command = ServerToAgentCommand { r#type: CommandType::Restart as i32 };
    ServerToAgent { command: Some(command), ..host.message() }
}

fn start_time(message: &AgentToServer) -> Option<u64> {
    message.health.as_ref().map(|health| health.start_time_unix_nano)
}

/// Whether a message shows that the agent began anew since this one.
fn begins_anew(before: &AgentToServer, message: &AgentToServer) -> bool {
    // One that was not running yet has not restarted when it runs.
    let times = start_time(before).filter(|time| *time != 0).zip(start_time(message));
    times.is_some_and(|(before, now)| before != now)
        || message.agent_disconnect.is_some()
        || message.sequence_num < before.sequence_num
}

async fn restart(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, mut client, first) = stage.meet().await?;
    stage.requires(&first, ACCEPTS_RESTART_COMMAND)?;
    let offer = Offer::new(stage, &first);
    let before = connections(stage);
    host.send(offer.on(command(&host))).await?;
    let mut trace = false;
    let within = stage.pace.comeback().max(stage.heartbeat());
    let until = Instant::now() + within;
    let mut anew = false;
    let mut ended = None;
    while !anew && ended.is_none() && Instant::now() < until {
        let seen = host.hear(stage.pace.of(1.0), |message| {
            let status = message.remote_config_status.as_ref();
            trace |= status.is_some_and(|status| status.last_remote_config_hash == offer.hash);
            begins_anew(&first, message)
        });
        anew = seen.await.is_some()
            || stage.transport == Transport::WebSocket && connections(stage) > before;
        ended = client.ended();
    }
    let actual = match &ended {
        Some(how) => format!("the program {how}"),
        None if anew => "a new beginning".to_owned(),
        None => "it goes on as before".to_owned(),
    };
    stage.judge.expect("CMD-03", anew || ended.is_some(), "a restart", actual);
    for message in host.collect(stage.pace.quiet() + stage.pace.of(1.0)).await {
        let status = message.remote_config_status.as_ref();
        trace |= status.is_some_and(|status| status.last_remote_config_hash == offer.hash);
    }
    let actual = if trace { "a status of it" } else { "nothing of it" };
    stage.judge.expect("CMD-02", !trace, "nothing of the configuration", actual);
    Ok(())
}

async fn not_accepted(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, mut client, first) = stage.meet().await?;
    let last = ask(stage, &mut host).await?;
    host.answer().await;
    without(stage, &mut host, client.as_mut(), &first, ACCEPTS_RESTART_COMMAND).await?;
    let before = connections(stage);
    host.send(command(&host)).await?;
    let next = provoke(stage, &mut host, &last.instance_uid).await?;
    let reconnected = stage.transport == Transport::WebSocket && connections(stage) > before;
    let restarted = begins_anew(&last, &next) || reconnected || client.ended().is_some();
    let actual = if restarted { "the agent restarted" } else { "the session goes on" };
    stage.judge.expect("CMD-04", !restarted, "the session goes on", actual);
    Ok(())
}
