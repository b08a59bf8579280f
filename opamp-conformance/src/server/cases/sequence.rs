//! Sequence numbers and full state.

use opamp_proto::v1::ServerToAgent;

use crate::case::{Case, Script};
use crate::judge::Stop;
use crate::mask::agent as mask;
use crate::report::Transport;
use crate::server::ServerStage;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "server/sequence/gap",
        judges: &["SEQ-03", "SEQ-04", "SEQ-05"],
        transports: Transport::BOTH,
        does: "reports in full, sends the next message, then one with a number two too high",
        expects: "no flag in the reply to the second, ReportFullState in the reply to the third",
        alone: false,
        broken_by: &[
            "gap-is-ignored",
            "gaps-are-ignored-over-http",
            "full-reports-are-asked-for-always",
        ],
        script: Script::Server(|stage| Box::pin(gap(stage))),
    },
    Case {
        name: "server/sequence/forgotten-agent",
        judges: &["SEQ-06"],
        transports: Transport::BOTH,
        does: "sends a message without content, with a number above 1, as an agent of which the \
               server knows nothing, as after a restart of the server",
        expects: "ReportFullState in the reply",
        alone: false,
        broken_by: &["unknown-agents-are-not-asked"],
        script: Script::Server(|stage| Box::pin(forgotten_agent(stage))),
    },
];

fn flags(reply: &ServerToAgent, to: &str) -> String {
    format!("flags {:#x} in the reply to {to}", reply.flags)
}

async fn gap(stage: &mut ServerStage) -> Result<(), Stop> {
    let (mut agent, mut reply) =
        stage.reported(mask::REPORTS_STATUS | mask::REPORTS_HEALTH).await?;
    // A server may ask for a full report at any time, but not for ever.
    for _ in 0..3 {
        let message =
            if super::asks_for_all(&reply) { agent.full_report() } else { agent.message() };
        reply = agent.exchange(message).await?;
    }
    stage.judge.expect(
        "SEQ-03",
        !super::asks_for_all(&reply),
        "no ReportFullState while the numbers go up by one",
        flags(&reply, "a message with the next number"),
    );
    agent.sequence_num += 2;
    let message = agent.message();
    let reply = agent.exchange(message).await?;
    let asked = super::asks_for_all(&reply)
        || agent.hear(stage.pace.quiet(), super::asks_for_all).await?.is_some();
    for row in ["SEQ-03", "SEQ-04", "SEQ-05"] {
        let actual = flags(&reply, "the message after the gap");
        stage.judge.expect(row, asked, "ReportFullState after a gap", actual);
    }
    Ok(())
}

async fn forgotten_agent(stage: &mut ServerStage) -> Result<(), Stop> {
    let mut agent = stage.agent(mask::REPORTS_STATUS | mask::REPORTS_HEALTH);
    agent.connect().await?;
    agent.sequence_num = 41;
    let message = agent.message();
    let reply = agent.exchange(message).await?;
    let asked = super::asks_for_all(&reply);
    let actual = flags(&reply, "the first message of an agent that tells nothing");
    stage.judge.expect("SEQ-06", asked, "ReportFullState", actual);
    Ok(())
}
