//! Agents of this client's whose server, with its state in a file, goes down and comes back.
#![allow(clippy::disallowed_methods, reason = "tests are drivers: they have clocks and tasks")]

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use opamp_client::core::Event;
use opamp_client::{Client, Events};
use opamp_proto::v1;
use opamp_server::service::store::FileStore;
use opamp_server::{AcceptAll, Fleet, Outcome, RemoteConfig, Server, ShutdownHandle};
use tokio::runtime::Runtime;

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between the messages of an agent that has nothing to say.
const INTERVAL: Duration = Duration::from_millis(300);

/// Agents on each transport.
const AGENTS: usize = 4;

async fn until(reached: impl Fn() -> bool) {
    let reached = async {
        while !reached() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reached).await.expect("it happens soon");
}

/// A server in a runtime of its own, so that it can end at any moment.
struct Process {
    runtime: Runtime,
    addr: SocketAddr,
    fleet: Fleet,
    shutdown: ShutdownHandle,
    ended: tokio::task::JoinHandle<()>,
}

impl Process {
    async fn start(addr: &str, state: &Path) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let (addr, state) = (addr.to_owned(), state.to_owned());
        let listening = runtime.spawn(async move {
            let store = FileStore::open(state).expect("the state can be read");
            Server::bind(addr).state_store(store).listen(AcceptAll).await.expect("a server")
        });
        let server = listening.await.expect("it listens");
        let (addr, fleet) = (server.local_addr(), server.fleet().clone());
        let shutdown = server.shutdown_handle();
        let ended = runtime.spawn(server.run());
        Self { runtime, addr, fleet, shutdown, ended }
    }

    async fn stop(self) {
        self.shutdown.shutdown();
        self.ended.await.expect("it ends well");
        self.runtime.shutdown_background();
    }

    /// Ends with whatever it is at.
    async fn crash(self) {
        let Self { runtime, fleet, .. } = self;
        drop(fleet);
        let end = move || runtime.shutdown_timeout(PATIENCE);
        tokio::task::spawn_blocking(end).await.expect("it ends");
    }

    /// A message that is on its way when its connection is closed is lost, and its number with it.
    fn hears_nothing_soon(&self, client: &Client) -> bool {
        let agent = self.fleet.agent(client.instance_uid());
        let silent = agent.and_then(|agent| agent.last_seen().elapsed().ok());
        silent.is_some_and(|silent| silent > INTERVAL / 20 && silent < INTERVAL * 6 / 10)
    }

    fn is_applied(&self, client: &Client) -> bool {
        let agent = self.fleet.agent(client.instance_uid());
        agent.is_some_and(|agent| {
            let config = agent.remote_config().expect("one is wanted");
            agent.is_connected() && config.outcome() == Outcome::Applied
        })
    }
}

fn config(body: String) -> RemoteConfig {
    let file = v1::AgentConfigFile { body: body.into(), ..Default::default() };
    RemoteConfig::new(v1::AgentConfigMap { config_map: [(String::new(), file)].into() })
}

/// An agent that applies what it is offered.
async fn agent(scheme: &str, addr: SocketAddr) -> Client {
    let builder = Client::builder(format!("{scheme}://{addr}/v1/opamp"))
        .identifying_attribute("service.name", "agent")
        .health(v1::ComponentHealth { healthy: true, ..Default::default() })
        .accept_remote_config()
        .configure(|config| {
            config.heartbeat_interval = Some(INTERVAL);
            config.polling_interval = INTERVAL;
            config.backoff.initial = Duration::from_millis(10);
            config.backoff.max = Duration::from_millis(100);
        });
    let (client, events, driver) = builder.build().expect("a client");
    tokio::spawn(driver.run());
    tokio::spawn(apply(client.clone(), events));
    client
}

async fn apply(client: Client, mut events: Events) {
    while let Some(event) = events.next().await {
        if let Event::RemoteConfig(offer) = event {
            client.resolve(offer.applied());
        }
    }
}

async fn restart_with(orderly: bool) {
    let place = tempfile::tempdir().expect("a directory");
    let state = place.path().join("fleet.redb");
    let first = Process::start("127.0.0.1:0", &state).await;
    let addr = first.addr;
    let mut clients = Vec::new();
    for number in 0..2 * AGENTS {
        let scheme = if number % 2 == 0 { "ws" } else { "http" };
        let client = agent(scheme, addr).await;
        let uid = client.instance_uid();
        until(|| first.fleet.agent(uid).is_some()).await;
        first.fleet.set_remote_config(uid, config(format!("number: {number}"))).expect("known");
        clients.push(client);
    }
    for client in &clients {
        until(|| first.is_applied(client)).await;
        // And it has sent heartbeats since.
        let number = || first.fleet.agent(client.instance_uid()).map(|it| it.sequence_num());
        let before = number();
        until(|| number() > before.map(|before| before + 2)).await;
    }
    match orderly {
        true => {
            until(|| clients.iter().all(|client| first.hears_nothing_soon(client))).await;
            first.stop().await;
        }
        false => first.crash().await,
    }

    // What changes while nobody listens is told to the next process.
    clients[0].set_health(v1::ComponentHealth { healthy: false, ..Default::default() });
    let second = Process::start(&addr.to_string(), &state).await;
    assert_eq!(second.fleet.len(), clients.len());
    for (number, client) in clients.iter().enumerate() {
        until(|| second.is_applied(client)).await;
        let uid = client.instance_uid();
        let healthy = || second.fleet.agent(uid)?.state().health().map(|health| health.healthy);
        until(|| healthy() == Some(number != 0)).await;
        let agent = second.fleet.agent(uid).expect("it is known");
        assert!(agent.remote_config().expect("its own").is_own());
        assert_eq!(agent.remote_config().map(|it| it.hash()), Some(hash(number)));
    }
    let counters = second.fleet.counters();
    assert_eq!(counters.configs_offered, 0, "everybody has what it is to have");
    if orderly {
        let asked = counters.full_state_replies + counters.full_state_pushes;
        assert_eq!(asked, 0, "an orderly restart loses track of nobody");
    }
    for client in &clients {
        client.stop().await;
    }
    second.stop().await;
}

fn hash(number: usize) -> opamp_server::OfferHash {
    config(format!("number: {number}")).hash().into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_an_orderly_restart_nobody_is_asked_or_offered_anything() {
    let _judged = opamp_spec::judges(&["SEQ-05", "CFG-19", "DELTA-03"]);
    restart_with(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_crash_everything_that_was_acknowledged_is_known() {
    let _judged = opamp_spec::judges(&["SEQ-05", "CFG-19", "DELTA-03"]);
    restart_with(false).await;
}
