//! Who gets what, and what the Server is told of who is there.

use std::time::Duration;

use opamp_proto::{Message as _, v1};
use opamp_server::gateway::{Closing, FromAgent, ToAgent};
use opamp_spec::judges;

use crate::support::{Bench, ack, goodbye, masked, offer, pause, report, uid};

/// A field that no version of the protocol has.
const UNKNOWN: &[u8] = b"\xfa\x7f\x03new";

#[test]
fn messages_go_through_as_the_bytes_they_are() {
    let _judged = judges(&["ID-11", "INTEROP-06"]);
    let mut bench = Bench::new(|_| {});
    let (one, two) = (bench.gateway.open_websocket(), bench.gateway.open_websocket());
    // Not in the order of the fields, and with one that is unknown.
    let with = |message: Vec<u8>| [UNKNOWN, &message].concat();
    let sent = [with(report(1, 5).encode_to_vec()), with(report(2, 9).encode_to_vec())];
    bench.send_bytes(one, &sent[0]);
    bench.send_bytes(two, &sent[1]);
    assert_eq!(bench.gateway.poll_upstream(0).unwrap(), sent[0]);
    assert_eq!(bench.gateway.poll_upstream(0).unwrap(), sent[1]);
    assert_eq!(bench.gateway.poll_upstream(0), None);

    let replies = [with(offer(2, 1).encode_to_vec()), with(masked(1).encode_to_vec())];
    for reply in &replies {
        bench.gateway.receive_upstream(0, reply.clone().into(), bench.now);
    }
    assert_eq!(bench.polled(two), [ToAgent::Message(replies[0].clone().into())]);
    assert_eq!(bench.polled(one), [ToAgent::Message(replies[1].clone().into())]);
}

#[test]
fn nobody_gets_what_is_for_another() {
    let _judged = judges(&["ID-10", "ID-11"]);
    let mut bench = Bench::new(|config| config.connections = 2);
    let one = bench.connect(1);
    let two = bench.connect(2);
    // They are on different connections: neither may hear of the other's.
    bench.reply(1, &offer(1, 1));
    bench.reply(0, &offer(2, 1));
    bench.reply(0, &offer(3, 1));
    bench.reply(0, &v1::ServerToAgent::default());
    bench.gateway.receive_upstream(0, b"\xff\xff".as_slice().into(), bench.now);
    assert_eq!(bench.gateway.counters().unroutable, 5);
    assert!(bench.received(one).is_empty() && bench.received(two).is_empty());
    bench.reply(0, &offer(1, 1));
    assert_eq!(bench.received(one), [offer(1, 1)]);
}

#[test]
fn the_server_is_told_of_an_agent_that_went_without_a_goodbye() {
    let _judged = judges(&["CLOSE-01", "CLOSE-11", "SEQ-01"]);
    let mut bench = Bench::new(|_| {});
    let agent = bench.connect(1);
    bench.send(agent, &report(1, 2));
    bench.gateway.close(agent, bench.now);
    assert_eq!(bench.at_server(0), [report(1, 2), goodbye(1, 3)]);
    assert_eq!(bench.gateway.upstream(0).unwrap().agents, 0);
    // What the Server still says finds nobody, and in a while the Agent is forgotten.
    bench.reply(0, &offer(1, 1));
    assert_eq!((bench.gateway.counters().late, bench.gateway.agents()), (1, 1));
    bench.pass(Duration::from_secs(60));
    assert_eq!(bench.gateway.agents(), 0);
}

#[test]
fn an_agents_own_goodbye_is_the_last_word() {
    let _judged = judges(&["CLOSE-01", "CLOSE-10"]);
    let mut bench = Bench::new(|_| {});
    let agent = bench.connect(1);
    bench.send(agent, &goodbye(1, 2));
    assert_eq!(bench.at_server(0), [goodbye(1, 2)]);
    bench.reply(0, &ack(1));
    assert_eq!(bench.received(agent), [ack(1)]);
    // A later message begins a new session.
    bench.send(agent, &report(1, 3));
    assert_eq!(bench.gateway.upstream(0).unwrap().agents, 1);
    bench.send(agent, &goodbye(1, 4));
    bench.gateway.close(agent, bench.now);
    assert_eq!(bench.at_server(0), [report(1, 3), goodbye(1, 4)]);
    bench.pass(Duration::from_secs(60));
    assert_eq!(bench.gateway.agents(), 0);
}

#[test]
fn one_agent_of_many_on_a_connection_leaves_alone() {
    let _judged = judges(&["CLOSE-10", "ID-11"]);
    let mut bench = Bench::new(|_| {});
    let shared = bench.connect(1);
    bench.send(shared, &report(2, 1));
    bench.send(shared, &goodbye(1, 2));
    bench.at_server(0);
    bench.gateway.close(shared, bench.now);
    assert_eq!(bench.at_server(0), [goodbye(2, 2)], "the other had said it");
}

#[test]
fn a_new_connection_is_a_new_session() {
    let _judged = judges(&["CAP-10", "SEQ-01"]);
    let mut bench = Bench::new(|_| {});
    let old = bench.connect(1);
    bench.send(old, &report(1, 2));
    let new = bench.gateway.open_websocket();
    bench.send(new, &report(1, 3));
    assert_eq!(bench.at_server(0), [report(1, 2), goodbye(1, 3), report(1, 3)]);
    // The replies to what the session before had sent are not taken for those of this one.
    bench.reply(0, &ack(1));
    bench.reply(0, &ack(1));
    assert!(bench.received(new).is_empty());
    assert_eq!(bench.gateway.counters().stale, 2);
    bench.reply(0, &masked(1));
    bench.reply(0, &ack(1));
    assert_eq!(bench.received(new), [masked(1), ack(1)]);
    assert!(bench.received(old).is_empty());
}

#[test]
fn a_server_that_does_not_answer_goodbyes_is_heard_at_once() {
    let mut bench = Bench::new(|_| {});
    let old = bench.connect(1);
    bench.gateway.close(old, bench.now);
    let new = bench.gateway.open_websocket();
    bench.send(new, &report(1, 2));
    bench.reply(0, &masked(1));
    bench.reply(0, &ack(1));
    assert_eq!(bench.received(new), [masked(1), ack(1)]);
}

#[test]
fn what_comes_on_a_connection_that_was_replaced_is_refused() {
    let _judged = judges(&["THR-01", "ERR-03", "STATUS-07"]);
    let mut bench = Bench::new(|_| {});
    let old = bench.connect(1);
    let new = bench.gateway.open_websocket();
    bench.send(new, &report(1, 7));
    bench.at_server(0);
    bench.send(old, &report(1, 2));
    assert!(bench.at_server(0).is_empty(), "it does not get the Agent back");
    let refused = bench.received(old);
    assert_eq!(refused.len(), 1);
    assert!(pause(&refused[0]) >= Duration::from_secs(30));
    assert_eq!(bench.gateway.counters().superseded, 1);
    // Its end says nothing of the Agent any more.
    bench.gateway.close(old, bench.now);
    assert!(bench.at_server(0).is_empty());
    bench.reply(0, &masked(1));
    assert_eq!(bench.received(new), [masked(1)]);
}

#[test]
fn the_route_follows_an_agent_that_is_renamed() {
    let _judged = judges(&["ID-12", "ID-13"]);
    let mut bench = Bench::new(|_| {});
    let agent = bench.connect(1);
    let identification = v1::AgentIdentification { new_instance_uid: uid(9) };
    let rename = v1::ServerToAgent { agent_identification: Some(identification), ..ack(1) };
    bench.reply(0, &rename);
    assert_eq!(bench.received(agent), [rename]);
    bench.send(agent, &report(9, 2));
    assert_eq!(bench.at_server(0), [report(9, 2)], "no goodbye: it is the same session");
    // What is under way may name either.
    bench.reply(0, &ack(1));
    bench.reply(0, &ack(9));
    assert_eq!(bench.received(agent), [ack(1), ack(9)]);
    assert_eq!(bench.gateway.agents(), 1);

    // Another Agent may have the old uid.
    let other = bench.gateway.open_websocket();
    bench.send(other, &report(1, 1));
    bench.reply(0, &offer(1, 1));
    assert!(bench.received(agent).is_empty());
    assert_eq!(bench.received(other), [offer(1, 1)]);
    bench.at_server(0);
    bench.gateway.close(agent, bench.now);
    assert_eq!(bench.at_server(0), [goodbye(9, 3)]);
}

#[test]
fn a_new_process_gets_nothing_that_names_the_uid_of_the_one_before() {
    let _judged = judges(&["ID-10"]);
    let mut bench = Bench::new(|_| {});
    bench.connect(1);
    let identification = v1::AgentIdentification { new_instance_uid: uid(9) };
    bench.reply(0, &v1::ServerToAgent { agent_identification: Some(identification), ..ack(1) });
    // It was saved before the process ended.
    let restarted = bench.gateway.open_websocket();
    bench.send(restarted, &report(9, 50));
    assert_eq!(bench.at_server(0), [goodbye(1, 2), report(9, 50)]);
    bench.reply(0, &offer(1, 1));
    bench.reply(0, &masked(9));
    assert_eq!(bench.received(restarted), [masked(9)]);
}

#[test]
fn messages_that_nobody_could_be_answered_for_are_refused_here() {
    let _judged = judges(&["ERR-11", "ERR-12"]);
    let mut bench = Bench::new(|config| config.max_malformed = 2);
    let agent = bench.gateway.open_websocket();
    bench.send(agent, &v1::AgentToServer::default());
    // A health that is none.
    let broken = [report(1, 1).encode_to_vec(), b"\x2a\x01\xff".to_vec()].concat();
    bench.send_bytes(agent, &broken);
    for refused in bench.received(agent) {
        let error = refused.error_response.unwrap();
        assert_eq!(error.r#type(), v1::ServerErrorResponseType::BadRequest);
    }
    bench.gateway.receive(agent, FromAgent::unreadable("7 is not 0"), bench.now);
    assert_eq!(bench.polled(agent), [ToAgent::Close(Closing::Malformed)]);
    assert_eq!(bench.gateway.counters().malformed, 3);
    assert!(bench.at_server(0).is_empty());
}

#[test]
fn a_gateway_that_stops_says_goodbye_for_nobody() {
    let mut bench = Bench::new(|_| {});
    let one = bench.connect(1);
    let two = bench.connect(2);
    bench.gateway.stop();
    assert_eq!(bench.polled(one), [ToAgent::Close(Closing::GoingAway)]);
    assert_eq!(bench.polled(one), []);
    bench.gateway.close(one, bench.now);
    bench.send(two, &goodbye(2, 2));
    assert_eq!(bench.at_server(0), [goodbye(2, 2)], "one that says its own is passed on");
    assert!(bench.gateway.admit(bench.now).is_err());
    let late = bench.post(&report(3, 1));
    assert!(matches!(bench.polled(late)[..], [ToAgent::Unavailable { .. }]));
}
