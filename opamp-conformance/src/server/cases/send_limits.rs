//! How large what the server sends may be. It takes a server that is configured with a small limit,
//! and a hook that has it offer more than that.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use prost::Message as _;
use tokio::time::{Instant, sleep};

use crate::case::{Case, Script};
use crate::hook::Action;
use crate::judge::Stop;
use crate::log::{Entry, Event};
use crate::report::{By, Transport};
use crate::server::agent::PROTOBUF;
use crate::server::offer::one_file;
use crate::server::{Agent, Heard, ServerStage};

/// The largest limit for which a configuration is handed to a hook.
const MOST: u64 = 4 << 20;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "server/limits/websocket-send",
        judges: &["SIZE-12", "SIZE-13"],
        transports: &[Transport::WebSocket],
        does: "has a configuration offered that is larger than what the server may send, and that \
               compresses well",
        expects: "no message is larger than that, and the session goes on",
        alone: false,
        broken_by: &["send-limit-is-missing"],
        script: Script::Server(|stage| Box::pin(websocket(stage))),
    },
    Case {
        name: "server/limits/http-send",
        judges: &["SIZE-30", "SIZE-31"],
        transports: &[Transport::Http],
        does: "has a configuration offered that is larger than what the server may send, and polls, \
               accepting gzip",
        expects: "no response is larger than that, compressed or not, and each poll gets one",
        alone: false,
        broken_by: &["send-limit-is-missing", "send-limit-counts-compressed-bytes"],
        script: Script::Server(|stage| Box::pin(http(stage))),
    },
];

/// Has more offered than may be sent; gives the limit and the agent.
async fn offer_too_much(stage: &mut ServerStage) -> Result<(usize, Agent), Stop> {
    let limit = stage.target.max_send_size.filter(|limit| *limit <= MOST);
    let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else {
        let what = "a server that is configured to send 4 MiB or less, and the tester told so";
        return Err(Stop::Missing(what.to_owned()));
    };
    let (agent, _) = stage.configurable().await?;
    let line = "# a line that repeats itself\n";
    let files = one_file(&line.repeat(2 * limit / line.len()));
    let action = Action::OfferConfig { instance_uid: agent.uid_text(), files };
    match stage.try_hook(action).await? {
        Ok(_) => Ok((limit, agent)),
        Err(why) => Err(Stop::Unreached(format!("the server does not take it to offer: {why}"))),
    }
}

async fn websocket(stage: &mut ServerStage) -> Result<(), Stop> {
    let (limit, mut agent) = offer_too_much(stage).await?;
    let until = Instant::now() + stage.pace.quiet();
    while let Heard::Message(_) = agent.next(until - Instant::now().min(until)).await {}
    let report = agent.full_report();
    let heard = agent.ask(report).await?;
    let holds = matches!(heard, Heard::Message(_));
    let expected = "the next report is answered";
    stage.judge.expect("SIZE-12", holds, expected, heard.to_string());
    let largest = largest(&stage.log.entries());
    for row in ["SIZE-12", "SIZE-13"] {
        let actual = format!("the largest message has {largest} bytes");
        stage.judge.expect(row, largest <= limit, format!("at most {limit} bytes"), actual);
    }
    Ok(())
}

async fn http(stage: &mut ServerStage) -> Result<(), Stop> {
    let (limit, mut agent) = offer_too_much(stage).await?;
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, PROTOBUF);
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
    let until = Instant::now() + stage.pace.quiet();
    while Instant::now() < until {
        let poll = Bytes::from(agent.message().encode_to_vec());
        let response = agent.request(Method::POST, &headers, poll).await;
        let actual = match &response {
            Ok(response) => format!("status {}", response.status()),
            Err(stop) => stop.to_string(),
        };
        stage.judge.expect("SIZE-31", response.is_ok(), "an HTTP response", actual);
        sleep(stage.pace.poll()).await;
    }
    let largest = largest(&stage.log.entries());
    for row in ["SIZE-30", "SIZE-31"] {
        let actual = format!("the largest response has {largest} bytes when decompressed");
        stage.judge.expect(row, largest <= limit, format!("at most {limit} bytes"), actual);
    }
    Ok(())
}

/// The size of the largest OpAMP message of the server, decompressed.
fn largest(entries: &[Entry]) -> usize {
    let of_server = entries.iter().filter(|entry| entry.by == By::Subject);
    let sizes = of_server.map(|entry| match &entry.event {
        Event::Message { payload, .. } => payload.len(),
        Event::Response { .. } => entry.opamp().map_or(0, |message| message.len()),
        _ => 0,
    });
    sizes.max().unwrap_or_default()
}
