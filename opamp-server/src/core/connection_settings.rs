//! Connection settings that are ready to be offered (CONN-01 to CONN-06, CONN-10, CONN-21, CONN-28,
//! CONN-29, CONN-42; TEL-02, TEL-16; reading A17).
//!
//! Settings have up to five parts, and an Agent gets those it announces a capability for. What it
//! gets has a hash of its own, so an Agent that announces more later is offered the rest. Once the
//! Agent has applied settings, parts that stay the same are left out of the next offer: nobody
//! reconnects, or restarts an exporter, for what does not change.

use std::fmt;
use std::sync::{Arc, OnceLock};

use bitflags::bitflags;
use bytes::Bytes;
use opamp_proto::{AgentCapabilities, Message, connection_settings_hash, v1};

use super::endpoint::{InvalidOffer, check_headers, check_url};
use super::offer::OfferHash;

bitflags! {
    /// Parts of connection settings.
    #[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct SettingsParts: u8 {
        /// `opamp`: the connection to the Server.
        const OPAMP = 1;
        /// `own_metrics`.
        const OWN_METRICS = 1 << 1;
        /// `own_traces`.
        const OWN_TRACES = 1 << 2;
        /// `own_logs`.
        const OWN_LOGS = 1 << 3;
        /// `other_connections`, all of them.
        const OTHER_CONNECTIONS = 1 << 4;
    }
}

impl SettingsParts {
    /// The parts that an Agent with this mask gets (CONN-02 to CONN-06).
    #[must_use]
    pub fn accepted_by(capabilities: AgentCapabilities) -> Self {
        use AgentCapabilities as Does;
        let parts = [
            (Does::ACCEPTS_OPAMP_CONNECTION_SETTINGS, Self::OPAMP),
            (Does::REPORTS_OWN_METRICS, Self::OWN_METRICS),
            (Does::REPORTS_OWN_TRACES, Self::OWN_TRACES),
            (Does::REPORTS_OWN_LOGS, Self::OWN_LOGS),
            (Does::ACCEPTS_OTHER_CONNECTION_SETTINGS, Self::OTHER_CONNECTIONS),
        ];
        parts.into_iter().filter(|(does, _)| capabilities.contains(*does)).map(|it| it.1).collect()
    }

    const fn index(self) -> usize {
        self.bits() as usize
    }
}

/// Combinations of parts, but for all of them, which is `whole`.
const COMBINATIONS: usize = SettingsParts::all().bits() as usize;

/// Connection settings ready to be offered: each combination of parts that Agents accept is encoded
/// once, however many Agents it goes to.
///
/// Clones share the bytes. The hash follows from what is said (CONN-21).
///
/// ```
/// use opamp_proto::v1;
/// use opamp_server::ConnectionSettings;
///
/// let own_metrics = v1::TelemetryConnectionSettings {
///     destination_endpoint: "https://metrics.example/v1/metrics".to_owned(),
///     ..Default::default()
/// };
/// let offers = v1::ConnectionSettingsOffers {
///     own_metrics: Some(own_metrics),
///     ..Default::default()
/// };
/// let settings = ConnectionSettings::new(offers.clone())?;
/// assert_eq!(settings, ConnectionSettings::new(offers)?);
///
/// // An Agent has to be told where to connect, whatever else changes.
/// let opamp = v1::OpAmpConnectionSettings { heartbeat_interval_seconds: 10, ..Default::default() };
/// let offers = v1::ConnectionSettingsOffers { opamp: Some(opamp), ..Default::default() };
/// let error = ConnectionSettings::new(offers).unwrap_err();
/// assert_eq!(error.field(), "opamp.destination_endpoint");
/// # Ok::<(), opamp_server::InvalidOffer>(())
/// ```
#[derive(Clone)]
pub struct ConnectionSettings {
    shared: Arc<Shared>,
}

struct Shared {
    /// Its hash is that of all parts.
    settings: v1::ConnectionSettingsOffers,
    parts: SettingsParts,
    whole: Offer,
    /// For Agents that do not accept all parts.
    restricted: OnceLock<Box<[OnceLock<Offer>; COMBINATIONS]>>,
}

struct Offer {
    hash: OfferHash,
    /// A `ServerToAgent` with nothing but `connection_settings`.
    encoded: Bytes,
}

impl Offer {
    fn new(settings: v1::ConnectionSettingsOffers) -> Self {
        let hash = connection_settings_hash(&settings);
        let settings = v1::ConnectionSettingsOffers { hash, ..settings };
        Self { hash: OfferHash::new(&settings.hash), encoded: encode(settings) }
    }
}

fn encode(settings: v1::ConnectionSettingsOffers) -> Bytes {
    let message = v1::ServerToAgent { connection_settings: Some(settings), ..Default::default() };
    message.encode_to_vec().into()
}

impl ConnectionSettings {
    /// Checks and encodes settings. The field `hash` is ignored: the settings get their own.
    ///
    /// # Errors
    ///
    /// [`InvalidOffer`] if there is no part in it; if `opamp` has no endpoint, one that is not of
    /// `ws`, `wss`, `http` or `https`, or a heartbeat interval of 0, which Agents read differently
    /// (CONN-28, CONN-29; readings A01, A17); if a telemetry endpoint is not a whole `http` or
    /// `https` URL with a path (TEL-16); or if a proxy has no URL (PROXY-04), a certificate no
    /// content, or a header a name or value that cannot be sent.
    pub fn new(settings: v1::ConnectionSettingsOffers) -> Result<Self, InvalidOffer> {
        check(&settings)?;
        let parts = parts(&settings);
        if parts.is_empty() {
            let what = "there is no part in it: set at least one, such as own_metrics";
            return Err(InvalidOffer::new("connection_settings", what));
        }
        let hash = connection_settings_hash(&settings);
        let settings = v1::ConnectionSettingsOffers { hash, ..settings };
        let whole = Offer::new(settings.clone());
        let restricted = OnceLock::new();
        Ok(Self { shared: Arc::new(Shared { settings, parts, whole, restricted }) })
    }

    /// The parts that are set.
    #[must_use]
    pub fn parts(&self) -> SettingsParts {
        self.shared.parts
    }

    /// The hash of all parts.
    #[must_use]
    pub fn hash(&self) -> OfferHash {
        self.shared.whole.hash
    }

    /// The hash that an Agent is offered which accepts these parts; `None` if there is nothing in
    /// it for the Agent.
    #[must_use]
    pub fn hash_for(&self, accepted: SettingsParts) -> Option<OfferHash> {
        Some(self.offer(accepted)?.hash)
    }

    /// Whether they have a certificate for the connection to the Server.
    pub(super) fn has_certificate(&self) -> bool {
        let opamp = self.shared.settings.opamp.as_ref();
        opamp.is_some_and(|opamp| opamp.certificate.is_some())
    }

    /// The heartbeat interval in `opamp`, in seconds.
    pub(super) fn heartbeat_interval(&self) -> Option<u64> {
        let opamp = self.shared.settings.opamp.as_ref()?;
        Some(opamp.heartbeat_interval_seconds).filter(|seconds| *seconds > 0)
    }

    /// The bytes the offer of all parts adds to a message.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        self.shared.whole.encoded.len()
    }

    /// The settings, with the hash of all parts. They may hold secrets.
    #[must_use]
    pub fn to_message(&self) -> v1::ConnectionSettingsOffers {
        self.shared.settings.clone()
    }

    fn offer(&self, accepted: SettingsParts) -> Option<&Offer> {
        let parts = self.parts() & accepted;
        if parts == self.parts() {
            return Some(&self.shared.whole);
        }
        if parts.is_empty() {
            return None;
        }
        let table = self
            .shared
            .restricted
            .get_or_init(|| Box::new([const { OnceLock::new() }; COMBINATIONS]));
        Some(table[parts.index()].get_or_init(|| Offer::new(self.restricted_to(parts))))
    }

    fn restricted_to(&self, parts: SettingsParts) -> v1::ConnectionSettingsOffers {
        let v1::ConnectionSettingsOffers {
            hash: _,
            opamp,
            own_metrics,
            own_traces,
            own_logs,
            other_connections,
        } = &self.shared.settings;
        let other = parts.contains(SettingsParts::OTHER_CONNECTIONS);
        v1::ConnectionSettingsOffers {
            hash: Bytes::new(),
            opamp: opamp.clone().filter(|_| parts.contains(SettingsParts::OPAMP)),
            own_metrics: own_metrics.clone().filter(|_| parts.contains(SettingsParts::OWN_METRICS)),
            own_traces: own_traces.clone().filter(|_| parts.contains(SettingsParts::OWN_TRACES)),
            own_logs: own_logs.clone().filter(|_| parts.contains(SettingsParts::OWN_LOGS)),
            other_connections: if other { other_connections.clone() } else { Default::default() },
        }
    }

    /// The offer's encoded fields, to be appended to a message to an Agent that accepts these
    /// parts. What is the same in `applied`, which the Agent is known to have, is left out.
    pub(super) fn tail(&self, accepted: SettingsParts, applied: Option<&Applied>) -> Option<Bytes> {
        let offer = self.offer(accepted)?;
        let parts = self.parts() & accepted;
        let same = applied.map_or(SettingsParts::empty(), |applied| {
            self.same_in(&applied.settings) & applied.parts & parts
        });
        // An offer without any part says nothing to the Agent.
        if same.is_empty() || same == parts {
            return Some(offer.encoded.clone());
        }
        let hash = Bytes::copy_from_slice(offer.hash.as_bytes());
        let changed = self.restricted_to(parts - same);
        Some(encode(v1::ConnectionSettingsOffers { hash, ..changed }))
    }

    /// The parts that say the same in both.
    fn same_in(&self, other: &Self) -> SettingsParts {
        let (one, other) = (&self.shared.settings, &other.shared.settings);
        let same = [
            (one.opamp == other.opamp, SettingsParts::OPAMP),
            (one.own_metrics == other.own_metrics, SettingsParts::OWN_METRICS),
            (one.own_traces == other.own_traces, SettingsParts::OWN_TRACES),
            (one.own_logs == other.own_logs, SettingsParts::OWN_LOGS),
            (one.other_connections == other.other_connections, SettingsParts::OTHER_CONNECTIONS),
        ];
        same.into_iter().filter(|(same, _)| *same).map(|(_, part)| part).collect()
    }
}

/// Settings, and the parts of them that an Agent was offered.
#[derive(Debug, Clone)]
pub(super) struct Applied {
    pub(super) settings: ConnectionSettings,
    pub(super) parts: SettingsParts,
}

fn parts(settings: &v1::ConnectionSettingsOffers) -> SettingsParts {
    let set = [
        (settings.opamp.is_some(), SettingsParts::OPAMP),
        (settings.own_metrics.is_some(), SettingsParts::OWN_METRICS),
        (settings.own_traces.is_some(), SettingsParts::OWN_TRACES),
        (settings.own_logs.is_some(), SettingsParts::OWN_LOGS),
        (!settings.other_connections.is_empty(), SettingsParts::OTHER_CONNECTIONS),
    ];
    set.into_iter().filter(|(set, _)| *set).map(|(_, part)| part).collect()
}

fn check(settings: &v1::ConnectionSettingsOffers) -> Result<(), InvalidOffer> {
    if let Some(opamp) = &settings.opamp {
        check_opamp(opamp).map_err(|fault| fault.within("opamp"))?;
    }
    let telemetry = [
        ("own_metrics", &settings.own_metrics),
        ("own_traces", &settings.own_traces),
        ("own_logs", &settings.own_logs),
    ];
    for (name, settings) in telemetry {
        let Some(settings) = settings else { continue };
        check_url(&settings.destination_endpoint, &["https", "http"], true)
            .map_err(|what| InvalidOffer::new("destination_endpoint", what))
            .and_then(|()| check_headers(settings.headers.as_ref()))
            .and_then(|()| check_certificate(settings.certificate.as_ref()))
            .and_then(|()| check_proxy(settings.proxy.as_ref()))
            .map_err(|fault| fault.within(name))?;
    }
    for (name, settings) in &settings.other_connections {
        // What the destination of another connection looks like is up to the Agent.
        check_headers(settings.headers.as_ref())
            .and_then(|()| check_certificate(settings.certificate.as_ref()))
            .and_then(|()| check_proxy(settings.proxy.as_ref()))
            .map_err(|fault| fault.within(&format!("other_connections[{name:?}]")))?;
    }
    Ok(())
}

fn check_opamp(settings: &v1::OpAmpConnectionSettings) -> Result<(), InvalidOffer> {
    check_url(&settings.destination_endpoint, &["wss", "ws", "https", "http"], false).map_err(
        |what| {
            let what = format!("{what}, and if it is to stay, the one in use");
            InvalidOffer::new("destination_endpoint", what)
        },
    )?;
    if settings.heartbeat_interval_seconds == 0 {
        let what = "is 0, which some Agents take for no heartbeats and others for their own \
                    interval: set a number of seconds, such as 30";
        return Err(InvalidOffer::new("heartbeat_interval_seconds", what));
    }
    check_headers(settings.headers.as_ref())?;
    check_certificate(settings.certificate.as_ref())?;
    check_proxy(settings.proxy.as_ref())
}

/// The key may be missing: the Agent may have made it itself (readings A17, A19).
fn check_certificate(certificate: Option<&v1::TlsCertificate>) -> Result<(), InvalidOffer> {
    if certificate.is_some_and(|certificate| certificate.cert.is_empty()) {
        let what = "is empty: give the certificate as PEM, or leave out the whole";
        return Err(InvalidOffer::new("certificate.cert", what));
    }
    Ok(())
}

fn check_proxy(proxy: Option<&v1::ProxyConnectionSettings>) -> Result<(), InvalidOffer> {
    let Some(proxy) = proxy else { return Ok(()) };
    if proxy.url.is_empty() {
        return Err(InvalidOffer::new("url", "is empty: give the proxy's URL").within("proxy"));
    }
    check_headers(proxy.connect_headers.as_ref()).map_err(|fault| fault.within("proxy"))
}

impl PartialEq for ConnectionSettings {
    fn eq(&self, other: &Self) -> bool {
        self.hash() == other.hash()
    }
}

impl Eq for ConnectionSettings {}

/// Shows no secrets.
impl fmt::Debug for ConnectionSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionSettings")
            .field("hash", &self.hash())
            .field("parts", &self.parts())
            .field("encoded_len", &self.encoded_len())
            .finish_non_exhaustive()
    }
}
