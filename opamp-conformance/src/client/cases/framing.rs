//! What a client makes of WebSocket messages: their type, their header, their frames.

use bytes::Bytes;
use prost::Message as _;

use super::common::{Reaction, calm, due, lives, reaction, request, responsive, undue};
use crate::case::{Case, Script};
use crate::client::ClientStage;
use crate::judge::Stop;
use crate::report::Transport;
use crate::wire::body;
use crate::wire::ws::{Frame, Opcode};

const WEBSOCKET: &[Transport] = &[Transport::WebSocket];

pub(super) const CASES: &[Case] = &[
    Case {
        name: "client/framing/text-message",
        judges: &["WS-01"],
        transports: WEBSOCKET,
        does: "asks for a full report in a message of type text",
        expects: "no full report: the message is dropped or the connection closed",
        alone: false,
        broken_by: &["text-message-is-processed"],
        script: Script::Client(|stage| Box::pin(text_message(stage))),
    },
    Case {
        name: "client/framing/padded-header",
        judges: &["WS-05", "WS-09"],
        transports: WEBSOCKET,
        does: "asks for full reports with headers of zero padded to 3 and to 10 bytes",
        expects: "a full report each time",
        alone: false,
        broken_by: &["padded-header-is-refused"],
        script: Script::Client(|stage| Box::pin(padded_header(stage))),
    },
    Case {
        name: "client/framing/header-without-end",
        judges: &["WS-05"],
        transports: WEBSOCKET,
        does: "asks for a full report behind a header of more than 10 bytes",
        expects: "no full report, and a client that goes on or comes back",
        alone: false,
        broken_by: &[
            "header-without-end-is-skipped",
            "header-without-end-crashes",
            "second-of-two-messages-is-dropped",
        ],
        script: Script::Client(|stage| Box::pin(header_without_end(stage))),
    },
    Case {
        name: "client/framing/other-header",
        judges: &["WS-07", "WS-08"],
        transports: WEBSOCKET,
        does: "asks for a full report behind a header of 1, then in good order",
        expects: "no full report at first; then the client goes on or comes back",
        alone: false,
        broken_by: &[
            "header-is-not-looked-at",
            "other-header-crashes",
            "second-of-two-messages-is-dropped",
        ],
        script: Script::Client(|stage| Box::pin(other_header(stage))),
    },
    Case {
        name: "client/framing/empty-message",
        judges: &["WS-10"],
        transports: WEBSOCKET,
        does: "sends a header and nothing after it, then asks for a full report",
        expects: "a full report on the same connection",
        alone: false,
        broken_by: &["empty-message-is-refused", "second-of-two-messages-is-dropped"],
        script: Script::Client(|stage| Box::pin(empty_message(stage))),
    },
    Case {
        name: "client/framing/fragments",
        judges: &["WS-09"],
        transports: WEBSOCKET,
        does: "asks for a full report in frames of a byte, an empty one and a ping among them",
        expects: "a full report",
        alone: false,
        broken_by: &["fragments-are-dropped"],
        script: Script::Client(|stage| Box::pin(fragments(stage))),
    },
    Case {
        name: "client/framing/push",
        judges: &["WS-11"],
        transports: WEBSOCKET,
        does: "answers a report and at once asks for a full one, unprompted",
        expects: "a full report",
        alone: false,
        broken_by: &["second-of-two-messages-is-dropped"],
        script: Script::Client(|stage| Box::pin(push(stage))),
    },
];

async fn text_message(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, _) = calm(stage).await?;
    // Without an id it is valid UTF-8, so that nothing but its type is wrong with it.
    let mut message = request(&host);
    for id in [Bytes::new(), host.uid().clone()] {
        message.instance_uid = id;
        let payload = body::frame(&message.encode_to_vec());
        let frame = Frame { opcode: Opcode::Text, ..Frame::binary(payload) };
        // What the connection came to is told next.
        let _ = host.websocket()?.send_frame(frame).await;
        let seen = reaction(&mut host, undue(stage)).await;
        stage.judge.expect("WS-01", !seen.is_full(), "no full report", seen.to_string());
        if !host.is_connected() {
            break;
        }
    }
    Ok(())
}

async fn padded_header(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, _) = responsive(stage).await?;
    for length in [3, 10] {
        let header = body::padded_zero(length);
        let message = request(&host).encode_to_vec();
        let message = body::frame_with_header(&header, &message);
        // What the connection came to is told next.
        let _ = host.websocket()?.send(message).await;
        let seen = reaction(&mut host, due(stage)).await;
        let actual = format!("{seen} for a header of {length} bytes");
        for row in ["WS-05", "WS-09"] {
            stage.judge.expect(row, seen.is_full(), "a full report", actual.clone());
        }
        if !host.is_connected() {
            break;
        }
    }
    Ok(())
}

/// Asks for a full report behind a wrong header, which must not be heeded.
async fn behind(
    stage: &mut ClientStage,
    header: &[u8],
    rows: &[&str],
    then: &str,
) -> Result<(), Stop> {
    let (mut host, mut client, _) = calm(stage).await?;
    let message = body::frame_with_header(header, &request(&host).encode_to_vec());
    // What the connection came to is told next.
    let _ = host.websocket()?.send(message).await;
    let seen = reaction(&mut host, undue(stage)).await;
    for row in rows {
        stage.judge.expect(row, !seen.is_full(), "no full report", seen.to_string());
    }
    let (lives, how) = lives(stage, &mut host, &mut *client).await;
    stage.judge.expect(then, lives, "the client goes on or comes back", how);
    Ok(())
}

async fn header_without_end(stage: &mut ClientStage) -> Result<(), Stop> {
    behind(stage, &body::padded_zero(11), &["WS-05"], "WS-05").await
}

async fn other_header(stage: &mut ClientStage) -> Result<(), Stop> {
    behind(stage, &[1], &["WS-07", "WS-08"], "WS-08").await
}

async fn empty_message(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, _) = responsive(stage).await?;
    // What the connection came to is told next.
    let _ = host.websocket()?.send(body::frame(&[])).await;
    let _ = host.send(request(&host)).await;
    let seen = reaction(&mut host, due(stage)).await;
    let expected = "the message that follows is processed on the same connection";
    stage.judge.expect("WS-10", seen.is_full(), expected, seen.to_string());
    Ok(())
}

async fn fragments(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, _) = responsive(stage).await?;
    let message = body::frame(&request(&host).encode_to_vec());
    let websocket = host.websocket()?;
    for (index, byte) in message.iter().enumerate() {
        let opcode = if index == 0 { Opcode::Binary } else { Opcode::Continuation };
        let payload = Bytes::copy_from_slice(&[*byte]);
        let part = Frame { fin: false, rsv1: false, opcode, payload };
        // What the connection came to is told next.
        let _ = websocket.send_frame(part).await;
        if index == 1 {
            let ping = Frame { opcode: Opcode::Ping, ..Frame::binary(Bytes::from_static(b"?")) };
            let _ = websocket.send_frame(ping).await;
        }
    }
    let last = Frame { opcode: Opcode::Continuation, ..Frame::binary(Bytes::new()) };
    let _ = websocket.send_frame(last).await;
    let seen = reaction(&mut host, due(stage)).await;
    stage.judge.expect("WS-09", seen.is_full(), "a full report", seen.to_string());
    Ok(())
}

async fn push(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, _) = responsive(stage).await?;
    host.answer().await;
    host.send(request(&host)).await?;
    let seen = reaction(&mut host, due(stage)).await;
    if let Reaction::Closed(_, how) = &seen {
        return Err(Stop::Unreached(format!("the connection does not last: {how}")));
    }
    stage.judge.expect("WS-11", seen.is_full(), "a full report", seen.to_string());
    Ok(())
}
