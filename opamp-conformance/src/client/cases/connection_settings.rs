//! Offers of OpAMP connection settings that are good: how the client leaves for them, what it tells
//! of them, and what a crash or a restart does to them.

use opamp_proto::v1::{
    ConnectionSettingsOffers, ConnectionSettingsStatuses, Header, Headers,
    TelemetryConnectionSettings,
};
use tokio::time::Instant;

use crate::case::{Case, Script};
use crate::client::offer::{Interrupted, Offer, Outcome, Place};
use crate::client::{ClientStage, Heard, Host};
use crate::judge::Stop;
use crate::mask::agent as mask;
use crate::report::Transport;
use crate::wire::endpoint::Welcome;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "client/connection-settings/move",
        judges: &["CONN-07", "CONN-08", "CONN-12", "CONN-13", "CONN-14", "CONN-31"],
        transports: Transport::BOTH,
        does: "offers settings that name a second server",
        expects: "the client reports that it applies them, leaves, and connects to the second server",
        alone: false,
        broken_by: &[
            "settings-status-is-never-reported",
            "settings-status-has-an-old-hash",
            "applying-is-not-reported",
            "offered-endpoint-is-not-used",
            "the-old-connection-is-kept",
        ],
        script: Script::Client(|stage| Box::pin(moves(stage))),
    },
    Case {
        name: "client/connection-settings/goodbye",
        judges: &["CLOSE-06"],
        transports: &[Transport::Http],
        does: "offers settings that name a second server",
        expects: "the last request to the first one has agent_disconnect",
        alone: false,
        broken_by: &["moves-without-goodbye"],
        script: Script::Client(|stage| Box::pin(goodbye(stage))),
    },
    Case {
        name: "client/connection-settings/applied",
        judges: &["CONN-17", "CONN-34", "CONN-35"],
        transports: Transport::BOTH,
        does: "lets the client connect to a second server by an offer",
        expects: "it reports there that the settings are applied, without an error text",
        alone: false,
        broken_by: &[
            "applied-is-not-reported",
            "applied-with-an-error-text",
            "settings-status-is-never-reported",
            "offered-endpoint-is-not-used",
        ],
        script: Script::Client(|stage| Box::pin(applied(stage))),
    },
    Case {
        name: "client/connection-settings/headers",
        judges: &["CONN-30", "CONN-41"],
        transports: Transport::BOTH,
        does: "offers header fields, two of them of one name",
        expects: "all of them come with the next handshake or request",
        alone: false,
        broken_by: &[
            "offered-headers-are-not-sent",
            "only-one-header-of-a-name",
            "credentials-are-not-sent",
        ],
        script: Script::Client(|stage| Box::pin(headers(stage))),
    },
    Case {
        name: "client/connection-settings/other-parts-only",
        judges: &["CONN-22"],
        transports: Transport::BOTH,
        does: "offers settings without a part for OpAMP",
        expects: "the OpAMP connection stays as it is",
        alone: false,
        broken_by: &["any-offer-reconnects"],
        script: Script::Client(|stage| Box::pin(other_parts(stage))),
    },
    Case {
        name: "client/connection-settings/crash",
        judges: &["CONN-11"],
        transports: Transport::BOTH,
        does: "kills the client while it tries to connect with offered settings, and starts it again",
        expects: "it tries the offered settings again",
        alone: false,
        broken_by: &["candidate-is-not-kept"],
        script: Script::Client(|stage| Box::pin(crash(stage))),
    },
];

async fn moves(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut old, _client, first) = stage.meet().await?;
    let mut new = stage.host().await?;
    let settings = stage.settings_for(&new);
    let mut offer = stage.offer(&mut old, &first, settings).await?;
    let outcome = offer.follow(stage, &mut old, &mut new).await;
    offer.conclude(stage, &outcome, &mut old, &mut new).await;
    let told = format!("the client {}", offer.told(&outcome));
    stage.judge.note("CONN-08", told.as_str());
    judge_status(stage, &offer);
    let arrived = matches!(outcome, Outcome::Arrived(_));
    let claimed = offer.last() == Some(ConnectionSettingsStatuses::Applied);
    if !arrived && !claimed && new.endpoint.attempts().is_empty() {
        return Err(Stop::Unreached(told));
    }
    stage.judge.expect("CONN-14", arrived, "a connection with the offered settings", told);
    if arrived {
        judge_leaving(stage, &offer, &mut old, &mut new).await;
    }
    Ok(())
}

async fn goodbye(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut old, _client, first) = stage.meet().await?;
    let mut new = stage.host().await?;
    let settings = stage.settings_for(&new);
    let mut offer = stage.offer(&mut old, &first, settings).await?;
    let outcome = offer.follow(stage, &mut old, &mut new).await;
    let told = format!("the client {}", offer.told(&outcome));
    if !matches!(outcome, Outcome::Arrived(_)) {
        return Err(Stop::Unreached(told));
    }
    stage.judge.expect("CLOSE-06", offer.goodbye, "agent_disconnect at the first server", told);
    Ok(())
}

fn judge_status(stage: &mut ClientStage, offer: &Offer) {
    let (judge, reported) = (&mut stage.judge, offer.reported());
    if !offer.reports {
        for row in ["CONN-07", "CONN-13", "CONN-31"] {
            judge.not_applicable(row, "the client does not announce such reports");
        }
        return;
    }
    let any = !offer.statuses.is_empty();
    if !judge.expect("CONN-07", any, "a status of the offered settings", reported.as_str()) {
        return;
    }
    let holds = offer.has_its_hash();
    judge.expect("CONN-31", holds, "every status with the offer's hash", reported.as_str());
    if offer.left || offer.early {
        let applying = offer.statuses.iter().any(|(place, status)| {
            *place == Place::Old && status.status() == ConnectionSettingsStatuses::Applying
        });
        judge.expect("CONN-13", applying, "APPLYING before the client leaves", reported);
    }
}

async fn judge_leaving(stage: &mut ClientStage, offer: &Offer, old: &mut Host, new: &mut Host) {
    new.answer().await;
    let wrong = match old.next(stage.pace.quiet()).await {
        Heard::Message(_) => Some("a message comes to the old server after that"),
        _ if offer.early => Some("the old connection is still open when the new one is opened"),
        _ => None,
    };
    let actual = wrong.unwrap_or("the old server was left first");
    stage.judge.expect("CONN-12", wrong.is_none(), "the old server left first", actual);
}

async fn applied(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut old, _client, first) = stage.meet().await?;
    stage.requires(&first, mask::REPORTS_CONNECTION_SETTINGS_STATUS)?;
    let mut new = stage.host().await?;
    let settings = stage.settings_for(&new);
    let mut offer = stage.offer(&mut old, &first, settings).await?;
    let outcome = offer.follow(stage, &mut old, &mut new).await;
    offer.conclude(stage, &outcome, &mut old, &mut new).await;
    let told = format!("the client {}", offer.told(&outcome));
    let last = offer.last();
    let applied = offer.statuses.iter().any(|(place, status)| {
        *place == Place::New && status.status() == ConnectionSettingsStatuses::Applied
    });
    let judge = &mut stage.judge;
    if !matches!(outcome, Outcome::Arrived(_)) {
        // A client may reject an offer, and says so then.
        let holds = last == Some(ConnectionSettingsStatuses::Failed);
        judge.expect("CONN-34", holds, "FAILED, where the offer is rejected", told.as_str());
        return Err(Stop::Unreached(told));
    }
    judge.expect("CONN-17", applied, "APPLIED on the new connection", told.as_str());
    let holds = last == Some(ConnectionSettingsStatuses::Applied);
    judge.expect("CONN-34", holds, "APPLIED as the last status", told.as_str());
    if last.is_some() {
        let failed = ConnectionSettingsStatuses::Failed;
        let holds = offer
            .statuses
            .iter()
            .all(|(_, status)| status.error_message.is_empty() || status.status() == failed);
        judge.expect("CONN-35", holds, "an error text only with FAILED", told);
    }
    Ok(())
}

async fn headers(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut old, _client, first) = stage.meet().await?;
    let mut new = stage.host().await?;
    let header = |(key, value): (&str, &str)| Header { key: key.into(), value: value.into() };
    let offered = [
        ("Authorization", "Bearer offered-by-the-server"),
        ("X-Conformance", "one"),
        ("X-Conformance", "two"),
    ];
    let mut settings = stage.settings_for(&new);
    settings.headers = Some(Headers { headers: offered.map(header).to_vec() });
    let mut offer = stage.offer(&mut old, &first, settings).await?;
    offer.arrive(stage, &mut old, &mut new).await?;
    let Some(visitor) = &new.visitor else {
        return Err(Stop::Harness("a message came without a request".to_owned()));
    };
    let values = |name| {
        let all = visitor.headers.get_all(name).iter();
        all.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let authorization = values("authorization");
    let holds = authorization == offered[0].1;
    let actual = format!("Authorization: {authorization:?}");
    stage.judge.expect("CONN-30", holds, "the offered Authorization header field", actual);
    // Fields of one name may be sent as one, with their values in order.
    let several = values("x-conformance");
    let holds = several.replace(' ', "") == "one,two";
    let actual = format!("X-Conformance: {several:?}");
    stage.judge.expect("CONN-41", holds, "both values of X-Conformance", actual);
    Ok(())
}

async fn other_parts(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, first) = stage.meet().await?;
    stage.requires(&first, mask::ACCEPTS_OPAMP_CONNECTION_SETTINGS)?;
    // Where telemetry goes is not looked at here, so nobody is there to take it.
    let mut sink = stage.host().await?;
    sink.endpoint.refuse().await;
    let telemetry = TelemetryConnectionSettings {
        destination_endpoint: sink.url().replace("ws:", "http:"),
        ..Default::default()
    };
    let has = |bit| (first.capabilities & bit != 0).then(|| telemetry.clone());
    let offers = ConnectionSettingsOffers {
        own_metrics: has(mask::REPORTS_OWN_METRICS),
        own_traces: has(mask::REPORTS_OWN_TRACES),
        own_logs: has(mask::REPORTS_OWN_LOGS),
        ..Default::default()
    };
    stage.offer_all(&mut host, &first, offers).await?;
    let until = Instant::now() + stage.pace.quiet() + stage.pace.of(1.5);
    let mut left = None;
    while left.is_none() {
        match host.next(until.saturating_duration_since(Instant::now())).await {
            Heard::Message(message) if message.agent_disconnect.is_some() => {
                left = Some("the client says goodbye".to_owned());
            }
            Heard::Closed(_, how) => left = Some(how),
            Heard::Message(_) | Heard::Malformed(_) => {}
            Heard::Silence => break,
        }
    }
    let actual = left.clone().unwrap_or_else(|| "the client stays".to_owned());
    stage.judge.expect("CONN-22", left.is_none(), "the connection goes on", actual);
    Ok(())
}

async fn crash(stage: &mut ClientStage) -> Result<(), Stop> {
    let Interrupted { mut old, mut new, mut offer, start } = stage.interrupted().await?;
    new.endpoint.welcome(Welcome::Serve);
    let _client = stage.start(start).await?;
    let tries = offer.resume(stage, &mut old, &mut new).await;
    let actual = if tries { "it does" } else { "no connection with them" };
    stage.judge.expect("CONN-11", tries, "a connection with the offered settings", actual);
    Ok(())
}
