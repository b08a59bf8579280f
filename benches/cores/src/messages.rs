//! The messages that operations are about.

use opamp_proto::{AgentCapabilities, Message as _, v1};

/// What the Agents announce.
const CAPABILITIES: AgentCapabilities = AgentCapabilities::REPORTS_STATUS
    .union(AgentCapabilities::REPORTS_HEALTH)
    .union(AgentCapabilities::REPORTS_EFFECTIVE_CONFIG)
    .union(AgentCapabilities::ACCEPTS_REMOTE_CONFIG)
    .union(AgentCapabilities::REPORTS_REMOTE_CONFIG)
    .union(AgentCapabilities::REPORTS_HEARTBEAT);

/// Bytes of a configuration.
const CONFIG_SIZE: usize = 8 * 1024;

/// The uid of an Agent by its number among others.
pub(crate) fn uid(agent: usize) -> [u8; 16] {
    (agent as u128 + 1).to_be_bytes()
}

/// The name of an Agent's host, which no other Agent has.
pub(crate) fn host(agent: usize) -> String {
    format!("host-{agent:07}.fleet.example")
}

/// The name of an Agent's zone, which one in a hundred Agents has.
pub(crate) fn zone(agent: usize) -> String {
    format!("zone-{:02}", agent % 100)
}

/// Ten attributes.
pub(crate) fn description(agent: usize) -> v1::AgentDescription {
    let (host, zone) = (host(agent), zone(agent));
    v1::AgentDescription {
        identifying_attributes: vec![
            v1::KeyValue::new("service.name", "io.opentelemetry.collector"),
            v1::KeyValue::new("service.namespace", "telemetry"),
            v1::KeyValue::new("service.instance.id", host.as_str()),
            v1::KeyValue::new("service.version", "0.150.0"),
        ],
        non_identifying_attributes: vec![
            v1::KeyValue::new("os.type", "linux"),
            v1::KeyValue::new("os.version", "6.12.0"),
            v1::KeyValue::new("host.arch", "amd64"),
            v1::KeyValue::new("host.name", host.as_str()),
            v1::KeyValue::new("cloud.region", "eu-central-1"),
            v1::KeyValue::new("cloud.availability_zone", zone.as_str()),
        ],
    }
}

pub(crate) fn health(status: &str) -> v1::ComponentHealth {
    v1::ComponentHealth { healthy: true, status: status.to_owned(), ..Default::default() }
}

/// A file of 8 KiB that differs from another variant in its last byte.
pub(crate) fn config(variant: u8) -> v1::AgentConfigMap {
    let mut body = vec![b'a'; CONFIG_SIZE];
    body[CONFIG_SIZE - 1] += variant;
    let file = v1::AgentConfigFile { body: body.into(), content_type: "text/yaml".into() };
    v1::AgentConfigMap { config_map: [(String::new(), file)].into() }
}

pub(crate) fn heartbeat(agent: usize) -> v1::AgentToServer {
    v1::AgentToServer {
        instance_uid: uid(agent).to_vec().into(),
        capabilities: CAPABILITIES.to_wire(),
        ..Default::default()
    }
}

/// What an Agent says first that has no configuration to tell.
pub(crate) fn short_report(agent: usize) -> v1::AgentToServer {
    v1::AgentToServer {
        agent_description: Some(description(agent)),
        health: Some(health("ready")),
        effective_config: Some(v1::EffectiveConfig::default()),
        remote_config_status: Some(v1::RemoteConfigStatus::default()),
        ..heartbeat(agent)
    }
}

/// Everything, with an effective configuration of 8 KiB.
pub(crate) fn full_report(agent: usize, variant: u8) -> v1::AgentToServer {
    let config_map = Some(config(variant));
    v1::AgentToServer {
        effective_config: Some(v1::EffectiveConfig { config_map }),
        ..short_report(agent)
    }
}

/// An encoded message whose sequence number can be written over, so that it can be sent again and
/// again without being encoded again.
pub(crate) struct Numbered(Vec<u8>);

impl Numbered {
    /// The numbers have five bytes from here on, for more messages than are ever measured.
    pub(crate) const FIRST: u64 = 1 << 28;
    /// Behind the uid and the tag of the number.
    const PLACE: std::ops::Range<usize> = 19..24;

    pub(crate) fn new(message: v1::AgentToServer) -> Self {
        let bytes = v1::AgentToServer { sequence_num: Self::FIRST, ..message }.encode_to_vec();
        assert_eq!(bytes[Self::PLACE], [0x80, 0x80, 0x80, 0x80, 0x01], "where the number is");
        Self(bytes)
    }

    pub(crate) fn with(&mut self, number: u64) -> &[u8] {
        let septets = self.0[Self::PLACE].iter_mut().zip([0, 7, 14, 21, 28]);
        septets.for_each(|(byte, shift)| *byte = (number >> shift) as u8 | 0x80);
        self.0[Self::PLACE.end - 1] &= 0x7f;
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_numbered_message_is_the_message_with_that_number() {
        let mut message = Numbered::new(full_report(3, 1));
        for number in [Numbered::FIRST, Numbered::FIRST + 1, 0x0007_1234_5678, (1 << 35) - 1] {
            let decoded = v1::AgentToServer::decode(message.with(number)).expect("a message");
            let expected = v1::AgentToServer { sequence_num: number, ..full_report(3, 1) };
            assert_eq!(decoded, expected);
        }
    }
}
