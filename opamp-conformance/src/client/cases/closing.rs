//! How a client leaves, and how many connections it has.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message as _;
use tokio::time::Instant;

use super::common::{due, responsive};
use crate::case::{Case, Script};
use crate::client::{ClientStage, Heard};
use crate::judge::Stop;
use crate::log::Event;
use crate::report::{By, Transport};

const HTTP: &[Transport] = &[Transport::Http];
const WEBSOCKET: &[Transport] = &[Transport::WebSocket];

pub(super) const CASES: &[Case] = &[
    Case {
        name: "client/closing/websocket",
        judges: &["CLOSE-01", "CLOSE-02", "CLOSE-03"],
        transports: WEBSOCKET,
        does: "has the client stop",
        expects: "a last message with agent_disconnect, then a Close frame",
        alone: false,
        broken_by: &["leaves-without-goodbye", "leaves-without-close"],
        script: Script::Client(|stage| Box::pin(websocket(stage))),
    },
    Case {
        name: "client/closing/http",
        judges: &["CLOSE-05"],
        transports: HTTP,
        does: "has the client stop",
        expects: "a last request with agent_disconnect",
        alone: false,
        broken_by: &["leaves-without-goodbye"],
        script: Script::Client(|stage| Box::pin(http(stage))),
    },
    Case {
        name: "client/closing/connection-per-request",
        judges: &["CLOSE-09"],
        transports: HTTP,
        does: "closes the connection after each of three answers",
        expects: "polls go on as before",
        alone: false,
        broken_by: &["needs-keep-alive", "never-polls"],
        script: Script::Client(|stage| Box::pin(connection_per_request(stage))),
    },
    Case {
        name: "client/closing/one-connection",
        judges: &["DUP-01"],
        transports: WEBSOCKET,
        does: "counts the connections of an idle client",
        expects: "one",
        alone: false,
        broken_by: &["has-two-connections"],
        script: Script::Client(|stage| Box::pin(one_connection(stage))),
    },
];

async fn websocket(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, mut client, _) = responsive(stage).await?;
    host.answer().await;
    stage.stop(&mut *client).await?;
    let until = Instant::now() + stage.pace.start();
    let mut last = None;
    let ended = loop {
        match host.next(until.saturating_duration_since(Instant::now())).await {
            Heard::Message(message) => last = Some(message),
            Heard::Malformed(_) => {}
            Heard::Closed(_, how) => break how,
            Heard::Silence => {
                return Err(Stop::Unreached("the client does not end its connection".to_owned()));
            }
        }
    };
    let said_goodbye = last.is_some_and(|last| last.agent_disconnect.is_some());
    let actual = match said_goodbye {
        true => format!("agent_disconnect, then {ended}"),
        false => format!("no agent_disconnect, but {ended}"),
    };
    for row in ["CLOSE-01", "CLOSE-02"] {
        stage.judge.expect(row, said_goodbye, "agent_disconnect at the end", actual.clone());
    }
    let entries = stage.log.entries();
    let is_close = |event: &Event| matches!(event, Event::Close(..));
    let by_frame = entries.iter().any(|entry| entry.by == By::Subject && is_close(&entry.event));
    stage.judge.expect("CLOSE-03", by_frame, "a Close frame of the client", actual);
    Ok(())
}

async fn http(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, mut client, _) = responsive(stage).await?;
    host.answer().await;
    stage.stop(&mut *client).await?;
    let left = host.hear(stage.pace.start(), |message| message.agent_disconnect.is_some()).await;
    let actual = if left.is_some() { "one comes" } else { "none comes" };
    stage.judge.expect("CLOSE-05", left.is_some(), "a request with agent_disconnect", actual);
    Ok(())
}

async fn connection_per_request(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, _) = stage.meet().await?;
    for number in 1..=3 {
        let answer = Bytes::from(host.message().encode_to_vec());
        let fields = [("content-type", "application/x-protobuf"), ("connection", "close")];
        host.take_request()?.respond(200, &fields, answer);
        let next = host.hear(stage.heartbeat() + due(stage), |_| true).await;
        let actual = match next {
            Some(_) => "polls go on".to_owned(),
            None => format!("no poll after answer {number}, whose connection was closed"),
        };
        if !stage.judge.expect("CLOSE-09", next.is_some(), "polls go on", actual) {
            break;
        }
    }
    Ok(())
}

async fn one_connection(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, _) = responsive(stage).await?;
    let within = stage.heartbeat().min(stage.pace.reply()) + stage.pace.reply();
    let until = Instant::now() + within;
    loop {
        match host.next(until.saturating_duration_since(Instant::now())).await {
            Heard::Message(_) | Heard::Malformed(_) => {}
            Heard::Closed(_, how) => {
                return Err(Stop::Unreached(format!("the connection does not last: {how}")));
            }
            Heard::Silence => break,
        }
    }
    let entries = stage.log.entries();
    let count = |is_it: fn(&Event) -> bool| {
        let ids = entries.iter().filter(|entry| entry.by == By::Subject && is_it(&entry.event));
        ids.map(|entry| entry.connection).collect::<BTreeSet<_>>()
    };
    let opened = count(|event| matches!(event, Event::Opened));
    let ended = count(|event| matches!(event, Event::Ended(_)));
    let open = opened.difference(&ended).count();
    let actual = format!("{open} connections at the same time");
    stage.judge.expect("DUP-01", open == 1, "one connection", actual);
    Ok(())
}
