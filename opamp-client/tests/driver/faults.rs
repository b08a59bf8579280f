//! Networks and servers that break, stall and fall silent.

use std::time::{Duration, Instant};

use opamp_client::Builder;
use opamp_client::core::FailureKind;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Message;

use crate::support::proxy::{Fault, Proxy};
use crate::support::{Agent, agent, effective, healthy, http, reply_to, soon, websocket};

/// With a backoff that cannot be mistaken for no delay, nor the other way round.
fn slow_to_retry(builder: Builder, wait: Duration) -> Builder {
    builder.configure(move |config| {
        config.backoff.initial = wait;
        config.backoff.max = wait;
        config.backoff.jitter = 0.0;
    })
}

#[tokio::test]
async fn a_connection_that_had_worked_is_made_again_at_once() {
    let _judged = opamp_spec::judges(&["EST-06", "STATUS-03", "SEQ-02", "ID-04"]);
    let server = websocket::Server::start().await;
    let proxy = Proxy::start(server.port(), None).await;
    let builder = agent(proxy.url("ws")).health(healthy("fine"));
    let mut agent = Agent::start(slow_to_retry(builder, Duration::from_secs(600)));
    let (mut peer, first) = server.welcome().await;
    // The agent has the reply when it goes on to the next report.
    agent.client.set_health(healthy("changed"));
    let second = peer.report().await;
    peer.send(&reply_to(&second)).await;
    peer.send_raw(Message::Ping("".into())).await;
    while !matches!(peer.receive().await, Some(Message::Pong(_))) {}

    proxy.set(Fault::Cut);
    agent.disconnected().await;
    proxy.set(Fault::None);
    let (_peer, again) = server.welcome().await;
    assert_eq!(again.instance_uid, first.instance_uid);
    assert_eq!(again.sequence_num, second.sequence_num + 1);
    assert_eq!((again.agent_description, again.health), (None, None));
}

#[tokio::test]
async fn a_connection_that_never_worked_is_made_again_with_backoff() {
    let _judged = opamp_spec::judges(&["EST-07"]);
    let wait = Duration::from_millis(200);
    let server = websocket::Server::start().await;
    let mut agent = Agent::start(slow_to_retry(agent(server.url()), wait));
    let mut peer = server.accept().await;
    peer.report().await;
    let cut = Instant::now();
    drop(peer);
    agent.disconnected().await;
    server.welcome().await;
    assert!(cut.elapsed() >= wait, "{:?}", cut.elapsed());
}

#[tokio::test]
async fn a_server_that_drops_every_connection_after_its_reply_makes_no_hot_loop() {
    let _judged = opamp_spec::judges(&["EST-07"]);
    let wait = Duration::from_millis(200);
    let server = websocket::Server::start().await;
    let mut agent = Agent::start(slow_to_retry(agent(server.url()), wait));
    drop(server.welcome().await);
    agent.disconnected().await;
    // At once: the first connection had worked.
    let cut = Instant::now();
    drop(server.welcome().await);
    agent.disconnected().await;
    server.welcome().await;
    assert!(cut.elapsed() >= wait, "{:?}", cut.elapsed());
}

#[tokio::test]
async fn what_was_under_way_when_the_connection_broke_is_told_again() {
    let _judged = opamp_spec::judges(&["DELTA-04", "RETRY-03", "RETRY-08"]);
    let server = websocket::Server::start().await;
    let proxy = Proxy::start(server.port(), None).await;
    let agent = Agent::start(agent(proxy.url("ws")).health(healthy("one")));
    let (mut peer, first) = server.welcome().await;
    agent.client.set_health(healthy("two"));
    let unanswered = peer.report().await;
    assert_eq!(unanswered.health, Some(healthy("two")));
    drop(peer);
    let (_peer, again) = server.welcome().await;
    assert_eq!(again.health, Some(healthy("two")));
    assert_eq!(again.agent_description, None, "that was answered");
    assert_eq!(again.sequence_num, first.sequence_num + 2);
}

/// W-16 of the reference: what had begun to send went on beside the next connection.
#[tokio::test]
async fn a_cut_in_the_middle_of_anything_is_survived_over_websocket() {
    let _judged = opamp_spec::judges(&["EST-03", "DELTA-04"]);
    // In the handshake, behind it, and in the first report.
    for cut_after in [1, 100, 400, 600] {
        let server = websocket::Server::start().await;
        let broken = Proxy::start(server.port(), Some(cut_after)).await;
        let builder = agent(broken.url("ws")).health(healthy(&"x".repeat(1000)));
        let mut agent = Agent::start(builder);
        let half = server.accept_tcp().await;
        // The cut is seen as a failed handshake or as a lost connection.
        drop(half);
        agent.failure().await;
    }
    // The report itself cut off; the next connection gets the whole of it.
    let server = websocket::Server::start().await;
    let broken = Proxy::start(server.port(), Some(2000)).await;
    let mut agent = Agent::start(agent(broken.url("ws")).health(healthy(&"x".repeat(4000))));
    let _half = server.accept().await;
    agent.disconnected().await;
    drop(broken);
}

#[tokio::test]
async fn a_cut_in_the_middle_of_a_request_is_survived() {
    let _judged = opamp_spec::judges(&["EST-03", "DELTA-04", "RETRY-03"]);
    let server = http::Server::start().await;
    let proxy = Proxy::start(server.port(), None).await;
    let builder = agent(proxy.url("http")).health(healthy("fine"));
    let mut agent = Agent::start(builder);
    let unanswered = server.request().await;
    proxy.set(Fault::Cut);
    assert_eq!(agent.failure().await.0.kind, FailureKind::Unreachable);
    proxy.set(Fault::None);
    let mut again = server.welcome().await;
    // A connection that was made while the proxy cut everything may have come first.
    while again.health.is_none() {
        again = server.welcome().await;
    }
    let first = unanswered.report();
    assert_eq!(again.agent_description, first.agent_description);
    assert!(again.sequence_num > first.sequence_num);
}

#[tokio::test]
async fn nobody_listens() {
    let _judged = opamp_spec::judges(&["EST-03", "HB-19"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    for scheme in ["ws", "http"] {
        let mut agent = Agent::start(agent(format!("{scheme}://{address}")));
        for _ in 0..3 {
            let (failure, _) = agent.failure().await;
            assert_eq!(failure.kind, FailureKind::Unreachable, "{}", failure.message);
        }
        assert!(!agent.client.status().connected);
    }
}

#[tokio::test]
async fn a_host_that_does_not_exist_is_a_failure_like_any_other() {
    for scheme in ["ws", "http"] {
        let mut agent = Agent::start(agent(format!("{scheme}://nowhere.invalid:1")));
        assert_eq!(agent.failure().await.0.kind, FailureKind::Unreachable);
    }
}

#[tokio::test]
async fn a_handshake_that_is_never_answered_is_given_up() {
    let _judged = opamp_spec::judges(&["EST-03"]);
    let server = websocket::Server::start().await;
    let builder = agent(server.url()).configure(|config| {
        config.connect_timeout = Duration::from_millis(100);
    });
    let mut agent = Agent::start(builder);
    let silent = server.accept_tcp().await;
    let (failure, _) = agent.failure().await;
    assert_eq!(failure.kind, FailureKind::Unreachable);
    assert!(failure.message.contains("in time"), "{}", failure.message);
    server.welcome().await;
    drop(silent);
}

/// What was given up is let go at once, not when the next attempt takes its place.
#[tokio::test]
async fn a_connection_given_up_is_closed() {
    let server = websocket::Server::start().await;
    let builder = agent(server.url()).configure(|config| {
        config.connect_timeout = Duration::from_millis(100);
    });
    let _agent = Agent::start(slow_to_retry(builder, Duration::from_secs(600)));
    let mut silent = server.accept_tcp().await;
    let mut request = Vec::new();
    soon(silent.read_to_end(&mut request)).await.unwrap();
    assert!(request.starts_with(b"GET /v1/opamp "));
}

#[tokio::test]
async fn a_silent_server_is_pinged_and_then_left() {
    let server = websocket::Server::start().await;
    let proxy = Proxy::start(server.port(), None).await;
    let builder = agent(proxy.url("ws")).configure(|config| {
        config.ping_interval = Some(Duration::from_millis(50));
        config.ping_timeout = Duration::from_millis(300);
    });
    let mut agent = Agent::start(builder);
    let (mut peer, _) = server.welcome().await;
    // A server that answers pings is not left, however little it has to say.
    for _ in 0..8 {
        assert!(matches!(peer.receive().await, Some(Message::Ping(_))));
    }
    assert!(agent.client.status().connected);
    proxy.set(Fault::BlackHole);
    let reason = agent.disconnected().await;
    assert!(reason.contains("ping"), "{reason}");
    proxy.set(Fault::None);
    server.welcome().await;
}

#[tokio::test]
async fn a_server_that_takes_nothing_is_left() {
    let server = websocket::Server::start().await;
    let proxy = Proxy::start(server.port(), None).await;
    let builder = agent(proxy.url("ws")).configure(|config| {
        config.ping_interval = None;
        config.ping_timeout = Duration::from_secs(1);
    });
    let mut agent = Agent::start(builder);
    let (_peer, _) = server.welcome().await;
    proxy.set(Fault::StallClient);
    let large = vec![b'x'; 14 * 1024 * 1024];
    agent.client.set_effective_config(effective(large.clone()));
    let reason = agent.disconnected().await;
    assert!(reason.contains("take"), "{reason}");
    proxy.set(Fault::None);
    let (_peer, again) = server.welcome().await;
    assert_eq!(again.effective_config, Some(effective(large)));
}

/// Each ping is answered; the answers must not pile up when nobody takes them.
#[tokio::test]
async fn a_server_that_pings_and_takes_no_answer_is_not_listened_to() {
    let server = websocket::Server::start().await;
    let builder = agent(server.url()).configure(|config| {
        config.ping_interval = None;
        config.ping_timeout = Duration::from_secs(3);
    });
    let mut agent = Agent::start(builder);
    let (mut peer, _) = server.welcome().await;
    let ping = [&[0x89, 125][..], &[b'p'; 125]].concat();
    let most = 64 * 1024 * 1024;
    let taken = peer.flood(&ping.repeat(1000), most).await;
    assert!(taken < most, "{taken} bytes of pings were taken");
    let reason = agent.disconnected().await;
    assert!(reason.contains("take"), "{reason}");
}

/// A large report over a slow network takes longer than any timeout of silence, and arrives.
#[tokio::test]
async fn a_server_that_takes_slowly_is_not_left() {
    let server = websocket::Server::start().await;
    let proxy = Proxy::start(server.port(), None).await;
    let builder = agent(proxy.url("ws")).configure(|config| {
        config.ping_interval = None;
        config.ping_timeout = Duration::from_secs(1);
    });
    let agent = Agent::start(builder);
    let (mut peer, _) = server.welcome().await;
    proxy.set(Fault::SlowClient);
    let large = vec![b'x'; 14 * 1024 * 1024];
    let started = Instant::now();
    agent.client.set_effective_config(effective(large.clone()));
    let report = peer.report().await;
    assert!(started.elapsed() > Duration::from_millis(1500), "{:?}", started.elapsed());
    assert_eq!(report.effective_config, Some(effective(large)));
}

#[tokio::test]
async fn replies_that_do_not_arrive_stop_neither_reports_nor_heartbeats() {
    let _judged = opamp_spec::judges(&["HB-13", "RETRY-02"]);
    let server = websocket::Server::start().await;
    let proxy = Proxy::start(server.port(), None).await;
    let builder = agent(proxy.url("ws")).configure(|config| {
        config.heartbeat_interval = Some(Duration::from_millis(50));
        config.reply_timeout = Duration::from_millis(100);
        config.ping_interval = None;
    });
    let agent = Agent::start(builder);
    let (mut peer, _) = server.welcome().await;
    proxy.set(Fault::StallServer);
    for health in ["one", "two", "three"] {
        agent.client.set_health(healthy(health));
        loop {
            let report = peer.report().await;
            peer.send(&reply_to(&report)).await;
            if report.health == Some(healthy(health)) {
                break;
            }
        }
    }
}
