//! The list of scenarios, and what playing one comes to.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::check::{Failed, cut};
use crate::stage::{Equipment, Logs, Stage, Transport};
use crate::{Outcome, Peer, agents_of_go, other_agents, servers_of_go};

/// No scenario may hold up the rest, whatever happens in it.
const LIMIT: Duration = Duration::from_secs(60);

type Play = fn(Stage) -> Pin<Box<dyn Future<Output = Outcome>>>;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Scenario {
    /// What is expected.
    pub(crate) expects: &'static str,
    pub(crate) transports: &'static [Transport],
    pub(crate) play: Play,
}

pub(crate) const BOTH: &[Transport] = &[Transport::WebSocket, Transport::Http];
pub(crate) const WEBSOCKET: &[Transport] = &[Transport::WebSocket];
pub(crate) const HTTP: &[Transport] = &[Transport::Http];

/// A scenario over one transport.
#[derive(Debug)]
pub(crate) struct Case {
    number: usize,
    ends: &'static str,
    transport: Transport,
    scenario: Scenario,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, ends, transport, scenario } = self;
        write!(f, "{number:3} {ends} {transport:<9} {}", scenario.expects)
    }
}

/// Every case with one of the peers whose line has one of the texts, or all if there is no text.
pub(crate) fn cases(peers: &[Peer], only: &[String]) -> Vec<Case> {
    let all = [
        (Peer::Go, "go agent > server", agents_of_go::ALL),
        (Peer::Go, "agent > go server", servers_of_go::ALL),
        (Peer::Python, "python agent > server", other_agents::PYTHON),
        (Peer::Node, "node agent > server", other_agents::NODE),
        (Peer::Java, "java agent > server", other_agents::JAVA),
        (Peer::Java, "java agent > server", other_agents::JAVA_ON_WEBSOCKET),
    ];
    let wanted = all.iter().filter(|(peer, ..)| peers.contains(peer));
    let scenarios = wanted.flat_map(|(_, ends, all)| all.iter().map(move |one| (*ends, *one)));
    scenarios
        .flat_map(|(ends, one)| one.transports.iter().map(move |on| (ends, one, *on)))
        .enumerate()
        .map(|(at, (ends, scenario, transport))| Case { number: at + 1, ends, transport, scenario })
        .filter(|case| only.is_empty() || only.iter().any(|text| case.to_string().contains(text)))
        .collect()
}

pub(crate) struct Verdict {
    case: Case,
    pub(crate) outcome: Outcome,
    took: Duration,
    logs: Logs,
}

impl Case {
    pub(crate) async fn play(self, equipment: Arc<Equipment>) -> Verdict {
        let started = Instant::now();
        let logs = Logs::default();
        let outcome = match Stage::new(self.transport, equipment, Arc::clone(&logs)) {
            Ok(stage) => match tokio::time::timeout(LIMIT, (self.scenario.play)(stage)).await {
                Ok(outcome) => outcome,
                Err(_) => Err(Failed::new(format_args!("an end within {LIMIT:?}"), "none")),
            },
            Err(failed) => Err(failed),
        };
        Verdict { case: self, outcome, took: started.elapsed(), logs }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.took.as_secs_f64();
        match &self.outcome {
            Ok(seen) => write!(f, "PASS {} ({seconds:.1} s)\n      seen: {seen}", self.case),
            Err(failed) => {
                write!(f, "FAIL {} ({seconds:.1} s)\n  {failed}", self.case)?;
                let logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
                for (name, log) in logs.iter() {
                    for line in log.since(log.len().saturating_sub(8)) {
                        write!(f, "\n      {name}: {}", cut(&line.text))?;
                    }
                }
                Ok(())
            }
        }
    }
}
