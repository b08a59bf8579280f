//! What is reported when: the first report, changes, heartbeats, polls.

use std::time::{Duration, Instant};

use opamp_client::core::{Event, Transport};
use opamp_proto::{AgentCapabilities, InstanceUid};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Agent, agent, healthy, http, is_bare, quick, reply_to, soon, websocket};

#[tokio::test]
async fn the_first_report_over_websocket() {
    let _judged = opamp_spec::judges(&[
        "NET-03",
        "NET-07",
        "NET-08",
        "WS-01",
        "WS-02",
        "WS-03",
        "WS-06",
        "ID-01",
        "ID-02",
        "ID-05",
        "ID-06",
        "CAP-01",
        "CAP-02",
        "CAP-06",
        "STATUS-01",
        "STATUS-02",
        "EST-01",
        "AUTH-01",
        "AUTH-02",
    ]);
    let server = websocket::Server::start().await;
    let builder = agent(server.url())
        .header("Authorization", "Bearer token")
        .attribute("host.name", "here")
        .health(healthy("fine"));
    let mut agent = Agent::start(builder);

    let mut peer = server.accept().await;
    assert_eq!(peer.path_and_query, "/v1/opamp");
    assert_eq!(peer.headers["authorization"], "Bearer token");
    assert_eq!(peer.headers["host"], format!("127.0.0.1:{}", server.port()));
    assert!(peer.headers.get("content-type").is_none());

    let Some(Message::Binary(bytes)) = peer.receive().await else { panic!("not binary") };
    assert_eq!(bytes[0], 0);
    let report =
        <opamp_proto::v1::AgentToServer as opamp_proto::Message>::decode(bytes.slice(1..)).unwrap();
    let uid = InstanceUid::try_from(&*report.instance_uid).unwrap();
    assert!(uid.is_v7());
    assert_eq!(uid, agent.client.instance_uid());
    let capabilities = AgentCapabilities::from_bits_retain(report.capabilities);
    assert_eq!(
        capabilities,
        AgentCapabilities::REPORTS_STATUS
            | AgentCapabilities::REPORTS_HEALTH
            | AgentCapabilities::REPORTS_HEARTBEAT
    );
    assert_eq!(report.agent_description.as_ref().unwrap().identifying_attributes.len(), 1);
    assert_eq!(report.agent_description.as_ref().unwrap().non_identifying_attributes.len(), 1);
    assert_eq!(report.health, Some(healthy("fine")));

    peer.send(&reply_to(&report)).await;
    agent.until(|event| matches!(event, Event::ServerCapabilities(_)).then_some(())).await;
    let status = agent.client.status();
    assert!(status.connected && !status.stopped && status.server_capabilities.is_some());
}

#[tokio::test]
async fn the_first_report_over_http() {
    let _judged = opamp_spec::judges(&[
        "NET-03",
        "NET-07",
        "HTTP-01",
        "HTTP-02",
        "HTTP-13",
        "HTTP-14",
        "HTTP-22",
        "HTTP-23",
        "HTTP-26",
        "ID-01",
        "CAP-01",
        "CAP-02",
        "CAP-06",
        "STATUS-01",
        "STATUS-02",
        "AUTH-01",
    ]);
    let server = http::Server::start().await;
    let builder =
        agent(server.url()).header("Authorization", "Bearer token").health(healthy("fine"));
    let mut agent = Agent::start(builder);

    let request = server.request().await;
    assert_eq!((request.method.as_str(), request.path_and_query.as_str()), ("POST", "/v1/opamp"));
    assert_eq!(request.header("content-type"), Some("application/x-protobuf"));
    assert_eq!(request.header("authorization"), Some("Bearer token"));
    assert_eq!(request.header("accept-encoding"), Some("gzip"));
    assert_eq!(request.header("content-encoding"), None);
    assert_ne!(request.body[0], 0, "no header byte");
    let report = request.report();
    let uid = InstanceUid::try_from(&*report.instance_uid).unwrap();
    assert_eq!(request.header("opamp-instance-uid"), Some(uid.to_string().as_str()));
    assert_eq!(request.headers.get_all("opamp-instance-uid").iter().count(), 1);
    assert!(report.agent_description.is_some());
    assert_eq!(report.health, Some(healthy("fine")));

    assert!(!agent.client.status().connected);
    request.reply(&reply_to(&report)).await;
    agent.until(|event| matches!(event, Event::Connected).then_some(())).await;
    assert!(agent.client.status().connected);
}

#[tokio::test]
async fn path_and_query_are_the_users() {
    let _judged = opamp_spec::judges(&["NET-04"]);
    let server = websocket::Server::start().await;
    let _agent = Agent::start(agent(format!("{}/fleet/a?tenant=b%20c", server.url())));
    assert_eq!(server.accept().await.path_and_query, "/fleet/a?tenant=b%20c");

    let server = http::Server::start().await;
    let _agent = Agent::start(agent(format!("{}/fleet/a?tenant=b%20c", server.url())));
    assert_eq!(server.request().await.path_and_query, "/fleet/a?tenant=b%20c");
}

#[tokio::test]
async fn the_transport_can_be_chosen_against_the_scheme() {
    let _judged = opamp_spec::judges(&["NET-02"]);
    let server = websocket::Server::start().await;
    let url = server.url().replace("ws://", "http://");
    let _agent = Agent::start(agent(url).transport(Transport::WebSocket));
    server.welcome().await;

    let server = http::Server::start().await;
    let url = server.url().replace("http://", "ws://");
    let _agent = Agent::start(agent(url).transport(Transport::Http));
    server.welcome().await;
}

#[tokio::test]
async fn an_ipv6_literal_reaches_both_kinds_of_server() {
    let Ok(listener) = TcpListener::bind("[::1]:0").await else {
        // A host without IPv6 cannot tell.
        return;
    };
    let server = websocket::Server::on(listener);
    let authority = format!("[::1]:{}", server.port());
    let _agent = Agent::start(agent(format!("ws://{authority}")));
    assert_eq!(server.accept().await.headers["host"], authority);

    let server = http::Server::on(TcpListener::bind("[::1]:0").await.unwrap());
    let authority = format!("[::1]:{}", server.port());
    let _agent = Agent::start(agent(format!("http://{authority}")));
    assert_eq!(server.request().await.header("host"), Some(authority.as_str()));
}

#[tokio::test]
async fn changes_before_the_driver_runs_are_in_the_first_report() {
    let server = websocket::Server::start().await;
    let (client, _events, driver) = agent(server.url()).build().unwrap();
    client.set_health(healthy("set early"));
    let driver = tokio::spawn(driver.run());
    let report = server.accept().await.report().await;
    assert_eq!(report.health, Some(healthy("set early")));
    driver.abort();
}

#[tokio::test]
async fn only_what_changed_is_reported_and_equal_values_are_silence() {
    let _judged = opamp_spec::judges(&[
        "STATUS-04",
        "STATUS-17",
        "STATUS-22",
        "DELTA-01",
        "DELTA-02",
        "SEQ-01",
        "WS-11",
    ]);
    let server = websocket::Server::start().await;
    let agent = Agent::start(agent(server.url()).health(healthy("one")));
    let (mut peer, first) = server.welcome().await;

    agent.client.set_health(healthy("one"));
    agent.client.set_health(healthy("two"));
    let report = peer.report().await;
    assert_eq!(report.sequence_num, first.sequence_num + 1);
    assert_eq!(report.health, Some(healthy("two")));
    assert_eq!(report.agent_description, None);
}

#[tokio::test]
async fn changes_wait_for_the_reply_and_become_one_report() {
    let _judged = opamp_spec::judges(&["RETRY-07", "RETRY-08"]);
    let server = websocket::Server::start().await;
    let agent = Agent::start(agent(server.url()));
    let mut peer = server.accept().await;
    let first = peer.report().await;
    for number in 0..100 {
        agent.client.set_health(healthy(&number.to_string()));
        tokio::task::yield_now().await;
    }
    peer.send(&reply_to(&first)).await;
    let report = peer.report().await;
    assert_eq!(report.health, Some(healthy("99")));
    assert_eq!(report.sequence_num, first.sequence_num + 1);
}

#[tokio::test]
async fn a_report_without_reply_holds_the_next_one_back_only_for_the_reply_timeout() {
    let _judged = opamp_spec::judges(&["RETRY-02"]);
    let server = websocket::Server::start().await;
    let timeout = Duration::from_millis(150);
    let agent = Agent::start(agent(server.url()).configure(move |c| c.reply_timeout = timeout));
    let mut peer = server.accept().await;
    let asked = Instant::now();
    peer.report().await;
    agent.client.set_health(healthy("late"));
    assert_eq!(peer.report().await.health, Some(healthy("late")));
    assert!(asked.elapsed() > timeout / 2, "{:?}", asked.elapsed());
}

#[tokio::test]
async fn heartbeats_follow_the_last_message() {
    let _judged =
        opamp_spec::judges(&["HB-01", "HB-02", "HB-06", "HB-09", "HB-12", "HB-20", "SEQ-01"]);
    let server = websocket::Server::start().await;
    let _agent = Agent::start(agent(server.url()).configure(quick));
    let (mut peer, first) = server.welcome().await;
    let mut number = first.sequence_num;
    let mut last = Instant::now();
    for _ in 0..3 {
        let heartbeat = peer.report().await;
        // What is measured is when the test reads; the margin covers a busy machine.
        assert!(last.elapsed() > Duration::from_millis(50), "{:?}", last.elapsed());
        last = Instant::now();
        assert!(is_bare(&heartbeat), "{heartbeat:?}");
        assert_eq!(heartbeat.capabilities, first.capabilities);
        number += 1;
        assert_eq!(heartbeat.sequence_num, number);
        peer.send(&reply_to(&heartbeat)).await;
    }
}

#[tokio::test]
async fn without_an_interval_there_are_no_heartbeats() {
    let _judged = opamp_spec::judges(&["HB-14"]);
    let server = websocket::Server::start().await;
    let agent = Agent::start(agent(server.url()).configure(|config| {
        config.heartbeat_interval = None;
        config.ping_interval = Some(Duration::from_millis(50));
    }));
    let (mut peer, first) = server.welcome().await;
    let capabilities = AgentCapabilities::from_bits_retain(first.capabilities);
    assert!(!capabilities.contains(AgentCapabilities::REPORTS_HEARTBEAT));
    // Several rounds of silence later, nothing but pings has come.
    for _ in 0..4 {
        let message = peer.receive().await;
        assert!(matches!(message, Some(Message::Ping(_))), "{message:?}");
    }
    drop(agent);
}

#[tokio::test]
async fn polls_go_on_at_the_interval_and_carry_no_status() {
    let _judged = opamp_spec::judges(&["HTTP-05", "HTTP-06", "HTTP-08", "HB-20", "SEQ-01"]);
    let server = http::Server::start().await;
    let _agent = Agent::start(agent(server.url()).configure(quick).health(healthy("fine")));
    let first = server.welcome().await;
    for number in 1..4 {
        let asked = Instant::now();
        let poll = server.welcome().await;
        assert!(asked.elapsed() > Duration::from_millis(50), "{:?}", asked.elapsed());
        assert!(is_bare(&poll), "{poll:?}");
        assert_eq!(poll.sequence_num, first.sequence_num + number);
    }
}

#[tokio::test]
async fn one_request_is_outstanding_and_the_next_follows_at_once() {
    let _judged = opamp_spec::judges(&["HTTP-11", "HTTP-12"]);
    let server = http::Server::start().await;
    // Polls would be due many times over while the first request is unanswered.
    let agent = Agent::start(agent(server.url()).configure(|config| {
        config.polling_interval = Duration::from_millis(10);
    }));
    let request = server.request().await;
    agent.client.set_health(healthy("changed"));
    let second = tokio::time::timeout(Duration::from_millis(200), server.accept_tcp()).await;
    assert!(second.is_err(), "a second request while the first is unanswered");
    let first = request.report();
    request.reply(&reply_to(&first)).await;
    let next = server.request().await.report();
    assert_eq!(next.health, Some(healthy("changed")));
    assert_eq!(next.sequence_num, first.sequence_num + 1);
}

#[tokio::test]
async fn a_new_instance_uid_is_used_from_the_next_message_on() {
    let _judged = opamp_spec::judges(&["ID-12", "ID-13", "ID-16", "HTTP-23"]);
    let server = http::Server::start().await;
    let agent = Agent::start(agent(server.url()).configure(quick));
    let request = server.request().await;
    let old = request.report();
    let new = InstanceUid::generate();
    let mut reply = reply_to(&old);
    reply.agent_identification =
        Some(opamp_proto::v1::AgentIdentification { new_instance_uid: new.to_bytes() });
    request.reply(&reply).await;

    let request = server.request().await;
    assert_eq!(request.report().instance_uid, new.to_bytes());
    assert_eq!(request.header("opamp-instance-uid"), Some(new.to_string().as_str()));
    // Too short to be adopted.
    let mut reply = reply_to(&request.report());
    reply.agent_identification =
        Some(opamp_proto::v1::AgentIdentification { new_instance_uid: b"short".as_slice().into() });
    request.reply(&reply).await;
    assert_eq!(server.welcome().await.instance_uid, new.to_bytes());
    assert_eq!(agent.client.instance_uid(), new);
}

#[tokio::test]
async fn full_state_is_told_when_the_server_asks() {
    let _judged = opamp_spec::judges(&["SEQ-07", "SEQ-08"]);
    let server = websocket::Server::start().await;
    let _agent = Agent::start(agent(server.url()).health(healthy("fine")).configure(quick));
    let (mut peer, first) = server.welcome().await;
    let mut ask = reply_to(&first);
    ask.flags = opamp_proto::v1::ServerToAgentFlags::ReportFullState as u64;
    peer.send(&ask).await;
    let full = peer.status_report().await;
    assert_eq!(
        (full.agent_description, full.health),
        (first.agent_description.clone(), first.health.clone())
    );
    let mut plain = reply_to(&first);
    plain.flags = 0;
    peer.send(&plain).await;
    let next = soon(peer.report()).await;
    assert!(is_bare(&next), "a heartbeat, not a second full report: {next:?}");
}
