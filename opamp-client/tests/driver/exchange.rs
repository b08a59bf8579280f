//! The bodies of HTTP responses: coded, too large, cut off, of another kind.

use std::time::Duration;

use opamp_client::core::{Event, Failure, FailureKind, PeerMisbehaved};
use opamp_proto::{Message as _, MessageLimits, gzip, v1};

use crate::support::{Agent, agent, healthy, http, offer_to, reply_to, soon};

const LIMIT: usize = 4096;

/// A client that takes no body above [`LIMIT`], its first request, and the report in it.
async fn limited() -> (http::Server, Agent, http::Request, v1::AgentToServer) {
    let server = http::Server::start().await;
    let builder = agent(server.url())
        .accept_remote_config()
        .health(healthy("fine"))
        .configure(|config| config.limits = MessageLimits::new().with_max_receive(LIMIT));
    let agent = Agent::start(builder);
    let request = server.request().await;
    let report = request.report();
    (server, agent, request, report)
}

/// A reply with an offer that is exactly this long.
fn reply_of(len: usize, report: &v1::AgentToServer) -> Vec<u8> {
    let reply = |body: usize| offer_to(report, vec![b'x'; body], "h1").encode_to_vec();
    let overhead = reply(len / 2).len() - len / 2;
    // Length prefixes grow with what they count: the second guess is right.
    let reply = reply(len - overhead);
    assert_eq!(reply.len(), len);
    reply
}

/// The exchange counts as failed: the same is told again, and no offer came of it.
async fn failed(server: &http::Server, agent: &mut Agent) -> Failure {
    let (failure, _) = agent.failure().await;
    let again = server.welcome().await;
    assert!(again.agent_description.is_some() && again.health.is_some(), "{again:?}");
    assert_eq!(again.remote_config_status, Some(v1::RemoteConfigStatus::default()));
    failure
}

#[tokio::test]
async fn a_body_of_exactly_the_limit_is_taken() {
    let _judged = opamp_spec::judges(&["SIZE-18", "SIZE-20", "HTTP-26"]);
    for coded in [false, true] {
        let (_server, mut agent, request, report) = limited().await;
        let body = reply_of(LIMIT, &report);
        if coded {
            let headers = [("Content-Encoding", "gzip")];
            request.answer(200, &headers, &gzip::compress(&body)).await;
        } else {
            request.answer(200, &[], &body).await;
        }
        assert!(agent.offer().await.config().config_map[""].body.len() > LIMIT / 2);
    }
}

#[tokio::test]
async fn a_body_above_the_limit_is_a_failed_exchange() {
    let _judged = opamp_spec::judges(&["SIZE-25", "SIZE-27", "SIZE-28", "SIZE-29"]);
    let (server, mut agent, request, report) = limited().await;
    request.answer(200, &[], &reply_of(LIMIT + 1, &report)).await;
    let failure = failed(&server, &mut agent).await;
    assert_eq!(failure.kind, FailureKind::BadResponse);
    assert!(failure.message.contains("4096"), "{}", failure.message);
}

#[tokio::test]
async fn a_body_above_the_limit_is_not_read_to_its_end() {
    let _judged = opamp_spec::judges(&["SIZE-25", "SIZE-27"]);
    let (_server, mut agent, mut request, _) = limited().await;
    // The end of this body never comes.
    request.write(http::head(200, &[], 1 << 40).as_bytes()).await;
    request.write(&[0; LIMIT + 1]).await;
    assert_eq!(agent.failure().await.0.kind, FailureKind::BadResponse);
    request.dropped().await;
}

/// W-1 of the reference: what was compressed got around the limit.
#[tokio::test]
async fn a_gzip_bomb_is_a_failed_exchange() {
    let _judged = opamp_spec::judges(&["SIZE-26", "SIZE-27", "SIZE-28"]);
    let (server, mut agent, request, report) = limited().await;
    let bomb = gzip::compress(&reply_of(LIMIT + 1, &report));
    assert!(bomb.len() < LIMIT / 10);
    request.answer(200, &[("Content-Encoding", "gzip")], &bomb).await;
    assert_eq!(failed(&server, &mut agent).await.kind, FailureKind::BadResponse);
}

#[tokio::test]
async fn a_body_in_a_coding_that_cannot_be_read_is_a_failed_exchange() {
    for (coding, body) in [
        ("br", &b"whatever"[..]),
        ("gzip, gzip", &gzip::compress(b"")),
        ("gzip", b"not gzip"),
        ("gzip", b""),
    ] {
        let (server, mut agent, request, _) = limited().await;
        request.answer(200, &[("Content-Encoding", coding)], body).await;
        let failure = failed(&server, &mut agent).await;
        assert_eq!(failure.kind, FailureKind::BadResponse, "{coding}");
    }
}

#[tokio::test]
async fn codings_and_types_are_read_tolerantly() {
    for headers in [
        [("Content-Encoding", "GZip"), ("Content-Type", "text/html")],
        [("Content-Encoding", "x-gzip"), ("Content-Type", "application/x-protobuf; v=1")],
    ] {
        let (_server, mut agent, request, report) = limited().await;
        let body = gzip::compress(&reply_of(1000, &report));
        request.answer(200, &headers, &body).await;
        assert_eq!(agent.offer().await.hash(), "h1");
    }
    let (_server, mut agent, request, report) = limited().await;
    request.answer(200, &[("Content-Encoding", "identity")], &reply_of(1000, &report)).await;
    assert_eq!(agent.offer().await.hash(), "h1");
}

#[tokio::test]
async fn a_body_that_is_no_message_is_a_failed_exchange() {
    let (server, mut agent, request, _) = limited().await;
    request.answer(200, &[], b"<html>It works!</html>").await;
    agent
        .until(|event| {
            matches!(event, Event::PeerMisbehaved(PeerMisbehaved::Malformed(_))).then_some(())
        })
        .await;
    assert_eq!(failed(&server, &mut agent).await.kind, FailureKind::BadResponse);
}

#[tokio::test]
async fn an_empty_body_is_an_empty_message() {
    let (server, mut agent, request, _) = limited().await;
    request.answer(200, &[], b"").await;
    agent.until(|event| matches!(event, Event::Connected).then_some(())).await;
    agent.client.set_health(healthy("two"));
    let next = server.welcome().await;
    assert_eq!((next.health, next.agent_description), (Some(healthy("two")), None));
}

#[tokio::test]
async fn a_response_for_another_agent_is_a_failed_exchange() {
    let (server, mut agent, request, report) = limited().await;
    let mut reply = offer_to(&report, "not for you", "h1");
    reply.instance_uid = vec![7; 16].into();
    request.reply(&reply).await;
    assert_eq!(failed(&server, &mut agent).await.kind, FailureKind::BadResponse);
}

#[tokio::test]
async fn a_response_cut_off_is_a_failed_exchange() {
    let _judged = opamp_spec::judges(&["DELTA-04", "RETRY-03"]);
    let (server, mut agent, mut request, report) = limited().await;
    let body = reply_of(1000, &report);
    request.write(http::head(200, &[], body.len()).as_bytes()).await;
    request.write(&body[..500]).await;
    drop(request);
    failed(&server, &mut agent).await;
}

#[tokio::test]
async fn something_else_than_http_is_a_failed_exchange() {
    let (server, mut agent, mut request, _) = limited().await;
    request.write(b"220 mail.example.com ESMTP\r\n").await;
    drop(request);
    failed(&server, &mut agent).await;
}

/// The server takes the request and says nothing: the exchange ends with its timeout.
/// W-19 of the reference: it was waited for without end.
#[tokio::test]
async fn a_response_that_never_comes_is_given_up() {
    let _judged = opamp_spec::judges(&["RETRY-01", "DELTA-04"]);
    let server = http::Server::start().await;
    let builder = agent(server.url()).configure(|config| {
        config.connect_timeout = Duration::from_millis(200);
    });
    let mut agent = Agent::start(builder);
    let unanswered = server.request().await;
    let (failure, _) = agent.failure().await;
    assert_eq!(failure.kind, FailureKind::Unreachable);
    let again = server.welcome().await;
    assert_eq!(again.agent_description, unanswered.report().agent_description);
    unanswered.dropped().await;
}

#[tokio::test]
async fn a_request_above_the_limit_is_not_made() {
    let _judged = opamp_spec::judges(&["SIZE-33", "SIZE-34", "SIZE-35"]);
    let server = http::Server::start().await;
    let builder = agent(server.url())
        .health(healthy(&"x".repeat(1000)))
        .configure(|config| config.limits = MessageLimits::new().with_max_send(512));
    let mut agent = Agent::start(builder);
    let request = server.request().await;
    assert!(request.body.len() <= 512);
    let report = request.report();
    assert!(report.health.is_none() && report.agent_description.is_some());
    request.reply(&reply_to(&report)).await;
    agent.until(|event| matches!(event, Event::TooLargeToSend { .. }).then_some(())).await;
}

#[tokio::test]
async fn connections_are_kept_alive_and_a_closed_one_is_replaced() {
    let _judged = opamp_spec::judges(&["CLOSE-09"]);
    let server = http::Server::start().await;
    let agent = Agent::start(agent(server.url()));
    let mut tcp = server.accept_tcp().await;
    let reply = v1::ServerToAgent::default().encode_to_vec();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", reply.len());
    for health in ["one", "two"] {
        soon(http::read_request(&mut tcp)).await;
        tokio::io::AsyncWriteExt::write_all(&mut tcp, head.as_bytes()).await.unwrap();
        agent.client.set_health(healthy(health));
    }
    soon(http::read_request(&mut tcp)).await;
    drop(tcp);
    assert_eq!(server.welcome().await.health, Some(healthy("two")));
}
