//! Status reports: each is answered, and what it tells is kept, also when later ones leave it out.

use bytes::Bytes;
use opamp_proto::v1::{
    AgentDescription, AgentToServer, ComponentHealth, PackageStatuses, RemoteConfigStatus,
    RemoteConfigStatuses,
};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::case::{Case, Script};
use crate::judge::Stop;
use crate::mask::{agent as mask, server};
use crate::report::Transport;
use crate::server::agent::effective;
use crate::server::offer::CONFIGURABLE;
use crate::server::{Agent, Heard, ServerStage};
use crate::wire::attribute;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "server/reporting/every-message-is-answered",
        judges: &["STATUS-07"],
        transports: Transport::BOTH,
        does: "reports in full, sends heartbeats and changes of health, each after the last reply",
        expects: "a reply to each",
        alone: false,
        broken_by: &["heartbeats-are-not-answered"],
        script: Script::Server(|stage| Box::pin(every_message_is_answered(stage))),
    },
    Case {
        name: "server/reporting/acknowledgement",
        judges: &["STATUS-08"],
        transports: Transport::BOTH,
        does: "sends messages without news as an agent that takes no offers",
        expects: "a reply with instance_uid, and neither offers nor a command, flags or an error",
        alone: false,
        broken_by: &["components-are-asked-of-all", "full-reports-are-asked-for-always"],
        script: Script::Server(|stage| Box::pin(acknowledgement(stage))),
    },
    Case {
        name: "server/reporting/while-applying",
        judges: &["STATUS-12"],
        transports: Transport::BOTH,
        does: "reports a configuration as APPLYING, then as APPLIED",
        expects: "a reply to each",
        alone: false,
        broken_by: &["progress-is-not-answered"],
        script: Script::Server(|stage| Box::pin(while_applying(stage))),
    },
    Case {
        name: "server/reporting/contents-are-kept",
        judges: &["STATUS-06"],
        transports: Transport::BOTH,
        does: "reports description, health and what else the server accepts; has the hook show it",
        expects: "what was reported is shown",
        alone: false,
        broken_by: &[
            "health-is-not-kept",
            "unhealthy-agents-are-refused",
            "omitted-parts-are-deleted",
            "omitted-status-is-forgotten",
        ],
        script: Script::Server(|stage| Box::pin(contents_are_kept(stage))),
    },
    Case {
        name: "server/reporting/omitted-parts-stay",
        judges: &["DELTA-03"],
        transports: Transport::BOTH,
        does: "reports all kinds of content, then sends a message with none of it; has the hook show \
               what the server knows before and after",
        expects: "nothing is gone",
        alone: false,
        broken_by: &["omitted-parts-are-deleted"],
        script: Script::Server(|stage| Box::pin(omitted_parts_stay(stage))),
    },
];

async fn every_message_is_answered(stage: &mut ServerStage) -> Result<(), Stop> {
    let (mut agent, _) = stage.reported(mask::REPORTS_STATUS | mask::REPORTS_HEALTH).await?;
    let health = |healthy| {
        Some(ComponentHealth {
            healthy,
            start_time_unix_nano: 1_700_000_000_000_000_000,
            status_time_unix_nano: 1_700_000_000_000_000_000,
            ..Default::default()
        })
    };
    for round in 0..6 {
        let (what, message) = match round {
            0 => ("a full report", agent.full_report()),
            3 => ("a change of health", AgentToServer { health: health(true), ..agent.message() }),
            _ => ("a message without news", agent.message()),
        };
        let heard = super::readable(agent.ask(message).await?)?;
        let answered = matches!(&heard, Heard::Message(_));
        let actual = format!("{} in reply to {what}", super::told(&heard));
        if !stage.judge.expect("STATUS-07", answered, format!("a reply to {what}"), actual) {
            break;
        }
    }
    Ok(())
}

async fn acknowledgement(stage: &mut ServerStage) -> Result<(), Stop> {
    let (mut agent, mut reply) =
        stage.reported(mask::REPORTS_STATUS | mask::REPORTS_HEALTH).await?;
    // A server may ask for a full report at any time, but not for ever.
    for _ in 0..3 {
        let message =
            if super::asks_for_all(&reply) { agent.full_report() } else { agent.message() };
        reply = agent.exchange(message).await?;
    }
    // The masks may come with any message (A07).
    let bare = reply.error_response.is_none()
        && reply.flags == 0
        && reply.remote_config.is_none()
        && reply.connection_settings.is_none()
        && reply.packages_available.is_none()
        && reply.agent_identification.is_none()
        && reply.command.is_none()
        && reply.custom_message.is_none();
    let expected = "a reply with nothing to act on";
    stage.judge.expect("STATUS-08", bare, expected, super::parts(&reply));
    Ok(())
}

async fn while_applying(stage: &mut ServerStage) -> Result<(), Stop> {
    let (mut agent, reply) = stage.reported(CONFIGURABLE).await?;
    // The configuration may be one that another server offered before.
    let hash = match reply.remote_config {
        Some(config) => config.config_hash,
        None => Bytes::from_static(b"conformance"),
    };
    for status in [RemoteConfigStatuses::Applying, RemoteConfigStatuses::Applied] {
        let report = agent.config_status(&hash, status);
        let heard = super::readable(agent.ask(report).await?)?;
        let answered = matches!(&heard, Heard::Message(_));
        let expected = format!("a reply to {status:?}");
        stage.judge.expect("STATUS-12", answered, expected, super::told(&heard));
    }
    Ok(())
}

/// An agent that reported something to recognise in every part the server accepts, and what.
async fn told_all(stage: &mut ServerStage) -> Result<(Agent, Vec<(&'static str, String)>), Stop> {
    let capabilities = CONFIGURABLE
        | mask::REPORTS_HEALTH
        | mask::ACCEPTS_PACKAGES
        | mask::REPORTS_PACKAGE_STATUSES;
    let (mut agent, reply) = stage.reported(capabilities).await?;
    let lacks = |bit| stage.requires(&reply, bit).is_err();
    let name = agent.uid_text();
    let mut marks = Vec::new();
    let mut mark = |part: &'static str| {
        let text = format!("conformance {part} {name}");
        marks.push((part, text.clone()));
        text
    };
    let report = AgentToServer {
        agent_description: Some(AgentDescription {
            identifying_attributes: vec![
                attribute("service.name", "conformance"),
                attribute("service.instance.id", &name),
            ],
            non_identifying_attributes: vec![attribute("note", &mark("agent_description"))],
        }),
        ..agent.message()
    };
    agent.exchange(report).await?;
    let last_error = mark("health");
    let health = Some(ComponentHealth { last_error, ..Default::default() });
    let report = AgentToServer { health, ..agent.message() };
    agent.exchange(report).await?;
    if !lacks(server::ACCEPTS_EFFECTIVE_CONFIG) {
        let effective_config = Some(effective(&mark("effective_config")));
        let report = AgentToServer { effective_config, ..agent.message() };
        agent.exchange(report).await?;
    }
    if !lacks(server::OFFERS_REMOTE_CONFIG) {
        let remote_config_status = Some(RemoteConfigStatus {
            last_remote_config_hash: Bytes::from_static(b"conformance"),
            status: RemoteConfigStatuses::Failed.into(),
            error_message: mark("remote_config_status"),
        });
        let report = AgentToServer { remote_config_status, ..agent.message() };
        agent.exchange(report).await?;
    }
    if !lacks(server::ACCEPTS_PACKAGES_STATUS) {
        let error_message = mark("package_statuses");
        let package_statuses = Some(PackageStatuses { error_message, ..Default::default() });
        let report = AgentToServer { package_statuses, ..agent.message() };
        agent.exchange(report).await?;
    }
    Ok((agent, marks))
}

/// The parts whose text is not shown, asked for until all are or the time of a reply is over.
pub(super) async fn not_shown(
    stage: &mut ServerStage,
    uid: &[u8],
    marks: &[(&'static str, String)],
) -> Result<Vec<&'static str>, Stop> {
    let until = Instant::now() + stage.pace.reply();
    loop {
        let shown = stage.shown(uid).await?;
        let missing: Vec<_> = marks
            .iter()
            .filter(|(_, text)| !mentions(&shown, text))
            .map(|(part, _)| *part)
            .collect();
        if missing.is_empty() || Instant::now() >= until {
            return Ok(missing);
        }
        sleep(stage.pace.poll()).await;
    }
}

/// Whether a text is somewhere in there.
pub(super) fn mentions(value: &Value, text: &str) -> bool {
    match value {
        Value::String(string) => string.contains(text),
        Value::Array(values) => values.iter().any(|value| mentions(value, text)),
        Value::Object(members) => {
            members.iter().any(|(name, value)| name.contains(text) || mentions(value, text))
        }
        _ => false,
    }
}

async fn contents_are_kept(stage: &mut ServerStage) -> Result<(), Stop> {
    let (agent, marks) = told_all(stage).await?;
    let missing = not_shown(stage, &agent.uid.clone(), &marks).await?;
    let expected = "everything that was reported is shown";
    let actual = format!("of {} parts not shown: {missing:?}", marks.len());
    stage.judge.expect("STATUS-06", missing.is_empty(), expected, actual);
    Ok(())
}

async fn omitted_parts_stay(stage: &mut ServerStage) -> Result<(), Stop> {
    let (mut agent, mut marks) = told_all(stage).await?;
    let never = not_shown(stage, &agent.uid.clone(), &marks).await?;
    marks.retain(|(part, _)| !never.contains(part));
    if marks.is_empty() {
        return Err(Stop::Unreached("the hook shows nothing of what was reported".to_owned()));
    }
    let message = agent.message();
    agent.exchange(message).await?;
    let gone = not_shown(stage, &agent.uid.clone(), &marks).await?;
    let expected = "everything is shown as before";
    let actual = format!("gone after a message without them: {gone:?}");
    stage.judge.expect("DELTA-03", gone.is_empty(), expected, actual);
    Ok(())
}
