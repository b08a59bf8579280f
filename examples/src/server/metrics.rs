//! The server's counts in the text format of Prometheus.

use std::fmt::Write as _;

use opamp_server::{Fleet, Transport};

pub(super) fn text<I>(fleet: &Fleet<I>) -> String {
    let agents = fleet.agents();
    let connected = |transport| {
        agents.iter().filter(|agent| agent.is_connected() && agent.transport() == transport).count()
    };
    let counters = fleet.counters();
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, samples: &[(&str, u64)]| {
        // A string takes whatever is written to it.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(text, "{name}{labels} {value}");
        }
    };
    family(
        "opamp_agents",
        "gauge",
        "Agents known, connected or not.",
        &[("", agents.len() as u64)],
    );
    family(
        "opamp_agents_connected",
        "gauge",
        "Agents with a session.",
        &[
            ("{transport=\"websocket\"}", connected(Transport::WebSocket) as u64),
            ("{transport=\"http\"}", connected(Transport::Http) as u64),
        ],
    );
    family(
        "opamp_retained_bytes",
        "gauge",
        "Bytes kept of what all Agents reported.",
        &[("", fleet.retained_bytes() as u64)],
    );
    let counts = [
        ("messages", "Messages received, malformed ones included.", counters.messages),
        ("malformed", "Messages told BAD_REQUEST as they are malformed.", counters.malformed),
        (
            "over_limit",
            "Messages told BAD_REQUEST as they ask for more than is granted.",
            counters.over_limit,
        ),
        ("unavailable", "Messages told UNAVAILABLE.", counters.unavailable),
        (
            "over_budget",
            "Messages told UNAVAILABLE as the state of all Agents would be too large.",
            counters.over_budget,
        ),
        ("stale", "Messages of connections that newer ones replaced.", counters.stale),
        (
            "custom_messages_dropped",
            "Custom messages of agents dropped as there was no room for them.",
            counters.custom_messages_dropped,
        ),
        (
            "legacy_instance_uids",
            "Messages with a tolerated legacy instance uid.",
            counters.legacy_instance_uids,
        ),
        (
            "missing_headers",
            "WebSocket messages tolerated without header.",
            counters.missing_headers,
        ),
        ("oversized", "Messages above the receive limit.", counters.oversized),
        ("unsendable", "Messages above the send limit, not sent.", counters.unsendable),
        ("rejected", "Requests refused by admission.", counters.rejected),
        ("timed_out", "Connections closed because the peer was too slow.", counters.timed_out),
        ("handler_panics", "Calls of the handler that panicked.", counters.handler_panics),
    ];
    for (name, help, value) in counts {
        family(&format!("opamp_{name}_total"), "counter", help, &[("", value)]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_has_a_type_and_a_value() {
        let text = text(&Fleet::<()>::default());
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let family = name.split('{').next().unwrap();
            assert!(text.contains(&format!("# TYPE {family} ")), "{line}");
            assert_eq!(value, "0", "{line}");
        }
    }
}
