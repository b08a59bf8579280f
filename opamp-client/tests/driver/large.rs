//! Large messages, both ways and over both transports.

use bytes::Bytes;

use crate::support::{Agent, agent, effective, http, offer_to, reply_to, websocket};

const LARGE: usize = 5 * 1024 * 1024;

fn large() -> Bytes {
    (0..LARGE).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

#[tokio::test]
async fn a_large_configuration_goes_both_ways_over_websocket() {
    let server = websocket::Server::start().await;
    let builder = agent(server.url()).accept_remote_config().effective_config(effective(large()));
    let mut agent = Agent::start(builder);
    let mut peer = server.accept().await;
    let report = peer.report().await;
    assert_eq!(report.effective_config, Some(effective(large())));
    peer.send(&offer_to(&report, large(), "large")).await;
    let offer = agent.offer().await;
    assert_eq!(offer.config().config_map[""].body, large());
}

#[tokio::test]
async fn a_large_configuration_goes_both_ways_over_http() {
    let server = http::Server::start().await;
    let builder = agent(server.url()).accept_remote_config().effective_config(effective(large()));
    let mut agent = Agent::start(builder);
    let request = server.request().await;
    let report = request.report();
    assert_eq!(report.effective_config, Some(effective(large())));
    request.reply(&offer_to(&report, large(), "large")).await;
    let offer = agent.offer().await;
    assert_eq!(offer.config().config_map[""].body, large());
}

/// Neither end reads before it has written: both have to be able to do both at once.
#[tokio::test]
async fn two_large_messages_cross_on_one_websocket() {
    let _judged = opamp_spec::judges(&["WS-11"]);
    let server = websocket::Server::start().await;
    let mut agent = Agent::start(agent(server.url()).accept_remote_config());
    let (mut peer, first) = server.welcome().await;
    agent.client.set_effective_config(effective(large()));
    peer.send(&offer_to(&first, large(), "crossing")).await;
    let report = peer.report().await;
    assert_eq!(report.effective_config, Some(effective(large())));
    peer.send(&reply_to(&report)).await;
    assert_eq!(agent.offer().await.config().config_map[""].body.len(), LARGE);
}
