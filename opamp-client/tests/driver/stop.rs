//! How a client ends: in an orderly way, in bounded time, whatever the server does.

use std::time::{Duration, Instant};

use opamp_client::core::Event;
use opamp_client::{Builder, Client};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;

use crate::support::proxy::{Fault, Proxy};
use crate::support::{
    Agent, agent, effective, healthy, http, is_bare, offer_to, reply_to, soon, websocket,
};

/// Stops the client while the test plays the server on.
fn stop(client: &Client) -> JoinHandle<()> {
    let client = client.clone();
    tokio::spawn(async move { client.stop().await })
}

/// A client that would stay for long with a server that does not let it go.
fn patient(url: String, close_timeout: Duration) -> Builder {
    agent(url).configure(move |config| config.close_timeout = close_timeout)
}

#[tokio::test]
async fn goodbye_over_websocket() {
    let _judged = opamp_spec::judges(&["CLOSE-01", "CLOSE-02", "CLOSE-03", "SEQ-01"]);
    let server = websocket::Server::start().await;
    let mut agent = Agent::start(agent(server.url()));
    let (mut peer, first) = server.welcome().await;
    let stopping = stop(&agent.client);
    let goodbye = peer.report().await;
    assert!(goodbye.agent_disconnect.is_some());
    assert_eq!(goodbye.sequence_num, first.sequence_num + 1);
    assert_eq!(u16::from(peer.close_frame().await.code), 1000);
    peer.ended().await;
    soon(stopping).await.unwrap();
    let mut last = None;
    while let Some(event) = soon(agent.events.next()).await {
        last = Some(event);
    }
    assert_eq!(last, Some(Event::Stopped));
    let status = agent.client.status();
    assert!(status.stopped && !status.connected);
    agent.ended().await;
}

#[tokio::test]
async fn goodbye_over_http() {
    let _judged = opamp_spec::judges(&["CLOSE-01", "CLOSE-05", "SEQ-01"]);
    let server = http::Server::start().await;
    let mut agent = Agent::start(agent(server.url()));
    let first = server.welcome().await;
    agent.until(|event| matches!(event, Event::Connected).then_some(())).await;
    let stopping = stop(&agent.client);
    let goodbye = server.welcome().await;
    assert!(goodbye.agent_disconnect.is_some());
    assert_eq!(goodbye.sequence_num, first.sequence_num + 1);
    soon(stopping).await.unwrap();
    let status = agent.client.status();
    assert!(status.stopped && !status.connected);
    agent.ended().await;
}

#[tokio::test]
async fn what_is_untold_is_told_before_the_goodbye() {
    let _judged = opamp_spec::judges(&["STATUS-04", "CLOSE-01"]);
    let server = websocket::Server::start().await;
    let agent = Agent::start(crate::support::agent(server.url()));
    let mut peer = server.accept().await;
    peer.report().await;
    // The first report is still unanswered: the change could not be told yet.
    agent.client.set_health(healthy("last words"));
    let stopping = stop(&agent.client);
    let report = peer.report().await;
    assert_eq!(report.health, Some(healthy("last words")));
    assert!(report.agent_disconnect.is_none());
    peer.goodbye().await;
    soon(stopping).await.unwrap();

    let server = http::Server::start().await;
    let agent = Agent::start(crate::support::agent(server.url()));
    let request = server.request().await;
    agent.client.set_health(healthy("last words"));
    let stopping = stop(&agent.client);
    request.reply(&Default::default()).await;
    assert_eq!(server.welcome().await.health, Some(healthy("last words")));
    assert!(server.welcome().await.agent_disconnect.is_some());
    soon(stopping).await.unwrap();
}

#[tokio::test]
async fn stopping_twice_and_using_the_handle_afterwards_is_harmless() {
    let server = websocket::Server::start().await;
    let mut agent = Agent::start(agent(server.url()).accept_remote_config());
    let (mut peer, first) = server.welcome().await;
    peer.send(&offer_to(&first, "a", "h1")).await;
    let offer = agent.offer().await;
    let stopping = [stop(&agent.client), stop(&agent.client)];
    peer.goodbye().await;
    for stopping in stopping {
        soon(stopping).await.unwrap();
    }
    let client = agent.client.clone();
    agent.ended().await;

    soon(client.stop()).await;
    let before = client.status();
    client.resolve(offer.applied());
    client.set_health(healthy("too late"));
    client.set_health(None);
    client.set_effective_config(effective("too late"));
    client.set_accepts_remote_config(false);
    client.set_accepts_restart(true);
    client.set_description(Default::default());
    assert_eq!(client.status(), before);
    assert_eq!(soon(client.wait_for(|status| !status.stopped)).await, None);
}

#[tokio::test]
async fn stopping_inside_the_event_loop() {
    let server = websocket::Server::start().await;
    let Agent { client, mut events, .. } = Agent::start(agent(server.url()));
    let application = tokio::spawn(async move {
        let mut connected = 0;
        while let Some(event) = events.next().await {
            if let Event::ServerCapabilities(_) = event {
                // Nobody takes events while this waits.
                client.stop().await;
                connected += 1;
            }
        }
        connected
    });
    let (peer, _) = server.welcome().await;
    peer.goodbye().await;
    assert_eq!(soon(application).await.unwrap(), 1);
}

#[tokio::test]
async fn a_cancelled_stop_stops() {
    let server = websocket::Server::start().await;
    let agent = Agent::start(agent(server.url()));
    let (peer, _) = server.welcome().await;
    let cancelled = tokio::time::timeout(Duration::ZERO, agent.client.stop()).await;
    assert!(cancelled.is_err());
    peer.goodbye().await;
    agent.ended().await;
}

#[tokio::test]
async fn stopping_before_anything_is_connected() {
    // Before the driver runs: it ends without a connection attempt.
    let server = websocket::Server::start().await;
    let (client, _events, driver) = agent(server.url()).build().unwrap();
    let (stopped, ()) = tokio::join!(stop(&client), async {
        tokio::task::yield_now().await;
        soon(tokio::spawn(driver.run())).await.unwrap();
    });
    stopped.unwrap();

    // While the handshake is unanswered.
    let stopping = Agent::start(patient(server.url(), Duration::from_secs(600)));
    let unanswered = server.accept_tcp().await;
    soon(stopping.client.stop()).await;
    stopping.ended().await;
    drop(unanswered);

    // While waiting to try again, on both transports.
    for scheme in ["ws", "http"] {
        let refusing = http::Server::start().await;
        let url = refusing.url().replace("http", scheme);
        let mut waiting = Agent::start(patient(url, Duration::from_secs(600)));
        refusing.request().await.answer(503, &[("Retry-After", "600")], b"").await;
        waiting.failure().await;
        soon(waiting.client.stop()).await;
        waiting.ended().await;
    }
}

#[tokio::test]
async fn stopping_is_bounded_when_a_request_is_never_answered() {
    let server = http::Server::start().await;
    let agent = Agent::start(patient(server.url(), Duration::from_millis(100)));
    let unanswered = server.request().await;
    soon(agent.client.stop()).await;
    agent.ended().await;
    unanswered.dropped().await;
}

#[tokio::test]
async fn stopping_is_bounded_when_the_server_does_not_close() {
    let server = websocket::Server::start().await;
    let agent = Agent::start(patient(server.url(), Duration::from_millis(200)));
    // This peer never reads again, so the closing handshake stays incomplete.
    let (peer, _) = server.welcome().await;
    soon(agent.client.stop()).await;
    agent.ended().await;
    drop(peer);
}

#[tokio::test]
async fn stopping_is_bounded_when_the_network_is_gone_or_stalls() {
    for fault in [Fault::BlackHole, Fault::StallClient] {
        let server = websocket::Server::start().await;
        let proxy = Proxy::start(server.port(), None).await;
        let agent = Agent::start(patient(proxy.url("ws"), Duration::from_millis(200)));
        let (_peer, _) = server.welcome().await;
        proxy.set(fault);
        // More than the kernel takes, so that not even the goodbye can be sent.
        agent.client.set_effective_config(effective(vec![b'x'; 16 * 1024 * 1024]));
        soon(agent.client.stop()).await;
        agent.ended().await;
    }
}

#[tokio::test]
async fn stopping_while_the_server_closes() {
    let server = websocket::Server::start().await;
    let agent = Agent::start(agent(server.url()));
    let (mut peer, _) = server.welcome().await;
    let stopping = stop(&agent.client);
    peer.send_raw(Message::Close(None)).await;
    // Whoever was first: the connection ends, and nobody comes back.
    while let Some(message) = peer.receive().await {
        assert!(matches!(message, Message::Binary(_) | Message::Close(_)), "{message:?}");
    }
    soon(stopping).await.unwrap();
    agent.ended().await;
}

/// Nobody takes the events: the stop does not wait for that, and the driver not for ever.
#[tokio::test]
async fn events_that_nobody_takes_do_not_hold_up_the_end() {
    let server = websocket::Server::start().await;
    let (client, events, driver) = agent(server.url()).build().unwrap();
    let driver = tokio::spawn(driver.run());
    let (peer, _) = server.welcome().await;
    let stopping = stop(&client);
    peer.goodbye().await;
    soon(stopping).await.unwrap();
    assert_eq!(soon(client.wait_for(|status| !status.stopped)).await, None);
    assert!(!driver.is_finished(), "the last events are still on offer");
    // No socket is left; the rest is waiting.
    tokio::time::pause();
    driver.await.unwrap();
    drop(events);
}

#[tokio::test]
async fn a_dropped_driver_drops_the_connection_and_the_handle_knows() {
    let server = websocket::Server::start().await;
    let mut agent = Agent::start(agent(server.url()));
    let (mut peer, _) = server.welcome().await;
    agent.abort_driver().await;
    let gone = peer.next().await;
    assert!(!matches!(gone, Some(Ok(_))), "no goodbye: {gone:?}");
    while soon(agent.events.next()).await.is_some() {}
    soon(agent.client.stop()).await;
    agent.client.set_health(healthy("nobody listens"));
    assert_eq!(soon(agent.client.wait_for(|status| status.stopped)).await, None);

    // The same over HTTP, in the middle of an exchange.
    let server = http::Server::start().await;
    let mut agent = Agent::start(crate::support::agent(server.url()));
    let request = server.request().await;
    agent.abort_driver().await;
    request.dropped().await;
    soon(agent.client.stop()).await;
}

#[tokio::test]
async fn dropping_handle_and_events_does_not_stop_the_agent() {
    let server = http::Server::start().await;
    let (client, events, driver) = agent(server.url())
        .configure(|config| config.polling_interval = Duration::from_millis(20))
        .build()
        .unwrap();
    drop((client, events));
    let started = Instant::now();
    let driver = tokio::spawn(driver.run());
    server.welcome().await;
    for _ in 0..3 {
        assert!(is_bare(&server.welcome().await));
    }
    assert!(started.elapsed() >= Duration::from_millis(60), "polls, not a hot loop");
    driver.abort();
}

/// W-8 of the reference: the goodbye stayed behind for a later start.
#[tokio::test]
async fn a_goodbye_is_not_the_end_for_the_next_client() {
    let _judged = opamp_spec::judges(&["ID-04", "ID-13"]);
    let server = websocket::Server::start().await;
    let first = Agent::start(agent(server.url()));
    let (peer, report) = server.welcome().await;
    let stopping = stop(&first.client);
    peer.goodbye().await;
    soon(stopping).await.unwrap();
    let state = first.client.status().state;
    let _second = Agent::start(agent(server.url()).state(state));
    let mut peer = server.accept().await;
    let again = peer.report().await;
    assert_eq!(again.instance_uid, report.instance_uid);
    assert_eq!(again.agent_description, report.agent_description);
    peer.send(&reply_to(&again)).await;
}
