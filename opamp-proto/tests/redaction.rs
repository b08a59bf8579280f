//! No secret is shown by `Debug`, wherever in a message it stands.

use std::collections::BTreeMap;

use opamp_proto::v1::*;

/// Stands in every place of a secret; short enough that a cut-off of long bytes would not hide it.
const SECRET: &str = "hush";

fn headers() -> Option<Headers> {
    let header = Header { key: "Authorization".to_owned(), value: format!("Bearer {SECRET}") };
    Some(Headers { headers: vec![header] })
}

fn certificate() -> Option<TlsCertificate> {
    Some(TlsCertificate { cert: SECRET.into(), private_key: SECRET.into(), ca_cert: SECRET.into() })
}

fn tls() -> Option<TlsConnectionSettings> {
    Some(TlsConnectionSettings {
        ca_pem_contents: SECRET.to_owned(),
        min_version: "1.2".to_owned(),
        ..Default::default()
    })
}

fn proxy() -> Option<ProxyConnectionSettings> {
    Some(ProxyConnectionSettings {
        url: format!("http://{SECRET}:{SECRET}@proxy.example:3128/?{SECRET}"),
        connect_headers: headers(),
    })
}

fn endpoint() -> String {
    format!("https://user:{SECRET}@endpoint.example/path?token={SECRET}#{SECRET}")
}

fn telemetry() -> Option<TelemetryConnectionSettings> {
    Some(TelemetryConnectionSettings {
        destination_endpoint: endpoint(),
        headers: headers(),
        certificate: certificate(),
        tls: tls(),
        proxy: proxy(),
    })
}

fn config() -> Option<AgentConfigMap> {
    let file = AgentConfigFile { body: SECRET.into(), content_type: "text/yaml".to_owned() };
    Some(AgentConfigMap { config_map: BTreeMap::from([("collector.yaml".to_owned(), file)]) })
}

fn custom_message() -> Option<CustomMessage> {
    Some(CustomMessage {
        capability: "example.capability".to_owned(),
        r#type: "example-type".to_owned(),
        data: SECRET.into(),
    })
}

fn server_to_agent() -> ServerToAgent {
    let opamp = OpAmpConnectionSettings {
        destination_endpoint: endpoint(),
        headers: headers(),
        certificate: certificate(),
        heartbeat_interval_seconds: 30,
        tls: tls(),
        proxy: proxy(),
    };
    let other = OtherConnectionSettings {
        destination_endpoint: endpoint(),
        headers: headers(),
        certificate: certificate(),
        other_settings: BTreeMap::from([("password".to_owned(), SECRET.to_owned())]),
        tls: tls(),
        proxy: proxy(),
    };
    let package = PackageAvailable {
        version: "1.2.3".to_owned(),
        file: Some(DownloadableFile {
            download_url: endpoint(),
            content_hash: vec![1; 32].into(),
            signature: SECRET.into(),
            headers: headers(),
        }),
        ..Default::default()
    };
    ServerToAgent {
        remote_config: Some(AgentRemoteConfig { config: config(), ..Default::default() }),
        connection_settings: Some(ConnectionSettingsOffers {
            opamp: Some(opamp),
            own_metrics: telemetry(),
            own_traces: telemetry(),
            own_logs: telemetry(),
            other_connections: BTreeMap::from([("database".to_owned(), other)]),
            ..Default::default()
        }),
        packages_available: Some(PackagesAvailable {
            packages: BTreeMap::from([("plugin".to_owned(), package)]),
            ..Default::default()
        }),
        custom_message: custom_message(),
        ..Default::default()
    }
}

fn agent_to_server() -> AgentToServer {
    let request = CertificateRequest { csr: SECRET.into() };
    AgentToServer {
        effective_config: Some(EffectiveConfig { config_map: config() }),
        connection_settings_request: Some(ConnectionSettingsRequest {
            opamp: Some(OpAmpConnectionSettingsRequest { certificate_request: Some(request) }),
        }),
        custom_message: custom_message(),
        ..Default::default()
    }
}

fn assert_safe(shown: &str, expected: &[&str]) {
    let as_list = SECRET.bytes().map(|byte| byte.to_string()).collect::<Vec<_>>().join(", ");
    assert!(!shown.contains(SECRET), "a secret is shown: {shown}");
    assert!(!shown.contains(&as_list), "a secret is shown as numbers: {shown}");
    for part in expected {
        assert!(shown.contains(part), "{part} is worth showing: {shown}");
    }
}

#[test]
fn a_server_message_full_of_secrets_shows_none() {
    let message = server_to_agent();
    let expected = [
        "Authorization",
        "collector.yaml",
        "text/yaml",
        "4 bytes",
        "@endpoint.example/path",
        "@proxy.example:3128",
        "password",
        "1.2.3",
        "heartbeat_interval_seconds: 30",
        "example.capability",
        "example-type",
        "1.2",
    ];
    assert_safe(&format!("{message:?}"), &expected);
    assert_safe(&format!("{message:#?}"), &expected);
}

#[test]
fn an_agent_message_full_of_secrets_shows_none() {
    let message = agent_to_server();
    let expected = ["collector.yaml", "text/yaml", "csr: 4 bytes", "data: 4 bytes"];
    assert_safe(&format!("{message:?}"), &expected);
    assert_safe(&format!("{message:#?}"), &expected);
}
