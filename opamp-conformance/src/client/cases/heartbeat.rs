//! Heartbeats over WebSocket and polls over plain HTTP: whether they come, how often, and what of.

use opamp_proto::v1::{
    AgentToServer, ConnectionSettingsOffers, OpAmpConnectionSettings, ServerToAgent,
};
use rand::Rng as _;
use tokio::time::{Duration, Instant};

use super::common::{due, request};
use super::moves::without;
use crate::case::{Case, Script};
use crate::client::reported::is_bare;
use crate::client::{ClientStage, Heard, Host};
use crate::judge::Stop;
use crate::mask::agent::{ACCEPTS_OPAMP_CONNECTION_SETTINGS, REPORTS_HEARTBEAT};
use crate::report::Transport;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "client/heartbeat/idle",
        judges: &["HB-01", "HB-02", "HB-06", "HB-12", "HB-13", "HB-17", "HB-20"],
        transports: Transport::BOTH,
        does: "offers nothing and listens for several periods",
        expects: "about one message in each, with id, number and capabilities",
        alone: false,
        broken_by: &[
            "capabilities-come-late",
            "interval-cannot-be-set",
            "never-polls",
            "capabilities-are-left-out-of-heartbeats",
            "heartbeats-are-not-announced",
            "heartbeats-are-slow",
            "heartbeats-lack-the-uid",
            "heartbeats-stop",
            "heartbeats-take-no-number",
        ],
        script: Script::Client(|stage| Box::pin(idle(stage))),
    },
    Case {
        name: "client/heartbeat/default",
        judges: &["HB-03"],
        transports: Transport::BOTH,
        does: "starts the client without an interval, offers none, and listens",
        expects: "a message after about 30 s",
        alone: false,
        broken_by: &["never-polls", "default-interval-is-a-minute", "heartbeats-are-slow"],
        script: Script::Client(|stage| Box::pin(default(stage))),
    },
    Case {
        name: "client/heartbeat/after-a-report",
        judges: &["HB-09"],
        transports: Transport::BOTH,
        does: "causes a report in the middle of a period",
        expects: "the next heartbeat or poll a whole period after the report",
        alone: false,
        broken_by: &["heartbeats-ignore-reports"],
        script: Script::Client(|stage| Box::pin(after_a_report(stage))),
    },
    Case {
        name: "client/heartbeat/offered",
        judges: &["HB-04"],
        transports: &[Transport::WebSocket],
        does: "offers an interval of 2 s, and nothing else that is new",
        expects: "a heartbeat about every 2 s",
        alone: false,
        broken_by: &["heartbeats-are-slow", "offered-interval-is-ignored"],
        script: Script::Client(|stage| Box::pin(offered(stage))),
    },
    Case {
        name: "client/heartbeat/offered-polls",
        judges: &["HB-07", "HTTP-09"],
        transports: &[Transport::Http],
        does: "offers an interval of 2 s, then of 0, and nothing else that is new",
        expects: "a poll about every 2 s, and polls still after the second offer",
        alone: false,
        broken_by: &[
            "never-polls",
            "heartbeats-are-slow",
            "offered-interval-is-ignored",
            "polls-can-be-turned-off",
        ],
        script: Script::Client(|stage| Box::pin(offered(stage))),
    },
    Case {
        name: "client/heartbeat/turned-off",
        judges: &["HB-05"],
        transports: &[Transport::WebSocket],
        does: "offers an interval of 0, and nothing else that is new",
        expects: "no more heartbeats",
        alone: false,
        broken_by: &["heartbeats-cannot-be-turned-off", "offered-interval-is-ignored"],
        script: Script::Client(|stage| Box::pin(turned_off(stage))),
    },
    Case {
        name: "client/heartbeat/opted-out",
        judges: &["HB-14"],
        transports: &[Transport::WebSocket],
        does: "listens to a client without ReportsHeartbeat for several periods",
        expects: "no heartbeat",
        alone: false,
        broken_by: &[
            "capabilities-come-late",
            "heartbeats-are-not-announced",
            "heartbeats-come-without-capability",
        ],
        script: Script::Client(|stage| Box::pin(opted_out(stage))),
    },
    Case {
        name: "client/heartbeat/refused",
        judges: &["HB-19"],
        transports: &[Transport::Http],
        does: "answers a poll with 503 and a Retry-After that is longer than a period",
        expects: "nothing until then",
        alone: false,
        broken_by: &["retry-after-is-ignored", "polls-go-on-while-refused"],
        script: Script::Client(|stage| Box::pin(refused(stage))),
    },
];

/// A message and how long after the one before it came.
struct Gap {
    seconds: f64,
    message: AgentToServer,
}

/// The pauses before this many messages without content; others are not counted, but start a period
/// (HB-09). Gives up after `within` without a message.
async fn gaps(host: &mut Host, count: usize, within: Duration) -> Result<Vec<Gap>, Stop> {
    let mut gaps = Vec::new();
    let mut last = Instant::now();
    let until = last + within.mul_f64(count as f64 + 1.0);
    while Instant::now() < until {
        match host.next(within).await {
            Heard::Message(message) => {
                let seconds = last.elapsed().as_secs_f64();
                last = Instant::now();
                if is_bare(&message) {
                    gaps.push(Gap { seconds, message: *message });
                }
            }
            Heard::Closed(..) | Heard::Malformed(_) => {}
            Heard::Silence => return Ok(gaps),
        }
        if gaps.len() == count {
            return Ok(gaps);
        }
    }
    let why = "the client reports all the time, so it owes no heartbeat";
    Err(Stop::Unreached(why.to_owned()))
}

fn shown(gaps: &[Gap]) -> String {
    let pauses: Vec<_> = gaps.iter().map(|gap| format!("{:.1}", gap.seconds)).collect();
    if pauses.is_empty() {
        "no message".to_owned()
    } else {
        format!("pauses of {} s", pauses.join(", "))
    }
}

fn mean(gaps: &[Gap]) -> f64 {
    gaps.iter().map(|gap| gap.seconds).sum::<f64>() / gaps.len().max(1) as f64
}

/// Fewer periods where they are long.
fn periods(period: Duration) -> usize {
    if period > Duration::from_secs(10) { 2 } else { 5 }
}

async fn idle(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, first) = stage.meet().await?;
    let announced = first.capabilities & REPORTS_HEARTBEAT != 0;
    let period = stage.heartbeat();
    let count = periods(period);
    let patience = period.mul_f64(1.5) + stage.pace.of(1.0);
    let gaps = gaps(&mut host, count, patience).await?;
    let actual = shown(&gaps);
    if stage.transport == Transport::WebSocket {
        if gaps.is_empty() && !announced {
            return Err(Stop::NotApplicable("the client sends no heartbeats".to_owned()));
        }
        let seen = if announced { "it is set" } else { "heartbeats without it" };
        stage.judge.expect("HB-01", announced, "the bit ReportsHeartbeat", seen);
    } else if announced {
        stage.judge.expect("HB-01", true, "the bit ReportsHeartbeat", "it is set");
    } else {
        stage.judge.not_applicable("HB-01", "every client polls, with or without heartbeats");
    }
    let all = gaps.len() == count;
    let seconds = period.as_secs_f64();
    if announced {
        let expected = format!("{count} messages, {seconds:.1} s apart");
        for row in ["HB-02", "HB-12", "HB-13"] {
            stage.judge.expect(row, all, expected.clone(), actual.clone());
        }
        // Where it is not on time, jitter of half a period is.
        let ratio = mean(&gaps) / seconds;
        let on_time = !gaps.is_empty() && (0.5..=1.5).contains(&ratio);
        stage.judge.expect("HB-17", on_time, expected, actual);
    }
    for pair in gaps.windows(2) {
        let message = &pair[1].message;
        let numbered = message.sequence_num > pair[0].message.sequence_num;
        let masked = message.capabilities != 0;
        let actual =
            format!("number {}, capabilities {:#x}", message.sequence_num, message.capabilities);
        stage.judge.expect("HB-20", numbered && masked, "a new number and capabilities", actual);
    }
    for gap in &gaps {
        let length = gap.message.instance_uid.len();
        stage.judge.expect("HB-06", length > 0, "an instance uid", format!("{length} bytes"));
    }
    Ok(())
}

async fn default(stage: &mut ClientStage) -> Result<(), Stop> {
    const DEFAULT: f64 = 30.0;
    if !stage.subject.takes("heartbeat") && stage.subject.heartbeat().as_secs_f64() != DEFAULT {
        let why = "the client has another interval, and cannot be started without";
        return Err(Stop::NotApplicable(why.to_owned()));
    }
    let mut host = stage.host().await?;
    let start = crate::client::Start { heartbeat: None, ..stage.start_for(&host) };
    let _client = stage.start(start).await?;
    let first = host.first(stage.pace.start()).await?;
    if stage.transport == Transport::WebSocket {
        stage.requires(&first, REPORTS_HEARTBEAT)?;
    }
    // It is no wait of the tester but one of the client, so it does not scale.
    let near = |gap: &Gap| (0.8 * DEFAULT..=1.2 * DEFAULT).contains(&gap.seconds);
    let patience = Duration::from_secs_f64(1.2 * DEFAULT) + stage.pace.of(1.0);
    let mut seen = Vec::new();
    for _ in 0..2 {
        seen.extend(gaps(&mut host, 1, patience).await?);
        if seen.last().is_none_or(near) {
            break;
        }
    }
    stage.judge.expect("HB-03", seen.iter().any(near), "about 30 s", shown(&seen));
    Ok(())
}

async fn after_a_report(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, first) = stage.meet().await?;
    if stage.transport == Transport::WebSocket {
        stage.requires(&first, REPORTS_HEARTBEAT)?;
    }
    let period = stage.heartbeat();
    // A period begins with a heartbeat.
    let begins = host.hear(period.mul_f64(1.5) + stage.pace.reply(), is_bare).await;
    begins.ok_or_else(|| Stop::Unreached("no heartbeat".to_owned()))?;
    if stage.transport == Transport::WebSocket {
        host.collect(period / 2).await;
    } else {
        // The request waits for half the period.
        tokio::time::sleep(period / 2).await;
    }
    host.send(request(&host)).await?;
    let full = host.hear(due(stage), |message| message.agent_description.is_some()).await;
    full.ok_or_else(|| Stop::Unreached("no full report when one was asked for".to_owned()))?;
    let seen = gaps(&mut host, 1, period.mul_f64(1.5) + stage.pace.reply()).await?;
    let seconds = period.as_secs_f64();
    let late = seen.first().is_some_and(|gap| gap.seconds >= 0.75 * seconds);
    let expected = format!("{seconds:.1} s from the report to the next heartbeat");
    stage.judge.expect("HB-09", late, expected, shown(&seen));
    Ok(())
}

/// Offers this interval with the endpoint in use, so that nothing else changes (A17).
fn offer(stage: &mut ClientStage, host: &Host, seconds: u64) -> ServerToAgent {
    let mut hash = vec![0; 16];
    stage.rng.fill_bytes(&mut hash);
    let opamp = OpAmpConnectionSettings {
        destination_endpoint: host.url(),
        heartbeat_interval_seconds: seconds,
        ..Default::default()
    };
    let offers =
        ConnectionSettingsOffers { hash: hash.into(), opamp: Some(opamp), ..Default::default() };
    ServerToAgent { connection_settings: Some(offers), ..host.message() }
}

/// Servers offer settings to those that announce it (A01); polls need no further capability (A03).
fn takes_intervals(stage: &ClientStage, first: &AgentToServer) -> Result<(), Stop> {
    stage.requires(first, ACCEPTS_OPAMP_CONNECTION_SETTINGS)?;
    match stage.transport {
        Transport::WebSocket => stage.requires(first, REPORTS_HEARTBEAT),
        Transport::Http => Ok(()),
    }
}

async fn offered(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, first) = stage.meet().await?;
    takes_intervals(stage, &first)?;
    let row = if stage.transport == Transport::Http { "HB-07" } else { "HB-04" };
    // Whole seconds, twice what most cases tell the client.
    let seconds = (2.0 * stage.pace.scale()).ceil();
    let offered = Duration::from_secs_f64(seconds);
    host.send(offer(stage, &host, seconds as u64)).await?;
    // The period that has begun may end as it was, and some clients connect anew.
    let patience = stage.heartbeat() + offered + stage.pace.reply();
    host.hear(patience, is_bare).await;
    let seen = gaps(&mut host, 3, offered.mul_f64(1.6) + stage.pace.of(1.0)).await?;
    let on_time = seen.len() == 3 && (0.6..=1.6).contains(&(mean(&seen) / seconds));
    let expected = format!("messages {seconds} s apart");
    stage.judge.expect(row, on_time, expected.as_str(), shown(&seen));
    if stage.transport == Transport::WebSocket {
        return Ok(());
    }
    if !stage.judge.expect("HTTP-09", on_time, expected, shown(&seen)) {
        return Ok(());
    }
    host.send(offer(stage, &host, 0)).await?;
    let polls = host.collect(patience).await.iter().filter(|message| is_bare(message)).count();
    let actual = format!("{polls} polls after the offer of 0");
    stage.judge.expect(row, polls > 0, "polls, whatever the interval", actual);
    Ok(())
}

async fn turned_off(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, first) = stage.meet().await?;
    takes_intervals(stage, &first)?;
    host.answer().await;
    let period = stage.heartbeat();
    let heard = host.hear(period.mul_f64(1.5) + stage.pace.reply(), is_bare).await;
    heard.ok_or_else(|| Stop::Unreached("no heartbeat before the offer".to_owned()))?;
    host.send(offer(stage, &host, 0)).await?;
    // One may have been on its way.
    host.collect(stage.pace.quiet()).await;
    let seen = host.collect(period.mul_f64(2.5)).await;
    let beats = seen.iter().filter(|message| is_bare(message)).count();
    stage.judge.expect("HB-05", beats == 0, "no heartbeat", format!("{beats} in 2.5 periods"));
    Ok(())
}

async fn opted_out(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, mut client, first) = stage.meet().await?;
    host.answer().await;
    without(stage, &mut host, client.as_mut(), &first, REPORTS_HEARTBEAT).await?;
    host.answer().await;
    let seen = host.collect(stage.heartbeat().mul_f64(2.5)).await;
    let beats = seen.iter().filter(|message| is_bare(message)).count();
    stage.judge.expect("HB-14", beats == 0, "no heartbeat", format!("{beats} in 2.5 periods"));
    Ok(())
}

async fn refused(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, _) = stage.meet().await?;
    let period = stage.heartbeat();
    let heard = host.hear(period.mul_f64(1.5) + stage.pace.reply(), is_bare).await;
    heard.ok_or_else(|| Stop::Unreached("no poll".to_owned()))?;
    let wait = (2.0 * period.as_secs_f64()).ceil().max(3.0);
    let text = format!("{wait}");
    host.take_request()?.respond(503, &[("retry-after", text.as_str())], Default::default());
    let next = host.next(Duration::from_secs_f64(0.9 * wait)).await;
    let actual = match next {
        Heard::Silence => "nothing",
        _ => "a request",
    };
    let quiet = actual == "nothing";
    stage.judge.expect("HB-19", quiet, format!("nothing for {wait} s"), actual);
    Ok(())
}
