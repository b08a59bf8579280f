//! Sequence numbers and full state.

use opamp_proto::v1::AgentToServer;

use crate::case::{Case, Script};
use crate::judge::Stop;
use crate::mask::agent as mask;
use crate::mask::flag::REPORT_FULL_STATE;
use crate::report::Transport;
use crate::server::ServerStage;

pub(super) const CASES: &[Case] = &[Case {
    name: "server/sequence/gap",
    judges: &["SEQ-03", "SEQ-04", "SEQ-05"],
    transports: Transport::BOTH,
    does: "reports in full, sends the next message, then one with a number two too high",
    expects: "no flag in the reply to the second, ReportFullState in the reply to the third",
    alone: false,
    broken_by: &["gaps-are-ignored-over-http", "gap-is-ignored"],
    script: Script::Server(|stage| Box::pin(gap(stage))),
}];

async fn gap(stage: &mut ServerStage) -> Result<(), Stop> {
    let (mut agent, _) = stage.reported(mask::REPORTS_STATUS | mask::REPORTS_HEALTH).await?;
    let message = agent.message();
    let reply = agent.exchange(message).await?;
    let asked = reply.flags & REPORT_FULL_STATE != 0;
    stage.judge.expect(
        "SEQ-03",
        !asked,
        "no ReportFullState while the numbers go up by one",
        format!("flags {:#x} in the reply to the second message", reply.flags),
    );
    agent.sequence_num += 2;
    let message = AgentToServer { ..agent.message() };
    let reply = agent.exchange(message).await?;
    let asked = reply.flags & REPORT_FULL_STATE != 0;
    let actual = format!("flags {:#x} in the reply to the message after the gap", reply.flags);
    for row in ["SEQ-03", "SEQ-04", "SEQ-05"] {
        stage.judge.expect(row, asked, "ReportFullState after a gap", actual.clone());
    }
    Ok(())
}
