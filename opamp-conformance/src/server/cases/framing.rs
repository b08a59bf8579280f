//! WebSocket messages: their header, their type, their fragments.

use bytes::Bytes;
use prost::Message as _;
use tokio::time::{sleep, timeout};

use crate::case::{Case, Script};
use crate::judge::Stop;
use crate::mask::agent::{REPORTS_HEALTH, REPORTS_STATUS};
use crate::report::Transport;
use crate::server::{Agent, Heard, ServerStage};
use crate::wire::body;
use crate::wire::ws::{Frame, Opcode};

/// The parts a fragmented message is sent in: a byte each for its beginning, then the rest.
const SMALL_PARTS: usize = 20;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "server/framing/padded-header",
        judges: &["WS-05", "WS-09"],
        transports: &[Transport::WebSocket],
        does: "sends good reports whose zero header is padded to 2, 5 and 10 bytes",
        expects: "each is answered without an error, to the id that is in it",
        alone: false,
        broken_by: &["header-is-one-byte"],
        script: Script::Server(|stage| Box::pin(padded_header(stage))),
    },
    Case {
        name: "server/framing/endless-header",
        judges: &["WS-05"],
        transports: &[Transport::WebSocket],
        does: "sends a report after a header of 11 bytes, and a message that is nothing but a header \
               without end",
        expects: "neither is processed, and the server goes on",
        alone: false,
        broken_by: &["malformed-is-acknowledged", "endless-header-is-skipped"],
        script: Script::Server(|stage| Box::pin(endless_header(stage))),
    },
    Case {
        name: "server/framing/nonzero-header",
        judges: &["WS-07", "WS-08", "ERR-11"],
        transports: &[Transport::WebSocket],
        does: "sends a good report after the header 1",
        expects: "the server does not process it, says that it is malformed, and goes on",
        alone: false,
        broken_by: &[
            "malformed-is-acknowledged",
            "errors-are-text-messages",
            "header-is-not-checked",
            "malformed-is-ignored",
        ],
        script: Script::Server(|stage| Box::pin(nonzero_header(stage))),
    },
    Case {
        name: "server/framing/no-header",
        judges: &["WS-07", "WS-08"],
        transports: &[Transport::WebSocket],
        does: "sends a good report without the header",
        expects: "the server does not process it, refuses it as malformed, and goes on",
        alone: false,
        broken_by: &[
            "malformed-is-acknowledged",
            "errors-are-text-messages",
            "messages-need-no-header",
            "malformed-is-ignored",
        ],
        script: Script::Server(|stage| Box::pin(no_header(stage))),
    },
    Case {
        name: "server/framing/text-message",
        judges: &["WS-01"],
        transports: &[Transport::WebSocket],
        does: "sends a good report in a WebSocket message of type text",
        expects: "the server does not act on it",
        alone: false,
        broken_by: &["text-is-processed"],
        script: Script::Server(|stage| Box::pin(text_message(stage))),
    },
    Case {
        name: "server/framing/empty-message",
        judges: &["WS-10"],
        transports: &[Transport::WebSocket],
        does: "sends a message of nothing but its header",
        expects: "the server takes the framing as correct: it may object to the missing id in a reply, \
                  but does not just close",
        alone: false,
        broken_by: &["errors-are-text-messages", "empty-message-closes"],
        script: Script::Server(|stage| Box::pin(empty_message(stage))),
    },
    Case {
        name: "server/framing/fragments",
        judges: &["WS-02"],
        transports: &[Transport::WebSocket],
        does: "sends a good report in many fragments, slowly, with an empty one and a ping among them",
        expects: "it is one message, and is answered as such",
        alone: false,
        broken_by: &["fragments-are-dropped"],
        script: Script::Server(|stage| Box::pin(fragments(stage))),
    },
    Case {
        name: "server/framing/back-to-back",
        judges: &["WS-11"],
        transports: &[Transport::WebSocket],
        does: "sends two messages without waiting in between",
        expects: "both are answered",
        alone: false,
        broken_by: &["second-of-two-is-dropped", "heartbeats-are-not-answered"],
        script: Script::Server(|stage| Box::pin(back_to_back(stage))),
    },
];

/// Sends these bytes as they are in a binary message.
async fn send(agent: &mut Agent, payload: Bytes) -> Result<Heard, Stop> {
    send_frame(agent, Frame::binary(payload)).await
}

async fn send_frame(agent: &mut Agent, frame: Frame) -> Result<Heard, Stop> {
    let patience = agent.patience;
    // What became of the connection is told by what comes next.
    let _ = timeout(patience, agent.websocket()?.send_frame(frame)).await;
    Ok(agent.next(patience).await)
}

async fn padded_header(stage: &mut ServerStage) -> Result<(), Stop> {
    for length in [2, 5, 10] {
        let mut agent = stage.connected(REPORTS_STATUS).await?;
        let report = agent.full_report().encode_to_vec();
        let header = body::padded_zero(length);
        let heard = send(&mut agent, body::frame_with_header(&header, &report)).await?;
        let holds = heard.good().is_some_and(|reply| reply.instance_uid == agent.uid);
        let actual = format!("after a header of {length} bytes: {heard}");
        for row in ["WS-05", "WS-09"] {
            stage.judge.expect(row, holds, "a reply to the agent, without error", actual.as_str());
        }
        if !holds {
            break;
        }
    }
    Ok(())
}

async fn endless_header(stage: &mut ServerStage) -> Result<(), Stop> {
    for with_message in [true, false] {
        let mut agent = stage.connected(REPORTS_STATUS).await?;
        let message = if with_message {
            let report = agent.full_report().encode_to_vec();
            body::frame_with_header(&body::padded_zero(11), &report)
        } else {
            Bytes::from_static(&[0x80; 12])
        };
        let heard = send(&mut agent, message).await?;
        let actual = heard.to_string();
        stage.judge.expect("WS-05", heard.good().is_none(), "the message is refused", actual);
        let goes_on = agent.goes_on().await;
        let actual = goes_on.as_ref().err().cloned().unwrap_or_default();
        stage.judge.expect("WS-05", goes_on.is_ok(), "the server goes on afterwards", actual);
    }
    Ok(())
}

async fn nonzero_header(stage: &mut ServerStage) -> Result<(), Stop> {
    let mut agent = stage.connected(REPORTS_STATUS).await?;
    let report = agent.full_report().encode_to_vec();
    let heard = send(&mut agent, body::frame_with_header(&[1], &report)).await?;
    let expected = "an error in reply";
    stage.judge.expect("ERR-11", heard.error().is_some(), expected, heard.to_string());
    refused(stage, &mut agent, &heard).await;
    Ok(())
}

async fn no_header(stage: &mut ServerStage) -> Result<(), Stop> {
    let mut agent = stage.connected(REPORTS_STATUS).await?;
    let report = agent.full_report().encode_to_vec();
    // A form that was common before there was a header (A29).
    let heard = send(&mut agent, report.into()).await?;
    refused(stage, &mut agent, &heard).await;
    Ok(())
}

/// Judges what became of a message whose header is not zero.
async fn refused(stage: &mut ServerStage, agent: &mut Agent, heard: &Heard) {
    let actual = heard.to_string();
    let holds = heard.good().is_none();
    stage.judge.expect("WS-07", holds, "the message is not processed", actual.as_str());
    let malformed = heard.error().is_some() || matches!(heard, Heard::Closed(..));
    stage.judge.expect("WS-08", malformed, "an error in reply, or a close", actual);
    let goes_on = agent.goes_on().await;
    let actual = goes_on.as_ref().err().cloned().unwrap_or_default();
    stage.judge.expect("WS-08", goes_on.is_ok(), "a session with header 0 works", actual);
}

async fn text_message(stage: &mut ServerStage) -> Result<(), Stop> {
    let mut agent = stage.connected(REPORTS_STATUS).await?;
    let payload = body::frame(&agent.full_report().encode_to_vec());
    let frame = Frame { opcode: Opcode::Text, ..Frame::binary(payload) };
    let heard = send_frame(&mut agent, frame).await?;
    let actual = heard.to_string();
    stage.judge.expect("WS-01", heard.good().is_none(), "the text message has no effect", actual);
    let goes_on = agent.goes_on().await;
    let actual = goes_on.as_ref().err().cloned().unwrap_or_default();
    stage.judge.expect("WS-01", goes_on.is_ok(), "the server goes on afterwards", actual);
    Ok(())
}

async fn empty_message(stage: &mut ServerStage) -> Result<(), Stop> {
    let mut agent = stage.connected(REPORTS_STATUS).await?;
    let heard = send(&mut agent, body::frame(b"")).await?;
    // Without an id it is malformed as a report, so that an error is as good as silence (A33).
    let holds = matches!(heard, Heard::Message(_) | Heard::Silence);
    let expected = "a reply, with an error or without, or nothing";
    stage.judge.expect("WS-10", holds, expected, heard.to_string());
    Ok(())
}

async fn fragments(stage: &mut ServerStage) -> Result<(), Stop> {
    let mut agent = stage.connected(REPORTS_STATUS).await?;
    let message = body::frame(&agent.full_report().encode_to_vec());
    let mut parts: Vec<Bytes> = (0..SMALL_PARTS).map(|at| message.slice(at..=at)).collect();
    parts.insert(SMALL_PARTS / 2, Bytes::new());
    parts.push(message.slice(SMALL_PARTS..));
    let last = parts.len() - 1;
    let pause = stage.pace.of(0.02);
    let websocket = agent.websocket()?;
    for (at, payload) in parts.into_iter().enumerate() {
        let opcode = if at == 0 { Opcode::Binary } else { Opcode::Continuation };
        let frame = Frame { fin: at == last, rsv1: false, opcode, payload };
        // What became of the connection is told by what comes next.
        let _ = websocket.send_frame(frame).await;
        if at == 1 {
            let ping = Frame { opcode: Opcode::Ping, ..Frame::binary(Bytes::from_static(b"?")) };
            let _ = websocket.send_frame(ping).await;
        }
        sleep(pause).await;
    }
    let heard = agent.next(agent.patience).await;
    let holds = heard.good().is_some_and(|reply| reply.instance_uid == agent.uid);
    stage.judge.expect("WS-02", holds, "a reply to the agent, without error", heard.to_string());
    Ok(())
}

async fn back_to_back(stage: &mut ServerStage) -> Result<(), Stop> {
    let (mut agent, _) = stage.reported(REPORTS_STATUS | REPORTS_HEALTH).await?;
    let messages = [agent.message(), agent.message()];
    for message in messages {
        agent.send(message).await?;
    }
    let mut replies = 0;
    while replies < 2 && agent.next(agent.patience).await.good().is_some() {
        replies += 1;
    }
    let actual = format!("{replies} replies");
    stage.judge.expect("WS-11", replies == 2, "a reply to each of the two messages", actual);
    Ok(())
}
