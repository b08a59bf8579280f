//! Certificate requests over real sockets: who decides, and what becomes of authorities that fail.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use http::request::Parts;
use opamp_proto::{AgentCapabilities as Does, Message as _, v1};
use opamp_server::service::store::MemoryStore;
use opamp_server::service::tls::{ClientAuthentication, server_config_for};
use opamp_server::{
    AcceptAll, AgentChange, ApprovalError, Authorizing, CertificateAuthority, CertificateIssuing,
    CertificateRequest, Changes, CsrApproval, Handler, IssuedCertificate, KeyAlgorithm, LocalCa,
    NotIssued, OperationError, Rejection, Revocations, Revoked, Server, ServiceConfig, StoreHandle,
};
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::client::{BAD_REQUEST, Running, UID, WebSocket, exchange, post, run, soon, uid};
use crate::support::{full_report, heartbeat};
use crate::tls::Authority;

const MASK: Does = Does::REPORTS_STATUS.union(Does::ACCEPTS_OPAMP_CONNECTION_SETTINGS);
const ENDPOINT: &str = "wss://opamp.example/v1/opamp";

fn report(number: u64) -> v1::AgentToServer {
    full_report(&UID, number, MASK)
}

fn beat(number: u64) -> v1::AgentToServer {
    heartbeat(&UID, number, MASK)
}

/// A request, and the key it is for.
fn request() -> (String, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, uid(&UID).to_string());
    (params.serialize_request(&key).unwrap().pem().unwrap(), key)
}

fn asks(number: u64) -> v1::AgentToServer {
    asks_with(number, &request().0)
}

fn asks_with(number: u64, csr: &str) -> v1::AgentToServer {
    let certificate_request = Some(v1::CertificateRequest { csr: csr.to_owned().into() });
    let opamp = Some(v1::OpAmpConnectionSettingsRequest { certificate_request });
    let connection_settings_request = Some(v1::ConnectionSettingsRequest { opamp });
    v1::AgentToServer { connection_settings_request, ..beat(number) }
}

fn certificate(message: &v1::ServerToAgent) -> Option<v1::TlsCertificate> {
    message.connection_settings.clone()?.opamp?.certificate
}

fn refusal(message: v1::ServerToAgent) -> String {
    let error = message.error_response.expect("a refusal");
    assert_eq!(error.r#type, BAD_REQUEST);
    error.error_message
}

async fn start<H: Handler>(
    handler: H,
    issuing: CertificateIssuing,
    adjust: impl FnOnce(&mut ServiceConfig),
) -> Running<H::Identity> {
    let mut service = ServiceConfig::default();
    service.certificates = Some(issuing);
    adjust(&mut service);
    let server = Server::bind("127.0.0.1:0").service_config(service);
    run(server.listen(handler).await.unwrap())
}

fn auto(authority: impl CertificateAuthority) -> CertificateIssuing {
    CertificateIssuing::new(authority, ENDPOINT).unwrap().approval(CsrApproval::Auto)
}

#[tokio::test]
async fn what_is_decided_in_time_is_in_the_response_and_else_it_is_pushed() {
    let _judged = opamp_spec::judges(&["CSR-10", "CSR-11", "CSR-12", "CSR-15", "CSR-18", "CSR-24"]);
    let server = start(AcceptAll, auto(Authority::new().local()), |_| {}).await;
    let first = server.post(&report(1)).await;
    let takes = opamp_proto::ServerCapabilities::ACCEPTS_CONNECTION_SETTINGS_REQUEST;
    assert_ne!(first.capabilities & takes.to_wire(), 0);
    let answer = server.post(&asks(2)).await;
    let opamp = answer.connection_settings.clone().unwrap().opamp.unwrap();
    assert_eq!(opamp.destination_endpoint, "https://opamp.example/v1/opamp");
    let issued = certificate(&answer).unwrap();
    assert!(issued.private_key.is_empty() && !issued.ca_cert.is_empty());
    let text = refusal(server.post(&asks_with(3, "please")).await);
    assert!(text.contains("certificate_request.csr"), "{text}");

    let mut socket = server.websocket().await;
    socket.send(&report(4)).await;
    socket.recv().await;
    socket.send(&asks(5)).await;
    let (acknowledgement, pushed) = (socket.recv().await, socket.recv().await);
    assert_eq!(certificate(&acknowledgement), None);
    assert!(certificate(&pushed).is_some());
    let opamp = pushed.connection_settings.unwrap().opamp.unwrap();
    assert_eq!(opamp.destination_endpoint, ENDPOINT);
    socket.send(&asks_with(6, "please")).await;
    socket.recv().await;
    refusal(socket.recv().await);
}

/// The key and the names in a request.
type Asked = (KeyAlgorithm, Vec<String>);

/// Decides by itself.
#[derive(Clone, Default)]
struct Decides {
    asked: Arc<Mutex<Vec<Asked>>>,
    /// In `agent_changed`, before anybody is asked.
    refuses: bool,
    panics: bool,
}

impl Handler for Decides {
    type Identity = &'static str;

    async fn admit(&self, _request: &Parts) -> Result<&'static str, Rejection> {
        Ok("somebody")
    }

    async fn agent_changed(&self, change: AgentChange<&'static str>) {
        if self.refuses && change.changes.contains(Changes::CERTIFICATE_REQUEST) {
            let key = change.agent.key();
            let pending = change.fleet.pending_certificate(key).unwrap();
            change.fleet.refuse_certificate(key, pending.id, "by the handler").unwrap();
        }
    }

    async fn approve_certificate(
        &self,
        request: &CertificateRequest,
        identity: &&'static str,
        policy: CsrApproval,
    ) -> CsrApproval {
        assert!(!self.panics, "it panics");
        assert_eq!((*identity, policy), ("somebody", CsrApproval::Auto));
        assert_eq!(*request.agent().uid(), uid(&UID));
        let asked = (request.key_algorithm(), request.names().to_vec());
        self.asked.lock().unwrap().push(asked);
        CsrApproval::Refuse
    }
}

#[tokio::test]
async fn the_handler_has_the_last_word() {
    let _judged = opamp_spec::judges(&["CSR-10", "CSR-15", "TOFU-03"]);
    let decides = Decides::default();
    let server = start(decides.clone(), auto(Authority::new().local()), |_| {}).await;
    server.post(&report(1)).await;
    let text = refusal(server.post(&asks(2)).await);
    assert!(text.contains("approve"), "{text}");
    let names = vec![uid(&UID).to_string()];
    assert_eq!(*decides.asked.lock().unwrap(), [(KeyAlgorithm::EcdsaP256, names)]);

    let decides = Decides { refuses: true, ..Default::default() };
    let server = start(decides.clone(), auto(Authority::new().local()), |_| {}).await;
    server.post(&report(1)).await;
    assert_eq!(refusal(server.post(&asks(2)).await), "by the handler");
    assert!(decides.asked.lock().unwrap().is_empty());

    let decides = Decides { panics: true, ..Default::default() };
    let server = start(decides, auto(Authority::new().local()), |_| {}).await;
    server.post(&report(1)).await;
    refusal(server.post(&asks(2)).await);
    assert_eq!(server.fleet.counters().handler_panics, 1);
}

#[tokio::test]
async fn a_policy_beside_the_handler_leaves_its_decisions_to_it() {
    let _judged = opamp_spec::judges(&["CSR-10", "CSR-15"]);
    let decides = Decides::default();
    let handler = Authorizing::new(decides.clone(), |claim| claim.bind());
    let server = start(handler, auto(Authority::new().local()), |_| {}).await;
    server.post(&report(1)).await;
    refusal(server.post(&asks(2)).await);
    assert_eq!(decides.asked.lock().unwrap().len(), 1);
}

/// Fails in a way of its own each time.
#[derive(Clone, Default)]
struct Fails(Arc<AtomicUsize>);

impl CertificateAuthority for Fails {
    async fn issue(&self, request: &CertificateRequest) -> Result<IssuedCertificate, NotIssued> {
        let issued = |certificate: String| IssuedCertificate { certificate, authority: None };
        match self.0.fetch_add(1, Ordering::Relaxed) {
            0 => panic!("the authority panics"),
            1 => std::future::pending().await,
            2 => Err(NotIssued::new("come back on Monday")),
            3 => Ok(issued("no certificate".to_owned())),
            4 => {
                // For another key.
                let (other, _) = self::request();
                let other = CertificateRequest::parse(request.agent(), other.as_bytes()).unwrap();
                Authority::new().local().issue(&other).await
            }
            _ => Authority::new().local().issue(request).await,
        }
    }
}

#[tokio::test]
async fn an_authority_that_fails_hurts_nobody_else() {
    let _judged = opamp_spec::judges(&["CSR-11", "CSR-15"]);
    let issuing = auto(Fails::default()).deadline(Duration::from_millis(100));
    let server = start(AcceptAll, issuing, |_| {}).await;
    server.post(&report(1)).await;
    for number in 2..=6 {
        let text = refusal(server.post(&asks(number)).await);
        assert_eq!(text.contains("Monday"), number == 4, "{text}");
        assert!(!text.contains("panic"), "{text}");
    }
    assert!(certificate(&server.post(&asks(7)).await).is_some());
    server.check_alive().await;
}

#[tokio::test]
async fn who_approves_says_what_was_looked_at() {
    let _judged = opamp_spec::judges(&["CSR-10", "TOFU-03"]);
    let issuing = CertificateIssuing::new(Authority::new().local(), ENDPOINT).unwrap();
    let server = start(AcceptAll, issuing.clone(), |_| {}).await;
    server.post(&report(1)).await;
    let answer = server.post(&asks(2)).await;
    assert_eq!((answer.error_response.clone(), certificate(&answer)), (None, None), "it waits");
    let looked_at = server.fleet.pending_certificate(uid(&UID)).unwrap().id;
    server.post(&asks(3)).await;
    let approved = issuing.approve(&server.fleet, uid(&UID), looked_at).await;
    let another = ApprovalError::Operation(OperationError::NoCertificateRequest);
    assert_eq!(approved, Err(another));
    assert_eq!(certificate(&server.post(&beat(4)).await), None);
    let pending = server.fleet.pending_certificate(uid(&UID)).unwrap().id;
    issuing.approve(&server.fleet, uid(&UID), pending).await.unwrap();
    assert!(certificate(&server.post(&beat(5)).await).is_some());
    let nobody = issuing.approve(&server.fleet, uid(&[1; 16]), pending).await;
    assert_eq!(nobody, Err(ApprovalError::Operation(OperationError::UnknownAgent)));
}

impl Authority {
    fn local(&self) -> LocalCa {
        LocalCa::from_pem(self.pem().as_bytes(), self.key_pem().as_bytes()).unwrap()
    }
}

/// A Server that takes client certificates, and a connection that presents one.
struct Mutual {
    servers: Authority,
    clients: Authority,
    ca: LocalCa,
    server: Running,
    revocations: Revocations,
    stored: StoreHandle<()>,
}

impl Mutual {
    async fn start() -> Self {
        Self::start_on(Authority::new(), Authority::new(), MemoryStore::default()).await
    }

    async fn start_on(servers: Authority, clients: Authority, store: MemoryStore) -> Self {
        let own = servers.issue("localhost");
        let tls = server_config_for(
            own.certificate.as_bytes(),
            own.key.as_bytes(),
            ClientAuthentication::Optional(clients.pem().as_bytes()),
        );
        let (ca, revocations) = (clients.local(), Revocations::new());
        let mut service = ServiceConfig::default();
        service.certificates = Some(auto(ca.clone()));
        service.revocations = Some(revocations.clone());
        let server = Server::bind("127.0.0.1:0").tls(tls.unwrap()).service_config(service);
        let server = server.state_store(store).listen(AcceptAll).await.unwrap();
        let stored = server.store_handle();
        Self { servers, clients, ca, server: run(server), revocations, stored }
    }

    async fn connect(&self, own: &v1::TlsCertificate) -> TlsStream<TcpStream> {
        let mut roots = rustls::RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(self.servers.pem().as_bytes()).unwrap();
        roots.add(root).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let certificate = CertificateDer::from_pem_slice(&own.cert).unwrap();
        let key = PrivateKeyDer::from_pem_slice(&own.private_key).unwrap();
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate], key)
            .unwrap();
        let stream = TcpStream::connect(self.server.addr).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        soon(TlsConnector::from(Arc::new(config)).connect(name, stream)).await.unwrap()
    }
}

#[tokio::test]
async fn revocation_closes_what_is_open_and_keeps_out_what_comes() {
    let mutual = Mutual::start().await;
    let own = mutual.ca.credentials(uid(&UID)).unwrap();
    let other = mutual.ca.credentials(uid(&[8; 16])).unwrap();
    let mut socket = WebSocket::open(mutual.connect(&own).await, &[]).await.unwrap();
    let mut bystander = WebSocket::open(mutual.connect(&other).await, &[]).await.unwrap();
    socket.send(&report(1)).await;
    socket.recv().await;
    bystander.send(&full_report(&[8; 16], 1, MASK)).await;
    bystander.recv().await;

    let revoked = Revoked::InstanceUid(uid(&UID).instance_uid().unwrap());
    mutual.revocations.revoke(revoked.clone(), SystemTime::now()).unwrap();
    assert_eq!(socket.recv_close().await, 1008);
    let refused = WebSocket::open(mutual.connect(&own).await, &[]).await;
    assert_eq!(refused.err().expect("it is refused").status(), 403);
    let answer = exchange(mutual.connect(&own).await, post(report(2).encode_to_vec())).await;
    assert_eq!(answer.status, 403);
    bystander.send(&heartbeat(&[8; 16], 2, MASK)).await;
    assert_eq!(bystander.recv().await.error_response, None);

    // Nor is the Agent given another certificate, whatever it comes with.
    let stream = mutual.connect(&other).await;
    let answer = exchange(stream, post(report(3).encode_to_vec())).await.message();
    assert_eq!(answer.error_response, None);
    let stream = mutual.connect(&other).await;
    let text = refusal(exchange(stream, post(asks(4).encode_to_vec())).await.message());
    assert!(text.contains("revoked"), "{text}");

    assert!(mutual.revocations.reinstate(&revoked));
    let stream = mutual.connect(&own).await;
    let answer = exchange(stream, post(beat(5).encode_to_vec())).await;
    assert_eq!(answer.message().error_response, None);
}

#[tokio::test]
async fn what_is_revoked_is_so_after_a_crash() {
    let store = MemoryStore::default();
    let mutual = Mutual::start_on(Authority::new(), Authority::new(), store.clone()).await;
    let own = mutual.ca.credentials(uid(&UID)).unwrap();
    let other = mutual.ca.credentials(uid(&[8; 16])).unwrap();
    let socket = WebSocket::open(mutual.connect(&own).await, &[]).await;
    assert!(socket.is_ok());
    let revoked = Revoked::InstanceUid(uid(&UID).instance_uid().unwrap());
    mutual.revocations.revoke(revoked.clone(), SystemTime::now()).unwrap();
    mutual.stored.flush().await.unwrap();
    mutual.server.task.abort();

    let mutual = Mutual::start_on(mutual.servers, mutual.clients, store).await;
    assert!(mutual.revocations.contains(&revoked));
    let refused = WebSocket::open(mutual.connect(&own).await, &[]).await;
    assert_eq!(refused.err().expect("it is refused").status(), 403);
    assert!(WebSocket::open(mutual.connect(&other).await, &[]).await.is_ok());
}

#[tokio::test]
async fn who_is_revoked_gets_no_certificate_whoever_approves() {
    let revoked = Revoked::InstanceUid(uid(&UID).instance_uid().unwrap());
    let issuing = CertificateIssuing::new(Authority::new().local(), ENDPOINT).unwrap();
    let list = Revocations::new();
    let with_list = |service: &mut ServiceConfig| service.revocations = Some(list.clone());
    let server = start(AcceptAll, issuing.clone(), with_list).await;
    server.post(&report(1)).await;
    server.post(&asks(2)).await;
    list.revoke(revoked.clone(), SystemTime::now()).unwrap();
    let pending = server.fleet.pending_certificate(uid(&UID)).unwrap().id;
    let approved = issuing.approve(&server.fleet, uid(&UID), pending).await;
    assert!(matches!(approved, Err(ApprovalError::NotIssued(_))), "{approved:?}");
    assert!(refusal(server.post(&beat(3)).await).contains("revoked"));

    // Nor one that was being signed.
    let (list, signed) = (Revocations::new(), Arc::new(tokio::sync::Semaphore::new(0)));
    let slow = Slow { ca: Authority::new().local(), may_sign: Arc::clone(&signed) };
    let issuing = CertificateIssuing::new(slow, ENDPOINT).unwrap();
    let with_list = |service: &mut ServiceConfig| service.revocations = Some(list.clone());
    let server = start(AcceptAll, issuing.clone(), with_list).await;
    server.post(&report(1)).await;
    server.post(&asks(2)).await;
    let pending = server.fleet.pending_certificate(uid(&UID)).unwrap().id;
    let mut approving = std::pin::pin!(issuing.approve(&server.fleet, uid(&UID), pending));
    tokio::select! {
        biased;
        approved = &mut approving => panic!("nothing is signed yet: {approved:?}"),
        () = std::future::ready(()) => {}
    }
    list.revoke(revoked, SystemTime::now()).unwrap();
    signed.add_permits(1);
    let approved = soon(approving).await;
    assert!(matches!(approved, Err(ApprovalError::NotIssued(_))), "{approved:?}");
    assert!(refusal(server.post(&beat(3)).await).contains("revoked"));
}

/// Signs when it may.
struct Slow {
    ca: LocalCa,
    may_sign: Arc<tokio::sync::Semaphore>,
}

impl CertificateAuthority for Slow {
    async fn issue(&self, request: &CertificateRequest) -> Result<IssuedCertificate, NotIssued> {
        let _permit = self.may_sign.acquire().await.expect("it is never closed");
        self.ca.issue(request).await
    }
}
