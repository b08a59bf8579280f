//! Input that is wrong, slow or excessive. Whatever a server makes of it, it goes on serving.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{sleep, timeout};

use crate::case::{Case, Script};
use crate::judge::Stop;
use crate::log::Event;
use crate::mask::agent::{REPORTS_AVAILABLE_COMPONENTS, REPORTS_HEALTH, REPORTS_STATUS};
use crate::net::BoxStream;
use crate::report::{By, Transport};
use crate::server::{Agent, Heard, ServerStage};
use crate::wire::ws::{Frame, Opcode, Role};
use crate::wire::{body, encode};

/// How deep messages have to be allowed to nest (A36).
const DEEP_ENOUGH: usize = 16;
/// How deep is deep enough to overflow a stack.
const TOO_DEEP: usize = 5_000;
/// How many agents share one connection.
const MANY: usize = 32;
/// The number of the field for health, and that of its map.
const HEALTH: (u32, u32) = (5, 6);
/// The number of the field for components, that of its map, and that of the map inside.
const COMPONENTS: (u32, u32, u32) = (14, 1, 2);

pub(super) const CASES: &[Case] = &[
    Case {
        name: "server/hostile/broken-frames",
        judges: &["NET-01", "WS-01"],
        transports: &[Transport::WebSocket],
        does: "sends good reports in frames that break RFC 6455: not masked, with an opcode or a bit that \
               is not defined, begun within another message; and a ping that is too long",
        expects: "what is not masked or not binary is not taken for an OpAMP message, and the server goes \
                  on",
        alone: false,
        broken_by: &["unmasked-frames-are-taken"],
        script: Script::Server(|stage| Box::pin(broken_frames(stage))),
    },
    Case {
        name: "server/hostile/unfinished",
        judges: &["NET-01"],
        transports: Transport::BOTH,
        does: "opens connections that end in the middle or never say anything: no bytes, half a request, \
               half a body, bytes that are no HTTP, a header without end, half a WebSocket frame",
        expects: "meanwhile other agents are served",
        alone: false,
        broken_by: &[
            "accept-key-is-wrong",
            "uncompressed-bodies-are-refused",
            "websocket-is-not-served",
            "http-is-not-served",
        ],
        script: Script::Server(|stage| Box::pin(unfinished(stage))),
    },
    Case {
        name: "server/hostile/slow-sender",
        judges: &["HTTP-04"],
        transports: &[Transport::Http],
        does: "posts a good report a few bytes at a time",
        expects: "it is answered with status 200 when it is whole",
        alone: false,
        broken_by: &["slow-bodies-time-out"],
        script: Script::Server(|stage| Box::pin(slow_sender(stage))),
    },
    Case {
        name: "server/hostile/odd-messages",
        judges: &["NET-01"],
        transports: Transport::BOTH,
        does: "sends messages that no encoder writes: fields of another type than theirs, text that is \
               not UTF-8, the same field many times, numbers of 64 bits, groups that do not end",
        expects: "whatever becomes of them, the server goes on",
        alone: false,
        broken_by: &["odd-messages-hang"],
        script: Script::Server(|stage| Box::pin(odd_messages(stage))),
    },
    Case {
        name: "server/hostile/deep-nesting",
        judges: &["HEALTH-07", "COMP-14"],
        transports: Transport::BOTH,
        does: "reports health and components nested 16 levels deep, then thousands of levels",
        expects: "the first is answered without an error, and the server survives the second",
        alone: false,
        broken_by: &[
            "nested-components-are-refused",
            "nested-health-is-refused",
            "unhealthy-agents-are-refused",
            "nesting-is-refused",
            "odd-messages-hang",
        ],
        script: Script::Server(|stage| Box::pin(deep_nesting(stage))),
    },
    Case {
        name: "server/hostile/many-agents",
        judges: &["ID-11"],
        transports: &[Transport::WebSocket],
        does: "reports as 32 agents over one connection",
        expects: "each gets a reply of its own",
        alone: false,
        broken_by: &["shared-connections-are-one-agent"],
        script: Script::Server(|stage| Box::pin(many_agents(stage))),
    },
];

async fn goes_on(stage: &mut ServerStage, agent: &mut Agent, row: &str, after: &str) {
    let goes_on = agent.goes_on().await;
    let actual = match &goes_on {
        Ok(()) => format!("it goes on after {after}"),
        Err(what) => format!("after {after}: {what}"),
    };
    stage.judge.expect(row, goes_on.is_ok(), "the server goes on", actual);
}

/// Sends a message to which any reaction will do, none included, and gives it time for one.
async fn provoke(stage: &ServerStage, agent: &mut Agent, message: Bytes) -> Result<(), Stop> {
    if stage.transport == Transport::Http {
        agent.ask_bytes(message).await?;
    } else {
        agent.send_bytes(message).await?;
        agent.next(stage.pace.quiet()).await;
    }
    Ok(())
}

async fn broken_frames(stage: &mut ServerStage) -> Result<(), Stop> {
    let forms = ["an unmasked frame", "a reserved opcode", "a reserved bit", "a nested message"];
    for form in forms {
        let mut agent = stage.connected(REPORTS_STATUS).await?;
        let payload = body::frame(&agent.full_report().encode_to_vec());
        let good = Frame::binary(payload.clone());
        let websocket = agent.websocket()?;
        // What became of the connection is told by what comes next.
        let _ = match form {
            "an unmasked frame" => websocket.send_raw(good.encode(Role::Server)).await,
            "a reserved opcode" => {
                websocket.send_frame(Frame { opcode: Opcode::Other(3), ..good }).await
            }
            "a reserved bit" => websocket.send_frame(Frame { rsv1: true, ..good }).await,
            _ => {
                let begun = Frame { fin: false, ..Frame::binary(payload.slice(..1)) };
                let _ = websocket.send_frame(begun).await;
                websocket.send_frame(good).await
            }
        };
        let heard = agent.next(stage.pace.quiet()).await;
        let actual = format!("after {form}: {heard}");
        // The two others break rules of frames that are the library's to keep.
        if matches!(form, "an unmasked frame" | "a reserved opcode") {
            let holds = heard.good().is_none();
            stage.judge.expect("WS-01", holds, "it is not taken for an OpAMP message", actual);
        }
        // What is left of the connection is in no good order.
        agent.vanish();
        goes_on(stage, &mut agent, "NET-01", form).await;
    }
    let mut agent = stage.connected(REPORTS_STATUS).await?;
    let payload = Bytes::from_static(&[b'?'; 126]);
    let ping = Frame { opcode: Opcode::Ping, ..Frame::binary(payload) };
    let _ = agent.websocket()?.send_frame(ping).await;
    agent.vanish();
    goes_on(stage, &mut agent, "NET-01", "a ping that is too long").await;
    Ok(())
}

/// Header fields that every request to the server has.
fn head(stage: &ServerStage, method: &str, more: &str) -> Vec<u8> {
    let url = &stage.target.url;
    let mut head = format!("{method} {} HTTP/1.1\r\nhost: {}\r\n", url.target, url.authority());
    head.push_str(more);
    let mut head = head.into_bytes();
    for (name, value) in &stage.target.headers {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head
}

/// Opens a bare connection and sends these bytes.
async fn open(stage: &ServerStage, bytes: &[u8]) -> Result<BoxStream, Stop> {
    let dialer = stage.dialer();
    let opened = timeout(stage.pace.reply(), dialer.stream()).await;
    let (mut stream, connection) = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(lost)) => return Err(Stop::Unreached(lost.to_string())),
        Err(_) => return Err(Stop::Unreached("the server does not accept".to_owned())),
    };
    let event = Event::Raw(Bytes::copy_from_slice(bytes));
    stage.log.push(connection, By::Tester, event);
    // A server that does not read on is as good as one that does.
    let _ = timeout(stage.pace.reply(), stream.write_all(bytes)).await;
    let _ = timeout(stage.pace.reply(), stream.flush()).await;
    Ok(stream)
}

async fn unfinished(stage: &mut ServerStage) -> Result<(), Stop> {
    let post = "content-type: application/x-protobuf\r\ncontent-length: 1000\r\n";
    let half_a_body = [head(stage, "POST", post), b"\r\n0123456789".to_vec()].concat();
    let mut endless = head(stage, "GET", "x-endless: ");
    endless.resize(endless.len() + (1 << 20), b'x');
    let mut held = Vec::new();
    for bytes in [
        Vec::new(),
        head(stage, "GET", "upgrade: websocket\r\n"),
        half_a_body,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 this is no HTTP\r\n\r\n".to_vec(),
        endless,
    ] {
        held.push(open(stage, &bytes).await?);
    }
    let mut half_a_frame = None;
    if stage.transport == Transport::WebSocket {
        let mut agent = stage.agent(REPORTS_STATUS);
        if agent.connect().await.is_ok() {
            let report = body::frame(&agent.full_report().encode_to_vec());
            let frame = Frame::binary(report).encode(Role::Client);
            // What became of the connection does not matter here.
            let _ = agent.websocket()?.send_raw(frame.slice(..frame.len() / 2)).await;
            half_a_frame = Some(agent);
        }
    }
    let mut agent = stage.agent(REPORTS_STATUS);
    goes_on(stage, &mut agent, "NET-01", "connections with unfinished requests").await;
    drop((held, half_a_frame));
    let mut agent = stage.agent(REPORTS_STATUS);
    goes_on(stage, &mut agent, "NET-01", "these connections are gone").await;
    Ok(())
}

async fn slow_sender(stage: &mut ServerStage) -> Result<(), Stop> {
    let mut agent = stage.connected(REPORTS_STATUS).await?;
    let report = agent.full_report().encode_to_vec();
    let fields = format!(
        "content-type: application/x-protobuf\r\ncontent-length: {}\r\nconnection: close\r\n",
        report.len()
    );
    let head = [head(stage, "POST", &fields), b"\r\n".to_vec()].concat();
    let mut stream = open(stage, &head).await?;
    for piece in report.chunks(report.len().div_ceil(20).max(1)) {
        let sent = async {
            stream.write_all(piece).await?;
            stream.flush().await
        };
        // What became of the connection is told by the answer.
        let _ = timeout(stage.pace.reply(), sent).await;
        sleep(stage.pace.of(0.05)).await;
    }
    let status = status(&mut stream, stage.pace.reply()).await;
    stage.log.remark(format!("answered with {status:?}"));
    let actual = format!("{status:?}");
    let holds = status.contains(" 200");
    stage.judge.expect("HTTP-04", holds, "status 200 and a ServerToAgent", actual);
    Ok(())
}

/// The first line of a response.
async fn status(stream: &mut BoxStream, within: Duration) -> String {
    let mut line = Vec::new();
    let read = async {
        while line.len() < 64 && !line.ends_with(b"\n") {
            match stream.read_u8().await {
                Ok(byte) => line.push(byte),
                Err(_) => break,
            }
        }
    };
    // What was read until then is told.
    let _ = timeout(within, read).await;
    String::from_utf8_lossy(&line).trim_end().to_owned()
}

async fn odd_messages(stage: &mut ServerStage) -> Result<(), Stop> {
    let many = encode::bytes(5, &encode::bytes(3, b"the same field again")).repeat(2_000);
    let odd = [
        ("an id that is a number", encode::number(1, 7)),
        ("health that is a number", encode::number(5, 1)),
        ("capabilities that are bytes", encode::bytes(4, b"\xff\xff")),
        ("text that is not UTF-8", encode::bytes(5, &encode::bytes(3, b"\xff\xfe"))),
        ("a field 2000 times", many),
        (
            "the largest numbers",
            [encode::number(2, u64::MAX), encode::number(4, u64::MAX)].concat(),
        ),
        ("a group that does not end", encode::varint(300 << 3 | 3)),
        ("ends of groups that never began", encode::varint(300 << 3 | 4)),
        ("a field number past 29 bits", encode::varint(u64::MAX)),
        ("a reserved wire type", encode::varint(300 << 3 | 7)),
    ];
    for (what, more) in odd {
        let mut agent = stage.connected(REPORTS_STATUS | REPORTS_HEALTH).await?;
        let report = agent.full_report().encode_to_vec();
        provoke(stage, &mut agent, [report, more].concat().into()).await?;
        goes_on(stage, &mut agent, "NET-01", what).await;
    }
    Ok(())
}

async fn deep_nesting(stage: &mut ServerStage) -> Result<(), Stop> {
    let bits = REPORTS_STATUS | REPORTS_HEALTH | REPORTS_AVAILABLE_COMPONENTS;
    let nested = |of: &str, levels: usize| match of {
        "HEALTH-07" => encode::bytes(HEALTH.0, &encode::nested(HEALTH.1, levels)),
        _ => {
            let details = encode::nested(COMPONENTS.2, levels - 1);
            let entry = [encode::bytes(1, b"k"), encode::bytes(2, &details)].concat();
            let map = [encode::bytes(COMPONENTS.1, &entry), encode::bytes(2, b"hash")].concat();
            encode::bytes(COMPONENTS.0, &map)
        }
    };
    for row in ["HEALTH-07", "COMP-14"] {
        let (mut agent, _) = stage.reported(bits).await?;
        let report = [agent.message().encode_to_vec(), nested(row, DEEP_ENOUGH)].concat();
        let heard = agent.ask_bytes(report.into()).await?;
        let actual = format!("after {DEEP_ENOUGH} levels: {heard}");
        let holds = heard.good().is_some();
        stage.judge.expect(row, holds, "a reply without error", actual);
        let mut agent = stage.connected(bits).await?;
        let report = [agent.message().encode_to_vec(), nested(row, TOO_DEEP)].concat();
        provoke(stage, &mut agent, report.into()).await?;
        goes_on(stage, &mut agent, row, &format!("{TOO_DEEP} levels")).await;
    }
    Ok(())
}

async fn many_agents(stage: &mut ServerStage) -> Result<(), Stop> {
    let mut agent = stage.connected(REPORTS_STATUS).await?;
    for at in 1..=MANY {
        (agent.uid, agent.sequence_num) = (stage.new_uid(), 0);
        let report = agent.full_report();
        let heard = agent.ask(report).await?;
        let to_it = matches!(&heard, Heard::Message(reply)
            if reply.error_response.is_none() && reply.instance_uid == agent.uid);
        let expected = "a reply to the agent that reports";
        let actual = format!("to agent {at}: {heard}");
        if !stage.judge.expect("ID-11", to_it, expected, actual) {
            break;
        }
    }
    Ok(())
}
