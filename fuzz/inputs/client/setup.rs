//! What an agent is started with.

use std::collections::BTreeMap;
use std::time::Duration;

use arbitrary::Arbitrary;
use opamp_client::core::packages::{InstalledPackage, PackagesConfig, SignaturePolicy};
use opamp_client::core::{
    BackoffConfig, ClientConfig, ClientState, ConnectionKinds, CustomCapabilities, Storage,
    Transport,
};
use opamp_proto::frame::HeaderPolicy;
use opamp_proto::{MessageLimits, v1};

/// Custom capabilities, by the bits of a mask.
pub(super) const CAPABILITIES: [&str; 4] =
    ["org.example.chat", "org.example.chat/v2", "org.example.other", "org.example.none"];

/// How long what the agent waits for takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Arbitrary)]
pub(super) enum Pace {
    Usual,
    Short,
    Endless,
    /// What may be no time at all is none.
    None,
}

#[derive(Debug, Clone, Arbitrary)]
pub(super) struct Setup {
    http: bool,
    /// What the agent does and allows, see [`Setup::has`].
    abilities: u16,
    settings: u8,
    storage: u8,
    endpoint: u8,
    heartbeat: u8,
    pub(super) pace: Pace,
    limits: u8,
    signatures: u8,
    /// Which of the driver's jobs take their time, see [`Setup::is_slow`].
    slow: u8,
    seed: u8,
}

/// The bits of [`Setup::abilities`].
#[derive(Debug, Clone, Copy)]
enum Ability {
    // The first two are there unless the bit is set.
    NoRemoteConfig,
    NoRestart,
    Health,
    EffectiveConfig,
    Packages,
    LocalPackages,
    Components,
    Custom,
    Certificates,
    AnyUidInCertificates,
    RequestUid,
    InsecureEndpoint,
    SkipVerify,
    NoAnswerTimeout,
    NoPing,
    NoHeader,
}

/// What a driver does, and an application that takes events: the bits of [`Setup::slow`].
#[derive(Debug, Clone, Copy, Arbitrary)]
pub(super) enum Job {
    Check,
    Certificate,
    Save,
    Load,
    SavePackages,
    Retain,
    Download,
    Events,
}

impl Setup {
    fn has(&self, ability: Ability) -> bool {
        self.abilities >> ability as u16 & 1 == 1
    }

    /// Whether the input says when that is done, and how it ends; otherwise it goes well at once.
    pub(super) fn is_slow(&self, job: Job) -> bool {
        self.slow >> job as u8 & 1 == 1
    }

    pub(super) fn storage(&self) -> Storage {
        match self.storage % 3 {
            0 => Storage::Store,
            1 => Storage::Application,
            _ => Storage::Ephemeral,
        }
    }

    pub(super) fn config(&self, state: ClientState) -> ClientConfig {
        let mut config = ClientConfig::new(state, description(0));
        config.transport = if self.http { Transport::Http } else { Transport::WebSocket };
        config.endpoint = match (self.endpoint % 3, self.http) {
            (0, _) => "",
            (1, false) => "wss://one.test/v1/opamp",
            (1, true) => "https://one.test/v1/opamp",
            (_, false) => "ws://one.test",
            (_, true) => "http://one.test",
        }
        .into();
        config.storage = self.storage();
        config.request_instance_uid = self.has(Ability::RequestUid);
        config.health = self.has(Ability::Health).then(|| health(0));
        config.effective_config = self.has(Ability::EffectiveConfig).then(|| effective(0));
        config.accepts_remote_config = !self.has(Ability::NoRemoteConfig);
        config.accepts_restart = !self.has(Ability::NoRestart);
        config.accepted_settings = ConnectionKinds::from_bits_truncate(self.settings);
        config.allow_insecure_endpoint = self.has(Ability::InsecureEndpoint);
        config.allow_insecure_skip_verify = self.has(Ability::SkipVerify);
        config.requests_certificate = self.has(Ability::Certificates)
            && config.storage != Storage::Ephemeral
            && config.accepted_settings.contains(ConnectionKinds::OPAMP);
        config.certificate_names_uid = !self.has(Ability::AnyUidInCertificates);
        config.packages = self.has(Ability::Packages).then(|| self.packages());
        config.available_components = self.has(Ability::Components).then(|| components(0));
        if self.has(Ability::Custom) {
            config.custom_capabilities = capabilities(1);
        }
        config.max_custom_messages = 4;
        config.max_custom_bytes = 256;
        config.heartbeat_interval = seconds(self.heartbeat);
        config.limits = self.limits();
        if self.has(Ability::NoHeader) {
            config.header_policy = HeaderPolicy::Optional;
        }
        if self.has(Ability::NoAnswerTimeout) {
            config.answer_timeout = None;
        }
        if self.has(Ability::NoPing) {
            config.ping_interval = None;
        }
        config.seed = self.seed.into();
        self.set_pace(&mut config);
        config
    }

    fn set_pace(&self, config: &mut ClientConfig) {
        let time = match self.pace {
            Pace::Usual => return,
            Pace::Short => Duration::from_millis(1),
            Pace::Endless => Duration::MAX,
            Pace::None => {
                config.refusal_timeout = Some(Duration::ZERO);
                config.backoff.throttled = Duration::ZERO;
                return;
            }
        };
        config.certificate_retry_interval = time;
        config.refusal_timeout = Some(time);
        config.settings_timeout = time;
        config.custom_message_timeout = time;
        config.polling_interval = time;
        config.backoff = backoff(time);
        config.connect_timeout = time;
        config.reply_timeout = time;
        config.answer_timeout = config.answer_timeout.map(|_| time);
        config.offer_timeout = time;
        config.ping_interval = config.ping_interval.map(|_| time);
        config.ping_timeout = time;
        config.close_timeout = time;
        config.immediate_reconnect_interval = time;
    }

    fn limits(&self) -> MessageLimits {
        let limits = MessageLimits::new();
        match self.limits % 4 {
            0 => limits,
            1 => limits.with_max_send(256),
            2 => limits.with_max_send(400),
            _ => limits.with_max_receive(64),
        }
    }

    fn packages(&self) -> PackagesConfig {
        let signatures = match self.signatures % 3 {
            0 => SignaturePolicy::Ignored,
            1 => SignaturePolicy::IfPresent,
            _ => SignaturePolicy::Required,
        };
        let mut packages = PackagesConfig::default();
        packages.signatures = signatures;
        packages.max_packages = 3;
        if self.has(Ability::LocalPackages) {
            let local = InstalledPackage::local(v1::PackageType::Addon, "1").with_hash(vec![1; 4]);
            packages.local = [("a".to_owned(), local)].into();
        }
        let time = match self.pace {
            Pace::Usual => return packages,
            Pace::Short => Duration::from_millis(1),
            Pace::Endless => Duration::MAX,
            Pace::None => {
                packages.retry_for = Duration::ZERO;
                packages.backoff.max_retry_after = Duration::ZERO;
                return packages;
            }
        };
        packages.retry_for = time;
        packages.backoff = backoff(time);
        packages.progress_interval = time;
        packages.install_timeout = time;
        packages.pending_timeout = time;
        packages
    }
}

fn backoff(time: Duration) -> BackoffConfig {
    BackoffConfig {
        initial: time,
        max: time,
        throttled: time,
        max_retry_after: time,
        ..Default::default()
    }
}

pub(super) fn seconds(count: u8) -> Option<Duration> {
    (count > 0).then(|| Duration::from_secs(count.into()))
}

pub(super) fn description(number: u8) -> v1::AgentDescription {
    v1::AgentDescription {
        identifying_attributes: vec![v1::KeyValue::new("service.name", "fuzzed")],
        non_identifying_attributes: vec![v1::KeyValue::new("number", text(number))],
    }
}

pub(super) fn health(number: u8) -> v1::ComponentHealth {
    v1::ComponentHealth { status: text(number), ..Default::default() }
}

pub(super) fn effective(number: u8) -> v1::EffectiveConfig {
    let file = v1::AgentConfigFile { body: text(number).into(), ..Default::default() };
    let config_map = v1::AgentConfigMap { config_map: [(String::new(), file)].into() };
    v1::EffectiveConfig { config_map: Some(config_map) }
}

pub(super) fn components(number: u8) -> BTreeMap<String, v1::ComponentDetails> {
    let details = v1::ComponentDetails {
        metadata: vec![v1::KeyValue::new("number", text(number))],
        ..Default::default()
    };
    [("component".to_owned(), details)].into()
}

pub(super) fn capabilities(mask: u8) -> CustomCapabilities {
    CustomCapabilities::new(names(mask)).expect("the names are good")
}

pub(super) fn names(mask: u8) -> impl Iterator<Item = &'static str> {
    let chosen = move |at: usize| mask >> at & 1 == 1;
    CAPABILITIES.into_iter().enumerate().filter_map(move |(at, name)| chosen(at).then_some(name))
}

/// Some are large for the small limits.
fn text(number: u8) -> String {
    "x".repeat(usize::from(number >> 4) * 32) + &number.to_string()
}
