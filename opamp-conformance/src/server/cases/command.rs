//! The Restart command.

use opamp_proto::v1::{CommandType, ServerToAgent};

use crate::case::{Case, Script};
use crate::hook::Action;
use crate::judge::Stop;
use crate::mask::agent as mask;
use crate::report::Transport;
use crate::server::{Agent, ServerStage};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "server/command/restart",
        judges: &["CMD-01"],
        transports: Transport::BOTH,
        does: "has the hook restart an agent that accepts the command",
        expects: "a message with the command and nothing else but instance_uid and capabilities",
        alone: false,
        broken_by: &["commands-come-with-flags"],
        script: Script::Server(|stage| Box::pin(restart(stage))),
    },
    Case {
        name: "server/command/not-accepted",
        judges: &["CMD-05"],
        transports: Transport::BOTH,
        does: "has the hook restart an agent without AcceptsRestartCommand",
        expects: "no command",
        alone: false,
        broken_by: &["restart-is-sent-to-all"],
        script: Script::Server(|stage| Box::pin(not_accepted(stage))),
    },
];

fn commands(message: &ServerToAgent) -> bool {
    message.command.is_some()
}

/// An agent that takes the command and was sent one; and that message.
async fn restarted(stage: &mut ServerStage) -> Result<(Agent, ServerToAgent), Stop> {
    let capabilities = mask::REPORTS_STATUS | mask::ACCEPTS_RESTART_COMMAND;
    let (mut agent, _) = stage.reported(capabilities).await?;
    stage.hook(Action::RestartAgent { instance_uid: agent.uid_text() }).await?;
    match agent.deliver(stage.pace.work(), commands).await? {
        Some(message) => Ok((agent, message)),
        None => Err(Stop::Unreached("the hook restarts the agent, and no command came".to_owned())),
    }
}

async fn restart(stage: &mut ServerStage) -> Result<(), Stop> {
    let (_, message) = restarted(stage).await?;
    let alone = ServerToAgent {
        instance_uid: message.instance_uid.clone(),
        capabilities: message.capabilities,
        command: message.command,
        ..Default::default()
    };
    let kind = message.command.map(|command| command.r#type);
    let is_restart = kind == Some(CommandType::Restart.into());
    let expected = "the Restart command alone";
    let actual = format!("a command of type {kind:?} in {}", super::parts(&message));
    stage.judge.expect("CMD-01", message == alone && is_restart, expected, actual);
    Ok(())
}

async fn not_accepted(stage: &mut ServerStage) -> Result<(), Stop> {
    // That the hook does send commands is shown first; only then does silence tell something.
    restarted(stage).await?;
    let (mut agent, _) = stage.reported(mask::REPORTS_STATUS | mask::REPORTS_HEALTH).await?;
    // Refusing is as good as not sending.
    let _ = stage.try_hook(Action::RestartAgent { instance_uid: agent.uid_text() }).await?;
    let message = agent.message();
    let command = agent.provoke(message, commands).await?;
    let expected = "no command for an agent without AcceptsRestartCommand";
    let actual = command.as_ref().map_or("none".to_owned(), super::parts);
    stage.judge.expect("CMD-05", command.is_none(), expected, actual);
    Ok(())
}
