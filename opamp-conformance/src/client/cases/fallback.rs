//! Offers of OpAMP connection settings that are of no use: the client finds that out, goes back to
//! the settings it had, and says that the offer has failed.

use bytes::Bytes;
use opamp_proto::v1::{ConnectionSettingsStatuses, OpAmpConnectionSettings};

use crate::case::{Case, Script};
use crate::client::offer::{Interrupted, Offer, Outcome, Place};
use crate::client::{ClientStage, Host};
use crate::judge::Stop;
use crate::report::Transport;
use crate::wire::authority::{Authority, server_config};
use crate::wire::endpoint::Welcome;

const ROWS: &[&str] = &["CONN-18", "CONN-19", "CONN-23", "CONN-34"];
const EXPECTS: &str = "the client goes back to the first server and reports FAILED there";

const BROKEN_BY: &[&str] = &[
    "no-fallback",
    "failed-is-not-reported",
    "settings-are-accepted-untried",
    "settings-status-is-never-reported",
    "offered-endpoint-is-not-used",
];

pub(super) const CASES: &[Case] = &[
    Case {
        name: "client/fallback/refused",
        judges: ROWS,
        transports: Transport::BOTH,
        does: "offers an address where nobody listens",
        expects: EXPECTS,
        alone: false,
        broken_by: BROKEN_BY,
        script: Script::Client(|stage| Box::pin(useless(stage, Use::Refused))),
    },
    Case {
        name: "client/fallback/unauthorized",
        judges: ROWS,
        transports: Transport::BOTH,
        does: "offers a server that answers 401",
        expects: EXPECTS,
        alone: false,
        broken_by: BROKEN_BY,
        script: Script::Client(|stage| Box::pin(useless(stage, Use::Unauthorized))),
    },
    Case {
        name: "client/fallback/garbage",
        judges: ROWS,
        transports: Transport::BOTH,
        does: "offers a server that answers with bytes that are no HTTP",
        expects: EXPECTS,
        alone: false,
        broken_by: BROKEN_BY,
        script: Script::Client(|stage| Box::pin(useless(stage, Use::Garbage))),
    },
    Case {
        name: "client/fallback/silent",
        judges: ROWS,
        transports: Transport::BOTH,
        does: "offers a server that takes the connection and never answers",
        expects: EXPECTS,
        alone: false,
        broken_by: &[
            "no-fallback",
            "failed-is-not-reported",
            "settings-are-accepted-untried",
            "settings-status-is-never-reported",
            "offered-endpoint-is-not-used",
            "silence-is-never-noticed",
        ],
        script: Script::Client(|stage| Box::pin(useless(stage, Use::Silent))),
    },
    Case {
        name: "client/fallback/untrusted",
        judges: ROWS,
        transports: Transport::BOTH,
        does: "offers a server whose certificate is of an authority the client does not know",
        expects: EXPECTS,
        alone: false,
        broken_by: &[
            "no-fallback",
            "failed-is-not-reported",
            "settings-are-accepted-untried",
            "settings-status-is-never-reported",
            "offered-endpoint-is-not-used",
            "servers-are-not-verified",
        ],
        script: Script::Client(|stage| Box::pin(useless(stage, Use::Untrusted))),
    },
    Case {
        name: "client/fallback/no-url",
        judges: &["CONN-18", "CONN-34"],
        transports: Transport::BOTH,
        does: "offers an endpoint that is no URL of OpAMP",
        expects: "the client stays with the first server, or is back soon, and reports FAILED there",
        alone: false,
        broken_by: &[
            "failed-is-not-reported",
            "settings-status-is-never-reported",
            "offered-endpoint-is-not-used",
        ],
        script: Script::Client(|stage| Box::pin(no_url(stage))),
    },
    Case {
        name: "client/fallback/restart",
        judges: &["CONN-23"],
        transports: Transport::BOTH,
        does: "offers settings that are of no use, and kills and starts the client while it tries them",
        expects: "the client is back at the first server",
        alone: false,
        broken_by: &["no-fallback", "settings-are-accepted-untried"],
        script: Script::Client(|stage| Box::pin(restart(stage))),
    },
];

/// Why offered settings are of no use.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Refused,
    Unauthorized,
    Garbage,
    Silent,
    Untrusted,
}

async fn useless(stage: &mut ClientStage, why: Use) -> Result<(), Stop> {
    let (mut old, _client, first) = stage.meet().await?;
    let tls = match why {
        Use::Untrusted => {
            let stranger = Authority::new("an authority nobody knows")?;
            Some(server_config(&stranger.server()?, None, false)?)
        }
        _ => None,
    };
    let mut new = stage.host_with_tls(tls).await?;
    match why {
        Use::Refused => new.endpoint.refuse().await,
        Use::Unauthorized => new.endpoint.welcome(Welcome::Answer(401, Vec::new())),
        Use::Garbage => {
            let garbage = Bytes::from_static(b"\x15\x03\x00 this is not HTTP\r\n\r\n");
            new.endpoint.welcome(Welcome::Garbage(garbage));
        }
        Use::Silent => new.endpoint.welcome(Welcome::Silence),
        Use::Untrusted => {}
    }
    let settings = stage.settings_for(&new);
    let mut offer = stage.offer(&mut old, &first, settings).await?;
    let outcome = offer.follow(stage, &mut old, &mut new).await;
    offer.conclude(stage, &outcome, &mut old, &mut new).await;
    let told = format!("the client {}", offer.told(&outcome));
    let tried = offer.left || offer.early || !new.endpoint.attempts().is_empty();
    if !tried {
        judge_rejection(stage, &offer, &told);
        return Err(Stop::Unreached(told));
    }
    let back = matches!(outcome, Outcome::Back(_));
    let judge = &mut stage.judge;
    judge.expect("CONN-18", back, "the client back at the first server", told.as_str());
    let applied = offer
        .statuses
        .iter()
        .any(|(_, status)| status.status() == ConnectionSettingsStatuses::Applied);
    let holds = back && !applied;
    judge.expect("CONN-23", holds, "settings that do not work are not accepted", told.as_str());
    if !offer.reports {
        for row in ["CONN-19", "CONN-34"] {
            judge.not_applicable(row, "the client does not announce such reports");
        }
    } else if back {
        let failed = offer.statuses.iter().any(|(place, status)| {
            *place == Place::Old && status.status() == ConnectionSettingsStatuses::Failed
        });
        judge.expect("CONN-19", failed, "FAILED on the old connection", told.as_str());
        judge.expect("CONN-34", failed && !applied, "FAILED as the last status", told);
    }
    Ok(())
}

/// A client may reject an offer without trying it, and says so then.
fn judge_rejection(stage: &mut ClientStage, offer: &Offer, told: &str) {
    if offer.reports {
        let holds = offer.last() == Some(ConnectionSettingsStatuses::Failed);
        stage.judge.expect("CONN-34", holds, "FAILED, where the offer is rejected", told);
    }
}

async fn no_url(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut old, _client, first) = stage.meet().await?;
    let mut nowhere = stage.host().await?;
    nowhere.endpoint.refuse().await;
    let settings = OpAmpConnectionSettings {
        destination_endpoint: "ftp://127.0.0.1:0/nothing here".to_owned(),
        ..stage.settings_for(&nowhere)
    };
    let mut offer = stage.offer(&mut old, &first, settings).await?;
    let outcome = offer.follow(stage, &mut old, &mut nowhere).await;
    offer.conclude(stage, &outcome, &mut old, &mut nowhere).await;
    let told = format!("the client {}", offer.told(&outcome));
    // What it says after all that shows that it is there.
    let there = match outcome {
        Outcome::Back(_) => true,
        Outcome::Stayed => is_there(stage, &mut old).await,
        Outcome::Arrived(_) | Outcome::Lost => false,
    };
    let judge = &mut stage.judge;
    judge.expect("CONN-18", there, "the client at the first server", told.as_str());
    if offer.reports {
        let holds = offer.last() == Some(ConnectionSettingsStatuses::Failed);
        judge.expect("CONN-34", holds, "FAILED reported", told);
    } else {
        judge.not_applicable("CONN-34", "the client does not announce such reports");
    }
    Ok(())
}

async fn is_there(stage: &ClientStage, old: &mut Host) -> bool {
    let within = stage.heartbeat() + stage.pace.work();
    old.is_connected() || old.hear(within, |_| true).await.is_some()
}

async fn restart(stage: &mut ClientStage) -> Result<(), Stop> {
    let Interrupted { mut old, new, start, .. } = stage.interrupted().await?;
    new.endpoint.welcome(Welcome::Answer(401, Vec::new()));
    let _client = stage.start(start).await?;
    let within = stage.pace.start() + stage.pace.comeback();
    let back = old.hear(within, |_| true).await.is_some();
    let actual = if back { "it is" } else { "it is not heard of again" };
    stage.judge.expect("CONN-23", back, "the client back at the first server", actual);
    Ok(())
}
