//! What may be left out of reports, and what must not be taken for reported.

use opamp_proto::v1::{
    AgentToServer, RetryInfo, ServerErrorResponse, ServerErrorResponseType, ServerToAgent,
    server_error_response,
};

use super::config::{Offer, outcome};
use super::moves::connections;
use crate::case::{Case, Script};
use crate::client::ClientStage;
use crate::client::reported::{Part, Reported, names, parts};
use crate::judge::Stop;
use crate::mask::agent::{
    ACCEPTS_REMOTE_CONFIG, REPORTS_AVAILABLE_COMPONENTS, REPORTS_REMOTE_CONFIG,
};
use crate::mask::flag::REPORT_AVAILABLE_COMPONENTS;
use crate::report::Transport;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "client/compression/omitted",
        judges: &[
            "COMP-11",
            "CUST-02",
            "STATUS-17",
            "STATUS-18",
            "STATUS-19",
            "STATUS-20",
            "STATUS-21",
            "STATUS-22",
        ],
        transports: Transport::BOTH,
        does: "causes reports of a configuration and of components, and hears heartbeats",
        expects: "nothing in them that is as it was reported before",
        alone: false,
        broken_by: &[
            "components-come-again",
            "full-state-is-repeated",
            "polls-have-health",
            "report-is-always-full",
        ],
        script: Script::Client(|stage| Box::pin(omitted(stage))),
    },
    Case {
        name: "client/compression/lost",
        judges: &["DELTA-04"],
        transports: Transport::BOTH,
        does: "cuts the connection instead of answering the first report",
        expects: "its content again after that",
        alone: false,
        broken_by: &["sent-counts-as-reported"],
        script: Script::Client(|stage| Box::pin(lost(stage))),
    },
    Case {
        name: "client/compression/refused",
        judges: &["DELTA-04"],
        transports: Transport::BOTH,
        does: "answers the first report with UNAVAILABLE and a retry after one second",
        expects: "its content again after that",
        alone: false,
        broken_by: &["sent-counts-as-reported", "unavailable-loses-the-report"],
        script: Script::Client(|stage| Box::pin(refused(stage))),
    },
];

async fn omitted(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, first) = stage.meet().await?;
    let mut reported = Reported::from_first(&first);
    let has = |mask| first.capabilities & mask == mask;
    let mut heard = Vec::new();
    let before = connections(stage);
    if has(ACCEPTS_REMOTE_CONFIG | REPORTS_REMOTE_CONFIG) {
        let offer = Offer::new(stage, &first);
        host.send(offer.on(host.message())).await?;
        heard.extend(outcome(stage, &mut host, &offer.hash).await.heard);
    }
    // The hash is repeated when the map is asked for, and judged elsewhere.
    let mut asked = Vec::new();
    if has(REPORTS_AVAILABLE_COMPONENTS) {
        let flags = REPORT_AVAILABLE_COMPONENTS;
        host.send(ServerToAgent { flags, ..host.message() }).await?;
        let within = stage.pace.reply() + stage.heartbeat();
        host.hear(within, |message| {
            asked.push(AgentToServer { available_components: None, ..message.clone() });
            message.available_components.is_some()
        })
        .await;
    }
    heard.extend(asked);
    let idle = stage.heartbeat() + stage.pace.quiet();
    host.hear(idle, |message| {
        heard.push(message.clone());
        false
    })
    .await;
    if stage.transport == Transport::WebSocket && connections(stage) > before {
        // What it says on a new connection may be all there is.
        return Err(Stop::Unreached("the client reconnected meanwhile".to_owned()));
    }
    if heard.is_empty() {
        return Err(Stop::Unreached("no further message of the client".to_owned()));
    }
    let mut repeated: Vec<Part> = heard.iter().flat_map(|message| reported.take(message)).collect();
    repeated.dedup();
    for (row, part) in [
        ("STATUS-17", Part::AgentDescription),
        ("STATUS-18", Part::EffectiveConfig),
        ("STATUS-19", Part::RemoteConfigStatus),
        ("STATUS-20", Part::PackageStatuses),
        ("STATUS-21", Part::ConnectionSettingsStatus),
        ("STATUS-22", Part::Health),
        ("CUST-02", Part::CustomCapabilities),
        ("COMP-11", Part::AvailableComponents),
    ] {
        if !reported.has(part) {
            stage.judge.not_applicable(row, format!("the client never reported {}", part.name()));
            continue;
        }
        let again = repeated.contains(&part);
        let actual = format!("{} messages; unchanged in them: {}", heard.len(), names(&repeated));
        stage.judge.expect(row, !again, format!("no {} as before", part.name()), actual);
    }
    Ok(())
}

async fn lost(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, first) = stage.meet().await?;
    host.cut();
    judge_again(stage, &mut host, &first).await
}

async fn refused(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, first) = stage.meet().await?;
    let retry_after_nanoseconds = 1_000_000_000;
    let info = RetryInfo { retry_after_nanoseconds };
    let error = ServerErrorResponse {
        r#type: ServerErrorResponseType::Unavailable as i32,
        error_message: "come back in a second".to_owned(),
        details: Some(server_error_response::Details::RetryInfo(info)),
    };
    // An error goes alone (A08).
    let refusal = ServerToAgent {
        instance_uid: host.uid().clone(),
        error_response: Some(error),
        ..Default::default()
    };
    host.send(refusal).await?;
    judge_again(stage, &mut host, &first).await
}

/// Whether what the first message reported is reported again, in one message or several.
async fn judge_again(
    stage: &mut ClientStage,
    host: &mut crate::client::Host,
    first: &AgentToServer,
) -> Result<(), Stop> {
    let mut missing = parts(first);
    let mut any = false;
    host.hear(stage.pace.comeback() + stage.heartbeat(), |message| {
        any = true;
        missing.retain(|part| !part.is_in(message));
        missing.is_empty()
    })
    .await;
    if !any {
        return Err(Stop::Unreached("the client does not come back".to_owned()));
    }
    let actual = format!("not again: {}", names(&missing));
    let expected = format!("{} again", names(&parts(first)));
    stage.judge.expect("DELTA-04", missing.is_empty(), expected, actual);
    Ok(())
}
