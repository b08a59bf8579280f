//! What several cases do: see whether the client acts on a message, and how it spaces its attempts.
//!
//! ReportFullState is the request by which cases see that a message was processed: every client
//! has to know it, and a description that nobody asked for is easily told from a heartbeat.

use opamp_proto::v1::{AgentToServer, ServerToAgent};
use tokio::time::{Duration, Instant, sleep};

use crate::client::{ClientStage, Heard, Host, Running};
use crate::judge::Stop;
use crate::mask::flag::REPORT_FULL_STATE;
use crate::report::Transport;
use crate::wire::endpoint::Endpoint;

/// A request for a full report.
pub(super) fn request(host: &Host) -> ServerToAgent {
    ServerToAgent { flags: REPORT_FULL_STATE, ..host.message() }
}

/// What came of a message.
pub(super) enum Reaction {
    /// A full report, on the same connection.
    Full(Box<AgentToServer>),
    /// The connection ended: the code of a Close frame, and in words.
    Closed(Option<u16>, String),
    /// Nothing within the time, in seconds.
    None(f64),
}

impl Reaction {
    pub(super) fn is_full(&self) -> bool {
        matches!(self, Self::Full(_))
    }
}

impl std::fmt::Display for Reaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Full(_) => f.write_str("a full report"),
            Self::Closed(_, how) => write!(f, "no full report, but {how}"),
            Self::None(seconds) => write!(f, "no full report within {seconds:.1} s"),
        }
    }
}

/// Waits for a full report; other messages are answered and passed over.
pub(super) async fn reaction(host: &mut Host, within: Duration) -> Reaction {
    let until = Instant::now() + within;
    loop {
        match host.next(until.saturating_duration_since(Instant::now())).await {
            Heard::Message(message) if message.agent_description.is_some() => {
                return Reaction::Full(message);
            }
            Heard::Closed(code, how) => return Reaction::Closed(code, how),
            Heard::Silence => return Reaction::None(within.as_secs_f64()),
            Heard::Message(_) | Heard::Malformed(_) => {}
        }
    }
}

/// How long a reaction may take. Over HTTP the client has to ask first, and a client may pace the
/// full reports it gives by its heartbeat.
pub(super) fn due(stage: &ClientStage) -> Duration {
    stage.pace.reply() + stage.heartbeat()
}

/// In which a reaction that must not come would have come.
pub(super) fn undue(stage: &ClientStage) -> Duration {
    match stage.transport {
        Transport::WebSocket => stage.pace.quiet(),
        Transport::Http => stage.pace.quiet() + stage.heartbeat(),
    }
}

/// The beginning of cases that look for a full report: the client has connected, has reported, and
/// gave a full report when it was asked.
pub(super) async fn responsive(
    stage: &ClientStage,
) -> Result<(Host, Box<dyn Running>, AgentToServer), Stop> {
    let (mut host, client, _) = stage.meet().await?;
    let full = ask(stage, &mut host).await?;
    Ok((host, client, full))
}

/// As [`responsive`], for cases in which no full report must come: the client gives none unasked.
pub(super) async fn calm(
    stage: &ClientStage,
) -> Result<(Host, Box<dyn Running>, AgentToServer), Stop> {
    let (mut host, client, full) = responsive(stage).await?;
    quiet(stage, &mut host).await?;
    Ok((host, client, full))
}

/// Goes on only if the client gives no full report unasked.
pub(super) async fn quiet(stage: &ClientStage, host: &mut Host) -> Result<(), Stop> {
    let within = undue(stage).max(stage.heartbeat() + stage.pace.poll());
    match reaction(host, within).await {
        Reaction::None(_) => Ok(()),
        Reaction::Full(_) => {
            Err(Stop::Unreached("the client gives full reports unasked".to_owned()))
        }
        closed => Err(Stop::Unreached(format!("the client does not stay: {closed}"))),
    }
}

/// Asks for a full report and gives it; it is not answered yet.
pub(super) async fn ask(stage: &ClientStage, host: &mut Host) -> Result<AgentToServer, Stop> {
    host.send(request(host)).await?;
    match reaction(host, due(stage)).await {
        Reaction::Full(full) => Ok(*full),
        other => Err(Stop::Unreached(format!("asked for a full report, {other}"))),
    }
}

/// Whether the client still serves its purpose after it was insulted: it reacts on its open
/// connection, or comes back. Tells what was seen.
pub(super) async fn lives(
    stage: &ClientStage,
    host: &mut Host,
    client: &mut dyn Running,
) -> (bool, String) {
    if stage.transport == Transport::WebSocket && host.is_connected() {
        if host.send(request(host)).await.is_err() {
            return (false, "the connection cannot be used".to_owned());
        }
        match reaction(host, due(stage)).await {
            Reaction::Full(_) => {
                return (true, "it still reacts on the same connection".to_owned());
            }
            Reaction::Closed(..) => {}
            Reaction::None(seconds) => {
                let seen = "it keeps the connection and does not react within";
                return (false, format!("{seen} {seconds:.1} s"));
            }
        }
    }
    comes_back(stage, host, client).await
}

/// Whether the client comes, on whatever connection.
pub(super) async fn comes_back(
    stage: &ClientStage,
    host: &mut Host,
    client: &mut dyn Running,
) -> (bool, String) {
    let began = Instant::now();
    match host.hear(stage.pace.comeback() + stage.heartbeat(), |_| true).await {
        Some(_) => (true, format!("a message after {:.1} s", began.elapsed().as_secs_f64())),
        None if host.is_connected() => (true, "a connection, on which it says nothing".to_owned()),
        None => {
            let ended = client.ended().map_or(String::new(), |how| format!("; its program {how}"));
            let waited = began.elapsed().as_secs_f64();
            (false, format!("no message within {waited:.0} s{ended}"))
        }
    }
}

/// What is left of a message without what differs in every message: its content as a report.
pub(super) fn content(message: &AgentToServer) -> AgentToServer {
    AgentToServer { sequence_num: 0, ..message.clone() }
}

/// Whether a message says anything of the agent's status.
pub(super) fn is_report(message: &AgentToServer) -> bool {
    let AgentToServer {
        agent_description,
        health,
        effective_config,
        remote_config_status,
        package_statuses,
        available_components,
        connection_settings_status,
        ..
    } = message;
    agent_description.is_some()
        || health.is_some()
        || effective_config.is_some()
        || remote_config_status.is_some()
        || package_statuses.is_some()
        || available_components.is_some()
        || connection_settings_status.is_some()
}

/// Goes on only if there is something in the client's first message that could be repeated.
pub(super) fn reports_something(first: &AgentToServer) -> Result<(), Stop> {
    let nothing = || Stop::Unreached("the client's first message reports nothing".to_owned());
    is_report(first).then_some(()).ok_or_else(nothing)
}

/// The pauses between attempts, in seconds.
#[derive(Debug, Default)]
pub(super) struct Pauses(pub(super) Vec<f64>);

/// Connections this close together are one attempt, as by a client that tries two addresses.
const ONE_ATTEMPT: Duration = Duration::from_millis(20);

impl Pauses {
    /// Those between these attempts, and what has passed since the last one where that is longer
    /// than the pause before.
    pub(super) fn between(attempts: &[Instant]) -> Self {
        let mut kept: Vec<Instant> = Vec::new();
        for at in attempts {
            if kept.last().is_none_or(|last| at.duration_since(*last) > ONE_ATTEMPT) {
                kept.push(*at);
            }
        }
        let pause = |pair: &[Instant]| pair[1].duration_since(pair[0]).as_secs_f64();
        let mut pauses: Vec<_> = kept.windows(2).map(pause).collect();
        if let (Some(at), Some(last)) = (kept.last(), pauses.last()) {
            let open = at.elapsed().as_secs_f64();
            if open > *last {
                pauses.push(open);
            }
        }
        Self(pauses)
    }

    /// Whether the later half of the pauses is clearly longer than the earlier, over several
    /// clients; jitter alone does not make it so. `None` where there are too few to tell.
    pub(super) fn grow(of: &[Self]) -> Option<bool> {
        let long_enough = of.iter().filter(|pauses| pauses.0.len() >= 2);
        let halves = long_enough.map(|Self(pauses)| {
            let half = pauses.len() / 2;
            let sum = |part: &[f64]| part.iter().sum::<f64>() / half as f64;
            (sum(&pauses[..half]), sum(&pauses[pauses.len() - half..]))
        });
        let halves: Vec<_> = halves.collect();
        let earlier: f64 = halves.iter().map(|(earlier, _)| earlier).sum();
        let later: f64 = halves.iter().map(|(_, later)| later).sum();
        (!halves.is_empty()).then_some(later > 1.3 * earlier)
    }
}

impl std::fmt::Display for Pauses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no pauses");
        }
        let shown = self.0.iter().take(12).map(|pause| format!("{pause:.2}"));
        write!(f, "pauses of {} s", shown.collect::<Vec<_>>().join(", "))?;
        if self.0.len() > 12 { write!(f, " and {} more", self.0.len() - 12) } else { Ok(()) }
    }
}

/// Waits until there were this many attempts at each of these addresses, or the time is over.
pub(super) async fn attempts(
    stage: &ClientStage,
    endpoints: &[&Endpoint],
    count: usize,
    within: Duration,
) {
    let until = Instant::now() + within;
    let enough = |endpoint: &&Endpoint| Pauses::between(&endpoint.attempts()).0.len() >= count;
    while Instant::now() < until && !endpoints.iter().all(enough) {
        sleep(stage.pace.poll()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_told_from_jitter() {
        let grow = |pauses: &[f64]| Pauses::grow(&[Pauses(pauses.to_vec())]);
        assert_eq!(grow(&[0.5, 1.0, 2.0, 4.0]), Some(true));
        assert_eq!(grow(&[0.5, 0.8, 1.1, 1.7, 2.5]), Some(true));
        assert_eq!(grow(&[1.0, 2.0, 2.0, 2.0, 2.0]), Some(true));
        assert_eq!(grow(&[1.0, 1.2, 0.8, 1.1]), Some(false));
        assert_eq!(grow(&[30.0, 60.0]), Some(true));
        assert_eq!(grow(&[30.0]), None);
    }
}
