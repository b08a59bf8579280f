//! Where a client connects to, and how a session begins.

use crate::case::{Case, Script};
use crate::client::{ClientStage, Start};
use crate::judge::Stop;
use crate::log::Event;
use crate::report::{By, Transport};
use crate::wire::endpoint::Arrival;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "client/endpoint/begins-with-http",
        judges: &["NET-02", "NET-07"],
        transports: Transport::BOTH,
        does: "listens, and waits for the first bytes of the client",
        expects: "an HTTP request",
        alone: false,
        broken_by: &["speaks-without-http"],
        script: Script::Client(|stage| Box::pin(begins_with_http(stage))),
    },
    Case {
        name: "client/endpoint/other-path",
        judges: &["NET-04"],
        transports: Transport::BOTH,
        does: "gives the client a URL with another path and a query",
        expects: "the request arrives there",
        alone: false,
        broken_by: &["path-is-fixed"],
        script: Script::Client(|stage| Box::pin(other_path(stage))),
    },
    Case {
        name: "client/endpoint/default-path",
        judges: &["NET-03"],
        transports: Transport::BOTH,
        does: "gives the client a URL of scheme, host and port only",
        expects: "the request arrives at /v1/opamp; one at / shows that the URL was taken as given",
        alone: false,
        broken_by: &["default-path-is-another"],
        script: Script::Client(|stage| Box::pin(default_path(stage))),
    },
];

async fn begins_with_http(stage: &mut ClientStage) -> Result<(), Stop> {
    let mut host = stage.host().await?;
    let _client = stage.start(stage.start_for(&host)).await?;
    let arrival = host.endpoint.next(stage.pace.start()).await;
    let opened = stage
        .log
        .entries()
        .iter()
        .any(|entry| entry.by == By::Subject && matches!(entry.event, Event::Opened));
    if !opened {
        return Err(Stop::Unreached("the client does not connect".to_owned()));
    }
    // A connection on which nothing comes is only that; other bytes are what must not be.
    let others = stage.log.entries().into_iter().find_map(|entry| match entry.event {
        Event::Ended(how) if how.starts_with("the HTTP connection broke: invalid") => Some(how),
        _ => None,
    });
    let actual = match (&arrival, others.as_ref()) {
        (_, Some(how)) => format!("something else: {how}"),
        (Some(arrival), None) => format!("{} {}", arrival.method, arrival.target),
        (None, None) => "a connection without an HTTP request".to_owned(),
    };
    let holds = arrival.is_some() && others.is_none();
    stage.judge.expect("NET-07", holds, "an HTTP request", actual);
    if arrival.is_some() {
        let used = format!("it uses {} as it is told", stage.transport.name());
        stage.judge.note("NET-02", used);
    }
    Ok(())
}

/// The first request of a client that is given this in place of the usual path.
async fn request_for(stage: &ClientStage, path: &str) -> Result<Arrival, Stop> {
    let mut host = stage.host().await?;
    let url = host.url().replace("/v1/opamp", path);
    let _client = stage.start(Start { url, ..stage.start_for(&host) }).await?;
    let arrival = host.endpoint.next(stage.pace.start()).await;
    arrival.ok_or_else(|| Stop::Unreached("the client sends no request".to_owned()))
}

async fn other_path(stage: &mut ClientStage) -> Result<(), Stop> {
    let path = "/some/where?else=1";
    let arrival = request_for(stage, path).await?;
    let actual = format!("a request for {}", arrival.target);
    stage.judge.expect("NET-04", arrival.target == path, format!("one for {path}"), actual);
    Ok(())
}

async fn default_path(stage: &mut ClientStage) -> Result<(), Stop> {
    let arrival = request_for(stage, "").await?;
    if arrival.target == "/" {
        // By the rules of URLs that is what it was given; its own default is not in play (A28).
        let why = "the client takes a URL without a path as one whose path is /";
        stage.judge.untestable("NET-03", why);
        return Ok(());
    }
    let actual = format!("a request for {}", arrival.target);
    stage.judge.expect("NET-03", arrival.target == "/v1/opamp", "one for /v1/opamp", actual);
    Ok(())
}
