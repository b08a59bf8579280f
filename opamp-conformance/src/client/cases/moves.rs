//! Moves that several scripts make.

use bytes::Bytes;
use opamp_proto::v1::{AgentToServer, ServerToAgent};

use super::common::due;
use crate::client::{ClientStage, Heard, Host, Running};
use crate::hook::Action;
use crate::judge::Stop;
use crate::mask;
use crate::mask::flag::REPORT_FULL_STATE;
use crate::report::Transport;

/// Asks for a full report, and waits for a message with a description.
pub(super) async fn ask_full(
    stage: &ClientStage,
    host: &mut Host,
) -> Result<Option<AgentToServer>, Stop> {
    host.send(ServerToAgent { flags: REPORT_FULL_STATE, ..host.message() }).await?;
    Ok(host.hear(due(stage), |message| message.agent_description.is_some()).await)
}

/// Sees to it that the client does not announce a capability: as it is, or else by a hook.
pub(super) async fn without(
    stage: &ClientStage,
    host: &mut Host,
    client: &mut dyn Running,
    first: &AgentToServer,
    capability: u64,
) -> Result<(), Stop> {
    if first.capabilities & capability == 0 {
        return Ok(());
    }
    let name = mask::names("AgentCapabilities", capability).concat();
    stage.hook(client, Action::SetCapability { name: name.clone(), on: false }).await?;
    host.hear(due(stage), |message| message.capabilities & capability == 0)
        .await
        .map(|_| ())
        .ok_or_else(|| Stop::Unreached(format!("the client goes on announcing {name}")))
}

/// How many connections the client has opened so far.
pub(super) fn connections(stage: &ClientStage) -> usize {
    let entries = stage.log.entries();
    entries.iter().filter(|entry| matches!(entry.event, crate::log::Event::Opened)).count()
}

/// The next message; where none comes by itself, a full report is asked for, under this id.
pub(super) async fn provoke(
    stage: &ClientStage,
    host: &mut Host,
    uid: &Bytes,
) -> Result<AgentToServer, Stop> {
    let within = match stage.transport {
        Transport::WebSocket => stage.pace.quiet(),
        Transport::Http => due(stage),
    };
    match host.next(within).await {
        Heard::Message(message) => return Ok(*message),
        // A client may leave a server that says odd things, as long as it comes back.
        Heard::Closed(..) => return host.first(stage.pace.comeback()).await,
        Heard::Malformed(_) | Heard::Silence => {}
    }
    let asking = ServerToAgent { instance_uid: uid.clone(), ..host.message() };
    host.send(ServerToAgent { flags: REPORT_FULL_STATE, ..asking }).await?;
    host.first(due(stage)).await
}

/// Ends the connection without a word: the WebSocket once what was heard is answered, the HTTP
/// connection instead of answering.
pub(super) async fn break_off(host: &mut Host, transport: Transport) {
    if transport == Transport::WebSocket {
        host.answer().await;
    }
    host.cut();
}
