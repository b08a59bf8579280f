//! A hash of the connection settings a Server holds for an Agent.
//!
//! It names all settings, also those that an offer leaves out as they are unchanged, and the same
//! settings have the same hash whenever it is made (CONN-21). The Protobuf encoding is no basis for
//! one, as it changes when the schema grows.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::any_value::write_sized;
use crate::v1::{
    ConnectionSettingsOffers, Headers, OpAmpConnectionSettings, OtherConnectionSettings,
    ProxyConnectionSettings, TelemetryConnectionSettings, TlsCertificate, TlsConnectionSettings,
};

/// Sets these hashes apart from all others, and from those of a later definition.
const DOMAIN: &[u8] = b"opamp-proto/connection-settings-hash/1";

/// Hashes connection settings by what they say; the field `hash` does not count.
///
/// The hash is SHA-256, 32 bytes. It is made of secrets too, so that a new key is a new offer; it
/// tells nobody what they are, as long as they cannot be guessed.
///
/// ```
/// use opamp_proto::{connection_settings_hash, v1};
///
/// let own_metrics = v1::TelemetryConnectionSettings {
///     destination_endpoint: "https://metrics.example/v1/metrics".to_owned(),
///     ..Default::default()
/// };
/// let settings =
///     v1::ConnectionSettingsOffers { own_metrics: Some(own_metrics), ..Default::default() };
/// let hash = connection_settings_hash(&settings);
/// let named = v1::ConnectionSettingsOffers { hash: hash.clone(), ..settings };
/// assert_eq!(connection_settings_hash(&named), hash);
/// ```
#[must_use]
pub fn connection_settings_hash(settings: &ConnectionSettingsOffers) -> Bytes {
    let ConnectionSettingsOffers {
        hash: _,
        opamp,
        own_metrics,
        own_traces,
        own_logs,
        other_connections,
    } = settings;
    let mut form = Vec::new();
    write_sized(DOMAIN, &mut form);
    optional(opamp.as_ref(), &mut form, write_opamp);
    for telemetry in [own_metrics, own_traces, own_logs] {
        optional(telemetry.as_ref(), &mut form, write_telemetry);
    }
    write_count(other_connections.len(), &mut form);
    for (name, other) in other_connections {
        write_text(name, &mut form);
        write_other(other, &mut form);
    }
    Bytes::copy_from_slice(&Sha256::digest(&form))
}

fn optional<T>(value: Option<&T>, out: &mut Vec<u8>, write: fn(&T, &mut Vec<u8>)) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        write(value, out);
    }
}

fn write_count(count: usize, out: &mut Vec<u8>) {
    out.extend((count as u64).to_be_bytes());
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    write_sized(text.as_bytes(), out);
}

fn write_opamp(settings: &OpAmpConnectionSettings, out: &mut Vec<u8>) {
    let OpAmpConnectionSettings {
        destination_endpoint,
        headers,
        certificate,
        heartbeat_interval_seconds,
        tls,
        proxy,
    } = settings;
    write_text(destination_endpoint, out);
    optional(headers.as_ref(), out, write_headers);
    optional(certificate.as_ref(), out, write_certificate);
    out.extend(heartbeat_interval_seconds.to_be_bytes());
    optional(tls.as_ref(), out, write_tls);
    optional(proxy.as_ref(), out, write_proxy);
}

fn write_telemetry(settings: &TelemetryConnectionSettings, out: &mut Vec<u8>) {
    let TelemetryConnectionSettings { destination_endpoint, headers, certificate, tls, proxy } =
        settings;
    write_text(destination_endpoint, out);
    optional(headers.as_ref(), out, write_headers);
    optional(certificate.as_ref(), out, write_certificate);
    optional(tls.as_ref(), out, write_tls);
    optional(proxy.as_ref(), out, write_proxy);
}

fn write_other(settings: &OtherConnectionSettings, out: &mut Vec<u8>) {
    let OtherConnectionSettings {
        destination_endpoint,
        headers,
        certificate,
        other_settings,
        tls,
        proxy,
    } = settings;
    write_text(destination_endpoint, out);
    optional(headers.as_ref(), out, write_headers);
    optional(certificate.as_ref(), out, write_certificate);
    write_count(other_settings.len(), out);
    for (name, value) in other_settings {
        write_text(name, out);
        write_text(value, out);
    }
    optional(tls.as_ref(), out, write_tls);
    optional(proxy.as_ref(), out, write_proxy);
}

pub(crate) fn write_headers(headers: &Headers, out: &mut Vec<u8>) {
    write_count(headers.headers.len(), out);
    for header in &headers.headers {
        write_text(&header.key, out);
        write_text(&header.value, out);
    }
}

fn write_certificate(certificate: &TlsCertificate, out: &mut Vec<u8>) {
    let TlsCertificate { cert, private_key, ca_cert } = certificate;
    [cert, private_key, ca_cert].into_iter().for_each(|part| write_sized(part, out));
}

fn write_tls(settings: &TlsConnectionSettings, out: &mut Vec<u8>) {
    let TlsConnectionSettings {
        ca_pem_contents,
        include_system_ca_certs_pool,
        insecure_skip_verify,
        min_version,
        max_version,
        cipher_suites,
    } = settings;
    out.extend([u8::from(*include_system_ca_certs_pool), u8::from(*insecure_skip_verify)]);
    [ca_pem_contents, min_version, max_version].into_iter().for_each(|part| write_text(part, out));
    write_count(cipher_suites.len(), out);
    cipher_suites.iter().for_each(|suite| write_text(suite, out));
}

fn write_proxy(settings: &ProxyConnectionSettings, out: &mut Vec<u8>) {
    let ProxyConnectionSettings { url, connect_headers } = settings;
    write_text(url, out);
    optional(connect_headers.as_ref(), out, write_headers);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::v1::Header;

    fn headers(key: &str, value: &str) -> Option<Headers> {
        Some(Headers { headers: vec![Header { key: key.to_owned(), value: value.to_owned() }] })
    }

    #[test]
    fn whatever_differs_changes_the_hash() {
        let _judged = opamp_spec::judges(&["CONN-21"]);
        let with = |change: &dyn Fn(&mut ConnectionSettingsOffers)| {
            let mut settings = ConnectionSettingsOffers {
                opamp: Some(OpAmpConnectionSettings::default()),
                own_metrics: Some(TelemetryConnectionSettings::default()),
                ..Default::default()
            };
            change(&mut settings);
            connection_settings_hash(&settings)
        };
        let opamp = |change: &dyn Fn(&mut OpAmpConnectionSettings)| {
            with(&|settings| settings.opamp.iter_mut().for_each(change))
        };
        let tls = |change: &dyn Fn(&mut TlsConnectionSettings)| {
            opamp(&|opamp| change(opamp.tls.insert(TlsConnectionSettings::default())))
        };
        let certificate = |change: &dyn Fn(&mut TlsCertificate)| {
            opamp(&|opamp| change(opamp.certificate.insert(TlsCertificate::default())))
        };
        let other = |change: &dyn Fn(&mut OtherConnectionSettings)| {
            with(&|settings| {
                change(settings.other_connections.entry("a".to_owned()).or_default());
            })
        };
        let hashes = [
            with(&|_| {}),
            with(&|it| it.opamp = None),
            with(&|it| it.own_metrics = None),
            with(&|it| it.own_traces = it.own_metrics.take()),
            with(&|it| it.own_logs = it.own_metrics.take()),
            with(&|it| {
                it.own_metrics.iter_mut().for_each(|own| own.destination_endpoint.push('a'));
            }),
            opamp(&|it| it.destination_endpoint.push('a')),
            opamp(&|it| it.heartbeat_interval_seconds = 1),
            opamp(&|it| it.headers = Some(Headers::default())),
            opamp(&|it| it.headers = headers("a", "b")),
            opamp(&|it| it.headers = headers("ab", "")),
            opamp(&|it| it.proxy = Some(ProxyConnectionSettings::default())),
            certificate(&|_| {}),
            certificate(&|it| it.cert = "a".into()),
            certificate(&|it| it.private_key = "a".into()),
            certificate(&|it| it.ca_cert = "a".into()),
            tls(&|_| {}),
            tls(&|it| it.ca_pem_contents.push('a')),
            tls(&|it| it.include_system_ca_certs_pool = true),
            tls(&|it| it.insecure_skip_verify = true),
            tls(&|it| it.min_version.push('a')),
            tls(&|it| it.max_version.push('a')),
            tls(&|it| it.cipher_suites.push(String::new())),
            other(&|_| {}),
            other(&|it| it.destination_endpoint.push('a')),
            other(&|it| drop(it.other_settings.insert("a".to_owned(), "b".to_owned()))),
            other(&|it| drop(it.other_settings.insert("ab".to_owned(), String::new()))),
        ];
        assert_eq!(hashes.iter().collect::<BTreeSet<_>>().len(), hashes.len());
        assert!(hashes.iter().all(|hash| hash.len() == 32));
        assert_eq!(with(&|it| it.hash = "a".into()), hashes[0], "the hash itself does not count");
    }
}
