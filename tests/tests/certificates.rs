//! Certificates of Agents from both ends, on real sockets: asked for, issued, used, renewed, revoked.
#![allow(clippy::disallowed_methods, reason = "tests are drivers: they have clocks and tasks")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use http::request::Parts;
use opamp_client::core::{ClientState, Event, FailureKind};
use opamp_client::tls::Tls;
use opamp_client::{Client, Events, SettingsStore};
use opamp_proto::InstanceUid;
use opamp_server::service::tls::{ClientAuthentication, server_config_for};
use opamp_server::{
    AgentChange, BearerTokens, CertificateDecision, CertificateIssuing, CertificateSerial, Changes,
    CsrApproval, Fleet, Handler, LocalCa, Outcome, PeerCertificates, Rejection, Revocations,
    Revoked, Server, ServiceConfig, ShutdownHandle,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(30);

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it happens soon")
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn local_ca() -> LocalCa {
    let issuer = authority("agents");
    LocalCa::from_pem(issuer.pem().as_bytes(), issuer.key().serialize_pem().as_bytes()).unwrap()
}

/// Who an Agent is, as far as the Server knows.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Who {
    /// It has the token that all begin with.
    Newcomer,
    /// It has a certificate.
    Agent { uid: InstanceUid, serial: CertificateSerial },
}

/// Admits newcomers with the token and Agents with their certificates, and remembers who came.
#[derive(Clone)]
struct Door {
    token: BearerTokens,
    came: Arc<Mutex<Vec<Who>>>,
    /// Gives newcomers credentials without being asked.
    gives: Option<(LocalCa, CertificateIssuing)>,
}

impl Door {
    fn new() -> Self {
        let token = BearerTokens::new(["bootstrap"]);
        Self { token, came: Arc::default(), gives: None }
    }

    fn came(&self) -> Vec<Who> {
        self.came.lock().unwrap().clone()
    }

    /// The serial numbers of certificates, in the order they were first seen in.
    fn serials(&self) -> Vec<CertificateSerial> {
        let mut serials = Vec::new();
        for who in self.came() {
            if let Who::Agent { serial, .. } = who
                && !serials.contains(&serial)
            {
                serials.push(serial);
            }
        }
        serials
    }
}

impl Handler for Door {
    type Identity = Who;

    async fn admit(&self, request: &Parts) -> Result<Who, Rejection> {
        let who = match request.extensions.get::<PeerCertificates>() {
            Some(peer) => {
                let named = peer.instance_uid().zip(peer.serial());
                let (uid, serial) = named.ok_or_else(Rejection::forbidden)?;
                Who::Agent { uid, serial }
            }
            None => self.token.check(request).map(|()| Who::Newcomer)?,
        };
        self.came.lock().unwrap().push(who.clone());
        Ok(who)
    }

    async fn agent_changed(&self, change: AgentChange<Who>) {
        if let Some((ca, issuing)) = &self.gives
            && change.changes.contains(Changes::CONNECTED)
            && change.identity == Who::Newcomer
        {
            let agent = change.agent.key();
            let offer = issuing.offer(ca.credentials(agent).unwrap(), change.agent.transport());
            let now = std::time::Instant::now();
            change.fleet.offer_certificate(agent, offer.unwrap(), now).unwrap();
        }
    }
}

struct Running {
    addr: SocketAddr,
    fleet: Fleet<Who>,
    door: Door,
    issuing: CertificateIssuing,
    revocations: Revocations,
    /// What clients trust.
    trust: String,
    shutdown: ShutdownHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.shutdown();
    }
}

/// A Server that takes certificates of this authority, and issues them.
async fn start(ca: LocalCa, approval: CsrApproval, gives: bool) -> Running {
    let own = authority("servers");
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &own).unwrap();
    let tls = server_config_for(
        certificate.pem().as_bytes(),
        key.serialize_pem().as_bytes(),
        ClientAuthentication::Optional(ca.authority_pem().as_bytes()),
    );
    let issuing = CertificateIssuing::new(ca.clone(), "wss://127.0.0.1:4320/v1/opamp").unwrap();
    let issuing = issuing.approval(approval).heartbeat_interval(Duration::from_secs(1));
    let revocations = Revocations::new();
    let mut door = Door::new();
    door.gives = gives.then(|| (ca, issuing.clone()));
    let mut service = ServiceConfig::default();
    service.certificates = Some(issuing.clone());
    service.revocations = Some(revocations.clone());
    let server = Server::bind("127.0.0.1:0").tls(tls.unwrap()).service_config(service);
    let server = server.listen(door.clone()).await.unwrap();
    let addr = server.local_addr();
    issuing.set_endpoint(format!("wss://{addr}/v1/opamp")).unwrap();
    let (fleet, shutdown) = (server.fleet().clone(), server.shutdown_handle());
    tokio::spawn(server.run());
    Running { addr, fleet, door, issuing, revocations, trust: own.pem(), shutdown }
}

impl Running {
    async fn until(&self, reached: impl Fn(&Self) -> bool) {
        soon(async {
            while !reached(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    fn outcome(&self, uid: InstanceUid) -> Option<Outcome> {
        Some(self.fleet.agent(uid)?.connection_settings()?.outcome())
    }
}

/// Keeps the state in memory.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Option<ClientState>>>);

#[async_trait::async_trait]
impl SettingsStore for Memory {
    async fn load(&self) -> std::io::Result<Option<ClientState>> {
        Ok(self.0.lock().unwrap().clone())
    }

    async fn save(&self, state: &ClientState) -> std::io::Result<()> {
        *self.0.lock().unwrap() = Some(state.clone());
        Ok(())
    }
}

struct Agent {
    client: Client,
    events: Events,
    memory: Memory,
}

/// An agent that has the token only, and asks for a certificate if it is to.
async fn agent(server: &Running, scheme: &str, asks: bool) -> Agent {
    agent_with(server, scheme, asks, Memory::default(), Some("Bearer bootstrap")).await
}

async fn agent_with(
    server: &Running,
    scheme: &str,
    asks: bool,
    memory: Memory,
    authorization: Option<&'static str>,
) -> Agent {
    let tls = Tls::new().trust_pem(server.trust.as_bytes()).unwrap();
    agent_over(server, scheme, asks, memory, tls, authorization).await
}

async fn agent_over(
    server: &Running,
    scheme: &str,
    asks: bool,
    memory: Memory,
    tls: Tls,
    authorization: Option<&'static str>,
) -> Agent {
    let mut builder = Client::builder(format!("{scheme}://{}/v1/opamp", server.addr))
        .identifying_attribute("service.name", "agent")
        .tls(tls)
        .accept_connection_settings()
        .configure(|config| {
            config.heartbeat_interval = Some(Duration::from_millis(100));
            config.certificate_retry_interval = Duration::from_millis(100);
        })
        .store(memory.clone())
        .await
        .unwrap();
    if let Some(authorization) = authorization {
        builder = builder.header("authorization", authorization);
    }
    if asks {
        builder = builder.request_certificate();
    }
    let (client, events, driver) = builder.build().unwrap();
    tokio::spawn(driver.run());
    Agent { client, events, memory }
}

impl Agent {
    fn uid(&self) -> InstanceUid {
        self.client.instance_uid()
    }

    /// What is true of the first event of which there is something.
    async fn event<T>(&mut self, mut of: impl FnMut(&Event) -> Option<T>) -> T {
        soon(async {
            loop {
                let event = self.events.next().await.expect("an event");
                if let Some(it) = of(&event) {
                    break it;
                }
            }
        })
        .await
    }

    async fn applied(&mut self) {
        let failed = self.event(|event| match event {
            Event::OpampSettingsApplied => Some(None),
            Event::OpampSettingsFailed { reason } => Some(Some(reason.clone())),
            Event::CertificateRequestFailed { reason } => Some(Some(reason.clone())),
            _ => None,
        });
        assert_eq!(failed.await, None);
    }
}

#[tokio::test]
async fn from_the_common_token_to_a_certificate_of_its_own() {
    let _judged = opamp_spec::judges(&[
        "CSR-04", "CSR-10", "CSR-11", "CSR-13", "CSR-18", "CSR-19", "CSR-24", "TOFU-01", "TOFU-02",
        "TOFU-07", "CERT-01", "CERT-10",
    ]);
    for scheme in ["wss", "https"] {
        let server = start(local_ca(), CsrApproval::Auto, false).await;
        let mut agent = agent(&server, scheme, true).await;
        agent.applied().await;
        let uid = agent.uid();
        server.until(|server| server.outcome(uid) == Some(Outcome::Applied)).await;
        let came = server.door.came();
        assert_eq!(came.first(), Some(&Who::Newcomer), "{scheme}");
        assert!(matches!(came.last(), Some(Who::Agent { uid: named, .. }) if *named == uid));
        assert!(server.fleet.agent(uid).unwrap().is_connected());

        // After a restart it comes with the certificate at once, and needs no token.
        soon(agent.client.stop()).await;
        let seen = server.door.came().len();
        let again = agent_with(&server, scheme, true, agent.memory.clone(), None).await;
        server.until(|server| server.door.came().len() > seen).await;
        assert_eq!(again.uid(), uid);
        assert!(
            matches!(&server.door.came()[seen], Who::Agent { uid: named, .. } if *named == uid)
        );
    }
}

#[tokio::test]
async fn a_certificate_to_begin_with_opens_the_door_as_well() {
    let _judged = opamp_spec::judges(&["CSR-03", "CSR-19"]);
    let ca = local_ca();
    let common = InstanceUid::generate();
    let bootstrap = ca.credentials(common).unwrap();
    let server = start(ca, CsrApproval::Auto, false).await;
    let tls = Tls::new().trust_pem(server.trust.as_bytes()).unwrap();
    let tls = tls.identity_pem(&bootstrap.cert, &bootstrap.private_key).unwrap();
    let mut agent = agent_over(&server, "wss", true, Memory::default(), tls, None).await;
    agent.applied().await;
    let came = server.door.came();
    let shown = came.iter().map(|who| match who {
        Who::Agent { uid, .. } => *uid,
        Who::Newcomer => panic!("it has no token"),
    });
    assert_eq!(shown.collect::<Vec<_>>(), [common, agent.uid()]);
}

#[tokio::test]
async fn somebody_approves_and_somebody_refuses() {
    let _judged = opamp_spec::judges(&["CSR-10", "CSR-15", "TOFU-02", "TOFU-03", "ERR-14"]);
    for scheme in ["wss", "https"] {
        let server = start(local_ca(), CsrApproval::Manual, false).await;
        let mut agent = agent(&server, scheme, true).await;
        let pending = |server: &Running| server.fleet.pending_certificates().pop();
        server.until(|server| pending(server).is_some()).await;
        let (key, first) = pending(&server).unwrap();
        assert_eq!(*key.uid(), agent.uid().into());
        assert!(server.fleet.agent(key).unwrap().is_connected(), "it is served meanwhile");
        server.fleet.refuse_certificate(key, first.id, "who are you?").unwrap();
        let reason = agent.event(|event| match event {
            Event::CertificateRequestFailed { reason } => Some(reason.clone()),
            _ => None,
        });
        assert!(reason.await.contains("who are you?"));

        // It asks again, for another key.
        server.until(|server| pending(server).is_some()).await;
        let (_, second) = pending(&server).unwrap();
        assert_ne!(first.id, second.id);
        assert!(server.issuing.approve(&server.fleet, key, first.id).await.is_err());
        server.issuing.approve(&server.fleet, key, second.id).await.unwrap();
        agent.applied().await;
        let state = server.fleet.agent(key).unwrap().certificate_request().unwrap();
        assert_eq!(state.decision(), CertificateDecision::Issued);
    }
}

#[tokio::test]
async fn a_certificate_is_renewed_in_time() {
    let _judged = opamp_spec::judges(&["CSR-16"]);
    // It is valid since five minutes ago, so three quarters of its time are over when it comes.
    let ca = local_ca().validity(Duration::from_secs(90));
    let server = start(ca, CsrApproval::Auto, false).await;
    let mut agent = agent(&server, "wss", true).await;
    agent.applied().await;
    agent.applied().await;
    server.until(|server| server.door.serials().len() >= 2).await;
    assert_eq!(server.fleet.agents().len(), 1);
}

#[tokio::test]
async fn a_revoked_certificate_ends_its_session_and_opens_no_other() {
    let _judged = opamp_spec::judges(&["CSR-13", "AUTH-05", "CONN-36", "CONN-37"]);
    let server = start(local_ca(), CsrApproval::Auto, false).await;
    let mut revoked = agent(&server, "wss", true).await;
    let mut bystander = agent(&server, "wss", true).await;
    let mut polling = agent(&server, "https", true).await;
    for agent in [&mut revoked, &mut bystander, &mut polling] {
        agent.applied().await;
    }
    let connected = |server: &Running, agent: InstanceUid| {
        server.fleet.agent(agent).is_some_and(|agent| agent.is_connected())
    };
    let serial = |agent: &Agent| {
        let uid = agent.uid();
        let came = server.door.came();
        let serial = came.into_iter().rev().find_map(|who| match who {
            Who::Agent { uid: named, serial } if named == uid => Some(serial),
            _ => None,
        });
        serial.unwrap()
    };
    let now = SystemTime::now();
    server.revocations.revoke(Revoked::Serial(serial(&revoked)), now).unwrap();
    server.revocations.revoke(Revoked::InstanceUid(polling.uid()), now).unwrap();
    server.until(|server| !connected(server, revoked.uid())).await;
    for agent in [&mut revoked, &mut polling] {
        agent
            .event(|event| match event {
                Event::ConnectFailed { failure, .. } => {
                    (failure.kind == FailureKind::Unauthorized).then_some(())
                }
                _ => None,
            })
            .await;
    }
    assert!(connected(&server, bystander.uid()));
    assert!(!connected(&server, revoked.uid()));
}

#[tokio::test]
async fn a_renamed_agent_asks_anew_over_its_old_certificate() {
    let _judged = opamp_spec::judges(&["CSR-21", "CSR-22", "ID-12"]);
    let server = start(local_ca(), CsrApproval::Auto, false).await;
    let mut agent = agent(&server, "wss", true).await;
    agent.applied().await;
    let new = InstanceUid::generate();
    server.fleet.rename(agent.uid(), new, std::time::Instant::now()).unwrap();
    agent.applied().await;
    assert_eq!(agent.uid(), new);
    let named = |who: &Who| matches!(who, Who::Agent { uid, .. } if *uid == new);
    server.until(|server| server.door.came().iter().any(named)).await;
    // The request with the new uid came from who had the certificate of the old one.
    let came = server.door.came();
    assert!(!came.iter().skip(1).any(|who| *who == Who::Newcomer), "{came:?}");
}

#[tokio::test]
async fn newcomers_are_given_credentials_of_their_own() {
    let _judged = opamp_spec::judges(&["TOFU-04", "TOFU-06", "TOFU-07", "CERT-12", "CERT-13"]);
    for scheme in ["wss", "https"] {
        let server = start(local_ca(), CsrApproval::Refuse, true).await;
        let mut agent = agent(&server, scheme, false).await;
        agent.applied().await;
        let uid = agent.uid();
        server.until(|server| server.outcome(uid) == Some(Outcome::Applied)).await;
        assert!(
            matches!(server.door.came().last(), Some(Who::Agent { uid: named, .. }) if *named == uid)
        );
        let state = agent.memory.0.lock().unwrap().clone().unwrap();
        let certificate = state.opamp_settings.and_then(|settings| settings.certificate);
        assert!(!certificate.unwrap().private_key.is_empty());
    }
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_worth_nothing() {
    let _judged = opamp_spec::judges(&["CSR-09"]);
    let server = start(local_ca(), CsrApproval::Auto, false).await;
    let stranger = local_ca().credentials(InstanceUid::generate()).unwrap();
    let tls = Tls::new().trust_pem(server.trust.as_bytes()).unwrap();
    let tls = tls.identity_pem(&stranger.cert, &stranger.private_key).unwrap();
    let builder = Client::builder(format!("wss://{}/v1/opamp", server.addr));
    let builder = builder.identifying_attribute("service.name", "agent").tls(tls);
    let (client, events, driver) = builder.build().unwrap();
    tokio::spawn(driver.run());
    let mut agent = Agent { client, events, memory: Memory::default() };
    agent
        .event(|event| match event {
            Event::ConnectFailed { failure, .. } => (failure.kind == FailureKind::Tls
                || failure.kind == FailureKind::Unreachable)
                .then_some(()),
            _ => None,
        })
        .await;
    assert_eq!(server.door.came(), []);
}
