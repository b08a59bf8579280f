//! What happens to the fleet.

use std::time::Duration;

use bytes::Bytes;
use clap::ValueEnum;

use super::stats::{Reached, Stats, elapsed, next_second};
use super::{Options, Phase, Report, Simulation, micros};

/// What happens to the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// All Agents begin, over two heartbeat intervals.
    Boot,
    /// Nothing happens, for two heartbeat intervals.
    Rest,
    /// The Server is restarted in good order, and keeps what it knew.
    RestartKept,
    /// The Server crashes; what was durable by then survives.
    CrashKept,
    /// The Server is restarted and knows nothing of its Agents any more.
    RestartLost,
    /// The network comes back after ten minutes.
    Storm,
    /// A configuration of 8 KiB is offered to everyone.
    Rollout,
    /// The same, while connections break and attempts fail.
    FlakyRollout,
}

/// How long a phase may take.
const PATIENCE: Duration = Duration::from_secs(3600);

/// How long the Server is away for a restart.
const RESTART: Duration = Duration::from_secs(5);

/// How long nobody reaches it.
const OUTAGE: Duration = Duration::from_secs(600);

const CONFIG_BYTES: usize = 8 * 1024;

/// How far a phase is.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Progress {
    /// The phase.
    pub phase: &'static str,
    /// Seconds of virtual time since it began.
    pub seconds: u64,
    /// Agents that are not where they should be.
    pub missing: u32,
    /// The phase is over.
    pub is_over: bool,
}

/// Plays a scenario. `progress` is told of each second of virtual time in which Agents are waited for.
pub fn run(scenario: Scenario, options: &Options, progress: &mut dyn FnMut(Progress)) -> Report {
    let mut simulation = Simulation::new(options.clone());
    if matches!(scenario, Scenario::RestartKept | Scenario::CrashKept) {
        simulation.server.keep_state();
    }
    // Machines boot over two heartbeat intervals.
    let boot = micros(options.heartbeat_interval * 2).max(1);
    for agent in 0..u64::from(options.agents) {
        simulation.add(boot * agent / u64::from(options.agents));
    }
    let mut phases = vec![simulation.watch("all connect", None, progress)];
    if scenario != Scenario::Boot {
        simulation.flaky = scenario == Scenario::FlakyRollout;
        simulation.begin();
        simulation.run_until(simulation.now + micros(options.heartbeat_interval * 2));
        phases.push(simulation.watch("nothing happens", None, progress));
    }
    if let Some((name, wanted)) = simulation.begin_scenario(scenario) {
        phases.push(simulation.watch(name, wanted, progress));
    }

    let retained = simulation.server.fleet.retained_bytes();
    Report {
        scenario: { scenario.to_possible_value() }
            .map_or_else(String::new, |value| value.get_name().to_owned()),
        agents: options.agents,
        seed: options.seed,
        phases,
        retained_bytes_per_agent: retained as f64 / f64::from(options.agents.max(1)),
    }
}

impl Simulation {
    /// What the scenario is about happens: its name, and the configuration that all have to get.
    fn begin_scenario(&mut self, scenario: Scenario) -> Option<(&'static str, Option<Bytes>)> {
        match scenario {
            Scenario::Boot | Scenario::Rest => None,
            Scenario::RestartKept | Scenario::CrashKept | Scenario::RestartLost => {
                self.begin();
                self.stop_server(scenario == Scenario::RestartKept);
                self.run_until(self.now + micros(RESTART));
                self.start_server();
                Some(("after the restart", None))
            }
            Scenario::Storm => {
                self.cut_off();
                self.run_until(self.now + micros(OUTAGE));
                self.begin();
                self.reconnect();
                Some(("after the outage", None))
            }
            Scenario::Rollout | Scenario::FlakyRollout => {
                self.begin();
                Some(("the rollout", Some(self.offer(CONFIG_BYTES))))
            }
        }
    }

    /// Counts from here.
    fn begin(&mut self) {
        self.stats = Stats::begin(self.now);
    }

    /// Runs until all Agents are where they should be, or patience ends. Where connections break all
    /// the time, it is enough for each to have been there.
    fn watch(
        &mut self,
        phase: &'static str,
        wanted: Option<Bytes>,
        progress: &mut dyn FnMut(Progress),
    ) -> Phase {
        let agents = self.options.agents;
        let wanted = wanted.as_ref();
        self.heard.clear();
        let mut missing = Missing::new(agents, |agent| !self.is_settled(agent, wanted));
        let mut reached = Reached::default();
        loop {
            if missing.count == 0 && !self.flaky {
                // Some may have left while others came.
                missing = Missing::new(agents, |agent| !self.is_settled(agent, wanted));
            }
            let elapsed = elapsed(&self.stats, self.now);
            reached.note(elapsed, missing.count, agents);
            let is_over = missing.count == 0 || elapsed >= micros(PATIENCE);
            let seconds = Duration::from_micros(elapsed).as_secs();
            progress(Progress { phase, seconds, missing: missing.count, is_over });
            if is_over {
                return self.stats.phase(phase, agents, reached);
            }
            let next = next_second(&self.stats, self.now);
            self.run_until(next);
            // Nobody gets there without a message.
            for agent in std::mem::take(&mut self.heard) {
                if missing.contains(agent) && self.is_settled(agent, wanted) {
                    missing.remove(agent);
                }
            }
        }
    }
}

/// The Agents that are not where they should be.
struct Missing {
    agents: Vec<bool>,
    count: u32,
}

impl Missing {
    fn new(agents: u32, is_missing: impl Fn(u32) -> bool) -> Self {
        let agents: Vec<_> = (0..agents).map(is_missing).collect();
        let count = agents.iter().filter(|it| **it).count();
        Self { agents, count: u32::try_from(count).unwrap_or(u32::MAX) }
    }

    fn contains(&self, agent: u32) -> bool {
        self.agents[agent as usize]
    }

    fn remove(&mut self, agent: u32) {
        self.agents[agent as usize] = false;
        self.count -= 1;
    }
}
