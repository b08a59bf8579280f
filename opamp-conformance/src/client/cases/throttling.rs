//! How a client treats an overloaded server: 503, 429 and Retry-After, UNAVAILABLE and retry_info.

use std::time::SystemTime;

use bytes::Bytes;
use opamp_proto::v1::ServerErrorResponseType::Unavailable;
use prost::Message as _;
use tokio::time::{Duration, Instant};

use super::common::{Pauses, due};
use super::errors::error;
use crate::case::{Case, Script};
use crate::client::{ClientStage, Heard};
use crate::judge::Stop;
use crate::log::Event;
use crate::report::{By, Transport};

const HTTP: &[Transport] = &[Transport::Http];
const WEBSOCKET: &[Transport] = &[Transport::WebSocket];

/// The wait that is stated, in seconds. It does not follow the pace, as it is part of a message.
const STATED: u64 = 4;
/// The least first wait where none is stated (THR-12), less what timers and networks may take off.
const UNSTATED: Duration = Duration::from_millis(29_500);

pub(super) const CASES: &[Case] = &[
    Case {
        name: "client/throttling/retry-after-in-seconds",
        judges: &["EST-05", "THR-09", "THR-10"],
        transports: Transport::BOTH,
        does: "answers the first attempt with 503, the second with 429, both with Retry-After: 4",
        expects: "no attempt earlier than that",
        alone: false,
        broken_by: &["polls-go-on-while-refused", "retry-after-is-ignored"],
        script: Script::Client(|stage| Box::pin(retry_after_in_seconds(stage))),
    },
    Case {
        name: "client/throttling/retry-after-as-date",
        judges: &["EST-05", "THR-09", "THR-10"],
        transports: Transport::BOTH,
        does: "answers the first attempt with 429, the second with 503, both with a date four \
               seconds ahead in Retry-After",
        expects: "no attempt earlier than that",
        alone: false,
        broken_by: &[
            "polls-go-on-while-refused",
            "retry-after-is-ignored",
            "retry-after-date-is-not-read",
        ],
        script: Script::Client(|stage| Box::pin(retry_after_as_date(stage))),
    },
    Case {
        name: "client/throttling/no-time-stated",
        judges: &["THR-12"],
        transports: Transport::BOTH,
        does: "answers the first attempt with 503 without Retry-After",
        expects: "no attempt within 30 s",
        alone: false,
        broken_by: &["polls-go-on-while-refused", "unstated-wait-is-short"],
        script: Script::Client(|stage| Box::pin(no_time_stated(stage))),
    },
    Case {
        name: "client/throttling/retry-after-on-success",
        judges: &["THR-11"],
        transports: HTTP,
        does: "puts Retry-After: 3600 on a good answer with status 200",
        expects: "the next poll comes as usual",
        alone: false,
        broken_by: &["retry-after-on-success-is-used", "never-polls"],
        script: Script::Client(|stage| Box::pin(retry_after_on_success(stage))),
    },
    Case {
        name: "client/throttling/unavailable",
        judges: &["RETRY-04", "THR-04", "THR-13"],
        transports: Transport::BOTH,
        does: "answers the first report with UNAVAILABLE and a retry_info of four seconds",
        expects: "no attempt earlier than that, and the report's content again afterwards",
        alone: false,
        broken_by: &[
            "sent-counts-as-reported",
            "retry-info-is-ignored",
            "unavailable-loses-the-report",
        ],
        script: Script::Client(|stage| Box::pin(unavailable(stage))),
    },
    Case {
        name: "client/throttling/unavailable-disconnects",
        judges: &["CLOSE-02", "DUP-02", "THR-02"],
        transports: WEBSOCKET,
        does: "answers the first report with UNAVAILABLE and a retry_info of four seconds",
        expects: "a last message with agent_disconnect, a Close frame, and later a new connection",
        alone: false,
        broken_by: &["leaves-without-goodbye", "leaves-without-close", "stays-when-unavailable"],
        script: Script::Client(|stage| Box::pin(unavailable_disconnects(stage))),
    },
    Case {
        name: "client/throttling/unavailable-again",
        judges: &["THR-05"],
        transports: Transport::BOTH,
        does: "answers every report with UNAVAILABLE, without retry_info",
        expects: "pauses that grow",
        alone: false,
        broken_by: &["unavailable-pauses-do-not-grow", "pauses-do-not-grow"],
        script: Script::Client(|stage| Box::pin(unavailable_again(stage))),
    },
];

/// Answers two attempts with these statuses and what `state` makes of the moment, and judges when
/// the next one comes. `state` gives the field and when it allows the next attempt.
async fn put_off(
    stage: &mut ClientStage,
    statuses: [u16; 2],
    state: fn() -> (String, Instant),
    tolerance: Duration,
) -> Result<(), Stop> {
    let mut host = stage.host().await?;
    let _client = stage.start(stage.start_for(&host)).await?;
    let none = || Stop::Unreached("the client does not come back".to_owned());
    let mut arrival = host.endpoint.next(stage.pace.start()).await.ok_or_else(none)?;
    for status in statuses {
        let (stated, not_before) = state();
        arrival.respond(status, &[("retry-after", &stated)], Bytes::new());
        arrival = host.endpoint.next(stage.pace.comeback()).await.ok_or_else(none)?;
        let early = not_before.saturating_duration_since(arrival.at);
        let holds = early <= tolerance;
        let actual = match holds {
            true => format!("status {status} with Retry-After {stated:?} was heeded"),
            false => format!(
                "an attempt {:.1} s too early after status {status} with Retry-After {stated:?}",
                early.as_secs_f64()
            ),
        };
        for row in ["EST-05", "THR-09", "THR-10"] {
            stage.judge.expect(row, holds, "no attempt before the stated time", actual.clone());
        }
    }
    Ok(())
}

async fn retry_after_in_seconds(stage: &mut ClientStage) -> Result<(), Stop> {
    let state = || (STATED.to_string(), Instant::now() + Duration::from_secs(STATED));
    put_off(stage, [503, 429], state, Duration::from_millis(200)).await
}

async fn retry_after_as_date(stage: &mut ClientStage) -> Result<(), Stop> {
    let state = || {
        let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(STATED + 1));
        (date, Instant::now() + Duration::from_secs(STATED))
    };
    // A date has whole seconds only.
    put_off(stage, [429, 503], state, Duration::from_secs(1)).await
}

async fn no_time_stated(stage: &mut ClientStage) -> Result<(), Stop> {
    let mut host = stage.host().await?;
    let _client = stage.start(stage.start_for(&host)).await?;
    let arrival = host.endpoint.next(stage.pace.start()).await;
    let arrival =
        arrival.ok_or_else(|| Stop::Unreached("the client does not connect".to_owned()))?;
    let at = arrival.at;
    arrival.respond(503, &[], Bytes::new());
    let next = host.endpoint.next(UNSTATED).await;
    let actual = next.as_ref().map_or_else(
        || "none within 29.5 s".to_owned(),
        |next| format!("one after {:.1} s", next.at.duration_since(at).as_secs_f64()),
    );
    stage.judge.expect("THR-12", next.is_none(), "no attempt within 30 s", actual);
    Ok(())
}

async fn retry_after_on_success(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, _) = stage.meet().await?;
    let answer = host.message().encode_to_vec().into();
    let fields = [("content-type", "application/x-protobuf"), ("retry-after", "3600")];
    host.take_request()?.respond(200, &fields, answer);
    let began = Instant::now();
    let next = host.hear(stage.heartbeat() + due(stage), |_| true).await;
    let after = began.elapsed().as_secs_f64();
    let actual = if next.is_some() { "the next poll" } else { "no poll" };
    let actual = format!("{actual} within {after:.1} s");
    stage.judge.expect("THR-11", next.is_some(), "the next poll at its usual time", actual);
    Ok(())
}

async fn unavailable(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, _) = stage.meet().await?;
    host.send(error(&host, Unavailable, Some(STATED))).await?;
    let told = Instant::now();
    if stage.transport == Transport::WebSocket {
        until_closed(stage, &mut host).await?;
    }
    let next = host.endpoint.next(stage.pace.comeback()).await;
    let next = next.ok_or_else(|| Stop::Unreached("the client does not come back".to_owned()))?;
    let after = next.at.duration_since(told).as_secs_f64();
    let actual = format!("the next attempt after {after:.1} s");
    let waits = after > STATED as f64 - 0.2;
    stage.judge.expect("THR-04", waits, "no attempt within 4 s", actual);
    let heard = host.receive(next, stage.pace.reply()).await;
    let is_content = |message: &opamp_proto::v1::AgentToServer| message.agent_description.is_some();
    let again = match heard {
        Heard::Message(message) if is_content(&message) => true,
        _ => host.hear(stage.pace.work() + stage.heartbeat(), is_content).await.is_some(),
    };
    let actual = if again { "its content comes again" } else { "its content does not come again" };
    stage.judge.note("RETRY-04", actual);
    stage.judge.expect("THR-13", again, "the content of the report once more", actual);
    Ok(())
}

/// Waits until the client has closed its WebSocket.
async fn until_closed(
    stage: &ClientStage,
    host: &mut crate::client::Host,
) -> Result<Vec<opamp_proto::v1::AgentToServer>, Stop> {
    let until = Instant::now() + stage.pace.reply();
    let mut messages = Vec::new();
    loop {
        match host.next(until.saturating_duration_since(Instant::now())).await {
            Heard::Message(message) => messages.push(*message),
            Heard::Malformed(_) => {}
            Heard::Closed(..) => return Ok(messages),
            Heard::Silence => {
                return Err(Stop::Unreached("the client does not disconnect".to_owned()));
            }
        }
    }
}

async fn unavailable_disconnects(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, _) = stage.meet().await?;
    host.send(error(&host, Unavailable, Some(STATED))).await?;
    let expected = "the end of the connection";
    let messages = match until_closed(stage, &mut host).await {
        Ok(messages) => messages,
        Err(stop) => {
            stage.judge.expect("THR-02", false, expected, stop.to_string());
            return Err(stop);
        }
    };
    let said_goodbye = messages.last().is_some_and(|last| last.agent_disconnect.is_some());
    let by_frame = stage
        .log
        .entries()
        .iter()
        .any(|entry| entry.by == By::Subject && matches!(entry.event, Event::Close(..)));
    let actual = match (said_goodbye, by_frame) {
        (true, true) => "agent_disconnect, then a Close frame",
        (true, false) => "agent_disconnect, but no Close frame",
        (false, _) => "the connection ends without agent_disconnect",
    };
    stage.judge.expect("CLOSE-02", said_goodbye, "agent_disconnect before the end", actual);
    let expected = "agent_disconnect, a Close frame, then a new connection";
    let message = host.hear(stage.pace.comeback(), |_| true).await;
    let back = message.is_some() || host.is_connected();
    let seen = if back { "it comes back" } else { "it does not come back" };
    stage.judge.expect("THR-02", back, "the client disconnects and comes back", seen);
    let orderly = said_goodbye && by_frame;
    stage.judge.expect("DUP-02", orderly, expected, format!("{actual}; {seen}"));
    Ok(())
}

async fn unavailable_again(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, _) = stage.meet().await?;
    let began = Instant::now();
    let until = began + stage.pace.of(100.0);
    let mut refused = vec![began];
    host.send(error(&host, Unavailable, None)).await?;
    if stage.transport == Transport::WebSocket {
        until_closed(stage, &mut host).await?;
    }
    let (pauses, grow) = loop {
        let pauses = Pauses::between(&refused);
        let grow = Pauses::grow(std::slice::from_ref(&pauses));
        let enough = refused.len() > 4 || grow == Some(true) && refused.len() > 2;
        if enough || Instant::now() >= until {
            break (pauses, grow);
        }
        match host.next_unanswered(stage.pace.of(1.0)).await {
            Heard::Message(message) if message.agent_disconnect.is_none() => {
                refused.push(Instant::now());
                host.send(error(&host, Unavailable, None)).await?;
            }
            Heard::Message(_) | Heard::Malformed(_) | Heard::Closed(..) | Heard::Silence => {}
        }
    };
    let Some(grow) = grow else {
        let why = format!("the client does not come back often enough to tell: {pauses}");
        return Err(Stop::Unreached(why));
    };
    stage.judge.expect("THR-05", grow, "pauses that grow", pauses.to_string());
    Ok(())
}
