//! How the demo looks: for people on a terminal, for people in a file, and for machines.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use opamp_examples::program::{Failure, print};
use opamp_examples::server::agent_json;
use opamp_server::{AgentSnapshot, Transport};
use serde_json::json;

use crate::stage::{AGENTS, Stage, TLS};
use crate::steps::{ALL, Step};

pub(crate) struct Show {
    json: bool,
    /// Colours and box drawing.
    fancy: bool,
}

#[derive(Clone, Copy)]
enum Ink {
    Bold,
    Dim,
    Green,
    Red,
    Yellow,
}

impl Show {
    pub(crate) fn new(json: bool) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { json, fancy: wanted && !json && io::stdout().is_terminal() }
    }

    fn ink(&self, ink: Ink, text: &str) -> String {
        let code = match ink {
            Ink::Bold => 1,
            Ink::Dim => 2,
            Ink::Red => 31,
            Ink::Green => 32,
            Ink::Yellow => 33,
        };
        if self.fancy { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(crate) fn begin(&self) {
        if !self.json {
            let title = self.ink(Ink::Bold, "OpAMP in Rust");
            print(format_args!("{title}: two servers and three agents on real sockets\n"));
        }
    }

    pub(crate) fn step(
        &self,
        number: usize,
        step: &Step,
        outcome: &Result<Vec<String>, Failure>,
        took: Duration,
        stage: &Stage,
    ) {
        let fleet: Vec<_> = match step.shows_fleet {
            true => {
                AGENTS.into_iter().filter_map(|name| Some((name, stage.agent(name)?))).collect()
            }
            false => Vec::new(),
        };
        if self.json {
            let mut line = json!({
                "step": number,
                "of": ALL.len(),
                "title": step.title,
                "ok": outcome.is_ok(),
                "milliseconds": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            });
            match outcome {
                Ok(facts) => line["facts"] = facts.as_slice().into(),
                Err(error) => line["error"] = error.to_string().into(),
            }
            if step.shows_fleet {
                line["agents"] = fleet.iter().map(|(_, agent)| agent_json::agent(agent)).collect();
            }
            return print(line);
        }
        let title = self.ink(Ink::Bold, step.title);
        let took = self.ink(Ink::Dim, &format!("{took:.1?}"));
        print(format_args!("{number}/{} {title}  {took}", ALL.len()));
        match outcome {
            Ok(facts) => {
                let tick = self.ink(Ink::Green, if self.fancy { "✓" } else { "ok" });
                facts.iter().for_each(|fact| print(format_args!("    {tick} {fact}")));
            }
            Err(error) => {
                let cross = self.ink(Ink::Red, if self.fancy { "✗" } else { "failed:" });
                print(format_args!("    {cross} {error}"));
            }
        }
        if !fleet.is_empty() {
            self.table(&fleet);
        }
        print("");
    }

    fn table(&self, fleet: &[(&str, AgentSnapshot)]) {
        let heads = ["agent", "transport", "state", "health", "configuration", "messages"];
        let mut rows = vec![heads.map(|head| (head.to_owned(), Ink::Bold))];
        rows.extend(fleet.iter().map(|(name, agent)| row(name, agent)));
        let widths: [usize; 6] = std::array::from_fn(|column| {
            rows.iter().map(|row| row[column].0.chars().count()).max().unwrap_or(0)
        });
        let rule = |left: &str, middle: &str, right: &str| {
            let lines = widths.map(|width| "─".repeat(width + 2));
            let rule = format!("{left}{}{right}", lines.join(middle));
            print(format_args!("    {}", self.ink(Ink::Dim, &rule)));
        };
        if self.fancy {
            rule("┌", "┬", "┐");
        }
        for (index, row) in rows.iter().enumerate() {
            let cells: Vec<_> = row
                .iter()
                .zip(widths)
                // Padded first: the escape sequences have a length but no width.
                .map(|((text, ink), width)| self.ink(*ink, &format!("{text:width$}")))
                .collect();
            if self.fancy {
                let bar = self.ink(Ink::Dim, "│");
                print(format_args!("    {bar} {} {bar}", cells.join(&format!(" {bar} "))));
                if index == 0 {
                    rule("├", "┼", "┤");
                }
            } else {
                print(format_args!("    {}", cells.join("  ").trim_end()));
            }
        }
        if self.fancy {
            rule("└", "┴", "┘");
        }
    }

    pub(crate) fn end(&self, steps: usize, took: Duration) {
        if !self.json {
            let done = self.ink(Ink::Green, &format!("All {steps} steps went as they should"));
            print(format_args!("{done}, in {:.1} s.", took.as_secs_f64()));
        }
    }

    /// Says how to connect an agent of one's own.
    pub(crate) fn keep_running(&self, stage: &Stage) {
        let Ok(server) = stage.plain() else { return };
        let (opamp, admin) = (server.opamp_addr(), server.admin_addr());
        if self.json {
            return print(
                json!({"listening": {"opamp": opamp.to_string(), "admin": admin.to_string()}}),
            );
        }
        let connect = format!("cargo run --release --bin agent -- --server ws://{opamp}/v1/opamp");
        print(format_args!("\nThe server goes on. Connect an agent of your own:\n"));
        print(format_args!("    {}", self.ink(Ink::Bold, &connect)));
        print("\nand look at the fleet, or offer it a configuration:\n");
        let look = format!("curl http://{admin}/v1/agents");
        let offer = format!("curl -X PUT --data-binary 'greeting: hi' http://{admin}/v1/config");
        print(format_args!("    {}", self.ink(Ink::Bold, &look)));
        print(format_args!("    {}", self.ink(Ink::Bold, &offer)));
        print("\nCtrl-C ends it.");
    }
}

type Cell = (String, Ink);

fn row(name: &str, agent: &AgentSnapshot) -> [Cell; 6] {
    let transport = match (agent.transport(), name == TLS) {
        (Transport::WebSocket, true) => "websocket, TLS",
        (Transport::WebSocket, false) => "websocket",
        (Transport::Http, _) => "http",
    };
    let state = match agent.is_connected() {
        true => ("connected", Ink::Green),
        false => ("gone", Ink::Dim),
    };
    let health = match agent.state().health() {
        Some(health) if health.healthy => (health.status, Ink::Green),
        Some(health) => (health.last_error, Ink::Red),
        None => (String::new(), Ink::Dim),
    };
    let status = agent.state().remote_config_status().unwrap_or_default();
    let hash: String =
        status.last_remote_config_hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let config = match status.status().as_str_name().rsplit('_').next() {
        Some("UNSET") | None => ("its own".to_owned(), Ink::Dim),
        Some("APPLIED") => (format!("{hash} APPLIED"), Ink::Green),
        Some(other) => (format!("{hash} {other}"), Ink::Yellow),
    };
    [
        (name.to_owned(), Ink::Bold),
        (transport.to_owned(), Ink::Dim),
        (state.0.to_owned(), state.1),
        health,
        config,
        (agent.sequence_num().to_string(), Ink::Dim),
    ]
}
