//! The messages of simulated Agents. All that two messages of a kind differ in are the instance uid,
//! the sequence number and a few characters; so each kind is encoded once, and patched when it is
//! sent.

use std::sync::Arc;

use opamp_proto::{AgentCapabilities, Message as _, v1};

/// What a message tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Kind {
    /// The instance uid, the sequence number, the capabilities.
    Heartbeat,
    /// Everything, the same each time.
    Full,
    /// The effective configuration, each time another one.
    Config,
    /// The health, the same each time.
    Health,
    /// The first report on a connection: everything.
    First,
    /// The status of an offered configuration.
    Ack,
    /// A large effective configuration, once.
    Large,
    /// The last message on a connection.
    Goodbye,
}

impl Kind {
    /// All kinds, by their numbers.
    pub const ALL: [Self; 8] = [
        Self::Heartbeat,
        Self::Full,
        Self::Config,
        Self::Health,
        Self::First,
        Self::Ack,
        Self::Large,
        Self::Goodbye,
    ];

    /// Its name in results and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Heartbeat => "heartbeat",
            Self::Full => "full",
            Self::Config => "config",
            Self::Health => "health",
            Self::First => "first",
            Self::Ack => "ack",
            Self::Large => "large",
            Self::Goodbye => "goodbye",
        }
    }
}

/// What stands for the Agent's own uid, and for a running number, in what is encoded once.
const UID_TEXT: &str = "@@@@@@@@-uuuu-iiii-dddd-@@@@@@@@@@@@";
const NUMBER: &str = "@@@@number@@@@";

/// An encoded message without its first two fields.
#[derive(Debug, Clone)]
struct Template {
    tail: Vec<u8>,
    uid_texts: Vec<usize>,
    number: Option<usize>,
}

impl Template {
    fn new(message: &v1::AgentToServer) -> Self {
        let tail = message.encode_to_vec();
        let find = |text: &'static str| {
            let places = tail.windows(text.len()).enumerate();
            places.filter(move |(_, at)| *at == text.as_bytes()).map(|(place, _)| place)
        };
        Self { uid_texts: find(UID_TEXT).collect(), number: find(NUMBER).next(), tail }
    }
}

/// How large a message is apart from the sequence number: the tag and length of the uid, the uid, the
/// tag of the number.
const HEAD: usize = 2 + 16 + 1;

/// The messages of a run.
#[derive(Debug)]
pub(crate) struct Templates {
    of_kind: [Template; Kind::ALL.len()],
    unset: Status,
    /// Two statuses of a configuration that nobody has offered.
    unoffered: [Status; 2],
}

/// An encoded field remote_config_status.
pub(crate) type Status = Arc<[u8]>;

/// The status of an Agent that was offered nothing yet.
pub(crate) fn unset() -> Status {
    status(v1::RemoteConfigStatus::default())
}

/// The status of an Agent that runs with the configuration of this hash.
pub(crate) fn applied(hash: &[u8]) -> Status {
    told(v1::RemoteConfigStatuses::Applied, hash)
}

fn told(told: v1::RemoteConfigStatuses, hash: &[u8]) -> Status {
    status(v1::RemoteConfigStatus {
        last_remote_config_hash: hash.to_vec().into(),
        status: told.into(),
        ..Default::default()
    })
}

fn status(status: v1::RemoteConfigStatus) -> Status {
    let alone = v1::AgentToServer { remote_config_status: Some(status), ..Default::default() };
    alone.encode_to_vec().into()
}

impl Templates {
    /// Reports have an effective configuration of so many bytes, and none if that is 0; `large` is
    /// that of [`Kind::Large`].
    pub(crate) fn new(config_size: usize, large: usize) -> Self {
        let mut mask = AgentCapabilities::REPORTS_STATUS
            | AgentCapabilities::ACCEPTS_REMOTE_CONFIG
            | AgentCapabilities::REPORTS_REMOTE_CONFIG
            | AgentCapabilities::REPORTS_HEALTH
            | AgentCapabilities::REPORTS_HEARTBEAT;
        let config = config_size > 0;
        if config {
            mask |= AgentCapabilities::REPORTS_EFFECTIVE_CONFIG;
        }
        let heartbeat = v1::AgentToServer { capabilities: mask.bits(), ..Default::default() };
        let full = v1::AgentToServer {
            agent_description: Some(description()),
            health: Some(health()),
            effective_config: config.then(|| effective_config(config_size)),
            ..heartbeat.clone()
        };
        let of_kind = Kind::ALL.map(|kind| match kind {
            Kind::Heartbeat | Kind::Ack => Template::new(&heartbeat),
            Kind::Full | Kind::First => Template::new(&v1::AgentToServer {
                // The number makes the configuration another one where it should change only.
                effective_config: full.effective_config.clone().map(without_number),
                ..full.clone()
            }),
            Kind::Config => Template::new(&v1::AgentToServer {
                effective_config: full.effective_config.clone(),
                ..heartbeat.clone()
            }),
            Kind::Health => {
                Template::new(&v1::AgentToServer { health: Some(health()), ..heartbeat.clone() })
            }
            Kind::Large => Template::new(&v1::AgentToServer {
                effective_config: Some(effective_config(large)),
                ..heartbeat.clone()
            }),
            Kind::Goodbye => Template::new(&v1::AgentToServer {
                agent_disconnect: Some(v1::AgentDisconnect {}),
                ..heartbeat.clone()
            }),
        });
        let unoffered = [v1::RemoteConfigStatuses::Applying, v1::RemoteConfigStatuses::Applied];
        Self { of_kind, unset: unset(), unoffered: unoffered.map(|of| told(of, &[0xc0; 32])) }
    }

    /// What a message tells of the configuration. Without an offer, those that are about nothing else
    /// are about one that nobody has offered.
    fn status<'a>(&'a self, kind: Kind, sequence_num: u64, status: &'a Status) -> &'a [u8] {
        match kind {
            Kind::Ack if **status == *self.unset => &self.unoffered[(sequence_num % 2) as usize],
            Kind::First | Kind::Full | Kind::Ack => status,
            _ => &[],
        }
    }

    /// The length of a message.
    pub(crate) fn len(&self, kind: Kind, sequence_num: u64, status: &Status) -> usize {
        let status = self.status(kind, sequence_num, status).len();
        HEAD + varint_len(sequence_num) + self.of_kind[kind as usize].tail.len() + status
    }

    /// Appends a message of the Agent with this uid and this status.
    pub(crate) fn write(
        &self,
        kind: Kind,
        uid: &[u8; 16],
        sequence_num: u64,
        status: &Status,
        out: &mut Vec<u8>,
    ) {
        let template = &self.of_kind[kind as usize];
        out.extend_from_slice(&[0x0a, 16]);
        out.extend_from_slice(uid);
        out.push(0x10);
        write_varint(sequence_num, out);
        let start = out.len();
        out.extend_from_slice(&template.tail);
        for at in &template.uid_texts {
            out[start + at..][..UID_TEXT.len()].copy_from_slice(&uid_text(uid));
        }
        if let Some(at) = template.number {
            let mut left = sequence_num;
            for digit in out[start + at..][..NUMBER.len()].iter_mut().rev() {
                *digit = b'0' + (left % 10) as u8;
                left /= 10;
            }
        }
        out.extend_from_slice(self.status(kind, sequence_num, status));
    }
}

fn write_varint(mut left: u64, out: &mut Vec<u8>) {
    while left >= 0x80 {
        out.push(left as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}

fn varint_len(value: u64) -> usize {
    (u64::BITS - (value | 1).leading_zeros()).div_ceil(7) as usize
}

/// Ten attributes, as of a collector on a host.
fn description() -> v1::AgentDescription {
    let attributes = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(key, value)| v1::KeyValue::new(*key, *value)).collect()
    };
    v1::AgentDescription {
        identifying_attributes: attributes(&[
            ("service.name", "io.opentelemetry.collector"),
            ("service.instance.id", UID_TEXT),
            ("service.version", "0.155.0"),
            ("service.namespace", "production"),
        ]),
        non_identifying_attributes: attributes(&[
            ("os.type", "linux"),
            ("os.description", "Debian GNU/Linux 13 (trixie)"),
            ("host.arch", "amd64"),
            ("host.name", UID_TEXT),
            ("deployment.environment.name", "production"),
            ("cloud.region", "eu-central-1"),
        ]),
    }
}

fn health() -> v1::ComponentHealth {
    v1::ComponentHealth {
        healthy: true,
        start_time_unix_nano: 1_700_000_000_000_000_000,
        status: "StatusOK".into(),
        status_time_unix_nano: 1_700_000_001_000_000_000,
        ..Default::default()
    }
}

/// Lines of text; what changes stands at the end, where a comparison meets it last.
fn effective_config(size: usize) -> v1::EffectiveConfig {
    let line = "processors: {batch: {timeout: 200ms, send_batch_size: 8192}}\n";
    let mut body: String = line.chars().cycle().take(size.saturating_sub(NUMBER.len())).collect();
    body.push_str(NUMBER);
    let file = v1::AgentConfigFile { body: body.into(), content_type: "text/yaml".into() };
    let config_map = [("collector.yaml".to_owned(), file)].into();
    v1::EffectiveConfig { config_map: Some(v1::AgentConfigMap { config_map }) }
}

fn without_number(mut config: v1::EffectiveConfig) -> v1::EffectiveConfig {
    for file in config.config_map.iter_mut().flat_map(|files| files.config_map.values_mut()) {
        let kept = file.body.len() - NUMBER.len();
        file.body = [&file.body[..kept], &[b'='; NUMBER.len()]].concat().into();
    }
    config
}

fn uid_text(uid: &[u8; 16]) -> [u8; UID_TEXT.len()] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [b'-'; UID_TEXT.len()];
    let mut at = 0;
    for (index, byte) in uid.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            at += 1;
        }
        text[at] = DIGITS[usize::from(byte >> 4)];
        text[at + 1] = DIGITS[usize::from(byte & 15)];
        at += 2;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: [u8; 16] = *b"0123456789abcdef";

    fn message(templates: &Templates, kind: Kind, number: u64) -> v1::AgentToServer {
        let mut out = vec![0xff];
        templates.write(kind, &UID, number, &unset(), &mut out);
        assert_eq!(out.len(), 1 + templates.len(kind, number, &unset()));
        let message = v1::AgentToServer::decode(&out[1..]).unwrap();
        assert_eq!(message.instance_uid, UID.as_slice());
        assert_eq!(message.sequence_num, number);
        message
    }

    fn body(message: &v1::AgentToServer) -> &[u8] {
        let files = message.effective_config.as_ref().unwrap().config_map.as_ref().unwrap();
        &files.config_map["collector.yaml"].body
    }

    #[test]
    fn messages_are_what_their_kind_says() {
        let templates = Templates::new(8192, 100_000);
        for number in [1, 127, 128, 1 << 20, u64::from(u32::MAX)] {
            let bare = message(&templates, Kind::Heartbeat, number);
            assert!(bare.capabilities != 0 && bare.agent_description.is_none());
            let first = message(&templates, Kind::First, number);
            assert_eq!(body(&first).len(), 8192);
            let goodbye = message(&templates, Kind::Goodbye, number);
            assert!(goodbye.agent_disconnect.is_some());
        }
        assert_eq!(body(&message(&templates, Kind::Large, 1)).len(), 100_000);
        assert!(message(&templates, Kind::Health, 1).health.is_some());
    }

    #[test]
    fn an_agent_has_its_own_description() {
        let full = message(&Templates::new(0, 0), Kind::Full, 1);
        let description = full.agent_description.unwrap();
        let attributes = description
            .identifying_attributes
            .iter()
            .chain(&description.non_identifying_attributes);
        assert_eq!(attributes.clone().count(), 10);
        let expected = v1::AnyValue::from("30313233-3435-3637-3839-616263646566");
        let own = attributes.filter(|attribute| attribute.value.as_ref() == Some(&expected));
        assert_eq!(own.count(), 2);
        assert!(full.effective_config.is_none());
    }

    #[test]
    fn only_what_should_change_does() {
        let templates = Templates::new(8192, 0);
        let config = |kind, number| body(&message(&templates, kind, number)).to_vec();
        assert_ne!(config(Kind::Config, 1), config(Kind::Config, 2));
        assert_eq!(config(Kind::Full, 1), config(Kind::Full, 2));
        assert!(config(Kind::Config, 12).ends_with(b"00000000000012"));
    }

    #[test]
    fn a_status_names_the_offer() {
        let (templates, mut out) = (Templates::new(0, 0), Vec::new());
        for (kind, told) in [(Kind::Ack, true), (Kind::First, true), (Kind::Heartbeat, false)] {
            out.clear();
            let status = applied(b"hash");
            templates.write(kind, &UID, 300, &status, &mut out);
            assert_eq!(out.len(), templates.len(kind, 300, &status));
            let status = v1::AgentToServer::decode(&*out).unwrap().remote_config_status;
            assert_eq!(status.is_some(), told);
            let Some(status) = status else { continue };
            assert_eq!(status.last_remote_config_hash, b"hash".as_slice());
            assert_eq!(status.status(), v1::RemoteConfigStatuses::Applied);
        }
    }

    #[test]
    fn without_an_offer_acknowledgements_take_turns() {
        let templates = Templates::new(0, 0);
        let told = |kind, number| {
            let message = message(&templates, kind, number);
            message.remote_config_status
        };
        let [one, other, again] = [2, 3, 4].map(|number| told(Kind::Ack, number).unwrap());
        assert_eq!(one.status(), v1::RemoteConfigStatuses::Applying);
        assert_eq!(other.status(), v1::RemoteConfigStatuses::Applied);
        assert_eq!((one.last_remote_config_hash.len(), one), (32, again));
        assert_eq!(told(Kind::First, 1).unwrap().status(), v1::RemoteConfigStatuses::Unset);
    }
}
