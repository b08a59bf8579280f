//! Generated offers, servers, cuts, crashes and failures of the disk; and what holds when it is
//! over.

use proptest::prelude::*;

use super::world::{PLACES, WAYS, Way, World};
use crate::core::tests::values::seconds;

#[derive(Debug, Clone)]
enum Op {
    Offer(usize),
    Interval(u64),
    Become(usize, Way),
    Cut,
    Crash,
    Disk { full: bool },
    Wait(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..PLACES).prop_map(Op::Offer),
        1 => (0..100_u64).prop_map(Op::Interval),
        4 => (0..PLACES, prop::sample::select(WAYS.to_vec()))
            .prop_map(|(place, way)| Op::Become(place, way)),
        2 => Just(Op::Cut),
        1 => Just(Op::Crash),
        1 => any::<bool>().prop_map(|full| Op::Disk { full }),
        6 => prop::sample::select(vec![0, 1, 5, 20, 30, 60, 600]).prop_map(Op::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Whatever happens: when the servers are well again, the agent is connected as who it was, and
    /// the last offer has an outcome. It connects only with what it was started with or offered,
    /// one connection at a time, and neither it nor its servers go on without an end (the world
    /// asserts these as it goes).
    #[test]
    fn an_agent_always_comes_back(
        kind in 0..4_usize,
        certificates in any::<bool>(),
        revoking in any::<bool>(),
        ops in prop::collection::vec(op(), 0..40),
    ) {
        let _judged = opamp_spec::judges(&[
            "CONN-11", "CONN-12", "CONN-16", "CONN-18", "CONN-23", "ID-04",
        ]);
        let mut world = World::new(World::transports()[kind], certificates);
        world.revoking = revoking;
        world.run(seconds(1));
        for op in ops {
            match op {
                Op::Offer(place) => world.offer(place),
                Op::Interval(interval) => {
                    world.offer_settings(opamp_proto::v1::OpAmpConnectionSettings {
                        heartbeat_interval_seconds: interval,
                        ..Default::default()
                    });
                }
                Op::Become(place, way) => world.ways[place] = way,
                Op::Cut => world.cut(),
                Op::Crash => world.crash(),
                Op::Disk { full } => world.disk_full = full,
                Op::Wait(time) => world.run(seconds(time)),
            }
        }
        world.ways = [Way::Good; PLACES];
        world.disk_full = false;
        world.run(seconds(2 * 3600));
        world.assert_well();
    }
}
