//! A Server with a store: what waits for it, what becomes of its failures, and what a restart
//! keeps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use opamp_proto::{Message as _, v1};
use opamp_server::fleet::Change;
use opamp_server::service::ErrorKind;
use opamp_server::service::store::{MemoryStore, StateStore, StoreError, StoreFailure};
use opamp_server::{AcceptAll, Claim, Denied, Handler, Outcome, Rejection, Server};
use tokio::sync::Semaphore;

use crate::client::{
    MASK, OTHER, Running, UID, UNAVAILABLE, beat, framed, report, run, soon, start_on, uid,
};
use crate::support::{description, full_report, heartbeat, remote_config};

/// A store that does what the test says.
#[derive(Clone)]
pub(crate) struct Told {
    store: MemoryStore,
    orders: Arc<Orders>,
}

struct Orders {
    /// Writes that may be begun.
    writes: Semaphore,
    fails: AtomicBool,
    panics: AtomicBool,
    attempts: AtomicUsize,
}

impl Told {
    pub(crate) fn new(store: &MemoryStore) -> Self {
        let orders = Orders {
            writes: Semaphore::new(Semaphore::MAX_PERMITS),
            fails: AtomicBool::new(false),
            panics: AtomicBool::new(false),
            attempts: AtomicUsize::new(0),
        };
        Self { store: store.clone(), orders: orders.into() }
    }

    /// Writes hang from now on.
    pub(crate) fn hang(&self) {
        self.orders.writes.forget_permits(Semaphore::MAX_PERMITS);
    }

    pub(crate) fn go_on(&self) {
        self.orders.writes.add_permits(1_000_000);
    }

    pub(crate) fn fail(&self, fails: bool) {
        self.orders.fails.store(fails, Ordering::SeqCst);
    }

    pub(crate) fn attempts(&self) -> usize {
        self.orders.attempts.load(Ordering::SeqCst)
    }
}

impl StateStore for Told {
    async fn load(
        &self,
        after: Option<&[u8]>,
        _max_bytes: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        if self.orders.fails.load(Ordering::SeqCst) {
            return Err(StoreError::new("nothing can be read"));
        }
        // In many small pieces.
        self.store.load(after, 100).await
    }

    async fn save(&self, changes: Arc<[Change]>) -> Result<(), StoreError> {
        self.orders.attempts.fetch_add(1, Ordering::SeqCst);
        self.orders.writes.acquire().await.expect("it is never closed").forget();
        assert!(!self.orders.panics.load(Ordering::SeqCst), "as it was told");
        if self.orders.fails.load(Ordering::SeqCst) {
            return Err(StoreError::new("no space left on device"));
        }
        self.store.save(changes).await
    }
}

fn changed(uid: &[u8], number: u64, name: &str) -> v1::AgentToServer {
    v1::AgentToServer { agent_description: Some(description(name)), ..heartbeat(uid, number, MASK) }
}

fn told(error: &v1::ServerToAgent) -> Duration {
    let error = error.error_response.as_ref().expect("an error");
    assert_eq!(error.r#type, UNAVAILABLE);
    match &error.details {
        Some(v1::server_error_response::Details::RetryInfo(retry)) => {
            Duration::from_nanos(retry.retry_after_nanoseconds)
        }
        None => panic!("{error:?}"),
    }
}

async fn stop(server: Running) {
    server.shutdown.shutdown();
    soon(server.task).await.expect("no panic");
}

#[tokio::test]
async fn a_reply_waits_until_its_news_are_stored_and_others_do_not() {
    let told = Told::new(&MemoryStore::default());
    let server = start_on(told.clone(), |_, _| {}).await;
    let mut steady = server.websocket().await;
    steady.send(&full_report(&OTHER, 1, MASK)).await;
    steady.recv().await;

    told.hang();
    let mut socket = server.websocket().await;
    socket.send(&report(1)).await;
    socket.send(&beat(2)).await;
    let posted = tokio::spawn({
        let (addr, message) = (server.addr, full_report(&[9; 16], 1, MASK));
        async move {
            let stream = tokio::net::TcpStream::connect(addr).await.expect("a connection");
            crate::client::exchange(stream, crate::client::post(message.encode_to_vec())).await
        }
    });
    server.until(|fleet| fleet.len() == 3).await;
    for number in 2..10 {
        steady.send(&heartbeat(&OTHER, number, MASK)).await;
        assert_eq!(steady.recv().await.error_response, None);
    }
    assert!(!posted.is_finished());
    // Neither of the two is answered.
    let early = tokio::time::timeout(Duration::from_millis(50), socket.recv_raw()).await;
    assert!(early.is_err(), "{early:?}");

    told.go_on();
    assert_eq!(socket.recv().await.error_response, None);
    assert_eq!(socket.recv().await.error_response, None);
    assert_eq!(soon(posted).await.expect("no panic").message().error_response, None);
    stop(server).await;
}

#[tokio::test]
async fn an_orderly_restart_asks_nobody_for_anything() {
    let _judged = opamp_spec::judges(&["SEQ-05"]);
    let store = MemoryStore::default();
    let server = start_on(Told::new(&store), |_, _| {}).await;
    let mut socket = server.websocket().await;
    socket.send(&report(1)).await;
    socket.recv().await;
    assert_eq!(server.post(&full_report(&OTHER, 1, MASK)).await.flags, 0);
    server.fleet.set_remote_config(uid(&UID), remote_config("own")).unwrap();
    socket.recv().await;
    for number in 2..20 {
        socket.send(&beat(number)).await;
        socket.recv().await;
        server.post(&heartbeat(&OTHER, number, MASK)).await;
    }
    let before = server.fleet.agent(uid(&OTHER)).unwrap();
    stop(server).await;

    let server = start_on(Told::new(&store), |_, _| {}).await;
    assert_eq!(server.fleet.len(), 2);
    let after = server.fleet.agent(uid(&OTHER)).unwrap();
    assert_eq!((after.state(), after.sequence_num()), (before.state(), 19));
    let mut socket = server.websocket().await;
    socket.send(&beat(20)).await;
    let reply = socket.recv().await;
    assert_eq!(reply.flags, 0);
    // What it has not reported anything of is offered again.
    assert!(reply.remote_config.is_some());
    assert_eq!(server.post(&heartbeat(&OTHER, 20, MASK)).await.flags, 0);
    let offer = server.fleet.agent(uid(&UID)).unwrap().remote_config().unwrap();
    assert_eq!((offer.is_own(), offer.outcome()), (true, Outcome::Sent));
    stop(server).await;
}

#[tokio::test]
async fn while_the_store_fails_news_are_refused_and_everything_else_is_served() {
    let _judged = opamp_spec::judges(&["ERR-08", "THR-01", "THR-03"]);
    let store = MemoryStore::default();
    let told_store = Told::new(&store);
    let server = start_on(told_store.clone(), |_, service| {
        service.store_deadline = Duration::from_millis(200);
        service.store_retry_after = Duration::from_secs(7);
    })
    .await;
    let mut socket = server.websocket().await;
    socket.send(&report(1)).await;
    socket.recv().await;

    told_store.fail(true);
    socket.send(&changed(&UID, 2, "new")).await;
    assert_eq!(told(&socket.recv().await), Duration::from_secs(7));
    let refused = server.post(&full_report(&OTHER, 1, MASK)).await;
    assert_eq!(told(&refused), Duration::from_secs(7));
    // The failure is known by now, so nobody waits for it any more.
    tokio::time::timeout(Duration::from_secs(5), async {
        for number in 2..12 {
            let refused = server.post(&changed(&OTHER, number, &number.to_string())).await;
            told(&refused);
        }
    })
    .await
    .expect("at once");
    // The same again is not taken for heard.
    socket.send(&changed(&UID, 3, "new")).await;
    told(&socket.recv().await);
    // Who has no news is served, and so is the operator.
    let mut steady = server.websocket().await;
    server.fleet.set_remote_config(uid(&UID), remote_config("own")).unwrap();
    assert!(socket.recv().await.remote_config.is_some());
    let counters = server.fleet.counters();
    assert!(counters.store_failures > 0 && counters.unsaved >= 13, "{counters:?}");

    told_store.fail(false);
    server.until(|fleet| fleet.counters().store_writes > counters.store_writes).await;
    socket.send(&changed(&UID, 4, "new")).await;
    assert_eq!(socket.recv().await.error_response, None);
    steady.send(&full_report(&[9; 16], 1, MASK)).await;
    assert_eq!(steady.recv().await.error_response, None);
    stop(server).await;

    // Nothing of it was lost.
    let server = start_on(Told::new(&store), |_, _| {}).await;
    let state = server.fleet.agent(uid(&UID)).unwrap();
    assert_eq!(state.state().agent_description(), Some(description("new")));
    assert!(state.remote_config().unwrap().is_own());
    assert_eq!(server.fleet.len(), 3);
    stop(server).await;
}

#[tokio::test]
async fn where_service_counts_more_news_are_acknowledged_although_the_store_fails() {
    let told = Told::new(&MemoryStore::default());
    let server = start_on(told.clone(), |_, service| {
        service.store_deadline = Duration::from_millis(50);
        service.store_failure = StoreFailure::Acknowledge;
    })
    .await;
    told.fail(true);
    let mut socket = server.websocket().await;
    socket.send(&report(1)).await;
    assert_eq!(socket.recv().await.error_response, None);
    assert_eq!(server.post(&full_report(&OTHER, 1, MASK)).await.error_response, None);
    assert_eq!(server.fleet.counters().unsaved, 0);
    told.fail(false);
    stop(server).await;
    assert!(!told.store.is_empty());
}

#[tokio::test]
async fn a_store_that_hangs_or_panics_is_one_that_fails() {
    let told_store = Told::new(&MemoryStore::default());
    let server = start_on(told_store.clone(), |_, service| {
        service.store_deadline = Duration::from_millis(50);
    })
    .await;
    told_store.orders.panics.store(true, Ordering::SeqCst);
    told(&server.post(&report(1)).await);
    told_store.orders.panics.store(false, Ordering::SeqCst);
    server.until(|fleet| fleet.counters().store_writes > 0).await;

    told_store.hang();
    told(&server.post(&changed(&UID, 2, "new")).await);
    told_store.go_on();
    server.until(|fleet| fleet.counters().store_writes > 1).await;
    assert_eq!(server.post(&changed(&UID, 3, "newer")).await.error_response, None);
    stop(server).await;
}

#[tokio::test]
async fn replies_that_wait_are_bounded_and_stay_in_order() {
    let told = Told::new(&MemoryStore::default());
    let server = start_on(told.clone(), |_, service| {
        service.store_deadline = Duration::from_secs(60);
    })
    .await;
    told.hang();
    let mut socket = server.websocket().await;
    let agents = 600_u64;
    let uid = |number: u64| u128::from(number + 1).to_be_bytes();
    for number in 0..agents {
        socket.send_raw(framed(&full_report(&uid(number), 1, MASK).encode_to_vec())).await;
    }
    // It takes in no more than it can hold back the replies to.
    server.until(|fleet| fleet.len() == 256).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(server.fleet.len(), 256);
    told.go_on();
    for number in 0..agents {
        assert_eq!(socket.recv().await.instance_uid, uid(number)[..]);
    }
    assert!(told.attempts() < 50, "Agents share writes: {}", told.attempts());
    stop(server).await;
}

#[tokio::test]
async fn a_server_whose_store_fails_stops_in_time() {
    let told = Told::new(&MemoryStore::default());
    let server = Server::bind("127.0.0.1:0")
        .shutdown_deadline(Duration::from_millis(100))
        .state_store(told.clone());
    let server = run(server.listen(AcceptAll).await.expect("a free port"));
    told.fail(true);
    let mut socket = server.websocket().await;
    socket.send(&report(1)).await;
    server.until(|fleet| fleet.len() == 1).await;
    drop(socket);
    let stopped = tokio::time::timeout(Duration::from_secs(5), stop(server)).await;
    assert!(stopped.is_ok());
    // And gives up, so that another one can have the store.
    soon(async {
        loop {
            let attempts = told.attempts();
            tokio::time::sleep(Duration::from_millis(500)).await;
            if told.attempts() == attempts {
                break;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn what_an_operator_has_set_can_be_waited_for() {
    let told = Told::new(&MemoryStore::default());
    let builder = Server::bind("127.0.0.1:0").state_store(told.clone());
    let mut config = opamp_server::ServiceConfig::default();
    config.store_deadline = Duration::from_millis(50);
    let server = builder.service_config(config).listen(AcceptAll).await.expect("a free port");
    let handle = server.store_handle();
    let server = run(server);
    server.fleet.set_default_remote_config(remote_config("all")).unwrap();
    soon(handle.flush()).await.expect("it is stored");
    let entries = told.store.len();
    assert!(entries >= 3, "version, value, defaults");
    told.fail(true);
    server.fleet.clear_default_remote_config();
    let error = soon(handle.flush()).await.expect_err("the store fails");
    assert!(error.to_string().contains("tried again"), "{error}");
    told.fail(false);
    soon(async { while handle.flush().await.is_err() {} }).await;
    assert_eq!(told.store.len(), 1);
    stop(server).await;
}

#[tokio::test]
async fn a_server_does_not_start_with_half_of_what_is_stored() {
    let told = Told::new(&MemoryStore::default());
    told.fail(true);
    let listening = Server::bind("127.0.0.1:0").state_store(told).listen(AcceptAll).await;
    let error = listening.expect_err("it does not listen");
    assert_eq!(error.kind(), ErrorKind::Store);
    let source = std::error::Error::source(&error).expect("a cause").to_string();
    assert!(source.contains("nothing can be read"), "{source}");
}

/// Knows peers by a header, and binds Agents to them, over restarts as well.
struct ByName;

impl Handler for ByName {
    type Identity = String;

    async fn admit(&self, request: &http::request::Parts) -> Result<String, Rejection> {
        let name = request.headers.get("x-name").and_then(|value| value.to_str().ok());
        name.map(str::to_owned).ok_or_else(Rejection::forbidden)
    }

    fn authorize(&self, claim: Claim<'_, String>) -> Result<(), Denied> {
        claim.bind()
    }

    fn store_identity(&self, identity: &String) -> Option<Vec<u8>> {
        Some(identity.clone().into_bytes())
    }

    fn stored_identity(&self, stored: &[u8]) -> Option<String> {
        String::from_utf8(stored.to_vec()).ok()
    }
}

#[tokio::test]
async fn an_agent_belongs_to_the_same_identity_after_a_restart() {
    let store = MemoryStore::default();
    let start = || async {
        let listening = Server::bind("127.0.0.1:0").state_store(store.clone()).listen(ByName);
        run(listening.await.expect("a free port"))
    };
    let server = start().await;
    let named = |name: &'static str| [("x-name", name)];
    let mut socket = server.websocket_with(&named("one")).await.expect("an upgrade");
    socket.send(&report(1)).await;
    socket.recv().await;
    server.shutdown.shutdown();
    drop(socket);
    soon(server.task).await.expect("no panic");

    let server = start().await;
    let mut other = server.websocket_with(&named("two")).await.expect("an upgrade");
    other.send(&beat(2)).await;
    assert!(other.recv().await.error_response.is_some(), "it belongs to another");
    assert_eq!(server.fleet.agent(uid(&UID)).unwrap().sequence_num(), 1);
    let mut socket = server.websocket_with(&named("one")).await.expect("an upgrade");
    socket.send(&beat(2)).await;
    assert_eq!(socket.recv().await.error_response, None);

    // Until it is released, which holds over a restart, too.
    server.fleet.release(uid(&UID)).unwrap();
    server.shutdown.shutdown();
    drop((socket, other));
    soon(server.task).await.expect("no panic");
    let server = start().await;
    let mut other = server.websocket_with(&named("two")).await.expect("an upgrade");
    other.send(&beat(3)).await;
    assert_eq!(other.recv().await.error_response, None);
    server.shutdown.shutdown();
    drop(other);
    soon(server.task).await.expect("no panic");
}
