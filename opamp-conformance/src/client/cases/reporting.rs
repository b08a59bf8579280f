//! Status reports: the first one, what a change causes, and what causes none.

use std::collections::BTreeMap;

use opamp_proto::v1::{AgentToServer, KeyValue, ServerToAgent};
use tokio::time::{Duration, Instant};

use super::common::due;
use super::config::Offer;
use crate::case::{Case, Script};
use crate::client::reported::{Part, Reported, is_bare, names, parts};
use crate::client::{ClientStage, Heard, Host, Running};
use crate::hook::Action;
use crate::judge::Stop;
use crate::mask::agent::{
    ACCEPTS_REMOTE_CONFIG, REPORTS_AVAILABLE_COMPONENTS, REPORTS_REMOTE_CONFIG,
};
use crate::mask::flag::{REPORT_AVAILABLE_COMPONENTS, REPORT_FULL_STATE};
use crate::report::Transport;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "client/reporting/first",
        judges: &["CAP-07", "STATUS-01", "STATUS-02", "STATUS-05"],
        transports: Transport::BOTH,
        does: "lets the client connect, and says nothing",
        expects: "a report of the agent's status as the first message, at once",
        alone: false,
        broken_by: &[
            "waits-for-the-server-to-speak",
            "first-report-is-late",
            "first-report-is-empty",
        ],
        script: Script::Client(|stage| Box::pin(first(stage))),
    },
    Case {
        name: "client/reporting/changes",
        judges: &["DELTA-01", "DELTA-02", "STATUS-04"],
        transports: Transport::BOTH,
        does: "changes the description, the health and the configuration by hooks",
        expects: "each change is reported whole, and alone where the rest is as before",
        alone: false,
        broken_by: &[
            "change-is-not-told",
            "changed-attribute-is-sent-alone",
            "effective-config-is-that-of-the-start",
            "report-is-always-full",
            "server-mask-of-zero-counts",
        ],
        script: Script::Client(|stage| Box::pin(changes(stage))),
    },
    Case {
        name: "client/reporting/nothing-new",
        judges: &["STATUS-14", "STATUS-15"],
        transports: Transport::BOTH,
        does: "sends messages with nothing in them",
        expects: "no report in return",
        alone: false,
        broken_by: &["every-message-causes-a-report", "full-state-is-repeated"],
        script: Script::Client(|stage| Box::pin(nothing_new(stage))),
    },
    Case {
        name: "client/reporting/several-fields",
        judges: &["STATUS-10"],
        transports: Transport::BOTH,
        does: "offers a configuration and asks for a full report and for the components in one \
               message",
        expects: "each has its effect, as far as the client has the capability",
        alone: false,
        broken_by: &[
            "components-are-not-sent",
            "config-is-not-answered",
            "full-state-flag-is-ignored",
            "only-one-field-is-processed",
            "reports-less-over-http",
        ],
        script: Script::Client(|stage| Box::pin(several_fields(stage))),
    },
];

async fn first(stage: &mut ClientStage) -> Result<(), Stop> {
    let mut host = stage.host().await?;
    let mut client = stage.start(stage.start_for(&host)).await?;
    let until = Instant::now() + stage.pace.start();
    // The time runs from the connection, not from the start of the program.
    while host.endpoint.attempts().is_empty() && Instant::now() < until {
        if let Heard::Message(message) = host.next(stage.pace.poll()).await {
            return judge_first(stage, &host, Some(&message));
        }
    }
    if host.endpoint.attempts().is_empty() {
        return Err(match client.ended() {
            Some(how) => Stop::Harness(format!("the client's program {how}")),
            None => Stop::Unreached("the client does not connect".to_owned()),
        });
    }
    let message = match host.next(stage.pace.start().max(stage.heartbeat())).await {
        Heard::Message(message) => Some(message),
        _ => None,
    };
    judge_first(stage, &host, message.as_deref())
}

fn judge_first(
    stage: &mut ClientStage,
    host: &Host,
    message: Option<&AgentToServer>,
) -> Result<(), Stop> {
    let after = host.endpoint.attempts().first().map(Instant::elapsed).unwrap_or_default();
    let Some(message) = message else {
        if !host.is_connected() {
            return Err(Stop::Unreached("the client does not get as far as a message".to_owned()));
        }
        let actual = format!("no message in {:.1} s", after.as_secs_f64());
        stage.judge.expect("STATUS-01", false, "a report without being asked", actual);
        return Ok(());
    };
    let prompt = after <= stage.pace.reply();
    let reports = parts(message);
    let seen = names(&reports);
    let actual = format!("{seen} after {:.1} s", after.as_secs_f64());
    stage.judge.expect("STATUS-01", prompt, "a report at once", actual.clone());
    // Of the eight parts a report may have, the older ones count; none of them alone has to.
    let tells = reports.iter().any(|part| *part != Part::CustomCapabilities);
    for row in ["CAP-07", "STATUS-02", "STATUS-05"] {
        stage.judge.expect(row, tells, "the agent's status in the first message", actual.clone());
    }
    Ok(())
}

/// The changes that hooks can make, and which part tells of each.
fn actions() -> [(Action, Part); 3] {
    let attributes = BTreeMap::from([(PROBE.to_owned(), "changed".to_owned())]);
    let last_error = "an error made for a test".to_owned();
    [
        (Action::SetDescription { attributes }, Part::AgentDescription),
        (Action::SetHealth { healthy: false, last_error }, Part::Health),
        (
            Action::SetEffectiveConfig { body: "greeting: changed\n".to_owned() },
            Part::EffectiveConfig,
        ),
    ]
}

const PROBE: &str = "conformance.probe";

async fn changes(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, mut client, first) = stage.meet().await?;
    let mut reported = Reported::from_first(&first);
    let mut missing = None;
    let mut seen = false;
    for (action, part) in actions() {
        if !part.is_in(&first) {
            continue;
        }
        for message in host.collect(stage.pace.of(0.3)).await {
            reported.take(&message);
        }
        let client: &mut dyn Running = client.as_mut();
        match stage.hook(client, action).await {
            Err(Stop::Missing(what)) => {
                missing = Some(Stop::Missing(what));
                continue;
            }
            other => other?,
        };
        seen = true;
        let mut heard = Vec::new();
        let told = host
            .hear(due(stage), |message| {
                heard.push(message.clone());
                reported.is_news(part, message)
            })
            .await;
        let actual = if told.is_some() { "it was" } else { "it was not" };
        let expected = format!("{} to be reported", part.name());
        stage.judge.expect("STATUS-04", told.is_some(), expected, actual);
        let mut repeated = Vec::new();
        for message in &heard {
            repeated.extend(reported.take(message));
        }
        let expected = "what is as before may be left out";
        stage.judge.expect("DELTA-01", repeated.is_empty(), expected, names(&repeated));
        if part == Part::AgentDescription
            && let Some(told) = told
        {
            judge_whole(stage, &first, &told);
        }
    }
    match (seen, missing) {
        (false, Some(missing)) => Err(missing),
        _ => Ok(()),
    }
}

/// Whether a changed description still has what did not change.
fn judge_whole(stage: &mut ClientStage, first: &AgentToServer, told: &AgentToServer) {
    fn attributes(message: &AgentToServer) -> Vec<&KeyValue> {
        let description = message.agent_description.as_ref();
        let lists = description.map(|description| {
            let identifying = description.identifying_attributes.iter();
            identifying.chain(&description.non_identifying_attributes).collect()
        });
        lists.unwrap_or_default()
    }
    let now = attributes(told);
    let lost: Vec<_> = attributes(first)
        .into_iter()
        .filter(|before| !now.iter().any(|attribute| attribute.key == before.key))
        .map(|attribute| attribute.key.as_str())
        .collect();
    let actual = match lost.as_slice() {
        [] => "all attributes are there".to_owned(),
        lost => format!("without {}", lost.join(", ")),
    };
    stage.judge.expect("DELTA-02", lost.is_empty(), "the whole description", actual);
}

/// In which a reaction would come, and the next heartbeat not yet.
fn before_heartbeat(stage: &ClientStage) -> Duration {
    stage.pace.quiet().min(stage.heartbeat() / 2)
}

async fn nothing_new(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, first) = stage.meet().await?;
    let mut reported = Reported::from_first(&first);
    // An agent that has just started may have more to tell.
    for message in host.collect(stage.pace.quiet()).await {
        reported.take(&message);
    }
    // One without heartbeats says nothing here, over a WebSocket.
    if let Heard::Message(message) = host.next(due(stage)).await {
        reported.take(&message);
    }
    let mut heard = Vec::new();
    for _ in 0..3 {
        if stage.transport == Transport::WebSocket {
            host.send(host.message()).await?;
        }
        heard.extend(host.collect(before_heartbeat(stage) / 3).await);
    }
    let stale: Vec<_> = heard.iter().filter(|message| reported.is_stale(message)).collect();
    let bare = heard.iter().filter(|message| is_bare(message)).count();
    let actual =
        format!("{} reports of nothing new and {bare} messages without content", stale.len());
    for row in ["STATUS-14", "STATUS-15"] {
        stage.judge.expect(row, stale.is_empty(), "no report of nothing new", actual.clone());
    }
    Ok(())
}

async fn several_fields(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, first) = stage.meet().await?;
    let reported = Reported::from_first(&first);
    let has = |mask| first.capabilities & mask == mask;
    let offer = Offer::new(stage, &first);
    let flags = REPORT_FULL_STATE | REPORT_AVAILABLE_COMPONENTS;
    let message = ServerToAgent { flags, ..host.message() };
    let takes_config = has(ACCEPTS_REMOTE_CONFIG | REPORTS_REMOTE_CONFIG);
    host.send(if takes_config { offer.on(message) } else { message }).await?;
    let mut missing = vec!["a full report"];
    if takes_config {
        missing.push("a status of the configuration");
    }
    if has(REPORTS_AVAILABLE_COMPONENTS) {
        missing.push("the components");
    }
    let expected = missing.join(", ");
    let within = stage.pace.work() + stage.heartbeat();
    host.hear(within, |message| {
        let answered = reported.is_news(Part::RemoteConfigStatus, message);
        let map = message.available_components.as_ref();
        missing.retain(|what| match *what {
            "a full report" => message.agent_description.is_none(),
            "the components" => map.is_none_or(|map| map.components.is_empty()),
            _ => !answered,
        });
        missing.is_empty()
    })
    .await;
    let actual = match missing.as_slice() {
        [] => "all of it".to_owned(),
        missing => format!("not {}", missing.join(", ")),
    };
    stage.judge.expect("STATUS-10", missing.is_empty(), expected, actual);
    Ok(())
}
