//! Connection settings: which parts are offered to whom, and how often (reading A35).

mod support;

use std::time::Duration;

use opamp_proto::v1::ConnectionSettingsStatuses::{Applied, Applying, Failed};
use opamp_proto::{AgentCapabilities as Does, ServerCapabilities, v1};
use opamp_server::{ConnectionSettings, OperationError, Outcome, SettingsParts};
use proptest::prelude::*;
use support::{Bench, bare, full_report, heartbeat, remote_config, wire};

const UID: [u8; 16] = [7; 16];
const METRICS: Does = Does::REPORTS_STATUS.union(Does::REPORTS_OWN_METRICS);
const REPORTS: Does = Does::REPORTS_CONNECTION_SETTINGS_STATUS;
const ALL: Does = METRICS
    .union(Does::REPORTS_OWN_TRACES)
    .union(Does::REPORTS_OWN_LOGS)
    .union(Does::ACCEPTS_OPAMP_CONNECTION_SETTINGS)
    .union(Does::ACCEPTS_OTHER_CONNECTION_SETTINGS);

fn telemetry(host: &str) -> Option<v1::TelemetryConnectionSettings> {
    let destination_endpoint = format!("https://{host}.example/v1/x");
    Some(v1::TelemetryConnectionSettings { destination_endpoint, ..Default::default() })
}

fn opamp(host: &str) -> Option<v1::OpAmpConnectionSettings> {
    Some(v1::OpAmpConnectionSettings {
        destination_endpoint: format!("wss://{host}.example/v1/opamp"),
        heartbeat_interval_seconds: 30,
        ..Default::default()
    })
}

/// With a setting that means nothing to anybody but the Agent.
fn other() -> v1::OtherConnectionSettings {
    v1::OtherConnectionSettings {
        other_settings: [("shard".to_owned(), "7".to_owned())].into(),
        ..Default::default()
    }
}

fn every_part() -> v1::ConnectionSettingsOffers {
    v1::ConnectionSettingsOffers {
        hash: Default::default(),
        opamp: opamp("a"),
        own_metrics: telemetry("metrics"),
        own_traces: telemetry("traces"),
        own_logs: telemetry("logs"),
        other_connections: [("db".to_owned(), other())].into(),
    }
}

fn settings(message: v1::ConnectionSettingsOffers) -> ConnectionSettings {
    ConnectionSettings::new(message).unwrap()
}

fn metrics_at(host: &str) -> ConnectionSettings {
    settings(v1::ConnectionSettingsOffers { own_metrics: telemetry(host), ..Default::default() })
}

fn status(
    number: u64,
    mask: Does,
    hash: &[u8],
    status: v1::ConnectionSettingsStatuses,
) -> v1::AgentToServer {
    let status = v1::ConnectionSettingsStatus {
        last_connection_settings_hash: hash.to_vec().into(),
        status: status.into(),
        error_message: String::new(),
    };
    v1::AgentToServer { connection_settings_status: Some(status), ..heartbeat(&UID, number, mask) }
}

fn filled(offer: &v1::ConnectionSettingsOffers) -> SettingsParts {
    let parts = [
        (offer.opamp.is_some(), SettingsParts::OPAMP),
        (offer.own_metrics.is_some(), SettingsParts::OWN_METRICS),
        (offer.own_traces.is_some(), SettingsParts::OWN_TRACES),
        (offer.own_logs.is_some(), SettingsParts::OWN_LOGS),
        (!offer.other_connections.is_empty(), SettingsParts::OTHER_CONNECTIONS),
    ];
    parts.into_iter().filter(|(filled, _)| *filled).map(|(_, part)| part).collect()
}

fn outcome(bench: &Bench) -> Outcome {
    bench.fleet.agent(wire(&UID)).unwrap().connection_settings().unwrap().outcome()
}

#[test]
fn each_agent_gets_the_parts_it_announces() {
    let _judged = opamp_spec::judges(&[
        "CONN-02", "CONN-03", "CONN-04", "CONN-05", "CONN-06", "CONN-10", "CONN-42", "TEL-02",
        "TEL-03", "OTHER-05",
    ]);
    let bits = [
        (Does::ACCEPTS_OPAMP_CONNECTION_SETTINGS, SettingsParts::OPAMP),
        (Does::REPORTS_OWN_METRICS, SettingsParts::OWN_METRICS),
        (Does::REPORTS_OWN_TRACES, SettingsParts::OWN_TRACES),
        (Does::REPORTS_OWN_LOGS, SettingsParts::OWN_LOGS),
        (Does::ACCEPTS_OTHER_CONNECTION_SETTINGS, SettingsParts::OTHER_CONNECTIONS),
    ];
    let mut bench = Bench::new();
    bench.fleet.set_default_connection_settings(settings(every_part())).unwrap();
    let mut hashes = std::collections::BTreeSet::new();
    for combination in 0..32_u8 {
        let announced = || bits.iter().enumerate().filter(|(i, _)| combination & (1 << i) != 0);
        let mask = announced().map(|(_, (does, _))| *does).collect::<Does>() | Does::REPORTS_STATUS;
        let parts: SettingsParts = announced().map(|(_, (_, part))| *part).collect();
        let mut route = bench.websocket();
        let offer = bench.send(&mut route, &full_report(&[combination + 1; 16], 1, mask));
        let offer = offer.connection_settings;
        assert_eq!(offer.as_ref().map(filled).unwrap_or_default(), parts, "{mask:?}");
        if let Some(offer) = offer {
            let expected = every_part();
            assert!(offer.opamp.is_none() || offer.opamp == expected.opamp);
            assert!(offer.own_logs.is_none() || offer.own_logs == expected.own_logs);
            let others = &offer.other_connections;
            assert!(others.is_empty() || *others == expected.other_connections);
            hashes.insert(offer.hash);
        } else {
            assert!(parts.is_empty());
        }
    }
    assert_eq!(hashes.len(), 31, "what an Agent gets has a hash of its own");
}

#[test]
fn an_agent_without_headers_is_handed_some() {
    let _judged = opamp_spec::judges(&["TOFU-05"]);
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    let mask = Does::REPORTS_STATUS.union(Does::ACCEPTS_OPAMP_CONNECTION_SETTINGS);
    let _ = bench.send(&mut route, &full_report(&UID, 1, mask));
    let header = v1::Header { key: "authorization".to_owned(), value: "Bearer own".to_owned() };
    let own = v1::OpAmpConnectionSettings {
        headers: Some(v1::Headers { headers: vec![header] }),
        ..opamp("a").unwrap()
    };
    let offers = v1::ConnectionSettingsOffers { opamp: Some(own.clone()), ..Default::default() };
    bench.fleet.set_connection_settings(wire(&UID), settings(offers)).unwrap();
    let pushed = bench.pushes(&route, &UID).pop().expect("an offer");
    assert_eq!(pushed.connection_settings.expect("settings").opamp, Some(own));
}

#[test]
fn who_sets_settings_learns_which_parts_are_accepted() {
    let _judged = opamp_spec::judges(&["CONN-02", "INTEROP-03", "INTEROP-05"]);
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &full_report(&UID, 1, METRICS));
    let set = |bench: &Bench, it| bench.fleet.set_connection_settings(wire(&UID), it);
    assert_eq!(set(&bench, settings(every_part())), Ok(SettingsParts::OWN_METRICS));
    let only_opamp =
        settings(v1::ConnectionSettingsOffers { opamp: opamp("a"), ..Default::default() });
    assert_eq!(set(&bench, only_opamp.clone()), Err(OperationError::NotAccepted));
    let held = bench.fleet.connection_settings(wire(&UID));
    assert_eq!(held, Some(settings(every_part())), "as they were");
    let nobody = bench.fleet.set_connection_settings(wire(&[1; 16]), only_opamp);
    assert_eq!(nobody, Err(OperationError::UnknownAgent));

    // A Server that does not announce it does not do it.
    let mut bench = Bench::with(|config| {
        config.capabilities.remove(ServerCapabilities::OFFERS_CONNECTION_SETTINGS);
    });
    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &full_report(&UID, 1, METRICS));
    assert_eq!(set(&bench, metrics_at("a")), Err(OperationError::NotOffered));
}

#[test]
fn a_differing_hash_gets_the_settings_and_an_equal_one_gets_nothing() {
    let _judged = opamp_spec::judges(&["CONN-21", "CONN-32", "CONN-33", "TEL-05"]);
    let mut bench = Bench::new();
    let mask = METRICS | REPORTS;
    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &full_report(&UID, 1, mask));
    bench.fleet.set_connection_settings(wire(&UID), metrics_at("a")).unwrap();
    assert_eq!(outcome(&bench), Outcome::Pending);
    let pushed = bench.pushes(&route, &UID);
    let hash = pushed[0].connection_settings.as_ref().unwrap().hash.clone();
    assert_eq!(hash, metrics_at("a").hash().as_bytes()[..]);
    assert_eq!(outcome(&bench), Outcome::Sent);
    for (number, reported, seen) in [
        (2, Applying, Outcome::Applying),
        (3, Failed, Outcome::Failed),
        (4, Applied, Outcome::Applied),
    ] {
        assert_eq!(bench.send(&mut route, &status(number, mask, &hash, reported)), bare(&UID));
        assert_eq!(outcome(&bench), seen);
    }
    let reply = bench.send(&mut route, &status(5, mask, b"other", Applied));
    assert_eq!(reply.connection_settings.unwrap().hash, hash);
    assert_eq!(outcome(&bench), Outcome::Sent);
}

#[test]
fn a_new_capability_brings_the_part_that_was_kept_back() {
    let _judged = opamp_spec::judges(&["CAP-04", "CONN-05"]);
    let mut bench = Bench::new();
    let both = v1::ConnectionSettingsOffers {
        own_metrics: telemetry("a"),
        own_logs: telemetry("b"),
        ..Default::default()
    };
    bench.fleet.set_default_connection_settings(settings(both)).unwrap();
    let mask = METRICS | REPORTS;
    let mut route = bench.websocket();
    let offer = bench.send(&mut route, &full_report(&UID, 1, mask)).connection_settings.unwrap();
    let _ = bench.send(&mut route, &status(2, mask, &offer.hash, Applied));
    let mask = mask | Does::REPORTS_OWN_LOGS;
    let offer = bench.send(&mut route, &heartbeat(&UID, 3, mask)).connection_settings.unwrap();
    assert_eq!(filled(&offer), SettingsParts::OWN_LOGS, "the rest it has");
    let _ = bench.send(&mut route, &status(4, mask, &offer.hash, Applied));
    assert_eq!(outcome(&bench), Outcome::Applied);
    // What is taken back is not offered any more.
    let without = mask.difference(Does::REPORTS_OWN_METRICS);
    let reply = bench.send(&mut route, &heartbeat(&UID, 5, without));
    assert!(reply.connection_settings.is_none_or(|offer| offer.own_metrics.is_none()));
}

#[test]
fn what_an_agent_has_applied_is_left_out_while_it_stays_the_same() {
    let _judged = opamp_spec::judges(&["CONN-21", "CONN-42", "TEL-04", "TEL-05"]);
    let mut bench = Bench::new();
    let mask = ALL | REPORTS;
    let at = |metrics: &str| {
        settings(v1::ConnectionSettingsOffers { own_metrics: telemetry(metrics), ..every_part() })
    };
    bench.fleet.set_default_connection_settings(at("a")).unwrap();
    let mut route = bench.websocket();
    let offer = bench.send(&mut route, &full_report(&UID, 1, mask)).connection_settings.unwrap();
    assert_eq!(filled(&offer), SettingsParts::all());
    // Not before it says so: it may fail with any of it.
    let _ = bench.send(&mut route, &status(2, mask, &offer.hash, Applying));
    bench.fleet.set_default_connection_settings(at("b")).unwrap();
    let offer = bench.pushes(&route, &UID)[0].connection_settings.clone().unwrap();
    assert_eq!(filled(&offer), SettingsParts::all());
    let _ = bench.send(&mut route, &status(3, mask, &offer.hash, Applied));
    bench.fleet.set_default_connection_settings(at("c")).unwrap();
    let offer = bench.pushes(&route, &UID)[0].connection_settings.clone().unwrap();
    assert_eq!(filled(&offer), SettingsParts::OWN_METRICS);
    assert_eq!(offer.hash, at("c").hash().as_bytes()[..], "the hash is that of all");
    // A part that is no longer wanted cannot be taken back, and an offer is never empty.
    let _ = bench.send(&mut route, &status(4, mask, &offer.hash, Applied));
    let less = settings(v1::ConnectionSettingsOffers {
        own_metrics: telemetry("c"),
        ..Default::default()
    });
    bench.fleet.set_default_connection_settings(less).unwrap();
    let offer = bench.pushes(&route, &UID)[0].connection_settings.clone().unwrap();
    assert_eq!(filled(&offer), SettingsParts::OWN_METRICS);
    // What it says to have is something else: it gets everything.
    bench.fleet.set_default_connection_settings(at("d")).unwrap();
    let reply = bench.send(&mut route, &status(5, mask, b"other", Applied));
    assert_eq!(filled(&reply.connection_settings.unwrap()), SettingsParts::all());
}

#[test]
fn an_agent_that_reports_no_hash_is_offered_once_a_session_and_on_change() {
    let _judged = opamp_spec::judges(&["TEL-03", "TEL-04", "TEL-05"]);
    let mut bench = Bench::new();
    bench.fleet.set_default_connection_settings(metrics_at("a")).unwrap();
    let mut route = bench.websocket();
    assert!(bench.send(&mut route, &full_report(&UID, 1, METRICS)).connection_settings.is_some());
    bench.advance(Duration::from_secs(3600));
    assert_eq!(bench.send(&mut route, &heartbeat(&UID, 2, METRICS)), bare(&UID));
    assert_eq!(outcome(&bench), Outcome::Sent);
    bench.fleet.set_default_connection_settings(metrics_at("b")).unwrap();
    assert_eq!(bench.pushes(&route, &UID).len(), 1);
    let _ = bench.fleet.close_route(route);
    let mut route = bench.websocket();
    assert!(bench.send(&mut route, &heartbeat(&UID, 3, METRICS)).connection_settings.is_some());
}

#[test]
fn an_agent_that_reconnects_upon_each_offer_gets_a_bounded_number() {
    let mut bench = Bench::new();
    let offer = v1::ConnectionSettingsOffers { opamp: opamp("a"), ..Default::default() };
    bench.fleet.set_default_connection_settings(settings(offer)).unwrap();
    let mask = Does::REPORTS_STATUS | Does::ACCEPTS_OPAMP_CONNECTION_SETTINGS;
    let mut offers = 0;
    for number in 1..100 {
        let mut route = bench.websocket();
        let reply = bench.send(&mut route, &full_report(&UID, number, mask));
        offers += u32::from(reply.connection_settings.is_some());
        let _ = bench.fleet.close_route(route);
    }
    assert_eq!(offers, 8);
}

#[test]
fn an_agent_that_says_nothing_is_asked_again_and_times_out() {
    let mut bench = Bench::new();
    let mask = METRICS | REPORTS;
    bench.fleet.set_default_connection_settings(metrics_at("a")).unwrap();
    let _ = bench.post(&full_report(&UID, 1, mask));
    assert_eq!(outcome(&bench), Outcome::Sent);
    bench.advance(Duration::from_secs(60));
    // The response may have been lost.
    assert!(bench.post(&heartbeat(&UID, 2, mask)).connection_settings.is_some());
    bench.advance(Duration::from_secs(540));
    let _ =
        bench.fleet.take_changes(wire(&UID)).map(|taken| bench.fleet.finish_changes(taken.token));
    assert!(bench.fleet.sweep(bench.now).contains(&wire(&UID).into()));
    let taken = bench.fleet.take_changes(wire(&UID)).unwrap();
    assert!(taken.changes.contains(opamp_server::Changes::OFFER_TIMED_OUT));
    assert_eq!(outcome(&bench), Outcome::TimedOut);
    let hash = *metrics_at("a").hash().as_bytes();
    let _ = bench.post(&status(3, mask, &hash, Applied));
    assert_eq!(outcome(&bench), Outcome::Applied, "late is better than never");
    // Somebody who waits for these settings learns that others are wanted.
    bench.fleet.set_default_connection_settings(metrics_at("b")).unwrap();
    let state = bench.fleet.agent(wire(&UID)).unwrap().connection_settings().unwrap();
    assert_eq!(state.outcome_of(metrics_at("a").hash()), Outcome::Superseded);
    assert_eq!(state.outcome_of(metrics_at("b").hash()), Outcome::Pending);
}

#[test]
fn offers_that_do_not_fit_together_follow_one_another() {
    let _judged = opamp_spec::judges(&["SIZE-12", "SIZE-30"]);
    let mut bench = Bench::with(|config| config.limits = config.limits.with_max_send(1000));
    let mask = METRICS | Does::ACCEPTS_REMOTE_CONFIG;
    bench.fleet.set_default_remote_config(remote_config(&"x".repeat(600))).unwrap();
    bench.fleet.set_default_connection_settings(metrics_at(&"a".repeat(500))).unwrap();
    let too_large = bench.fleet.set_default_connection_settings(metrics_at(&"a".repeat(900)));
    assert!(matches!(too_large, Err(OperationError::TooLarge { limit: 1000, .. })));
    let mut route = bench.websocket();
    let (reply, received) = {
        use opamp_proto::Message as _;
        bench.send_bytes(&mut route, &full_report(&UID, 1, mask).encode_to_vec())
    };
    assert!(reply.remote_config.is_some() && reply.connection_settings.is_none());
    assert!(received.push);
    let pushes = bench.pushes(&route, &UID);
    assert_eq!(pushes.len(), 1);
    assert!(pushes[0].connection_settings.is_some() && pushes[0].remote_config.is_none());

    let uid = [8; 16];
    let reply = bench.post(&full_report(&uid, 1, mask));
    assert!(reply.remote_config.is_some() && reply.connection_settings.is_none());
    let reply = bench.post(&heartbeat(&uid, 2, mask));
    assert!(reply.remote_config.is_none() && reply.connection_settings.is_some());
}

#[test]
fn offers_that_fit_go_together() {
    let mut bench = Bench::new();
    let mask = METRICS | Does::ACCEPTS_REMOTE_CONFIG;
    bench.fleet.set_default_remote_config(remote_config("a")).unwrap();
    bench.fleet.set_default_connection_settings(metrics_at("a")).unwrap();
    let reply = bench.post(&full_report(&UID, 1, mask));
    assert_eq!(reply.remote_config.unwrap().config, Some(remote_config("a").to_message()));
    assert_eq!(reply.connection_settings, Some(metrics_at("a").to_message()));
}

#[test]
fn offers_that_fill_a_message_to_the_last_byte_go_together() {
    use opamp_proto::Message as _;

    let _judged = opamp_spec::judges(&["SIZE-12"]);
    let offered_within = |limit: Option<usize>| {
        let mut bench = Bench::with(|config| {
            config.limits = limit.map_or(config.limits, |limit| config.limits.with_max_send(limit));
        });
        bench.fleet.set_default_remote_config(remote_config(&"x".repeat(400))).unwrap();
        bench.fleet.set_default_connection_settings(metrics_at(&"a".repeat(400))).unwrap();
        bench.post(&full_report(&UID, 1, METRICS | Does::ACCEPTS_REMOTE_CONFIG))
    };
    let both = offered_within(None);
    let length = both.encoded_len();
    assert_eq!(offered_within(Some(length)), both);
    let one = offered_within(Some(length - 1));
    assert!(one.remote_config.is_some() != one.connection_settings.is_some());
}

#[test]
fn settings_that_would_harm_agents_are_refused_with_what_to_do() {
    let _judged = opamp_spec::judges(&["CONN-28", "CONN-29", "TEL-16", "PROXY-04", "CERT-11"]);
    let with = |change: &dyn Fn(&mut v1::ConnectionSettingsOffers)| {
        let mut message = every_part();
        change(&mut message);
        ConnectionSettings::new(message).err().map(|error| error.field().to_owned())
    };
    let opamp = |change: &dyn Fn(&mut v1::OpAmpConnectionSettings)| {
        with(&|message| message.opamp.iter_mut().for_each(change))
    };
    let metrics = |change: &dyn Fn(&mut v1::TelemetryConnectionSettings)| {
        with(&|message| message.own_metrics.iter_mut().for_each(change))
    };
    assert_eq!(with(&|_| {}), None);
    assert_eq!(with(&|it| *it = Default::default()).as_deref(), Some("connection_settings"));
    let endpoint = Some("opamp.destination_endpoint".to_owned());
    assert_eq!(opamp(&|it| it.destination_endpoint.clear()), endpoint);
    assert_eq!(opamp(&|it| it.destination_endpoint = "ftp://a".to_owned()), endpoint);
    let interval = opamp(&|it| it.heartbeat_interval_seconds = 0);
    assert_eq!(interval.as_deref(), Some("opamp.heartbeat_interval_seconds"));
    let cert = opamp(&|it| it.certificate = Some(v1::TlsCertificate::default()));
    assert_eq!(cert.as_deref(), Some("opamp.certificate.cert"));
    let proxy = metrics(&|it| it.proxy = Some(v1::ProxyConnectionSettings::default()));
    assert_eq!(proxy.as_deref(), Some("own_metrics.proxy.url"));
    let path = metrics(&|it| it.destination_endpoint = "https://a".to_owned());
    assert_eq!(path.as_deref(), Some("own_metrics.destination_endpoint"));
    let header = v1::Header { key: "a\r\n".to_owned(), value: String::new() };
    let headers = Some(v1::Headers { headers: vec![header] });
    let header = with(&|it| {
        it.other_connections.values_mut().for_each(|it| it.headers.clone_from(&headers));
    });
    assert_eq!(header.as_deref(), Some("other_connections[\"db\"].headers"));
}

#[test]
fn secrets_in_settings_are_not_shown_when_they_are_debugged() {
    let header = v1::Header { key: "authorization".to_owned(), value: "secret".to_owned() };
    let headers = Some(v1::Headers { headers: vec![header] });
    let opamp = opamp("a").map(|opamp| v1::OpAmpConnectionSettings { headers, ..opamp });
    let settings = settings(v1::ConnectionSettingsOffers { opamp, ..Default::default() });
    let shown = format!("{settings:?} {settings:#?}");
    assert!(shown.contains(&settings.hash().to_string()) && !shown.contains("secret"), "{shown}");
}

#[test]
fn settings_that_are_wanted_no_more_are_offered_to_nobody() {
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &full_report(&UID, 1, METRICS));
    let (all, own) = (metrics_at("all"), metrics_at("own"));
    bench.fleet.set_default_connection_settings(all.clone()).unwrap();
    bench.fleet.set_connection_settings(wire(&UID), own.clone()).unwrap();
    let wanted = |bench: &Bench| bench.fleet.connection_settings(wire(&UID));
    assert_eq!(wanted(&bench), Some(own));
    bench.fleet.clear_connection_settings(wire(&UID)).unwrap();
    assert_eq!(wanted(&bench), Some(all.clone()));
    let pushes = bench.pushes(&route, &UID);
    assert_eq!(pushes[0].connection_settings, Some(all.to_message()));
    bench.fleet.clear_default_connection_settings();
    assert_eq!(wanted(&bench), None);
    let _ = bench.fleet.close_route(route);
    let mut route = bench.websocket();
    assert_eq!(bench.send(&mut route, &heartbeat(&UID, 2, METRICS)).connection_settings, None);
    assert_eq!(bench.fleet.agent(wire(&UID)).unwrap().connection_settings(), None);
}

/// What can happen to an Agent whose settings change and that applies or refuses them.
#[derive(Debug, Clone)]
enum Step {
    Set(u8),
    Heartbeat,
    Report(bool),
    Mask(u8),
    Reconnect,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0_u8..4).prop_map(Step::Set),
        Just(Step::Heartbeat),
        any::<bool>().prop_map(Step::Report),
        (0_u8..4).prop_map(Step::Mask),
        Just(Step::Reconnect),
        (1_u64..40).prop_map(Step::Wait),
    ]
}

/// What an Agent does with an offer: what is unset stays as it is.
fn take(has: &mut v1::ConnectionSettingsOffers, offer: &v1::ConnectionSettingsOffers) {
    has.hash = offer.hash.clone();
    has.opamp = offer.opamp.clone().or(has.opamp.take());
    has.own_metrics = offer.own_metrics.clone().or(has.own_metrics.take());
    has.own_logs = offer.own_logs.clone().or(has.own_logs.take());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

    /// Whatever happens, an Agent is offered nothing it did not announce and nothing of the hash it
    /// reported, and in the end it has every part it takes of what is wanted.
    #[test]
    fn an_agent_that_applies_offers_ends_with_the_wanted_settings(
        steps in proptest::collection::vec(step(), 0..60)
    ) {
        let wanted = [
            v1::ConnectionSettingsOffers { opamp: opamp("a"), own_metrics: telemetry("a"), own_logs: telemetry("a"), ..Default::default() },
            v1::ConnectionSettingsOffers { opamp: opamp("a"), own_metrics: telemetry("b"), own_logs: telemetry("a"), ..Default::default() },
            v1::ConnectionSettingsOffers { opamp: opamp("b"), own_metrics: telemetry("b"), own_logs: telemetry("a"), ..Default::default() },
            v1::ConnectionSettingsOffers { opamp: opamp("b"), own_metrics: telemetry("a"), own_logs: telemetry("c"), ..Default::default() },
        ];
        let base = Does::REPORTS_STATUS | REPORTS | Does::ACCEPTS_OPAMP_CONNECTION_SETTINGS;
        let masks = [
            base,
            base | Does::REPORTS_OWN_METRICS,
            base | Does::REPORTS_OWN_LOGS,
            base | Does::REPORTS_OWN_METRICS | Does::REPORTS_OWN_LOGS,
        ];
        let mut bench = Bench::new();
        let mut route = bench.websocket();
        let (mut set, mut mask, mut number) = (None, masks[3], 0);
        // What the Agent has, and what it had before the offer it is at work on.
        let mut has = v1::ConnectionSettingsOffers::default();
        let mut before = has.clone();
        let mut refused = false;
        let mut reported = bytes::Bytes::new();
        let _ = bench.send(&mut route, &full_report(&UID, number, mask));
        let last =
            [Step::Report(true), Step::Wait(60), Step::Heartbeat, Step::Report(true), Step::Report(true)];
        for step in steps.into_iter().chain(last) {
            let mut messages = Vec::new();
            match step {
                Step::Set(index) => {
                    set = Some(usize::from(index));
                    let wanted = settings(wanted[usize::from(index)].clone());
                    bench.fleet.set_default_connection_settings(wanted).unwrap();
                    messages = bench.pushes(&route, &UID);
                }
                Step::Heartbeat => {
                    number += 1;
                    messages.push(bench.send(&mut route, &heartbeat(&UID, number, mask)));
                }
                Step::Report(good) => {
                    number += 1;
                    // A refusal brings back what there was, and stays one until the next offer.
                    refused |= !good && has.hash != before.hash;
                    if refused {
                        let hash = has.hash.clone();
                        has = v1::ConnectionSettingsOffers { hash, ..before.clone() };
                    }
                    before = has.clone();
                    reported = has.hash.clone();
                    let status_of = if refused { Failed } else { Applied };
                    let status = status(number, mask, &reported, status_of);
                    messages.push(bench.send(&mut route, &status));
                }
                Step::Mask(index) => {
                    mask = masks[usize::from(index)];
                    number += 1;
                    messages.push(bench.send(&mut route, &heartbeat(&UID, number, mask)));
                }
                Step::Reconnect => {
                    let _ = bench.fleet.close_route(route);
                    route = bench.websocket();
                }
                Step::Wait(seconds) => bench.advance(Duration::from_secs(seconds)),
            }
            for offer in messages.into_iter().filter_map(|message| message.connection_settings) {
                prop_assert!(SettingsParts::accepted_by(mask).contains(filled(&offer)));
                prop_assert!(!filled(&offer).is_empty());
                prop_assert_ne!(&offer.hash, &reported);
                take(&mut has, &offer);
                refused = false;
            }
        }
        let state = bench.fleet.agent(wire(&UID)).unwrap().connection_settings();
        prop_assert_eq!(state.is_some(), set.is_some());
        let expected = if refused { Outcome::Failed } else { Outcome::Applied };
        if let Some(state) = state {
            prop_assert_eq!(state.outcome(), expected);
        }
        if let Some(index) = set.filter(|_| !refused) {
            let wanted = &wanted[index];
            prop_assert_eq!(&has.opamp, &wanted.opamp);
            if mask.contains(Does::REPORTS_OWN_METRICS) {
                prop_assert_eq!(&has.own_metrics, &wanted.own_metrics);
            }
            if mask.contains(Does::REPORTS_OWN_LOGS) {
                prop_assert_eq!(&has.own_logs, &wanted.own_logs);
            }
        }
    }
}
