//! How a client connects: its first report, and what it does when it cannot connect or loses its
//! connection.

use tokio::time::{Instant, sleep};

use super::common::{Pauses, attempts, comes_back, is_report, responsive};
use crate::case::{Case, Script};
use crate::client::{ClientStage, Heard};
use crate::judge::Stop;
use crate::report::Transport;
use crate::wire::endpoint::Welcome;

const WEBSOCKET: &[Transport] = &[Transport::WebSocket];

pub(super) const CASES: &[Case] = &[
    Case {
        name: "client/connecting/first-report",
        judges: &["EST-01"],
        transports: WEBSOCKET,
        does: "accepts the WebSocket and says nothing",
        expects: "the client's first report",
        alone: false,
        broken_by: &["waits-for-the-server-to-speak"],
        script: Script::Client(|stage| Box::pin(first_report(stage))),
    },
    Case {
        name: "client/connecting/no-answer",
        judges: &["EST-02", "RETRY-01"],
        transports: Transport::BOTH,
        does: "never answers the first report, nor anything after it",
        expects: "the client reports again or reconnects within 100 s",
        alone: false,
        broken_by: &["silence-is-never-noticed"],
        script: Script::Client(|stage| Box::pin(no_answer(stage))),
    },
    Case {
        name: "client/connecting/keeps-trying",
        judges: &["EST-03"],
        transports: Transport::BOTH,
        does: "refuses connections for three seconds, then listens",
        expects: "the client arrives",
        alone: false,
        broken_by: &["gives-up-connecting"],
        script: Script::Client(|stage| Box::pin(keeps_trying(stage))),
    },
    Case {
        name: "client/connecting/backoff",
        judges: &["EST-04"],
        transports: Transport::BOTH,
        does: "starts three clients and closes each of their connections at once",
        expects: "pauses that grow, and that differ between the clients",
        alone: false,
        broken_by: &["pauses-do-not-grow", "pauses-have-no-jitter"],
        script: Script::Client(|stage| Box::pin(backoff(stage))),
    },
    Case {
        name: "client/connecting/lost-connection",
        judges: &["EST-06", "EST-07"],
        transports: WEBSOCKET,
        does: "cuts the connection, and closes each new one at once",
        expects: "a new connection within two seconds, then pauses that grow",
        alone: false,
        broken_by: &["reconnects-late", "pauses-do-not-grow"],
        script: Script::Client(|stage| Box::pin(lost_connection(stage))),
    },
];

async fn first_report(stage: &mut ClientStage) -> Result<(), Stop> {
    let mut host = stage.host().await?;
    let _client = stage.start(stage.start_for(&host)).await?;
    let actual = match host.next(stage.pace.start()).await {
        Heard::Silence if host.is_connected() => "the client connects and says nothing",
        Heard::Silence => return Err(Stop::Unreached("the client does not connect".to_owned())),
        Heard::Closed(_, how) => {
            return Err(Stop::Unreached(format!("the connection does not last: {how}")));
        }
        Heard::Malformed(_) => "something else than an AgentToServer",
        Heard::Message(_) => "a message",
    };
    stage.judge.expect("EST-01", actual == "a message", "a message after connecting", actual);
    Ok(())
}

async fn no_answer(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, _) = stage.meet().await?;
    // Over HTTP the request has to be held, as dropping it would end its connection.
    let _held = host.take_request();
    let began = Instant::now();
    let until = began + stage.pace.of(100.0);
    let seen = loop {
        let left = until.saturating_duration_since(Instant::now());
        match host.next_unanswered(left).await {
            Heard::Message(_) if stage.transport == Transport::Http => break Some("a new request"),
            Heard::Message(message) if is_report(&message) => break Some("a report again"),
            Heard::Closed(..) => break Some("the end of the connection"),
            Heard::Silence => break None,
            Heard::Message(_) | Heard::Malformed(_) => {}
        }
    };
    let after = began.elapsed().as_secs_f64();
    let actual = match seen {
        Some(what) => format!("{what} after {after:.1} s"),
        None => format!("neither within {after:.0} s"),
    };
    stage.judge.note("RETRY-01", actual.clone());
    stage.judge.expect("EST-02", seen.is_some(), "a new report or a new connection", actual);
    Ok(())
}

async fn keeps_trying(stage: &mut ClientStage) -> Result<(), Stop> {
    let mut host = stage.host().await?;
    let start = stage.start_for(&host);
    host.endpoint.refuse().await;
    let mut client = stage.start(start).await?;
    // Refused attempts leave no trace, so there is no event to wait for.
    sleep(stage.pace.of(3.0)).await;
    let listening = host.endpoint.listen().await;
    listening.map_err(|error| Stop::Harness(format!("cannot listen again: {error}")))?;
    let (comes, actual) = comes_back(stage, &mut host, &mut *client).await;
    stage.judge.expect("EST-03", comes, "the client arrives", actual);
    Ok(())
}

async fn backoff(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut hosts, mut clients) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let host = stage.host().await?;
        host.endpoint.welcome(Welcome::CloseAtOnce);
        clients.push(stage.start(stage.start_for(&host)).await?);
        hosts.push(host);
    }
    let endpoints: Vec<_> = hosts.iter().map(|host| &host.endpoint).collect();
    attempts(stage, &endpoints, 6, stage.pace.of(40.0)).await;
    let all: Vec<_> =
        endpoints.iter().map(|endpoint| Pauses::between(&endpoint.attempts())).collect();
    if endpoints.iter().any(|endpoint| endpoint.attempts().is_empty()) {
        return Err(Stop::Unreached("a client does not connect".to_owned()));
    }
    let actual = all.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let Some(grow) = Pauses::grow(&all) else {
        return Err(Stop::Unreached(format!("too few attempts to see how they go on: {actual}")));
    };
    stage.judge.expect("EST-04", grow, "pauses that grow", actual.clone());
    // A tenth of the pause is more than scheduling makes of equal ones.
    let differ =
        |(one, other): (&f64, &f64)| (one - other).abs() > (one.max(*other) / 20.0).max(0.02);
    let pair = |one: &Pauses, other: &Pauses| one.0.iter().zip(&other.0).any(differ);
    let jitter = pair(&all[0], &all[1]) || pair(&all[0], &all[2]) || pair(&all[1], &all[2]);
    stage.judge.expect("EST-04", jitter, "pauses that differ between clients", actual);
    Ok(())
}

async fn lost_connection(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, _) = responsive(stage).await?;
    host.answer().await;
    host.next(stage.pace.poll()).await;
    let before = host.endpoint.attempts().len();
    host.endpoint.welcome(Welcome::CloseAtOnce);
    let lost = Instant::now();
    host.cut();
    attempts(stage, &[&host.endpoint], before + 5, stage.pace.of(40.0)).await;
    let all = host.endpoint.attempts();
    let new = all.get(before..).unwrap_or_default();
    let first = new.first().map(|at| at.duration_since(lost));
    let at_once = first.is_some_and(|first| first < stage.pace.of(2.0));
    let actual = first.map_or_else(
        || "no new connection".to_owned(),
        |first| format!("a new connection after {:.2} s", first.as_secs_f64()),
    );
    stage.judge.expect("EST-06", at_once, "a new connection at once", actual);
    if first.is_some() {
        let pauses = Pauses::between(new);
        let Some(grow) = Pauses::grow(std::slice::from_ref(&pauses)) else {
            return Err(Stop::Unreached(format!(
                "too few attempts to see how they go on: {pauses}"
            )));
        };
        stage.judge.expect("EST-07", grow, "pauses that grow", pauses.to_string());
    }
    Ok(())
}
