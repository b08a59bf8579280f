//! Sequence numbers and full state.

use opamp_proto::v1::ServerToAgent;

use crate::case::{Case, Script};
use crate::client::ClientStage;
use crate::judge::Stop;
use crate::mask::flag::REPORT_FULL_STATE;
use crate::report::Transport;

pub(super) const CASES: &[Case] = &[Case {
    name: "client/sequence/full-state",
    judges: &["SEQ-07", "SEQ-08"],
    transports: Transport::BOTH,
    does: "sets ReportFullState once, in the answer to the second message",
    expects: "one full report next, and no other",
    alone: false,
    broken_by: &["full-state-flag-is-ignored", "full-state-is-repeated"],
    script: Script::Client(|stage| Box::pin(full_state(stage))),
}];

async fn full_state(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, first) = stage.meet().await?;
    host.first(stage.heartbeat() + stage.pace.work()).await?;
    host.send(ServerToAgent { flags: REPORT_FULL_STATE, ..host.message() }).await?;
    let within = stage.pace.reply() + stage.heartbeat();
    let full = host.hear(within, |message| message.agent_description.is_some()).await;
    let same = full.as_ref().is_some_and(|full| full.agent_description == first.agent_description);
    let actual = match &full {
        Some(_) if same => "it is the description of the first report".to_owned(),
        Some(_) => "another description than in the first report".to_owned(),
        None => format!("no report with a description within {:.1} s", within.as_secs_f64()),
    };
    stage.judge.expect("SEQ-07", same, "a full report with the description", actual);
    if full.is_none() {
        return Ok(());
    }
    let more = host.collect(stage.pace.quiet() + 2 * stage.heartbeat()).await;
    let again = more.iter().filter(|message| message.agent_description.is_some()).count();
    stage.judge.expect("SEQ-08", again == 0, "no other full report", format!("{again} more"));
    Ok(())
}
