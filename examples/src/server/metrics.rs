//! The server's counts in the text format of Prometheus.

use std::fmt::Write as _;

use opamp_server::{CounterKind, Fleet};

/// The media type of the text.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4";

pub(super) fn text<I>(fleet: &Fleet<I>) -> String {
    let connected = fleet.connected();
    let mut text = Text::default();
    text.family("opamp_agents", "Agents known, connected or not.", CounterKind::Gauge);
    text.sample(&[], fleet.len() as u64);
    text.family("opamp_agents_connected", "Agents with a session.", CounterKind::Gauge);
    text.sample(&[("transport", "websocket")], connected.websocket as u64);
    text.sample(&[("transport", "http")], connected.http as u64);
    let help = "Bytes kept of what all Agents reported.";
    text.family("opamp_retained_bytes", help, CounterKind::Gauge);
    text.sample(&[], fleet.retained_bytes() as u64);
    for family in fleet.counters().families() {
        text.family(family.name, family.help, family.kind);
        for sample in family.samples {
            text.sample(sample.labels, sample.value);
        }
    }
    text.out
}

#[derive(Default)]
struct Text {
    out: String,
    family: &'static str,
}

/// A string takes whatever is written to it.
impl Text {
    fn family(&mut self, name: &'static str, help: &str, kind: CounterKind) {
        self.family = name;
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {}", kind.as_str());
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: u64) {
        self.out.push_str(self.family);
        for (index, (name, value)) in labels.iter().enumerate() {
            let before = if index == 0 { '{' } else { ',' };
            let _ = write!(self.out, "{before}{name}=\"{value}\"");
        }
        let after = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.out, "{after} {value}");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn is_name(name: &str) -> bool {
        let first = |c: char| c.is_ascii_alphabetic() || c == '_' || c == ':';
        name.starts_with(first) && name.chars().all(|c| first(c) || c.is_ascii_digit())
    }

    /// The rules of the text exposition format: each family has one HELP and one TYPE, before its
    /// samples, which stand together; no sample stands twice; a line ends the text.
    #[test]
    fn it_is_valid_exposition_format() {
        let text = text(&Fleet::<()>::default());
        assert!(text.ends_with('\n'));
        let (mut types, mut samples) = (BTreeMap::new(), BTreeSet::new());
        let mut helped = None;
        let mut current = "";
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                assert!(is_name(name) && !help.is_empty() && !help.contains('\\'), "{line}");
                helped = Some(name);
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert_eq!(helped.take(), Some(name), "{line}");
                assert!(matches!(kind, "counter" | "gauge"), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                assert!(types.insert(name, kind).is_none(), "{name} twice");
                current = name;
            } else {
                let (sample, value) = line.rsplit_once(' ').unwrap();
                let (name, labels) = match sample.split_once('{') {
                    Some((name, labels)) => (name, labels.strip_suffix('}').expect("a brace")),
                    None => (sample, ""),
                };
                assert_eq!(name, current, "{line}");
                for label in labels.split_terminator(',') {
                    let (label, value) = label.split_once('=').unwrap();
                    assert!(is_name(label) && !["uid", "agent", "peer"].contains(&label), "{line}");
                    let value = value.strip_prefix('"').and_then(|it| it.strip_suffix('"'));
                    assert!(!value.expect("quotes").contains(['"', '\\']), "{line}");
                }
                assert_eq!(value.parse(), Ok(0_u64), "{line}");
                assert!(samples.insert(sample), "{line} twice");
            }
        }
        assert!(types.len() > 20 && samples.len() > 60);
        assert!(samples.contains("opamp_messages_received_total{transport=\"websocket\"}"));
    }
}
