//! Servers that refuse the handshake or the request with an HTTP status.

use std::time::{Duration, SystemTime};

use opamp_client::core::{Event, FailureKind, Parts};

use crate::support::{Agent, agent, healthy, http, reply_to, websocket};

/// A WebSocket handshake is an HTTP request; this server answers it as one.
async fn refuse_handshake(status: u16, headers: &[(&str, &str)]) -> (FailureKind, Duration) {
    let server = http::Server::start().await;
    let url = server.url().replace("http://", "ws://");
    let mut agent = Agent::start(agent(url).header("Authorization", "Bearer token"));
    let request = server.request().await;
    assert_eq!(request.method, "GET");
    assert_eq!(request.header("upgrade"), Some("websocket"));
    request.answer(status, headers, b"why not").await;
    let (failure, retry_in) = agent.failure().await;
    assert!(!agent.client.status().connected);
    if retry_in < Duration::from_secs(1) {
        // It is tried again, and says no more than before.
        assert_eq!(server.request().await.header("authorization"), Some("Bearer token"));
    }
    (failure.kind, retry_in)
}

async fn refuse_request(status: u16, headers: &[(&str, &str)]) -> (FailureKind, Duration) {
    let server = http::Server::start().await;
    let mut agent = Agent::start(agent(server.url()).health(healthy("fine")));
    let request = server.request().await;
    let first = request.report();
    request.answer(status, headers, b"why not").await;
    let (failure, retry_in) = agent.failure().await;
    if retry_in < Duration::from_secs(1) {
        // What was refused is still untold.
        let again = server.welcome().await;
        assert_eq!(again.health, first.health);
        assert_eq!(again.agent_description, first.agent_description);
        assert_eq!(again.sequence_num, first.sequence_num + 1);
    }
    (failure.kind, retry_in)
}

const REFUSALS: [(u16, FailureKind); 6] = [
    (401, FailureKind::Unauthorized),
    (403, FailureKind::Unauthorized),
    (404, FailureKind::NotFound),
    (429, FailureKind::Throttled),
    (503, FailureKind::Throttled),
    (500, FailureKind::UnexpectedStatus(500)),
];

#[tokio::test]
async fn each_refused_handshake_has_its_class_and_is_tried_again() {
    let _judged = opamp_spec::judges(&["EST-03", "AUTH-02", "AUTH-05", "THR-10"]);
    for (status, kind) in REFUSALS {
        let (seen, retry_in) = refuse_handshake(status, &[]).await;
        assert_eq!(seen, kind);
        assert!(retry_in < Duration::from_secs(1), "{status}: {retry_in:?}");
    }
    assert_eq!(refuse_handshake(413, &[]).await.0, FailureKind::UnexpectedStatus(413));
    assert_eq!(refuse_handshake(200, &[]).await.0, FailureKind::UnexpectedStatus(200));
}

/// One attempt, one event: whoever counts failures counts attempts.
/// W-5 of the reference: it was two.
#[tokio::test]
async fn each_attempt_that_fails_is_one_event() {
    for scheme in ["ws", "http"] {
        let server = http::Server::start().await;
        let builder = agent(server.url().replace("http://", &format!("{scheme}://")));
        let mut agent = Agent::start(builder);
        for _ in 0..3 {
            server.request().await.answer(307, &[("Location", "/elsewhere")], b"").await;
            server.request().await.answer(500, &[], b"").await;
        }
        server.request().await.answer(401, &[], b"").await;
        let mut kinds = Vec::new();
        while kinds.last() != Some(&FailureKind::Unauthorized) {
            kinds.push(agent.failure().await.0.kind);
        }
        let refused = FailureKind::UnexpectedStatus(500);
        assert_eq!(kinds, [refused, refused, refused, FailureKind::Unauthorized]);
    }
}

#[tokio::test]
async fn each_refused_request_has_its_class_and_is_tried_again() {
    let _judged = opamp_spec::judges(&["EST-03", "AUTH-05", "THR-10", "DELTA-04", "RETRY-03"]);
    for (status, kind) in REFUSALS {
        let (seen, retry_in) = refuse_request(status, &[]).await;
        assert_eq!(seen, kind);
        assert!(retry_in < Duration::from_secs(1), "{status}: {retry_in:?}");
    }
    // Only 200 is the answer to a report, whatever else there is in the 2xx.
    assert_eq!(refuse_request(204, &[]).await.0, FailureKind::UnexpectedStatus(204));
}

#[tokio::test]
async fn retry_after_is_kept_on_both_transports() {
    let _judged = opamp_spec::judges(&["THR-09", "THR-10", "EST-05"]);
    let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(300));
    for status in [429, 503] {
        for (value, least, most) in [("100", 100, 110), (date.as_str(), 290, 330)] {
            let headers = [("Retry-After", value)];
            for (_, wait) in
                [refuse_handshake(status, &headers).await, refuse_request(status, &headers).await]
            {
                assert!(wait >= Duration::from_secs(least), "{status} {value}: {wait:?}");
                assert!(wait <= Duration::from_secs(most), "{status} {value}: {wait:?}");
            }
        }
        // Nonsense is as good as nothing.
        let (_, wait) = refuse_handshake(status, &[("Retry-After", "soon")]).await;
        assert!(wait < Duration::from_secs(1), "{wait:?}");
    }
}

#[tokio::test]
async fn the_wait_is_really_waited() {
    let _judged = opamp_spec::judges(&["THR-09"]);
    let server = http::Server::start().await;
    let mut agent = Agent::start(agent(server.url()));
    let asked = std::time::Instant::now();
    server.request().await.answer(503, &[("Retry-After", "1")], b"").await;
    let (_, retry_in) = agent.failure().await;
    // A change does not cut the wait short.
    agent.client.set_health(healthy("changed"));
    let again = server.welcome().await;
    assert!(asked.elapsed() >= Duration::from_secs(1) && retry_in >= Duration::from_secs(1));
    assert_eq!(again.health, Some(healthy("changed")));
    assert!(again.agent_description.is_some());
}

#[tokio::test]
async fn a_request_refused_for_its_size_or_form_is_not_repeated() {
    let _judged = opamp_spec::judges(&["SIZE-24", "ERR-14"]);
    for status in [413, 400] {
        let server = http::Server::start().await;
        let builder = agent(server.url())
            .health(healthy(&"large ".repeat(100)))
            .configure(|config| config.polling_interval = Duration::from_millis(50));
        let mut agent = Agent::start(builder);
        server.request().await.answer(status, &[], b"").await;
        let parts = agent
            .until(|event| match event {
                Event::Refused { parts, .. } => Some(parts),
                _ => None,
            })
            .await;
        assert!(parts.contains(Parts::HEALTH), "{status}: {parts:?}");
        for _ in 0..3 {
            let next = server.welcome().await;
            assert_eq!(next.health, None, "{status}");
        }
        agent.client.set_health(healthy("small"));
        while server.welcome().await.health != Some(healthy("small")) {}
    }
}

#[tokio::test]
async fn an_unavailable_server_is_left_and_told_everything_again() {
    use opamp_proto::v1::server_error_response::Details;
    use opamp_proto::v1::{RetryInfo, ServerErrorResponse, ServerErrorResponseType, ServerToAgent};
    let _judged = opamp_spec::judges(&["THR-02", "THR-04", "THR-13", "ERR-04", "CLOSE-02"]);
    let wait = Duration::from_millis(200);
    let server = websocket::Server::start().await;
    let agent = Agent::start(agent(server.url()).health(healthy("fine")).accept_remote_config());
    let mut peer = server.accept().await;
    let first = peer.report().await;
    let refusal = ServerToAgent {
        error_response: Some(ServerErrorResponse {
            r#type: ServerErrorResponseType::Unavailable.into(),
            details: Some(Details::RetryInfo(RetryInfo {
                retry_after_nanoseconds: wait.as_nanos().try_into().unwrap(),
            })),
            ..Default::default()
        }),
        ..reply_to(&first)
    };
    let asked = std::time::Instant::now();
    peer.send(&refusal).await;
    peer.goodbye().await;
    let (_peer, again) = server.welcome().await;
    assert!(asked.elapsed() >= wait, "{:?}", asked.elapsed());
    assert_eq!((again.agent_description, again.health), (first.agent_description, first.health));
    drop(agent);
}
