//! What a client keeps for later: content that was not acknowledged, and changes it could not
//! report.

use std::collections::BTreeSet;

use bytes::Bytes;
use opamp_proto::v1::AgentToServer;
use tokio::time::{Instant, sleep};

use super::common::responsive;
use crate::case::{Case, Script};
use crate::client::{ClientStage, Host};
use crate::hook::Action;
use crate::judge::Stop;
use crate::mask::agent as mask;
use crate::report::Transport;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "client/retry/lost-report",
        judges: &["RETRY-03", "RETRY-08"],
        transports: Transport::BOTH,
        does: "cuts the connection instead of answering the first report",
        expects: "everything in it comes again",
        alone: false,
        broken_by: &["sent-counts-as-reported"],
        script: Script::Client(|stage| Box::pin(lost_report(stage))),
    },
    Case {
        name: "client/retry/server-error",
        judges: &["RETRY-08"],
        transports: &[Transport::Http],
        does: "answers the first report with status 500",
        expects: "everything in it comes again",
        alone: false,
        broken_by: &["sent-counts-as-reported"],
        script: Script::Client(|stage| Box::pin(server_error(stage))),
    },
    Case {
        name: "client/retry/changes-while-away",
        judges: &["RETRY-07", "RETRY-08"],
        transports: Transport::BOTH,
        does: "is away while the agent's health changes five times, and then returns",
        expects: "the last health, and none of those before it",
        alone: false,
        broken_by: &[
            "last-error-is-left-out",
            "every-change-is-queued",
            "changes-while-away-are-forgotten",
            "health-is-only-promised",
            "change-is-not-told",
        ],
        script: Script::Client(|stage| Box::pin(changes_while_away(stage))),
    },
];

/// The names of the parts a report has.
pub(super) fn parts(message: &AgentToServer) -> BTreeSet<&'static str> {
    let all = [
        ("agent_description", message.agent_description.is_some()),
        ("health", message.health.is_some()),
        ("effective_config", message.effective_config.is_some()),
        ("remote_config_status", message.remote_config_status.is_some()),
        ("package_statuses", message.package_statuses.is_some()),
        ("custom_capabilities", message.custom_capabilities.is_some()),
        ("available_components", message.available_components.is_some()),
        ("connection_settings_status", message.connection_settings_status.is_some()),
    ];
    all.into_iter().filter_map(|(name, has)| has.then_some(name)).collect()
}

/// Judges that every part of a report that was not acknowledged comes again.
async fn comes_again(
    stage: &mut ClientStage,
    host: &mut Host,
    first: &AgentToServer,
) -> Result<bool, Stop> {
    let mut missing = parts(first);
    let began = Instant::now();
    let within = stage.pace.comeback() + stage.heartbeat();
    let mut seen = 0;
    host.hear(within, |message| {
        seen += 1;
        missing.retain(|part| !parts(message).contains(part));
        missing.is_empty()
    })
    .await;
    if seen == 0 {
        return Err(Stop::Unreached("the client does not come back".to_owned()));
    }
    let missing: Vec<_> = missing.into_iter().collect();
    let after = began.elapsed().as_secs_f64();
    let actual = match missing.is_empty() {
        true => format!("it came again after {after:.1} s"),
        false => format!("not in {seen} messages within {after:.0} s: {}", missing.join(", ")),
    };
    let all = missing.is_empty();
    stage.judge.expect("RETRY-08", all, "every part of the unanswered report", actual);
    Ok(all)
}

async fn lost_report(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, first) = stage.meet().await?;
    host.cut();
    let again = comes_again(stage, &mut host, &first).await?;
    let seen = if again { "the client reports again" } else { "the client does not retry" };
    stage.judge.note("RETRY-03", seen);
    Ok(())
}

async fn server_error(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, first) = stage.meet().await?;
    host.take_request()?.respond(500, &[], Bytes::new());
    comes_again(stage, &mut host, &first).await?;
    Ok(())
}

async fn changes_while_away(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, mut client, full) = responsive(stage).await?;
    stage.requires(&full, mask::REPORTS_HEALTH)?;
    host.answer().await;
    host.next(stage.pace.poll()).await;
    host.answer().await;
    host.endpoint.refuse().await;
    host.cut();
    // Refused attempts leave no trace: the client may notice only when it has something to send.
    sleep(stage.pace.quiet()).await;
    let error = |number: u32| format!("change {number} of 5");
    for number in 1..=5 {
        let action = Action::SetHealth { healthy: false, last_error: error(number) };
        stage.hook(&mut *client, action).await?;
    }
    let listening = host.endpoint.listen().await;
    listening.map_err(|error| Stop::Harness(format!("cannot listen again: {error}")))?;
    let mut earlier = Vec::new();
    let mut seen = 0;
    let within = stage.pace.comeback() + stage.heartbeat();
    let last = host.hear(within, |message| {
        seen += 1;
        match &message.health {
            Some(health) if health.last_error == error(5) => true,
            Some(health) if health.last_error.starts_with("change ") => {
                earlier.push(health.last_error.clone());
                false
            }
            _ => false,
        }
    });
    let last = last.await.is_some();
    if seen == 0 {
        return Err(Stop::Unreached("the client does not come back".to_owned()));
    }
    let actual = if last { "it comes" } else { "it does not come" };
    stage.judge.expect("RETRY-08", last, "the health of the last change", actual);
    let actual = format!("[{}] before it", earlier.join(", "));
    stage.judge.expect("RETRY-07", earlier.is_empty(), "the last change only", actual);
    Ok(())
}
