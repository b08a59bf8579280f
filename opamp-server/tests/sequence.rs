//! Sequence numbers and the request for the full state: SEQ-03 to SEQ-06, readings A02 and A05.

mod support;

use std::time::Duration;

use opamp_proto::{AgentCapabilities as Does, v1};
use proptest::prelude::*;
use support::{Bench, FULL_STATE, bare, description, full_report, heartbeat};

const UID: [u8; 16] = [7; 16];
const MASK: Does = Does::REPORTS_STATUS.union(Does::REPORTS_HEALTH);

#[test]
fn a_complete_first_report_is_only_acknowledged() {
    let _judged = opamp_spec::judges(&["STATUS-07", "STATUS-08", "CAP-10", "CAP-13"]);
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    let reply = bench.send(&mut route, &full_report(&UID, 41, MASK));
    assert_eq!(reply, v1::ServerToAgent { capabilities: support::SERVER_MASK, ..bare(&UID) });
    assert_eq!(bench.send(&mut route, &heartbeat(&UID, 42, MASK)), bare(&UID));
}

#[test]
fn an_incomplete_first_report_is_asked_for_the_rest() {
    let _judged = opamp_spec::judges(&["SEQ-05", "SEQ-06"]);
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    let mut report = full_report(&UID, 1, MASK);
    report.health = None;
    assert_eq!(bench.send(&mut route, &report).flags, FULL_STATE);
    assert_eq!(bench.send(&mut route, &full_report(&UID, 2, MASK)).flags, 0);
}

#[test]
fn parts_that_come_in_one_by_one_make_a_full_report() {
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    let mut report = full_report(&UID, 1, MASK);
    report.health = None;
    assert_eq!(bench.send(&mut route, &report).flags, FULL_STATE);
    let mut rest = full_report(&UID, 2, MASK);
    rest.agent_description = None;
    assert_eq!(bench.send(&mut route, &rest).flags, 0);
    bench.advance(Duration::from_secs(3600));
    assert_eq!(bench.send(&mut route, &heartbeat(&UID, 3, MASK)).flags, 0);
}

#[test]
fn every_gap_in_an_incomplete_report_asks_again() {
    let _judged = opamp_spec::judges(&["SEQ-03", "SEQ-04", "SEQ-05"]);
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &full_report(&UID, 1, MASK));
    for number in [3, 5, 4, 0, 9] {
        let reply = bench.send(&mut route, &heartbeat(&UID, number, MASK));
        assert_eq!(reply.flags, FULL_STATE, "number {number}");
    }
    assert_eq!(bench.send(&mut route, &full_report(&UID, 10, MASK)).flags, 0);
}

#[test]
fn a_gap_in_a_complete_report_asks_nothing() {
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &full_report(&UID, 1, MASK));
    assert_eq!(bench.send(&mut route, &full_report(&UID, 7, MASK)).flags, 0);
    assert_eq!(bench.send(&mut route, &heartbeat(&UID, 8, MASK)).flags, 0);
}

#[test]
fn a_repeated_number_is_answered_and_asks_nothing() {
    let _judged = opamp_spec::judges(&["RETRY-05"]);
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    assert_eq!(bench.send(&mut route, &heartbeat(&UID, 5, MASK)).flags, FULL_STATE);
    assert_eq!(bench.send(&mut route, &heartbeat(&UID, 5, MASK)), bare(&UID));
    assert_eq!(bench.send(&mut route, &heartbeat(&UID, 5, MASK)), bare(&UID));
}

#[test]
fn a_late_message_of_the_process_before_does_not_stay_unnoticed() {
    let _judged = opamp_spec::judges(&["SEQ-04", "SEQ-05"]);
    let mut bench = Bench::new();
    let (mut old, mut new) = (bench.http(), bench.http());
    let _ = bench.send(&mut old, &full_report(&UID, 1, MASK));
    let _ = bench.send(&mut new, &full_report(&UID, 1, MASK));
    let health = Some(v1::ComponentHealth { status: "late".to_owned(), ..Default::default() });
    let late = v1::AgentToServer { health, ..heartbeat(&UID, 2, MASK) };
    assert_eq!(bench.send(&mut old, &late).flags, 0, "it looks like the next of the new one");
    assert_eq!(bench.send(&mut new, &heartbeat(&UID, 2, MASK)).flags, FULL_STATE);
}

#[test]
fn the_number_may_wrap_around() {
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &full_report(&UID, u64::MAX, MASK));
    assert_eq!(bench.send(&mut route, &heartbeat(&UID, 0, MASK)).flags, 0);
}

#[test]
fn an_agent_that_never_delivers_is_asked_four_times_in_all() {
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    let mut asked = 0;
    for number in 0..100 {
        asked += bench.send(&mut route, &heartbeat(&UID, number, MASK)).flags;
        bench.advance(Duration::from_secs(30));
    }
    assert_eq!(asked, 4);
    assert_eq!(bench.send(&mut route, &heartbeat(&UID, 200, MASK)).flags, FULL_STATE);
}

#[test]
fn it_is_not_asked_again_before_the_pause_is_over() {
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    assert_eq!(bench.send(&mut route, &heartbeat(&UID, 1, MASK)).flags, FULL_STATE);
    bench.advance(Duration::from_millis(59_999));
    assert_eq!(bench.send(&mut route, &heartbeat(&UID, 2, MASK)).flags, 0);
    bench.advance(Duration::from_millis(1));
    assert_eq!(bench.send(&mut route, &heartbeat(&UID, 3, MASK)).flags, FULL_STATE);
}

#[test]
fn a_new_session_is_asked_at_once_for_what_is_still_missing() {
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    assert_eq!(bench.send(&mut route, &heartbeat(&UID, 1, MASK)).flags, FULL_STATE);
    let _ = bench.fleet.close_route(route);
    let mut route = bench.websocket();
    assert_eq!(bench.send(&mut route, &heartbeat(&UID, 2, MASK)).flags, FULL_STATE);
}

#[test]
fn an_agent_owes_only_what_its_mask_promises_and_the_server_takes() {
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    // This Server takes neither package statuses nor the status of connection settings.
    let mask = Does::REPORTS_STATUS
        | Does::REPORTS_PACKAGE_STATUSES
        | Does::REPORTS_CONNECTION_SETTINGS_STATUS;
    assert_eq!(bench.send(&mut route, &full_report(&UID, 1, mask)).flags, 0);
    for (number, bit) in [
        Does::REPORTS_HEALTH,
        Does::REPORTS_EFFECTIVE_CONFIG,
        Does::REPORTS_REMOTE_CONFIG,
        Does::REPORTS_AVAILABLE_COMPONENTS,
    ]
    .into_iter()
    .enumerate()
    {
        let uid = [number as u8 + 20; 16];
        let mut report = full_report(&uid, 1, Does::REPORTS_STATUS);
        report.capabilities |= bit.bits();
        assert_eq!(bench.send(&mut route, &report).flags, FULL_STATE, "{bit}");
    }
}

#[test]
fn a_refused_message_makes_no_gap() {
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &full_report(&UID, 1, MASK));
    let mut bytes = opamp_proto::Message::encode_to_vec(&heartbeat(&UID, 2, MASK));
    bytes.extend([5 << 3 | 2, 1, 0xff]);
    let (reply, _) = bench.send_bytes(&mut route, &bytes);
    assert!(reply.error_response.is_some());
    assert_eq!(bench.send(&mut route, &heartbeat(&UID, 3, MASK)), bare(&UID));
}

#[test]
fn the_operator_may_ask_too() {
    let _judged = opamp_spec::judges(&["SEQ-06", "STATUS-09"]);
    let mut bench = Bench::new();
    let (mut route, woken) = bench.woken_websocket();
    let _ = bench.send(&mut route, &full_report(&UID, 1, MASK));
    bench.fleet.request_full_state(support::wire(&UID)).unwrap();
    assert_eq!(woken.take(), [support::wire(&UID).into()]);
    let asked = v1::ServerToAgent { flags: FULL_STATE, ..bare(&UID) };
    assert_eq!(bench.pushes(&route, &UID), [asked]);
    assert_eq!(bench.send(&mut route, &heartbeat(&UID, 2, MASK)), bare(&UID));
}

/// The rule in its plainest form, to compare with: what is missing, when it was asked for.
#[derive(Default)]
struct Model {
    last: Option<(u64, bool, bool)>,
    description: bool,
    health: bool,
    asked_at: Option<u64>,
    repeats: u32,
}

impl Model {
    fn asks(&mut self, number: u64, description: bool, health: bool, second: u64) -> bool {
        let repeated = self.last == Some((number, description, health));
        let next = self.last.is_some_and(|(last, ..)| last + 1 == number);
        self.last = Some((number, description, health));
        if !repeated && !next {
            *self = Self { last: self.last, ..Self::default() };
        }
        self.description |= description;
        self.health |= health;
        if self.description && self.health {
            self.asked_at = None;
            self.repeats = 0;
            return false;
        }
        if repeated {
            return false;
        }
        match self.asked_at {
            Some(at) if second < at + 60 || self.repeats == 3 => return false,
            Some(_) => self.repeats += 1,
            None => {}
        }
        self.asked_at = Some(second);
        true
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

    #[test]
    fn requests_follow_the_model(
        steps in proptest::collection::vec(
            (prop_oneof![4 => Just(1_u64), 1 => Just(0), 1 => Just(2)], any::<(bool, bool)>(), 0_u64..90),
            1..60,
        )
    ) {
        let mut bench = Bench::new();
        let mut route = bench.websocket();
        let mut model = Model::default();
        let (mut number, mut second) = (10, 0);
        for (step, (describe, healthy), pause) in steps {
            number += step;
            second += pause;
            bench.advance(Duration::from_secs(pause));
            let report = v1::AgentToServer {
                agent_description: describe.then(|| description("agent")),
                health: healthy.then(v1::ComponentHealth::default),
                ..heartbeat(&UID, number, MASK)
            };
            let asks = model.asks(number, describe, healthy, second);
            let reply = bench.send(&mut route, &report);
            prop_assert_eq!(reply.flags, u64::from(asks));
        }
    }
}
