//! Calls of the handler: serial for each Agent, isolated, and never in the way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use http::request;
use opamp_proto::{AgentCapabilities as Does, Message as _, v1};
use opamp_server::{
    AgentChange, Changes, Handler, OpampService, Rejection, ServerConfig, ServiceConfig,
};
use tokio::sync::{Notify, Semaphore};

use crate::client::{MASK, UID, beat, post, report, soon, start_with, uid};
use crate::support::{bare, description, full_report, remote_config};

/// Gives every Agent a config of its own when its description changes.
struct Configures;

impl Handler for Configures {
    type Identity = ();

    async fn admit(&self, _request: &request::Parts) -> Result<(), Rejection> {
        Ok(())
    }

    async fn agent_changed(&self, change: AgentChange<()>) {
        if change.changes.contains(Changes::AGENT_DESCRIPTION) {
            let config = remote_config(&change.agent.uid().to_string());
            change.fleet.set_remote_config(change.agent.uid(), config).expect("it fits");
        }
    }
}

#[tokio::test]
async fn what_the_handler_sets_goes_out_in_the_http_response() {
    let server = start_with(Configures, |_, _| {}).await;
    let reply = server.post(&report(1)).await;
    let config = remote_config(&uid(&UID).to_string());
    assert_eq!(reply.remote_config.expect("an offer").config, Some(config.to_message()));
    let mut socket = server.websocket().await;
    socket.send(&full_report(&[1; 16], 1, MASK)).await;
    // In the reply or in a push after it.
    let offered = soon(async {
        loop {
            if let Some(offer) = socket.recv().await.remote_config {
                break offer;
            }
        }
    })
    .await;
    let config = remote_config(&uid(&[1; 16]).to_string());
    assert_eq!(offered.config_hash, config.hash().to_bytes());
}

/// Does not return before it is told to.
struct Blocks {
    started: Notify,
    go_on: Semaphore,
    running: AtomicUsize,
    most: AtomicUsize,
    calls: AtomicUsize,
}

impl Blocks {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            started: Notify::new(),
            go_on: Semaphore::new(0),
            running: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            calls: AtomicUsize::new(0),
        })
    }
}

struct Shared(Arc<Blocks>);

impl Handler for Shared {
    type Identity = ();

    async fn admit(&self, _request: &request::Parts) -> Result<(), Rejection> {
        Ok(())
    }

    async fn agent_changed(&self, _change: AgentChange<()>) {
        let running = self.0.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.most.fetch_max(running, Ordering::SeqCst);
        self.0.calls.fetch_add(1, Ordering::SeqCst);
        self.0.started.notify_one();
        self.0.go_on.acquire().await.expect("open").forget();
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_websocket_never_waits_for_the_handler_and_http_only_so_long() {
    let blocks = Blocks::new();
    let server = start_with(Shared(Arc::clone(&blocks)), |_, service| {
        service.reply_deadline = Duration::from_millis(100);
    })
    .await;
    let mut socket = server.websocket().await;
    socket.send(&report(1)).await;
    socket.recv().await;
    soon(blocks.started.notified()).await;
    for number in 2..20 {
        let report = v1::AgentToServer {
            agent_description: Some(description(&number.to_string())),
            ..beat(number)
        };
        socket.send(&report).await;
        assert_eq!(socket.recv().await, bare(&UID));
    }
    // While the first call runs there is no other for this Agent.
    assert_eq!(blocks.calls.load(Ordering::SeqCst), 1);
    let reply = server.post(&full_report(&[1; 16], 1, MASK)).await;
    assert_eq!(reply.error_response, None);
    assert_eq!(blocks.calls.load(Ordering::SeqCst), 2);
    blocks.go_on.add_permits(1000);
    server.until(|_| blocks.calls.load(Ordering::SeqCst) == 3).await;
    // All that came meanwhile was one call.
    socket.send(&beat(20)).await;
    assert_eq!(socket.recv().await, bare(&UID));
    assert_eq!(blocks.calls.load(Ordering::SeqCst), 3, "a heartbeat calls nothing");
}

#[tokio::test]
async fn calls_are_bounded_and_each_agent_gets_its_own() {
    let blocks = Blocks::new();
    let server = start_with(Shared(Arc::clone(&blocks)), |_, service| {
        service.handler_concurrency = 3;
    })
    .await;
    let mut socket = server.websocket().await;
    for number in 1..=20 {
        socket.send(&full_report(&[number; 16], 1, MASK)).await;
        socket.recv().await;
    }
    server.until(|_| blocks.calls.load(Ordering::SeqCst) == 3).await;
    blocks.go_on.add_permits(1000);
    server.until(|_| blocks.calls.load(Ordering::SeqCst) == 20).await;
    assert_eq!(blocks.most.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_call_that_hangs_is_dropped() {
    let blocks = Blocks::new();
    let server = start_with(Shared(Arc::clone(&blocks)), |_, service| {
        service.handler_concurrency = 1;
        service.handler_deadline = Duration::from_millis(20);
        service.reply_deadline = Duration::from_secs(10);
    })
    .await;
    for number in 1..=3 {
        server.post(&full_report(&[number; 16], 1, MASK)).await;
    }
    assert_eq!(blocks.calls.load(Ordering::SeqCst), 3);
}

struct Panics;

impl Handler for Panics {
    type Identity = ();

    async fn admit(&self, _request: &request::Parts) -> Result<(), Rejection> {
        Ok(())
    }

    async fn agent_changed(&self, change: AgentChange<()>) {
        assert!(!change.agent.capabilities().contains(Does::REPORTS_HEALTH), "as the test wants");
        change.fleet.set_remote_config(change.agent.uid(), remote_config("fine")).expect("it fits");
    }
}

#[tokio::test]
async fn a_panicking_handler_hurts_neither_the_agent_nor_others() {
    let server = start_with(Panics, |_, _| {}).await;
    let reply = server.post(&report(1)).await;
    assert_eq!((reply.error_response, reply.remote_config), (None, None));
    assert_eq!(server.fleet.counters().handler_panics, 1);
    // The next change of the same Agent is handled again, and so are others.
    let fine = MASK.difference(Does::REPORTS_HEALTH);
    let reply = server.post(&crate::support::heartbeat(&UID, 2, fine)).await;
    assert!(reply.remote_config.is_some());
    let answer = server.request(post(full_report(&[1; 16], 1, fine).encode_to_vec())).await;
    assert!(answer.message().remote_config.is_some());
}

/// Large messages are worked on elsewhere, which goes on when nobody waits for it any more.
#[tokio::test]
async fn changes_are_handled_although_the_client_has_gone_meanwhile() {
    let blocks = Blocks::new();
    blocks.go_on.add_permits(1000);
    let handler = Shared(Arc::clone(&blocks));
    let service = OpampService::new(handler, ServerConfig::default(), ServiceConfig::default());
    let large = v1::AgentToServer {
        agent_description: Some(description(&"x".repeat(300 * 1024))),
        ..report(1)
    };
    let call = |message: &v1::AgentToServer| {
        tower_service::Service::call(&mut service.clone(), post(message.encode_to_vec()))
    };
    let mut answer = call(&large);
    let _begun = std::future::poll_fn(|cx| Poll::Ready(answer.as_mut().poll(cx))).await;
    drop(answer);
    soon(blocks.started.notified()).await;
    // And so are those that follow.
    let next = v1::AgentToServer { agent_description: Some(description("y")), ..beat(2) };
    assert_eq!(call(&next).await.expect("an answer").status(), 200);
    soon(async {
        while blocks.calls.load(Ordering::SeqCst) < 2 {
            blocks.started.notified().await;
        }
    })
    .await;
}
