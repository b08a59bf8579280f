//! What is measured of the servers, and what is to be reached.

use serde_json::Value;

use super::subject::Subject::{self, Go, Hyper, Ours, Socket};

/// A figure of a report of the load generator.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Metric {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    read: fn(&Value) -> Option<f64>,
}

impl Metric {
    pub(crate) fn of(&self, report: &Value) -> Option<f64> {
        (self.read)(report).filter(|value| value.is_finite())
    }
}

/// What a goal is about.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Measure {
    /// The figure of one server by that of another.
    Ratio(Subject, Subject),
    /// The figure of a server.
    Value(Subject),
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Bound {
    pub(crate) fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Goal {
    /// The place of the metric in its case.
    pub(crate) metric: usize,
    pub(crate) measure: Measure,
    pub(crate) bound: Bound,
    /// To be told apart from what has to be reached.
    pub(crate) stretch: bool,
}

/// How long measurements take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    /// Measured traffic, in milliseconds.
    pub(crate) traffic: u32,
    /// Milliseconds before it.
    pub(crate) warmup: u32,
    /// The numbers of agents where there are many.
    pub(crate) many: usize,
    pub(crate) most: usize,
    pub(crate) pushed: usize,
    pub(crate) connecting: usize,
    pub(crate) memory: (usize, usize),
}

impl Scale {
    pub(crate) fn full() -> Self {
        Self {
            traffic: 3000,
            warmup: 700,
            many: 4000,
            most: 16_000,
            pushed: 10_000,
            connecting: 4000,
            memory: (1000, 19_000),
        }
    }

    /// For a look: the same cases, smaller and shorter.
    pub(crate) fn quick() -> Self {
        Self {
            traffic: 800,
            warmup: 300,
            many: 1000,
            most: 4000,
            pushed: 2000,
            connecting: 1000,
            memory: (500, 4000),
        }
    }
}

pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) title: String,
    pub(crate) subjects: Vec<Subject>,
    pub(crate) websocket: bool,
    pub(crate) tls: bool,
    /// Arguments of the load generator.
    pub(crate) args: Vec<String>,
    /// A configuration can be put to all agents.
    pub(crate) pushes: bool,
    pub(crate) metrics: Vec<Metric>,
    pub(crate) goals: Vec<Goal>,
    /// Not in every round, as it takes long and varies little.
    pub(crate) once: bool,
}

fn at(report: &Value, pointer: &str) -> Option<f64> {
    report.pointer(pointer)?.as_f64()
}

const PER_MESSAGE: Metric = Metric {
    name: "server CPU for a message",
    unit: "µs",
    read: |report| at(report, "/traffic/server/cpu_us"),
};
pub(crate) const RATE: Metric = Metric {
    name: "messages per second",
    unit: "",
    read: |report| at(report, "/traffic/answered_per_second"),
};
const LATENCY: Metric =
    Metric { name: "p99", unit: "µs", read: |report| at(report, "/traffic/latency/p99_us") };
const PER_PUSH: Metric = Metric {
    name: "server CPU for an agent",
    unit: "µs",
    read: |report| at(report, "/push/server/cpu_us"),
};
const ARRIVAL: Metric =
    Metric { name: "p99 of arrival", unit: "µs", read: |report| at(report, "/push/push/p99_us") };
const PER_CONNECT: Metric = Metric {
    name: "server CPU for an agent",
    unit: "µs",
    read: |report| at(report, "/connect/server/cpu_us"),
};
const MEMORY: Metric = Metric {
    name: "memory for an agent",
    unit: "bytes",
    read: |report| at(report, "/memory_per_agent"),
};
const GROWTH: Metric = Metric {
    name: "what each agent left behind",
    unit: "bytes",
    read: |report| {
        let memory = report["memory"].as_array()?;
        let noted = |when: &str| memory.iter().rfind(|at| at["when"] == when)?["resident"].as_f64();
        let agents = report["agents"].as_f64()?;
        Some((noted("after pushes")? - noted("after traffic")?) / agents)
    },
};

/// Messages per second that every server can take.
const PACE: u32 = 50_000;

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn ratio(metric: usize, of: Subject, to: Subject, bound: Bound) -> Goal {
    Goal { metric, measure: Measure::Ratio(of, to), bound, stretch: false }
}

fn value(of: Subject, most: f64, stretch: bool) -> Goal {
    Goal { metric: 0, measure: Measure::Value(of), bound: Bound::AtMost(most), stretch }
}

/// Traffic as fast as the server answers.
fn traffic(
    name: &'static str,
    title: String,
    floor: Subject,
    args: &str,
    scale: &Scale,
    goals: Vec<Goal>,
) -> Case {
    let Scale { traffic, warmup, .. } = scale;
    Case {
        name,
        title,
        subjects: vec![floor, Ours, Go],
        websocket: floor == Socket,
        tls: false,
        args: words(&format!("{args} --duration {traffic}ms --warmup {warmup}ms --settle 0s")),
        pushes: false,
        metrics: vec![PER_MESSAGE, RATE, LATENCY],
        goals,
        once: false,
    }
}

pub(crate) fn cases(scale: &Scale) -> Vec<Case> {
    use Bound::{AtLeast, AtMost};

    let Scale { many, most, pushed, connecting, memory, .. } = *scale;
    let heartbeats = |name, agents: usize, pace: Option<u32>, least| {
        let goals = vec![ratio(0, Ours, Socket, AtMost(1.25)), ratio(0, Go, Ours, AtLeast(least))];
        let mut title = format!("Heartbeats over WebSocket, {agents} connections");
        let mut args = format!("--agents {agents}");
        // As fast as it goes, a server may serve few of many connections again and again.
        if let Some(pace) = pace {
            title = format!("{title}, {pace} per second");
            args = format!("{args} --rate {pace}");
        }
        traffic(name, title, Socket, &args, scale, goals)
    };
    let connect = |name, title: &str, tls| Case {
        name,
        title: format!("{title}, {connecting} agents"),
        subjects: if tls { vec![Ours, Go] } else { vec![Socket, Ours, Go] },
        websocket: true,
        tls,
        args: words(&format!("--agents {connecting} --duration 0s --settle 0s --config-size 1024")),
        pushes: false,
        metrics: vec![PER_CONNECT],
        goals: vec![ratio(0, Go, Ours, AtLeast(2.0))],
        once: false,
    };
    let idle = |name, title: &str, tls, goals| Case {
        name,
        title: title.to_owned(),
        subjects: vec![Ours, Go],
        websocket: true,
        tls,
        args: words(&format!(
            "--agents {1} --memory-at {0},{1} --duration 2s --rate {1} --warmup 0s --settle 2s",
            memory.0, memory.1
        )),
        pushes: false,
        metrics: vec![MEMORY],
        goals,
        once: true,
    };
    vec![
        heartbeats("heartbeats-64", 64, None, 1.5),
        heartbeats("heartbeats-many", many, None, 1.7),
        heartbeats("heartbeats-most", most, None, 1.7),
        heartbeats("paced-many", many, Some(PACE), 1.7),
        heartbeats("paced-most", most, Some(PACE), 1.7),
        traffic(
            "bursts",
            "Heartbeats over WebSocket in bursts of 16, 64 connections".to_owned(),
            Socket,
            "--agents 64 --depth 16 --burst",
            scale,
            vec![ratio(0, Go, Ours, AtLeast(5.0))],
        ),
        traffic(
            "configs",
            "Effective configurations of 8 KiB that change each time, 64 WebSockets".to_owned(),
            Socket,
            "--agents 64 --config-size 8192 --mix config",
            scale,
            vec![ratio(0, Go, Ours, AtLeast(3.0))],
        ),
        traffic(
            "polls",
            "Heartbeats over HTTP, 64 connections".to_owned(),
            Hyper,
            "--agents 64",
            scale,
            vec![ratio(0, Ours, Hyper, AtMost(1.15)), ratio(0, Go, Ours, AtLeast(2.3))],
        ),
        Case {
            name: "push",
            title: format!("A configuration of 8 KiB pushed to {pushed} agents, not acknowledged"),
            subjects: vec![Socket, Ours, Go],
            websocket: true,
            tls: false,
            args: words(&format!(
                "--agents {pushed} --duration 0s --settle 0s --pushes 3 --no-ack"
            )),
            pushes: true,
            metrics: vec![PER_PUSH, ARRIVAL],
            goals: vec![ratio(0, Ours, Socket, AtMost(1.15)), ratio(1, Go, Ours, AtLeast(3.0))],
            once: false,
        },
        connect("connect", "Connecting and the first report, WebSocket", false),
        connect("connect-tls", "The same with TLS, full handshakes", true),
        idle(
            "memory",
            "Memory of idle agents on WebSockets, ten attributes and heartbeats",
            false,
            vec![value(Ours, 8192.0, false), value(Ours, 3072.0, true)],
        ),
        idle(
            "memory-tls",
            "The same with TLS",
            true,
            vec![value(Ours, 14.0 * 1024.0, false), value(Ours, 8192.0, true)],
        ),
        Case {
            name: "growth",
            title: format!(
                "What {connecting} agents leave after reports and configurations of 64 KiB"
            ),
            subjects: vec![Ours, Go],
            websocket: true,
            tls: false,
            args: words(&format!(
                "--agents {connecting} --rest 1s --duration 0s --settle 2s --config-size 256 \
                 --large 65536 --pushes 1 --push-size 65536"
            )),
            pushes: true,
            metrics: vec![GROWTH],
            goals: vec![value(Ours, 512.0, false)],
            once: true,
        },
    ]
}
