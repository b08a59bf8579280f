//! Who arrives, in virtual time: connections and Agents that are not there count, and nobody else.

mod support;

use std::time::Duration;

use opamp_proto::{AgentCapabilities as Does, v1};
use opamp_server::fleet::Load;
use opamp_server::{Fleet, Rate};
use support::{Bench, fresh_uid, full_report, heartbeat, wire};

const MASK: Does = Does::REPORTS_STATUS;
const FIRST: [u8; 16] = [1; 16];
const SECOND: [u8; 16] = [2; 16];
const THIRD: [u8; 16] = [3; 16];

/// Two may arrive at once, and then one in each second.
fn bench() -> Bench {
    Bench::with(|config| {
        config.arrivals = Rate::per_second(1).with_burst(2);
        config.overload_pause = Duration::from_secs(10);
    })
}

/// For how long the Agent is to stay away; `None` if it is served.
fn turned_away(reply: &v1::ServerToAgent) -> Option<Duration> {
    let error = reply.error_response.as_ref()?;
    assert_eq!(error.r#type(), v1::ServerErrorResponseType::Unavailable);
    let Some(v1::server_error_response::Details::RetryInfo(retry)) = &error.details else {
        panic!("{error:?}")
    };
    Some(Duration::from_nanos(retry.retry_after_nanoseconds))
}

fn deferred(fleet: &Fleet) -> u64 {
    fleet.counters().arrivals_deferred
}

#[test]
fn over_http_an_agent_arrives_once_and_then_polls() {
    let mut bench = bench();
    for uid in [FIRST, SECOND] {
        assert_eq!(turned_away(&bench.post(&full_report(&uid, 1, MASK))), None);
    }
    assert!(turned_away(&bench.post(&full_report(&THIRD, 1, MASK))).is_some());
    assert_eq!((bench.fleet.len(), deferred(&bench.fleet)), (2, 1));
    for number in 2..10 {
        assert_eq!(turned_away(&bench.post(&heartbeat(&FIRST, number, MASK))), None);
    }
    // Under another uid it is still the same.
    let new = fresh_uid(1);
    bench.fleet.rename(wire(&FIRST), new, bench.now.instant).unwrap();
    let _ = bench.post(&heartbeat(&FIRST, 10, MASK));
    assert_eq!(turned_away(&bench.post(&heartbeat(new.as_bytes(), 11, MASK))), None);
    assert_eq!((bench.fleet.len(), deferred(&bench.fleet)), (2, 1));
    // One that has gone, and was told to stay away until now.
    let goodbye = v1::AgentToServer {
        agent_disconnect: Some(v1::AgentDisconnect {}),
        ..heartbeat(&SECOND, 2, MASK)
    };
    assert_eq!(turned_away(&bench.post(&goodbye)), None);
    let pause = turned_away(&bench.post(&heartbeat(&SECOND, 3, MASK))).expect("an arrival");
    bench.advance(pause);
    assert_eq!(turned_away(&bench.post(&heartbeat(&SECOND, 3, MASK))), None);
}

#[test]
fn on_a_websocket_the_first_agent_has_arrived_with_its_connection() {
    let mut bench = bench();
    assert_eq!(bench.fleet.admit_connection(bench.now.instant), Ok(()));
    let mut route = bench.websocket();
    for number in 1..10 {
        assert_eq!(turned_away(&bench.send(&mut route, &heartbeat(&FIRST, number, MASK))), None);
    }
    assert_eq!(turned_away(&bench.send(&mut route, &heartbeat(&SECOND, 1, MASK))), None);
    assert!(turned_away(&bench.send(&mut route, &heartbeat(&THIRD, 1, MASK))).is_some());
    assert!(bench.fleet.admit_connection(bench.now.instant).is_err());
    assert_eq!((bench.fleet.len(), deferred(&bench.fleet)), (2, 2));
    for (uid, number) in [(FIRST, 10), (SECOND, 2)] {
        assert_eq!(turned_away(&bench.send(&mut route, &heartbeat(&uid, number, MASK))), None);
    }
}

#[test]
fn a_server_with_too_much_to_do_serves_those_who_are_there() {
    let mut bench = bench();
    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &heartbeat(&FIRST, 1, MASK));
    bench.fleet.set_load(Load::Strained);
    let pauses = Duration::from_secs(10)..Duration::from_secs(20);
    let pause = bench.fleet.admit_connection(bench.now.instant).expect_err("a pause");
    assert!(pauses.contains(&pause), "{pause:?}");
    let pause = turned_away(&bench.send(&mut route, &heartbeat(&SECOND, 1, MASK)));
    assert!(pause.is_some_and(|pause| pauses.contains(&pause)), "{pause:?}");
    assert_eq!(turned_away(&bench.send(&mut route, &heartbeat(&FIRST, 2, MASK))), None);

    bench.fleet.set_load(Load::Overloaded);
    let pause = turned_away(&bench.send(&mut route, &heartbeat(&FIRST, 3, MASK)));
    assert!(pause.is_some_and(|pause| pauses.contains(&pause)), "{pause:?}");
    bench.fleet.set_load(Load::Normal);
    assert_eq!(turned_away(&bench.send(&mut route, &heartbeat(&FIRST, 3, MASK))), None);
    assert_eq!(bench.fleet.admit_connection(bench.now.instant), Ok(()));
}
