//! Two Agents with one uid on real connections, and Agents that only come back.

use std::time::Duration;

use opamp_proto::{InstanceUid, v1};
use opamp_server::Transport;

use crate::client::{MASK, OTHER, UID, WebSocket, beat, report, soon, start, start_with, uid};
use crate::support::{FULL_STATE, full_report, heartbeat};

/// Longer than any test, so that nothing but a sign of life can decide.
const FOREVER: Duration = Duration::from_secs(3600);

fn new_uid(message: &v1::ServerToAgent) -> InstanceUid {
    let identification = message.agent_identification.as_ref().expect("a new uid");
    identification.new_instance_uid.as_ref().try_into().expect("16 bytes")
}

fn numbered(number: u64) -> v1::AgentToServer {
    v1::AgentToServer { sequence_num: number, ..report(number) }
}

#[tokio::test]
async fn of_two_that_answer_pings_the_later_one_is_renamed() {
    let _judged = opamp_spec::judges(&["DUP-05", "DUP-06", "DUP-08", "ID-14", "ID-15"]);
    let server =
        start_with(opamp_server::AcceptAll, |config, _| config.duplicate_probe_timeout = FOREVER)
            .await;
    let (mut first, mut second) = (server.websocket().await, server.websocket().await);
    first.send(&numbered(1)).await;
    first.recv().await;
    second.send(&numbered(1_000)).await;
    assert_eq!(second.recv().await.agent_identification, None);
    // Reading is what answers pings.
    let told = tokio::select! {
        told = second.recv() => told,
        unexpected = first.recv() => panic!("{unexpected:?}"),
    };
    assert_eq!(told.instance_uid, UID.as_slice());
    let new = new_uid(&told);
    assert!(new.is_v7());

    second.send(&full_report(new.as_bytes(), 1_001, MASK)).await;
    assert_eq!(second.recv().await.error_response, None);
    first.send(&beat(2)).await;
    assert_eq!(first.recv().await.flags, 0);
    assert_eq!(server.fleet.len(), 2);
    let counters = server.fleet.counters();
    assert_eq!((counters.duplicates_suspected, counters.duplicates_told), (1, 1));
}

#[tokio::test]
async fn who_comes_back_while_its_old_connection_hangs_keeps_its_uid() {
    let _judged = opamp_spec::judges(&["DUP-05"]);
    let timeout = Duration::from_millis(50);
    let server = start_with(opamp_server::AcceptAll, |config, service| {
        config.duplicate_probe_timeout = timeout;
        service.ping_interval = Duration::from_millis(100);
    })
    .await;
    let mut dead = server.websocket().await;
    dead.send(&numbered(1)).await;
    dead.recv().await;
    // From here on nobody reads there.
    let mut again = server.websocket().await;
    again.send(&numbered(1_000)).await;
    assert_eq!(again.recv().await.agent_identification, None);
    let push = again.recv().await;
    assert_eq!((push.flags, push.agent_identification), (FULL_STATE, None));
    again.send(&numbered(1_001)).await;
    let reply = again.recv().await;
    assert_eq!((reply.flags, reply.agent_identification), (0, None));
    assert_eq!(server.fleet.agent(uid(&UID)).expect("known").sequence_num(), 1_001);
    drop(dead);
    again.send(&beat(1_002)).await;
    assert_eq!(again.recv().await.flags, 0);
    assert_eq!(server.fleet.len(), 1);
}

#[tokio::test]
async fn who_comes_back_before_its_old_connection_is_seen_to_be_closed_keeps_its_uid() {
    let _judged = opamp_spec::judges(&["DUP-05"]);
    let server =
        start_with(opamp_server::AcceptAll, |config, _| config.duplicate_probe_timeout = FOREVER)
            .await;
    let mut old = server.websocket().await;
    old.send(&numbered(1)).await;
    old.recv().await;
    let mut again = server.websocket().await;
    again.send(&numbered(1_000)).await;
    again.recv().await;
    drop(old);
    let push = again.recv().await;
    assert_eq!((push.flags, push.agent_identification), (FULL_STATE, None));
    assert!(server.fleet.agent(uid(&UID)).expect("known").is_connected());
}

#[tokio::test]
async fn on_a_shared_connection_it_is_the_agent_that_has_to_answer() {
    let _judged = opamp_spec::judges(&["DUP-05", "DUP-06", "ID-11"]);
    let server =
        start_with(opamp_server::AcceptAll, |config, _| config.duplicate_probe_timeout = FOREVER)
            .await;
    let (mut shared, mut second) = (server.websocket().await, server.websocket().await);
    for uid in [UID, OTHER] {
        shared.send(&full_report(&uid, 1, MASK)).await;
        shared.recv().await;
    }
    second.send(&numbered(1_000)).await;
    assert_eq!(second.recv().await.agent_identification, None);
    let asked = shared.recv().await;
    assert_eq!((asked.instance_uid.as_ref(), asked.flags), (UID.as_slice(), FULL_STATE));
    shared.send(&full_report(&UID, 2, MASK)).await;
    shared.recv().await;
    new_uid(&second.recv().await);
}

#[tokio::test]
async fn over_http_a_copy_of_an_agent_on_a_websocket_is_renamed() {
    let _judged = opamp_spec::judges(&["DUP-05", "DUP-06", "DUP-08"]);
    let server =
        start_with(opamp_server::AcceptAll, |config, _| config.duplicate_probe_timeout = FOREVER)
            .await;
    let mut first = server.websocket().await;
    first.send(&numbered(1)).await;
    first.recv().await;
    assert_eq!(server.post(&numbered(1_000)).await.agent_identification, None);
    let mut number = 1_000;
    let told = loop {
        // The ping is on its way to the first one.
        let _ = tokio::time::timeout(Duration::from_millis(5), first.recv_raw()).await;
        number += 1;
        let reply = soon(server.post(&numbered(number))).await;
        if reply.agent_identification.is_some() {
            break reply;
        }
        assert!(number < 1_200, "it is decided");
    };
    assert_eq!(told.instance_uid, UID.as_slice());
    let agent = server.fleet.agent(uid(&UID)).expect("known");
    assert_eq!((agent.transport(), agent.sequence_num()), (Transport::WebSocket, 1));
}

#[tokio::test]
async fn many_copies_end_with_uids_of_their_own() {
    let _judged = opamp_spec::judges(&["DUP-05", "DUP-06"]);
    let server = start().await;
    let mut first = server.websocket().await;
    first.send(&numbered(1)).await;
    first.recv().await;
    let reading = tokio::spawn(async move { first.recv_raw().await });
    let mut copies = Vec::new();
    for number in 0..30 {
        let mut copy = server.websocket().await;
        copies.push(tokio::spawn(async move {
            let mut number = 1_000 * (number + 1);
            copy.send(&numbered(number)).await;
            loop {
                let reply = tokio::time::timeout(Duration::from_millis(50), copy.recv()).await;
                number += 1;
                match reply {
                    Ok(reply) if reply.agent_identification.is_some() => {
                        let new = new_uid(&reply);
                        copy.send(&full_report(new.as_bytes(), number, MASK)).await;
                        return (copy, new);
                    }
                    Ok(_) => {}
                    Err(_silence) => copy.send(&heartbeat(&UID, number, MASK)).await,
                }
            }
        }));
    }
    let mut kept: Vec<WebSocket<_>> = Vec::new();
    for copy in copies {
        let (copy, new) = soon(copy).await.expect("no panic");
        kept.push(copy);
        server.until(|fleet| fleet.agent(new).is_some_and(|agent| agent.is_connected())).await;
    }
    assert_eq!(server.fleet.len(), 31);
    let agent = server.fleet.agent(uid(&UID)).expect("known");
    assert_eq!((agent.sequence_num(), agent.is_connected()), (1, true));
    reading.abort();
}
