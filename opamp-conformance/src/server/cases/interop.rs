//! Getting along with agents of other abilities and of other versions.

use std::collections::BTreeMap;

use opamp_proto::v1::{
    AgentToServer, ConnectionSettingsStatus, PackageStatus, PackageStatuses, RemoteConfigStatus,
};
use prost::Message as _;
use serde_json::json;
use tokio::time::Instant;

use crate::case::{Case, Script};
use crate::hook::{Action, File};
use crate::judge::Stop;
use crate::mask::agent as mask;
use crate::mask::{flag, names, server};
use crate::report::Transport;
use crate::server::{Agent, Heard, ServerStage};
use crate::wire::encode;

/// A value no enum of the schema has.
const UNDEFINED: i32 = 77;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "server/interop/minimal-agent",
        judges: &["INTEROP-01", "INTEROP-02", "INTEROP-03"],
        transports: Transport::BOTH,
        does: "plays an agent with no capability but ReportsStatus, and has everything offered to it \
               that hooks can offer",
        expects: "the server says what it can do, answers every message, and offers nothing",
        alone: false,
        broken_by: &[
            "minimal-agents-are-told-no-mask",
            "minimal-agents-get-errors",
            "configurations-are-offered-to-all",
            "metrics-settings-are-offered-to-all",
            "packages-are-offered-to-all",
            "accepts-status-is-missing",
            "capabilities-are-missing",
            "components-are-asked-of-all",
            "heartbeats-are-not-answered",
            "restart-is-sent-to-all",
        ],
        script: Script::Server(|stage| Box::pin(minimal_agent(stage))),
    },
    Case {
        name: "server/interop/offers-as-announced",
        judges: &["INTEROP-05"],
        transports: Transport::BOTH,
        does: "has a configuration offered, whatever the server's mask says",
        expects: "it is offered only if the mask has the bit for it",
        alone: false,
        broken_by: &["mask-hides-configurations", "capabilities-are-missing"],
        script: Script::Server(|stage| Box::pin(offers_as_announced(stage))),
    },
    Case {
        name: "server/interop/unknown-fields",
        judges: &["INTEROP-06"],
        transports: Transport::BOTH,
        does: "reports with fields that the schema does not have, outside and inside other fields",
        expects: "the report is answered as if they were not there",
        alone: false,
        broken_by: &["unknown-fields-are-refused"],
        script: Script::Server(|stage| Box::pin(unknown_fields(stage))),
    },
    Case {
        name: "server/interop/unknown-values",
        judges: &["INTEROP-11"],
        transports: Transport::BOTH,
        does: "reports with values of enums and bits of masks that the schema does not have",
        expects: "the server answers, keeps the connection, and answers the next report",
        alone: false,
        broken_by: &["unknown-values-close", "heartbeats-are-not-answered"],
        script: Script::Server(|stage| Box::pin(unknown_values(stage))),
    },
];

async fn minimal_agent(stage: &mut ServerStage) -> Result<(), Stop> {
    let mut agent = stage.connected(mask::REPORTS_STATUS).await?;
    let report = agent.full_report();
    let reply = agent.exchange(report).await?;
    let actual = format!("capabilities {:?}", names("ServerCapabilities", reply.capabilities));
    let holds = reply.error_response.is_none();
    stage.judge.expect("INTEROP-01", holds, "a reply without error", format!("{reply:?}"));
    if holds {
        let says = reply.capabilities & server::ACCEPTS_STATUS != 0;
        stage.judge.expect("INTEROP-02", says, "at least AcceptsStatus in the first reply", actual);
    }
    offers_nothing(stage, &Heard::Message(Box::new(reply)));
    for _ in 0..3 {
        let message = agent.message();
        let heard = agent.ask(message).await?;
        let holds = heard.good().is_some();
        stage.judge.expect("INTEROP-01", holds, "a reply without error", heard.to_string());
        offers_nothing(stage, &heard);
    }
    let instance_uid = agent.uid_text();
    let file = File { body: "YTogMQo=".to_owned(), content_type: String::new() };
    let endpoint = json!({"destination_endpoint": "https://127.0.0.1:9/v1/metrics"});
    let package = json!({"type": "TopLevel", "version": "1", "content": "YQ=="});
    let actions = [
        Action::OfferConfig {
            instance_uid: instance_uid.clone(),
            files: BTreeMap::from([("a".to_owned(), file)]),
        },
        Action::OfferPackages {
            instance_uid: instance_uid.clone(),
            packages: json!({"packages": {"p": package}}),
        },
        Action::OfferConnectionSettings {
            instance_uid: instance_uid.clone(),
            settings: json!({"own_metrics": endpoint}),
        },
        Action::RestartAgent { instance_uid },
    ];
    let mut is_asked = false;
    for action in actions {
        // A server that refuses to offer it at all does well.
        is_asked |= stage.try_hook(action).await.is_ok();
    }
    let until = Instant::now() + stage.pace.quiet();
    while is_asked && Instant::now() < until {
        let heard = next(stage, &mut agent, until).await?;
        if matches!(heard, Heard::Closed(..)) {
            stage.judge.expect("INTEROP-01", false, "the session goes on", heard.to_string());
            break;
        }
        offers_nothing(stage, &heard);
    }
    Ok(())
}

/// What comes next: over HTTP in answer to a poll.
async fn next(stage: &ServerStage, agent: &mut Agent, until: Instant) -> Result<Heard, Stop> {
    if stage.transport == Transport::WebSocket {
        return Ok(agent.next(until.saturating_duration_since(Instant::now())).await);
    }
    tokio::time::sleep(stage.pace.poll()).await;
    let poll = agent.message();
    agent.ask(poll).await
}

fn offers_nothing(stage: &mut ServerStage, heard: &Heard) {
    let Some(message) = heard.good() else { return };
    let offered = [
        ("remote_config", message.remote_config.is_some()),
        ("packages_available", message.packages_available.is_some()),
        ("connection_settings", message.connection_settings.is_some()),
        ("command", message.command.is_some()),
        ("the flag for components", message.flags & flag::REPORT_AVAILABLE_COMPONENTS != 0),
    ];
    let offered: Vec<_> =
        offered.into_iter().filter(|(_, is_set)| *is_set).map(|(name, _)| name).collect();
    let actual = if offered.is_empty() { "none of it".to_owned() } else { offered.join(", ") };
    let expected = "no offer, command or flag that the agent's mask does not allow";
    stage.judge.expect("INTEROP-03", offered.is_empty(), expected, actual);
}

async fn offers_as_announced(stage: &mut ServerStage) -> Result<(), Stop> {
    let bits = mask::REPORTS_STATUS | mask::ACCEPTS_REMOTE_CONFIG | mask::REPORTS_REMOTE_CONFIG;
    let (mut agent, first) = stage.reported(bits).await?;
    let file = File { body: "YTogMQo=".to_owned(), content_type: String::new() };
    let files = BTreeMap::from([("a".to_owned(), file)]);
    let action = Action::OfferConfig { instance_uid: agent.uid_text(), files };
    let is_asked = stage.try_hook(action).await?;
    let within = if is_asked.is_ok() { stage.pace.reply() } else { stage.pace.quiet() };
    let offer = agent.hear(within, |message| message.remote_config.is_some()).await?;
    let announces = first.capabilities & server::OFFERS_REMOTE_CONFIG != 0;
    let offer = if offer.is_some() { "an offer" } else { "no offer" };
    let actual = format!("capabilities {:#x} and {offer}", first.capabilities);
    let holds = announces || offer == "no offer";
    stage.judge.expect("INTEROP-05", holds, "no offer without OffersRemoteConfig", actual);
    Ok(())
}

async fn unknown_fields(stage: &mut ServerStage) -> Result<(), Stop> {
    let mut agent = stage.connected(mask::REPORTS_STATUS).await?;
    let unknown = [
        encode::number(2_000, 1),
        encode::fixed64(2_001, 2),
        encode::bytes(2_002, b"of a later version"),
        encode::fixed32(2_003, 3),
    ]
    .concat();
    let mut report = agent.full_report();
    let description = report.agent_description.take().unwrap_or_default().encode_to_vec();
    let message = [
        unknown.clone(),
        report.encode_to_vec(),
        encode::bytes(3, &[description, unknown.clone()].concat()),
        unknown,
    ]
    .concat();
    let heard = agent.ask_bytes(message.into()).await?;
    let holds = heard.good().is_some();
    stage.judge.expect("INTEROP-06", holds, "a reply without error", heard.to_string());
    Ok(())
}

async fn unknown_values(stage: &mut ServerStage) -> Result<(), Stop> {
    let bits = mask::REPORTS_STATUS
        | mask::REPORTS_REMOTE_CONFIG
        | mask::REPORTS_PACKAGE_STATUSES
        | mask::REPORTS_CONNECTION_SETTINGS_STATUS;
    let (mut agent, _) = stage.reported(bits).await?;
    let hash = agent.uid.clone();
    let package = PackageStatus { name: "p".to_owned(), status: UNDEFINED, ..Default::default() };
    let reports = [
        AgentToServer {
            remote_config_status: Some(RemoteConfigStatus {
                last_remote_config_hash: hash.clone(),
                status: UNDEFINED,
                ..Default::default()
            }),
            ..agent.message()
        },
        AgentToServer {
            package_statuses: Some(PackageStatuses {
                packages: BTreeMap::from([("p".to_owned(), package)]),
                ..Default::default()
            }),
            ..agent.message()
        },
        AgentToServer {
            connection_settings_status: Some(ConnectionSettingsStatus {
                last_connection_settings_hash: hash,
                status: UNDEFINED,
                ..Default::default()
            }),
            ..agent.message()
        },
        AgentToServer {
            capabilities: agent.capabilities | 1 << 40,
            flags: 1 << 40,
            ..agent.message()
        },
        agent.message(),
    ];
    for report in reports {
        let heard = agent.ask(report).await?;
        let holds = matches!(heard, Heard::Message(_));
        stage.judge.expect("INTEROP-11", holds, "a reply", heard.to_string());
        if !holds {
            break;
        }
    }
    Ok(())
}
