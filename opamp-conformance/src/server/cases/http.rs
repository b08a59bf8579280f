//! Plain HTTP: bodies and their coding, content types, and how it compares with a WebSocket.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, header};
use opamp_proto::v1::{ComponentHealth, ServerToAgent};
use prost::Message as _;
use tokio::time::{Instant, sleep};

use crate::case::{Case, Script};
use crate::hook::Action;
use crate::judge::Stop;
use crate::mask::agent as mask;
use crate::mask::{flag, server};
use crate::report::Transport;
use crate::server::agent::{PROTOBUF, reply_in};
use crate::server::offer::{CONFIGURABLE, one_file};
use crate::server::{Agent, Heard, ServerStage};
use crate::wire::body;
use crate::wire::http_client::field;

/// Size of a configuration that is worth compressing.
const LARGE: usize = 4_096;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "server/http/exchange",
        judges: &["HTTP-03", "HTTP-04", "HTTP-21"],
        transports: &[Transport::Http],
        does: "posts a report and a heartbeat, both uncompressed",
        expects: "each response has status 200 and is a bare ServerToAgent to the agent",
        alone: false,
        broken_by: &["http-heartbeats-get-no-content", "uncompressed-bodies-are-refused"],
        script: Script::Server(|stage| Box::pin(exchange(stage))),
    },
    Case {
        name: "server/http/gzip",
        judges: &["HTTP-19", "HTTP-20"],
        transports: &[Transport::Http],
        does: "posts a gzipped report, announced as such",
        expects: "it is answered like any other",
        alone: false,
        broken_by: &["gzip-is-refused", "answers-to-gzip-have-a-header"],
        script: Script::Server(|stage| Box::pin(gzip(stage))),
    },
    Case {
        name: "server/http/wrong-coding",
        judges: &["HTTP-19"],
        transports: &[Transport::Http],
        does: "posts reports whose Content-Encoding is not that of the body: gzip that is not \
               announced, gzip that is none, a coding nobody knows",
        expects: "none is processed",
        alone: false,
        broken_by: &["malformed-is-acknowledged", "gzip-is-sniffed", "unknown-codings-are-ignored"],
        script: Script::Server(|stage| Box::pin(wrong_coding(stage))),
    },
    Case {
        name: "server/http/content-type",
        judges: &["HTTP-15"],
        transports: &[Transport::Http],
        does: "posts reports of the content type, also in capitals, with a parameter and with an \
               Upgrade field, and gets with it",
        expects: "each post is answered as plain HTTP, and the get is refused",
        alone: false,
        broken_by: &["content-type-is-compared-exactly", "upgrade-wins", "any-method-is-taken"],
        script: Script::Server(|stage| Box::pin(content_type(stage))),
    },
    Case {
        name: "server/http/other-content-type",
        judges: &["HTTP-16"],
        transports: &[Transport::Http],
        does: "posts reports without a content type and with others",
        expects: "each gets an HTTP error, as it is no WebSocket handshake",
        alone: false,
        broken_by: &["any-content-type-is-taken"],
        script: Script::Server(|stage| Box::pin(other_content_type(stage))),
    },
    Case {
        name: "server/http/response-coding",
        judges: &["HTTP-25"],
        transports: &[Transport::Http],
        does: "posts without Accept-Encoding, with `gzip;q=0` and with another coding, also where the \
               response is large",
        expects: "no response is compressed",
        alone: false,
        broken_by: &["responses-are-always-compressed", "weights-are-not-looked-at"],
        script: Script::Server(|stage| Box::pin(response_coding(stage))),
    },
    Case {
        name: "server/http/compressed-response",
        judges: &["HTTP-24"],
        transports: &[Transport::Http],
        does: "has a large configuration offered to an agent that accepts gzip",
        expects: "the response with the offer is gzipped",
        alone: false,
        broken_by: &["responses-are-never-compressed"],
        script: Script::Server(|stage| Box::pin(compressed_response(stage))),
    },
    Case {
        name: "server/http/offer-waits",
        judges: &["HTTP-10"],
        transports: &[Transport::Http],
        does: "has a configuration offered while the agent has no request open, then polls",
        expects: "the response to the poll has the offer",
        alone: false,
        broken_by: &["nothing-is-offered-over-http"],
        script: Script::Server(|stage| Box::pin(offer_waits(stage))),
    },
    Case {
        name: "server/http/like-websocket",
        judges: &["HTTP-13"],
        transports: &[Transport::Http],
        does: "has the same conversation over a WebSocket and over plain HTTP: a report, a change, a gap \
               in the numbers",
        expects: "what the server says is the same",
        alone: false,
        broken_by: &["gaps-are-ignored-over-http"],
        script: Script::Server(|stage| Box::pin(like_websocket(stage))),
    },
];

/// Posts with these header fields, which replace the usual ones; an empty value removes one.
async fn post(
    agent: &mut Agent,
    fields: &[(HeaderName, &'static str)],
    body: Bytes,
) -> Result<Response<Bytes>, Stop> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, PROTOBUF);
    for (name, value) in fields {
        if value.is_empty() {
            headers.remove(name);
        } else {
            headers.insert(name.clone(), HeaderValue::from_static(value));
        }
    }
    agent.request(Method::POST, &headers, body).await
}

/// The reply in a response.
fn heard(response: &Response<Bytes>) -> Heard {
    match response.status().as_u16() {
        200 => reply_in(response),
        status => Heard::Closed(Some(status), format!("HTTP status {}", response.status())),
    }
}

fn coding(response: &Response<Bytes>) -> String {
    field(response.headers(), header::CONTENT_ENCODING)
}

async fn exchange(stage: &mut ServerStage) -> Result<(), Stop> {
    let mut agent = stage.agent(mask::REPORTS_STATUS | mask::REPORTS_HEARTBEAT);
    let report = body::gzip(&agent.full_report().encode_to_vec());
    let zipped = post(&mut agent, &[(header::CONTENT_ENCODING, "gzip")], report).await?;
    let mut is_served = zipped.status().as_u16() == 200;
    for message in [agent.full_report(), agent.message()] {
        let response = post(&mut agent, &[], message.encode_to_vec().into()).await?;
        let heard = heard(&response);
        is_served |= response.status().as_u16() == 200;
        if !is_served {
            return Err(Stop::Unreached(format!("plain HTTP is not served: {heard}")));
        }
        let actual =
            format!("{heard}, of type {:?}", field(response.headers(), header::CONTENT_TYPE));
        let is_to_agent =
            matches!(&heard, Heard::Message(reply) if reply.instance_uid == agent.uid);
        let judge = &mut stage.judge;
        judge.expect("HTTP-21", heard.good().is_some(), "a reply without error", actual.as_str());
        judge.expect("HTTP-04", is_to_agent, "a reply to the agent", actual.as_str());
        let is_bare = matches!(heard, Heard::Message(_));
        judge.expect("HTTP-03", is_bare, "a bare ServerToAgent", actual);
    }
    Ok(())
}

async fn gzip(stage: &mut ServerStage) -> Result<(), Stop> {
    let mut agent = stage.connected(mask::REPORTS_STATUS).await?;
    let report = body::gzip(&agent.full_report().encode_to_vec());
    let response = post(&mut agent, &[(header::CONTENT_ENCODING, "gzip")], report).await?;
    let heard = heard(&response);
    for row in ["HTTP-19", "HTTP-20"] {
        let holds = heard.good().is_some();
        stage.judge.expect(row, holds, "a reply without error", heard.to_string());
    }
    Ok(())
}

async fn wrong_coding(stage: &mut ServerStage) -> Result<(), Stop> {
    for (what, coding, is_gzip) in [
        ("gzip that is not announced", "", true),
        ("no gzip where gzip is announced", "gzip", false),
        ("a coding nobody knows", "x-conformance", false),
    ] {
        let mut agent = stage.connected(mask::REPORTS_STATUS).await?;
        let report = Bytes::from(agent.full_report().encode_to_vec());
        let body = if is_gzip { body::gzip(&report) } else { report };
        let response = post(&mut agent, &[(header::CONTENT_ENCODING, coding)], body).await?;
        let heard = heard(&response);
        let actual = format!("after {what}: {heard}");
        let expected = "an HTTP error, or an error in reply";
        let is_refused = response.status().as_u16() >= 400 || heard.error().is_some();
        stage.judge.expect("HTTP-19", is_refused, expected, actual);
    }
    Ok(())
}

async fn content_type(stage: &mut ServerStage) -> Result<(), Stop> {
    let forms: [(&str, &[(HeaderName, &str)]); 4] = [
        ("as it is", &[]),
        ("in capitals", &[(header::CONTENT_TYPE, "Application/X-Protobuf")]),
        ("with a parameter", &[(header::CONTENT_TYPE, "application/x-protobuf; charset=utf-8")]),
        (
            "with the fields of a handshake",
            &[
                (header::CONNECTION, "Upgrade"),
                (header::UPGRADE, "websocket"),
                (header::SEC_WEBSOCKET_VERSION, "13"),
                (header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ=="),
            ],
        ),
    ];
    for (form, fields) in forms {
        let mut agent = stage.connected(mask::REPORTS_STATUS).await?;
        let report = agent.full_report().encode_to_vec().into();
        let heard = heard(&post(&mut agent, fields, report).await?);
        let actual = format!("for the content type {form}: {heard}");
        let expected = "a reply without error";
        stage.judge.expect("HTTP-15", heard.good().is_some(), expected, actual);
    }
    let mut agent = stage.agent(mask::REPORTS_STATUS);
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, PROTOBUF);
    let response = agent.request(Method::GET, &headers, Bytes::new()).await?;
    let actual = format!("status {}", response.status());
    let is_refused = response.status().is_client_error();
    stage.judge.expect("HTTP-15", is_refused, "a 4xx in answer to a GET", actual);
    Ok(())
}

async fn other_content_type(stage: &mut ServerStage) -> Result<(), Stop> {
    for value in ["", "text/plain", "application/json"] {
        let mut agent = stage.connected(mask::REPORTS_STATUS).await?;
        let report = agent.full_report().encode_to_vec().into();
        let response = post(&mut agent, &[(header::CONTENT_TYPE, value)], report).await?;
        let status = response.status();
        let is_error = status.is_client_error() || status.is_server_error();
        let actual = format!("status {status} in answer to a post of type {value:?}");
        stage.judge.expect("HTTP-16", is_error, "an HTTP error", actual);
    }
    Ok(())
}

/// Has a configuration offered that is large and can be compressed well.
async fn offer_large(stage: &mut ServerStage, instance_uid: String) -> Result<(), Stop> {
    let files = one_file(&"# a line that repeats itself\n".repeat(400));
    stage.hook(Action::OfferConfig { instance_uid, files }).await?;
    Ok(())
}

/// Polls until a response has a large configuration, which is not what a server offers of its own
/// accord; gives that response.
async fn offered(
    stage: &ServerStage,
    agent: &mut Agent,
    fields: &[(HeaderName, &'static str)],
) -> Result<Response<Bytes>, Stop> {
    let until = Instant::now() + stage.pace.reply();
    loop {
        let poll = agent.message().encode_to_vec();
        let response = post(agent, fields, poll.into()).await?;
        match heard(&response) {
            Heard::Message(message) if message.encoded_len() > LARGE => return Ok(response),
            // What cannot be read may well be the offer, wrongly coded.
            Heard::Malformed(_) => return Ok(response),
            other if Instant::now() >= until => {
                return Err(Stop::Unreached(format!("no offer, but {other}")));
            }
            _ => sleep(stage.pace.poll()).await,
        }
    }
}

async fn response_coding(stage: &mut ServerStage) -> Result<(), Stop> {
    let forms = ["", "gzip;q=0", "x-conformance"];
    let mut agents = Vec::new();
    for accepted in forms {
        let mut agent = stage.connected(CONFIGURABLE).await?;
        let report = agent.full_report().encode_to_vec().into();
        let response = post(&mut agent, &[(header::ACCEPT_ENCODING, accepted)], report).await?;
        not_coded(stage, accepted, &response);
        let Heard::Message(first) = heard(&response) else {
            return Err(Stop::Unreached("a report is not answered".to_owned()));
        };
        agents.push((agent, first));
    }
    for ((mut agent, first), accepted) in agents.into_iter().zip(forms) {
        if stage.requires(&first, server::OFFERS_REMOTE_CONFIG).is_err() {
            return Ok(());
        }
        offer_large(stage, agent.uid_text()).await?;
        let fields = [(header::ACCEPT_ENCODING, accepted)];
        let response = offered(stage, &mut agent, &fields).await?;
        not_coded(stage, accepted, &response);
    }
    Ok(())
}

fn not_coded(stage: &mut ServerStage, accepted: &str, response: &Response<Bytes>) {
    let coding = coding(response);
    let actual = format!("Content-Encoding {coding:?} with Accept-Encoding {accepted:?}");
    let holds = coding.is_empty() || coding.eq_ignore_ascii_case("identity");
    stage.judge.expect("HTTP-25", holds, "no Content-Encoding", actual);
}

async fn compressed_response(stage: &mut ServerStage) -> Result<(), Stop> {
    let (mut agent, first) = stage.reported(CONFIGURABLE).await?;
    stage.requires(&first, server::OFFERS_REMOTE_CONFIG)?;
    offer_large(stage, agent.uid_text()).await?;
    let fields = [(header::ACCEPT_ENCODING, "gzip")];
    let response = offered(stage, &mut agent, &fields).await?;
    let actual = format!("Content-Encoding {:?}", coding(&response));
    let is_gzip = coding(&response).eq_ignore_ascii_case("gzip");
    let holds = is_gzip && matches!(heard(&response), Heard::Message(_));
    stage.judge.expect("HTTP-24", holds, "the offer, gzipped", actual);
    Ok(())
}

async fn offer_waits(stage: &mut ServerStage) -> Result<(), Stop> {
    let (mut agent, first) = stage.reported(CONFIGURABLE).await?;
    stage.requires(&first, server::OFFERS_REMOTE_CONFIG)?;
    offer_large(stage, agent.uid_text()).await?;
    let offer = offered(stage, &mut agent, &[]).await;
    let actual = match &offer {
        Ok(_) => "the offer".to_owned(),
        Err(stop) => stop.to_string(),
    };
    stage.judge.expect("HTTP-10", offer.is_ok(), "the offer in the response to a poll", actual);
    Ok(())
}

async fn like_websocket(stage: &mut ServerStage) -> Result<(), Stop> {
    let mut over = Vec::new();
    for transport in Transport::BOTH {
        let uid = stage.new_uid();
        let bits = mask::REPORTS_STATUS | mask::REPORTS_HEALTH;
        let mut agent = Agent::new(stage.dialer_over(*transport), uid, bits, stage.pace);
        over.push(conversation(&mut agent).await?);
    }
    let holds = over[0] == over[1];
    let actual = format!("over a WebSocket {}; over plain HTTP {}", over[0], over[1]);
    stage.judge.expect("HTTP-13", holds, "the same over both transports", actual);
    Ok(())
}

/// What the server says in a conversation, in words.
async fn conversation(agent: &mut Agent) -> Result<String, Stop> {
    agent.connect().await?;
    let mut said = Vec::new();
    let report = agent.full_report();
    let first = agent.exchange(report).await?;
    said.push(format!("a first reply with mask {:#x}{}", first.capabilities, sort(&first)));
    let mut change = agent.message();
    change.health = Some(ComponentHealth { healthy: false, ..Default::default() });
    said.push(format!("then a reply{}", sort(&agent.exchange(change).await?)));
    agent.sequence_num += 2;
    let late = agent.message();
    said.push(format!("after the gap a reply{}", sort(&agent.exchange(late).await?)));
    Ok(said.join(", "))
}

/// What tells one reply from another. What is offered depends on more than the conversation.
fn sort(reply: &ServerToAgent) -> String {
    let error = reply.error_response.as_ref().map(|error| error.r#type);
    let asks = reply.flags & flag::REPORT_FULL_STATE != 0;
    match (error, asks) {
        (Some(error), _) => format!(" with an error of type {error}"),
        (None, true) => " that asks for full state".to_owned(),
        (None, false) => String::new(),
    }
}
