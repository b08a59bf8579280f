//! Offers of connection settings as a whole: which are new, what is in force, the one status.

use bytes::Bytes;
use opamp_proto::v1;
use opamp_proto::v1::ConnectionSettingsStatuses::{Applied, Applying, Failed};

use super::pair::{Http, Pair, TRANSPORTS, WebSocket};
use super::values::{acknowledgement, seconds};
use crate::core::{
    ClientConfig, ClientState, Connection, ConnectionKinds, ConnectionSettingsOffer, Event,
    NotPending, Parts, PeerMisbehaved, Transport,
};

pub(super) const OWN: ConnectionKinds = ConnectionKinds::all().difference(ConnectionKinds::OPAMP);

/// An agent that takes settings for everything but its OpAMP connection.
pub(super) fn settled(transport: Transport) -> Pair {
    Pair::settled_with(transport, accepting(OWN))
}

fn accepting(kinds: ConnectionKinds) -> impl FnOnce(&mut ClientConfig) {
    move |config| config.accepted_settings = kinds
}

pub(super) fn telemetry(endpoint: &str) -> v1::TelemetryConnectionSettings {
    v1::TelemetryConnectionSettings {
        destination_endpoint: endpoint.to_owned(),
        ..Default::default()
    }
}

pub(super) fn headers(value: &str) -> v1::Headers {
    let header = v1::Header { key: "Authorization".to_owned(), value: value.to_owned() };
    v1::Headers { headers: vec![header] }
}

pub(super) fn metrics(hash: &str, endpoint: &str) -> v1::ConnectionSettingsOffers {
    v1::ConnectionSettingsOffers { own_metrics: Some(telemetry(endpoint)), ..settings(hash) }
}

/// An offer that leaves everything out.
pub(super) fn settings(hash: &str) -> v1::ConnectionSettingsOffers {
    let hash = Bytes::copy_from_slice(hash.as_bytes());
    v1::ConnectionSettingsOffers { hash, ..Default::default() }
}

pub(super) fn others(
    hash: &str,
    others: impl IntoIterator<Item = (&'static str, v1::OtherConnectionSettings)>,
) -> v1::ConnectionSettingsOffers {
    let other_connections = others.into_iter().map(|(name, it)| (name.to_owned(), it)).collect();
    v1::ConnectionSettingsOffers { other_connections, ..settings(hash) }
}

pub(super) fn status(
    hash: &str,
    status: v1::ConnectionSettingsStatuses,
    error_message: &str,
) -> v1::ConnectionSettingsStatus {
    v1::ConnectionSettingsStatus {
        last_connection_settings_hash: Bytes::copy_from_slice(hash.as_bytes()),
        status: status.into(),
        error_message: error_message.to_owned(),
    }
}

/// Makes the server offer something: as a push, or in the response to a poll.
pub(super) fn offer(pair: &mut Pair, transport: Transport, offer: v1::ConnectionSettingsOffers) {
    if transport == Http {
        pair.advance(seconds(30));
        pair.expect_heartbeat();
    }
    push(pair, offer);
}

pub(super) fn push(pair: &mut Pair, offer: v1::ConnectionSettingsOffers) {
    let connection_settings = Some(offer);
    pair.receive(v1::ServerToAgent { connection_settings, ..acknowledgement() });
}

/// The one offer of connection settings among the events that wait, if there is one.
pub(super) fn poll_offer(pair: &mut Pair) -> Option<ConnectionSettingsOffer> {
    let mut offers = pair.events().into_iter().filter_map(|event| match event {
        Event::ConnectionSettings(offer) => Some(offer),
        _ => None,
    });
    let offer = offers.next();
    assert_eq!(offers.next(), None, "one offer at most");
    offer
}

pub(super) fn take_offer(pair: &mut Pair) -> ConnectionSettingsOffer {
    poll_offer(pair).expect("an offer came")
}

/// The next message is a report of nothing but this status. It is acknowledged.
pub(super) fn expect_status(pair: &mut Pair, expected: &v1::ConnectionSettingsStatus) {
    let report = pair.expect_parts(Parts::CONNECTION_SETTINGS_STATUS);
    assert_eq!(report.connection_settings_status.as_ref(), Some(expected));
    pair.acknowledge();
}

fn restart(crashed: &Pair, kinds: ConnectionKinds) -> Pair {
    let saved = crashed.core.state().to_bytes();
    Pair::new(WebSocket, |config| {
        config.accepted_settings = kinds;
        config.state = ClientState::from_bytes(&saved).expect("as it was saved");
    })
}

#[test]
fn what_an_agent_takes_is_what_it_announces() {
    let _judged = opamp_spec::judges(&["CAP-03", "CONN-07"]);
    use opamp_proto::AgentCapabilities as Capabilities;
    for (kinds, expected) in [
        (ConnectionKinds::empty(), Capabilities::empty()),
        (ConnectionKinds::OPAMP, Capabilities::ACCEPTS_OPAMP_CONNECTION_SETTINGS),
        (ConnectionKinds::OWN_METRICS, Capabilities::REPORTS_OWN_METRICS),
        (ConnectionKinds::OWN_TRACES, Capabilities::REPORTS_OWN_TRACES),
        (ConnectionKinds::OWN_LOGS, Capabilities::REPORTS_OWN_LOGS),
        (ConnectionKinds::OTHERS, Capabilities::ACCEPTS_OTHER_CONNECTION_SETTINGS),
    ] {
        let pair = Pair::new(WebSocket, accepting(kinds));
        let before = Pair::new(WebSocket, |_| {}).core.capabilities();
        let status = Capabilities::REPORTS_CONNECTION_SETTINGS_STATUS;
        let status = if kinds.is_empty() { Capabilities::empty() } else { status };
        assert_eq!(pair.core.capabilities(), before | expected | status);
    }
}

#[test]
fn an_offer_is_reported_as_applying_then_as_applied() {
    let _judged = opamp_spec::judges(&["CONN-07", "CONN-31", "CONN-34", "CONN-35", "TEL-07"]);
    for transport in TRANSPORTS {
        let mut pair = settled(transport);
        offer(&mut pair, transport, metrics("h1", "https://m/v1"));
        let taken = take_offer(&mut pair);
        assert_eq!(taken.connections().own_metrics, Some(telemetry("https://m/v1")));
        assert_eq!(*taken.changed(), [Connection::OwnMetrics].into());
        expect_status(&mut pair, &status("h1", Applying, ""));
        assert_eq!(pair.core.connections().own_metrics, None);
        assert_eq!(pair.core.resolve_connection_settings(taken.applied()), Ok(()));
        expect_status(&mut pair, &status("h1", Applied, ""));
        assert_eq!(pair.core.connections().own_metrics, Some(telemetry("https://m/v1")));
        pair.expect_silence();
    }
}

#[test]
fn an_outcome_that_is_there_at_once_is_the_only_report() {
    let _judged = opamp_spec::judges(&["CONN-34", "STATUS-14"]);
    let mut pair = settled(WebSocket);
    push(&mut pair, metrics("h1", "https://m/v1"));
    let taken = take_offer(&mut pair);
    pair.core.resolve_connection_settings(taken.applied()).expect("pending");
    expect_status(&mut pair, &status("h1", Applied, ""));
    pair.expect_silence();
}

#[test]
fn a_refused_offer_changes_nothing_and_is_reported_with_the_reason() {
    let _judged = opamp_spec::judges(&["CONN-08", "CONN-31", "CONN-34"]);
    for transport in TRANSPORTS {
        let mut pair = settled(transport);
        offer(&mut pair, transport, metrics("h1", "http://m/v1"));
        let taken = take_offer(&mut pair);
        let resolution = taken.failed("http is not allowed");
        pair.core.resolve_connection_settings(resolution).expect("pending");
        expect_status(&mut pair, &status("h1", Failed, "http is not allowed"));
        assert_eq!(pair.core.connections().own_metrics, None);
    }
}

#[test]
fn an_offer_with_the_hash_that_was_handled_is_no_work() {
    let _judged = opamp_spec::judges(&["STATUS-14", "STATUS-15", "TEL-06"]);
    for transport in TRANSPORTS {
        for fails in [false, true] {
            let mut pair = settled(transport);
            offer(&mut pair, transport, metrics("h1", "https://m/v1"));
            // It may come again while it is pending, and after.
            push_again(&mut pair, transport, "h1");
            let taken = take_offer(&mut pair);
            let resolution = if fails { taken.failed("no") } else { taken.applied() };
            pair.core.resolve_connection_settings(resolution).expect("pending");
            if transport == WebSocket {
                pair.expect();
                pair.acknowledge();
            }
            push_again(&mut pair, transport, "h1");
            assert_eq!(poll_offer(&mut pair), None);
            pair.expect_silence();
        }
    }
}

fn push_again(pair: &mut Pair, transport: Transport, hash: &str) {
    if transport == Http {
        pair.expect();
    }
    push(pair, metrics(hash, "https://elsewhere/v1"));
}

#[test]
fn without_a_hash_the_content_tells_offers_apart() {
    let _judged = opamp_spec::judges(&["CONN-34", "STATUS-14"]);
    let mut pair = settled(WebSocket);
    push(&mut pair, metrics("", "https://m/v1"));
    let taken = take_offer(&mut pair);
    pair.core.resolve_connection_settings(taken.failed("no")).expect("pending");
    expect_status(&mut pair, &status("", Failed, "no"));
    push(&mut pair, metrics("", "https://m/v1"));
    assert_eq!(poll_offer(&mut pair), None);
    pair.expect_silence();
    // The status changes although its hash does not.
    push(&mut pair, metrics("", "https://m/v2"));
    let taken = take_offer(&mut pair);
    pair.core.resolve_connection_settings(taken.applied()).expect("pending");
    expect_status(&mut pair, &status("", Applied, ""));
}

#[test]
fn what_failed_can_be_offered_again_after_something_else() {
    let _judged = opamp_spec::judges(&["CONN-34"]);
    let mut pair = settled(WebSocket);
    for (hash, fails) in [("h1", true), ("h2", false), ("h1", false)] {
        push(&mut pair, metrics(hash, &format!("https://{hash}/v1")));
        let taken = take_offer(&mut pair);
        let (resolution, expected) = match fails {
            true => (taken.failed("no"), status(hash, Failed, "no")),
            false => (taken.applied(), status(hash, Applied, "")),
        };
        pair.core.resolve_connection_settings(resolution).expect("pending");
        expect_status(&mut pair, &expected);
    }
}

pub(super) fn other(endpoint: &str) -> v1::OtherConnectionSettings {
    v1::OtherConnectionSettings { destination_endpoint: endpoint.to_owned(), ..Default::default() }
}

#[test]
fn a_newer_offer_is_laid_over_one_that_is_pending() {
    let _judged = opamp_spec::judges(&["CONN-24", "CONN-31"]);
    let mut pair = settled(WebSocket);
    push(&mut pair, metrics("h1", "https://m/v1"));
    let old = take_offer(&mut pair);
    let newer = v1::ConnectionSettingsOffers {
        own_logs: Some(telemetry("https://l/v1")),
        ..settings("h2")
    };
    push(&mut pair, newer);
    let taken = take_offer(&mut pair);
    // The server left the metrics out because it had offered them.
    assert_eq!(*taken.changed(), [Connection::OwnMetrics, Connection::OwnLogs].into());
    assert_eq!(pair.core.resolve_connection_settings(old.applied()), Err(NotPending));
    assert_eq!(*pair.core.connections(), Default::default());
    expect_status(&mut pair, &status("h2", Applying, ""));
    pair.core.resolve_connection_settings(taken.applied()).expect("pending");
    expect_status(&mut pair, &status("h2", Applied, ""));
    assert!(pair.core.connections().own_metrics.is_some());
}

/// W-12 of the reference: what the application did not take was APPLYING for ever.
#[test]
fn an_offer_has_a_deadline() {
    let _judged = opamp_spec::judges(&["CONN-34"]);
    let mut pair = settled(WebSocket);
    push(&mut pair, metrics("h1", "https://m/v1"));
    let taken = take_offer(&mut pair);
    expect_status(&mut pair, &status("h1", Applying, ""));
    pair.advance(seconds(299));
    pair.expect_heartbeat();
    pair.acknowledge();
    pair.advance(seconds(1));
    expect_status(&mut pair, &status("h1", Failed, "no outcome within 300 s"));
    assert_eq!(pair.core.resolve_connection_settings(taken.applied()), Err(NotPending));
    assert_eq!(pair.core.connections().own_metrics, None);
}

#[test]
fn what_is_not_announced_does_not_spoil_what_is() {
    let _judged = opamp_spec::judges(&["CAP-05", "CONN-34"]);
    let accepted = ConnectionKinds::OWN_METRICS;
    let mut pair = Pair::settled_with(WebSocket, accepting(accepted));
    let everything = v1::ConnectionSettingsOffers {
        opamp: Some(v1::OpAmpConnectionSettings::default()),
        own_metrics: Some(telemetry("https://m/v1")),
        own_traces: Some(telemetry("https://t/v1")),
        own_logs: Some(telemetry("https://l/v1")),
        ..others("h1", [("sink", other("sink:1"))])
    };
    push(&mut pair, everything);
    let events = pair.events();
    for part in ["opamp", "own_traces", "own_logs", "other_connections"] {
        let told = events.iter().any(|event| {
            matches!(event, Event::PeerMisbehaved(PeerMisbehaved::NotAnnounced(what))
                if what.strip_prefix("connection_settings.") == Some(part))
        });
        assert!(told, "{part}");
    }
    let taken = events.into_iter().find_map(|event| match event {
        Event::ConnectionSettings(offer) => Some(offer),
        _ => None,
    });
    let taken = taken.expect("the metrics are offered");
    assert_eq!(*taken.changed(), [Connection::OwnMetrics].into());
    pair.core.resolve_connection_settings(taken.applied()).expect("pending");
    expect_status(&mut pair, &status("h1", Applied, ""));
}

#[test]
fn an_offer_of_nothing_the_agent_takes_fails() {
    let _judged = opamp_spec::judges(&["CAP-05", "CONN-34"]);
    let mut pair = Pair::settled_with(WebSocket, accepting(ConnectionKinds::OWN_LOGS));
    push(&mut pair, metrics("h1", "https://m/v1"));
    let why = "connection_settings.own_metrics is nothing this agent takes";
    expect_status(&mut pair, &status("h1", Failed, why));
    pair.expect_silence();
}

#[test]
fn telemetry_without_a_destination_is_not_offered_to_the_agent() {
    let _judged = opamp_spec::judges(&["CONN-34"]);
    let mut pair = settled(WebSocket);
    push(&mut pair, metrics("h1", ""));
    assert_eq!(poll_offer(&mut pair), None);
    expect_status(&mut pair, &status("h1", Failed, "own_metrics: no destination_endpoint"));
}

#[test]
fn a_restarted_agent_goes_on_with_its_settings() {
    let _judged = opamp_spec::judges(&["CONN-31", "TEL-06"]);
    let mut pair = settled(WebSocket);
    push(&mut pair, metrics("h1", "https://m/v1"));
    let taken = take_offer(&mut pair);
    pair.core.resolve_connection_settings(taken.applied()).expect("pending");
    let mut restarted = restart(&pair, OWN);
    assert_eq!(restarted.core.connections().own_metrics, Some(telemetry("https://m/v1")));
    restarted.connect();
    let first = restarted.expect();
    assert_eq!(first.connection_settings_status, Some(status("h1", Applied, "")));
    // What was handled before the restart is not new work after it (W-12).
    push(&mut restarted, metrics("h1", "https://m/v1"));
    assert_eq!(poll_offer(&mut restarted), None);
    restarted.expect_silence();
}

#[test]
fn an_offer_without_an_outcome_survives_a_restart() {
    let _judged = opamp_spec::judges(&["CONN-34"]);
    let mut pair = settled(WebSocket);
    push(&mut pair, metrics("h1", "https://m/v1"));
    for start in 1..=4 {
        pair = restart(&pair, OWN);
        let taken = poll_offer(&mut pair);
        assert_eq!(taken.is_some(), start < 4, "start {start}");
    }
    pair.connect();
    let first = pair.expect().connection_settings_status.expect("a status");
    let why = "the agent started 4 times without an outcome";
    assert_eq!(first, status("h1", Failed, why));
    assert_eq!(pair.core.state().pending_connection_settings, None);
}

/// An agent that kept its status and lost the rest.
#[test]
fn an_offer_that_did_not_survive_the_restart_failed() {
    let _judged = opamp_spec::judges(&["CONN-34"]);
    let mut pair = Pair::new(WebSocket, |config| {
        accepting(OWN)(config);
        config.state.connection_settings_status = Some(status("h1", Applying, ""));
    });
    pair.connect();
    let failed = status("h1", Failed, "interrupted by a restart of the agent");
    assert_eq!(pair.expect().connection_settings_status, Some(failed));
}

#[test]
fn an_agent_that_takes_fewer_settings_after_a_restart_is_offered_those() {
    let _judged = opamp_spec::judges(&["CAP-05", "CONN-34"]);
    let mut pair = settled(WebSocket);
    push(&mut pair, metrics("h1", "https://m/v1"));
    let mut restarted = restart(&pair, ConnectionKinds::OWN_LOGS);
    assert_eq!(poll_offer(&mut restarted), None);
    // And one that takes none says nothing of them.
    let mut restarted = restart(&pair, ConnectionKinds::empty());
    restarted.connect();
    assert_eq!(restarted.expect().connection_settings_status, None);
}

#[test]
fn the_status_waits_for_all_parts() {
    let _judged = opamp_spec::judges(&["CONN-34", "CONN-35"]);
    for opamp_first in [true, false] {
        for (opamp_fails, own_fails) in [(false, false), (true, false), (false, true), (true, true)]
        {
            let mut pair = settled(WebSocket);
            push(&mut pair, metrics("h1", "https://m/v1"));
            let pending = pair.core.state.pending_connection_settings.as_mut().expect("pending");
            pending.opamp = Some(v1::OpAmpConnectionSettings::default());
            let taken = take_offer(&mut pair);
            let own = if own_fails { taken.failed("own") } else { taken.applied() };
            let opamp = if opamp_fails { Err("opamp".to_owned()) } else { Ok(()) };
            expect_status(&mut pair, &status("h1", Applying, ""));
            let mut reasons = Vec::new();
            if opamp_first {
                pair.core.opamp_settings_resolved(opamp);
                reasons.extend(opamp_fails.then_some("opamp"));
                pair.expect_silence();
                pair.core.resolve_connection_settings(own).expect("pending");
                reasons.extend(own_fails.then_some("own"));
            } else {
                pair.core.resolve_connection_settings(own).expect("pending");
                reasons.extend(own_fails.then_some("own"));
                pair.expect_silence();
                pair.core.opamp_settings_resolved(opamp);
                reasons.extend(opamp_fails.then_some("opamp"));
            }
            let outcome = if opamp_fails || own_fails { Failed } else { Applied };
            expect_status(&mut pair, &status("h1", outcome, &reasons.join("; ")));
            // A late word about a part that has an outcome changes nothing.
            pair.core.opamp_settings_resolved(Err("late".to_owned()));
            pair.expect_silence();
        }
    }
}

#[test]
fn what_an_agent_takes_can_change() {
    let _judged = opamp_spec::judges(&["CAP-03", "CONN-07"]);
    let mut pair = settled(WebSocket);
    push(&mut pair, metrics("h1", "https://m/v1"));
    let taken = take_offer(&mut pair);
    expect_status(&mut pair, &status("h1", Applying, ""));
    pair.core.set_accepted_settings(ConnectionKinds::OWN_LOGS);
    assert_eq!(pair.core.resolve_connection_settings(taken.applied()), Err(NotPending));
    let report = pair.expect().connection_settings_status.expect("a status");
    assert_eq!(report.status(), Failed);
    pair.acknowledge();
    // Whoever takes more is to be offered more: no hash, so no offer is the present one (CONN-33).
    pair.core.set_accepted_settings(OWN);
    let report = pair.expect().connection_settings_status.expect("a status");
    assert_eq!(report, v1::ConnectionSettingsStatus::default());
    pair.acknowledge();
    push(&mut pair, metrics("h1", "https://m/v1"));
    let taken = take_offer(&mut pair);
    pair.core.resolve_connection_settings(taken.applied()).expect("pending");
    expect_status(&mut pair, &status("h1", Applied, ""));
    // The mask alone says that there is no status any more.
    pair.core.set_accepted_settings(ConnectionKinds::empty());
    assert_eq!(pair.expect().connection_settings_status, None);
}

#[test]
fn an_agent_that_takes_more_goes_on_with_what_is_pending() {
    let _judged = opamp_spec::judges(&["CAP-03", "CONN-34"]);
    let mut pair = Pair::settled_with(WebSocket, accepting(ConnectionKinds::OWN_METRICS));
    push(&mut pair, metrics("h1", "https://m/v1"));
    let taken = take_offer(&mut pair);
    pair.core.set_accepted_settings(OWN);
    assert_eq!(pair.core.resolve_connection_settings(taken.applied()), Ok(()));
    assert!(pair.core.connections().own_metrics.is_some());
}

#[test]
fn an_offer_waits_in_a_bounded_place_and_shows_no_secret() {
    let _judged = opamp_spec::judges(&["TEL-19"]);
    let mut pair = settled(WebSocket);
    let offered = v1::ConnectionSettingsOffers {
        own_metrics: Some(v1::TelemetryConnectionSettings {
            headers: Some(headers("Bearer hush")),
            ..telemetry("https://user:hush@m/v1")
        }),
        ..settings("h1")
    };
    push(&mut pair, offered);
    let taken = take_offer(&mut pair);
    for shown in [format!("{taken:?}"), format!("{:?}", pair.core)] {
        assert!(!shown.contains("hush"), "{shown}");
    }
}
