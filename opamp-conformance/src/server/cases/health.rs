//! Health reports: what an agent may say of its health is the agent's choice.

use opamp_proto::v1::any_value::Value as Any;
use opamp_proto::v1::{
    AgentToServer, AnyValue, ArrayValue, ComponentHealth, KeyValue, KeyValueList,
};

use crate::case::{Case, Script};
use crate::judge::Stop;
use crate::mask::agent as mask;
use crate::report::Transport;
use crate::server::ServerStage;

/// How deep a tree has to be taken (A36).
pub(super) const LEVELS: usize = 16;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "server/health/any-status",
        judges: &["HEALTH-05"],
        transports: Transport::BOTH,
        does: "reports health with status texts of all kinds: a sentence, line breaks and emoji, 4 \
               KiB, none",
        expects: "each report is accepted",
        alone: false,
        broken_by: &["health-status-has-to-be-ascii"],
        script: Script::Server(|stage| Box::pin(any_status(stage))),
    },
    Case {
        name: "server/health/nested-components",
        judges: &["HEALTH-07"],
        transports: Transport::BOTH,
        does: "reports the health of components in components, 16 levels deep; has the hook show it, \
               if there is one",
        expects: "the report is accepted, and the innermost component is shown",
        alone: false,
        broken_by: &[
            "nested-health-is-refused",
            "nested-health-is-cut-off",
            "health-is-not-kept",
            "nesting-is-refused",
        ],
        script: Script::Server(|stage| Box::pin(nested_components(stage))),
    },
    Case {
        name: "server/health/any-attributes",
        judges: &["HEALTH-08"],
        transports: Transport::BOTH,
        does: "reports health with attributes of every kind a value can be of",
        expects: "the report is accepted",
        alone: false,
        broken_by: &["health-attributes-have-to-be-text"],
        script: Script::Server(|stage| Box::pin(any_attributes(stage))),
    },
];

fn running() -> ComponentHealth {
    ComponentHealth {
        healthy: true,
        start_time_unix_nano: 1_700_000_000_000_000_000,
        status_time_unix_nano: 1_700_000_000_000_000_000,
        ..Default::default()
    }
}

async fn any_status(stage: &mut ServerStage) -> Result<(), Stop> {
    let (mut agent, _) = stage.reported(mask::REPORTS_STATUS | mask::REPORTS_HEALTH).await?;
    let texts = ["StatusPermanentError", "a b: \u{1f980}\r\n\t{}", &"x".repeat(4096), ""];
    for status in texts {
        let health = Some(ComponentHealth { status: status.to_owned(), ..running() });
        let report = AgentToServer { health, ..agent.message() };
        let heard = super::readable(agent.ask(report).await?)?;
        let start: String = status.chars().take(20).collect();
        let expected = format!("a reply without an error to the status {start:?}");
        stage.judge.expect("HEALTH-05", super::is_good(&heard), expected, super::told(&heard));
    }
    Ok(())
}

async fn nested_components(stage: &mut ServerStage) -> Result<(), Stop> {
    let (mut agent, _) = stage.reported(mask::REPORTS_STATUS | mask::REPORTS_HEALTH).await?;
    let innermost = format!("conformance innermost {}", agent.uid_text());
    let mut health = ComponentHealth { status: innermost.clone(), ..running() };
    for level in (0..LEVELS).rev() {
        let name = format!("component {level}");
        health = ComponentHealth { component_health_map: [(name, health)].into(), ..running() };
    }
    let report = AgentToServer { health: Some(health), ..agent.message() };
    let heard = super::readable(agent.ask(report).await?)?;
    let expected = "a reply without an error to 16 levels of components";
    if !stage.judge.expect("HEALTH-07", super::is_good(&heard), expected, super::told(&heard)) {
        return Ok(());
    }
    let shown = super::reporting::not_shown(stage, &agent.uid, &[("health", innermost)]).await?;
    let expected = "the innermost component is kept";
    let actual = if shown.is_empty() { "it is shown" } else { "it is not shown" };
    stage.judge.expect("HEALTH-07", shown.is_empty(), expected, actual);
    Ok(())
}

async fn any_attributes(stage: &mut ServerStage) -> Result<(), Stop> {
    let (mut agent, _) = stage.reported(mask::REPORTS_STATUS | mask::REPORTS_HEALTH).await?;
    let value = |value: Any| AnyValue { value: Some(value) };
    let attribute = |key: &str, value| KeyValue { key: key.to_owned(), value: Some(value) };
    let nested = AnyValue { value: None };
    let nested = value(Any::ArrayValue(ArrayValue { values: vec![nested] }));
    let nested = KeyValueList { values: vec![attribute("in a list", nested)] };
    let attributes = vec![
        attribute("text", value(Any::StringValue("\u{1f980}".to_owned()))),
        attribute("bool", value(Any::BoolValue(true))),
        attribute("int", value(Any::IntValue(i64::MIN))),
        attribute("double", value(Any::DoubleValue(f64::NEG_INFINITY))),
        attribute("bytes", value(Any::BytesValue(b"\xff\0".as_slice().into()))),
        attribute("nested", value(Any::KvlistValue(nested))),
        attribute("empty", AnyValue { value: None }),
        KeyValue { key: "unset".to_owned(), value: None },
    ];
    let health = Some(ComponentHealth { attributes, ..running() });
    let report = AgentToServer { health, ..agent.message() };
    let heard = super::readable(agent.ask(report).await?)?;
    let expected = "a reply without an error to attributes of every kind";
    stage.judge.expect("HEALTH-08", super::is_good(&heard), expected, super::told(&heard));
    Ok(())
}
