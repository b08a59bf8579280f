//! How a client shows its credentials, and what it does when they are refused.

use base64::Engine as _;
use bytes::Bytes;
use http::header;

use super::common::{Pauses, attempts};
use crate::case::{Case, Script};
use crate::client::{ClientStage, Start};
use crate::judge::Stop;
use crate::report::Transport;
use crate::wire::endpoint::{Arrival, Welcome};
use crate::wire::http_client::field;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "client/auth/credentials",
        judges: &["AUTH-01", "AUTH-02"],
        transports: Transport::BOTH,
        does: "gives the client an Authorization field to send",
        expects: "the field on its first request; over WebSocket that is the handshake",
        alone: false,
        broken_by: &["credentials-are-not-sent"],
        script: Script::Client(|stage| Box::pin(credentials(stage))),
    },
    Case {
        name: "client/auth/refused",
        judges: &["AUTH-05"],
        transports: Transport::BOTH,
        does: "answers every attempt with 401",
        expects: "pauses that grow, or no further attempt",
        alone: false,
        broken_by: &["polls-go-on-while-refused", "pauses-do-not-grow"],
        script: Script::Client(|stage| Box::pin(refused(stage))),
    },
    Case {
        name: "client/auth/redirect",
        judges: &["AUTH-01"],
        transports: Transport::BOTH,
        does: "redirects a client with credentials to another host with status 307",
        expects: "the other host does not see the credentials",
        alone: false,
        broken_by: &["redirect-takes-credentials-along"],
        script: Script::Client(|stage| Box::pin(redirect(stage))),
    },
];

/// The first request of a client that has credentials, and the credentials.
async fn with_credentials(
    stage: &ClientStage,
    host: &mut crate::client::Host,
) -> Result<(Box<dyn crate::client::Running>, Arrival, String), Stop> {
    if !stage.subject.takes("headers") {
        return Err(Stop::Missing("a way to give the client header fields".to_owned()));
    }
    let secret = base64::engine::general_purpose::STANDARD.encode("tester:correct horse");
    let secret = format!("Basic {secret}");
    let headers = vec![("Authorization".to_owned(), secret.clone())];
    let client = stage.start(Start { headers, ..stage.start_for(host) }).await?;
    let arrival = host.endpoint.next(stage.pace.start()).await;
    let arrival =
        arrival.ok_or_else(|| Stop::Unreached("the client sends no request".to_owned()))?;
    Ok((client, arrival, secret))
}

async fn credentials(stage: &mut ClientStage) -> Result<(), Stop> {
    let mut host = stage.host().await?;
    let (_client, arrival, secret) = with_credentials(stage, &mut host).await?;
    let sent = field(&arrival.headers, header::AUTHORIZATION);
    let holds = sent == secret;
    let actual = format!("Authorization {sent:?} on {} {}", arrival.method, arrival.target);
    let expected = format!("Authorization {secret:?}");
    stage.judge.expect("AUTH-01", holds, expected.clone(), actual.clone());
    stage.judge.expect("AUTH-02", holds, expected, actual);
    Ok(())
}

async fn refused(stage: &mut ClientStage) -> Result<(), Stop> {
    let host = stage.host().await?;
    let challenge = ("www-authenticate".to_owned(), "Basic realm=\"tester\"".to_owned());
    host.endpoint.welcome(Welcome::Answer(401, vec![challenge]));
    let _client = stage.start(stage.start_for(&host)).await?;
    attempts(stage, &[&host.endpoint], 6, stage.pace.of(30.0)).await;
    let attempts = host.endpoint.attempts();
    if attempts.is_empty() {
        return Err(Stop::Unreached("the client does not connect".to_owned()));
    }
    let pauses = Pauses::between(&attempts);
    // One that has come once or twice in this time does not press the server.
    let holds = Pauses::grow(std::slice::from_ref(&pauses)).unwrap_or(true);
    let actual = format!("{pauses} after the first of {} attempts", pauses.0.len() + 1);
    stage.judge.expect("AUTH-05", holds, "pauses that grow", actual);
    Ok(())
}

async fn redirect(stage: &mut ClientStage) -> Result<(), Stop> {
    let mut host = stage.host().await?;
    let mut other = stage.host().await?;
    let (_client, arrival, _) = with_credentials(stage, &mut host).await?;
    let mut url = other.endpoint.url().over(Transport::Http);
    "localhost".clone_into(&mut url.host);
    arrival.respond(307, &[("location", &url.to_string())], Bytes::new());
    let Some(arrival) = other.endpoint.next(stage.pace.quiet()).await else {
        stage.judge.note("AUTH-01", "the redirect is not followed");
        return Ok(());
    };
    let sent = field(&arrival.headers, header::AUTHORIZATION);
    let actual = match sent.is_empty() {
        true => "the redirect is followed without them",
        false => "the redirect is followed, and the other host gets them",
    };
    stage.judge.expect("AUTH-01", sent.is_empty(), "no credentials for another host", actual);
    Ok(())
}
