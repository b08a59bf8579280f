//! What is counted, and the report of it.

use std::time::Duration;

use serde::Serialize;

use super::Micros;

const SECOND: Micros = 1_000_000;

/// Counts since the phase began.
#[derive(Debug, Default)]
pub(super) struct Stats {
    began: Micros,
    /// Messages the Server took in, by second.
    by_second: Vec<u32>,
    pub(super) messages: u64,
    pub(super) attempts: u64,
    pub(super) turned_away: u64,
    pub(super) failed: u64,
    pub(super) received_bytes: u64,
    pub(super) sent_bytes: u64,
    /// The longest a message waited for the Server.
    pub(super) longest_wait: Micros,
}

impl Stats {
    pub(super) fn begin(now: Micros) -> Self {
        Self { began: now, ..Self::default() }
    }

    pub(super) fn message(&mut self, now: Micros, bytes: usize) {
        self.messages += 1;
        self.received_bytes += bytes as u64;
        let second = ((now - self.began) / SECOND) as usize;
        if self.by_second.len() <= second {
            self.by_second.resize(second + 1, 0);
        }
        self.by_second[second] += 1;
    }

    pub(super) fn phase(&self, name: &'static str, agents: u32, reached: Reached) -> Phase {
        let per_agent = |count: u64| count as f64 / f64::from(agents.max(1));
        Phase {
            name,
            half_seconds: reached.half.map(seconds),
            most_seconds: reached.most.map(seconds),
            all_seconds: reached.all.map(seconds),
            missing: reached.missing,
            messages_per_agent: per_agent(self.messages),
            peak_messages_per_second: self.by_second.iter().copied().max().unwrap_or(0),
            attempts_per_agent: per_agent(self.attempts),
            turned_away: self.turned_away,
            failed: self.failed,
            received_bytes_per_agent: per_agent(self.received_bytes),
            sent_bytes_per_agent: per_agent(self.sent_bytes),
            longest_wait_seconds: seconds(self.longest_wait),
        }
    }
}

fn seconds(micros: Micros) -> f64 {
    Duration::from_micros(micros).as_secs_f64()
}

/// When so many Agents were where they should be.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Reached {
    pub(super) half: Option<Micros>,
    pub(super) most: Option<Micros>,
    pub(super) all: Option<Micros>,
    /// Agents that were not when time was up.
    pub(super) missing: u32,
}

impl Reached {
    pub(super) fn note(&mut self, elapsed: Micros, missing: u32, agents: u32) {
        self.missing = missing;
        let note = |at: &mut Option<Micros>, reached: bool| {
            if reached && at.is_none() {
                *at = Some(elapsed);
            }
        };
        note(&mut self.half, missing <= agents / 2);
        note(&mut self.most, missing <= agents / 100);
        note(&mut self.all, missing == 0);
    }
}

/// What happened in a part of a scenario. Times count from its beginning, to the second.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Phase {
    /// What it is.
    pub name: &'static str,
    /// Until half of the Agents were where they should be; `None` if that did not come about.
    pub half_seconds: Option<f64>,
    /// Until 99 of 100 were.
    pub most_seconds: Option<f64>,
    /// Until all were.
    pub all_seconds: Option<f64>,
    /// Agents that were not in the end.
    pub missing: u32,
    /// Messages the Server took in, by Agent.
    pub messages_per_agent: f64,
    /// The most it took in within a second.
    pub peak_messages_per_second: u32,
    /// Attempts to connect, or first requests after a pause, by Agent.
    pub attempts_per_agent: f64,
    /// Attempts that the Server turned away with a time to come back.
    pub turned_away: u64,
    /// Attempts and exchanges that failed.
    pub failed: u64,
    /// Bytes of messages to the Server, by Agent.
    pub received_bytes_per_agent: f64,
    /// Bytes of messages from the Server, by Agent.
    pub sent_bytes_per_agent: f64,
    /// The longest a message waited for the Server to come to it.
    pub longest_wait_seconds: f64,
}

/// What a scenario came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The scenario.
    pub scenario: String,
    /// Agents.
    pub agents: u32,
    /// The seed.
    pub seed: u64,
    /// Its parts, in order.
    pub phases: Vec<Phase>,
    /// What the Server's registry keeps of what an Agent reported, in bytes.
    pub retained_bytes_per_agent: f64,
}

/// Until now.
pub(super) fn elapsed(stats: &Stats, now: Micros) -> Micros {
    now - stats.began
}

/// The next whole second after this moment.
pub(super) fn next_second(stats: &Stats, now: Micros) -> Micros {
    let elapsed = elapsed(stats, now);
    stats.began + (elapsed / SECOND + 1) * SECOND
}
