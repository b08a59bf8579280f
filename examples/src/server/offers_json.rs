//! Connection settings, packages and custom messages as JSON. Names are the protocol's; bytes are
//! text, or base64 in a member whose name ends in `_base64`; hashes are hexadecimal.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use opamp_proto::v1;
use opamp_server::Packages;
use serde::Deserialize;

use super::state::Hosted;

/// The interval that is offered where none is given and none was before, in seconds.
const HEARTBEAT_INTERVAL: u64 = 30;

/// What is wrong with a request, for the one who sent it.
pub(super) type Wrong = String;

/// `ConnectionSettingsOffers`. What is left out stays as it is.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    opamp: Option<OpAmp>,
    own_metrics: Option<Telemetry>,
    own_traces: Option<Telemetry>,
    own_logs: Option<Telemetry>,
    #[serde(default)]
    other_connections: BTreeMap<String, Other>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OpAmp {
    destination_endpoint: Option<String>,
    headers: Option<Headers>,
    certificate: Option<Certificate>,
    heartbeat_interval_seconds: Option<u64>,
    tls: Option<Tls>,
    proxy: Option<Proxy>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Telemetry {
    #[serde(default)]
    destination_endpoint: String,
    headers: Option<Headers>,
    certificate: Option<Certificate>,
    tls: Option<Tls>,
    proxy: Option<Proxy>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Other {
    #[serde(default)]
    destination_endpoint: String,
    headers: Option<Headers>,
    certificate: Option<Certificate>,
    #[serde(default)]
    other_settings: BTreeMap<String, String>,
    tls: Option<Tls>,
    proxy: Option<Proxy>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Headers {
    headers: Vec<Header>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    key: String,
    value: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Certificate {
    cert: String,
    private_key: String,
    ca_cert: String,
    cert_base64: Option<String>,
    private_key_base64: Option<String>,
    ca_cert_base64: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Tls {
    ca_pem_contents: String,
    include_system_ca_certs_pool: bool,
    insecure_skip_verify: bool,
    min_version: String,
    max_version: String,
    cipher_suites: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Proxy {
    #[serde(default)]
    url: String,
    connect_headers: Option<Headers>,
}

impl Settings {
    /// The settings with these changes. `endpoint` is where Agents connect at present.
    pub(super) fn over(
        self,
        mut settings: v1::ConnectionSettingsOffers,
        endpoint: &str,
    ) -> Result<v1::ConnectionSettingsOffers, Wrong> {
        if let Some(opamp) = self.opamp {
            let before = settings.opamp.take().unwrap_or_else(|| v1::OpAmpConnectionSettings {
                destination_endpoint: endpoint.to_owned(),
                heartbeat_interval_seconds: HEARTBEAT_INTERVAL,
                ..Default::default()
            });
            settings.opamp = Some(opamp.over(before)?);
        }
        for (new, held) in [
            (self.own_metrics, &mut settings.own_metrics),
            (self.own_traces, &mut settings.own_traces),
            (self.own_logs, &mut settings.own_logs),
        ] {
            if let Some(new) = new {
                *held = Some(new.into_message()?);
            }
        }
        for (name, other) in self.other_connections {
            settings.other_connections.insert(name, other.into_message()?);
        }
        Ok(settings)
    }
}

impl OpAmp {
    fn over(
        self,
        before: v1::OpAmpConnectionSettings,
    ) -> Result<v1::OpAmpConnectionSettings, Wrong> {
        let certificate = self.certificate.map(Certificate::into_message).transpose()?;
        Ok(v1::OpAmpConnectionSettings {
            destination_endpoint: self.destination_endpoint.unwrap_or(before.destination_endpoint),
            headers: self.headers.map(Headers::into_message).or(before.headers),
            certificate: certificate.or(before.certificate),
            heartbeat_interval_seconds: self
                .heartbeat_interval_seconds
                .unwrap_or(before.heartbeat_interval_seconds),
            tls: self.tls.map(Tls::into_message).or(before.tls),
            proxy: self.proxy.map(Proxy::into_message).or(before.proxy),
        })
    }
}

impl Telemetry {
    fn into_message(self) -> Result<v1::TelemetryConnectionSettings, Wrong> {
        Ok(v1::TelemetryConnectionSettings {
            destination_endpoint: self.destination_endpoint,
            headers: self.headers.map(Headers::into_message),
            certificate: self.certificate.map(Certificate::into_message).transpose()?,
            tls: self.tls.map(Tls::into_message),
            proxy: self.proxy.map(Proxy::into_message),
        })
    }
}

impl Other {
    fn into_message(self) -> Result<v1::OtherConnectionSettings, Wrong> {
        Ok(v1::OtherConnectionSettings {
            destination_endpoint: self.destination_endpoint,
            headers: self.headers.map(Headers::into_message),
            certificate: self.certificate.map(Certificate::into_message).transpose()?,
            other_settings: self.other_settings,
            tls: self.tls.map(Tls::into_message),
            proxy: self.proxy.map(Proxy::into_message),
        })
    }
}

impl Headers {
    fn into_message(self) -> v1::Headers {
        let header = |Header { key, value }| v1::Header { key, value };
        v1::Headers { headers: self.headers.into_iter().map(header).collect() }
    }
}

impl Certificate {
    fn into_message(self) -> Result<v1::TlsCertificate, Wrong> {
        let bytes = |text: String, base64: Option<String>, name: &str| match base64 {
            Some(base64) => decode(&base64, name),
            None => Ok(text.into()),
        };
        Ok(v1::TlsCertificate {
            cert: bytes(self.cert, self.cert_base64, "cert_base64")?,
            private_key: bytes(self.private_key, self.private_key_base64, "private_key_base64")?,
            ca_cert: bytes(self.ca_cert, self.ca_cert_base64, "ca_cert_base64")?,
        })
    }
}

impl Tls {
    fn into_message(self) -> v1::TlsConnectionSettings {
        v1::TlsConnectionSettings {
            ca_pem_contents: self.ca_pem_contents,
            include_system_ca_certs_pool: self.include_system_ca_certs_pool,
            insecure_skip_verify: self.insecure_skip_verify,
            min_version: self.min_version,
            max_version: self.max_version,
            cipher_suites: self.cipher_suites,
        }
    }
}

impl Proxy {
    fn into_message(self) -> v1::ProxyConnectionSettings {
        let connect_headers = self.connect_headers.map(Headers::into_message);
        v1::ProxyConnectionSettings { url: self.url, connect_headers }
    }
}

/// `PackagesAvailable`. Packages that the server is to host have `content_base64` in place of a
/// file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PackageOffer {
    packages: BTreeMap<String, Package>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Package {
    #[serde(default)]
    r#type: PackageType,
    #[serde(default)]
    version: String,
    file: Option<File>,
    content_base64: Option<String>,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
enum PackageType {
    #[default]
    TopLevel,
    Addon,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    download_url: String,
    /// Hexadecimal.
    content_hash: String,
    signature_base64: Option<String>,
    headers: Option<Headers>,
}

impl PackageOffer {
    /// The packages, once their content is hosted: the files are served below the URL `base`.
    pub(super) fn into_packages(self, files: &Hosted, base: &str) -> Result<Packages, Wrong> {
        let mut offer = v1::PackagesAvailable::default();
        for (name, package) in self.packages {
            let kind = match package.r#type {
                PackageType::TopLevel => v1::PackageType::TopLevel,
                PackageType::Addon => v1::PackageType::Addon,
            };
            let file = match (package.file, package.content_base64) {
                (Some(file), None) => file.into_message()?,
                (None, Some(content)) => {
                    let content = decode(&content, "content_base64")?;
                    let file = files.add(content)?;
                    v1::DownloadableFile {
                        download_url: file.url(base),
                        content_hash: file.content_hash(),
                        ..Default::default()
                    }
                }
                _ => return Err(format!("{name:?}: give either file or content_base64")),
            };
            let package = v1::PackageAvailable {
                r#type: kind.into(),
                version: package.version,
                file: Some(file),
                ..Default::default()
            };
            offer.packages.insert(name, package);
        }
        Packages::new(offer).map_err(|error| error.to_string())
    }
}

impl File {
    fn into_message(self) -> Result<v1::DownloadableFile, Wrong> {
        let digits: Option<Vec<u32>> = self.content_hash.chars().map(|c| c.to_digit(16)).collect();
        let hash = digits.filter(|digits| digits.len() % 2 == 0).map(|digits| {
            // Two digits of four bits each.
            digits.chunks_exact(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect::<Vec<_>>()
        });
        let hash = hash.ok_or_else(|| "content_hash: not hexadecimal".to_owned())?;
        let signature = self.signature_base64.map(|text| decode(&text, "signature_base64"));
        Ok(v1::DownloadableFile {
            download_url: self.download_url,
            content_hash: hash.into(),
            signature: signature.transpose()?.unwrap_or_default(),
            headers: self.headers.map(Headers::into_message),
        })
    }
}

/// `CustomMessage`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Custom {
    capability: String,
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    data_base64: String,
}

impl Custom {
    pub(super) fn into_message(self) -> Result<v1::CustomMessage, Wrong> {
        let data = decode(&self.data_base64, "data_base64")?;
        Ok(v1::CustomMessage { capability: self.capability, r#type: self.r#type, data })
    }
}

fn decode(base64: &str, name: &str) -> Result<axum::body::Bytes, Wrong> {
    let decoded = BASE64.decode(base64).map_err(|error| format!("{name}: {error}"))?;
    Ok(decoded.into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_left_out_of_settings_stays() {
        let parse = |value| serde_json::from_value::<Settings>(value).unwrap();
        let first = parse(json!({"opamp": {"heartbeat_interval_seconds": 10}}));
        let first = first.over(Default::default(), "ws://here/").unwrap();
        let opamp = first.opamp.clone().unwrap();
        assert_eq!(opamp.destination_endpoint, "ws://here/");
        let second = parse(json!({
            "opamp": {"headers": {"headers": [{"key": "a", "value": "b"}]}},
            "own_logs": {"destination_endpoint": "https://logs/"},
        }));
        let second = second.over(first, "ws://there/").unwrap();
        let opamp = second.opamp.unwrap();
        assert_eq!(opamp.destination_endpoint, "ws://here/");
        assert_eq!(opamp.heartbeat_interval_seconds, 10);
        assert_eq!(opamp.headers.unwrap().headers[0].key, "a");
        assert_eq!(second.own_logs.unwrap().destination_endpoint, "https://logs/");
    }

    #[test]
    fn packages_are_hosted_or_elsewhere() {
        let files = Hosted::default();
        let parse = |value| serde_json::from_value::<PackageOffer>(value).unwrap();
        let offer = parse(json!({"packages": {
            "hosted": {"type": "Addon", "version": "1", "content_base64": "YQ=="},
            "elsewhere": {"file": {"download_url": "https://a/b", "content_hash": "ab".repeat(32)}},
        }}));
        let packages = offer.into_packages(&files, "http://here/packages").unwrap().to_message();
        let hosted = packages.packages["hosted"].file.as_ref().unwrap();
        assert!(hosted.download_url.starts_with("http://here/packages/"));
        assert_eq!(hosted.content_hash, opamp_proto::content_hash(b"a"));
        let elsewhere = packages.packages["elsewhere"].file.as_ref().unwrap();
        assert_eq!(elsewhere.content_hash[..], [0xab; 32]);
        for wrong in [
            json!({"packages": {"a": {}}}),
            json!({"packages": {"a": {"content_base64": "%"}}}),
            json!({"packages": {"a": {"file": {"download_url": "https://a/b", "content_hash": "0"}}}}),
        ] {
            assert!(parse(wrong).into_packages(&files, "http://here").is_err());
        }
    }
}
