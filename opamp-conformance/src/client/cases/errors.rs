//! What a client does when the server answers with an error.

use opamp_proto::v1::{
    RetryInfo, ServerErrorResponse, ServerErrorResponseType, ServerToAgent, server_error_response,
};
use tokio::time::Instant;

use super::common::{calm, content, due, reaction, reports_something, request, undue};
use crate::case::{Case, Script};
use crate::client::{ClientStage, Heard, Host};
use crate::judge::Stop;
use crate::report::Transport;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "client/errors/request-beside-an-error",
        judges: &["ERR-04"],
        transports: Transport::BOTH,
        does: "asks for a full report in a message that has an error_response as well",
        expects: "no full report",
        alone: false,
        broken_by: &["acts-on-what-is-beside-an-error"],
        script: Script::Client(|stage| Box::pin(request_beside_an_error(stage))),
    },
    Case {
        name: "client/errors/unknown",
        judges: &["ERR-06"],
        transports: Transport::BOTH,
        does: "answers the first report with an error of type UNKNOWN",
        expects: "the same report does not come again unprompted",
        alone: false,
        broken_by: &["unknown-error-is-retried", "full-state-is-repeated"],
        script: Script::Client(|stage| Box::pin(unknown(stage))),
    },
    Case {
        name: "client/errors/bad-request",
        judges: &["ERR-14"],
        transports: Transport::BOTH,
        does: "answers the first report with an error of type BAD_REQUEST",
        expects: "the same report does not come again unprompted",
        alone: false,
        broken_by: &["bad-request-is-retried", "full-state-is-repeated"],
        script: Script::Client(|stage| Box::pin(bad_request(stage))),
    },
    Case {
        name: "client/errors/retry-info-of-another-type",
        judges: &["ERR-15"],
        transports: Transport::BOTH,
        does: "answers a report with BAD_REQUEST and a retry_info of an hour",
        expects: "the client goes on as if the time had not been stated",
        alone: false,
        broken_by: &["retry-info-is-always-used", "second-of-two-messages-is-dropped"],
        script: Script::Client(|stage| Box::pin(retry_info_of_another_type(stage))),
    },
];

/// An error for the client, with the time it is to wait in seconds.
pub(super) fn error(
    host: &Host,
    kind: ServerErrorResponseType,
    retry_after: Option<u64>,
) -> ServerToAgent {
    let details = retry_after.map(|seconds| {
        let retry_after_nanoseconds = seconds * 1_000_000_000;
        server_error_response::Details::RetryInfo(RetryInfo { retry_after_nanoseconds })
    });
    let error_message = "an error made by the tester".to_owned();
    let error = ServerErrorResponse { r#type: kind as i32, error_message, details };
    // By A08 an error stands alone.
    ServerToAgent { capabilities: 0, error_response: Some(error), ..host.message() }
}

async fn request_beside_an_error(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, _) = calm(stage).await?;
    let both = ServerToAgent {
        flags: request(&host).flags,
        ..error(&host, ServerErrorResponseType::Unknown, None)
    };
    host.send(both).await?;
    let seen = reaction(&mut host, undue(stage)).await;
    stage.judge.expect("ERR-04", !seen.is_full(), "no full report", seen.to_string());
    Ok(())
}

/// Refuses the first report for good and looks whether it comes again on the same session.
async fn refuse(
    stage: &mut ClientStage,
    kind: ServerErrorResponseType,
    row: &str,
) -> Result<(), Stop> {
    let (mut host, _client, first) = stage.meet().await?;
    reports_something(&first)?;
    host.send(error(&host, kind, None)).await?;
    let within = (2 * stage.heartbeat() + stage.pace.quiet()).max(2 * stage.pace.reply());
    let until = Instant::now() + within;
    let mut copies = 0;
    loop {
        match host.next(until.saturating_duration_since(Instant::now())).await {
            Heard::Message(message) => copies += u32::from(content(&message) == content(&first)),
            Heard::Malformed(_) => {}
            // What comes on a new connection is a new session's first report.
            Heard::Closed(..) | Heard::Silence => break,
        }
    }
    let actual = format!("{copies} copies within {:.1} s", within.as_secs_f64());
    stage.judge.expect(row, copies == 0, "no copy of the refused report", actual);
    Ok(())
}

async fn unknown(stage: &mut ClientStage) -> Result<(), Stop> {
    refuse(stage, ServerErrorResponseType::Unknown, "ERR-06").await
}

async fn bad_request(stage: &mut ClientStage) -> Result<(), Stop> {
    refuse(stage, ServerErrorResponseType::BadRequest, "ERR-14").await
}

async fn retry_info_of_another_type(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, _) = calm(stage).await?;
    host.send(error(&host, ServerErrorResponseType::BadRequest, Some(3_600))).await?;
    let (holds, actual) = match stage.transport {
        // Heartbeats may be off, but a connection that stays reacts.
        Transport::WebSocket => {
            host.send(request(&host)).await?;
            let seen = reaction(&mut host, due(stage)).await;
            (seen.is_full(), seen.to_string())
        }
        Transport::Http => {
            // The first takes the error along.
            host.first(due(stage)).await?;
            host.answer().await;
            // A client may pause after any error, but not for the hour.
            let next = host.hear(stage.heartbeat() + stage.pace.comeback(), |_| true).await;
            let holds = next.is_some();
            (holds, if holds { "the next request" } else { "no request" }.to_owned())
        }
    };
    stage.judge.expect("ERR-15", holds, "no pause", actual);
    Ok(())
}
