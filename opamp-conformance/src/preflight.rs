//! A quick look at the subject before the suite runs, so that a server that is not there, or a
//! client that does not start, is told once and not by every case.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::client::{self, ClientStage, ClientUnderTest};
use crate::judge::Stop;
use crate::mask::agent as mask;
use crate::pace::Pace;
use crate::report::Transport;
use crate::run::Subject;
use crate::server::{self, Agent, ServerStage, ServerUnderTest};

/// How many messages, or connections, in one of the tester's quiet times are a flood.
const FLOOD: usize = 200;
/// How often a client that is waited for is asked whether it still runs.
const LOOK: Duration = Duration::from_millis(100);

/// What a subject is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The transports it was reached over.
    pub transports: Vec<Transport>,
    /// Why it was not over the others.
    pub remarks: Vec<String>,
}

/// Why a subject cannot be tested at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Unreachable {
    side: &'static str,
    why: Vec<String>,
}

impl std::fmt::Display for Unreachable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the {} cannot be tested", self.side)?;
        self.why.iter().try_for_each(|why| write!(f, "\n  {why}"))
    }
}

/// Looks whether the subject can be reached over these transports.
///
/// # Errors
///
/// When it cannot be reached over any of them, or floods the tester.
pub async fn look(
    subject: &Subject,
    transports: &[Transport],
    pace: Pace,
) -> Result<Found, Unreachable> {
    let side = subject.side().name();
    let mut found = Found { transports: Vec::new(), remarks: Vec::new() };
    for transport in transports {
        let met = match subject {
            Subject::Server(target) => meet_server(target, *transport, pace).await,
            Subject::Client(client) => meet_client(client, *transport, pace).await,
        };
        match met {
            Ok(()) => found.transports.push(*transport),
            Err(Miss::Over(why)) => {
                found.remarks.push(format!("over {}: {why}", transport.name()));
            }
            Err(Miss::AtAll(why)) => return Err(Unreachable { side, why: vec![why] }),
        }
    }
    if found.transports.is_empty() {
        return Err(Unreachable { side, why: found.remarks });
    }
    Ok(found)
}

/// Why a subject was not met: over this transport, or whatever the transport.
enum Miss {
    Over(String),
    AtAll(String),
}

impl From<Stop> for Miss {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Unreached(why) => Self::Over(why),
            other => Self::AtAll(other.to_string()),
        }
    }
}

async fn meet_server(
    target: &ServerUnderTest,
    transport: Transport,
    pace: Pace,
) -> Result<(), Miss> {
    let seed = rand::random();
    let mut stage = ServerStage::new(target.clone(), transport, &[], pace, seed);
    let mut agent = stage.agent(mask::REPORTS_STATUS);
    agent.connect().await?;
    let report = agent.full_report();
    match agent.ask(report).await? {
        server::Heard::Message(_) if transport == Transport::Http => Ok(()),
        // One that accepts a WebSocket is worth testing whatever it answers.
        _ if transport == Transport::WebSocket => calm(&mut agent, pace).await,
        server::Heard::Closed(Some(status), how) => Err(Miss::Over(match status {
            401 | 403 => format!("{how}; does it want credentials in a --header?"),
            404 => format!("{how}; is the path of the URL right?"),
            _ => how,
        })),
        server::Heard::Closed(None, how) => Err(Miss::Over(how)),
        server::Heard::Malformed(what) => {
            Err(Miss::Over(format!("the answer is no OpAMP: {what}")))
        }
        server::Heard::Silence | server::Heard::Message(_) => {
            Err(Miss::Over("there is no answer".to_owned()))
        }
    }
}

/// Goes on only if the server does not send without end.
async fn calm(agent: &mut Agent, pace: Pace) -> Result<(), Miss> {
    let until = Instant::now() + pace.quiet();
    for _ in 0..FLOOD {
        let left = until.saturating_duration_since(Instant::now());
        if matches!(agent.next(left).await, server::Heard::Silence | server::Heard::Closed(..)) {
            return Ok(());
        }
    }
    Err(Miss::AtAll(flood(pace)))
}

async fn meet_client(
    client: &Arc<dyn ClientUnderTest>,
    transport: Transport,
    pace: Pace,
) -> Result<(), Miss> {
    if !client.speaks(transport) {
        return Err(Miss::Over("it is not told to use it".to_owned()));
    }
    let stage = ClientStage::new(Arc::clone(client), transport, &[], pace, rand::random());
    let mut host = stage.host().await?;
    let mut running = stage.start(stage.start_for(&host)).await?;
    let until = Instant::now() + pace.start();
    loop {
        match host.next(LOOK).await {
            client::Heard::Message(_) => break,
            client::Heard::Malformed(what) => {
                return Err(Miss::Over(format!("what it sends is no OpAMP: {what}")));
            }
            client::Heard::Closed(..) | client::Heard::Silence => {}
        }
        if let Some(how) = running.ended() {
            return Err(Miss::Over(format!("its program {how}")));
        }
        if host.endpoint.attempts().len() > FLOOD {
            return Err(Miss::AtAll("it connects again and again and sends nothing".to_owned()));
        }
        if Instant::now() >= until {
            let waited = pace.start().as_secs_f64();
            let met = match host.endpoint.attempts().len() {
                0 => "it did not connect",
                _ => "it connected, but sent no message",
            };
            return Err(Miss::Over(format!("{met} within {waited:.0} s")));
        }
    }
    if host.websocket().is_ok() != (transport == Transport::WebSocket) {
        return Err(Miss::Over(format!("it uses another transport for {}", host.url())));
    }
    let until = Instant::now() + pace.quiet();
    for _ in 0..FLOOD {
        let left = until.saturating_duration_since(Instant::now());
        if matches!(host.next(left).await, client::Heard::Silence) {
            return Ok(());
        }
    }
    Err(Miss::AtAll(flood(pace)))
}

fn flood(pace: Pace) -> String {
    format!("it sends more than {FLOOD} messages in {:.1} s", pace.quiet().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Network;
    use crate::reference::Faults;
    use crate::reference::client::ReferenceClient;
    use crate::reference::server::ReferenceServer;

    #[tokio::test(start_paused = true)]
    async fn reference_peers_are_found_over_both_transports() {
        let network = Network::in_memory();
        let server = ReferenceServer::start(&network, Faults::none()).await.unwrap();
        let client = Arc::new(ReferenceClient::new(&network, Faults::none()));
        for subject in [Subject::Server(server.target()), Subject::Client(client)] {
            let found = look(&subject, Transport::BOTH, Pace::new(1.0)).await.unwrap();
            assert_eq!(found.transports, Transport::BOTH);
        }
    }
}
