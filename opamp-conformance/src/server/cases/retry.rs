//! Messages that come more than once.

use opamp_proto::v1::AgentToServer;
use prost::Message as _;

use crate::case::{Case, Script};
use crate::judge::Stop;
use crate::mask::agent as mask;
use crate::report::Transport;
use crate::server::{Heard, ServerStage};

pub(super) const CASES: &[Case] = &[Case {
    name: "server/retry/same-bytes",
    judges: &["RETRY-05"],
    transports: Transport::BOTH,
    does: "sends the bytes of one message three times",
    expects: "a reply to each",
    alone: false,
    broken_by: &["repeated-messages-are-not-answered"],
    script: Script::Server(|stage| Box::pin(same_bytes(stage))),
}];

async fn same_bytes(stage: &mut ServerStage) -> Result<(), Stop> {
    let (mut agent, _) = stage.reported(mask::REPORTS_STATUS | mask::REPORTS_HEALTH).await?;
    let health = agent.full_report().health;
    agent.sequence_num -= 1;
    let message = AgentToServer { health, ..agent.message() }.encode_to_vec();
    for copy in ["first", "second", "third"] {
        let heard = super::readable(agent.ask_bytes(message.clone().into()).await?)?;
        let answered = matches!(&heard, Heard::Message(reply) if reply.instance_uid == agent.uid);
        let actual = format!("{} in reply to the {copy} copy", super::told(&heard));
        if !stage.judge.expect("RETRY-05", answered, "a reply to each copy", actual) {
            break;
        }
    }
    Ok(())
}
