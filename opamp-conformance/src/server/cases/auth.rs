//! Authentication by HTTP, before anything else.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, header};
use prost::Message as _;
use tokio::time::timeout;

use crate::case::{Case, Script};
use crate::judge::Stop;
use crate::mask::agent::REPORTS_STATUS;
use crate::report::Transport;
use crate::server::ServerStage;
use crate::server::agent::PROTOBUF;
use crate::wire::http_client::{Handshake, field};

pub(super) const CASES: &[Case] = &[Case {
    name: "server/auth/refused",
    judges: &["AUTH-01", "AUTH-02", "AUTH-03", "AUTH-04"],
    transports: Transport::BOTH,
    does: "comes with the right credentials, without any, and with wrong ones",
    expects: "the first is served; the others are answered with status 401, which names a scheme, and \
              never get a WebSocket",
    alone: false,
    broken_by: &[
        "handshakes-need-no-credentials",
        "wrong-credentials-are-taken",
        "refusal-is-403",
        "refusal-names-no-scheme",
    ],
    script: Script::Server(|stage| Box::pin(refused(stage))),
}];

async fn refused(stage: &mut ServerStage) -> Result<(), Stop> {
    let Some(right) = stage.target.headers.get(header::AUTHORIZATION).cloned() else {
        let why = "the tester was given no Authorization for this server";
        return Err(Stop::NotApplicable(why.to_owned()));
    };
    stage.reported(REPORTS_STATUS).await?;
    let scheme = String::from_utf8_lossy(right.as_bytes());
    let scheme = scheme.split(' ').next().unwrap_or_default().to_owned();
    stage.judge.note("AUTH-01", format!("the scheme {scheme:?} is used"));
    // Also the Base64 of "x:y", as Basic has it.
    let wrong = HeaderValue::from_str(&format!("{scheme} eDp5")).ok();
    for (what, credentials) in [("no credentials", None), ("wrong credentials", wrong)] {
        let status = enter(stage, credentials).await?;
        let (status, headers) = (status.status(), status.headers().clone());
        let actual = format!("status {status} for {what}");
        let judge = &mut stage.judge;
        let is_error = status.is_client_error() || status.is_server_error();
        judge.expect("AUTH-02", is_error, "an HTTP error", actual.as_str());
        judge.expect("AUTH-03", status.as_u16() == 401, "status 401", actual.as_str());
        if status.as_u16() == 401 {
            let challenge = field(&headers, header::WWW_AUTHENTICATE);
            let actual = format!("WWW-Authenticate {challenge:?}");
            judge.expect("AUTH-04", !challenge.is_empty(), "WWW-Authenticate", actual);
        }
    }
    Ok(())
}

/// Comes with these credentials; gives the answer, which for a WebSocket is status 101.
async fn enter(
    stage: &mut ServerStage,
    credentials: Option<HeaderValue>,
) -> Result<Response<Bytes>, Stop> {
    let mut agent = stage.agent(REPORTS_STATUS);
    agent.dialer.headers.remove(header::AUTHORIZATION);
    if let Some(credentials) = credentials {
        agent.dialer.headers.insert(header::AUTHORIZATION, credentials);
    }
    if stage.transport == Transport::Http {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, PROTOBUF);
        let report = agent.full_report().encode_to_vec().into();
        return agent.request(Method::POST, &headers, report).await;
    }
    match timeout(stage.pace.reply(), agent.dialer.websocket(&HeaderMap::new())).await {
        Ok(Ok(Handshake::Refused(response))) => Ok(response),
        Ok(Ok(Handshake::Accepted(_))) => {
            let mut response = Response::new(Bytes::new());
            *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
            Ok(response)
        }
        Ok(Err(lost)) => Err(Stop::Unreached(lost.to_string())),
        Err(_) => Err(Stop::Unreached("the handshake was not answered".to_owned())),
    }
}
