//! Compression of requests, and servers that cannot read it.

use ::http::Method;
use opamp_client::core::Event;
use opamp_proto::{Message as _, gzip, v1};

use crate::support::http::{Request, Server};
use crate::support::{Agent, agent, effective, reply_to};

/// A report that is worth compressing.
fn large(fill: u8) -> v1::EffectiveConfig {
    effective(vec![fill; 100_000])
}

async fn reply_compressed(request: Request, message: &v1::ServerToAgent) {
    let body = gzip::compress(&message.encode_to_vec());
    request.answer(200, &[("Content-Encoding", "gzip")], &body).await;
}

fn is_compressed(request: &Request) -> bool {
    let announced = request.header("content-encoding") == Some("gzip");
    // Whatever the header says, the body is what it says (HTTP-18).
    assert_eq!(announced, request.body.starts_with(&[0x1f, 0x8b]));
    announced
}

fn decompressed(request: &Request) -> v1::AgentToServer {
    assert!(is_compressed(request));
    let body = gzip::decompress(&request.body, 1 << 20).unwrap();
    v1::AgentToServer::decode(body).unwrap()
}

/// An agent whose server has answered with gzip.
async fn acquainted() -> (Server, Agent) {
    let server = Server::start().await;
    let agent = Agent::start(agent(server.url()).effective_config(large(b'a')));
    let request = server.request().await;
    assert!(!is_compressed(&request), "nothing is known of the server yet");
    let reply = reply_to(&request.report());
    reply_compressed(request, &reply).await;
    (server, agent)
}

#[tokio::test]
async fn a_server_that_compresses_gets_compressed_requests() {
    let _judged = opamp_spec::judges(&["HTTP-17", "HTTP-18", "HTTP-26"]);
    let (server, agent) = acquainted().await;
    agent.client.set_effective_config(large(b'b'));
    let request = server.request().await;
    let report = decompressed(&request);
    assert_eq!(report.effective_config, Some(large(b'b')));
    request.reply(&reply_to(&report)).await;
    // What is small is not worth it.
    agent.client.set_health(crate::support::healthy("fine"));
    let request = server.request().await;
    assert!(!is_compressed(&request));
    request.reply(&reply_to(&report)).await;
}

#[tokio::test]
async fn a_server_that_does_not_compress_gets_plain_requests() {
    let server = Server::start().await;
    let agent = Agent::start(agent(server.url()).effective_config(large(b'a')));
    for fill in [b'b', b'c', b'd'] {
        let request = server.request().await;
        assert!(!is_compressed(&request));
        let reply = reply_to(&request.report());
        request.reply(&reply).await;
        agent.client.set_effective_config(large(fill));
    }
}

#[tokio::test]
async fn compression_can_be_turned_off() {
    let server = Server::start().await;
    let builder = agent(server.url()).effective_config(large(b'a')).compress_requests(false);
    let agent = Agent::start(builder);
    for fill in [b'b', b'c', b'd'] {
        let request = server.request().await;
        assert!(!is_compressed(&request));
        let reply = reply_to(&request.report());
        reply_compressed(request, &reply).await;
        agent.client.set_effective_config(large(fill));
    }
}

/// The report arrives all the same, in the same exchange: nobody is told of a failure.
#[tokio::test]
async fn a_server_that_cannot_read_it_gets_the_same_again_and_nothing_compressed_after_that() {
    let bad_request = v1::ServerToAgent {
        error_response: Some(v1::ServerErrorResponse {
            r#type: v1::ServerErrorResponseType::BadRequest.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let bad_request = bad_request.encode_to_vec();
    for (status, body) in [(415, &b""[..]), (400, b""), (500, b"oops"), (200, &bad_request)] {
        let (server, mut agent) = acquainted().await;
        agent.client.set_effective_config(large(b'b'));
        let request = server.request().await;
        let report = decompressed(&request);
        request.answer(status, &[], body).await;
        let again = server.request().await;
        assert!(!is_compressed(&again), "{status}");
        assert_eq!((&*again.method, again.report()), (Method::POST.as_str(), report));
        let reply = reply_to(&again.report());
        reply_compressed(again, &reply).await;
        agent.client.set_effective_config(large(b'c'));
        let request = server.request().await;
        assert!(!is_compressed(&request), "{status}");
        request.reply(&reply).await;
        agent.abort_driver().await;
        while let Some(event) = agent.events.next().await {
            let failed = matches!(event, Event::ConnectFailed { .. } | Event::Refused { .. });
            assert!(!failed, "{status}: {event:?}");
        }
    }
}

#[tokio::test]
async fn an_overloaded_server_has_not_refused_the_compression() {
    let (server, mut agent) = acquainted().await;
    agent.client.set_effective_config(large(b'b'));
    let request = server.request().await;
    assert!(is_compressed(&request));
    request.answer(429, &[], b"").await;
    agent.failure().await;
    let again = server.request().await;
    assert_eq!(decompressed(&again).effective_config, Some(large(b'b')));
}
