//! What offers make of the settings of an agent's own connections.

use std::collections::BTreeMap;

use bytes::Bytes;
use opamp_proto::v1;
use opamp_proto::v1::ConnectionSettingsStatuses::{Applied, Failed};

use super::connection_settings::{
    expect_status, headers, metrics, other, others, poll_offer, push, settings, settled, status,
    take_offer, telemetry,
};
use super::pair::WebSocket;
use crate::core::Connection;

#[test]
fn what_an_offer_leaves_out_stays() {
    let _judged = opamp_spec::judges(&["CONN-24", "CONN-25", "CONN-26", "CONN-27", "TEL-06"]);
    let mut pair = settled(WebSocket);
    let everything = v1::ConnectionSettingsOffers {
        own_metrics: Some(telemetry("https://m/v1")),
        own_traces: Some(telemetry("https://t/v1")),
        own_logs: Some(telemetry("https://l/v1")),
        ..others("h0", [("sink", other("sink:1"))])
    };
    push(&mut pair, everything);
    let taken = take_offer(&mut pair);
    pair.core.resolve_connection_settings(taken.applied()).expect("pending");
    let offers = [
        (settings("h1"), vec![]),
        (metrics("h2", "https://m/v2"), vec![Connection::OwnMetrics]),
        (
            v1::ConnectionSettingsOffers {
                own_traces: Some(telemetry("https://t/v2")),
                ..settings("h3")
            },
            vec![Connection::OwnTraces],
        ),
        (
            v1::ConnectionSettingsOffers {
                own_logs: Some(telemetry("https://l/v2")),
                ..settings("h4")
            },
            vec![Connection::OwnLogs],
        ),
        (others("h5", [("new", other("new:1"))]), vec![Connection::Other("new".to_owned())]),
    ];
    for (offer, changed) in offers {
        let before = pair.core.connections().clone();
        push(&mut pair, offer);
        let taken = poll_offer(&mut pair);
        assert_eq!(taken.is_some(), !changed.is_empty());
        if let Some(taken) = taken {
            pair.core.resolve_connection_settings(taken.applied()).expect("pending");
        }
        let changed = changed.into_iter().collect();
        assert_eq!(pair.core.connections().changed_since(&before), changed);
        // What is left out is not taken away either.
        assert_eq!(before.others.get("sink"), pair.core.connections().others.get("sink"));
    }
    let sent = pair.expect().connection_settings_status;
    assert_eq!(sent, Some(status("h5", Applied, "")), "changes coalesce");
}

#[test]
fn telemetry_settings_keep_what_the_rows_say() {
    let _judged = opamp_spec::judges(&["CERT-04", "CERT-06", "PROXY-02", "TEL-19", "TLS-02"]);
    let full = v1::TelemetryConnectionSettings {
        destination_endpoint: "https://m:4318/v1/metrics".to_owned(),
        headers: Some(headers("Bearer one")),
        certificate: Some(v1::TlsCertificate {
            cert: Bytes::from_static(b"certificate"),
            ..Default::default()
        }),
        tls: Some(v1::TlsConnectionSettings {
            min_version: "1.3".to_owned(),
            ..Default::default()
        }),
        proxy: Some(v1::ProxyConnectionSettings {
            url: "http://proxy".to_owned(),
            ..Default::default()
        }),
    };
    let no_certificate = v1::TelemetryConnectionSettings { certificate: None, ..full.clone() };
    for (offered, expected) in [
        // Nothing but the destination: the rest stays, a certificate does not.
        (telemetry("https://m:4318/v1/metrics"), no_certificate.clone()),
        (telemetry(""), no_certificate.clone()),
        // Another path is not another place.
        (
            telemetry("HTTPS://M:4318/otlp"),
            v1::TelemetryConnectionSettings {
                destination_endpoint: "HTTPS://M:4318/otlp".to_owned(),
                ..no_certificate.clone()
            },
        ),
        // A credential is not for another place.
        (
            telemetry("https://n:4318/v1/metrics"),
            v1::TelemetryConnectionSettings {
                destination_endpoint: "https://n:4318/v1/metrics".to_owned(),
                headers: None,
                ..no_certificate.clone()
            },
        ),
        // An empty list clears.
        (
            v1::TelemetryConnectionSettings {
                headers: Some(v1::Headers::default()),
                ..telemetry("")
            },
            v1::TelemetryConnectionSettings {
                headers: Some(v1::Headers::default()),
                ..no_certificate
            },
        ),
    ] {
        let mut pair = settled(WebSocket);
        for (hash, offered) in [("h1", full.clone()), ("h2", offered)] {
            let offer =
                v1::ConnectionSettingsOffers { own_metrics: Some(offered), ..settings(hash) };
            push(&mut pair, offer);
            let taken = take_offer(&mut pair);
            pair.core.resolve_connection_settings(taken.applied()).expect("pending");
        }
        assert_eq!(pair.core.connections().own_metrics, Some(expected));
    }
}

#[test]
fn settings_of_other_connections_change_field_by_field() {
    let _judged = opamp_spec::judges(&["OTHER-01", "OTHER-02", "OTHER-03", "OTHER-05"]);
    let certificate =
        v1::TlsCertificate { cert: Bytes::from_static(b"certificate"), ..Default::default() };
    let full = v1::OtherConnectionSettings {
        destination_endpoint: "sink:9000".to_owned(),
        headers: Some(headers("Bearer one")),
        certificate: Some(certificate),
        other_settings: BTreeMap::from([("shard".to_owned(), "7".to_owned())]),
        tls: Some(v1::TlsConnectionSettings::default()),
        proxy: Some(v1::ProxyConnectionSettings::default()),
    };
    for (change, expected) in [
        (
            other("sink:9001"),
            v1::OtherConnectionSettings {
                destination_endpoint: "sink:9001".to_owned(),
                ..full.clone()
            },
        ),
        (
            v1::OtherConnectionSettings {
                headers: Some(headers("Bearer two")),
                ..Default::default()
            },
            v1::OtherConnectionSettings { headers: Some(headers("Bearer two")), ..full.clone() },
        ),
        (
            v1::OtherConnectionSettings {
                other_settings: BTreeMap::from([("rack".to_owned(), "1".to_owned())]),
                ..Default::default()
            },
            v1::OtherConnectionSettings {
                other_settings: BTreeMap::from([("rack".to_owned(), "1".to_owned())]),
                ..full.clone()
            },
        ),
    ] {
        let mut pair = settled(WebSocket);
        for offer in [others("h1", [("sink", full.clone())]), others("h2", [("sink", change)])] {
            push(&mut pair, offer);
            let taken = take_offer(&mut pair);
            pair.core.resolve_connection_settings(taken.applied()).expect("pending");
        }
        assert_eq!(pair.core.connections().others["sink"], expected);
    }
}

#[test]
fn a_server_cannot_make_the_agent_collect_settings_for_ever() {
    let _judged = opamp_spec::judges(&["CONN-34"]);
    let mut pair = settled(WebSocket);
    let endpoint = "x".repeat(600 * 1024);
    push(&mut pair, others("h1", [("one", other(&endpoint))]));
    let taken = take_offer(&mut pair);
    pair.core.resolve_connection_settings(taken.applied()).expect("pending");
    expect_status(&mut pair, &status("h1", Applied, ""));
    push(&mut pair, others("h2", [("two", other(&endpoint))]));
    assert_eq!(poll_offer(&mut pair), None);
    let report = pair.expect().connection_settings_status.expect("a status");
    assert_eq!(report.status(), Failed);
    assert_eq!(pair.core.connections().others.len(), 1);
}

#[test]
fn a_name_the_agent_does_not_know_fails_without_the_others() {
    let _judged = opamp_spec::judges(&["CONN-08", "OTHER-06"]);
    let mut pair = settled(WebSocket);
    let offered = v1::ConnectionSettingsOffers {
        own_metrics: Some(telemetry("https://m/v1")),
        ..others("h1", [("sink", other("sink:1")), ("gibberish", other("x:1"))])
    };
    push(&mut pair, offered);
    let taken = take_offer(&mut pair);
    let known = [Connection::OwnMetrics, Connection::Other("sink".to_owned())];
    // What did not change cannot be applied.
    let applied = known.clone().into_iter().chain([Connection::OwnLogs]);
    let resolution = taken.applied_only(applied, "gibberish: no such connection");
    pair.core.resolve_connection_settings(resolution).expect("pending");
    expect_status(&mut pair, &status("h1", Failed, "gibberish: no such connection"));
    let changed = pair.core.connections().changed_since(&Default::default());
    assert_eq!(changed, known.into_iter().collect());
}
