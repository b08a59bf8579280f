//! Servers that misbehave. Whatever they do, a client has to be there when a good one takes their
//! place.

use bytes::Bytes;
use prost::Message as _;
use tokio::time::Instant;

use super::common::{comes_back, due, lives, reaction, request, responsive};
use crate::case::{Case, Script};
use crate::client::ClientStage;
use crate::judge::Stop;
use crate::report::Transport;
use crate::wire::endpoint::{Delivery, Welcome};
use crate::wire::ws::{Frame, Opcode};

const HTTP: &[Transport] = &[Transport::Http];
const WEBSOCKET: &[Transport] = &[Transport::WebSocket];

pub(super) const CASES: &[Case] = &[
    Case {
        name: "client/hostile/garbage",
        judges: &["EST-03"],
        transports: Transport::BOTH,
        does: "meets the first connection with bytes that are no HTTP, then behaves",
        expects: "the client comes back",
        alone: false,
        broken_by: &["waits-for-the-server-to-speak", "gives-up-connecting"],
        script: Script::Client(|stage| Box::pin(garbage(stage))),
    },
    Case {
        name: "client/hostile/endless-response",
        judges: &["EST-03"],
        transports: Transport::BOTH,
        does: "meets the first connection with a response whose header never ends, then behaves",
        expects: "the client comes back",
        alone: false,
        broken_by: &["waits-for-the-server-to-speak", "gives-up-connecting"],
        script: Script::Client(|stage| Box::pin(endless_response(stage))),
    },
    Case {
        name: "client/hostile/silence",
        judges: &["EST-03"],
        transports: Transport::BOTH,
        does: "says nothing at all on the first connection, then behaves",
        expects: "the client comes back within 100 s",
        alone: false,
        broken_by: &[
            "waits-for-the-server-to-speak",
            "gives-up-connecting",
            "silence-is-never-noticed",
        ],
        script: Script::Client(|stage| Box::pin(silence(stage))),
    },
    Case {
        name: "client/hostile/redirect-to-itself",
        judges: &["EST-03"],
        transports: Transport::BOTH,
        does: "redirects the client to where it is, for two seconds, then behaves",
        expects: "the client comes back",
        alone: false,
        broken_by: &["gives-up-connecting"],
        script: Script::Client(|stage| Box::pin(redirect_to_itself(stage))),
    },
    Case {
        name: "client/hostile/close-codes",
        judges: &["EST-03"],
        transports: WEBSOCKET,
        does: "closes the WebSocket with 1001, with 1011, and with a code of its own",
        expects: "the client comes back each time",
        alone: false,
        broken_by: &["close-by-the-server-is-final"],
        script: Script::Client(|stage| Box::pin(close_codes(stage))),
    },
    Case {
        name: "client/hostile/broken-frames",
        judges: &["EST-03"],
        transports: WEBSOCKET,
        does: "sends an undefined opcode, a masked frame and a compressed one nobody agreed to",
        expects: "the client goes on or comes back each time",
        alone: false,
        broken_by: &["broken-frame-is-final"],
        script: Script::Client(|stage| Box::pin(broken_frames(stage))),
    },
    Case {
        name: "client/hostile/broken-message",
        judges: &["EST-03"],
        transports: WEBSOCKET,
        does: "sends messages that are no protobuf",
        expects: "the client goes on or comes back",
        alone: false,
        broken_by: &["broken-message-is-final", "second-of-two-messages-is-dropped"],
        script: Script::Client(|stage| Box::pin(broken_message(stage))),
    },
    Case {
        name: "client/hostile/answers",
        judges: &["HTTP-05"],
        transports: HTTP,
        does: "answers polls with garbage, a body cut short, a page of text, nothing, other \
               statuses and damaged gzip, a good answer after each",
        expects: "polls go on",
        alone: false,
        broken_by: &["broken-answer-is-final", "gives-up-connecting"],
        script: Script::Client(|stage| Box::pin(answers(stage))),
    },
    Case {
        name: "client/hostile/chunks",
        judges: &["HTTP-13"],
        transports: HTTP,
        does: "asks for a full report in an answer in chunks of three bytes, without its length",
        expects: "a full report",
        alone: false,
        broken_by: &["chunks-are-refused"],
        script: Script::Client(|stage| Box::pin(chunks(stage))),
    },
];

/// A client whose first connection meets this, and a good server from then on.
async fn first_met_by(stage: &mut ClientStage, welcome: Welcome, within: f64) -> Result<(), Stop> {
    let mut host = stage.host().await?;
    host.endpoint.welcome(welcome);
    let mut client = stage.start(stage.start_for(&host)).await?;
    let until = Instant::now() + stage.pace.start();
    while host.endpoint.attempts().is_empty() {
        if Instant::now() > until {
            return Err(Stop::Unreached("the client does not connect".to_owned()));
        }
        tokio::time::sleep(stage.pace.poll()).await;
    }
    host.endpoint.welcome(Welcome::Serve);
    let began = Instant::now();
    let comes = host.hear(stage.pace.of(within), |_| true).await.is_some();
    let ended = client.ended().map_or(String::new(), |how| format!("; its program {how}"));
    let after = began.elapsed().as_secs_f64();
    let actual = if comes { "it comes" } else { "it does not come" };
    let actual = format!("{actual} within {after:.1} s{ended}");
    stage.judge.expect("EST-03", comes, "the client comes back", actual);
    Ok(())
}

async fn garbage(stage: &mut ClientStage) -> Result<(), Stop> {
    let bytes = Bytes::from_static(b"\x16\x03\x01\x02\0\x01\xff\xfe\r\n\r\n\0\0\0\0garbage");
    first_met_by(stage, Welcome::Garbage(bytes), 60.0).await
}

async fn endless_response(stage: &mut ClientStage) -> Result<(), Stop> {
    let start = Bytes::from_static(b"HTTP/1.1 200 OK\r\n");
    let line = format!("x-more: {}\r\n", "a".repeat(4_000));
    first_met_by(stage, Welcome::Endless(start, line.repeat(16).into()), 100.0).await
}

async fn silence(stage: &mut ClientStage) -> Result<(), Stop> {
    first_met_by(stage, Welcome::Silence, 100.0).await
}

async fn redirect_to_itself(stage: &mut ClientStage) -> Result<(), Stop> {
    let mut host = stage.host().await?;
    let url = host.endpoint.url().over(Transport::Http).to_string();
    host.endpoint.welcome(Welcome::Answer(307, vec![("location".to_owned(), url)]));
    let mut client = stage.start(stage.start_for(&host)).await?;
    let until = Instant::now() + stage.pace.start();
    while host.endpoint.attempts().is_empty() && Instant::now() < until {
        tokio::time::sleep(stage.pace.poll()).await;
    }
    if host.endpoint.attempts().is_empty() {
        return Err(Stop::Unreached("the client does not connect".to_owned()));
    }
    tokio::time::sleep(stage.pace.of(2.0)).await;
    host.endpoint.welcome(Welcome::Serve);
    let (comes, actual) = comes_back(stage, &mut host, &mut *client).await;
    stage.judge.expect("EST-03", comes, "the client comes back", actual);
    Ok(())
}

async fn close_codes(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, mut client, _) = stage.meet().await?;
    for code in [1001, 1011, 4000] {
        host.answer().await;
        host.close(code).await?;
        let (comes, how) = comes_back(stage, &mut host, &mut *client).await;
        let actual = format!("{how} after a Close with {code}");
        if !stage.judge.expect("EST-03", comes, "the client comes back", actual) {
            break;
        }
    }
    Ok(())
}

async fn broken_frames(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, mut client, _) = responsive(stage).await?;
    let payload = Bytes::from_static(b"\0frame");
    let frame = |opcode, rsv1| {
        Frame { opcode, rsv1, ..Frame::binary(payload.clone()) }
            .encode(crate::wire::ws::Role::Server)
    };
    let masked = Frame::binary(payload.clone()).encode(crate::wire::ws::Role::Client);
    let all = [
        ("an undefined opcode", frame(Opcode::Other(11), false)),
        ("a masked frame", masked),
        ("a frame compressed without agreement", frame(Opcode::Binary, true)),
    ];
    for (name, bytes) in all {
        if !host.is_connected() {
            host.first(stage.pace.comeback()).await?;
        }
        host.answer().await;
        // What the connection came to is told next.
        let _ = host.websocket()?.send_raw(bytes).await;
        let (holds, how) = lives(stage, &mut host, &mut *client).await;
        let actual = format!("{how} after {name}");
        if !stage.judge.expect("EST-03", holds, "the client goes on or comes back", actual) {
            break;
        }
    }
    Ok(())
}

async fn broken_message(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, mut client, _) = responsive(stage).await?;
    for message in [&b"\0\xff\xff\xff\xff"[..], b"\0\x0a\x7fcut", b""] {
        // What the connection came to is told next.
        let _ = host.websocket()?.send(Bytes::from_static(message)).await;
    }
    let (holds, actual) = lives(stage, &mut host, &mut *client).await;
    stage.judge.expect("EST-03", holds, "the client goes on or comes back", actual);
    Ok(())
}

async fn answers(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, mut client, _) = stage.meet().await?;
    let protobuf = [("content-type", "application/x-protobuf")];
    let text = [("content-type", "text/html")];
    let gzip = [("content-type", "application/x-protobuf"), ("content-encoding", "gzip")];
    let garbage = Bytes::from_static(b"\xff\xff\xff\xff\xff\xff");
    type Fields<'a> = &'a [(&'a str, &'a str)];
    let all: [(&str, u16, Fields<'_>, Bytes, Delivery); 8] = [
        ("garbage", 200, &protobuf, garbage.clone(), Delivery::Whole),
        ("a body cut short", 200, &protobuf, garbage.clone(), Delivery::CutShort),
        ("a page of text", 200, &text, Bytes::from_static(b"<p>Hello</p>"), Delivery::Whole),
        ("an empty body", 200, &protobuf, Bytes::new(), Delivery::Whole),
        ("status 204", 204, &[], Bytes::new(), Delivery::Whole),
        ("status 404", 404, &text, Bytes::new(), Delivery::Whole),
        ("status 500", 500, &text, Bytes::new(), Delivery::Whole),
        ("damaged gzip", 200, &gzip, garbage, Delivery::Whole),
    ];
    for (name, status, fields, answer, delivery) in all {
        // After each the failures that the client counts begin anew.
        host.answer().await;
        host.first(due(stage)).await?;
        host.take_request()?.respond_as(status, fields, answer, delivery);
        let (comes, how) = comes_back(stage, &mut host, &mut *client).await;
        let actual = format!("{how} after {name}");
        if !stage.judge.expect("HTTP-05", comes, "the next poll", actual) {
            return Ok(());
        }
    }
    Ok(())
}

async fn chunks(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, _) = responsive(stage).await?;
    host.answer().await;
    host.first(due(stage)).await?;
    let message = request(&host).encode_to_vec();
    let fields = [("content-type", "application/x-protobuf")];
    host.take_request()?.respond_as(200, &fields, message.into(), Delivery::Chunked(3));
    let seen = reaction(&mut host, due(stage)).await;
    stage.judge.expect("HTTP-13", seen.is_full(), "a full report", seen.to_string());
    Ok(())
}
