//! HTTP exchanges that take long: how much of that is the network, and when it is enough.

use std::time::{Duration, Instant};

use opamp_client::core::FailureKind;
use opamp_proto::Message as _;

use crate::support::http::head;
use crate::support::proxy::{Fault, Proxy};
use crate::support::{Agent, agent, effective, http, offer_to};

/// A fixed deadline would cut such a report off, however often it is tried.
#[tokio::test]
async fn a_large_report_over_a_slow_link_arrives() {
    let server = http::Server::start().await;
    let proxy = Proxy::start(server.port(), None).await;
    proxy.set(Fault::SlowClient);
    let large = effective(vec![b'x'; 14 * 1024 * 1024]);
    let builder = agent(proxy.url("http")).effective_config(large.clone());
    let builder = builder.configure(|config| config.connect_timeout = Duration::from_secs(1));
    let started = Instant::now();
    let _agent = Agent::start(builder);
    assert_eq!(server.welcome().await.effective_config, Some(large));
    assert!(started.elapsed() > Duration::from_millis(1500), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_response_that_comes_in_pieces_is_waited_for() {
    let server = http::Server::start().await;
    let silence = Duration::from_secs(1);
    let builder = agent(server.url()).accept_remote_config();
    let mut agent = Agent::start(builder.configure(move |config| config.connect_timeout = silence));
    let mut request = server.request().await;
    let body = offer_to(&request.report(), "slow", "h1").encode_to_vec();
    request.write(head(200, &[], body.len()).as_bytes()).await;
    let started = Instant::now();
    for piece in body.chunks(body.len().div_ceil(6)) {
        tokio::time::sleep(silence / 4).await;
        request.write(piece).await;
    }
    assert_eq!(agent.offer().await.hash(), "h1");
    assert!(started.elapsed() > silence, "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_request_that_nobody_takes_is_given_up() {
    let server = http::Server::start().await;
    let proxy = Proxy::start(server.port(), None).await;
    proxy.set(Fault::StallClient);
    let builder = agent(proxy.url("http")).effective_config(effective(vec![b'x'; 64 * 1024]));
    let builder = builder.configure(|config| config.connect_timeout = Duration::from_millis(200));
    let mut agent = Agent::start(builder);
    let (failure, _) = agent.failure().await;
    assert_eq!(failure.kind, FailureKind::Unreachable);
    assert!(failure.message.contains("nothing moved"), "{}", failure.message);
}
