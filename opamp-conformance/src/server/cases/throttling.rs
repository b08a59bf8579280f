//! A server that is overloaded.

use bytes::Bytes;
use http::{HeaderMap, Response, header};
use opamp_proto::v1::ServerErrorResponseType;
use opamp_proto::v1::server_error_response::Details;
use prost::Message as _;
use tokio::time::timeout;

use crate::case::{Case, Script};
use crate::hook::Action;
use crate::judge::Stop;
use crate::mask::agent::REPORTS_STATUS;
use crate::report::Transport;
use crate::server::agent::{PROTOBUF, reply_in};
use crate::server::{Agent, Heard, ServerStage};
use crate::wire::http_client::{Handshake, field};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "server/throttling/websocket",
        judges: &["ERR-08", "THR-01", "THR-03", "THR-07", "THR-08"],
        transports: &[Transport::WebSocket],
        does: "has the server behave as overloaded, sends a message and opens another WebSocket",
        expects: "the message is answered with UNAVAILABLE; the handshake may get status 503 or 429",
        alone: true,
        broken_by: &[
            "errors-are-text-messages",
            "overload-is-not-told",
            "overload-is-bad-request",
            "retry-after-is-no-time",
        ],
        script: Script::Server(|stage| Box::pin(overload(stage))),
    },
    Case {
        name: "server/throttling/http",
        judges: &["ERR-08", "THR-01", "THR-03", "THR-06", "THR-08"],
        transports: &[Transport::Http],
        does: "has the server behave as overloaded and posts a message",
        expects: "the response has status 503 or 429, or is UNAVAILABLE",
        alone: true,
        broken_by: &["overload-is-not-told", "overload-is-status-500", "retry-after-is-no-time"],
        script: Script::Server(|stage| Box::pin(overload(stage))),
    },
];

async fn overload(stage: &mut ServerStage) -> Result<(), Stop> {
    let (mut agent, _) = stage.reported(REPORTS_STATUS).await?;
    stage.hook(Action::Overload { on: true }).await?;
    let judged = match stage.transport {
        Transport::WebSocket => websocket(stage, &mut agent).await,
        Transport::Http => http(stage, &mut agent).await,
    };
    stage.hook(Action::Overload { on: false }).await?;
    judged
}

async fn websocket(stage: &mut ServerStage, agent: &mut Agent) -> Result<(), Stop> {
    let message = agent.message();
    let heard = agent.ask(message).await?;
    unavailable(stage, &heard);
    let opened = timeout(stage.pace.reply(), agent.dialer.websocket(&HeaderMap::new())).await;
    match opened {
        Ok(Ok(Handshake::Refused(response))) => {
            stage.judge.note("THR-07", format!("status {}", response.status()));
            retry_after(stage, &response);
        }
        Ok(Ok(Handshake::Accepted(_))) => {
            stage.judge.note("THR-07", "another WebSocket is opened");
            stage.judge.note("THR-08", "no status 503 or 429 that it could be added to");
        }
        Ok(Err(lost)) => return Err(Stop::Unreached(lost.to_string())),
        Err(_) => return Err(Stop::Unreached("the handshake was not answered".to_owned())),
    }
    Ok(())
}

async fn http(stage: &mut ServerStage, agent: &mut Agent) -> Result<(), Stop> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, PROTOBUF);
    let message = agent.message().encode_to_vec().into();
    let response = agent.request(http::Method::POST, &headers, message).await?;
    let status = response.status();
    stage.judge.note("THR-06", format!("status {status}"));
    if matches!(status.as_u16(), 429 | 503) {
        // What THR-06 allows instead.
        for row in ["ERR-08", "THR-01"] {
            stage.judge.expect(row, true, "UNAVAILABLE, or status 503 or 429", status.to_string());
        }
        stage.judge.note("THR-03", "no reply that could have it");
        retry_after(stage, &response);
        return Ok(());
    }
    let heard = match status.as_u16() {
        200 => reply_in(&response),
        code => Heard::Closed(Some(code), format!("HTTP status {status}")),
    };
    unavailable(stage, &heard);
    stage.judge.note("THR-08", "no status 503 or 429 that it could be added to");
    Ok(())
}

/// Judges a reply of an overloaded server.
fn unavailable(stage: &mut ServerStage, heard: &Heard) {
    let error = heard.error();
    let is_so = error.is_some_and(|e| e.r#type == ServerErrorResponseType::Unavailable as i32);
    for row in ["ERR-08", "THR-01"] {
        stage.judge.expect(row, is_so, "an error of type UNAVAILABLE", heard.to_string());
    }
    let seen = match error.and_then(|error| error.details.as_ref()) {
        Some(Details::RetryInfo(info)) => {
            format!("retry_after_nanoseconds {}", info.retry_after_nanoseconds)
        }
        None => "no retry_info".to_owned(),
    };
    stage.judge.note("THR-03", seen);
}

/// Looks at the Retry-After of a refusal: seconds or a date, if it is there.
fn retry_after(stage: &mut ServerStage, response: &Response<Bytes>) {
    let value = field(response.headers(), header::RETRY_AFTER);
    let is_time = value.parse::<u32>().is_ok() || httpdate::parse_http_date(&value).is_ok();
    let actual = format!("Retry-After {value:?}");
    stage.judge.expect("THR-08", value.is_empty() || is_time, "seconds or a date, if any", actual);
}
