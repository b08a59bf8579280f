//! Agents that poll.

use std::time::Duration;

use opamp_proto::{Message as _, v1};
use opamp_server::gateway::ToAgent;
use opamp_spec::judges;

use crate::support::{Bench, ack, goodbye, masked, offer, report};

#[test]
fn a_request_is_answered_with_what_the_server_says_next() {
    let _judged = judges(&["STATUS-07"]);
    let mut bench = Bench::new(|_| {});
    let request = bench.post(&report(1, 1));
    assert_eq!(bench.at_server(0), [report(1, 1)]);
    assert!(bench.polled(request).is_empty());
    bench.reply(0, &masked(1));
    assert_eq!(bench.received(request), [masked(1)]);
    bench.gateway.close(request, bench.now);

    // What comes between requests waits for the next, in its order; acknowledgements are not kept.
    bench.reply(0, &custom(1, "one"));
    bench.reply(0, &ack(1));
    bench.reply(0, &custom(1, "two"));
    let polls: Vec<_> = (2..5)
        .map(|number| {
            let request = bench.post(&report(1, number));
            assert!(bench.polled(request).is_empty(), "not before the Server has it");
            bench.reply(0, &ack(1));
            let received = bench.received(request);
            bench.gateway.close(request, bench.now);
            received
        })
        .collect();
    let with_mask = |message| [v1::ServerToAgent { capabilities: 7, ..message }];
    assert_eq!(polls, [custom(1, "one"), custom(1, "two"), ack(1)].map(with_mask));
    let numbers: Vec<_> = bench.at_server(0).iter().map(|sent| sent.sequence_num).collect();
    assert_eq!(numbers, [2, 3, 4], "one session");
    assert_eq!(bench.gateway.unread_bytes(), 0);
}

fn custom(uid: u8, kind: &str) -> v1::ServerToAgent {
    let message = v1::CustomMessage { r#type: kind.to_owned(), ..Default::default() };
    v1::ServerToAgent { custom_message: Some(message), ..ack(uid) }
}

#[test]
fn of_what_the_server_wants_only_the_newest_waits() {
    let _judged = judges(&["RETRY-09"]);
    let mut bench = Bench::new(|_| {});
    let request = bench.post(&report(1, 1));
    bench.reply(0, &ack(1));
    bench.received(request);
    let flags = |flags, message| v1::ServerToAgent { flags, ..message };
    bench.reply(0, &offer(1, 1));
    bench.reply(0, &flags(1, offer(1, 2)));
    bench.reply(0, &custom(1, "once"));
    // It has no flag, so the one before says more.
    bench.reply(0, &offer(1, 3));
    bench.reply(0, &offer(1, 4));
    let received: Vec<_> = (2..5)
        .flat_map(|number| {
            let request = bench.post(&report(1, number));
            bench.reply(0, &ack(1));
            bench.received(request)
        })
        .collect();
    assert_eq!(received, [flags(1, offer(1, 2)), custom(1, "once"), offer(1, 4)]);
    assert_eq!(bench.gateway.unread_bytes(), 0);
}

#[test]
fn each_response_has_the_servers_mask_but_an_error() {
    let _judged = judges(&["CAP-10", "CAP-13", "ERR-03"]);
    let mut bench = Bench::new(|_| {});
    let mut exchange = |number, reply: &v1::ServerToAgent| {
        let request = bench.post(&report(1, number));
        bench.reply(0, reply);
        let polled = bench.polled(request);
        bench.gateway.close(request, bench.now);
        polled
    };
    let message = |encoded: Vec<u8>| [ToAgent::Message(encoded.into())];
    assert_eq!(exchange(1, &masked(1)), message(masked(1).encode_to_vec()));
    let with_mask = [offer(1, 1).encode_to_vec(), b"\x38\x07".to_vec()].concat();
    assert_eq!(exchange(2, &offer(1, 1)), message(with_mask), "behind what the Server said");
    let error = v1::ServerErrorResponse::default();
    let error = v1::ServerToAgent { error_response: Some(error), ..ack(1) };
    assert_eq!(exchange(3, &error), message(error.encode_to_vec()));
}

#[test]
fn a_server_that_says_nothing_in_time_is_unavailable() {
    let _judged = judges(&["THR-06", "THR-08"]);
    let mut bench = Bench::new(|_| {});
    let request = bench.post(&report(1, 1));
    bench.pass(Duration::from_secs(9));
    assert!(bench.polled(request).is_empty());
    bench.pass(Duration::from_secs(1));
    assert!(matches!(bench.polled(request)[..], [ToAgent::Unavailable { .. }]));
    bench.gateway.close(request, bench.now);
    bench.reply(0, &masked(1));
    let next = bench.post(&report(1, 2));
    bench.reply(0, &ack(1));
    assert_eq!(bench.received(next), [masked(1)], "the late reply was an acknowledgement");
}

#[test]
fn requests_of_one_agent_are_answered_in_order_and_bounded() {
    let mut bench = Bench::new(|config| config.max_requests_per_agent = 2);
    let first = bench.post(&report(1, 1));
    let second = bench.post(&report(1, 2));
    let third = bench.post(&report(1, 3));
    assert!(matches!(bench.polled(third)[..], [ToAgent::Unavailable { .. }]));
    bench.reply(0, &masked(1));
    bench.reply(0, &offer(1, 1));
    assert_eq!(bench.received(first), [masked(1)]);
    assert_eq!(bench.received(second)[0].remote_config, offer(1, 1).remote_config);
    // One that was given up leaves its turn to the next.
    let given_up = bench.post(&report(1, 3));
    let kept = bench.post(&report(1, 4));
    bench.gateway.close(given_up, bench.now);
    bench.reply(0, &ack(1));
    assert_eq!(bench.received(kept), [masked(1)]);
}

#[test]
fn a_silent_one_is_gone_after_a_while() {
    let _judged = judges(&["CLOSE-08"]);
    let mut bench = Bench::new(|_| {});
    for number in 1..4 {
        let request = bench.post(&report(1, number));
        bench.reply(0, &masked(1));
        bench.gateway.close(request, bench.now);
        bench.pass(Duration::from_secs(60));
    }
    bench.at_server(0);
    bench.pass(Duration::from_secs(31));
    assert_eq!(bench.at_server(0), [goodbye(1, 4)]);
    bench.pass(Duration::from_secs(60));
    assert_eq!(bench.gateway.agents(), 0);
}

#[test]
fn another_process_of_an_agent_is_another_session() {
    let mut bench = Bench::new(|_| {});
    let full = |number| v1::AgentToServer {
        agent_description: Some(v1::AgentDescription::default()),
        ..report(1, number)
    };
    bench.post(&full(500));
    bench.post(&full(501));
    assert_eq!(bench.at_server(0), [full(500), full(501)], "it was asked for that");
    bench.post(&full(1));
    assert_eq!(bench.at_server(0), [goodbye(1, 502), full(1)]);
}

#[test]
fn an_agent_that_takes_the_other_transport_has_one_session() {
    let _judged = judges(&["DUP-01"]);
    let mut bench = Bench::new(|_| {});
    let socket = bench.connect(1);
    let request = bench.post(&report(1, 2));
    assert_eq!(bench.at_server(0), [goodbye(1, 2), report(1, 2)]);
    bench.send(socket, &report(1, 3));
    assert_eq!(bench.received(socket).len(), 1, "refused");
    let socket = bench.gateway.open_websocket();
    bench.send(socket, &report(1, 4));
    assert!(matches!(bench.polled(request)[..], [ToAgent::Unavailable { .. }]));
    assert_eq!(bench.at_server(0), [goodbye(1, 3), report(1, 4)]);
}
