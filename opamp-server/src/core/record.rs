//! What of an Agent outlives the Server's process, as it is written.
//!
//! The parts of an Agent's state are written as they came. Beside them there are two small records:
//! [`Vitals`], which change with every message, and [`Dealings`], which change when the operator
//! wants something else or an offer goes out. What the operator wants is written once, under its
//! hash, however many Agents are to have it, and the records refer to it by a [`ValueKey`].
//!
//! A certificate that was issued is written with the Agent's dealings, and with it a private key if
//! that was offered too.
//!
//! Not written are sessions, which end with the process, commands, which expire within a minute,
//! and custom messages, which are sent at most once.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use opamp_proto::{AgentCapabilities, InstanceUid, Message, WireUid, v1};

use super::agent::{Agent, Rename};
use super::certificate::Certificates;
use super::config::later;
use super::connection_settings::{Applied, ConnectionSettings, SettingsParts};
use super::desired::Desired;
use super::offer::Offers;
use super::packages::Packages;
use super::remote_config::RemoteConfig;
use super::scan::{Malformed, Part};
use super::sequence::Sequence;
use super::tally::Tally;

/// One moment on both clocks: the one that machines count by, and the one that survives a restart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Anchor {
    instant: Instant,
    /// Milliseconds since 1970.
    millis: u64,
}

impl Anchor {
    pub(crate) fn new(instant: Instant, system: SystemTime) -> Self {
        let since = system.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { instant, millis: whole_millis(since) }
    }

    pub(crate) fn millis(&self, instant: Instant) -> u64 {
        let after = whole_millis(instant.saturating_duration_since(self.instant));
        let before = whole_millis(self.instant.saturating_duration_since(instant));
        self.millis.saturating_add(after).saturating_sub(before)
    }

    /// What the clock cannot count, as the machine has not been up for so long, is now.
    pub(crate) fn instant(&self, millis: u64) -> Instant {
        match millis.checked_sub(self.millis) {
            Some(ahead) => later(self.instant, Duration::from_millis(ahead)),
            None => {
                let ago = Duration::from_millis(self.millis - millis);
                self.instant.checked_sub(ago).unwrap_or(self.instant)
            }
        }
    }
}

fn whole_millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// What changes with every message. Parts are named by the bit of their field's number.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Vitals {
    #[prost(uint64, optional, tag = "1")]
    pub(super) sequence_num: Option<u64>,
    #[prost(uint32, tag = "2")]
    pub(super) last_parts: u32,
    #[prost(uint32, tag = "3")]
    pub(super) current: u32,
    #[prost(uint64, tag = "4")]
    pub(super) capabilities: u64,
    /// Milliseconds since 1970.
    #[prost(uint64, tag = "6")]
    pub(crate) last_seen: u64,
    /// The transport of the last session was plain HTTP.
    #[prost(bool, tag = "7")]
    pub(crate) http: bool,
    /// The identity that holds the Agent, as the application writes it.
    #[prost(bytes = "vec", optional, tag = "8")]
    pub(crate) holder: Option<Vec<u8>>,
    /// The heartbeat interval agreed to, in seconds.
    #[prost(uint32, optional, tag = "9")]
    pub(super) heartbeat: Option<u32>,
}

/// What the Server has to do with one Agent.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Dealings {
    #[prost(message, optional, tag = "1")]
    own: Option<WantedRecord>,
    #[prost(message, optional, tag = "2")]
    config: Option<OfferRecord>,
    #[prost(message, optional, tag = "3")]
    settings: Option<OfferRecord>,
    #[prost(message, optional, tag = "4")]
    packages: Option<OfferRecord>,
    #[prost(message, optional, tag = "5")]
    last_settings: Option<AppliedRecord>,
    #[prost(message, optional, tag = "6")]
    applied_settings: Option<AppliedRecord>,
    #[prost(message, optional, tag = "7")]
    pub(crate) rename: Option<RenameRecord>,
    #[prost(message, optional, tag = "8")]
    certificate: Option<CertificateRecord>,
}

/// What the operator wants: hashes of values, empty if there is none.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct WantedRecord {
    #[prost(bytes = "vec", tag = "1")]
    remote_config: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    connection_settings: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    packages: Vec<u8>,
}

/// What was offered of one kind. Times are milliseconds since 1970.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct OfferRecord {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) hash: Vec<u8>,
    #[prost(uint64, tag = "2")]
    pub(super) last: u64,
    #[prost(uint64, tag = "3")]
    pub(super) first: u64,
    #[prost(uint32, tag = "4")]
    pub(super) count: u32,
    #[prost(uint64, optional, tag = "5")]
    pub(super) deadline: Option<u64>,
    #[prost(bool, tag = "6")]
    pub(super) timed_out: bool,
    #[prost(bool, tag = "7")]
    pub(super) failed: bool,
}

#[derive(Clone, PartialEq, Message)]
struct AppliedRecord {
    /// Of all parts of the settings.
    #[prost(bytes = "vec", tag = "1")]
    hash: Vec<u8>,
    #[prost(uint32, tag = "2")]
    parts: u32,
}

/// The instance uid the Agent was told to take, and those it may take as well.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RenameRecord {
    #[prost(bytes = "vec", tag = "1")]
    new: Vec<u8>,
    #[prost(uint64, tag = "2")]
    pub(crate) expires: u64,
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub(crate) given: Vec<Vec<u8>>,
}

/// A certificate request and what was answered.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct CertificateRecord {
    /// The request's id; empty if a certificate was given without being asked for.
    #[prost(bytes = "vec", tag = "1")]
    pub(super) request: Vec<u8>,
    #[prost(uint64, tag = "2")]
    pub(super) asked: u64,
    /// The request itself, until it is decided.
    #[prost(bytes = "vec", optional, tag = "3")]
    pub(super) pending: Option<Vec<u8>>,
    #[prost(string, optional, tag = "4")]
    pub(super) refused: Option<String>,
    #[prost(message, optional, tag = "5")]
    pub(super) issued: Option<v1::OpAmpConnectionSettings>,
}

/// Names something that the operator wants, by its kind and hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ValueKey {
    kind: u8,
    hash: [u8; 32],
}

impl ValueKey {
    const REMOTE_CONFIG: u8 = 1;
    const CONNECTION_SETTINGS: u8 = 2;
    const PACKAGES: u8 = 3;

    fn new(kind: u8, hash: &[u8]) -> Option<Self> {
        Some(Self { kind, hash: hash.try_into().ok()? })
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.kind);
        out.extend_from_slice(&self.hash);
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, hash) = bytes.split_first()?;
        Self::new(*kind, hash)
    }
}

/// Something that the operator wants. Clones share it.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    RemoteConfig(RemoteConfig),
    ConnectionSettings(ConnectionSettings),
    Packages(Packages),
}

impl Value {
    pub(crate) fn key(&self) -> ValueKey {
        match self {
            Self::RemoteConfig(it) => {
                ValueKey { kind: ValueKey::REMOTE_CONFIG, hash: *it.hash().as_bytes() }
            }
            Self::ConnectionSettings(it) => {
                ValueKey { kind: ValueKey::CONNECTION_SETTINGS, hash: *it.hash().as_bytes() }
            }
            Self::Packages(it) => {
                ValueKey { kind: ValueKey::PACKAGES, hash: *it.hash().as_bytes() }
            }
        }
    }

    pub(crate) fn encode(&self) -> Bytes {
        match self {
            Self::RemoteConfig(it) => it.to_message().encode_to_vec().into(),
            Self::ConnectionSettings(it) => it.to_message().encode_to_vec().into(),
            Self::Packages(it) => it.to_message().encode_to_vec().into(),
        }
    }

    /// What was encoded; says what is wrong with it.
    pub(crate) fn decode(key: ValueKey, bytes: &[u8]) -> Result<Self, String> {
        let undecodable = |error: opamp_proto::DecodeError| error.to_string();
        let invalid = |error: super::InvalidOffer| error.to_string();
        match key.kind {
            ValueKey::REMOTE_CONFIG => {
                let config = v1::AgentConfigMap::decode(bytes).map_err(undecodable)?;
                Ok(Self::RemoteConfig(RemoteConfig::new(config)))
            }
            ValueKey::CONNECTION_SETTINGS => {
                let settings = v1::ConnectionSettingsOffers::decode(bytes).map_err(undecodable)?;
                ConnectionSettings::new(settings).map(Self::ConnectionSettings).map_err(invalid)
            }
            ValueKey::PACKAGES => {
                let packages = v1::PackagesAvailable::decode(bytes).map_err(undecodable)?;
                Packages::new(packages).map(Self::Packages).map_err(invalid)
            }
            kind => Err(format!("{kind} is no kind of value")),
        }
    }
}

/// The values that records refer to.
pub(crate) type Values = HashMap<ValueKey, Value>;

/// A record refers to a value that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MissingValue;

impl WantedRecord {
    pub(crate) fn new(desired: &Desired) -> Self {
        let config = desired.remote_config.as_ref().map(|it| it.hash().as_bytes().to_vec());
        let settings = desired.connection_settings.as_ref().map(|it| it.hash().as_bytes().to_vec());
        let packages = desired.packages.as_ref().map(|it| it.hash().as_bytes().to_vec());
        Self {
            remote_config: config.unwrap_or_default(),
            connection_settings: settings.unwrap_or_default(),
            packages: packages.unwrap_or_default(),
        }
    }

    pub(crate) fn resolve(&self, values: &Values) -> Result<Desired, MissingValue> {
        let remote_config = find(values, ValueKey::REMOTE_CONFIG, &self.remote_config)?;
        let settings = find(values, ValueKey::CONNECTION_SETTINGS, &self.connection_settings)?;
        let packages = find(values, ValueKey::PACKAGES, &self.packages)?;
        Ok(Desired {
            remote_config: remote_config.and_then(|value| match value {
                Value::RemoteConfig(it) => Some(it.clone()),
                _ => None,
            }),
            connection_settings: settings.and_then(settings_of),
            packages: packages.and_then(|value| match value {
                Value::Packages(it) => Some(it.clone()),
                _ => None,
            }),
        })
    }
}

fn settings_of(value: &Value) -> Option<ConnectionSettings> {
    match value {
        Value::ConnectionSettings(it) => Some(it.clone()),
        _ => None,
    }
}

/// The value with this hash, if one is wanted.
fn find<'a>(values: &'a Values, kind: u8, hash: &[u8]) -> Result<Option<&'a Value>, MissingValue> {
    if hash.is_empty() {
        return Ok(None);
    }
    let key = ValueKey::new(kind, hash).ok_or(MissingValue)?;
    values.get(&key).map(Some).ok_or(MissingValue)
}

impl Desired {
    /// What is wanted, each kind.
    pub(crate) fn values(&self) -> impl Iterator<Item = Value> + '_ {
        let config = self.remote_config.clone().map(Value::RemoteConfig);
        let settings = self.connection_settings.clone().map(Value::ConnectionSettings);
        let packages = self.packages.clone().map(Value::Packages);
        [config, settings, packages].into_iter().flatten()
    }
}

impl AppliedRecord {
    fn new(applied: &Applied) -> Self {
        let Applied { settings, parts } = applied;
        Self { hash: settings.hash().as_bytes().to_vec(), parts: parts.bits().into() }
    }

    fn resolve(&self, values: &Values) -> Result<Option<Applied>, MissingValue> {
        let settings = find(values, ValueKey::CONNECTION_SETTINGS, &self.hash)?;
        let bits = u8::try_from(self.parts).unwrap_or_default();
        let parts = SettingsParts::from_bits_truncate(bits);
        Ok(settings.and_then(settings_of).map(|settings| Applied { settings, parts }))
    }
}

impl Agent {
    /// What changes with every message; when the Agent was seen is the registry's to add.
    pub(crate) fn vitals(&self) -> Vitals {
        Vitals {
            capabilities: self.state.capabilities().bits(),
            heartbeat: self.heartbeat,
            ..self.sequence.record()
        }
    }

    /// What the Server has to do with the Agent; the default if that is nothing.
    pub(crate) fn dealings(&self, now: Anchor) -> Dealings {
        let own = WantedRecord::new(self.own());
        let rename = self.rename.as_ref().filter(|rename| rename.expires > now.instant);
        let offered = &self.offered;
        Dealings {
            own: (own != WantedRecord::default()).then_some(own),
            config: offered.config.record(now),
            settings: offered.settings.record(now),
            packages: offered.packages.record(now),
            last_settings: offered.last_settings.as_deref().map(AppliedRecord::new),
            applied_settings: offered.applied_settings.as_deref().map(AppliedRecord::new),
            rename: rename.map(|rename| RenameRecord {
                new: rename.new.to_bytes().to_vec(),
                expires: now.millis(rename.expires),
                given: Vec::new(),
            }),
            certificate: self.certificates.as_ref().and_then(|it| it.record(now)),
        }
    }

    /// The values that the dealings refer to.
    pub(crate) fn values(&self) -> impl Iterator<Item = Value> + '_ {
        let offered = [&self.offered.last_settings, &self.offered.applied_settings];
        let offered = offered.into_iter().flatten();
        self.own()
            .values()
            .chain(offered.map(|applied| Value::ConnectionSettings(applied.settings.clone())))
    }

    /// An Agent as it was written, disconnected. Its dealings and then its parts are to be restored
    /// next.
    pub(crate) fn restored(uid: WireUid, vitals: &Vitals) -> Self {
        let mut agent = Self::new(uid);
        agent.sequence = Sequence::restored(vitals);
        let mask = AgentCapabilities::from_bits_retain(vitals.capabilities);
        agent.state.restore_capabilities(mask);
        agent.heartbeat = vitals.heartbeat;
        agent
    }

    pub(crate) fn restore_dealings(
        &mut self,
        dealings: &Dealings,
        values: &Values,
        now: Anchor,
    ) -> Result<(), MissingValue> {
        let own = dealings.own.as_ref().map(|own| own.resolve(values)).transpose()?;
        self.want(|it| *it = own.unwrap_or_default());
        let offers = |record: &Option<OfferRecord>| {
            record.as_ref().map(|record| Offers::restored(record, now)).unwrap_or_default()
        };
        let applied = |record: &Option<AppliedRecord>| match record {
            Some(record) => Ok(record.resolve(values)?.map(Box::new)),
            None => Ok(None),
        };
        let offered = &mut self.offered;
        offered.config = offers(&dealings.config);
        offered.settings = offers(&dealings.settings);
        offered.packages = offers(&dealings.packages);
        offered.last_settings = applied(&dealings.last_settings)?;
        offered.applied_settings = applied(&dealings.applied_settings)?;
        let certificate = dealings.certificate.as_ref();
        self.certificates = certificate.map(|record| Certificates::restored(record, now).into());
        self.rename = dealings.rename.as_ref().and_then(|rename| {
            let new = InstanceUid::from_bytes(rename.new.as_slice().try_into().ok()?);
            Some(Rename { new, expires: now.instant(rename.expires), told: false })
        });
        Ok(())
    }

    /// Takes over a part as it was written.
    pub(crate) fn restore_part(&mut self, part: Part, content: &[u8]) -> Result<(), Malformed> {
        part.check(content)?;
        self.state.restore_part(part, content);
        self.follow_statuses(part.change(), None);
        // It was counted before.
        self.tally = Tally::default();
        Ok(())
    }
}
