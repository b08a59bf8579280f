//! Agents that are seen on more than one connection, and messages that must not move them.

mod support;

use opamp_proto::{AgentCapabilities as Does, Message as _, v1};
use opamp_server::Transport;
use support::{Bench, bare, description, fresh_uid, full_report, heartbeat, remote_config, wire};

const UID: [u8; 16] = [7; 16];
const MASK: Does = Does::REPORTS_STATUS.union(Does::REPORTS_HEALTH);
const REPORT_FULL_STATE: u64 = v1::ServerToAgentFlags::ReportFullState as u64;
const BAD_REQUEST: i32 = v1::ServerErrorResponseType::BadRequest as i32;

#[test]
fn what_is_for_an_agent_goes_to_the_connection_it_is_served_on() {
    let mut bench = Bench::new();
    let mut old = bench.websocket();
    let mut new = bench.websocket();
    let _ = bench.send(&mut old, &full_report(&UID, 1, MASK));
    let _ = bench.send(&mut new, &full_report(&UID, 2, MASK));
    let stale = full_report(&UID, 1, MASK | Does::ACCEPTS_REMOTE_CONFIG);
    bench.fleet.set_default_remote_config(remote_config("a")).unwrap();
    bench.fleet.request_full_state(wire(&UID)).unwrap();
    bench.fleet.rename(wire(&UID), fresh_uid(1), bench.now.instant).unwrap();
    let reply = bench.send(&mut old, &stale);
    assert_eq!(reply, v1::ServerToAgent { capabilities: support::SERVER_MASK, ..bare(&UID) });
    assert_eq!(bench.fleet.counters().stale, 1);
    assert_eq!(bench.pushes(&old, &UID), []);
    assert_eq!(bench.pushes(&new, &UID).len(), 1);
    let _ = bench.fleet.close_route(old);
    assert!(bench.fleet.agent(wire(&UID)).unwrap().is_connected());
}

#[test]
fn of_an_agent_on_http_an_older_websocket_has_to_show_that_it_lives() {
    let _judged = opamp_spec::judges(&["SEQ-04", "SEQ-05", "STATUS-06", "DELTA-03"]);
    let mut bench = Bench::new();
    let mut old = bench.websocket();
    let _ = bench.post(&full_report(&UID, 5, MASK));
    // A later number cannot be the remains of anything.
    let reply = bench.send(&mut old, &heartbeat(&UID, 9, MASK));
    assert_eq!(reply.flags, REPORT_FULL_STATE);
    bench.fleet.request_full_state(wire(&UID)).unwrap();
    assert_eq!(bench.pushes(&old, &UID).len(), 1, "it is served where it speaks");

    // An earlier one may be, unless it is the complete report that was asked for there.
    let _ = bench.post(&full_report(&UID, 10, MASK));
    let process = v1::AgentToServer {
        agent_description: Some(description("another process")),
        ..full_report(&UID, 1, MASK)
    };
    assert_eq!(bench.send(&mut old, &process).flags, REPORT_FULL_STATE);
    let process = v1::AgentToServer { sequence_num: 2, ..process };
    assert_eq!(bench.send(&mut old, &process).flags, 0);
    let agent = bench.fleet.agent(wire(&UID)).unwrap();
    assert_eq!((agent.sequence_num(), agent.transport()), (2, Transport::WebSocket));
    assert_eq!(agent.state().agent_description(), Some(description("another process")));
}

#[test]
fn a_refused_message_makes_no_agent_known_and_takes_none_over() {
    let _judged = opamp_spec::judges(&["ERR-01", "ERR-12"]);
    let mut bench = Bench::new();
    // A health whose status is not UTF-8.
    let malformed = |number| {
        let mut body = heartbeat(&UID, number, MASK).encode_to_vec();
        body.extend_from_slice(b"\x2a\x04\x22\x02\xff\xfe");
        body
    };
    for transport in [Transport::WebSocket, Transport::Http] {
        let mut route = bench.fleet.open_route(transport, None, (), None);
        let reply = bench.send_bytes(&mut route, &malformed(1)).0;
        assert_eq!(reply.error_response.expect("an error").r#type, BAD_REQUEST);
        assert_eq!(bench.fleet.len(), 0);
    }
    let mut served = bench.websocket();
    let _ = bench.send(&mut served, &full_report(&UID, 1, MASK));
    let mut other = bench.websocket();
    let reply = bench.send_bytes(&mut other, &malformed(9)).0;
    assert_eq!(reply.error_response.expect("an error").r#type, BAD_REQUEST);
    let _ = bench.fleet.close_route(other);
    assert!(bench.fleet.agent(wire(&UID)).unwrap().is_connected());
    assert_eq!(bench.send(&mut served, &heartbeat(&UID, 2, MASK)), bare(&UID));
}
