//! The description of the agent, as far as it takes more than one look at it.

use crate::case::{Case, Script};
use crate::client::ClientStage;
use crate::judge::Stop;
use crate::report::Transport;

pub(super) const CASES: &[Case] = &[Case {
    name: "client/description/two-agents",
    judges: &["DESC-03"],
    transports: Transport::BOTH,
    does: "starts a second client beside the first",
    expects: "their identifying attributes differ",
    alone: false,
    broken_by: &["identifying-attributes-are-the-same"],
    script: Script::Client(|stage| Box::pin(two_agents(stage))),
}];

async fn two_agents(stage: &mut ClientStage) -> Result<(), Stop> {
    let (_one_host, _one, one) = stage.meet().await?;
    let (_other_host, _other, other) = stage.meet().await?;
    if one.instance_uid == other.instance_uid {
        let why = "both say that they are the same agent, by their instance_uid";
        return Err(Stop::Unreached(why.to_owned()));
    }
    let none = || Stop::Unreached("the client reports no description".to_owned());
    let one = one.agent_description.ok_or_else(none)?.identifying_attributes;
    let other = other.agent_description.ok_or_else(none)?.identifying_attributes;
    let actual = format!("{:?} and {:?}", shown(&one), shown(&other));
    stage.judge.expect("DESC-03", one != other, "identifying attributes that differ", actual);
    Ok(())
}

fn shown(attributes: &[opamp_proto::v1::KeyValue]) -> Vec<String> {
    let value = |it: &opamp_proto::v1::KeyValue| {
        it.value.as_ref().and_then(|value| value.as_str()).unwrap_or("(no text)").to_owned()
    };
    attributes.iter().map(|it| format!("{}={}", it.key, value(it))).collect()
}
