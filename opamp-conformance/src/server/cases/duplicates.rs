//! Agents with the same instance uid, and agents that only come back.

use std::time::Duration;

use opamp_proto::v1::ServerToAgent;
use tokio::time::{Instant, sleep};

use crate::case::{Case, Script};
use crate::judge::Stop;
use crate::mask::agent as mask;
use crate::pace::Pace;
use crate::report::Transport;
use crate::server::{Agent, Heard, ServerStage};
use crate::wire::uid;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "server/duplicates/two-agents",
        judges: &["DUP-04", "DUP-05", "DUP-06", "DUP-07", "DUP-08"],
        transports: &[Transport::WebSocket],
        does: "reports as two agents of one id over two WebSockets, both of which answer pings",
        expects: "one of them, better the later one, is given a new id in a message to the old one",
        alone: false,
        broken_by: &[
            "duplicates-are-not-detected",
            "duplicates-keep-their-id",
            "renaming-is-for-the-new-uid",
        ],
        script: Script::Server(|stage| Box::pin(two_agents(stage))),
    },
    Case {
        name: "server/duplicates/second-connection",
        judges: &["DUP-03"],
        transports: &[Transport::WebSocket],
        does: "opens a second WebSocket as the same agent, which goes on counting, and leaves the \
               first one open",
        expects: "either connection may be refused or closed",
        alone: false,
        broken_by: &["continued-agents-are-renamed"],
        script: Script::Server(|stage| Box::pin(second_connection(stage))),
    },
    Case {
        name: "server/duplicates/dead-connection",
        judges: &["DUP-05"],
        transports: &[Transport::WebSocket],
        does: "stops reading from its WebSocket without closing it, then comes back over another one \
               with a number that does not continue, as after a crash of its machine",
        expects: "the agent keeps its id",
        alone: false,
        broken_by: &["dead-connections-count-as-alive"],
        script: Script::Server(|stage| Box::pin(dead_connection(stage))),
    },
];

const CAPABILITIES: u64 = mask::REPORTS_STATUS | mask::REPORTS_HEALTH;

fn renames(message: &ServerToAgent) -> bool {
    message.agent_identification.is_some()
}

/// What became of an agent that shares its id.
enum Fate {
    /// It was told to take another id.
    Renamed { addressed_to: bytes::Bytes, new: bytes::Bytes },
    /// It was refused by an error, or its connection was closed.
    Refused(String),
}

/// What comes to an agent shortly: its fate, if that is decided, and pongs on the way.
async fn fate(agent: &mut Agent, within: Duration) -> Option<Fate> {
    let until = Instant::now() + within;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match agent.next(left).await {
            Heard::Message(message) => {
                if let Some(identification) = message.agent_identification {
                    return Some(Fate::Renamed {
                        addressed_to: message.instance_uid,
                        new: identification.new_instance_uid,
                    });
                }
                if let Some(error) = message.error_response {
                    return Some(Fate::Refused(format!("an error: {:?}", error.error_message)));
                }
            }
            Heard::Closed(_, how) => return Some(Fate::Refused(how)),
            Heard::Malformed(_) => {}
            Heard::Silence => return None,
        }
    }
}

async fn two_agents(stage: &mut ServerStage) -> Result<(), Stop> {
    let (mut first, _) = stage.reported(CAPABILITIES).await?;
    let mut second = stage.agent(CAPABILITIES);
    second.uid = first.uid.clone();
    // Numbers that do not continue those of the first, or the second would be the first, come back
    // (A13).
    second.sequence_num = 1_000;
    if let Err(Stop::Unreached(how)) = second.connect().await {
        judge_fate(stage, &first.uid, Some(Fate::Refused(how)));
        return Ok(());
    }
    let report = second.full_report();
    second.send(report).await?;
    let fate = decided(stage.pace, stage.pace.work(), &mut first, &mut second, true).await?;
    judge_fate(stage, &first.uid, fate.map(|(_, fate)| fate));
    Ok(())
}

/// What becomes of either of two agents, and of which. The server may have to find out first
/// whether the earlier connection is alive, so both listen by turns and, if they are to, `speak`
/// now and then.
async fn decided(
    pace: Pace,
    within: Duration,
    first: &mut Agent,
    second: &mut Agent,
    speak: bool,
) -> Result<Option<(&'static str, Fate)>, Stop> {
    let until = Instant::now() + within;
    for turn in 1_u32.. {
        if let Some(fate) = fate(second, pace.poll()).await {
            return Ok(Some(("second", fate)));
        }
        if let Some(fate) = fate(first, pace.poll()).await {
            return Ok(Some(("first", fate)));
        }
        if Instant::now() >= until {
            break;
        }
        if speak && turn % 6 == 0 {
            for agent in [&mut *first, &mut *second] {
                let message = agent.message();
                agent.send(message).await?;
            }
        }
    }
    Ok(None)
}

fn judge_fate(stage: &mut ServerStage, old: &bytes::Bytes, fate: Option<Fate>) {
    let judge = &mut stage.judge;
    let actual = match &fate {
        None => "both go on under one id".to_owned(),
        Some(Fate::Refused(how)) => format!("one of them is refused: {how}"),
        Some(Fate::Renamed { new, .. }) => {
            format!("one of them is given the id {}", uid::text(new))
        }
    };
    for row in ["DUP-04", "DUP-07"] {
        judge.note(row, &actual);
    }
    judge.expect("DUP-05", fate.is_some(), "the duplicate is detected", &actual);
    let renamed = matches!(&fate, Some(Fate::Renamed { new, .. }) if new != old);
    // Refusing is allowed as well (A13), so only what goes undetected is held against the server.
    match &fate {
        Some(Fate::Refused(_)) => {
            for row in ["DUP-06", "DUP-08"] {
                judge.not_applicable(row, format!("{actual}, which is allowed"));
            }
        }
        _ => {
            judge.expect("DUP-06", renamed, "one of them is given a new id", &actual);
        }
    }
    if let Some(Fate::Renamed { addressed_to, .. }) = &fate {
        let expected = "agent_identification in a message to the old id";
        let actual = format!("in a message to {}", uid::text(addressed_to));
        judge.expect("DUP-08", addressed_to == old, expected, actual);
    } else if fate.is_none() {
        judge.untestable("DUP-08", "no new id was made");
    }
}

async fn second_connection(stage: &mut ServerStage) -> Result<(), Stop> {
    let (mut first, _) = stage.reported(CAPABILITIES).await?;
    let mut second = stage.agent(CAPABILITIES);
    (second.uid, second.sequence_num) = (first.uid.clone(), first.sequence_num);
    let seen = match second.connect().await {
        Err(stop) => format!("the second connection is refused: {stop}"),
        Ok(()) => {
            let report = second.full_report();
            second.send(report).await?;
            match decided(stage.pace, stage.pace.reply(), &mut first, &mut second, false).await? {
                // It goes on counting, so it is the same agent (A13).
                Some((which, Fate::Renamed { new, .. })) => {
                    let expected = "the agent keeps its id, whichever connection is refused";
                    let actual = format!("the {which} is told to become {}", uid::text(&new));
                    stage.judge.expect("DUP-03", false, expected, actual);
                    return Ok(());
                }
                Some((which, Fate::Refused(how))) => format!("the {which} connection: {how}"),
                None => "both connections stay".to_owned(),
            }
        }
    };
    stage.judge.note("DUP-03", seen);
    Ok(())
}

async fn dead_connection(stage: &mut ServerStage) -> Result<(), Stop> {
    let (dead, _) = stage.reported(CAPABILITIES).await?;
    sleep(stage.pace.poll()).await;
    let mut agent = stage.agent(CAPABILITIES);
    agent.uid = dead.uid.clone();
    agent.sequence_num = 1_000;
    agent.connect().await?;
    let report = agent.full_report();
    agent.send(report).await?;
    let renaming = agent
        .hear(stage.pace.work(), |message| renames(message) || message.error_response.is_some());
    let expected = "an agent whose earlier connection is dead keeps its id";
    match renaming.await {
        Ok(None) => {
            let message = agent.full_report();
            let heard = super::readable(agent.ask(message).await?)?;
            stage.judge.expect("DUP-05", super::is_good(&heard), expected, super::told(&heard));
        }
        Ok(Some(message)) => {
            stage.judge.expect("DUP-05", false, expected, super::parts(&message));
        }
        Err(stop) => {
            stage.judge.expect("DUP-05", false, expected, stop.to_string());
        }
    }
    drop(dead);
    Ok(())
}
