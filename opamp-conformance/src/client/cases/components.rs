//! The components an agent has.

use opamp_proto::v1::{AgentToServer, AvailableComponents, ComponentDetails, ServerToAgent};

use super::common::due;
use super::instance_uid::fresh_start;
use crate::case::{Case, Script};
use crate::client::ClientStage;
use crate::judge::Stop;
use crate::mask::agent::REPORTS_AVAILABLE_COMPONENTS;
use crate::mask::flag::REPORT_AVAILABLE_COMPONENTS;
use crate::report::Transport;
use crate::wire::hex;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "client/components/first",
        judges: &["COMP-01", "COMP-04", "COMP-07"],
        transports: Transport::BOTH,
        does: "hears the first report of a client that announces the capability",
        expects: "the hash of the components, and not the components themselves",
        alone: false,
        broken_by: &[
            "reports-less-over-http",
            "components-are-only-promised",
            "components-come-at-once",
            "components-have-no-hash",
            "first-report-is-empty",
        ],
        script: Script::Client(|stage| Box::pin(first(stage))),
    },
    Case {
        name: "client/components/asked",
        judges: &["COMP-03", "COMP-04", "COMP-09", "COMP-13"],
        transports: Transport::BOTH,
        does: "asks for the components once",
        expects: "the hash and the components, once",
        alone: false,
        broken_by: &[
            "reports-less-over-http",
            "component-metadata-has-no-key",
            "components-are-not-sent",
            "components-come-again",
            "components-have-no-hash",
        ],
        script: Script::Client(|stage| Box::pin(asked(stage))),
    },
    Case {
        name: "client/components/same",
        judges: &["COMP-06"],
        transports: Transport::BOTH,
        does: "starts the client twice, each with nothing left of an earlier run",
        expects: "the same hash of components from both",
        alone: false,
        broken_by: &["components-hash-is-random"],
        script: Script::Client(|stage| Box::pin(same(stage))),
    },
];

fn shown(components: Option<&AvailableComponents>) -> String {
    components.map_or_else(
        || "no available_components".to_owned(),
        |it| format!("hash {:?} and {} components", hex(&it.hash), it.components.len()),
    )
}

async fn first(stage: &mut ClientStage) -> Result<(), Stop> {
    let (_host, _client, first) = stage.meet().await?;
    stage.requires(&first, REPORTS_AVAILABLE_COMPONENTS)?;
    let components = first.available_components.as_ref();
    let actual = shown(components);
    let there = components.is_some();
    stage.judge.expect("COMP-01", there, "available_components", actual.clone());
    if let Some(components) = components {
        let has_hash = !components.hash.is_empty();
        stage.judge.expect("COMP-04", has_hash, "a hash", actual.clone());
    }
    let only_hash = components
        .is_some_and(|components| !components.hash.is_empty() && components.components.is_empty());
    stage.judge.expect("COMP-07", only_hash, "a hash and nothing else", actual);
    Ok(())
}

async fn asked(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, first) = stage.meet().await?;
    stage.requires(&first, REPORTS_AVAILABLE_COMPONENTS)?;
    let has_map = |message: &AgentToServer| {
        message.available_components.as_ref().is_some_and(|it| !it.components.is_empty())
    };
    host.send(ServerToAgent { flags: REPORT_AVAILABLE_COMPONENTS, ..host.message() }).await?;
    let told = host.hear(due(stage), has_map).await;
    let components = told.as_ref().and_then(|message| message.available_components.as_ref());
    if !stage.judge.expect("COMP-09", told.is_some(), "the components", shown(components)) {
        return Ok(());
    }
    if let Some(components) = components {
        let has_hash = !components.hash.is_empty();
        stage.judge.expect("COMP-04", has_hash, "a hash with them", shown(Some(components)));
        let named = components.components.values().all(|details| has_keys(details, MAX_DEPTH));
        let actual = if named { "each has one" } else { "one is empty" };
        stage.judge.expect("COMP-13", named, "a key for all metadata", actual);
    }
    let more = host.collect(stage.pace.quiet() + stage.heartbeat()).await;
    let again = more.iter().filter(|message| has_map(message)).count();
    stage.judge.expect("COMP-03", again == 0, "may be left out now", format!("{again} more"));
    Ok(())
}

/// How deep components are looked at (A36).
const MAX_DEPTH: usize = 16;

/// Metadata without a key follows no convention; which others do is not for a tester to say.
fn has_keys(details: &ComponentDetails, depth: usize) -> bool {
    details.metadata.iter().all(|attribute| !attribute.key.is_empty())
        && (depth == 0
            || details.sub_component_map.values().all(|inner| has_keys(inner, depth - 1)))
}

async fn same(stage: &mut ClientStage) -> Result<(), Stop> {
    let mut hashes = Vec::new();
    for _ in 0..2 {
        let mut host = stage.host().await?;
        let (start, _state) = fresh_start(stage, &host)?;
        let _client = stage.start(start).await?;
        let first = host.first(stage.pace.start()).await?;
        stage.requires(&first, REPORTS_AVAILABLE_COMPONENTS)?;
        let hash = first.available_components.map(|components| components.hash);
        let none = || Stop::Unreached("no available_components in the first report".to_owned());
        hashes.push(hash.ok_or_else(none)?);
    }
    let actual = hashes.iter().map(|hash| hex(hash)).collect::<Vec<_>>().join(" and ");
    stage.judge.expect("COMP-06", hashes[0] == hashes[1], "the same hash twice", actual);
    Ok(())
}
