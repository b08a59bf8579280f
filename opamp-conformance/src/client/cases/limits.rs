//! Sizes of messages: what a client takes and what it sends.
//!
//! A message is filled up with an unknown field of zeros, which every receiver passes over. A
//! client that can be told a limit is told a small one; the others are held to their default,
//! 64 MiB, in cases that run alone.

use bytes::Bytes;
use opamp_proto::v1::ServerToAgent;
use prost::Message as _;
use tokio::time::{Instant, timeout};

use super::common::{
    Reaction, ask, calm, content, due, quiet, reaction, reports_something, request, undue,
};
use super::http::announces_gzip;
use crate::case::{Case, Script};
use crate::client::{ClientStage, Heard, Host, Running, Start};
use crate::hook::Action;
use crate::judge::Stop;
use crate::mask::agent as mask;
use crate::report::Transport;
use crate::wire::body;
use crate::wire::endpoint::Delivery;
use crate::wire::ws::{Frame, Opcode};

const HTTP: &[Transport] = &[Transport::Http];
const WEBSOCKET: &[Transport] = &[Transport::WebSocket];

/// The limit a client is told where it can be.
const SMALL: u64 = 128 << 10;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "client/limits/websocket-default",
        judges: &["SIZE-01", "SIZE-02", "SIZE-08"],
        transports: WEBSOCKET,
        does: "asks for a full report in a message of just the default limit, header included, \
               and in one of a byte more",
        expects: "a full report for the first only",
        alone: true,
        broken_by: &[
            "unknown-fields-are-refused",
            "limit-is-ignored",
            "limit-leaves-out-the-header",
            "limit-is-half",
        ],
        script: Script::Client(|stage| Box::pin(websocket_default(stage))),
    },
    Case {
        name: "client/limits/websocket-set",
        judges: &["SIZE-03"],
        transports: WEBSOCKET,
        does: "as with the default limit, to a client that is told one of 128 KiB",
        expects: "a full report for the message of that size only",
        alone: false,
        broken_by: &[
            "unknown-fields-are-refused",
            "limit-is-ignored",
            "limit-leaves-out-the-header",
            "limit-is-half",
        ],
        script: Script::Client(|stage| Box::pin(websocket_set(stage))),
    },
    Case {
        name: "client/limits/websocket-oversized",
        judges: &["SIZE-10", "SIZE-11"],
        transports: WEBSOCKET,
        does: "asks for a full report in a message of twice the limit",
        expects: "no full report, and a Close with 1009",
        alone: true,
        broken_by: &["limit-is-ignored", "oversized-message-closes-with-1000"],
        script: Script::Client(|stage| Box::pin(websocket_oversized(stage))),
    },
    Case {
        name: "client/limits/deflate-bomb",
        judges: &["SIZE-09"],
        transports: WEBSOCKET,
        does: "asks for a full report in a small message that inflates to twice the limit, where \
               the client offers permessage-deflate",
        expects: "no full report",
        alone: true,
        broken_by: &["limit-is-ignored", "limit-counts-deflated-bytes"],
        script: Script::Client(|stage| Box::pin(deflate_bomb(stage))),
    },
    Case {
        name: "client/limits/http-default",
        judges: &["SIZE-18", "SIZE-19", "SIZE-25"],
        transports: HTTP,
        does: "asks for a full report in an answer of just the default limit, and in one of a \
               byte more",
        expects: "a full report for the first only",
        alone: true,
        broken_by: &["unknown-fields-are-refused", "limit-is-ignored", "limit-is-half"],
        script: Script::Client(|stage| Box::pin(http_default(stage))),
    },
    Case {
        name: "client/limits/http-set",
        judges: &["SIZE-20"],
        transports: HTTP,
        does: "as with the default limit, to a client that is told one of 128 KiB",
        expects: "a full report for the answer of that size only",
        alone: false,
        broken_by: &["unknown-fields-are-refused", "limit-is-ignored", "limit-is-half"],
        script: Script::Client(|stage| Box::pin(http_set(stage))),
    },
    Case {
        name: "client/limits/http-oversized",
        judges: &["SIZE-27", "SIZE-28"],
        transports: HTTP,
        does: "answers the first report with twice the limit and a new instance uid in it",
        expects: "the report comes again, under the old id",
        alone: true,
        broken_by: &[
            "sent-counts-as-reported",
            "limit-is-ignored",
            "oversized-answer-acknowledges",
            "broken-answer-is-final",
        ],
        script: Script::Client(|stage| Box::pin(http_oversized(stage))),
    },
    Case {
        name: "client/limits/gzip-bomb",
        judges: &["SIZE-26"],
        transports: HTTP,
        does: "asks for a full report in a small gzipped answer that inflates to twice the limit, \
               where the client announces gzip",
        expects: "no full report",
        alone: true,
        broken_by: &["limit-is-ignored", "limit-counts-gzipped-bytes"],
        script: Script::Client(|stage| Box::pin(gzip_bomb(stage))),
    },
    Case {
        name: "client/limits/too-large-for-the-server",
        judges: &["SIZE-24"],
        transports: HTTP,
        does: "answers the first report with 413",
        expects: "no copy of it",
        alone: false,
        broken_by: &["413-is-retried", "full-state-is-repeated"],
        script: Script::Client(|stage| Box::pin(too_large_for_the_server(stage))),
    },
    Case {
        name: "client/limits/websocket-report",
        judges: &["SIZE-15", "SIZE-16"],
        transports: WEBSOCKET,
        does: "has the effective configuration grow beyond a limit of 128 KiB",
        expects: "no message larger than that, and a connection that goes on",
        alone: false,
        broken_by: &["own-messages-have-no-limit"],
        script: Script::Client(|stage| Box::pin(websocket_report(stage))),
    },
    Case {
        name: "client/limits/http-report",
        judges: &["SIZE-33", "SIZE-34"],
        transports: HTTP,
        does: "has the effective configuration grow beyond a limit of 128 KiB",
        expects: "no request larger than that, and polls that go on",
        alone: false,
        broken_by: &["heartbeats-stop", "own-messages-have-no-limit"],
        script: Script::Client(|stage| Box::pin(http_report(stage))),
    },
];

/// The limit of a client that is told none.
fn default(stage: &ClientStage) -> Result<usize, Stop> {
    let limit = usize::try_from(stage.subject.max_message_size());
    limit.ok().filter(|limit| *limit <= 64 << 20).ok_or_else(|| {
        Stop::Unreached("the client's limit is larger than what the tester sends".to_owned())
    })
}

/// A message with a request for a full report, filled up to `size` bytes with zeros after it.
fn filled(message: &ServerToAgent, size: usize) -> (Vec<u8>, usize) {
    let mut bytes = message.encode_to_vec();
    let (head, zeros) = body::filler(bytes.len(), size);
    bytes.extend(head);
    (bytes, zeros)
}

/// Asks for a full report in a message of this size, in all that counts for the limit.
async fn ask_with(stage: &ClientStage, host: &mut Host, size: usize) -> Result<Reaction, Stop> {
    match stage.transport {
        Transport::WebSocket => {
            let (bytes, zeros) = filled(&request(host), size - 1);
            let start = body::frame(&bytes);
            let sending = host.websocket()?.send_filled(&start, zeros);
            // A client may stop reading; what it has to say then is heard next.
            let _ = timeout(stage.pace.work(), sending).await;
        }
        Transport::Http => {
            host.first(due(stage)).await?;
            let (bytes, zeros) = filled(&request(host), size);
            let fields = [("content-type", "application/x-protobuf")];
            let request = host.take_request()?;
            request.respond_as(200, &fields, bytes.into(), Delivery::Filled(zeros));
        }
    }
    Ok(reaction(host, undue(stage) + stage.pace.quiet()).await)
}

/// Whether a limit of this many bytes says something of this row: one that is not the default of
/// the specification was set by somebody.
fn shows(row: &str, limit: usize) -> bool {
    !matches!(row, "SIZE-02" | "SIZE-19") || limit == 64 << 20
}

/// Judges a limit of this many bytes to the byte: what has just this size is processed, and what
/// has one byte more is not.
async fn to_the_byte(
    stage: &mut ClientStage,
    host: &mut Host,
    limit: usize,
    rows: &[&str],
    cap: Option<&str>,
) -> Result<(), Stop> {
    host.answer().await;
    let seen = ask_with(stage, host, limit).await?;
    let actual = format!("{seen} for {limit} bytes");
    for row in rows.iter().filter(|row| shows(row, limit)) {
        stage.judge.expect(row, seen.is_full(), "what is within the limit", actual.clone());
    }
    if !seen.is_full() {
        return Ok(());
    }
    quiet(stage, host).await?;
    let seen = ask_with(stage, host, limit + 1).await?;
    let actual = format!("{seen} for {} bytes", limit + 1);
    for row in rows.iter().copied().chain(cap).filter(|row| shows(row, limit)) {
        let expected = "nothing is done about what is above the limit";
        stage.judge.expect(row, !seen.is_full(), expected, actual.clone());
    }
    Ok(())
}

async fn websocket_default(stage: &mut ClientStage) -> Result<(), Stop> {
    let limit = default(stage)?;
    let (mut host, _client, _) = calm(stage).await?;
    to_the_byte(stage, &mut host, limit, &["SIZE-01", "SIZE-02"], Some("SIZE-08")).await
}

async fn http_default(stage: &mut ClientStage) -> Result<(), Stop> {
    let limit = default(stage)?;
    let (mut host, _client, _) = calm(stage).await?;
    to_the_byte(stage, &mut host, limit, &["SIZE-18", "SIZE-19"], Some("SIZE-25")).await
}

/// A client that is told a small limit and has reported.
async fn told_a_limit(stage: &ClientStage) -> Result<(Host, Box<dyn Running>), Stop> {
    if !stage.subject.takes("max_message_size") {
        return Err(Stop::Missing("a way to tell the client a limit".to_owned()));
    }
    let mut host = stage.host().await?;
    let start = Start { max_message_size: Some(SMALL), ..stage.start_for(&host) };
    let client = stage.start(start).await?;
    host.first(stage.pace.start()).await?;
    ask(stage, &mut host).await?;
    quiet(stage, &mut host).await?;
    Ok((host, client))
}

async fn websocket_set(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client) = told_a_limit(stage).await?;
    to_the_byte(stage, &mut host, SMALL as usize, &["SIZE-03"], None).await
}

async fn http_set(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client) = told_a_limit(stage).await?;
    to_the_byte(stage, &mut host, SMALL as usize, &["SIZE-20"], None).await
}

async fn websocket_oversized(stage: &mut ClientStage) -> Result<(), Stop> {
    let limit = default(stage)?;
    let (mut host, _client, _) = calm(stage).await?;
    let seen = ask_with(stage, &mut host, 2 * limit).await?;
    let actual = format!("{seen} for {} bytes", 2 * limit);
    stage.judge.expect("SIZE-10", !seen.is_full(), "nothing is done about it", actual.clone());
    let is_1009 = matches!(seen, Reaction::Closed(Some(1009), _));
    stage.judge.expect("SIZE-11", is_1009, "a Close with 1009", actual);
    Ok(())
}

async fn deflate_bomb(stage: &mut ClientStage) -> Result<(), Stop> {
    let limit = default(stage)?;
    let mut host = stage.host().await?;
    host.deflate = true;
    let _client = stage.start(stage.start_for(&host)).await?;
    host.first(stage.pace.start()).await?;
    ask(stage, &mut host).await?;
    if !host.websocket()?.is_deflate() {
        let why = "the client does not offer permessage-deflate".to_owned();
        return Err(Stop::NotApplicable(why));
    }
    // First one that is within the limit, to see that the client reads compressed messages.
    for (size, is_bomb) in [(1 << 10, false), (2 * limit, true)] {
        quiet(stage, &mut host).await?;
        let (bytes, zeros) = filled(&request(&host), size);
        let payload = body::deflate_bomb_after(&body::frame(&bytes), zeros);
        let small = payload.len();
        let frame = Frame { fin: true, rsv1: true, opcode: Opcode::Binary, payload };
        // What the connection came to is told next.
        let _ = timeout(stage.pace.work(), host.websocket()?.send_frame(frame)).await;
        let within = if is_bomb { undue(stage) + stage.pace.quiet() } else { due(stage) };
        let seen = reaction(&mut host, within).await;
        if !is_bomb && !seen.is_full() {
            return Err(Stop::Unreached(format!("asked in a compressed message, {seen}")));
        }
        if is_bomb {
            let actual = format!("{seen} for {small} bytes that inflate to {size}");
            stage.judge.expect("SIZE-09", !seen.is_full(), "nothing is done about it", actual);
        }
    }
    Ok(())
}

async fn http_oversized(stage: &mut ClientStage) -> Result<(), Stop> {
    let limit = default(stage)?;
    let (mut host, _client, _) = stage.meet().await?;
    let new_instance_uid = crate::wire::uid::fresh(&mut stage.rng, crate::wire::uid::now_ms());
    let identification =
        opamp_proto::v1::AgentIdentification { new_instance_uid: new_instance_uid.clone() };
    let message = ServerToAgent { agent_identification: Some(identification), ..host.message() };
    let (bytes, zeros) = filled(&message, 2 * limit);
    let fields = [("content-type", "application/x-protobuf")];
    host.take_request()?.respond_as(200, &fields, bytes.into(), Delivery::Filled(zeros));
    let mut renamed = false;
    let within = stage.pace.comeback() + stage.heartbeat();
    let again = host.hear(within, |message| {
        renamed |= message.instance_uid == new_instance_uid;
        renamed || message.agent_description.is_some()
    });
    let again = again.await.is_some() && !renamed;
    let actual = if renamed { "the client takes the new id" } else { "it keeps its id" };
    stage.judge.expect("SIZE-28", !renamed, "nothing is done about the answer", actual);
    let actual = match again {
        true => "it comes again".to_owned(),
        false => format!("it does not come again within {:.0} s", within.as_secs_f64()),
    };
    stage.judge.expect("SIZE-27", again, "the report, which was not acknowledged", actual);
    Ok(())
}

async fn gzip_bomb(stage: &mut ClientStage) -> Result<(), Stop> {
    let limit = default(stage)?;
    let (mut host, _client, _) = calm(stage).await?;
    // First one that is within the limit, to see that the client reads compressed answers.
    for (size, is_bomb) in [(1 << 10, false), (2 * limit, true)] {
        quiet(stage, &mut host).await?;
        announces_gzip(stage, &mut host).await?;
        let (bytes, zeros) = filled(&request(&host), size);
        let answer = body::bomb_after(&bytes, zeros);
        let small = answer.len();
        let fields = [("content-type", "application/x-protobuf"), ("content-encoding", "gzip")];
        host.take_request()?.respond(200, &fields, answer);
        // A failed exchange is followed by a pause of the client's own choice.
        let within = if is_bomb { undue(stage) + stage.pace.reply() } else { due(stage) };
        let seen = reaction(&mut host, within).await;
        if !is_bomb && !seen.is_full() {
            return Err(Stop::Unreached(format!("asked in a gzipped answer, {seen}")));
        }
        if is_bomb {
            let actual = format!("{seen} for {small} bytes that inflate to {size}");
            stage.judge.expect("SIZE-26", !seen.is_full(), "nothing is done about it", actual);
        }
    }
    Ok(())
}

async fn too_large_for_the_server(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, first) = stage.meet().await?;
    reports_something(&first)?;
    host.take_request()?.respond(413, &[], Bytes::new());
    let within = 2 * stage.heartbeat() + 2 * stage.pace.reply();
    let until = Instant::now() + within;
    let mut copies = 0;
    while let Some(message) =
        host.hear(until.saturating_duration_since(Instant::now()), |_| true).await
    {
        copies += u32::from(content(&message) == content(&first));
    }
    let actual = format!("{copies} copies within {:.1} s", within.as_secs_f64());
    stage.judge.expect("SIZE-24", copies == 0, "no copy of the refused request", actual);
    Ok(())
}

/// Has the agent report more than its limit allows, and gives the size of its largest message and
/// whether the session goes on.
async fn report_too_much(stage: &ClientStage) -> Result<(usize, bool), Stop> {
    let (mut host, mut client) = told_a_limit(stage).await?;
    let full = ask(stage, &mut host).await?;
    stage.requires(&full, mask::REPORTS_EFFECTIVE_CONFIG)?;
    let body = format!("filler: {}\n", "x".repeat(2 * SMALL as usize));
    stage.hook(&mut *client, Action::SetEffectiveConfig { body }).await?;
    let mut largest = 0;
    let until = Instant::now() + stage.pace.quiet() + 2 * stage.heartbeat().min(stage.pace.reply());
    loop {
        match host.next(until.saturating_duration_since(Instant::now())).await {
            Heard::Message(message) => largest = largest.max(message.encoded_len()),
            Heard::Malformed(_) => {}
            Heard::Closed(..) => break,
            Heard::Silence => break,
        }
    }
    let goes_on = match stage.transport {
        Transport::WebSocket => host.is_connected(),
        Transport::Http => host.hear(stage.heartbeat() + due(stage), |_| true).await.is_some(),
    };
    Ok((largest, goes_on))
}

/// Judges the size of reports on both of these rows; what counts beside the message is `extra`.
async fn own_limit(stage: &mut ClientStage, rows: [&str; 2], extra: usize) -> Result<(), Stop> {
    let (largest, goes_on) = report_too_much(stage).await?;
    let largest = largest + extra;
    let holds = largest <= SMALL as usize;
    let actual = format!("the largest message has {largest} bytes; the session goes on: {goes_on}");
    stage.judge.expect(rows[0], holds, "no message above 128 KiB", actual.clone());
    let expected = "no message above 128 KiB, and a session that goes on";
    stage.judge.expect(rows[1], holds && goes_on, expected, actual);
    Ok(())
}

async fn websocket_report(stage: &mut ClientStage) -> Result<(), Stop> {
    own_limit(stage, ["SIZE-15", "SIZE-16"], 1).await
}

async fn http_report(stage: &mut ClientStage) -> Result<(), Stop> {
    own_limit(stage, ["SIZE-33", "SIZE-34"], 0).await
}
