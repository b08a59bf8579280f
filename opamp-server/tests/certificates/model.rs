//! Requests, decisions, reports and reconnections in any order, against what they have to come to.

use std::time::Duration;

use proptest::prelude::*;

use super::support::wire;
use super::{UID, asks, bench, id, is_refused, issued, offered, report};

#[derive(Debug, Clone)]
enum Step {
    Ask(u8),
    Issue(u8),
    Refuse(u8),
    Report,
    Reconnect,
    Time,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..3_u8).prop_map(Step::Ask),
        2 => (0..3_u8).prop_map(Step::Issue),
        2 => (0..3_u8).prop_map(Step::Refuse),
        2 => Just(Step::Report),
        1 => Just(Step::Reconnect),
        1 => Just(Step::Time),
    ];
    prop::collection::vec(step, 0..40)
}

proptest! {
    /// Whatever happens in whatever order: a decision counts if and only if it is about the newest
    /// request and the first about that; after a certificate the Agent is offered the newest one,
    /// and after a refusal it is told so.
    #[test]
    fn the_newest_request_and_its_first_decision_count(steps in steps()) {
        let mut bench = bench();
        let mut route = bench.websocket();
        let mut number = 1;
        let mut next = || { number += 1; number };
        let _ = bench.send(&mut route, &report(1));
        let key = wire(&UID);
        // The newest request, and whether it was decided about.
        let mut newest: Option<(u8, Option<bool>)> = None;
        let mut certificates = 0_u32;
        let mut heard = Vec::new();
        let mut refusals = 0;
        for step in steps {
            let name = |n: u8| format!("csr {n}");
            match step {
                Step::Ask(n) => {
                    bench.advance(Duration::from_secs(30));
                    heard.push(bench.send(&mut route, &asks(next(), &name(n))));
                    match newest {
                        Some((last, _)) if last == n => {}
                        _ => newest = Some((n, None)),
                    }
                }
                Step::Issue(n) => {
                    let offer = issued(&certificates.to_string());
                    let now = bench.now.instant;
                    let result = bench.fleet.issue_certificate(key, id(&name(n)), offer, now);
                    prop_assert_eq!(result.is_ok(), newest == Some((n, None)));
                    if result.is_ok() {
                        certificates += 1;
                        newest = Some((n, Some(true)));
                    }
                }
                Step::Refuse(n) => {
                    let result = bench.fleet.refuse_certificate(key, id(&name(n)), "no");
                    prop_assert_eq!(result.is_ok(), newest == Some((n, None)));
                    if result.is_ok() {
                        refusals += 1;
                        newest = Some((n, Some(false)));
                    }
                }
                Step::Report => heard.push(bench.send(&mut route, &report(next()))),
                Step::Reconnect => {
                    let gone = std::mem::replace(&mut route, bench.websocket());
                    drop(bench.fleet.close_route(gone));
                    heard.push(bench.send(&mut route, &report(next())));
                }
                Step::Time => {
                    bench.advance(Duration::from_secs(60));
                    let _ = bench.fleet.sweep(bench.now);
                }
            }
            heard.extend(bench.pushes(&route, &UID));
            let pending = bench.fleet.pending_certificates().len();
            prop_assert_eq!(pending, usize::from(matches!(newest, Some((_, None)))));
        }
        // Nothing is lost: by now the Agent was told.
        bench.advance(Duration::from_secs(120));
        heard.extend(bench.pushes(&route, &UID));
        heard.push(bench.send(&mut route, &report(next())));
        if certificates > 0 {
            let offers = heard.iter().filter(|message| message.connection_settings.is_some());
            let last = offers.last().map(|message| offered(message).certificate.unwrap().cert);
            prop_assert_eq!(last, Some((certificates - 1).to_string().into()));
        }
        let told = heard.iter().filter(|message| is_refused(message)).count();
        prop_assert!(told >= usize::from(matches!(newest, Some((_, Some(false))))) && (refusals > 0 || told == 0));
    }
}
