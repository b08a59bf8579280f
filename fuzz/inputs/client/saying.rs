//! What a server says: well formed, but not always sensible.

use arbitrary::Arbitrary;
use bytes::Bytes;
use opamp_proto::{InstanceUid, v1};

use super::setup::{CAPABILITIES, names};

/// Endpoints of the OpAMP connection that a server offers. What is not here is the first.
pub(super) const ENDPOINTS: [&str; 8] = [
    "",
    "wss://one.test/v1/opamp",
    "wss://two.test/v1/opamp",
    "https://two.test/v1/opamp",
    "ws://three.test",
    "http://three.test",
    "ftp://one.test",
    "nonsense",
];

#[derive(Debug, Arbitrary)]
pub(super) struct Saying {
    uid: Option<Uid>,
    flags: u8,
    capabilities: u16,
    config: Option<(u8, Option<u8>)>,
    new_uid: Option<Uid>,
    error: Option<(u8, u8, Option<u64>)>,
    command: Option<u8>,
    settings: Option<Settings>,
    packages: Option<Packages>,
    custom_capabilities: Option<u8>,
    custom_message: Option<(u8, u8)>,
}

#[derive(Debug, Arbitrary)]
enum Uid {
    Number(u8),
    Bytes(Vec<u8>),
}

#[derive(Debug, Arbitrary)]
struct Settings {
    hash: u8,
    opamp: Option<Opamp>,
    own: [Option<u8>; 3],
    others: Vec<(u8, u8)>,
}

#[derive(Debug, Arbitrary)]
struct Opamp {
    endpoint: u8,
    heartbeat: Option<u8>,
    headers: Option<u8>,
    certificate: Option<(u8, u8)>,
    tls: Option<u8>,
    proxy: Option<u8>,
}

#[derive(Debug, Arbitrary)]
struct Packages {
    hash: u8,
    packages: Vec<Package>,
}

#[derive(Debug, Arbitrary)]
struct Package {
    name: u8,
    kind: u8,
    version: u8,
    hash: u8,
    file: Option<(u8, u8, bool)>,
}

impl Saying {
    pub(super) fn message(&self, uid: InstanceUid) -> v1::ServerToAgent {
        v1::ServerToAgent {
            instance_uid: self.uid.as_ref().map_or_else(|| uid.to_bytes(), Uid::bytes),
            flags: self.flags.into(),
            capabilities: self.capabilities.into(),
            remote_config: self.config.map(|(hash, body)| v1::AgentRemoteConfig {
                config_hash: opaque(hash),
                config: body.map(|body| v1::AgentConfigMap {
                    config_map: [(
                        String::new(),
                        v1::AgentConfigFile { body: opaque(body), ..Default::default() },
                    )]
                    .into(),
                }),
            }),
            agent_identification: self
                .new_uid
                .as_ref()
                .map(|uid| v1::AgentIdentification { new_instance_uid: uid.bytes() }),
            error_response: self.error.map(|(kind, message, pause)| v1::ServerErrorResponse {
                r#type: kind.into(),
                error_message: text(message),
                details: pause.map(|nanos| {
                    v1::server_error_response::Details::RetryInfo(v1::RetryInfo {
                        retry_after_nanoseconds: nanos,
                    })
                }),
            }),
            command: self.command.map(|kind| v1::ServerToAgentCommand { r#type: kind.into() }),
            connection_settings: self.settings.as_ref().map(Settings::message),
            packages_available: self.packages.as_ref().map(Packages::message),
            custom_capabilities: self.custom_capabilities.map(|mask| v1::CustomCapabilities {
                capabilities: names(mask).map(str::to_owned).collect(),
            }),
            custom_message: self.custom_message.map(|(name, size)| custom_message(name, size)),
        }
    }
}

impl Uid {
    fn bytes(&self) -> Bytes {
        match self {
            Self::Number(number) => vec![*number; 16].into(),
            Self::Bytes(bytes) => bytes.clone().into(),
        }
    }
}

impl Settings {
    fn message(&self) -> v1::ConnectionSettingsOffers {
        let [own_metrics, own_traces, own_logs] = self.own.map(|own| {
            own.map(|number| v1::TelemetryConnectionSettings {
                destination_endpoint: text(number),
                headers: headers(number),
                tls: tls(number),
                ..Default::default()
            })
        });
        let others = self.others.iter().map(|&(name, number)| {
            let settings = v1::OtherConnectionSettings {
                destination_endpoint: text(number),
                certificate: (number > 128).then(|| certificate(number, number)),
                other_settings: [("number".to_owned(), text(number))].into(),
                proxy: proxy(number),
                ..Default::default()
            };
            (text(name % 4), settings)
        });
        v1::ConnectionSettingsOffers {
            hash: opaque(self.hash),
            opamp: self.opamp.as_ref().map(Opamp::message),
            own_metrics,
            own_traces,
            own_logs,
            other_connections: others.collect(),
        }
    }
}

impl Opamp {
    fn message(&self) -> v1::OpAmpConnectionSettings {
        v1::OpAmpConnectionSettings {
            destination_endpoint: ENDPOINTS[usize::from(self.endpoint) % ENDPOINTS.len()].into(),
            headers: self.headers.and_then(headers),
            certificate: self.certificate.map(|(cert, key)| certificate(cert, key)),
            // Such intervals as nobody means, too.
            heartbeat_interval_seconds: match self.heartbeat {
                Some(u8::MAX) => u64::MAX,
                other => other.unwrap_or(0).into(),
            },
            tls: self.tls.and_then(tls),
            proxy: self.proxy.and_then(proxy),
        }
    }
}

impl Packages {
    fn message(&self) -> v1::PackagesAvailable {
        let packages = self.packages.iter().map(|package| (package.name(), package.message()));
        v1::PackagesAvailable { packages: packages.collect(), all_packages_hash: opaque(self.hash) }
    }
}

impl Package {
    fn name(&self) -> String {
        match self.name {
            0 => String::new(),
            u8::MAX => "x".repeat(1025),
            number => ["a", "b", "c", "d"][usize::from(number) % 4].to_owned(),
        }
    }

    fn message(&self) -> v1::PackageAvailable {
        let file = |(url, content, signed): (u8, u8, bool)| v1::DownloadableFile {
            download_url: match url {
                0 => String::new(),
                1 => "ftp://files.test".to_owned(),
                number => format!("https://files.test/{number}"),
            },
            content_hash: match content {
                0..8 => opaque(content),
                _ => vec![content; 32].into(),
            },
            signature: if signed { Bytes::from_static(b"signed") } else { Bytes::new() },
            headers: headers(url),
        };
        v1::PackageAvailable {
            r#type: (self.kind % 3).into(),
            version: text(self.version),
            file: self.file.map(file),
            hash: opaque(self.hash),
        }
    }
}

pub(super) fn custom_message(capability: u8, size: u8) -> v1::CustomMessage {
    v1::CustomMessage {
        capability: CAPABILITIES[usize::from(capability) % CAPABILITIES.len()].to_owned(),
        r#type: "question".to_owned(),
        data: vec![size; size.into()].into(),
    }
}

/// No hash, a short one, or one that is too long.
fn opaque(number: u8) -> Bytes {
    match number {
        0 => Bytes::new(),
        u8::MAX => vec![number; 300].into(),
        _ => vec![number; 4].into(),
    }
}

fn text(number: u8) -> String {
    if number == 0 { String::new() } else { format!("number {number}") }
}

fn headers(number: u8) -> Option<v1::Headers> {
    let header = v1::Header { key: "x-number".to_owned(), value: text(number) };
    (!number.is_multiple_of(4))
        .then(|| v1::Headers { headers: vec![header; usize::from(number % 4) - 1] })
}

fn certificate(cert: u8, key: u8) -> v1::TlsCertificate {
    v1::TlsCertificate { cert: opaque(cert), private_key: opaque(key), ca_cert: Bytes::new() }
}

fn tls(number: u8) -> Option<v1::TlsConnectionSettings> {
    (number > 0).then(|| v1::TlsConnectionSettings {
        ca_pem_contents: text(number),
        insecure_skip_verify: number.is_multiple_of(2),
        ..Default::default()
    })
}

fn proxy(number: u8) -> Option<v1::ProxyConnectionSettings> {
    (number > 0).then(|| v1::ProxyConnectionSettings {
        url: text(number),
        connect_headers: headers(number),
    })
}
