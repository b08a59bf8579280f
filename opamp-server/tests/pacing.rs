//! The pace of requests for the full state, when a whole fleet owes it (SEQ-05, SEQ-06).

mod support;

use std::time::Duration;

use opamp_proto::{AgentCapabilities as Does, Message as _};
use support::{Bench, FULL_STATE, full_report, heartbeat, wire};

const MASK: Does = Does::REPORTS_STATUS.union(Does::REPORTS_HEALTH);

fn uid(number: u32) -> [u8; 16] {
    (u128::from(number) + 1).to_be_bytes()
}

#[test]
fn requests_for_the_full_state_are_spread() {
    let _judged = opamp_spec::judges(&["SEQ-05", "SEQ-06"]);
    let mut bench = Bench::with(|config| config.full_state_rate = 100);
    let (mut route, woken) = bench.woken_websocket();
    let agents = 1_000;
    let first: Vec<_> = (0..agents)
        .map(|number| bench.send(&mut route, &heartbeat(&uid(number), 7, MASK)).flags)
        .collect();
    assert!(first[..100].iter().all(|flags| *flags == FULL_STATE));
    assert!(first[100..].iter().all(|flags| *flags == 0));
    assert!(bench.fleet.is_pacing(bench.now.instant));

    // Half of those that are not asked yet have a heartbeat, the others say nothing.
    let mut asked = 100;
    for second in 1..=9 {
        bench.advance(Duration::from_secs(1));
        let mut now = 0;
        for number in (100..agents).filter(|number| number % 2 == 0) {
            let reply = bench.send(&mut route, &heartbeat(&uid(number), 7 + second, MASK));
            now += u32::from(reply.flags == FULL_STATE);
        }
        let _ = bench.fleet.sweep(bench.now);
        for uid in woken.take() {
            let pushed = bench.pushes(&route, uid.uid().as_bytes());
            assert_eq!((pushed.len(), pushed[0].flags), (1, FULL_STATE));
            now += 1;
        }
        assert!((99..=101).contains(&now), "{now} in second {second}");
        asked += now;
    }
    assert_eq!(asked, agents);
    assert!(!bench.fleet.is_pacing(bench.now.instant));

    // Nobody is asked again before the pause is over.
    bench.advance(Duration::from_secs(10));
    let _ = bench.fleet.sweep(bench.now);
    assert!(woken.take().is_empty());
}

#[test]
fn who_delivers_before_its_turn_is_not_asked() {
    let _judged = opamp_spec::judges(&["SEQ-05"]);
    let mut bench = Bench::with(|config| config.full_state_rate = 1);
    let (mut route, woken) = bench.woken_websocket();
    let flags = [1, 2, 3].map(|it| bench.send(&mut route, &heartbeat(&uid(it), 7, MASK)).flags);
    assert_eq!(flags, [FULL_STATE, 0, 0]);
    assert_eq!(bench.send(&mut route, &full_report(&uid(2), 8, MASK)).flags, 0);
    bench.advance(Duration::from_secs(2));
    assert_eq!(bench.send(&mut route, &heartbeat(&uid(2), 9, MASK)).flags, 0);
    let _ = bench.fleet.sweep(bench.now);
    assert_eq!(woken.take(), [wire(&uid(3)).into()]);
}

#[test]
fn a_turn_that_comes_while_the_agent_is_away_waits_for_it() {
    let mut bench = Bench::with(|config| config.full_state_rate = 1);
    let mut other = bench.http();
    let _ = bench.send(&mut other, &heartbeat(&uid(0), 1, MASK));
    let mut route = bench.websocket();
    assert_eq!(bench.send(&mut route, &heartbeat(&uid(1), 1, MASK)).flags, 0);
    let _ = bench.fleet.close_route(route);
    bench.advance(Duration::from_secs(60));
    let _ = bench.fleet.sweep(bench.now);
    let mut route = bench.websocket();
    assert_eq!(bench.send(&mut route, &heartbeat(&uid(1), 2, MASK)).flags, FULL_STATE);
}

#[test]
fn an_agent_that_floods_with_gaps_holds_one_turn_at_a_time() {
    let mut bench = Bench::with(|config| config.full_state_rate = 10);
    let mut route = bench.websocket();
    for number in 0..1_000_u64 {
        let flood = heartbeat(&uid(1), number * 2, MASK).encode_to_vec();
        let _ = bench.send_bytes(&mut route, &flood);
    }
    assert_eq!(bench.send(&mut route, &heartbeat(&uid(2), 1, MASK)).flags, 0);
    bench.advance(Duration::from_millis(200));
    assert_eq!(bench.send(&mut route, &heartbeat(&uid(2), 2, MASK)).flags, FULL_STATE);
}
