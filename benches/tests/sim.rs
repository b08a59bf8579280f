//! The simulation of a fleet says the same each time, and what has to be so.

use clap::ValueEnum as _;
use opamp_benches::sim::{Options, Report, Scenario, run, write_tables};
use opamp_client::core::Transport;

fn play(scenario: Scenario, adjust: impl FnOnce(&mut Options)) -> Report {
    let mut options = Options::default();
    options.agents = 400;
    adjust(&mut options);
    run(scenario, &options, &mut |_| {})
}

#[test]
fn one_seed_is_one_result() {
    for scenario in [Scenario::RestartLost, Scenario::FlakyRollout] {
        let first = play(scenario, |_| {});
        assert_eq!(first, play(scenario, |_| {}));
        assert_ne!(first.phases, play(scenario, |options| options.seed = 2).phases);
    }
}

#[test]
fn every_scenario_ends_with_a_whole_fleet() {
    for transport in [Transport::WebSocket, Transport::Http] {
        for scenario in Scenario::value_variants() {
            let report = play(*scenario, |options| {
                options.agents = 3_000;
                options.transport = transport;
            });
            for phase in &report.phases {
                assert_eq!(phase.missing, 0, "{scenario:?} over {transport:?}: {phase:?}");
            }
        }
    }
}

#[test]
fn a_server_that_keeps_its_state_is_told_nothing_twice() {
    let kept = play(Scenario::RestartKept, |_| {});
    let lost = play(Scenario::RestartLost, |_| {});
    let [kept, lost] = [kept, lost].map(|report| report.phases[2].clone());
    assert!(kept.messages_per_agent <= 1.05, "each comes back with one message: {kept:?}");
    assert!(lost.messages_per_agent >= 1.9, "each is asked for everything: {lost:?}");
    assert!(kept.received_bytes_per_agent * 3.0 < lost.received_bytes_per_agent);
}

#[test]
fn admission_lets_a_storm_in_at_its_rate() {
    let rate = 5;
    let report = play(Scenario::RestartKept, |options| options.admission_rate = rate);
    let phase = &report.phases[2];
    assert_eq!(phase.missing, 0, "{phase:?}");
    // Fifty at once, and 350 at five in a second.
    let all = phase.all_seconds.unwrap();
    assert!((65.0..120.0).contains(&all), "{phase:?}");
    assert!(phase.attempts_per_agent < 8.0, "nobody tries again and again: {phase:?}");
}

#[test]
fn every_case_of_the_tables_ends_with_a_whole_fleet() {
    let mut options = Options::default();
    options.agents = 100;
    let mut page = Vec::new();
    write_tables(&options, &mut page, &mut |_, _| {}).unwrap();
    let page = String::from_utf8(page).unwrap();
    assert!(page.lines().filter(|line| line.starts_with("| ")).count() > 20, "{page}");
    assert!(!page.contains("never"), "{page}");
}
