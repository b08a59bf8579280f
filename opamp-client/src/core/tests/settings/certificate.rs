//! Asking for a certificate, and what comes of it.

use opamp_proto::ServerCapabilities;
use opamp_proto::v1;

use super::stage::{away, certificate, headers, home, offer, taking, to};
use crate::core::tests::pair::{Pair, TRANSPORTS, WebSocket};
use crate::core::tests::values::{acknowledgement, error, health, other_uid, seconds, uid};
use crate::core::{
    CertificateRequest, ClientConfig, ClientCore, ConfigError, ConnectionKinds, Event, Parts,
    Storage, Transport,
};

fn asking(transport: Transport) -> impl FnOnce(&mut ClientConfig) {
    move |config| {
        taking(transport)(config);
        config.requests_certificate = true;
    }
}

/// An agent whose server takes requests, and has one to make.
fn about_to_ask(transport: Transport) -> Pair {
    let mut pair = Pair::settled_with(transport, asking(transport));
    pair.save();
    pair
}

fn make(pair: &mut Pair, key: &'static str, csr: &'static str) {
    let order = pair.core.poll_certificate_request().expect("a request is to be made");
    assert_eq!(pair.core.poll_certificate_request(), None, "one");
    let request = CertificateRequest::new(key, csr);
    pair.core.handle_certificate_made(order.id, Ok(request), pair.now);
}

fn request(csr: &str) -> Option<v1::ConnectionSettingsRequest> {
    let certificate_request = Some(v1::CertificateRequest { csr: csr.as_bytes().to_vec().into() });
    let opamp = Some(v1::OpAmpConnectionSettingsRequest { certificate_request });
    Some(v1::ConnectionSettingsRequest { opamp })
}

fn expect_request(pair: &mut Pair, csr: &str) {
    let message = pair.expect_parts(Parts::CERTIFICATE_REQUEST);
    assert_eq!(message.connection_settings_request, request(csr));
}

/// An agent whose request the server has.
fn has_asked(transport: Transport) -> Pair {
    let mut pair = about_to_ask(transport);
    make(&mut pair, "key 1", "csr 1");
    pair.save();
    expect_request(&mut pair, "csr 1");
    pair.acknowledge();
    pair.expect_silence();
    pair
}

fn keyless(transport: Transport) -> v1::OpAmpConnectionSettings {
    v1::OpAmpConnectionSettings {
        certificate: Some(certificate("issued", "")),
        headers: Some(headers("new")),
        ..to(away(transport))
    }
}

#[test]
fn a_request_waits_for_the_servers_mask_and_for_its_key_to_be_saved() {
    let _judged = opamp_spec::judges(&["CSR-04", "CSR-06", "CSR-08", "CSR-25"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::new(transport, asking(transport));
        pair.save();
        assert_eq!(pair.core.poll_certificate_request(), None);
        pair.connect();
        let first = pair.expect();
        assert_eq!(first.connection_settings_request, None);
        pair.acknowledge();
        make(&mut pair, "key 1", "csr 1");
        pair.expect_silence();
        let save = pair.core.poll_save().expect("the key is to be saved");
        assert_eq!(save.state.certificate_request, Some(CertificateRequest::new("key 1", "csr 1")));
        pair.expect_silence();
        pair.core.handle_saved(save.version, pair.now);
        expect_request(&mut pair, "csr 1");
        pair.acknowledge();
        pair.expect_silence();
        // Full state is no reason to ask again.
        let full = v1::ServerToAgentFlags::ReportFullState as u64;
        if transport == crate::core::Transport::Http {
            pair.advance(seconds(30));
            pair.expect_heartbeat();
        }
        pair.receive(v1::ServerToAgent { flags: full, ..acknowledgement() });
        assert_eq!(pair.expect().connection_settings_request, None);
    }
}

#[test]
fn a_server_that_takes_no_requests_gets_none() {
    let _judged = opamp_spec::judges(&["CSR-25"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::new(transport, |config| {
            asking(transport)(config);
            config.state.certificate_request = Some(CertificateRequest::new("key 1", "csr 1"));
        });
        pair.connect();
        pair.expect();
        let takes = ServerCapabilities::ACCEPTS_CONNECTION_SETTINGS_REQUEST;
        let other = ServerCapabilities::all() - takes;
        pair.receive(v1::ServerToAgent { capabilities: other.to_wire(), ..acknowledgement() });
        pair.expect_silence();
        assert_eq!(pair.core.poll_certificate_request(), None);
        pair.advance(seconds(30));
        pair.expect_heartbeat();
        // A later version of it may.
        pair.acknowledge();
        expect_request(&mut pair, "csr 1");
    }
}

/// W-7 of the reference: a request that was lost on the way was gone.
#[test]
fn a_request_that_may_be_lost_is_repeated() {
    let _judged = opamp_spec::judges(&["CSR-04"]);
    for transport in TRANSPORTS {
        let mut pair = about_to_ask(transport);
        make(&mut pair, "key 1", "csr 1");
        pair.save();
        expect_request(&mut pair, "csr 1");
        pair.lose();
        pair.wait_for_retry();
        pair.connect();
        let again = pair.expect();
        assert_eq!(again.connection_settings_request, request("csr 1"));
    }
}

#[test]
fn a_restarted_agent_repeats_its_request_with_the_same_key() {
    let _judged = opamp_spec::judges(&["CSR-04", "CSR-25"]);
    for transport in TRANSPORTS {
        let pair = has_asked(transport);
        let saved = pair.core.state().clone();
        let mut next = Pair::new(transport, |config| {
            asking(transport)(config);
            config.state = saved;
        });
        next.connect();
        assert_eq!(next.expect().connection_settings_request, None, "the mask is not known");
        next.acknowledge();
        expect_request(&mut next, "csr 1");
        next.acknowledge();
        assert_eq!(next.core.poll_certificate_request(), None);
        assert_eq!(next.core.state().certificate_request, pair.core.state().certificate_request);
        next.receive_offer("h1", keyless(transport));
        assert_eq!(next.check_settings().certificate, Some(certificate("issued", "key 1")));
    }
}

#[test]
fn the_issued_certificate_comes_into_force_like_any_settings() {
    let _judged = opamp_spec::judges(&["CSR-13", "CERT-01", "CERT-02", "TOFU-07"]);
    for transport in TRANSPORTS {
        let mut pair = has_asked(transport);
        pair.receive_offer("h1", keyless(transport));
        let settings = pair.check_settings();
        assert_eq!(settings.certificate, Some(certificate("issued", "key 1")));
        pair.save();
        pair.leave();
        pair.arrive(Some(&settings));
        assert!(pair.core.state().certificate_request.is_some(), "not proven yet");
        pair.acknowledge();
        assert_eq!(pair.core.state().certificate_request, None);
        assert_eq!(pair.core.opamp_settings(), Some(&*settings));
        pair.expect_parts(Parts::CONNECTION_SETTINGS_STATUS);
        pair.acknowledge();
        assert_eq!(pair.core.poll_certificate_request(), None);
        pair.advance(seconds(2 * 3600));
        assert_eq!(pair.core.poll_certificate_request(), None);
        // Nor does the next process ask.
        let saved = pair.core.state().clone();
        let mut next = Pair::settled_with(transport, |config| {
            asking(transport)(config);
            config.state = saved;
        });
        assert_eq!(next.core.poll_certificate_request(), None);
        // It asks for another one, with another key, when that is due.
        next.core.handle_certificate_due();
        make(&mut next, "key 2", "csr 2");
        next.core.handle_certificate_due();
        assert_eq!(next.core.poll_certificate_request(), None, "once");
    }
}

#[test]
fn an_issued_certificate_that_does_not_work_leaves_the_request() {
    let mut pair = has_asked(WebSocket);
    pair.receive_offer("h1", keyless(WebSocket));
    let settings = pair.check_settings();
    pair.save();
    pair.leave();
    pair.fail_to_arrive(Some(&settings), crate::core::FailureKind::Tls);
    pair.arrive(None);
    pair.acknowledge();
    pair.expect();
    pair.acknowledge();
    assert!(pair.core.state().certificate_request.is_some());
    pair.advance(seconds(3600));
    let again = std::iter::from_fn(|| pair.poll()).any(|m| m.connection_settings_request.is_some());
    assert!(again, "it is repeated");
}

#[test]
fn a_refused_request_is_not_sent_again_but_another_one_after_a_while() {
    let _judged = opamp_spec::judges(&["ERR-14"]);
    for transport in TRANSPORTS {
        for at_once in [true, false] {
            let mut pair = about_to_ask(transport);
            make(&mut pair, "key 1", "csr 1");
            pair.save();
            expect_request(&mut pair, "csr 1");
            if !at_once {
                // A human decides, long after it was acknowledged (A20).
                pair.acknowledge();
                pair.expect_silence();
                pair.advance(seconds(30));
                pair.expect_heartbeat();
            }
            pair.events();
            pair.receive(error(v1::ServerErrorResponseType::BadRequest, "no certificate for you"));
            let reason = "the server refused it: no certificate for you".to_owned();
            assert!(pair.events().contains(&Event::CertificateRequestFailed { reason }));
            assert_eq!(pair.core.state().certificate_request, None);
            pair.expect_silence();
            pair.core.set_health(None);
            assert_eq!(pair.expect().connection_settings_request, None);
            pair.acknowledge();
            assert_eq!(pair.core.poll_certificate_request(), None);
            pair.advance(seconds(3600));
            make(&mut pair, "key 2", "csr 2");
        }
    }
}

#[test]
fn a_refusal_of_something_else_is_none_of_the_request() {
    let _judged = opamp_spec::judges(&["ERR-14"]);
    for transport in TRANSPORTS {
        let mut pair = has_asked(transport);
        pair.events();
        pair.core.set_health(Some(health("well")));
        pair.expect_parts(Parts::HEALTH);
        pair.receive(error(v1::ServerErrorResponseType::BadRequest, "no such health"));
        let failed = |event: &Event| matches!(event, Event::CertificateRequestFailed { .. });
        assert!(!pair.events().iter().any(failed));
        assert!(pair.core.state().certificate_request.is_some());
    }
}

#[test]
fn an_unanswered_request_is_repeated_now_and_then() {
    let mut pair = has_asked(WebSocket);
    pair.advance(seconds(3600));
    let message = pair.expect();
    assert_eq!(message.connection_settings_request, request("csr 1"));
    // As it is when it is asked for.
    let mut pair = has_asked(WebSocket);
    pair.core.request_certificate();
    expect_request(&mut pair, "csr 1");
}

#[test]
fn another_uid_needs_another_certificate() {
    let _judged = opamp_spec::judges(&["CSR-19", "CSR-21"]);
    for names_uid in [true, false] {
        let mut pair = Pair::settled_with(WebSocket, |config| {
            asking(WebSocket)(config);
            config.certificate_names_uid = names_uid;
            config.state.settings_endpoint = home(WebSocket).into();
            config.state.opamp_settings = Some(v1::OpAmpConnectionSettings {
                certificate: Some(certificate("issued", "key 0")),
                ..Default::default()
            });
        });
        pair.save();
        assert_eq!(pair.core.poll_certificate_request(), None);
        let identification = v1::AgentIdentification { new_instance_uid: other_uid().to_bytes() };
        let rename =
            v1::ServerToAgent { agent_identification: Some(identification), ..acknowledgement() };
        pair.receive(rename);
        let order = pair.core.poll_certificate_request();
        assert_eq!(order.is_some(), names_uid);
        assert_eq!(order.and_then(|order| order.instance_uid), names_uid.then(other_uid));
    }
}

#[test]
fn what_was_made_for_the_old_uid_is_not_taken_for_the_new_one() {
    let _judged = opamp_spec::judges(&["CSR-21"]);
    let mut pair = about_to_ask(WebSocket);
    let old = pair.core.poll_certificate_request().expect("an order");
    let identification = v1::AgentIdentification { new_instance_uid: other_uid().to_bytes() };
    pair.receive(v1::ServerToAgent {
        agent_identification: Some(identification),
        ..acknowledgement()
    });
    let new = pair.core.poll_certificate_request().expect("another order");
    let made = |key: &'static str, csr: &'static str| Ok(CertificateRequest::new(key, csr));
    pair.core.handle_certificate_made(old.id, made("old key", "old csr"), pair.now);
    assert_eq!(pair.core.state().certificate_request, None);
    pair.core.handle_certificate_made(new.id, made("new key", "new csr"), pair.now);
    assert!(pair.core.state().certificate_request.is_some());
}

#[test]
fn another_uid_voids_a_request_that_names_the_old_one() {
    let _judged = opamp_spec::judges(&["CSR-21"]);
    let mut pair = about_to_ask(WebSocket);
    let old = pair.core.poll_certificate_request().expect("an order");
    assert_eq!(old.instance_uid, Some(uid()));
    let identification = v1::AgentIdentification { new_instance_uid: other_uid().to_bytes() };
    pair.receive(v1::ServerToAgent {
        agent_identification: Some(identification),
        ..acknowledgement()
    });
    let late = CertificateRequest::new("key 1", "csr 1");
    pair.core.handle_certificate_made(old.id, Ok(late), pair.now);
    assert_eq!(pair.core.state().certificate_request, None);
    make(&mut pair, "key 2", "csr 2");
    pair.save();
    expect_request(&mut pair, "csr 2");
}

#[test]
fn a_request_that_cannot_be_made_is_told_and_tried_again() {
    let mut pair = about_to_ask(WebSocket);
    let order = pair.core.poll_certificate_request().expect("an order");
    pair.events();
    pair.core.handle_certificate_made(order.id, Err("no entropy".to_owned()), pair.now);
    let reason = "no entropy".to_owned();
    assert_eq!(pair.events(), [Event::CertificateRequestFailed { reason }]);
    assert_eq!(pair.core.poll_certificate_request(), None);
    pair.advance(seconds(3600));
    make(&mut pair, "key", "csr");
}

#[test]
fn an_offer_that_is_on_trial_comes_first() {
    let mut pair = about_to_ask(WebSocket);
    pair.receive(offer("h1", to(away(WebSocket))));
    assert_eq!(pair.core.poll_certificate_request(), None);
}

#[test]
fn a_certificate_has_to_survive_a_restart() {
    let _judged = opamp_spec::judges(&["CONN-20"]);
    let changes: [fn(&mut ClientConfig); 2] = [
        |config| config.storage = Storage::Ephemeral,
        |config| config.accepted_settings = ConnectionKinds::empty(),
    ];
    for change in changes {
        let mut config = crate::core::tests::pair::config(WebSocket);
        asking(WebSocket)(&mut config);
        change(&mut config);
        let refused = ClientCore::new(config, crate::core::tests::pair::origin());
        assert_eq!(refused.err(), Some(ConfigError::CertificateCannotBeKept));
    }
}

/// The agent's clock is wrong, or the server issues what is as good as over.
#[test]
fn certificates_that_are_due_at_once_are_not_asked_for_in_a_storm() {
    let _judged = opamp_spec::judges(&["CSR-16"]);
    for transport in TRANSPORTS {
        let mut pair = has_asked(transport);
        pair.receive_offer("h1", keyless(transport));
        let settings = pair.check_settings();
        pair.save();
        pair.leave();
        pair.arrive(Some(&settings));
        pair.acknowledge();
        pair.core.handle_certificate_due();
        pair.core.handle_certificate_due();
        assert_eq!(pair.core.poll_certificate_request(), None);
        let hour = pair.core.config.certificate_retry_interval;
        pair.core.handle_timeout(pair.now + hour);
        make(&mut pair, "key 2", "csr 2");
    }
}

/// Servers repeat the certificate in use with other settings (A17).
#[test]
fn a_certificate_that_is_repeated_is_no_answer() {
    let _judged = opamp_spec::judges(&["CSR-13", "CSR-21"]);
    let mut pair = Pair::settled_with(WebSocket, |config| {
        asking(WebSocket)(config);
        config.state.settings_endpoint = home(WebSocket).into();
        config.state.opamp_settings = Some(v1::OpAmpConnectionSettings {
            certificate: Some(certificate("in use", "key 0")),
            ..Default::default()
        });
    });
    pair.core.handle_certificate_due();
    make(&mut pair, "key 1", "csr 1");
    pair.save();
    expect_request(&mut pair, "csr 1");
    pair.acknowledge();
    pair.receive_offer(
        "h1",
        v1::OpAmpConnectionSettings {
            certificate: Some(certificate("in use", "")),
            headers: Some(headers("new")),
            ..Default::default()
        },
    );
    let settings = pair.check_settings();
    assert_eq!(settings.certificate, Some(certificate("in use", "key 0")));
    pair.save();
    pair.leave();
    pair.arrive(Some(&settings));
    pair.acknowledge();
    assert_eq!(pair.core.opamp_settings(), Some(&*settings));
    pair.expect();
    pair.acknowledge();
    pair.receive_offer("h2", keyless(WebSocket));
    assert_eq!(pair.check_settings().certificate, Some(certificate("issued", "key 1")));
}

#[test]
fn a_certificate_that_was_on_trial_when_the_uid_changed_names_the_old_one() {
    let _judged = opamp_spec::judges(&["CSR-21"]);
    let mut pair = has_asked(WebSocket);
    pair.receive_offer("h1", keyless(WebSocket));
    let settings = pair.check_settings();
    let identification = v1::AgentIdentification { new_instance_uid: other_uid().to_bytes() };
    pair.receive(v1::ServerToAgent {
        agent_identification: Some(identification),
        ..acknowledgement()
    });
    pair.save();
    pair.leave();
    pair.arrive(Some(&settings));
    pair.acknowledge();
    let order = pair.core.poll_certificate_request().expect("one with the new uid");
    assert_eq!(order.instance_uid, Some(other_uid()));
}
