//! Health of the agent and its components.

use opamp_proto::v1::{AgentToServer, ComponentHealth};

use super::common::due;
use super::moves::ask_full;
use crate::case::{Case, Observed, Script};
use crate::client::ClientStage;
use crate::client::reported::messages;
use crate::hook::Action;
use crate::judge::{Judge, Stop};
use crate::mask::agent::REPORTS_HEALTH;
use crate::report::Transport;
use crate::wire::uid;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "client/health/every-message",
        judges: &["HEALTH-02", "HEALTH-04", "HEALTH-06"],
        transports: &[],
        does: "looks at the health in every message of the run, of components as well",
        expects: "plausible times in nanoseconds, and an error where it is not healthy",
        alone: false,
        broken_by: &[
            "polls-have-health",
            "last-error-is-left-out",
            "start-time-is-in-seconds",
            "status-time-is-too-old",
        ],
        script: Script::Observer(every_message),
    },
    Case {
        name: "client/health/reported",
        judges: &["HEALTH-10"],
        transports: Transport::BOTH,
        does: "hears the first report, and asks for a full one",
        expects: "the health in one of them",
        alone: false,
        broken_by: &["health-is-only-promised"],
        script: Script::Client(|stage| Box::pin(reported(stage))),
    },
    Case {
        name: "client/health/change",
        judges: &["HEALTH-01", "HEALTH-09"],
        transports: Transport::BOTH,
        does: "makes the agent unhealthy by a hook, then healthy",
        expects: "the one and then the other as the health of the whole agent",
        alone: false,
        broken_by: &["agent-is-always-healthy", "change-is-not-told", "health-is-only-promised"],
        script: Script::Client(|stage| Box::pin(change(stage))),
    },
];

/// How deep components are looked at (A36).
const MAX_DEPTH: usize = 16;
/// Nanoseconds in a second.
const SECOND: u64 = 1_000_000_000;
/// 2020 in Unix nanoseconds; what runs was started later.
const EARLIEST: u64 = 1_577_836_800 * SECOND;
/// How far the clocks of tester and agent may be apart.
const SKEW: u64 = 300 * SECOND;

fn every_message(observed: &Observed, judge: &mut Judge) {
    let mut unhealthy = false;
    for (entry, message) in observed.conversations.iter().flat_map(messages) {
        let Some(health) = message.health else { continue };
        let mut found = Vec::new();
        look(&health, "the agent", MAX_DEPTH, &mut found);
        unhealthy |= found.iter().any(|found| found.row == "HEALTH-04");
        judge.quote(entry, found.iter().any(|found| !found.good));
        for found in found {
            judge.expect(found.row, found.good, found.expected, found.actual);
        }
    }
    if !unhealthy {
        judge.untestable("HEALTH-04", "nothing was unhealthy in this run");
    }
}

struct Found {
    row: &'static str,
    good: bool,
    expected: &'static str,
    actual: String,
}

/// What can be said of a component and those in it. Times that are 0 are not given.
fn look(health: &ComponentHealth, name: &str, depth: usize, found: &mut Vec<Found>) {
    let latest = uid::now_ms().saturating_mul(1_000_000).saturating_add(SKEW);
    let (start, status) = (health.start_time_unix_nano, health.status_time_unix_nano);
    if start != 0 {
        found.push(Found {
            row: "HEALTH-02",
            good: (EARLIEST..=latest).contains(&start),
            expected: "a time after 2020 and not in the future, in Unix nanoseconds",
            actual: format!("{name} was started at {start}"),
        });
    }
    if status != 0 {
        let earliest = start.saturating_sub(SECOND).max(EARLIEST);
        found.push(Found {
            row: "HEALTH-06",
            good: (earliest..=latest).contains(&status),
            expected: "a time after the start and not in the future, in Unix nanoseconds",
            actual: format!("the status of {name}, started at {start}, is of {status}"),
        });
    }
    if !health.healthy {
        found.push(Found {
            row: "HEALTH-04",
            good: !health.last_error.is_empty(),
            expected: "an error where it is not healthy",
            actual: format!("{name} has the error {:?}", health.last_error),
        });
    }
    if depth > 0 {
        for (name, component) in &health.component_health_map {
            look(component, name, depth - 1, found);
        }
    }
}

async fn reported(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, first) = stage.meet().await?;
    stage.requires(&first, REPORTS_HEALTH)?;
    let has = match first.health {
        Some(_) => true,
        None => ask_full(stage, &mut host).await?.is_some_and(|full| full.health.is_some()),
    };
    let actual = if has { "it is there" } else { "it is in neither" };
    stage.judge.expect("HEALTH-10", has, "the health, as the capability says", actual);
    Ok(())
}

async fn change(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, mut client, first) = stage.meet().await?;
    stage.requires(&first, REPORTS_HEALTH)?;
    host.answer().await;
    for healthy in [false, true] {
        let last_error = if healthy { "" } else { "an error made for a test" }.to_owned();
        stage.hook(client.as_mut(), Action::SetHealth { healthy, last_error }).await?;
        let is_it = |message: &AgentToServer| {
            message.health.as_ref().is_some_and(|health| health.healthy == healthy)
        };
        let told = host.hear(due(stage), is_it).await.is_some();
        let word = if healthy { "healthy" } else { "unhealthy" };
        let actual = if told { format!("it is {word}") } else { format!("it is not {word}") };
        for row in ["HEALTH-01", "HEALTH-09"] {
            stage.judge.expect(row, told, format!("an agent that is {word}"), actual.clone());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_within_components_are_looked_at() {
        let inner = ComponentHealth { start_time_unix_nano: 1, ..Default::default() };
        let mut health = ComponentHealth { healthy: true, ..Default::default() };
        health.component_health_map.insert("inner".to_owned(), inner);
        let mut found = Vec::new();
        look(&health, "the agent", 1, &mut found);
        let bad: Vec<_> = found.iter().filter(|found| !found.good).map(|found| found.row).collect();
        assert_eq!(bad, ["HEALTH-02", "HEALTH-04"]);
    }
}
