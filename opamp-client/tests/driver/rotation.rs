//! Settings that the server offers, as they show on the wire: certificates, authorities, versions,
//! headers and proxies that change while the agent runs.

use opamp_client::core::{FailureKind, Storage};
use opamp_client::tls::Tls;
use opamp_client::{Builder, HeaderError};
use opamp_proto::v1::{
    ConnectionSettingsOffers, ConnectionSettingsStatuses, Header, Headers, OpAmpConnectionSettings,
    ProxyConnectionSettings, ServerToAgent, TlsCertificate, TlsConnectionSettings,
};
use opamp_proto::{ServerCapabilities, v1};
use rustls::HandshakeKind;
use rustls::ProtocolVersion;
use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::support::certificates::{Authority, Identity};
use crate::support::gateway::Gateway;
use crate::support::websocket::{Peer, Server};
use crate::support::{Agent, agent, http, reply_to, run_in_environment, soon};

fn movable(url: String, tls: Tls) -> Builder {
    let builder = agent(url).tls(tls).accept_connection_settings();
    builder.configure(|config| config.storage = Storage::Application)
}

fn trusting(authority: &Authority) -> Tls {
    Tls::new().trust_pem(authority.pem().as_bytes()).unwrap()
}

fn shown(identity: &Identity) -> Option<TlsCertificate> {
    Some(TlsCertificate {
        cert: identity.certificate.clone().into(),
        private_key: identity.key.clone().into(),
        ..Default::default()
    })
}

fn offer(report: &v1::AgentToServer, settings: OpAmpConnectionSettings) -> ServerToAgent {
    let offered =
        ConnectionSettingsOffers { hash: "h1".into(), opamp: Some(settings), ..Default::default() };
    let reply = reply_to(report);
    let more = ServerCapabilities::OFFERS_CONNECTION_SETTINGS.to_wire();
    ServerToAgent {
        capabilities: reply.capabilities | more,
        connection_settings: Some(offered),
        ..reply
    }
}

/// Reads what else comes on a connection, so that the agent can leave it in an orderly way.
fn see_off(mut peer: Peer) {
    tokio::spawn(async move { while let Some(Ok(_)) = peer.next().await {} });
}

async fn status(peer: &mut Peer) -> v1::ConnectionSettingsStatus {
    loop {
        let report = peer.report().await;
        peer.send(&reply_to(&report)).await;
        if let Some(status) = report.connection_settings_status
            && status.status != i32::from(ConnectionSettingsStatuses::Applying)
        {
            return status;
        }
    }
}

async fn applied(peer: &mut Peer) {
    let status = status(peer).await;
    let applied = i32::from(ConnectionSettingsStatuses::Applied);
    assert_eq!(status.status, applied, "{}", status.error_message);
}

fn wss(port: u16) -> String {
    format!("wss://127.0.0.1:{port}/v1/opamp")
}

/// A server that shows how its TLS connections came about.
struct Glass {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Glass {
    async fn start(acceptor: TlsAcceptor) -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap(), acceptor }
    }

    fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    async fn accept(&self) -> TlsStream<TcpStream> {
        let tcp = soon(self.listener.accept()).await.unwrap().0;
        soon(self.acceptor.accept(tcp)).await.unwrap()
    }

    /// The next connection: how its handshake went, and who came.
    async fn welcome(&self) -> (HandshakeKind, CertificateDer<'static>, Peer, v1::AgentToServer) {
        let stream = self.accept().await;
        let tls = stream.get_ref().1;
        let kind = tls.handshake_kind().unwrap();
        let who = tls.peer_certificates().unwrap()[0].clone().into_owned();
        let mut peer = Peer::upgrade(Box::new(stream)).await;
        let report = peer.report().await;
        (kind, who, peer, report)
    }
}

/// A session that was begun with one certificate must not be resumed by who has another: the server
/// would go on to see the old one.
#[tokio::test]
async fn a_rotated_certificate_is_shown_and_no_session_outlives_it() {
    let _judged = opamp_spec::judges(&["CERT-01", "CONN-14", "CONN-17"]);
    let authority = Authority::new();
    let (one, two) = (authority.client("agent-7"), authority.client("agent-7"));
    let server = Glass::start(authority.mutual_acceptor(&authority.server("127.0.0.1"))).await;
    let tls =
        trusting(&authority).identity_pem(one.certificate.as_bytes(), one.key.as_bytes()).unwrap();
    let mut agent = Agent::start(movable(wss(server.port()), tls));
    let (kind, first, mut peer, report) = server.welcome().await;
    assert_eq!(kind, HandshakeKind::Full);
    peer.send(&reply_to(&report)).await;
    // Without a change the session is resumed, or the rest would prove nothing.
    agent.client.set_health(crate::support::healthy("fine"));
    peer.report().await;
    drop(peer);
    agent.disconnected().await;
    let (kind, again, mut peer, report) = server.welcome().await;
    assert_eq!((kind, &again), (HandshakeKind::Resumed, &first));

    let settings = OpAmpConnectionSettings { certificate: shown(&two), ..Default::default() };
    peer.send(&offer(&report, settings)).await;
    see_off(peer);
    let (kind, rotated, mut peer, report) = server.welcome().await;
    assert_eq!(kind, HandshakeKind::Full);
    assert_ne!(rotated, first);
    peer.send(&reply_to(&report)).await;
    applied(&mut peer).await;
}

#[tokio::test]
async fn a_certificate_that_the_server_refuses_leads_back_to_the_old_one() {
    let _judged = opamp_spec::judges(&["CONN-18", "CONN-19", "CONN-23"]);
    let (authority, stranger) = (Authority::new(), Authority::new());
    let one = authority.client("agent-7");
    let server = Glass::start(authority.mutual_acceptor(&authority.server("127.0.0.1"))).await;
    let tls =
        trusting(&authority).identity_pem(one.certificate.as_bytes(), one.key.as_bytes()).unwrap();
    let _agent = Agent::start(movable(wss(server.port()), tls));
    let (_, first, mut peer, report) = server.welcome().await;
    let wrong = stranger.client("agent-7");
    let settings = OpAmpConnectionSettings { certificate: shown(&wrong), ..Default::default() };
    peer.send(&offer(&report, settings)).await;
    see_off(peer);
    // The wrong one is refused, however often it is tried.
    let (mut peer, report) = loop {
        let tcp = soon(server.listener.accept()).await.unwrap().0;
        let Ok(stream) = soon(server.acceptor.accept(tcp)).await else { continue };
        let who = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
        assert_eq!(who, first);
        let mut peer = Peer::upgrade(Box::new(stream)).await;
        let report = peer.report().await;
        break (peer, report);
    };
    peer.send(&reply_to(&report)).await;
    let status = match report.connection_settings_status {
        Some(status) if status.status == i32::from(ConnectionSettingsStatuses::Failed) => status,
        _ => status(&mut peer).await,
    };
    assert_eq!(status.status, i32::from(ConnectionSettingsStatuses::Failed));
    let why = status.error_message;
    assert!(why.contains("refuses the client certificate"), "{why}");
}

/// The variable that names the system's authorities.
const SYSTEM: &str = "SSL_CERT_FILE";

#[test]
fn the_systems_authorities_are_trusted_by_default_and_where_an_offer_says_so() {
    let _judged = opamp_spec::judges(&["TLS-03", "TLS-04"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("system.pem");
    let variables = [(SYSTEM, file.to_str().unwrap()), ("SSL_CERT_DIR", "")];
    run_in_environment("rotation::agents_with_authorities_of_the_system", &variables);
}

#[tokio::test]
#[ignore = "needs an environment of its own"]
async fn agents_with_authorities_of_the_system() {
    let (system, private) = (Authority::new(), Authority::new());
    std::fs::write(std::env::var_os(SYSTEM).unwrap(), system.pem()).unwrap();
    let public = Server::start_tls(Authority::acceptor(&system.server("127.0.0.1"))).await;
    let _agent = Agent::start(agent(wss(public.port())));
    public.welcome().await;

    // An authority that is added while agents are refused by its servers, or refuse them.
    let added = Authority::new();
    let acceptor = Authority::acceptor(&added.server("127.0.0.1"));
    let websocket = Server::start().await;
    let requests = http::Server::start().await;
    let mut first = Agent::start(agent(wss(websocket.port())));
    let mut second = Agent::start(agent(format!("https://127.0.0.1:{}", requests.port())));
    assert!(acceptor.accept(websocket.accept_tcp().await).await.is_err());
    assert!(acceptor.accept(requests.accept_tcp().await).await.is_err());
    assert_eq!(first.failure().await.0.kind, FailureKind::Tls);
    assert_eq!(second.failure().await.0.kind, FailureKind::Tls);
    std::fs::write(std::env::var_os(SYSTEM).unwrap(), system.pem() + &added.pem()).unwrap();
    soon(async { while acceptor.accept(websocket.accept_tcp().await).await.is_err() {} }).await;
    soon(async { while acceptor.accept(requests.accept_tcp().await).await.is_err() {} }).await;

    let home = Server::start_tls(Authority::acceptor(&private.server("127.0.0.1"))).await;
    for include in [true, false] {
        let destination = Server::start().await;
        let acceptor = Authority::acceptor(&system.server("127.0.0.1"));
        let _agent = Agent::start(movable(wss(home.port()), trusting(&private)));
        let (mut peer, report) = home.welcome().await;
        let tls = TlsConnectionSettings {
            ca_pem_contents: private.pem(),
            include_system_ca_certs_pool: include,
            ..Default::default()
        };
        let settings = OpAmpConnectionSettings {
            destination_endpoint: wss(destination.port()),
            tls: Some(tls),
            ..Default::default()
        };
        peer.send(&offer(&report, settings)).await;
        see_off(peer);
        let shaken = acceptor.accept(destination.accept_tcp().await).await;
        assert_eq!(shaken.is_ok(), include);
    }
}

#[tokio::test]
async fn a_server_of_an_offered_authority_is_trusted() {
    let _judged = opamp_spec::judges(&["TLS-03", "CONN-12"]);
    let (old, new) = (Authority::new(), Authority::new());
    let first = Server::start_tls(Authority::acceptor(&old.server("127.0.0.1"))).await;
    let second = Server::start_tls(Authority::acceptor(&new.server("127.0.0.1"))).await;
    let _agent = Agent::start(movable(wss(first.port()), trusting(&old)));
    let (mut peer, report) = first.welcome().await;
    let tls = TlsConnectionSettings { ca_pem_contents: new.pem(), ..Default::default() };
    let settings = OpAmpConnectionSettings {
        destination_endpoint: wss(second.port()),
        tls: Some(tls),
        ..Default::default()
    };
    peer.send(&offer(&report, settings)).await;
    see_off(peer);
    let (mut peer, _) = second.welcome().await;
    applied(&mut peer).await;
}

/// It is somebody to verify clients with, not servers.
#[tokio::test]
async fn the_authority_of_an_offered_certificate_is_not_trusted() {
    let _judged = opamp_spec::judges(&["CERT-16"]);
    let (old, new) = (Authority::new(), Authority::new());
    let first = Server::start_tls(Authority::acceptor(&old.server("127.0.0.1"))).await;
    let second = Server::start().await;
    let _agent = Agent::start(movable(wss(first.port()), trusting(&old)));
    let (mut peer, report) = first.welcome().await;
    let identity = new.client("agent-7");
    let certificate =
        shown(&identity).map(|shown| TlsCertificate { ca_cert: new.pem().into(), ..shown });
    let settings = OpAmpConnectionSettings {
        destination_endpoint: wss(second.port()),
        certificate,
        ..Default::default()
    };
    peer.send(&offer(&report, settings)).await;
    see_off(peer);
    let acceptor = Authority::acceptor(&new.server("127.0.0.1"));
    assert!(acceptor.accept(second.accept_tcp().await).await.is_err());
    let refusing = tokio::spawn(async move {
        loop {
            drop(second.accept_tcp().await);
        }
    });
    let (mut peer, report) = first.welcome().await;
    refusing.abort();
    let status = match report.connection_settings_status {
        Some(status) if status.status == i32::from(ConnectionSettingsStatuses::Failed) => status,
        _ => status(&mut peer).await,
    };
    assert!(status.error_message.contains("not trusted here"), "{}", status.error_message);
}

#[tokio::test]
async fn offered_versions_and_suites_are_those_of_the_handshake() {
    let _judged = opamp_spec::judges(&["TLS-07", "TLS-08"]);
    let authority = Authority::new();
    let acceptor = Authority::acceptor(&authority.server("127.0.0.1"));
    let first = Server::start_tls(acceptor.clone()).await;
    let second = Glass::start(acceptor).await;
    let _agent = Agent::start(movable(wss(first.port()), trusting(&authority)));
    let (mut peer, report) = first.welcome().await;
    // The one that a server of ours likes least.
    let suite = "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256";
    let tls = TlsConnectionSettings {
        max_version: "TLSv1.2".to_owned(),
        cipher_suites: vec![suite.to_owned(), "TLS_RSA_WITH_AES_128_CBC_SHA".to_owned()],
        ..Default::default()
    };
    let settings = OpAmpConnectionSettings {
        destination_endpoint: wss(second.port()),
        tls: Some(tls),
        ..Default::default()
    };
    peer.send(&offer(&report, settings)).await;
    see_off(peer);
    let stream = second.accept().await;
    let tls = stream.get_ref().1;
    assert_eq!(tls.protocol_version(), Some(ProtocolVersion::TLSv1_2));
    let negotiated = tls.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(format!("{negotiated:?}"), suite);
}

#[tokio::test]
async fn verification_is_skipped_only_where_local_policy_allows_it() {
    let _judged = opamp_spec::judges(&["TLS-05"]);
    for allowed in [true, false] {
        let (authority, stranger) = (Authority::new(), Authority::new());
        let first = Server::start_tls(Authority::acceptor(&authority.server("127.0.0.1"))).await;
        // Neither the authority nor the name is right.
        let second = Server::start_tls(Authority::acceptor(&stranger.server("elsewhere"))).await;
        let builder = movable(wss(first.port()), trusting(&authority));
        let _agent = Agent::start(
            builder.configure(move |config| config.allow_insecure_skip_verify = allowed),
        );
        let (mut peer, report) = first.welcome().await;
        let tls = TlsConnectionSettings { insecure_skip_verify: true, ..Default::default() };
        let settings = OpAmpConnectionSettings {
            destination_endpoint: wss(second.port()),
            tls: Some(tls),
            ..Default::default()
        };
        peer.send(&offer(&report, settings)).await;
        if allowed {
            see_off(peer);
            let (mut peer, _) = second.welcome().await;
            applied(&mut peer).await;
        } else {
            // It never leaves.
            let status = status(&mut peer).await;
            assert_eq!(status.status, i32::from(ConnectionSettingsStatuses::Failed));
        }
    }
}

#[tokio::test]
async fn offered_headers_take_the_place_of_all_local_ones() {
    let _judged = opamp_spec::judges(&["CONN-30", "CONN-41"]);
    let local = || async {
        let value = ::http::HeaderValue::from_static("from the provider");
        Ok::<_, HeaderError>([(::http::header::COOKIE, value)].into_iter().collect())
    };
    let header = |key: &str, value: &str| Header { key: key.to_owned(), value: value.to_owned() };
    let some = vec![
        header("Authorization", "Bearer offered"),
        header("X-Zone", "a"),
        header("X-Zone", "b"),
    ];
    for (headers, authorization, zones) in
        [(some, Some("Bearer offered"), vec!["a", "b"]), (Vec::new(), None, vec![])]
    {
        let (first, second) = (Server::start().await, Server::start().await);
        let builder = movable(first.url(), Tls::new()).header("Authorization", "Bearer local");
        let _agent = Agent::start(builder.header("X-Local", "yes").header_provider(local));
        let (mut peer, report) = first.welcome().await;
        assert_eq!(peer.headers["cookie"], "from the provider");
        let settings = OpAmpConnectionSettings {
            destination_endpoint: second.url(),
            headers: Some(Headers { headers }),
            ..Default::default()
        };
        peer.send(&offer(&report, settings)).await;
        see_off(peer);
        let (mut peer, _) = second.welcome().await;
        let seen = peer.headers.get("authorization").map(|value| value.to_str().unwrap());
        assert_eq!(seen, authorization);
        let seen: Vec<_> = peer.headers.get_all("x-zone").iter().collect();
        assert_eq!(seen, zones);
        assert!(!peer.headers.contains_key("x-local") && !peer.headers.contains_key("cookie"));
        applied(&mut peer).await;
    }
}

/// From one transport to the other, through a proxy that nobody knew before.
#[tokio::test]
async fn an_offered_proxy_is_the_way_to_an_offered_server_of_the_other_transport() {
    let _judged = opamp_spec::judges(&["PROXY-05", "CONN-14"]);
    let authority = Authority::new();
    let acceptor = Authority::acceptor(&authority.server("opamp.invalid"));
    let (first, second) = (Server::start().await, http::Server::start_tls(acceptor).await);
    let gateway = Gateway::start().await;
    let _agent = Agent::start(movable(first.url(), trusting(&authority)));
    let (mut peer, report) = first.welcome().await;
    let header = Header { key: "X-Tenant".to_owned(), value: "blue".to_owned() };
    let proxy = ProxyConnectionSettings {
        url: gateway.url("http"),
        connect_headers: Some(Headers { headers: vec![header] }),
    };
    let settings = OpAmpConnectionSettings {
        destination_endpoint: "https://opamp.invalid:4320/v1/opamp".to_owned(),
        proxy: Some(proxy),
        ..Default::default()
    };
    peer.send(&offer(&report, settings)).await;
    see_off(peer);
    let passage = gateway.connect().await;
    assert_eq!(
        (&*passage.target, &passage.headers["x-tenant"]),
        ("opamp.invalid:4320", &"blue".parse().unwrap())
    );
    passage.grant(second.port()).await;
    let request = second.request().await;
    assert_eq!(request.method, "POST");
    let reply = reply_to(&request.report());
    request.reply(&reply).await;
}

/// What cannot be used is refused before the connection is left, with a reason and no secret.
#[tokio::test]
async fn settings_that_cannot_be_used_are_refused_where_they_came() {
    let _judged = opamp_spec::judges(&["CONN-08", "CONN-19", "SEC-01"]);
    let authority = Authority::new();
    let (one, two) = (authority.client("one"), authority.client("two"));
    let mixed = Identity { certificate: one.certificate.clone(), key: two.key.clone() };
    let secret = "Bearer se\ncret";
    let header = Header { key: "Authorization".to_owned(), value: secret.to_owned() };
    let host = Header { key: "Host".to_owned(), value: "elsewhere".to_owned() };
    let with = |change: &dyn Fn(&mut OpAmpConnectionSettings)| {
        let mut settings = OpAmpConnectionSettings::default();
        change(&mut settings);
        settings
    };
    let tls = |tls: TlsConnectionSettings| with(&|settings| settings.tls = Some(tls.clone()));
    let proxy = |url: &str| {
        let proxy = ProxyConnectionSettings { url: url.to_owned(), ..Default::default() };
        with(&|settings| settings.proxy = Some(proxy.clone()))
    };
    for (settings, hint) in [
        (with(&|settings| settings.certificate = shown(&mixed)), "do not belong together"),
        (with(&|s| s.headers = Some(Headers { headers: vec![header.clone()] })), "authorization"),
        (with(&|s| s.headers = Some(Headers { headers: vec![host.clone()] })), "header host"),
        (proxy(""), "proxy"),
        (proxy("socks4://user:secret@proxy"), "proxy"),
        (
            tls(TlsConnectionSettings { ca_pem_contents: "no".to_owned(), ..Default::default() }),
            "CA certificates",
        ),
        (
            tls(TlsConnectionSettings { min_version: "1.4".to_owned(), ..Default::default() }),
            "min_version",
        ),
    ] {
        let server = Server::start_tls(Authority::acceptor(&authority.server("127.0.0.1"))).await;
        let _agent = Agent::start(movable(wss(server.port()), trusting(&authority)));
        let (mut peer, report) = server.welcome().await;
        peer.send(&offer(&report, settings)).await;
        let status = status(&mut peer).await;
        assert_eq!(status.status, i32::from(ConnectionSettingsStatuses::Failed), "{hint}");
        let why = status.error_message.to_lowercase();
        assert!(why.contains(&hint.to_lowercase()), "{why}");
        assert!(!why.contains("cret") && !why.contains("bearer"), "{why}");
    }
}

/// What something else renews on disk is in use with the next handshake, and not before it fits.
#[tokio::test]
async fn renewed_files_are_in_use_with_the_next_handshake() {
    let (authority, next) = (Authority::new(), Authority::new());
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let put = |name: &str, text: &str| {
        std::fs::write(path("new"), text).unwrap();
        std::fs::rename(path("new"), path(name)).unwrap();
    };
    let mut identity = authority.client("agent-7");
    put("ca.pem", &authority.pem());
    put("agent.pem", &identity.certificate);
    put("agent-key.pem", &identity.key);
    let tls = Tls::new()
        .trust_file(path("ca.pem"))
        .and_then(|tls| tls.identity_files(path("agent.pem"), path("agent-key.pem")))
        .unwrap();
    let mut server = Glass::start(authority.mutual_acceptor(&authority.server("127.0.0.1"))).await;
    let mut agent = Agent::start(movable(wss(server.port()), tls));
    let (_, first, peer, _) = server.welcome().await;

    // Half of the new pair is there: the old one holds.
    identity = authority.client("agent-7");
    put("agent.pem", &identity.certificate);
    drop(peer);
    agent.disconnected().await;
    let (_, again, peer, _) = server.welcome().await;
    assert_eq!(again, first);

    put("agent-key.pem", &identity.key);
    drop(peer);
    agent.disconnected().await;
    let (kind, renewed, peer, _) = server.welcome().await;
    assert_eq!(kind, HandshakeKind::Full);
    assert_ne!(renewed, first);

    // The server moves to another authority, which the agent has been told to trust beside.
    put("ca.pem", &(authority.pem() + &next.pem()));
    server.acceptor = authority.mutual_acceptor(&next.server("127.0.0.1"));
    drop(peer);
    agent.disconnected().await;
    server.welcome().await;
}

#[tokio::test]
async fn renewed_files_are_in_use_with_the_next_request() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let put = |identity: &Identity| {
        std::fs::write(path("agent.pem"), &identity.certificate).unwrap();
        std::fs::write(path("agent-key.pem"), &identity.key).unwrap();
    };
    put(&authority.client("agent-7"));
    let tls =
        trusting(&authority).identity_files(path("agent.pem"), path("agent-key.pem")).unwrap();
    let server = Glass::start(authority.mutual_acceptor(&authority.server("127.0.0.1"))).await;
    let url = wss(server.port()).replace("wss", "https");
    let agent = Agent::start(agent(url).tls(tls));
    let mut shown = Vec::new();
    for health in ["one", "two"] {
        let stream = server.accept().await;
        shown.push(stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned());
        let request = soon(http::Request::read(Box::new(stream))).await;
        put(&authority.client("agent-7"));
        agent.client.set_health(crate::support::healthy(health));
        let reply = reply_to(&request.report());
        request.reply(&reply).await;
    }
    assert_ne!(shown[0], shown[1]);
}

#[test]
fn files_that_cannot_be_used_are_refused_at_once() {
    let missing = Tls::new().trust_file("/nowhere/ca.pem").unwrap_err();
    assert!(missing.to_string().contains("/nowhere/ca.pem"), "{missing}");
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    assert_eq!(Tls::new().trust_file(&empty).unwrap_err().kind(), opamp_client::ErrorKind::Tls);
    assert!(Tls::new().identity_files(&empty, &empty).is_err());
}
