//! Certificates that are renewed while the Server listens.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use opamp_proto::Message as _;
use opamp_server::service::tls::{ListenerTls, TlsFiles};
use opamp_server::{AcceptAll, Server};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{CipherSuite, HandshakeKind};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::client::{Running, UID, WebSocket, beat, exchange, post, report, run, soon};
use crate::tls::{Authority, Issued};

/// The files of a Server.
struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    fn new(own: &Issued, clients: &Authority) -> Self {
        let files = Self { dir: tempfile::tempdir().unwrap() };
        files.put("own.pem", &own.certificate);
        files.put("key.pem", &own.key);
        files.put("clients.pem", &clients.pem());
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn put(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn tls(&self) -> TlsFiles {
        TlsFiles::new(self.path("own.pem"), self.path("key.pem"))
    }

    fn mutual(&self) -> TlsFiles {
        self.tls().require_clients_of([self.path("clients.pem")])
    }
}

/// A client with a memory for TLS sessions.
fn client(authority: &Authority, own: Option<&Issued>) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let certificate = CertificateDer::from_pem_slice(own.certificate.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![certificate], key).unwrap()
        }
    };
    TlsConnector::from(Arc::new(config))
}

async fn connect(server: &Running, client: &TlsConnector) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(server.addr).await?;
    soon(client.connect(ServerName::try_from("localhost").unwrap(), stream)).await
}

/// One exchange, and how its handshake went; `None` if the Server would not have it.
async fn visit(server: &Running, client: &TlsConnector) -> Option<HandshakeKind> {
    let mut stream = connect(server, client).await.ok()?;
    let body = report(1).encode_to_vec();
    let head = format!(
        "POST /v1/opamp HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    let request = [head.as_bytes(), &body].concat();
    tokio::io::AsyncWriteExt::write_all(&mut stream, &request).await.ok()?;
    let mut answer = [0; 12];
    soon(stream.read_exact(&mut answer)).await.ok()?;
    assert_eq!(&answer, b"HTTP/1.1 200");
    stream.get_ref().1.handshake_kind()
}

fn shown(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

fn der(issued: &Issued) -> Vec<u8> {
    CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap().to_vec()
}

async fn start(tls: &ListenerTls) -> Running {
    let server = Server::bind("127.0.0.1:0").tls(tls.clone());
    run(server.listen(AcceptAll).await.unwrap())
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_and_open_connections_go_on() {
    let authority = Authority::new();
    let (one, two) = (authority.issue("localhost"), authority.issue("localhost"));
    let files = Files::new(&one, &authority);
    let tls = ListenerTls::from_files(files.tls()).unwrap();
    let server = start(&tls).await;
    let client = client(&authority, None);
    let stream = connect(&server, &client).await.unwrap();
    assert_eq!(shown(&stream), der(&one));
    let mut socket = WebSocket::open(stream, &[]).await.unwrap();
    socket.send(&report(1)).await;
    socket.recv().await;

    files.put("own.pem", &two.certificate);
    files.put("key.pem", &two.key);
    assert!(tls.reload().unwrap());
    assert!(!tls.reload().unwrap(), "they have not changed since");
    let stream = connect(&server, &crate::tls_reload::client(&authority, None)).await.unwrap();
    assert_eq!(shown(&stream), der(&two));
    let answer = exchange(stream, post(beat(2).encode_to_vec())).await;
    assert_eq!(answer.message().instance_uid, &UID[..]);
    socket.send(&beat(3)).await;
    assert_eq!(socket.recv().await.instance_uid, &UID[..]);
}

#[tokio::test]
async fn files_that_do_not_fit_leave_the_last_ones_in_use() {
    let authority = Authority::new();
    let (one, two) = (authority.issue("localhost"), authority.issue("localhost"));
    let files = Files::new(&one, &authority);
    let tls = ListenerTls::from_files(files.mutual()).unwrap();
    let server = start(&tls).await;
    let agent = authority.issue("agent");
    for (name, text) in [
        ("own.pem", two.certificate.as_str()),
        ("own.pem", &two.certificate[..two.certificate.len() / 2]),
        ("own.pem", ""),
        ("clients.pem", ""),
        ("clients.pem", "nothing"),
        ("key.pem", ""),
    ] {
        files.put(name, text);
        let error = tls.reload().expect_err(name);
        assert!(!format!("{error:?}").contains("PRIVATE KEY-"));
        let stream = connect(&server, &client(&authority, Some(&agent))).await.unwrap();
        assert_eq!(shown(&stream), der(&one));
        files.put("own.pem", &one.certificate);
        files.put("clients.pem", &authority.pem());
    }
    std::fs::remove_file(files.path("key.pem")).unwrap();
    let error = tls.reload().unwrap_err();
    let why = std::error::Error::source(&error).unwrap().to_string();
    assert!(why.contains("key.pem"), "{why}");
}

#[tokio::test]
async fn the_server_looks_at_its_files_by_itself() {
    let authority = Authority::new();
    let (one, two) = (authority.issue("localhost"), authority.issue("localhost"));
    let files = Files::new(&one, &authority);
    let tls = ListenerTls::from_files(files.tls()).unwrap();
    let server = Server::bind("127.0.0.1:0").tls(tls);
    let server = server.tls_reload_interval(Duration::from_millis(5));
    let server = run(server.listen(AcceptAll).await.unwrap());
    // The key comes last, as it would in the middle of a renewal.
    files.put("own.pem", &two.certificate);
    files.put("key.pem", &two.key);
    soon(async {
        loop {
            let stream = connect(&server, &client(&authority, None)).await.unwrap();
            if shown(&stream) == der(&two) {
                break;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn other_client_authorities_hold_from_the_next_handshake_resumed_or_not() {
    let _judged = opamp_spec::judges(&["CSR-09"]);
    let (authority, old, new) = (Authority::new(), Authority::new(), Authority::new());
    let own = authority.issue("localhost");
    let files = Files::new(&own, &old);
    let tls = ListenerTls::from_files(files.mutual()).unwrap();
    let server = start(&tls).await;
    let (before, after) = (old.issue("agent"), new.issue("agent"));
    let (before, after) = (client(&authority, Some(&before)), client(&authority, Some(&after)));
    assert_eq!(visit(&server, &before).await, Some(HandshakeKind::Full));
    assert_eq!(visit(&server, &before).await, Some(HandshakeKind::Resumed));
    assert_eq!(visit(&server, &after).await, None);

    // Another certificate of the Server's own leaves the sessions good.
    let renewed = authority.issue("localhost");
    files.put("own.pem", &renewed.certificate);
    files.put("key.pem", &renewed.key);
    assert!(tls.reload().unwrap());
    assert_eq!(visit(&server, &before).await, Some(HandshakeKind::Resumed));

    files.put("clients.pem", &new.pem());
    assert!(tls.reload().unwrap());
    assert_eq!(visit(&server, &before).await, None, "a ticket does not help");
    assert_eq!(visit(&server, &after).await, Some(HandshakeKind::Full));
}

#[tokio::test]
async fn the_cheaper_cipher_suite_is_taken_though_the_client_has_another_first() {
    let authority = Authority::new();
    let own = authority.issue("localhost");
    let files = Files::new(&own, &authority);
    let server = start(&ListenerTls::from_files(files.tls()).unwrap()).await;
    let client = client(&authority, None);
    let first = client.config().crypto_provider().cipher_suites[0].suite();
    assert_eq!(first, CipherSuite::TLS13_AES_256_GCM_SHA384);
    let stream = connect(&server, &client).await.unwrap();
    let taken = stream.get_ref().1.negotiated_cipher_suite().unwrap();
    assert_eq!(taken.suite(), CipherSuite::TLS13_AES_128_GCM_SHA256);
}

#[tokio::test]
async fn a_fleet_larger_than_a_cache_resumes_its_sessions() {
    let authority = Authority::new();
    let own = authority.issue("localhost");
    let files = Files::new(&own, &authority);
    let tls = ListenerTls::from_files(files.tls()).unwrap();
    let server = start(&tls).await;
    let clients: Vec<_> = (0..300).map(|_| client(&authority, None)).collect();
    for client in &clients {
        assert_eq!(visit(&server, client).await, Some(HandshakeKind::Full));
    }
    for client in [&clients[0], &clients[299]] {
        assert_eq!(visit(&server, client).await, Some(HandshakeKind::Resumed));
    }
}
