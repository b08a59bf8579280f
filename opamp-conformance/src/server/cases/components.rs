//! Available components: their hash, the map of them, and when a server asks for it.

use bytes::Bytes;
use opamp_proto::v1::{AgentToServer, AvailableComponents, ComponentDetails, ServerToAgent};

use super::health::LEVELS;
use crate::case::{Case, Script};
use crate::judge::Stop;
use crate::mask::agent as mask;
use crate::mask::flag::REPORT_AVAILABLE_COMPONENTS;
use crate::report::Transport;
use crate::server::{Agent, ServerStage};
use crate::wire::attribute;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "server/components/any-hash",
        judges: &["COMP-05"],
        transports: Transport::BOTH,
        does: "reports available components with hashes of all kinds: a zero byte, bytes that are no \
               text, 1 KiB",
        expects: "each report is accepted",
        alone: false,
        broken_by: &["component-hashes-have-to-be-text"],
        script: Script::Server(|stage| Box::pin(any_hash(stage))),
    },
    Case {
        name: "server/components/known-hash",
        judges: &["COMP-08", "COMP-10"],
        transports: Transport::BOTH,
        does: "reports the hash of its components, the map when it is asked for it, then the hash \
               again over a new connection",
        expects: "the map is not asked for twice",
        alone: false,
        broken_by: &["known-components-are-asked-for", "components-are-asked-of-all"],
        script: Script::Server(|stage| Box::pin(known_hash(stage))),
    },
    Case {
        name: "server/components/nested",
        judges: &["COMP-14"],
        transports: Transport::BOTH,
        does: "reports components in components, 16 levels deep",
        expects: "the report is accepted",
        alone: false,
        broken_by: &["nested-components-are-refused"],
        script: Script::Server(|stage| Box::pin(nested(stage))),
    },
];

const CAPABLE: u64 = mask::REPORTS_STATUS | mask::REPORTS_AVAILABLE_COMPONENTS;

fn asks_for_components(message: &ServerToAgent) -> bool {
    message.flags & REPORT_AVAILABLE_COMPONENTS != 0
}

/// The next message, with these components.
fn with(agent: &mut Agent, components: AvailableComponents) -> AgentToServer {
    AgentToServer { available_components: Some(components), ..agent.message() }
}

async fn any_hash(stage: &mut ServerStage) -> Result<(), Stop> {
    let (mut agent, _) = stage.reported(CAPABLE).await?;
    for hash in [vec![0], vec![0xff, 0, 0xfe], vec![0x80; 1024]] {
        let expected = format!("a reply without an error to a hash of {} bytes", hash.len());
        let components = AvailableComponents { hash: hash.into(), ..Default::default() };
        let report = with(&mut agent, components);
        let heard = super::readable(agent.ask(report).await?)?;
        stage.judge.expect("COMP-05", super::is_good(&heard), expected, super::told(&heard));
    }
    Ok(())
}

async fn known_hash(stage: &mut ServerStage) -> Result<(), Stop> {
    let (mut agent, reply) = stage.reported(CAPABLE).await?;
    let asked = asks_for_components(&reply)
        || agent.hear(stage.pace.quiet(), asks_for_components).await?.is_some();
    let actual = if asked { "asked for the map" } else { "did not ask for the map" };
    stage.judge.note("COMP-08", format!("the server {actual} of an unknown hash"));
    let details = ComponentDetails {
        metadata: vec![attribute("code.namespace", "conformance")],
        ..Default::default()
    };
    // The hash is the one of full reports.
    let hash = agent.full_report().available_components.map(|of| of.hash).unwrap_or_default();
    agent.sequence_num -= 1;
    let components = [("receivers".to_owned(), details)].into();
    let report = with(&mut agent, AvailableComponents { components, hash });
    agent.exchange(report).await?;
    agent.vanish();
    agent.connect().await?;
    let report = agent.full_report();
    let again = agent.provoke(report, asks_for_components).await?;
    let expected = "no demand for a map the server was given before";
    let actual = again.as_ref().map_or("none".to_owned(), super::parts);
    stage.judge.expect("COMP-10", again.is_none(), expected, actual);
    Ok(())
}

async fn nested(stage: &mut ServerStage) -> Result<(), Stop> {
    let (mut agent, _) = stage.reported(CAPABLE).await?;
    let mut details = ComponentDetails::default();
    for level in (0..LEVELS).rev() {
        let sub_component_map = [(format!("component {level}"), details)].into();
        details = ComponentDetails { sub_component_map, ..Default::default() };
    }
    let components = [("outermost".to_owned(), details)].into();
    let hash = Bytes::from_static(b"nested");
    let report = with(&mut agent, AvailableComponents { components, hash });
    let heard = super::readable(agent.ask(report).await?)?;
    let expected = "a reply without an error to 16 levels of components";
    stage.judge.expect("COMP-14", super::is_good(&heard), expected, super::told(&heard));
    Ok(())
}
