//! Plain HTTP: polls, one exchange at a time, compressed answers.

use std::collections::BTreeSet;

use http::header;
use opamp_proto::v1::AgentToServer;
use prost::Message as _;
use tokio::time::{Duration, Instant};

use super::common::{due, is_report, reaction, request, responsive};
use super::retry::parts;
use crate::case::{Case, Script};
use crate::client::reported::is_bare;
use crate::client::{ClientStage, Heard, Host, Start};
use crate::hook::Action;
use crate::judge::Stop;
use crate::mask::agent as mask;
use crate::report::Transport;
use crate::wire::body;
use crate::wire::http_client::field;

const HTTP: &[Transport] = &[Transport::Http];

pub(super) const CASES: &[Case] = &[
    Case {
        name: "client/http/polls",
        judges: &["HTTP-05", "HTTP-06", "HTTP-08"],
        transports: HTTP,
        does: "answers an idle client's requests for three intervals",
        expects: "a poll at each interval, with no status in it",
        alone: false,
        broken_by: &[
            "heartbeats-are-slow",
            "never-polls",
            "polls-have-health",
            "interval-cannot-be-set",
            "full-state-is-repeated",
        ],
        script: Script::Client(|stage| Box::pin(polls(stage))),
    },
    Case {
        name: "client/http/default-interval",
        judges: &["HTTP-07"],
        transports: HTTP,
        does: "tells the client no interval and waits for two polls",
        expects: "about 30 s between them",
        alone: false,
        broken_by: &["heartbeats-are-slow", "never-polls", "default-interval-is-a-minute"],
        script: Script::Client(|stage| Box::pin(default_interval(stage))),
    },
    Case {
        name: "client/http/one-request-at-a-time",
        judges: &["HTTP-11"],
        transports: HTTP,
        does: "holds an answer back for more than two intervals",
        expects: "no other request meanwhile",
        alone: false,
        broken_by: &["does-not-wait-for-the-answer"],
        script: Script::Client(|stage| Box::pin(one_request_at_a_time(stage))),
    },
    Case {
        name: "client/http/follow-up",
        judges: &["HTTP-11", "HTTP-12"],
        transports: HTTP,
        does: "has the agent's health change while an answer is held back, with an interval of \
               ten seconds",
        expects: "no other request meanwhile, and the new health right after the answer",
        alone: false,
        broken_by: &[
            "last-error-is-left-out",
            "changes-wait-for-the-next-poll",
            "does-not-wait-for-the-answer",
            "health-is-only-promised",
            "change-is-not-told",
        ],
        script: Script::Client(|stage| Box::pin(follow_up(stage))),
    },
    Case {
        name: "client/http/same-messages",
        judges: &["HTTP-13"],
        transports: HTTP,
        does: "asks for a full report over both transports",
        expects: "the same parts in the first report and in the full one over both",
        alone: false,
        broken_by: &["reports-less-over-http", "server-mask-of-zero-counts"],
        script: Script::Client(|stage| Box::pin(same_messages(stage))),
    },
    Case {
        name: "client/http/gzipped-answer",
        judges: &["HTTP-26"],
        transports: HTTP,
        does: "asks for a full report in a gzipped answer, where the client announces gzip",
        expects: "a full report",
        alone: false,
        broken_by: &["announces-gzip-and-cannot-read-it"],
        script: Script::Client(|stage| Box::pin(gzipped_answer(stage))),
    },
];

async fn polls(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, _) = stage.meet().await?;
    let interval = stage.heartbeat();
    // What the client still has to report after its first message comes first.
    host.collect(interval.min(stage.pace.quiet())).await;
    let mut times = Vec::new();
    let until = Instant::now() + 4 * interval + stage.pace.quiet();
    while times.len() < 4 {
        let left = until.saturating_duration_since(Instant::now());
        let Some(poll) = host.hear(left, |_| true).await else { break };
        // What says something else that is new, like a certificate request, is no poll.
        if !is_bare(&poll) && !is_report(&poll) {
            continue;
        }
        if is_bare(&poll) {
            times.push(Instant::now());
        }
        let has_id = !poll.instance_uid.is_empty();
        let seen = parts(&poll).into_iter().collect::<Vec<_>>().join(", ");
        let actual = format!("instance_uid set: {has_id}, status: [{seen}]");
        let holds = has_id && !is_report(&poll);
        stage.judge.expect("HTTP-06", holds, "an id and no status", actual);
    }
    let (count, seconds) = (times.len(), interval.as_secs_f64());
    let actual = format!("{count} polls in four intervals of {seconds:.1} s");
    stage.judge.expect("HTTP-05", count >= 2, "polls go on", actual);
    if !stage.subject.takes("heartbeat") {
        let why = "needs a way to tell the client its polling interval";
        stage.judge.untestable("HTTP-08", why);
        return Ok(());
    }
    let pauses: Vec<_> =
        times.windows(2).map(|pair| pair[1].duration_since(pair[0]).as_secs_f64()).collect();
    let mean = pauses.iter().sum::<f64>() / pauses.len().max(1) as f64;
    let holds = count >= 3 && (0.5 * seconds..1.6 * seconds).contains(&mean);
    let actual = format!("{count} polls, {mean:.2} s between them");
    let expected = format!("polls about every {seconds:.1} s as the client is told");
    stage.judge.expect("HTTP-08", holds, expected, actual);
    Ok(())
}

async fn default_interval(stage: &mut ClientStage) -> Result<(), Stop> {
    let mut host = stage.host().await?;
    let _client = stage.start(Start { heartbeat: None, ..stage.start_for(&host) }).await?;
    host.first(stage.pace.start()).await?;
    // The interval counts from the last request, a report or a poll.
    host.answer().await;
    let mut last = Instant::now();
    let until = last + Duration::from_secs(100);
    let mut actual = "no poll within 100 s".to_owned();
    let mut holds = false;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let Some(message) = host.hear(left, |_| true).await else { break };
        let after = last.elapsed().as_secs_f64();
        host.answer().await;
        last = Instant::now();
        if is_bare(&message) {
            actual = format!("a poll {after:.1} s after the request before it");
            holds = (25.0..36.0).contains(&after);
            break;
        }
    }
    stage.judge.expect("HTTP-07", holds, "a poll after about 30 s", actual);
    Ok(())
}

/// Waits for this long with an answer held back, and judges that no other request comes before the
/// client gives that one up.
async fn hold_back(
    stage: &mut ClientStage,
    host: &mut Host,
    within: Duration,
) -> Result<bool, Stop> {
    let began = Instant::now();
    let other = host.endpoint.next(within).await;
    if host.is_given_up(stage.pace.poll()).await {
        let actual = "none until the client gave the exchange up";
        stage.judge.expect("HTTP-11", true, "no request before the answer", actual);
        return Err(Stop::Unreached("the client did not wait for the answer".to_owned()));
    }
    let actual = other.as_ref().map_or_else(
        || format!("none for {:.1} s", within.as_secs_f64()),
        |other| format!("another after {:.1} s", other.at.duration_since(began).as_secs_f64()),
    );
    Ok(stage.judge.expect("HTTP-11", other.is_none(), "no request before the answer", actual))
}

async fn one_request_at_a_time(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, _) = responsive(stage).await?;
    host.answer().await;
    host.first(due(stage)).await?;
    let within = (2 * stage.heartbeat() + stage.pace.poll()).min(stage.pace.of(3.0));
    hold_back(stage, &mut host, within).await?;
    Ok(())
}

async fn follow_up(stage: &mut ClientStage) -> Result<(), Stop> {
    let mut host = stage.host().await?;
    let interval = stage.subject.takes("heartbeat").then(|| stage.pace.of(10.0));
    let start = Start { heartbeat: interval, ..stage.start_for(&host) };
    let mut client = stage.start(start).await?;
    let first = host.first(stage.pace.start()).await?;
    stage.requires(&first, mask::REPORTS_HEALTH)?;
    let text = "a change while the answer is held back".to_owned();
    let action = Action::SetHealth { healthy: false, last_error: text.clone() };
    stage.hook(&mut *client, action).await?;
    if !hold_back(stage, &mut host, stage.pace.quiet()).await? {
        return Ok(());
    }
    host.answer().await;
    let is_it = |message: &AgentToServer| {
        message.health.as_ref().is_some_and(|health| health.last_error == text)
    };
    let within = stage.pace.reply();
    let prompt = host.hear(within, is_it).await.is_some();
    let actual = if prompt { "at once" } else { "not" };
    let actual = format!("{actual}, within {:.1} s", within.as_secs_f64());
    stage.judge.expect("HTTP-12", prompt, "the new health right after the answer", actual);
    Ok(())
}

/// The parts of the first report and of a full report over this transport.
async fn over(
    stage: &ClientStage,
    transport: Transport,
) -> Result<[BTreeSet<&'static str>; 2], Stop> {
    let network = stage.subject.network();
    let mut host = Host::open(&network, transport, None, &stage.log, stage.pace).await?;
    let _client = stage.start(stage.start_for(&host)).await?;
    let first = host.first(stage.pace.start()).await?;
    // Some parts may come a moment later than the rest.
    let mut early = parts(&first);
    for message in host.collect(stage.pace.quiet()).await {
        early.extend(parts(&message));
    }
    host.send(request(&host)).await?;
    match reaction(&mut host, due(stage)).await {
        super::common::Reaction::Full(full) => Ok([early, parts(&full)]),
        other => Err(Stop::Unreached(format!("asked for a full report, {other}"))),
    }
}

async fn same_messages(stage: &mut ClientStage) -> Result<(), Stop> {
    if !stage.subject.speaks(Transport::WebSocket) {
        return Err(Stop::NotApplicable("the client has one transport only".to_owned()));
    }
    let [first, full] = over(stage, Transport::Http).await?;
    let [other_first, other_full] = over(stage, Transport::WebSocket).await?;
    for (name, http, websocket) in [("first", first, other_first), ("full", full, other_full)] {
        let names = |of: &BTreeSet<_>| of.iter().copied().collect::<Vec<_>>().join(", ");
        let actual = format!(
            "the {name} report has [{}] over HTTP and [{}] over WebSocket",
            names(&http),
            names(&websocket)
        );
        stage.judge.expect("HTTP-13", http == websocket, "the same parts over both", actual);
    }
    Ok(())
}

/// Goes on only if the client's requests announce gzip. The request that waits shows it.
pub(super) async fn announces_gzip(stage: &ClientStage, host: &mut Host) -> Result<(), Stop> {
    let arrival = host.endpoint.next(due(stage)).await;
    let arrival = arrival.ok_or_else(|| Stop::Unreached("no request comes".to_owned()))?;
    let announced = field(&arrival.headers, header::ACCEPT_ENCODING);
    let gzip = announced.split(',').any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let names_it = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        names_it && !parts.any(|weight| weight.replace(' ', "").starts_with("q=0"))
    });
    match host.receive(arrival, stage.pace.reply()).await {
        Heard::Message(_) if gzip => Ok(()),
        Heard::Message(_) => Err(Stop::NotApplicable(format!(
            "the client's Accept-Encoding is {announced:?}, without gzip"
        ))),
        _ => Err(Stop::Unreached("no message comes".to_owned())),
    }
}

async fn gzipped_answer(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, _) = responsive(stage).await?;
    host.answer().await;
    announces_gzip(stage, &mut host).await?;
    let answer = body::gzip(&request(&host).encode_to_vec());
    let fields = [("content-type", "application/x-protobuf"), ("content-encoding", "gzip")];
    host.take_request()?.respond(200, &fields, answer);
    let seen = reaction(&mut host, due(stage)).await;
    stage.judge.expect("HTTP-26", seen.is_full(), "a full report", seen.to_string());
    Ok(())
}
