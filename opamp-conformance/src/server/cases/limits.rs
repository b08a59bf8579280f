//! How large messages may be, as sent and when decompressed.
//!
//! The limits are those the tester is told the server is configured with. Where a server takes more
//! or less than that, a second attempt tells a limit that counts something else from one that is
//! elsewhere.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use prost::Message as _;
use tokio::time::timeout;

use crate::case::{Case, Script};
use crate::judge::Stop;
use crate::mask::agent::REPORTS_STATUS;
use crate::report::Transport;
use crate::server::agent::{PROTOBUF, reply_in};
use crate::server::{Agent, Heard, ServerStage};
use crate::wire::body;
use crate::wire::ws::{Frame, Opcode};

/// The limit a server has by default.
const DEFAULT: usize = 64 << 20;
/// The largest limit the tester tries.
const MOST: usize = 128 << 20;
/// The smallest: a report has to fit well.
const LEAST: usize = 4 << 10;
/// How far from the limit a server is that counts something else, such as the header or not.
const CLEARLY: usize = 1 << 10;
/// How much larger than the limit a message becomes when decompressed.
const INFLATED: usize = 4;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "server/limits/websocket",
        judges: &["SIZE-01", "SIZE-02", "SIZE-03", "SIZE-04", "SIZE-06", "SIZE-07"],
        transports: &[Transport::WebSocket],
        does: "sends messages of exactly the largest size, header included, and one byte more",
        expects: "the first is processed, the second is not, and the connection is closed with 1009",
        alone: true,
        broken_by: &[
            "websocket-limit-is-one-off",
            "websocket-limit-is-half",
            "websocket-limit-is-missing",
            "too-large-closes-with-1002",
        ],
        script: Script::Server(|stage| Box::pin(websocket(stage))),
    },
    Case {
        name: "server/limits/fragments",
        judges: &["SIZE-04", "SIZE-07"],
        transports: &[Transport::WebSocket],
        does: "sends fragments of a message that never ends, until they are more than a message may be",
        expects: "the connection is closed with 1009 before the message is whole",
        alone: true,
        broken_by: &["websocket-limit-is-missing", "too-large-closes-with-1002"],
        script: Script::Server(|stage| Box::pin(fragments(stage))),
    },
    Case {
        name: "server/limits/inflated-message",
        judges: &["SIZE-05", "SIZE-07"],
        transports: &[Transport::WebSocket],
        does: "sends small messages compressed by permessage-deflate that become one byte, and four times, \
               larger than a message may be",
        expects: "neither is processed, and the connection is closed with 1009",
        alone: true,
        broken_by: &[
            "inflated-messages-are-not-limited",
            "websocket-limit-is-one-off",
            "websocket-limit-is-missing",
            "too-large-closes-with-1002",
        ],
        script: Script::Server(|stage| Box::pin(inflated_message(stage))),
    },
    Case {
        name: "server/limits/http",
        judges: &["SIZE-18", "SIZE-19", "SIZE-20", "SIZE-21", "SIZE-23"],
        transports: &[Transport::Http],
        does: "posts bodies of exactly the largest size and one byte more",
        expects: "the first is processed, the second is answered with status 413",
        alone: true,
        broken_by: &[
            "http-limit-is-one-off",
            "http-limit-is-half",
            "http-limit-is-missing",
            "too-large-is-400",
        ],
        script: Script::Server(|stage| Box::pin(http(stage))),
    },
    Case {
        name: "server/limits/inflated-body",
        judges: &["SIZE-22", "SIZE-23"],
        transports: &[Transport::Http],
        does: "posts small gzipped bodies that become one byte, and four times, larger than a body may be",
        expects: "both are answered with status 413",
        alone: true,
        broken_by: &[
            "inflated-bodies-are-not-limited",
            "http-limit-is-one-off",
            "http-limit-is-missing",
            "too-large-is-400",
        ],
        script: Script::Server(|stage| Box::pin(inflated_body(stage))),
    },
];

/// The limit to test, where the tester can.
fn limit(stage: &ServerStage) -> Result<usize, Stop> {
    let limit = usize::try_from(stage.target.max_message_size).unwrap_or(usize::MAX);
    if (LEAST..=MOST).contains(&limit) {
        return Ok(limit);
    }
    Err(Stop::Missing(format!("a server that is configured to take {LEAST} to {MOST} bytes")))
}

/// The sizes that messages are inflated to: one more than the limit only where it was configured,
/// as the default is only advised.
fn inflated_sizes(limit: usize) -> Vec<usize> {
    let mut sizes = vec![limit + 1, limit * INFLATED];
    if limit == DEFAULT {
        sizes.remove(0);
    }
    sizes
}

/// A report that a field of zeros, which nobody knows, makes this long; in two parts, the zeros and
/// what is before them.
fn report_of(agent: &mut Agent, is_framed: bool, size: usize) -> (Vec<u8>, usize) {
    let report = agent.full_report().encode_to_vec();
    let start = if is_framed { body::frame(&report).to_vec() } else { report };
    let (filler, zeros) = body::filler(start.len(), size);
    ([&start[..], &filler].concat(), zeros)
}

/// What came of sizes around the limit.
struct Found {
    limit: usize,
    /// Sizes and what came of them, the limit first, one more second.
    tried: Vec<(usize, Heard)>,
}

/// The rows a limit of one transport is judged by.
struct Rows {
    exact: &'static str,
    by_default: &'static str,
    configurable: &'static str,
    exists: &'static str,
}

impl Found {
    fn new(limit: usize) -> Self {
        Self { limit, tried: Vec::new() }
    }

    fn takes(&self, index: usize) -> bool {
        self.tried.get(index).is_some_and(|(_, heard)| heard.good().is_some())
    }

    /// The size to try next, until all is known.
    fn next(&self) -> Option<usize> {
        let limit = self.limit;
        match self.tried.len() {
            0 => Some(limit),
            1 => Some(limit + 1),
            2 if !self.takes(0) => Some(limit - CLEARLY),
            2 if self.takes(1) => Some(limit + CLEARLY),
            // Where nobody set a limit there may be another one, as the default is only advised.
            3 if self.takes(1) && self.takes(2) && limit == DEFAULT => Some(2 * limit),
            _ => None,
        }
    }

    /// What came of the first size above the limit that was not taken; of the last, where all were.
    fn refused(&self) -> &Heard {
        let mut above = self.tried.iter().filter(|(size, _)| *size > self.limit);
        let refused = above.clone().find(|(_, heard)| heard.good().is_none());
        refused.or(above.next_back()).map_or(&Heard::Silence, |(_, heard)| heard)
    }

    fn judge(&self, stage: &mut ServerStage, rows: &Rows) {
        let judge = &mut stage.judge;
        let limit = self.limit;
        // A limit that is near is there, but counts something else.
        let is_near = self.tried.len() == 2 || self.takes(2) != self.takes(0);
        let expected = format!("{limit} bytes are taken, one more is not");
        let seen = self.tried.iter().map(|(size, heard)| format!("{size} bytes: {heard}"));
        let actual = seen.collect::<Vec<_>>().join("; ");
        if is_near {
            let is_exact = self.takes(0) && !self.takes(1);
            judge.expect(rows.exact, is_exact, expected.as_str(), actual.as_str());
        } else {
            judge.untestable(rows.exact, "the limit is not where the tester is told it is");
        }
        let (shown, other, why) = if limit == DEFAULT {
            (rows.by_default, rows.configurable, "no other limit is configured")
        } else {
            (rows.configurable, rows.by_default, "another limit is configured")
        };
        judge.expect(shown, is_near, expected, actual.as_str());
        judge.untestable(other, why);
        let is_limited = self.refused().good().is_none();
        let expected = "a message that is too large is not processed";
        judge.expect(rows.exists, is_limited, expected, actual);
    }
}

/// Sends a frame on a new connection and hears what comes of it.
async fn send(agent: &mut Agent, frame: Frame) -> Result<Heard, Stop> {
    let patience = agent.patience;
    // What became of the connection is told by what comes next.
    let _ = timeout(patience, agent.websocket()?.send_frame(frame)).await;
    Ok(agent.next(patience).await)
}

async fn send_size(stage: &mut ServerStage, size: usize) -> Result<Heard, Stop> {
    let mut agent = stage.connected(REPORTS_STATUS).await?;
    agent.patience = stage.pace.work();
    let (mut message, zeros) = report_of(&mut agent, true, size);
    message.resize(message.len() + zeros, 0);
    send(&mut agent, Frame::binary(message.into())).await
}

/// Ends the case for a server that does not take such a report even where it is small.
fn takes_small(heard: &Heard) -> Result<(), Stop> {
    match heard.good() {
        Some(_) => Ok(()),
        None => Err(Stop::Unreached(format!("{heard} in answer to a small report of that kind"))),
    }
}

async fn websocket(stage: &mut ServerStage) -> Result<(), Stop> {
    let limit = limit(stage)?;
    takes_small(&send_size(stage, LEAST / 2).await?)?;
    let mut found = Found::new(limit);
    while let Some(size) = found.next() {
        let heard = send_size(stage, size).await?;
        found.tried.push((size, heard));
    }
    let rows = Rows {
        exact: "SIZE-01",
        by_default: "SIZE-02",
        configurable: "SIZE-03",
        exists: "SIZE-04",
    };
    found.judge(stage, &rows);
    closes_with_1009(stage, "SIZE-06", found.refused());
    Ok(())
}

/// Judges what came of a message that is too large.
fn closes_with_1009(stage: &mut ServerStage, row: &str, heard: &Heard) {
    let expected = "the message is not processed";
    stage.judge.expect(row, heard.good().is_none(), expected, heard.to_string());
    let holds = matches!(heard, Heard::Closed(Some(1009), _));
    stage.judge.expect("SIZE-07", holds, "a Close frame with 1009", heard.to_string());
}

async fn fragments(stage: &mut ServerStage) -> Result<(), Stop> {
    let limit = limit(stage)?;
    let mut agent = stage.connected(REPORTS_STATUS).await?;
    let patience = stage.pace.work();
    let start = body::frame(&agent.full_report().encode_to_vec());
    let piece = Bytes::from(vec![0; limit / 4]);
    let mut heard = Heard::Silence;
    let pieces = if limit == DEFAULT { 4 * INFLATED } else { 6 };
    for at in 0..pieces {
        let frame = Frame {
            fin: false,
            rsv1: false,
            opcode: if at == 0 { Opcode::Binary } else { Opcode::Continuation },
            payload: if at == 0 { start.clone() } else { piece.clone() },
        };
        // What became of the connection is told by what comes next.
        let _ = timeout(patience, agent.websocket()?.send_frame(frame)).await;
        heard = agent.next(stage.pace.of(0.05)).await;
        if !matches!(heard, Heard::Silence) {
            break;
        }
    }
    if matches!(heard, Heard::Silence) {
        heard = agent.next(stage.pace.reply()).await;
    }
    let holds = !matches!(heard, Heard::Silence);
    let expected = "the connection is closed before the message is whole";
    stage.judge.expect("SIZE-04", holds, expected, heard.to_string());
    let holds = matches!(heard, Heard::Closed(Some(1009), _));
    stage.judge.expect("SIZE-07", holds, "a Close frame with 1009", heard.to_string());
    Ok(())
}

async fn inflated_message(stage: &mut ServerStage) -> Result<(), Stop> {
    let limit = limit(stage)?;
    for size in inflated_sizes(limit) {
        let mut agent = stage.agent(REPORTS_STATUS);
        agent.patience = stage.pace.work();
        let extension = HeaderValue::from_static(
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        );
        agent.dialer.headers.insert(header::SEC_WEBSOCKET_EXTENSIONS, extension);
        agent.connect().await?;
        if !agent.websocket()?.is_deflate() {
            let why = "the server does not agree on permessage-deflate";
            return Err(Stop::NotApplicable(why.to_owned()));
        }
        let compressed = |payload| Frame { fin: true, rsv1: true, opcode: Opcode::Binary, payload };
        let report = body::frame(&agent.full_report().encode_to_vec());
        let heard = send(&mut agent, compressed(body::deflate(&report))).await?;
        takes_small(&heard)?;
        let (start, zeros) = report_of(&mut agent, true, size);
        let bomb = body::deflate_bomb_after(&start, zeros);
        let heard = send(&mut agent, compressed(bomb)).await?;
        closes_with_1009(stage, "SIZE-05", &heard);
    }
    Ok(())
}

/// Posts a body and hears what comes of it.
async fn post(agent: &mut Agent, coding: &'static str, body: Bytes) -> Heard {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, PROTOBUF);
    if !coding.is_empty() {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding));
    }
    match agent.request(Method::POST, &headers, body).await {
        Ok(response) if response.status().as_u16() == 200 => reply_in(&response),
        Ok(response) => {
            let status = response.status();
            Heard::Closed(Some(status.as_u16()), format!("HTTP status {status}"))
        }
        Err(stop) => Heard::Closed(None, stop.to_string()),
    }
}

async fn post_size(stage: &mut ServerStage, size: usize) -> Result<Heard, Stop> {
    let mut agent = stage.connected(REPORTS_STATUS).await?;
    agent.patience = stage.pace.work();
    let (mut body, zeros) = report_of(&mut agent, false, size);
    body.resize(body.len() + zeros, 0);
    Ok(post(&mut agent, "", body.into()).await)
}

async fn http(stage: &mut ServerStage) -> Result<(), Stop> {
    let limit = limit(stage)?;
    takes_small(&post_size(stage, LEAST / 2).await?)?;
    let mut found = Found::new(limit);
    while let Some(size) = found.next() {
        let heard = post_size(stage, size).await?;
        found.tried.push((size, heard));
    }
    let rows = Rows {
        exact: "SIZE-18",
        by_default: "SIZE-19",
        configurable: "SIZE-20",
        exists: "SIZE-21",
    };
    found.judge(stage, &rows);
    let refused = found.refused();
    let holds = matches!(refused, Heard::Closed(Some(413), _));
    stage.judge.expect("SIZE-23", holds, "HTTP status 413", refused.to_string());
    Ok(())
}

async fn inflated_body(stage: &mut ServerStage) -> Result<(), Stop> {
    let limit = limit(stage)?;
    for size in inflated_sizes(limit) {
        let mut agent = stage.connected(REPORTS_STATUS).await?;
        agent.patience = stage.pace.work();
        let small = body::gzip(&agent.full_report().encode_to_vec());
        takes_small(&post(&mut agent, "gzip", small).await)?;
        let (start, zeros) = report_of(&mut agent, false, size);
        let heard = post(&mut agent, "gzip", body::bomb_after(&start, zeros)).await;
        let actual = format!("after a body that becomes {size} bytes: {heard}");
        let holds = heard.good().is_none();
        stage.judge.expect("SIZE-22", holds, "the message is not processed", actual.as_str());
        let holds = matches!(heard, Heard::Closed(Some(413), _));
        stage.judge.expect("SIZE-23", holds, "HTTP status 413", actual);
    }
    Ok(())
}
