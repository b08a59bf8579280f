//! Certificate requests in virtual time: what waits, what is decided, and what the Agent is told.

mod model;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use opamp_proto::v1::ConnectionSettingsStatuses::{Applied, Failed};
use opamp_proto::{AgentCapabilities as Does, InstanceUid, ServerCapabilities, v1};
use opamp_server::fleet::SaveWaker;
use opamp_server::{
    CertificateDecision, CertificateOffer, CertificateRequestId, Changes, ConnectionSettings,
    Fleet, OperationError, Outcome, ServerConfig,
};
use support::{Bench, full_report, heartbeat, wire};

const UID: [u8; 16] = [7; 16];
const OTHER: [u8; 16] = [8; 16];
const MASK: Does = Does::REPORTS_STATUS
    .union(Does::ACCEPTS_OPAMP_CONNECTION_SETTINGS)
    .union(Does::REPORTS_CONNECTION_SETTINGS_STATUS);
const TAKES: ServerCapabilities = ServerCapabilities::ACCEPTS_CONNECTION_SETTINGS_REQUEST;
const BAD_REQUEST: i32 = v1::ServerErrorResponseType::BadRequest as i32;

fn bench() -> Bench {
    bench_with(|_| {})
}

fn bench_with(adjust: impl FnOnce(&mut ServerConfig)) -> Bench {
    Bench::with(|config| {
        config.capabilities |= TAKES;
        adjust(config);
    })
}

fn asks_as(uid: &[u8], number: u64, csr: &str) -> v1::AgentToServer {
    let certificate_request = Some(v1::CertificateRequest { csr: csr.to_owned().into() });
    let opamp = Some(v1::OpAmpConnectionSettingsRequest { certificate_request });
    v1::AgentToServer {
        connection_settings_request: Some(v1::ConnectionSettingsRequest { opamp }),
        ..heartbeat(uid, number, MASK)
    }
}

fn asks(number: u64, csr: &str) -> v1::AgentToServer {
    asks_as(&UID, number, csr)
}

fn report(number: u64) -> v1::AgentToServer {
    let connection_settings_status = Some(v1::ConnectionSettingsStatus::default());
    v1::AgentToServer { connection_settings_status, ..full_report(&UID, number, MASK) }
}

fn beat(number: u64) -> v1::AgentToServer {
    heartbeat(&UID, number, MASK)
}

fn status(number: u64, hash: &[u8], what: v1::ConnectionSettingsStatuses) -> v1::AgentToServer {
    let status = v1::ConnectionSettingsStatus {
        last_connection_settings_hash: hash.to_vec().into(),
        status: what.into(),
        error_message: String::new(),
    };
    v1::AgentToServer { connection_settings_status: Some(status), ..beat(number) }
}

fn certificate(name: &str) -> v1::TlsCertificate {
    v1::TlsCertificate {
        cert: name.to_owned().into(),
        ca_cert: "the authority".into(),
        ..Default::default()
    }
}

fn opamp(host: &str) -> v1::OpAmpConnectionSettings {
    v1::OpAmpConnectionSettings {
        destination_endpoint: format!("wss://{host}.example/v1/opamp"),
        heartbeat_interval_seconds: 30,
        ..Default::default()
    }
}

fn issued(name: &str) -> CertificateOffer {
    let settings =
        v1::OpAmpConnectionSettings { certificate: Some(certificate(name)), ..opamp("own") };
    CertificateOffer::new(settings).unwrap()
}

fn id(csr: &str) -> CertificateRequestId {
    CertificateRequestId::of(csr.as_bytes())
}

fn decision(bench: &Bench) -> Option<CertificateDecision> {
    Some(bench.fleet.agent(wire(&UID)).unwrap().certificate_request()?.decision())
}

fn offered(message: &v1::ServerToAgent) -> v1::OpAmpConnectionSettings {
    let settings = message.connection_settings.clone().expect("an offer");
    settings.opamp.expect("settings for the connection")
}

fn is_refused(message: &v1::ServerToAgent) -> bool {
    let error = message.error_response.as_ref();
    let refused = error.is_some_and(|error| error.r#type == BAD_REQUEST);
    if refused {
        // An error goes alone (reading A08).
        let alone = v1::ServerToAgent {
            instance_uid: message.instance_uid.clone(),
            error_response: message.error_response.clone(),
            ..Default::default()
        };
        assert_eq!(*message, alone);
    }
    refused
}

#[test]
fn an_id_is_read_as_it_is_written_and_nothing_else_is_one() {
    let text = id("csr").to_string();
    assert_eq!(text.parse(), Ok(id("csr")));
    let longer = format!("{text}00");
    let other = text.replace(&text[10..11], "g");
    let wide = format!("é{}", &text[2..]);
    for text in ["", &text[..32], &text[..62], &text[..63], &longer[..65], &longer, &other, &wide] {
        assert!(text.parse::<CertificateRequestId>().is_err(), "{text}");
    }
}

#[test]
fn a_request_waits_and_its_certificate_is_offered_to_who_asked() {
    let _judged =
        opamp_spec::judges(&["CSR-10", "CSR-12", "CSR-18", "CSR-24", "TOFU-02", "CONN-29"]);
    let mut bench = bench();
    let (mut route, woken) = bench.woken_websocket();
    let mut other = bench.websocket();
    let reply = bench.send(&mut route, &report(1));
    assert_ne!(reply.capabilities & TAKES.to_wire(), 0);
    let _ = bench.send(&mut other, &full_report(&OTHER, 1, MASK));

    let (reply, received) =
        bench.send_bytes(&mut route, &opamp_proto::Message::encode_to_vec(&asks(2, "csr")));
    assert_eq!(reply, support::bare(&UID), "an ordinary acknowledgement meanwhile");
    assert_eq!(received.changes, Changes::CERTIFICATE_REQUEST);
    let pending = bench.fleet.pending_certificates();
    assert_eq!(pending.len(), 1);
    assert_eq!((&pending[0].1.csr[..], pending[0].1.id), (&b"csr"[..], id("csr")));
    assert_eq!(decision(&bench), Some(CertificateDecision::Pending));

    let (now, key) = (bench.now.instant, wire(&UID));
    bench.fleet.issue_certificate(key, id("csr"), issued("one"), now).unwrap();
    assert_eq!(woken.take().len(), 1);
    assert_eq!(decision(&bench), Some(CertificateDecision::Issued));
    assert!(bench.fleet.pending_certificates().is_empty());
    let pushes = bench.pushes(&route, &UID);
    assert_eq!(pushes.len(), 1);
    let opamp = offered(&pushes[0]);
    assert_eq!(opamp.destination_endpoint, "wss://own.example/v1/opamp");
    let certificate = opamp.certificate.expect("a certificate");
    assert_eq!(&certificate.cert[..], b"one");
    assert!(certificate.private_key.is_empty() && !certificate.ca_cert.is_empty());
    assert!(bench.pushes(&other, &OTHER).is_empty(), "it is nobody else's");

    let hash = pushes[0].connection_settings.clone().unwrap().hash;
    let _ = bench.send(&mut route, &status(3, &hash, Applied));
    let outcome = bench.fleet.agent(key).unwrap().connection_settings().unwrap().outcome();
    assert_eq!(outcome, Outcome::Applied);
    assert!(bench.pushes(&route, &UID).is_empty());
}

#[test]
fn over_http_the_next_response_has_it() {
    let _judged = opamp_spec::judges(&["CSR-10", "CSR-15", "CSR-18"]);
    let mut bench = bench();
    let _ = bench.post(&report(1));
    let _ = bench.post(&asks(2, "one"));
    let key = wire(&UID);
    bench.fleet.refuse_certificate(key, id("one"), "not you").unwrap();
    let refusal = bench.post(&beat(3));
    assert!(is_refused(&refusal));
    assert_eq!(refusal.error_response.unwrap().error_message, "not you");
    assert!(!is_refused(&bench.post(&beat(4))), "it is told once");
    assert_eq!(decision(&bench), Some(CertificateDecision::Refused));

    let _ = bench.post(&asks(5, "two"));
    bench.fleet.issue_certificate(key, id("two"), issued("it"), bench.now.instant).unwrap();
    let offer = bench.post(&beat(6));
    assert_eq!(&offered(&offer).certificate.unwrap().cert[..], b"it");
}

#[test]
fn a_decision_in_time_for_the_reply_is_in_it() {
    let _judged = opamp_spec::judges(&["CSR-15", "CSR-18"]);
    let mut bench = bench();
    let _ = bench.post(&report(1));
    let (now, key) = (bench.now, wire(&UID));
    for (number, csr) in [(2, "one"), (3, "two")] {
        let mut route = bench.http();
        let body = opamp_proto::Message::encode_to_vec(&asks(number, csr));
        let mut fresh = || InstanceUid::from_parts(1, [1; 10]);
        let accepted = bench.fleet.accept(&mut route, &body, now, &mut fresh);
        if csr == "one" {
            bench.fleet.refuse_certificate(key, id(csr), "no").unwrap();
        } else {
            bench.fleet.issue_certificate(key, id(csr), issued("it"), now.instant).unwrap();
        }
        let mut out = Vec::new();
        let tail = bench.fleet.reply(accepted, now, &mut out);
        out.extend_from_slice(tail.as_deref().unwrap_or_default());
        let reply: v1::ServerToAgent = opamp_proto::Message::decode(&out[..]).unwrap();
        assert_eq!(is_refused(&reply), csr == "one");
        assert_eq!(reply.connection_settings.is_some(), csr == "two");
    }
}

#[test]
fn a_refusal_while_the_agent_is_away_waits_until_it_knows_the_server() {
    let _judged = opamp_spec::judges(&["CSR-15", "CAP-10"]);
    let mut bench = bench();
    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &report(1));
    let _ = bench.send(&mut route, &asks(2, "csr"));
    drop(bench.fleet.close_route(route));
    bench.fleet.refuse_certificate(wire(&UID), id("csr"), "no").unwrap();
    let mut route = bench.websocket();
    let first = bench.send(&mut route, &report(3));
    assert!(!is_refused(&first) && first.capabilities != 0);
    let pushes = bench.pushes(&route, &UID);
    assert_eq!(pushes.len(), 1);
    assert!(is_refused(&pushes[0]));
}

#[test]
fn the_same_request_is_the_same_request() {
    let _judged = opamp_spec::judges(&["CSR-15", "ERR-14"]);
    let mut bench = bench();
    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &report(1));
    let _ = bench.send(&mut route, &asks(2, "csr"));
    let (_, received) =
        bench.send_bytes(&mut route, &opamp_proto::Message::encode_to_vec(&asks(3, "csr")));
    assert_eq!(received.changes, Changes::empty(), "nobody is asked twice");
    bench.advance(Duration::from_secs(60));
    let (_, received) =
        bench.send_bytes(&mut route, &opamp_proto::Message::encode_to_vec(&asks(4, "csr")));
    assert_eq!(received.changes, Changes::CERTIFICATE_REQUEST, "but who may have failed");

    // What was decided is told again, as the answer may be lost.
    let key = wire(&UID);
    bench.fleet.refuse_certificate(key, id("csr"), "no").unwrap();
    assert!(is_refused(&bench.pushes(&route, &UID)[0]));
    assert!(is_refused(&bench.send(&mut route, &asks(5, "csr"))));
    let decided = bench.fleet.issue_certificate(key, id("csr"), issued("it"), bench.now.instant);
    assert_eq!(decided, Err(OperationError::NoCertificateRequest));

    let _ = bench.send(&mut route, &asks(6, "another"));
    bench.fleet.issue_certificate(key, id("another"), issued("it"), bench.now.instant).unwrap();
    let first = bench.pushes(&route, &UID);
    let again = bench.send(&mut route, &asks(7, "another"));
    assert_eq!(first[0].connection_settings, again.connection_settings);
}

#[test]
fn an_agent_that_could_not_use_its_certificate_may_ask_for_another() {
    let _judged = opamp_spec::judges(&["CSR-16"]);
    let mut bench = bench();
    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &report(1));
    let _ = bench.send(&mut route, &asks(2, "csr"));
    let (now, key) = (bench.now.instant, wire(&UID));
    bench.fleet.issue_certificate(key, id("csr"), issued("one"), now).unwrap();
    let hash = bench.pushes(&route, &UID).remove(0).connection_settings.unwrap().hash;
    let _ = bench.send(&mut route, &status(3, &hash, Failed));
    let (_, received) =
        bench.send_bytes(&mut route, &opamp_proto::Message::encode_to_vec(&asks(4, "csr")));
    assert_eq!(received.changes, Changes::CERTIFICATE_REQUEST);
    bench.fleet.issue_certificate(key, id("csr"), issued("two"), now).unwrap();
    let offer = bench.pushes(&route, &UID);
    assert_eq!(&offered(&offer[0]).certificate.unwrap().cert[..], b"two");
}

#[test]
fn the_latest_request_wins_and_a_decision_about_another_is_none() {
    let _judged = opamp_spec::judges(&["CSR-16"]);
    let mut bench = bench();
    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &report(1));
    let _ = bench.send(&mut route, &asks(2, "one"));
    let _ = bench.send(&mut route, &asks(3, "two"));
    let key = wire(&UID);
    assert_eq!(bench.fleet.pending_certificate(key).unwrap().id, id("two"));
    let late = bench.fleet.issue_certificate(key, id("one"), issued("one"), bench.now.instant);
    assert_eq!(late, Err(OperationError::NoCertificateRequest));
    assert_eq!(
        bench.fleet.refuse_certificate(key, id("one"), "no"),
        Err(OperationError::NoCertificateRequest)
    );
    assert!(bench.pushes(&route, &UID).is_empty());
    assert_eq!(decision(&bench), Some(CertificateDecision::Pending));
    let nobody = bench.fleet.refuse_certificate(wire(&OTHER), id("two"), "no");
    assert_eq!(nobody, Err(OperationError::UnknownAgent));
}

#[test]
fn what_asks_for_nothing_is_not_acted_on() {
    let _judged = opamp_spec::judges(&["CSR-07"]);
    let mut bench = bench();
    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &report(1));
    let empty = v1::AgentToServer {
        connection_settings_request: Some(v1::ConnectionSettingsRequest::default()),
        ..beat(2)
    };
    assert_eq!(bench.send(&mut route, &empty), support::bare(&UID));
    assert_eq!(decision(&bench), None);

    // A Server that nobody decides for does not say that it takes requests, and takes none.
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    let reply = bench.send(&mut route, &report(1));
    assert_eq!(reply.capabilities & TAKES.to_wire(), 0);
    assert_eq!(bench.send(&mut route, &asks(2, "csr")), support::bare(&UID));
    assert_eq!(decision(&bench), None);
}

#[test]
fn what_cannot_be_granted_is_refused_at_once() {
    let _judged = opamp_spec::judges(&["CSR-06", "CSR-15", "CONN-02"]);
    let mut bench = bench();
    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &report(1));
    assert!(is_refused(&bench.send(&mut route, &asks(2, ""))));
    let huge = "x".repeat(64 * 1024 + 1);
    assert!(is_refused(&bench.send(&mut route, &asks(3, &huge))));
    assert!(!is_refused(&bench.send(&mut route, &asks(4, &huge[1..]))));
    let without = v1::AgentToServer {
        connection_settings_request: Some(v1::ConnectionSettingsRequest {
            opamp: Some(v1::OpAmpConnectionSettingsRequest::default()),
        }),
        ..beat(5)
    };
    assert!(is_refused(&bench.send(&mut route, &without)));

    let deaf = Does::REPORTS_STATUS;
    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &full_report(&OTHER, 1, deaf));
    let request = v1::AgentToServer { capabilities: deaf.bits(), ..asks_as(&OTHER, 2, "csr") };
    assert!(is_refused(&bench.send(&mut route, &request)));
}

#[test]
fn an_agent_that_asks_without_end_is_heard_now_and_then() {
    let mut bench = bench();
    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &report(1));
    let mut heard = 0;
    for number in 0..50_u64 {
        let reply = bench.send(&mut route, &asks(2 + number, &format!("csr {number}")));
        heard += u32::from(!is_refused(&reply));
    }
    assert_eq!(heard, 8);
    bench.advance(Duration::from_secs(60));
    assert!(!is_refused(&bench.send(&mut route, &asks(52, "one more"))));
}

#[test]
fn a_request_nobody_decides_about_is_forgotten_unless_it_is_repeated() {
    let mut bench = bench();
    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &report(1));
    let retained = bench.fleet.retained_bytes();
    let _ = bench.send(&mut route, &asks(2, "csr"));
    assert_eq!(bench.fleet.retained_bytes(), retained + 3, "it counts towards what is kept");
    let day = Duration::from_secs(24 * 60 * 60);
    bench.advance(day / 2);
    let _ = bench.send(&mut route, &asks(3, "csr"));
    bench.advance(day / 2);
    let _ = bench.fleet.sweep(bench.now);
    assert_eq!(decision(&bench), Some(CertificateDecision::Pending));
    bench.advance(day / 2);
    let _ = bench.fleet.sweep(bench.now);
    assert_eq!(decision(&bench), None);
    assert_eq!(bench.fleet.retained_bytes(), retained);
}

#[test]
fn requests_have_no_more_room_than_there_is() {
    let mut bench = bench_with(|config| config.max_fleet_bytes = 1000);
    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &report(1));
    let reply = bench.send(&mut route, &asks(2, &"x".repeat(2000)));
    let unavailable = v1::ServerErrorResponseType::Unavailable as i32;
    assert_eq!(reply.error_response.unwrap().r#type, unavailable);
    let before = bench.fleet.retained_bytes();
    let _ = bench.send(&mut route, &asks(3, "csr"));
    bench.fleet.refuse_certificate(wire(&UID), id("csr"), "no").unwrap();
    assert_eq!(bench.fleet.retained_bytes(), before);
}

#[test]
fn the_certificate_is_laid_over_what_else_is_wanted() {
    let _judged = opamp_spec::judges(&["CSR-14", "CONN-30"]);
    let mut bench = bench();
    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &report(1));
    let (now, key) = (bench.now.instant, wire(&UID));
    let headers = v1::Headers {
        headers: vec![v1::Header { key: "x-tenant".to_owned(), value: "a".to_owned() }],
    };
    let all = |host: &str| {
        let opamp = v1::OpAmpConnectionSettings { headers: Some(headers.clone()), ..opamp(host) };
        let offers = v1::ConnectionSettingsOffers { opamp: Some(opamp), ..Default::default() };
        ConnectionSettings::new(offers).unwrap()
    };
    bench.fleet.set_default_connection_settings(all("one")).unwrap();
    let _ = bench.pushes(&route, &UID);
    let _ = bench.send(&mut route, &asks(2, "csr"));
    bench.fleet.issue_certificate(key, id("csr"), issued("it"), now).unwrap();
    let offer = offered(&bench.pushes(&route, &UID)[0]);
    assert_eq!(offer.destination_endpoint, "wss://one.example/v1/opamp");
    assert_eq!(offer.headers, Some(headers.clone()));
    assert_eq!(&offer.certificate.unwrap().cert[..], b"it");

    // Whatever is wanted later, the certificate stays.
    bench.fleet.set_default_connection_settings(all("two")).unwrap();
    let offer = offered(&bench.pushes(&route, &UID)[0]);
    assert_eq!(offer.destination_endpoint, "wss://two.example/v1/opamp");
    assert_eq!(&offer.certificate.unwrap().cert[..], b"it");

    // Also over what this Agent alone is to have.
    let own = v1::ConnectionSettingsOffers { opamp: Some(opamp("own")), ..Default::default() };
    bench.fleet.set_connection_settings(key, ConnectionSettings::new(own).unwrap()).unwrap();
    let offer = offered(&bench.pushes(&route, &UID)[0]);
    assert_eq!(offer.destination_endpoint, "wss://own.example/v1/opamp");
    assert_eq!(&offer.certificate.unwrap().cert[..], b"it");

    // Unless there is another one.
    let own = v1::OpAmpConnectionSettings {
        certificate: Some(certificate("the operator's")),
        ..opamp("three")
    };
    let own = v1::ConnectionSettingsOffers { opamp: Some(own), ..Default::default() };
    bench.fleet.set_connection_settings(key, ConnectionSettings::new(own).unwrap()).unwrap();
    let offer = offered(&bench.pushes(&route, &UID)[0]);
    assert_eq!(&offer.certificate.unwrap().cert[..], b"the operator's");
}

#[test]
fn a_certificate_that_is_taken_back_is_offered_no_more() {
    let mut bench = bench();
    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &report(1));
    let key = wire(&UID);
    let all = v1::ConnectionSettingsOffers { opamp: Some(opamp("all")), ..Default::default() };
    bench.fleet.set_default_connection_settings(ConnectionSettings::new(all).unwrap()).unwrap();
    bench.fleet.offer_certificate(key, issued("yours"), bench.now.instant).unwrap();
    assert!(offered(&bench.pushes(&route, &UID)[0]).certificate.is_some());
    bench.fleet.clear_certificate(key).unwrap();
    let offer = offered(&bench.pushes(&route, &UID)[0]);
    assert_eq!(offer, opamp("all"));
    let nobody = bench.fleet.clear_certificate(wire(&OTHER));
    assert_eq!(nobody, Err(OperationError::UnknownAgent));
}

#[test]
fn a_certificate_can_be_offered_that_was_not_asked_for() {
    let _judged = opamp_spec::judges(&["TOFU-04", "TOFU-06"]);
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &report(1));
    let (now, key) = (bench.now.instant, wire(&UID));
    bench.fleet.offer_certificate(key, issued("yours"), now).unwrap();
    let offer = offered(&bench.pushes(&route, &UID)[0]);
    assert_eq!(&offer.certificate.unwrap().cert[..], b"yours");
    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &full_report(&OTHER, 1, Does::REPORTS_STATUS));
    let deaf = bench.fleet.offer_certificate(wire(&OTHER), issued("yours"), now);
    assert_eq!(deaf, Err(OperationError::NotAccepted));
}

#[test]
fn a_renamed_agent_is_looked_at_again() {
    let _judged = opamp_spec::judges(&["CSR-21", "CSR-22"]);
    let mut bench = bench();
    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &report(1));
    let _ = bench.send(&mut route, &asks(2, "csr"));
    let new = InstanceUid::from_parts(9, [9; 10]);
    bench.fleet.rename(wire(&UID), new, bench.now.instant).unwrap();
    let _ = bench.pushes(&route, &UID);
    let first = heartbeat(new.as_ref(), 3, MASK);
    let (_, received) = bench.send_bytes(&mut route, &opamp_proto::Message::encode_to_vec(&first));
    assert!(received.changes.contains(Changes::CERTIFICATE_REQUEST));
    let key = wire(new.as_ref());
    bench.fleet.issue_certificate(key, id("csr"), issued("it"), bench.now.instant).unwrap();
    let pushes = bench.pushes(&route, new.as_ref());
    assert_eq!(pushes[0].instance_uid, new.to_bytes());
    let _ = offered(&pushes[0]);
}

struct Nobody;

impl SaveWaker for Nobody {
    fn wake(&self) {}
}

/// Another process with what this one has written.
fn restarted(bench: &Bench) -> Fleet {
    let mut written = BTreeMap::new();
    let mut lagging = true;
    while let Some(batch) = bench.fleet.take_unsaved(bench.now, lagging, usize::MAX) {
        lagging = false;
        for change in batch.changes().iter() {
            match change.value() {
                Some(value) => written.insert(change.key().to_vec(), value.to_vec()),
                None => written.remove(change.key()),
            };
        }
        bench.fleet.saved(batch);
    }
    let fleet = Fleet::new(bench.fleet.config().clone());
    let mut restore = fleet.restore(bench.now);
    written.iter().for_each(|(key, value)| restore.add(key, value).unwrap());
    let _ = restore.finish();
    fleet
}

#[test]
fn what_was_issued_and_what_waits_survives_a_restart() {
    let mut bench = bench();
    bench.fleet.begin_saving(Arc::new(Nobody));
    let key = wire(&UID);
    let mut route = bench.websocket();
    let _ = bench.send_bytes(&mut route, &opamp_proto::Message::encode_to_vec(&report(1)));
    let _ = bench.send_bytes(&mut route, &opamp_proto::Message::encode_to_vec(&asks(2, "one")));
    bench.fleet.issue_certificate(key, id("one"), issued("it"), bench.now.instant).unwrap();
    let _ = bench.send_bytes(&mut route, &opamp_proto::Message::encode_to_vec(&asks(3, "two")));
    bench.fleet = restarted(&bench);
    assert_eq!(bench.fleet.pending_certificate(key).unwrap().id, id("two"));

    // The certificate goes along with whatever else is wanted, or the Agent would take it for none.
    let all = v1::ConnectionSettingsOffers { opamp: Some(opamp("all")), ..Default::default() };
    bench.fleet.set_default_connection_settings(ConnectionSettings::new(all).unwrap()).unwrap();
    let mut route = bench.websocket();
    let offer = offered(&bench.send(&mut route, &beat(4)));
    assert_eq!(offer.destination_endpoint, "wss://all.example/v1/opamp");
    assert_eq!(&offer.certificate.unwrap().cert[..], b"it");

    // Whoever decides in this process has not heard of what waits.
    for (number, changes) in [(5, Changes::CERTIFICATE_REQUEST), (6, Changes::empty())] {
        let message = opamp_proto::Message::encode_to_vec(&asks(number, "two"));
        assert_eq!(bench.send_bytes(&mut route, &message).1.changes, changes);
    }
    let counters = bench.fleet.counters();
    assert_eq!((counters.certificates_requested, counters.certificates_issued), (1, 0));
}
