//! Stores: what survives the process, and stores that are slow, broken or gone.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use opamp_client::core::{ClientState, Event};
use opamp_client::{ErrorKind, SettingsStore};
use opamp_proto::ServerCapabilities;
use opamp_proto::v1::{
    ConnectionSettingsOffers, ConnectionSettingsStatuses, OpAmpConnectionSettings, ServerToAgent,
};
use opamp_proto::{InstanceUid, v1};
use tokio::sync::Semaphore;

use crate::support::{Agent, agent, http, offer_to, quick, reply_to, soon, websocket};

/// A store in memory that does what it is told.
#[derive(Clone, Default)]
struct Memory(Arc<Shelf>);

struct Shelf {
    saved: Mutex<Option<Vec<u8>>>,
    broken: Mutex<bool>,
    /// How many saves may be completed.
    permits: Semaphore,
}

impl Default for Shelf {
    fn default() -> Self {
        let permits = Semaphore::new(Semaphore::MAX_PERMITS);
        Self { saved: Mutex::default(), broken: Mutex::default(), permits }
    }
}

impl Memory {
    fn broken(self, broken: bool) -> Self {
        *self.0.broken.lock().unwrap() = broken;
        self
    }

    /// Completes no save until it is told to.
    fn hung() -> Self {
        let memory = Self::default();
        memory.0.permits.forget_permits(Semaphore::MAX_PERMITS);
        memory
    }

    fn saved(&self) -> Option<ClientState> {
        let saved = self.0.saved.lock().unwrap();
        saved.as_deref().map(|bytes| ClientState::from_bytes(bytes).unwrap())
    }
}

#[async_trait::async_trait]
impl SettingsStore for Memory {
    async fn load(&self) -> io::Result<Option<ClientState>> {
        match *self.0.broken.lock().unwrap() {
            true => Err(io::Error::other("no such disk")),
            false => Ok(self.saved()),
        }
    }

    async fn save(&self, state: &ClientState) -> io::Result<()> {
        self.0.permits.acquire().await.unwrap().forget();
        match *self.0.broken.lock().unwrap() {
            true => Err(io::Error::other("no such disk")),
            false => {
                *self.0.saved.lock().unwrap() = Some(state.to_bytes());
                Ok(())
            }
        }
    }
}

fn settings_offer(report: &v1::AgentToServer, endpoint: String) -> ServerToAgent {
    let settings = OpAmpConnectionSettings { destination_endpoint: endpoint, ..Default::default() };
    ServerToAgent {
        capabilities: ServerCapabilities::all().to_wire(),
        connection_settings: Some(ConnectionSettingsOffers {
            hash: "h1".into(),
            opamp: Some(settings),
            ..Default::default()
        }),
        ..reply_to(report)
    }
}

/// The agent leaves in an orderly way, whatever it says before. What it said of settings last.
async fn left(mut peer: websocket::Peer) -> Option<i32> {
    let mut told = None;
    loop {
        let report = peer.report().await;
        told = status(&report).or(told);
        if report.agent_disconnect.is_some() {
            break;
        }
    }
    peer.close_frame().await;
    peer.ended().await;
    told
}

fn status(report: &v1::AgentToServer) -> Option<i32> {
    report.connection_settings_status.as_ref().map(|status| status.status)
}

#[tokio::test]
async fn the_next_process_goes_on_at_the_server_it_was_sent_to_as_who_it_was() {
    let _judged = opamp_spec::judges(&["CONN-12", "CONN-14", "CONN-16", "CONN-17", "ID-04"]);
    let store = Memory::default();
    let old = websocket::Server::start().await;
    let new = http::Server::start().await;
    let builder = || agent(old.url()).accept_connection_settings().configure(quick);
    let mut first = Agent::start(builder().store(store.clone()).await.unwrap());
    let (mut peer, report) = old.welcome().await;
    peer.send(&settings_offer(&report, new.url())).await;
    assert_eq!(left(peer).await, Some(ConnectionSettingsStatuses::Applying.into()));
    let moved = new.welcome().await;
    assert_eq!(moved.instance_uid, report.instance_uid);
    assert!(moved.agent_description.is_some(), "a full report");
    first.until(|event| (event == Event::OpampSettingsApplied).then_some(())).await;
    loop {
        let report = new.welcome().await;
        if status(&report) == Some(ConnectionSettingsStatuses::Applied.into()) {
            break;
        }
    }
    // Stopping saves what is not saved yet.
    let stopping = tokio::spawn({
        let client = first.client.clone();
        async move { client.stop().await }
    });
    while new.welcome().await.agent_disconnect.is_none() {}
    soon(stopping).await.unwrap();
    let saved = store.saved().unwrap();
    assert_eq!(saved, first.client.status().state);
    first.ended().await;

    let _second = Agent::start(builder().store(store.clone()).await.unwrap());
    let report = new.welcome().await;
    assert_eq!(InstanceUid::try_from(&*report.instance_uid), Ok(saved.instance_uid));
    assert_eq!(status(&report), Some(ConnectionSettingsStatuses::Applied.into()));
}

#[tokio::test]
async fn a_store_that_cannot_be_read_is_an_error_and_no_new_identity() {
    let _judged = opamp_spec::judges(&["ID-04"]);
    let store = Memory::default().broken(true);
    let error = agent("ws://127.0.0.1").store(store.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Store);
    assert!(error.is_retryable());
    drop(agent("ws://127.0.0.1").store(store.broken(false)).await.unwrap());
}

#[tokio::test]
async fn a_broken_store_holds_up_no_connection_but_no_server_is_left_for_another() {
    let _judged = opamp_spec::judges(&["CONN-08", "CONN-11", "HB-13"]);
    let store = Memory::default();
    let server = websocket::Server::start().await;
    let builder = agent(server.url()).accept_connection_settings().configure(|config| {
        quick(config);
        config.settings_timeout = Duration::from_millis(300);
    });
    let mut agent = Agent::start(builder.store(store.clone()).await.unwrap());
    let (mut peer, report) = server.welcome().await;
    let store = store.broken(true);
    peer.send(&settings_offer(&report, "ws://127.0.0.1:1".to_owned())).await;
    let reason = agent
        .until(|event| match event {
            Event::SaveFailed { reason, .. } => Some(reason),
            _ => None,
        })
        .await;
    assert_eq!(reason, "no such disk");
    loop {
        let report = peer.report().await;
        assert_eq!(report.agent_disconnect, None);
        peer.send(&reply_to(&report)).await;
        if status(&report) == Some(ConnectionSettingsStatuses::Failed.into()) {
            break;
        }
    }
    // It works again: what came of the offer is saved.
    let store = store.broken(false);
    let failed = i32::from(ConnectionSettingsStatuses::Failed);
    let kept = || store.saved().and_then(|state| state.connection_settings_status);
    soon(async {
        while kept().is_none_or(|status| status.status != failed) {
            let report = peer.report().await;
            peer.send(&reply_to(&report)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_store_that_hangs_holds_up_neither_heartbeats_nor_offers() {
    let _judged = opamp_spec::judges(&["HB-13", "CONN-11"]);
    let store = Memory::hung();
    let server = websocket::Server::start().await;
    let builder = agent(server.url())
        .accept_connection_settings()
        .accept_remote_config()
        .configure(|config| config.heartbeat_interval = Some(Duration::from_millis(20)));
    let mut agent = Agent::start(builder.store(store.clone()).await.unwrap());
    let (mut peer, report) = server.welcome().await;
    peer.send(&settings_offer(&report, server.url() + "/elsewhere")).await;
    peer.send(&offer_to(&report, "level: debug", "c1")).await;
    let offer = agent.offer().await;
    agent.client.resolve(offer.applied());
    for _ in 0..10 {
        let report = peer.report().await;
        assert_eq!(report.agent_disconnect, None, "nothing is saved yet");
        peer.send(&reply_to(&report)).await;
    }
    assert_eq!(store.saved(), None);
    store.0.permits.add_permits(100);
    left(peer).await;
    let (moved, _) = server.welcome().await;
    assert!(moved.path_and_query.ends_with("/elsewhere"));
}

#[cfg(feature = "csr")]
#[tokio::test]
async fn a_certificate_is_asked_for_installed_and_renewed() {
    use opamp_client::tls::Tls;

    use crate::support::certificates::Authority;

    let _judged = opamp_spec::judges(&["CSR-01", "CSR-04", "CSR-05", "CSR-13", "CSR-16"]);
    let authority = Authority::new();
    let identity = authority.server("127.0.0.1");
    let open = websocket::Server::start_tls(Authority::acceptor(&identity)).await;
    let mutual = websocket::Server::start_tls(authority.mutual_acceptor(&identity)).await;
    let store = Memory::default();
    let trust = Tls::new().trust_pem(authority.pem().as_bytes()).unwrap();
    let builder = agent(format!("wss://127.0.0.1:{}", open.port())).tls(trust);
    let builder = builder.configure(|config| {
        quick(config);
        config.certificate_retry_interval = Duration::from_millis(200);
    });
    let builder = builder.store(store.clone()).await.unwrap().request_certificate();
    let _agent = Agent::start(builder);
    let all = |report: &v1::AgentToServer| ServerToAgent {
        capabilities: ServerCapabilities::all().to_wire(),
        ..reply_to(report)
    };
    let csr_in = |report: &v1::AgentToServer| {
        let request = report.connection_settings_request.as_ref()?.opamp.as_ref()?;
        Some(String::from_utf8(request.certificate_request.as_ref()?.csr.to_vec()).unwrap())
    };
    let (mut peer, first) = open.welcome().await;
    assert_eq!(csr_in(&first), None);
    peer.send(&all(&first)).await;
    let csr = loop {
        let report = peer.report().await;
        if let Some(csr) = csr_in(&report) {
            break csr;
        }
        peer.send(&all(&report)).await;
    };
    let key = store.saved().unwrap().certificate_request.unwrap().private_key;
    // Two thirds of its time are over when it is issued.
    let mut offer = settings_offer(&first, format!("wss://127.0.0.1:{}", mutual.port()));
    let opamp = offer.connection_settings.as_mut().unwrap().opamp.as_mut().unwrap();
    opamp.certificate = Some(v1::TlsCertificate {
        cert: authority.client_of(&key, "the agent").into(),
        ca_cert: authority.pem().into(),
        ..Default::default()
    });
    peer.send(&offer).await;
    left(peer).await;
    let (mut peer, report) = mutual.welcome().await;
    peer.send(&all(&report)).await;
    let renewed = soon(async {
        loop {
            let report = peer.report().await;
            if let Some(csr) = csr_in(&report) {
                break csr;
            }
            peer.send(&all(&report)).await;
        }
    })
    .await;
    assert_ne!(renewed, csr);
    let state = store.saved().unwrap();
    assert_ne!(state.certificate_request.unwrap().private_key, key, "another key");
    let in_force = state.opamp_settings.unwrap().certificate.unwrap();
    assert_eq!(in_force.private_key, key);
}
