//! What an offer amounts to, and what the agent's own policy refuses.

use bytes::Bytes;
use opamp_proto::v1;
use opamp_proto::v1::ConnectionSettingsStatuses::{Applied, Failed};

use super::stage::{away, certificate, headers, home, status, taking, to};
use crate::core::tests::pair::{Http, Pair, TRANSPORTS, WebSocket};
use crate::core::tests::values::seconds;
use crate::core::{CertificateRequest, ClientConfig, Parts, Storage, Transport};

fn interval(seconds: u64) -> v1::OpAmpConnectionSettings {
    v1::OpAmpConnectionSettings { heartbeat_interval_seconds: seconds, ..Default::default() }
}

/// An agent of which these settings are in force.
fn with(transport: Transport, settings: v1::OpAmpConnectionSettings) -> Pair {
    let mut pair = Pair::settled_with(transport, |config| {
        taking(transport)(config);
        config.state.settings_endpoint = home(transport).into();
        config.state.opamp_settings = Some(settings);
    });
    pair.save();
    pair
}

fn refused(adapt: impl FnOnce(&mut ClientConfig), settings: v1::OpAmpConnectionSettings) -> String {
    let mut pair = Pair::settled_with(WebSocket, |config| {
        taking(WebSocket)(config);
        adapt(config);
    });
    pair.save();
    pair.receive_offer("h1", settings);
    assert_eq!(pair.core.poll_settings_check(), None, "refused without a trial");
    let report = pair.expect_parts(Parts::CONNECTION_SETTINGS_STATUS);
    let status = report.connection_settings_status.expect("a status");
    assert_eq!(status.status, Failed as i32);
    assert_eq!(&*status.last_connection_settings_hash, b"h1");
    pair.acknowledge();
    pair.expect_silence();
    assert_eq!(pair.core.state().opamp_settings, None);
    status.error_message
}

#[test]
fn another_interval_alone_holds_at_once_without_another_connection() {
    let _judged = opamp_spec::judges(&["HB-04", "HB-07", "HB-12", "CONN-17"]);
    for transport in TRANSPORTS {
        // Whether the server repeats the endpoint or not.
        for endpoint in ["", home(transport)] {
            let mut pair = Pair::at_home(transport);
            let offered = v1::OpAmpConnectionSettings {
                destination_endpoint: endpoint.to_owned(),
                ..interval(2)
            };
            pair.receive_offer("h1", offered);
            let report = pair.expect_parts(Parts::CONNECTION_SETTINGS_STATUS);
            assert_eq!(report.connection_settings_status, status("h1", Applied, ""));
            pair.acknowledge();
            for _ in 0..3 {
                assert_eq!(pair.until_timeout(), Some(seconds(2)));
                pair.advance(seconds(2));
                pair.expect_heartbeat();
                pair.acknowledge();
            }
            // It holds in the next process too.
            pair.save();
            let mut next = Pair::restarted(pair.core.state(), transport);
            next.arrive(None);
            next.acknowledge();
            next.advance(seconds(2));
            next.expect_heartbeat();
        }
    }
}

#[test]
fn another_interval_holds_at_once_also_where_that_is_no_news_to_the_server() {
    let _judged = opamp_spec::judges(&["HB-04", "HB-07", "HB-12"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::at_home(transport);
        // A server that gives no hash is told the same status of every offer.
        pair.receive_offer("", to(home(transport)));
        pair.expect_parts(Parts::CONNECTION_SETTINGS_STATUS);
        pair.acknowledge();
        pair.receive_offer("", interval(2));
        pair.expect_silence();
        assert_eq!(pair.until_timeout(), Some(seconds(2)));
    }
}

/// It may be that of a WebSocket although the URL begins with https.
#[test]
fn an_endpoint_of_the_same_scheme_keeps_the_transport() {
    let mut pair = Pair::settled_with(WebSocket, taking(Http));
    pair.save();
    pair.receive_offer("h1", to(away(Http)));
    let settings = pair.check_settings();
    pair.save();
    pair.leave();
    assert_eq!(pair.core.transport(), WebSocket);
    pair.arrive(Some(&settings));
}

#[test]
fn an_interval_of_0_alone_turns_heartbeats_off_but_never_polls() {
    let _judged = opamp_spec::judges(&["HB-05", "HB-07"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::at_home(transport);
        pair.receive_offer("h1", to(home(transport)));
        pair.expect_parts(Parts::CONNECTION_SETTINGS_STATUS);
        pair.acknowledge();
        match transport {
            WebSocket => assert_eq!(pair.until_timeout(), None),
            Http => {
                pair.advance(seconds(30));
                pair.expect_heartbeat();
            }
        }
    }
}

/// W-10 of the reference: an offer of a certificate alone turned heartbeats off for good.
#[test]
fn an_interval_of_0_beside_something_else_silences_nobody() {
    let _judged = opamp_spec::judges(&["HB-12", "HB-13"]);
    for transport in TRANSPORTS {
        for offered in [
            v1::OpAmpConnectionSettings {
                certificate: Some(certificate("new", "key")),
                ..Default::default()
            },
            v1::OpAmpConnectionSettings { headers: Some(headers("new")), ..Default::default() },
            to(away(transport)),
        ] {
            let mut pair = Pair::at_home(transport);
            pair.receive_offer("h0", interval(7));
            pair.expect();
            pair.acknowledge();
            pair.save();
            pair.receive_offer("h1", offered);
            let settings = pair.check_settings();
            pair.save();
            pair.leave();
            pair.arrive(Some(&settings));
            pair.acknowledge();
            pair.expect_parts(Parts::CONNECTION_SETTINGS_STATUS);
            pair.acknowledge();
            pair.advance(seconds(7));
            pair.expect_heartbeat();
        }
    }
}

#[test]
fn an_agent_that_opted_out_of_heartbeats_sends_none() {
    let _judged = opamp_spec::judges(&["HB-14"]);
    let mut pair = Pair::settled_with(WebSocket, |config| {
        taking(WebSocket)(config);
        config.heartbeat_interval = None;
    });
    pair.receive_offer("h1", interval(2));
    pair.expect_parts(Parts::CONNECTION_SETTINGS_STATUS);
    pair.acknowledge();
    assert_eq!(pair.until_timeout(), None);
}

#[test]
fn an_agent_may_change_its_own_interval_or_opt_out_while_it_runs() {
    let _judged = opamp_spec::judges(&["HB-14", "HB-17", "CAP-03"]);
    let mut pair = Pair::at_home(WebSocket);
    pair.core.set_heartbeat_interval(Some(seconds(7)), pair.now);
    pair.advance(seconds(7));
    pair.expect_heartbeat();
    for none in [None, Some(seconds(0))] {
        pair.core.set_heartbeat_interval(Some(seconds(9)), pair.now);
        pair.poll();
        pair.acknowledge();
        pair.core.set_heartbeat_interval(none, pair.now);
        let mask = pair.expect().capabilities;
        assert_eq!(mask & v1::AgentCapabilities::ReportsHeartbeat as u64, 0);
        pair.acknowledge();
        assert_eq!(pair.until_timeout(), None);
    }
    // The server's interval comes first.
    let mut pair = Pair::at_home(WebSocket);
    pair.receive_offer("h1", interval(2));
    pair.expect_parts(Parts::CONNECTION_SETTINGS_STATUS);
    pair.acknowledge();
    pair.core.set_heartbeat_interval(Some(seconds(7)), pair.now);
    assert_eq!(pair.until_timeout(), Some(seconds(2)));
}

#[test]
fn no_server_can_keep_an_agent_from_polling_for_ever() {
    let mut pair = Pair::at_home(Http);
    pair.receive_offer("h1", interval(u64::MAX));
    pair.expect_parts(Parts::CONNECTION_SETTINGS_STATUS);
    pair.acknowledge();
    assert_eq!(pair.until_timeout(), Some(seconds(86_400)));
}

#[test]
fn what_an_offer_leaves_out_stays_as_it_is() {
    let _judged = opamp_spec::judges(&["CONN-22", "TLS-02", "PROXY-02", "CERT-03"]);
    let before = v1::OpAmpConnectionSettings {
        headers: Some(headers("old")),
        certificate: Some(certificate("old", "old key")),
        tls: Some(v1::TlsConnectionSettings {
            min_version: "1.3".to_owned(),
            ..Default::default()
        }),
        proxy: Some(v1::ProxyConnectionSettings {
            url: "http://proxy.example.com".to_owned(),
            ..Default::default()
        }),
        ..to("wss://before.example.com")
    };
    let empty = v1::Headers { headers: Vec::new() };
    let tls = v1::TlsConnectionSettings { max_version: "1.2".to_owned(), ..Default::default() };
    for (offered, expected) in [
        (
            v1::OpAmpConnectionSettings { headers: Some(headers("new")), ..Default::default() },
            v1::OpAmpConnectionSettings {
                headers: Some(headers("new")),
                certificate: None,
                ..before.clone()
            },
        ),
        (
            v1::OpAmpConnectionSettings {
                headers: Some(empty.clone()),
                certificate: Some(certificate("new", "new key")),
                ..Default::default()
            },
            v1::OpAmpConnectionSettings {
                headers: Some(empty),
                certificate: Some(certificate("new", "new key")),
                ..before.clone()
            },
        ),
        (
            to(away(WebSocket)),
            v1::OpAmpConnectionSettings {
                destination_endpoint: away(WebSocket).to_owned(),
                certificate: None,
                ..before.clone()
            },
        ),
        (
            v1::OpAmpConnectionSettings {
                tls: Some(tls.clone()),
                certificate: before.certificate.clone(),
                ..Default::default()
            },
            v1::OpAmpConnectionSettings { tls: Some(tls), ..before.clone() },
        ),
    ] {
        let mut pair = with(WebSocket, before.clone());
        pair.receive_offer("h1", offered);
        assert_eq!(*pair.check_settings(), expected);
    }
    // An interval alone takes no certificate away.
    let mut pair = with(WebSocket, before.clone());
    pair.receive_offer("h1", interval(5));
    assert_eq!(pair.core.poll_settings_check(), None);
    assert_eq!(pair.core.opamp_settings(), Some(&before));
}

#[test]
fn an_offer_of_what_is_in_force_changes_nothing() {
    let _judged = opamp_spec::judges(&["CONN-17"]);
    let before =
        v1::OpAmpConnectionSettings { headers: Some(headers("old")), ..to(away(WebSocket)) };
    let mut pair = with(WebSocket, before.clone());
    pair.receive_offer("h1", v1::OpAmpConnectionSettings { ..before });
    let report = pair.expect_parts(Parts::CONNECTION_SETTINGS_STATUS);
    assert_eq!(report.connection_settings_status, status("h1", Applied, ""));
    pair.acknowledge();
    pair.expect_silence();
}

#[test]
fn an_encrypted_connection_is_not_given_up_for_one_that_is_not() {
    let _judged = opamp_spec::judges(&["CONN-08"]);
    for endpoint in ["ws://away.example.com", "http://away.example.com", "WS://away.example.com"] {
        let why = refused(|_| {}, to(endpoint));
        assert!(why.contains("encrypted"), "{why}");
        let mut pair = Pair::settled_with(WebSocket, |config| {
            taking(WebSocket)(config);
            config.allow_insecure_endpoint = true;
        });
        pair.receive_offer("h1", to(endpoint));
        assert_eq!(pair.check_settings().destination_endpoint, endpoint);
        // Who is not encrypted anyway has nothing to lose.
        let mut pair = Pair::settled_with(WebSocket, |config| {
            taking(WebSocket)(config);
            config.endpoint = "ws://home.example.com".into();
        });
        pair.receive_offer("h1", to(endpoint));
        pair.check_settings();
    }
    for endpoint in ["ftp://away.example.com", "away.example.com:4320", "://", "nonsense"] {
        let why = refused(|config| config.allow_insecure_endpoint = true, to(endpoint));
        assert!(why.contains("URL"), "{why}");
    }
}

#[test]
fn verification_is_not_turned_off_unless_that_is_allowed() {
    let _judged = opamp_spec::judges(&["TLS-05"]);
    let tls = v1::TlsConnectionSettings { insecure_skip_verify: true, ..Default::default() };
    let offered = v1::OpAmpConnectionSettings { tls: Some(tls), ..to(away(WebSocket)) };
    let why = refused(|_| {}, offered.clone());
    assert!(why.contains("verification"), "{why}");
    let mut pair = Pair::settled_with(WebSocket, |config| {
        taking(WebSocket)(config);
        config.allow_insecure_skip_verify = true;
    });
    pair.receive_offer("h1", offered);
    pair.check_settings();
}

#[test]
fn a_certificate_needs_durable_storage() {
    let _judged = opamp_spec::judges(&["CONN-20"]);
    let offered = v1::OpAmpConnectionSettings {
        certificate: Some(certificate("new", "key")),
        ..to(away(WebSocket))
    };
    let why = refused(|config| config.storage = Storage::Ephemeral, offered.clone());
    assert!(why.contains("restart"), "{why}");
    for storage in [Storage::Application, Storage::Store] {
        let mut pair = Pair::settled_with(WebSocket, |config| {
            taking(WebSocket)(config);
            config.storage = storage;
        });
        pair.receive_offer("h1", offered.clone());
        pair.check_settings();
    }
}

#[test]
fn a_certificate_without_a_key_is_for_a_key_the_agent_has() {
    let _judged = opamp_spec::judges(&["CERT-01"]);
    let keyless = v1::OpAmpConnectionSettings {
        certificate: Some(certificate("new", "")),
        ..to(away(WebSocket))
    };
    let why = refused(|_| {}, keyless.clone());
    assert!(why.contains("private_key"), "{why}");

    let mut pair = Pair::settled_with(WebSocket, |config| {
        taking(WebSocket)(config);
        config.state.certificate_request = Some(CertificateRequest::new("own key", "csr"));
    });
    pair.receive_offer("h1", keyless.clone());
    assert_eq!(pair.check_settings().certificate, Some(certificate("new", "own key")));

    // The certificate in use, repeated with other settings.
    let before = v1::OpAmpConnectionSettings {
        certificate: Some(certificate("new", "key in use")),
        ..to("wss://before.example.com")
    };
    let mut pair = with(WebSocket, before);
    pair.receive_offer("h1", keyless);
    assert_eq!(pair.check_settings().certificate, Some(certificate("new", "key in use")));

    let nothing = v1::OpAmpConnectionSettings {
        certificate: Some(v1::TlsCertificate {
            private_key: Bytes::from_static(b"key"),
            ..Default::default()
        }),
        ..to(away(WebSocket))
    };
    let why = refused(|_| {}, nothing);
    assert!(why.contains("no cert"), "{why}");
}
