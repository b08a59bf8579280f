//! What Agents in the field do that one would not expect: each is served, always if it is harmless,
//! and where its tolerance is switched on if it is malformed. The table is at `Tolerances`.

use futures_util::{SinkExt as _, StreamExt as _};
use http::request::Parts;
use http::{Request, StatusCode};
use http_body_util::Full;
use opamp_proto::{AgentCapabilities as Does, Message as _, v1};
use opamp_server::{
    AcceptAll, ConnectionSettings, CustomCapabilities, Handler, OperationError, Rejection, Server,
};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::client::{
    BAD_REQUEST, MASK, OTHER, UID, UNAVAILABLE, beat, framed, post, report, run, soon, start,
    start_with, uid,
};
use crate::support::{
    FULL_STATE, bare, config_status, full_report, heartbeat, remote_config, wire,
};

const ULID: &[u8] = b"01ARZ3NDEKTSV4RRFFQ69G5FAV";
const HEX: &[u8] = b"0123456789abcdef0123456789ABCDEF";
const UUID_TEXT: &[u8] = b"01890a5d-ac96-774b-bcce-b302099a8057";

/// Who opens a gateway's connection: nobody, with a custom message.
fn of_a_gateway() -> v1::AgentToServer {
    let custom_message = v1::CustomMessage {
        capability: "com.bindplane.opamp-gateway".to_owned(),
        r#type: "connect".to_owned(),
        data: b"{}"[..].into(),
    };
    v1::AgentToServer { custom_message: Some(custom_message), ..Default::default() }
}

#[tokio::test]
async fn a_legacy_instance_uid_is_refused_and_echoed_byte_for_byte() {
    let _judged = opamp_spec::judges(&["ID-01", "ID-10", "ERR-11"]);
    let server = start().await;
    let mut socket = server.websocket().await;
    for legacy in [ULID, HEX, UUID_TEXT] {
        let message = full_report(legacy, 1, MASK);
        socket.send(&message).await;
        for reply in [socket.recv().await, server.post(&message).await] {
            assert_eq!(reply.instance_uid, legacy);
            assert_eq!(reply.error_response.expect("it is refused").r#type, BAD_REQUEST);
        }
    }
    assert!(server.fleet.is_empty());
}

#[tokio::test]
async fn a_legacy_instance_uid_is_served_where_that_is_tolerated() {
    let server =
        start_with(AcceptAll, |config, _| config.tolerances.legacy_instance_uid = true).await;
    server.fleet.set_default_remote_config(remote_config("a: 1")).unwrap();
    let mut socket = server.websocket().await;
    for (tolerated, legacy) in (1..).zip([ULID, HEX, UUID_TEXT]) {
        socket.send(&full_report(legacy, 1, MASK)).await;
        let reply = socket.recv().await;
        assert_eq!(reply.instance_uid, legacy);
        assert!(reply.remote_config.is_some());
        assert_eq!(server.fleet.counters().legacy_instance_uids, tolerated);
        assert!(server.fleet.agent(wire(legacy)).is_some());
    }
    // What is no form that anybody used stays malformed.
    socket.send(&full_report(b"nonsense", 1, MASK)).await;
    assert_eq!(socket.recv().await.error_response.expect("it is refused").r#type, BAD_REQUEST);
}

#[tokio::test]
async fn the_opening_message_of_a_gateway_is_refused() {
    let _judged = opamp_spec::judges(&["ERR-11"]);
    let server = start().await;
    let mut socket = server.websocket().await;
    socket.send(&of_a_gateway()).await;
    let reply = socket.recv().await;
    assert_eq!(reply.error_response.expect("it is refused").r#type, BAD_REQUEST);
    assert!(reply.instance_uid.is_empty());
}

#[tokio::test]
async fn the_opening_message_of_a_gateway_is_dropped_where_that_is_tolerated() {
    let server =
        start_with(AcceptAll, |config, _| config.tolerances.missing_instance_uid = true).await;
    let mut socket = server.websocket().await;
    // As often as it likes, and without a reply: the next one is about the Agent.
    for _ in 0..50 {
        socket.send(&of_a_gateway()).await;
    }
    socket.send(&report(1)).await;
    assert_eq!(socket.recv().await.instance_uid, &UID[..]);
    let answer = server.request(post(of_a_gateway().encode_to_vec())).await;
    assert_eq!((answer.status, answer.message()), (StatusCode::OK, v1::ServerToAgent::default()));
    assert_eq!(server.fleet.counters().missing_instance_uids, 51);
    assert_eq!(server.fleet.counters().malformed, 0);
    assert_eq!(server.fleet.len(), 1);
    // A report of nobody's is as malformed as ever.
    for message in [full_report(&[], 1, MASK), heartbeat(&[], 1, MASK)] {
        socket.send(&message).await;
        assert_eq!(socket.recv().await.error_response.expect("it is refused").r#type, BAD_REQUEST);
    }
}

#[tokio::test]
async fn a_missing_header_is_refused_unless_it_is_tolerated() {
    let _judged = opamp_spec::judges(&["WS-07", "WS-08"]);
    for tolerated in [false, true] {
        let server =
            start_with(AcceptAll, |config, _| config.tolerances.missing_header = tolerated).await;
        let mut socket = server.websocket().await;
        socket.send_raw(report(1).encode_to_vec()).await;
        assert_eq!(socket.recv().await.error_response.is_none(), tolerated);
        assert_eq!(server.fleet.counters().missing_headers, u64::from(tolerated));
    }
}

#[tokio::test]
async fn a_header_with_a_mixed_endian_guid_is_not_fatal() {
    let server = start().await;
    let mut request = post(full_report(&(1..=16).collect::<Vec<u8>>(), 1, MASK).encode_to_vec());
    let swapped = "04030201-0605-0807-090a-0b0c0d0e0f10";
    request.headers_mut().insert("opamp-instance-uid", swapped.parse().unwrap());
    let answer = server.request(request).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.message().error_response, None);
}

#[tokio::test]
async fn numbers_may_start_at_0_and_be_repeated() {
    let _judged = opamp_spec::judges(&["SEQ-03"]);
    let server = start().await;
    let mut socket = server.websocket().await;
    for number in [0, 1, 1, 2, 2, 2, 3] {
        let message = if number == 0 { report(0) } else { beat(number) };
        socket.send(&message).await;
        let reply = socket.recv().await;
        assert_eq!((reply.error_response, reply.flags), (None, 0), "{number}");
    }
    // The same body again, as after a response that was lost.
    for _ in 0..3 {
        assert_eq!(server.post(&report(4)).await.error_response, None);
    }
    // On a new connection, and in the goodbye.
    let mut socket = server.websocket().await;
    socket.send(&beat(4)).await;
    assert_eq!(socket.recv().await.error_response, None);
    let goodbye =
        v1::AgentToServer { agent_disconnect: Some(v1::AgentDisconnect::default()), ..beat(4) };
    socket.send(&goodbye).await;
    assert_eq!(socket.recv().await.error_response, None);
    server.until_disconnected(&UID).await;
}

#[tokio::test]
async fn a_poll_with_nothing_but_the_instance_uid_keeps_what_is_known() {
    let server = start().await;
    server.post(&report(1)).await;
    let poll = v1::AgentToServer { instance_uid: UID.to_vec().into(), ..Default::default() };
    let reply = server.post(&poll).await;
    assert_eq!((reply.error_response, reply.flags), (None, FULL_STATE), "number 0 is a gap");
    let agent = server.fleet.agent(uid(&UID)).unwrap();
    assert!(agent.capabilities() == MASK && agent.state().agent_description().is_some());
}

#[tokio::test]
async fn a_heartbeat_with_capabilities_0_keeps_them_and_reports_status_need_not_be_set() {
    let server = start().await;
    let mut socket = server.websocket().await;
    let mask = MASK.difference(Does::REPORTS_STATUS);
    socket.send(&full_report(&UID, 1, mask)).await;
    assert_eq!(socket.recv().await.error_response, None);
    socket.send(&heartbeat(&UID, 2, Does::empty())).await;
    assert_eq!(socket.recv().await, bare(&UID));
    assert_eq!(server.fleet.agent(uid(&UID)).unwrap().capabilities(), mask);
    // It is still offered what it accepts.
    server.fleet.set_remote_config(uid(&UID), remote_config("a: 1")).unwrap();
    assert!(socket.recv().await.remote_config.is_some());
}

#[tokio::test]
async fn the_first_message_on_a_reconnect_may_leave_out_what_has_not_changed() {
    let _judged = opamp_spec::judges(&["DELTA-03", "SEQ-03"]);
    let server = start().await;
    let mut socket = server.websocket().await;
    socket.send(&report(1)).await;
    socket.recv().await;
    drop(socket);
    server.until_disconnected(&UID).await;
    let mut socket = server.websocket().await;
    socket.send(&beat(2)).await;
    let reply = socket.recv().await;
    assert_eq!((reply.error_response, reply.flags), (None, 0));
    assert!(server.fleet.agent(uid(&UID)).unwrap().state().agent_description().is_some());
    // Of an Agent nobody knows it is number 2 without a description: it is served, and asked.
    socket.send(&heartbeat(&OTHER, 2, MASK)).await;
    let reply = socket.recv().await;
    assert_eq!((reply.error_response, reply.flags), (None, FULL_STATE));
}

#[tokio::test]
async fn a_config_status_that_regresses_brings_the_same_offer_again() {
    let server = start().await;
    let config = remote_config("a: 1");
    server.fleet.set_default_remote_config(config.clone()).unwrap();
    let mut socket = server.websocket().await;
    socket.send(&report(1)).await;
    let first = socket.recv().await.remote_config.expect("an offer");
    let applied = config_status(config.hash().as_bytes(), v1::RemoteConfigStatuses::Applied);
    socket.send(&v1::AgentToServer { remote_config_status: Some(applied), ..beat(2) }).await;
    assert_eq!(socket.recv().await, bare(&UID));
    drop(socket);
    server.until_disconnected(&UID).await;
    let mut socket = server.websocket().await;
    socket.send(&report(3)).await;
    assert_eq!(socket.recv().await.remote_config, Some(first));
}

#[tokio::test]
async fn an_agent_that_ignores_its_new_instance_uid_is_served_under_the_old_one() {
    let server = start().await;
    let mut socket = server.websocket().await;
    let flags = v1::AgentToServerFlags::RequestInstanceUid as u64;
    socket.send(&v1::AgentToServer { flags, ..report(1) }).await;
    assert!(socket.recv().await.agent_identification.is_some());
    for number in 2..20 {
        socket.send(&beat(number)).await;
        assert_eq!(socket.recv().await, bare(&UID));
    }
    assert_eq!(server.fleet.len(), 1);
}

/// Who does not understand UNAVAILABLE is throttled by HTTP, before there is a connection.
#[tokio::test]
async fn an_overloaded_server_answers_the_handshake_with_503_and_retry_after() {
    let _judged = opamp_spec::judges(&["THR-07", "THR-08"]);
    let server = start().await;
    server.fleet.set_unavailable(Some(std::time::Duration::from_secs(40)));
    let refused = server.websocket_with(&[]).await.err().expect("a refusal");
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    let after: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!(after >= 40, "{after}");
    // Nor do they all look into a body for it.
    let answer = server.request(post(report(1).encode_to_vec())).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers["retry-after"], "40");
}

#[tokio::test]
async fn messages_may_come_in_fragments() {
    let server = start().await;
    let mut socket = server.websocket().await;
    let bytes = framed(&report(1).encode_to_vec());
    let pieces: Vec<_> = bytes.chunks(5).collect();
    for (index, piece) in pieces.iter().enumerate() {
        let kind = if index == 0 { Data::Binary } else { Data::Continue };
        let last = index + 1 == pieces.len();
        let frame = Frame::message(piece.to_vec(), OpCode::Data(kind), last);
        socket.socket.send(Message::Frame(frame)).await.unwrap();
    }
    assert_eq!(socket.recv().await.error_response, None);
}

/// An Agent that probes with HEAD takes 404 for a server that is down.
#[tokio::test]
async fn a_head_probe_is_answered_with_405_and_no_body() {
    let server = start().await;
    for content_type in [None, Some("application/x-protobuf")] {
        let mut request = Request::head("/v1/opamp").header("host", "x");
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let answer = server.request(request.body(Full::default()).unwrap()).await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
        assert!(answer.headers["allow"].to_str().unwrap().contains("POST"));
        assert!(answer.body.is_empty());
    }
}

/// Knows its Agents by a scheme of its own.
struct SecretKey;

impl Handler for SecretKey {
    type Identity = ();

    async fn admit(&self, request: &Parts) -> Result<(), Rejection> {
        let presented = request.headers.get("authorization").map(|value| value.as_bytes());
        match presented {
            Some(b"Secret-Key 123" | b"ApiKey 123") => Ok(()),
            _ => Err(Rejection::unauthorized(http::HeaderValue::from_static("Secret-Key"))),
        }
    }
}

#[tokio::test]
async fn other_authorization_schemes_and_other_paths_are_possible() {
    let _judged = opamp_spec::judges(&["AUTH-01", "NET-05"]);
    let server = Server::bind("127.0.0.1:0").path("/api/v1/opamp");
    let server = run(server.listen(SecretKey).await.unwrap());
    for (authorization, expected) in
        [("Secret-Key 123", 200), ("ApiKey 123", 200), ("Bearer 123", 401), ("", 401)]
    {
        let mut request = post(report(1).encode_to_vec());
        *request.uri_mut() = "/api/v1/opamp".parse().unwrap();
        request.headers_mut().insert("authorization", authorization.parse().unwrap());
        assert_eq!(server.request(request).await.status.as_u16(), expected, "{authorization}");
    }
}

#[tokio::test]
async fn permessage_deflate_may_be_offered_and_is_not_taken() {
    let _judged = opamp_spec::judges(&["SIZE-05"]);
    let server = start().await;
    let offer = "permessage-deflate; client_max_window_bits";
    let mut socket =
        server.websocket_with(&[("sec-websocket-extensions", offer)]).await.expect("an upgrade");
    socket.send(&report(1)).await;
    assert_eq!(socket.recv().await.error_response, None);
    // A frame that is compressed all the same is no frame of this connection.
    let mut frame = Frame::message(vec![0; 10], OpCode::Data(Data::Binary), true);
    frame.header_mut().rsv1 = true;
    socket.socket.send(Message::Frame(frame)).await.unwrap();
    assert_eq!(socket.recv_close().await, 1002);
}

#[tokio::test]
async fn a_response_has_exactly_status_200_and_exactly_the_content_type() {
    let _judged = opamp_spec::judges(&["HTTP-03"]);
    let server = start().await;
    let mut unavailable = false;
    for body in [report(1).encode_to_vec(), vec![0xff; 20], Vec::new(), report(2).encode_to_vec()] {
        let mut request = post(body);
        let sent = "application/x-protobuf; charset=utf-8; messageType=\"x\"";
        request.headers_mut().insert("content-type", sent.parse().unwrap());
        let answer = server.request(request).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.headers["content-type"], "application/x-protobuf");
        if !std::mem::replace(&mut unavailable, true) {
            server.fleet.set_unavailable(None);
        }
    }
}

#[tokio::test]
async fn every_reply_echoes_the_uid_and_errors_do() {
    let _judged = opamp_spec::judges(&["ID-10"]);
    let server = start().await;
    let mut socket = server.websocket().await;
    socket.send(&report(1)).await;
    assert_eq!(socket.recv().await.instance_uid, &UID[..]);
    // Malformed behind the uid: a part that is no message.
    let broken = [&beat(2).encode_to_vec()[..], &[0x1a, 1, 0xff]].concat();
    socket.send_raw(framed(&broken)).await;
    let reply = socket.recv().await;
    assert!(reply.error_response.is_some());
    assert_eq!(reply.instance_uid, &UID[..]);
    server.fleet.set_unavailable(None);
    socket.send(&beat(3)).await;
    let reply = socket.recv().await;
    assert_eq!(
        (reply.error_response.unwrap().r#type, &reply.instance_uid[..]),
        (UNAVAILABLE, &UID[..])
    );
    server.fleet.set_available();
    // A push does as well.
    server.fleet.request_full_state(uid(&UID)).unwrap();
    assert_eq!(socket.recv().await.instance_uid, &UID[..]);
}

#[tokio::test]
async fn an_offer_without_a_heartbeat_interval_is_not_made() {
    let opamp = v1::OpAmpConnectionSettings {
        destination_endpoint: "wss://opamp.example/v1/opamp".to_owned(),
        ..Default::default()
    };
    let offers = v1::ConnectionSettingsOffers { opamp: Some(opamp), ..Default::default() };
    let refused = ConnectionSettings::new(offers).expect_err("0 takes some Agents offline");
    assert_eq!(refused.field(), "opamp.heartbeat_interval_seconds");
}

/// Some clients read no message above 128 KiB.
#[tokio::test]
async fn replies_are_kept_below_a_limit() {
    let _judged = opamp_spec::judges(&["SIZE-12", "SIZE-13"]);
    const LIMIT: usize = 128 * 1024;
    let server =
        start_with(AcceptAll, |config, _| config.limits = config.limits.with_max_send(LIMIT)).await;
    let mut socket = server.websocket().await;
    socket.send(&report(1)).await;
    socket.recv().await;
    let refused = server.fleet.set_remote_config(uid(&UID), remote_config(&"x".repeat(LIMIT)));
    assert!(matches!(refused, Err(OperationError::TooLarge { limit: LIMIT, .. })));
    server.fleet.set_remote_config(uid(&UID), remote_config(&"x".repeat(LIMIT - 1000))).unwrap();
    assert!(socket.recv_raw().await.len() <= LIMIT);
}

#[tokio::test]
async fn custom_capabilities_are_told_to_each_agent_on_a_shared_connection() {
    let _judged = opamp_spec::judges(&["CUST-01"]);
    let names = ["org.example.chat"];
    let server = start_with(AcceptAll, |config, _| {
        config.custom_capabilities = CustomCapabilities::new(names).unwrap();
    })
    .await;
    let mut socket = server.websocket().await;
    for agent in [UID, OTHER, [9; 16]] {
        socket.send(&full_report(&agent, 1, MASK)).await;
        let told = socket.recv().await.custom_capabilities.expect("they are told");
        assert_eq!(told.capabilities, names);
        socket.send(&heartbeat(&agent, 2, MASK)).await;
        assert_eq!(socket.recv().await, bare(&agent), "once");
    }
}

#[tokio::test]
async fn nothing_but_binary_messages_is_sent() {
    let server = start().await;
    let mut socket = server.websocket().await;
    socket.send(&report(1)).await;
    socket.send_raw(vec![0xff; 10]).await;
    server.until(|fleet| fleet.agent(uid(&UID)).is_some()).await;
    server.fleet.set_remote_config(uid(&UID), remote_config("a: 1")).unwrap();
    for _ in 0..3 {
        let message = soon(socket.socket.next()).await.expect("a message").expect("no error");
        assert!(matches!(message, Message::Binary(_)), "{message:?}");
    }
}
