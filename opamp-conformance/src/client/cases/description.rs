//! How an agent describes itself.

use opamp_proto::v1::{AgentDescription, KeyValue};

use super::instance_uid::fresh_start;
use crate::case::{Case, Script};
use crate::client::ClientStage;
use crate::judge::Stop;
use crate::report::Transport;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "client/description/attributes",
        judges: &["DESC-01", "DESC-04", "DESC-06", "DESC-07", "DESC-09"],
        transports: Transport::BOTH,
        does: "looks at the description in the first report",
        expects: "the attributes that name a service, and where it runs, as the conventions have them",
        alone: false,
        broken_by: &["attribute-is-of-another-type", "description-is-thin"],
        script: Script::Client(|stage| Box::pin(attributes(stage))),
    },
    Case {
        name: "client/description/collector",
        judges: &["OTEL-01", "OTEL-03", "OTEL-04", "OTEL-07"],
        transports: Transport::BOTH,
        does: "looks at the description in the first report of a Collector",
        expects: "service name, version and instance id, and where it runs",
        alone: false,
        broken_by: &["attribute-is-of-another-type", "description-is-thin"],
        script: Script::Client(|stage| Box::pin(collector(stage))),
    },
    Case {
        name: "client/description/two-agents",
        judges: &["DESC-03", "DESC-08", "OTEL-05"],
        transports: Transport::BOTH,
        does: "starts the client twice at once, each with nothing left of an earlier run",
        expects: "identifying attributes that tell the two agents apart",
        alone: false,
        broken_by: &["uid-is-the-same-everywhere", "description-is-thin"],
        script: Script::Client(|stage| Box::pin(two_agents(stage))),
    },
];

/// Attributes of the conventions that are text.
const TEXT: [&str; 16] = [
    "deployment.environment.name",
    "host.arch",
    "host.id",
    "host.name",
    "host.type",
    "os.description",
    "os.name",
    "os.type",
    "os.version",
    "process.executable.name",
    "process.executable.path",
    "process.runtime.name",
    "service.instance.id",
    "service.name",
    "service.namespace",
    "service.version",
];

async fn described(stage: &ClientStage) -> Result<AgentDescription, Stop> {
    let (_host, _client, first) = stage.meet().await?;
    first.agent_description.ok_or_else(undescribed)
}

fn undescribed() -> Stop {
    Stop::Unreached("no description in the first report".to_owned())
}

/// The value of an attribute where it is text.
fn text<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    let attribute = attributes.iter().find(|attribute| attribute.key == key)?;
    attribute.value.as_ref()?.as_str().filter(|text| !text.is_empty())
}

fn keys(attributes: &[KeyValue]) -> String {
    let keys: Vec<_> = attributes.iter().map(|attribute| attribute.key.as_str()).collect();
    if keys.is_empty() { "no attributes".to_owned() } else { keys.join(", ") }
}

/// Judges rows that each ask for an identifying attribute.
fn judge_identity(stage: &mut ClientStage, rows: &[(&str, &str)], identity: &[KeyValue]) {
    for (row, key) in rows {
        let there = text(identity, key).is_some();
        stage.judge.expect(row, there, format!("the attribute {key}"), keys(identity));
    }
}

/// Judges a row that asks for attributes of the operating system and the host.
fn judge_place(stage: &mut ClientStage, row: &str, description: &AgentDescription) {
    let place = &description.non_identifying_attributes;
    let host = place.iter().any(|attribute| attribute.key.starts_with("host."));
    let there = text(place, "os.type").is_some() && host;
    stage.judge.expect(row, there, "os.type, and attributes of the host", keys(place));
}

async fn attributes(stage: &mut ClientStage) -> Result<(), Stop> {
    let description = described(stage).await?;
    let identity = &description.identifying_attributes;
    let odd = identity.iter().find(|attribute| {
        let value = attribute.value.as_ref();
        let is_text = value.is_some_and(|value| value.as_str().is_some());
        attribute.key.is_empty() || TEXT.contains(&attribute.key.as_str()) && !is_text
    });
    let actual = odd.map_or_else(
        || keys(identity),
        |odd| format!("{:?} is {:?}", odd.key, odd.value.as_ref().and_then(|it| it.value.as_ref())),
    );
    let expected = "keys, and values of the type the conventions give them";
    stage.judge.expect("DESC-01", odd.is_none(), expected, actual);
    // Advice (A24).
    let rows = [
        ("DESC-04", "service.name"),
        ("DESC-06", "service.version"),
        ("DESC-07", "service.instance.id"),
    ];
    judge_identity(stage, &rows, identity);
    judge_place(stage, "DESC-09", &description);
    Ok(())
}

/// Whether the agent is a Collector, by the names that Collectors have.
pub(super) fn is_collector(identity: &[KeyValue]) -> bool {
    let name = text(identity, "service.name").unwrap_or_default();
    name.contains("otelcol") || name.contains("opentelemetry.collector")
}

async fn collector(stage: &mut ClientStage) -> Result<(), Stop> {
    let description = described(stage).await?;
    let identity = &description.identifying_attributes;
    if !is_collector(identity) {
        return Err(Stop::NotApplicable("by its service.name it is no Collector".to_owned()));
    }
    let rows = [
        ("OTEL-01", "service.name"),
        ("OTEL-03", "service.version"),
        ("OTEL-04", "service.instance.id"),
    ];
    judge_identity(stage, &rows, identity);
    judge_place(stage, "OTEL-07", &description);
    Ok(())
}

async fn two_agents(stage: &mut ClientStage) -> Result<(), Stop> {
    let mut hosts = Vec::new();
    let mut clients = Vec::new();
    for _ in 0..2 {
        let host = stage.host().await?;
        let (start, state) = fresh_start(stage, &host)?;
        clients.push((stage.start(start).await?, state));
        hosts.push(host);
    }
    let mut identities = Vec::new();
    for host in &mut hosts {
        let first = host.first(stage.pace.start()).await?;
        let description = first.agent_description.ok_or_else(undescribed)?;
        identities.push(description.identifying_attributes);
    }
    let differ = identities[0] != identities[1];
    if !differ && !stage.subject.takes("state") {
        let why = "the same, but the client cannot be told where to keep its state";
        for row in ["DESC-03", "DESC-08", "OTEL-05"] {
            stage.judge.untestable(row, why);
        }
        return Ok(());
    }
    let actual = if differ { "they differ" } else { "they are the same" };
    for row in ["DESC-03", "DESC-08"] {
        stage.judge.expect(row, differ, "identifying attributes that differ", actual);
    }
    if is_collector(&identities[0]) {
        stage.judge.expect("OTEL-05", differ, "identifying attributes that differ", actual);
    } else {
        stage.judge.not_applicable("OTEL-05", "by its service.name it is no Collector");
    }
    Ok(())
}
