//! Custom messages and offers of telemetry settings, from the handle to the wire and back.

use opamp_client::core::{ConnectionKinds, CustomCapabilities, CustomOutcome, Event, NotSent};
use opamp_client::{Builder, CustomDelivery};
use opamp_proto::v1;
use opamp_proto::v1::ConnectionSettingsStatuses::{Applied, Applying};

use crate::support::{Agent, agent, http, reply_to, soon, websocket};

const CHAT: &str = "com.example.chat";

fn chatty(url: String) -> Builder {
    agent(url).custom_capabilities(CustomCapabilities::new([CHAT]).unwrap())
}

fn message(data: &'static str) -> v1::CustomMessage {
    v1::CustomMessage { capability: CHAT.to_owned(), r#type: "line".to_owned(), data: data.into() }
}

/// A reply of a server that has the capability too.
fn chatty_reply_to(report: &v1::AgentToServer) -> v1::ServerToAgent {
    let list = v1::CustomCapabilities { capabilities: vec![CHAT.to_owned()] };
    v1::ServerToAgent { custom_capabilities: Some(list), ..reply_to(report) }
}

/// A connection on which both ends have announced the capability.
async fn meet(server: &websocket::Server) -> websocket::Peer {
    let mut peer = server.accept().await;
    let first = peer.report().await;
    peer.send(&chatty_reply_to(&first)).await;
    peer
}

async fn outcome(delivery: CustomDelivery) -> CustomOutcome {
    soon(delivery).await
}

#[tokio::test]
async fn a_message_given_before_the_connection_is_delivered_over_it() {
    let _judged = opamp_spec::judges(&["CUST-01", "CUST-09", "CUST-12", "CUST-13"]);
    let server = websocket::Server::start().await;
    let agent = Agent::start(chatty(server.url()));
    let delivery = agent.client.send_custom_message(message("hello")).unwrap();
    let mut peer = server.accept().await;
    let first = peer.report().await;
    assert_eq!(first.custom_capabilities.as_ref().unwrap().capabilities, [CHAT]);
    peer.send(&chatty_reply_to(&first)).await;
    let sent = peer.report().await;
    assert_eq!(sent.custom_message, Some(message("hello")));
    peer.send(&reply_to(&sent)).await;
    assert_eq!(outcome(delivery).await, CustomOutcome::Delivered);
}

#[tokio::test]
async fn over_http_a_message_causes_a_request_at_once() {
    let _judged = opamp_spec::judges(&["CUST-12", "CUST-13"]);
    let server = http::Server::start().await;
    let mut agent = Agent::start(chatty(server.url()));
    let request = server.request().await;
    let first = request.report();
    request.reply(&chatty_reply_to(&first)).await;
    // The polling interval is half a minute.
    let delivery = agent.client.send_custom_message(message("hello")).unwrap();
    let request = server.request().await;
    let sent = request.report();
    assert_eq!(sent.custom_message, Some(message("hello")));
    let answer = v1::ServerToAgent {
        custom_message: Some(message("hello yourself")),
        ..chatty_reply_to(&sent)
    };
    request.reply(&answer).await;
    assert_eq!(outcome(delivery).await, CustomOutcome::Delivered);
    let received = agent.until(|event| match event {
        Event::CustomMessage(message) => Some(message),
        _ => None,
    });
    assert_eq!(received.await, message("hello yourself"));
}

#[tokio::test]
async fn a_lost_connection_is_an_outcome_and_not_a_second_message() {
    let _judged = opamp_spec::judges(&["CUST-13"]);
    let server = websocket::Server::start().await;
    let agent = Agent::start(chatty(server.url()));
    let mut peer = meet(&server).await;
    let first = agent.client.send_custom_message(message("first")).unwrap();
    let second = agent.client.send_custom_message(message("second")).unwrap();
    assert_eq!(peer.report().await.custom_message, Some(message("first")));
    drop(peer);
    assert_eq!(outcome(first).await, CustomOutcome::Unconfirmed);
    let mut peer = meet(&server).await;
    let sent = peer.report().await;
    assert_eq!(sent.custom_message, Some(message("second")));
    peer.send(&reply_to(&sent)).await;
    assert_eq!(outcome(second).await, CustomOutcome::Delivered);
}

#[tokio::test]
async fn a_full_queue_is_an_error_at_once_or_a_wait_for_room() {
    let _judged = opamp_spec::judges(&["CUST-13"]);
    let server = websocket::Server::start().await;
    let agent = Agent::start(chatty(server.url()).configure(|config| {
        config.max_custom_messages = 2;
        config.max_custom_bytes = 1000;
    }));
    let client = &agent.client;
    let first = client.send_custom_message(message("1")).unwrap();
    let _second = client.send_custom_message(message("2")).unwrap();
    assert_eq!(client.send_custom_message(message("3")).unwrap_err(), NotSent::Full);
    // A wait that is given up takes no room and sends nothing.
    let mut given_up = Box::pin(client.send_custom_message_when_room(message("given up")));
    let pending =
        std::future::poll_fn(|cx| std::task::Poll::Ready(given_up.as_mut().poll(cx).is_pending()));
    assert!(pending.await);
    drop(given_up);
    let waiting = {
        let client = client.clone();
        tokio::spawn(async move { client.send_custom_message_when_room(message("3")).await })
    };
    let mut peer = meet(&server).await;
    for data in ["1", "2", "3"] {
        let sent = peer.report().await;
        assert_eq!(sent.custom_message, Some(message(data)));
        peer.send(&reply_to(&sent)).await;
    }
    assert_eq!(outcome(first).await, CustomOutcome::Delivered);
    let third = soon(waiting).await.unwrap().unwrap();
    assert_eq!(outcome(third).await, CustomOutcome::Delivered);
    let huge = v1::CustomMessage { data: vec![0; 1001].into(), ..message("") };
    let error = client.send_custom_message_when_room(huge).await.unwrap_err();
    assert!(matches!(error, NotSent::TooLarge { limit: 1000, .. }), "{error:?}");
}

#[tokio::test]
async fn what_an_end_lacks_is_an_outcome() {
    let _judged = opamp_spec::judges(&["CUST-03", "CUST-04", "CUST-09"]);
    let server = websocket::Server::start().await;
    let agent = Agent::start(chatty(server.url()));
    let foreign = v1::CustomMessage { capability: "com.example.other".to_owned(), ..message("") };
    let delivery = agent.client.send_custom_message(foreign).unwrap();
    assert_eq!(outcome(delivery).await, CustomOutcome::Dropped(NotSent::NotAnnounced));
    let early = agent.client.send_custom_message(message("early")).unwrap();
    let mut peer = server.accept().await;
    let first = peer.report().await;
    let none = v1::ServerToAgent {
        custom_capabilities: Some(v1::CustomCapabilities::default()),
        ..reply_to(&first)
    };
    peer.send(&none).await;
    assert_eq!(outcome(early).await, CustomOutcome::Dropped(NotSent::NotSupported));
}

#[tokio::test]
async fn stopping_sends_what_waits_and_ends_what_comes_later() {
    let _judged = opamp_spec::judges(&["CLOSE-01", "CUST-13"]);
    let server = websocket::Server::start().await;
    let agent = Agent::start(chatty(server.url()));
    let mut peer = meet(&server).await;
    agent.client.wait_for(|status| status.server_capabilities.is_some()).await;
    let delivery = agent.client.send_custom_message(message("last words")).unwrap();
    let client = agent.client.clone();
    let stop = tokio::spawn(async move { client.stop().await });
    let sent = peer.report().await;
    assert_eq!(sent.custom_message, Some(message("last words")));
    peer.send(&reply_to(&sent)).await;
    peer.goodbye().await;
    soon(stop).await.unwrap();
    assert_eq!(outcome(delivery).await, CustomOutcome::Delivered);
    let client = agent.client.clone();
    agent.ended().await;
    assert_eq!(client.send_custom_message(message("late")).unwrap_err(), NotSent::Stopped);
    let late = client.send_custom_message_when_room(message("late")).await;
    assert_eq!(late.unwrap_err(), NotSent::Stopped);
}

#[tokio::test]
async fn a_driver_that_is_dropped_leaves_no_one_waiting() {
    let _judged = opamp_spec::judges(&["CUST-13"]);
    let (client, _events, driver) = chatty("ws://127.0.0.1:9".to_owned()).build().unwrap();
    let delivery = client.send_custom_message(message("never")).unwrap();
    drop(driver);
    assert_eq!(outcome(delivery).await, CustomOutcome::Dropped(NotSent::Stopped));
}

#[tokio::test]
async fn telemetry_settings_reach_the_application_and_are_kept() {
    let _judged = opamp_spec::judges(&["CONN-31", "CONN-34", "TEL-06", "TEL-07"]);
    let server = websocket::Server::start().await;
    let mut agent = Agent::start(agent(server.url()).accept_own_metrics().accept_own_logs());
    let (mut peer, first) = server.welcome().await;
    let settings = v1::TelemetryConnectionSettings {
        destination_endpoint: "https://otlp.example/v1/metrics".to_owned(),
        ..Default::default()
    };
    let offers = v1::ConnectionSettingsOffers {
        hash: "h1".into(),
        own_metrics: Some(settings.clone()),
        ..Default::default()
    };
    let offer = v1::ServerToAgent { connection_settings: Some(offers), ..reply_to(&first) };
    peer.send(&offer).await;
    let taken = agent.until(|event| match event {
        Event::ConnectionSettings(offer) => Some(offer),
        _ => None,
    });
    let taken = taken.await;
    assert_eq!(taken.connections().own_metrics, Some(settings.clone()));
    let report = peer.report().await;
    let status = report.connection_settings_status.clone().unwrap();
    assert_eq!(
        (status.status(), &status.last_connection_settings_hash[..]),
        (Applying, &b"h1"[..])
    );
    peer.send(&reply_to(&report)).await;
    agent.client.resolve_connection_settings(taken.applied());
    let report = peer.report().await;
    peer.send(&reply_to(&report)).await;
    let status = report.connection_settings_status.unwrap();
    assert_eq!(status.status(), Applied);
    assert_eq!(agent.client.connections().own_metrics, Some(settings));
    agent.client.set_accepted_settings(ConnectionKinds::empty());
    let withdrawn = peer.report().await;
    assert_eq!(withdrawn.connection_settings_status, None);
}
