//! Heartbeats: what counts as one, agents that send none, and the interval a server offers.

use std::time::Duration;

use opamp_proto::v1::{AgentToServer, ComponentHealth, ServerToAgent};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::case::{Case, Script};
use crate::judge::Stop;
use crate::mask::{agent as mask, server};
use crate::report::Transport;
use crate::server::{Agent, Heard, ServerStage};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "server/heartbeat/reports-count",
        judges: &["HB-08"],
        transports: &[Transport::WebSocket],
        does: "sends a status report every 10 s for 100 s, and no heartbeat, as an agent with \
               ReportsHeartbeat",
        expects: "the server keeps the connection, and shows the agent as connected where a hook can \
                  tell",
        alone: false,
        broken_by: &["only-empty-messages-are-heartbeats"],
        script: Script::Server(|stage| Box::pin(reports_count(stage))),
    },
    Case {
        name: "server/heartbeat/none-expected",
        judges: &["HB-10"],
        transports: &[Transport::WebSocket],
        does: "stays silent for 100 s as an agent without ReportsHeartbeat, but answers pings",
        expects: "the server keeps the connection and answers the next message",
        alone: false,
        broken_by: &["silent-agents-are-dropped", "heartbeats-are-not-answered"],
        script: Script::Server(|stage| Box::pin(none_expected(stage))),
    },
    Case {
        name: "server/heartbeat/interval",
        judges: &["HB-11", "HB-15", "HB-16"],
        transports: Transport::BOTH,
        does: "has the hook offer connection settings that leave the interval to the server, then \
               ones with the interval 0",
        expects: "an interval of 30 s, then 0",
        alone: false,
        broken_by: &["heartbeat-interval-is-ten"],
        script: Script::Server(|stage| Box::pin(interval(stage))),
    },
];

/// How long an agent has to be left alone: more than three times the usual interval.
const LONG_SECONDS: f64 = 100.0;

/// Listens for this long; the error says how the connection ended meanwhile.
async fn listen(agent: &mut Agent, within: Duration) -> Result<(), String> {
    match agent.hear(within, |_| false).await {
        Err(stop) => Err(stop.to_string()),
        Ok(_) => Ok(()),
    }
}

async fn reports_count(stage: &mut ServerStage) -> Result<(), Stop> {
    let capabilities = mask::REPORTS_STATUS | mask::REPORTS_HEALTH | mask::REPORTS_HEARTBEAT;
    let (mut agent, _) = stage.reported(capabilities).await?;
    let expected = "the server takes status reports for heartbeats";
    for round in 0..10_u64 {
        let health = Some(ComponentHealth {
            healthy: true,
            start_time_unix_nano: 1_700_000_000_000_000_000,
            status: format!("round {round}"),
            status_time_unix_nano: 1_700_000_000_000_000_000 + round,
            ..Default::default()
        });
        let report = AgentToServer { health, ..agent.message() };
        agent.send(report).await?;
        if let Err(how) = listen(&mut agent, stage.pace.of(LONG_SECONDS / 10.0)).await {
            let actual = format!("the connection ended after {} reports: {how}", round + 1);
            stage.judge.expect("HB-08", false, expected, actual);
            return Ok(());
        }
    }
    stage.judge.expect("HB-08", true, expected, "the connection is open");
    let shown = stage.shown(&agent.uid).await?;
    let connected = shown["connected"] != false;
    let actual = format!("the agent is shown with `connected` {}", shown["connected"]);
    stage.judge.expect("HB-08", connected, expected, actual);
    Ok(())
}

async fn none_expected(stage: &mut ServerStage) -> Result<(), Stop> {
    let (mut agent, _) = stage.reported(mask::REPORTS_STATUS | mask::REPORTS_HEALTH).await?;
    let expected = "the server keeps the session of an agent that sends no heartbeats";
    if let Err(how) = listen(&mut agent, stage.pace.of(LONG_SECONDS)).await {
        let actual = format!("the connection ended: {how}");
        stage.judge.expect("HB-10", false, expected, actual);
        return Ok(());
    }
    let message = agent.message();
    let heard = super::readable(agent.ask(message).await?)?;
    let answered = matches!(&heard, Heard::Message(reply) if reply.error_response.is_none());
    stage.judge.expect("HB-10", answered, expected, super::told(&heard));
    Ok(())
}

async fn interval(stage: &mut ServerStage) -> Result<(), Stop> {
    let capabilities = mask::REPORTS_STATUS
        | mask::REPORTS_HEARTBEAT
        | mask::ACCEPTS_OPAMP_CONNECTION_SETTINGS
        | mask::REPORTS_CONNECTION_SETTINGS_STATUS;
    let (mut agent, reply) = stage.reported(capabilities).await?;
    stage.requires(&reply, server::OFFERS_CONNECTION_SETTINGS)?;
    let interval = |message: &ServerToAgent| {
        let offer = message.connection_settings.as_ref()?.opamp.as_ref()?;
        Some(offer.heartbeat_interval_seconds)
    };
    let own = interval(&reply);
    stage.judge.note(
        "HB-11",
        match own {
            Some(seconds) => format!("the first reply offers an interval of {seconds} s"),
            None => "the first reply offers no interval".to_owned(),
        },
    );
    let picked = match own {
        Some(seconds) => Some(seconds),
        None => {
            let headers = json!({ "headers": [{ "key": "X-Conformance", "value": "1" }] });
            let opamp = json!({ "opamp": { "headers": headers } });
            stage.offer_settings(&mut agent, opamp).await?;
            let offer = agent.deliver(stage.pace.work(), |m| interval(m).is_some()).await?;
            offer.as_ref().and_then(interval)
        }
    };
    let Some(seconds) = picked else {
        return Err(Stop::Unreached("no offer of connection settings came".to_owned()));
    };
    let actual = format!("{seconds} s");
    stage.judge.expect("HB-16", seconds == 30, "an interval of 30 s", actual);
    let opamp = json!({ "opamp": { "heartbeat_interval_seconds": 0 } });
    stage.offer_settings(&mut agent, opamp).await?;
    let until = Instant::now() + stage.pace.reply();
    let mut last = None;
    while last != Some(0) && Instant::now() < until {
        let offer = agent.deliver(stage.pace.quiet(), |m| interval(m).is_some()).await?;
        last = offer.as_ref().and_then(interval).or(last);
        if last.is_none() {
            sleep(stage.pace.poll()).await;
        }
    }
    let actual = last.map_or("no offer".to_owned(), |seconds| format!("{seconds} s"));
    stage.judge.expect("HB-15", last == Some(0), "an offer with the interval 0", actual);
    Ok(())
}
