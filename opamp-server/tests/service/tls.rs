//! TLS, with and without client certificates.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::request;
use opamp_proto::Message as _;
use opamp_server::service::tls::server_config;
use opamp_server::{AcceptAll, Handler, PeerCertificates, Rejection, Server, ServiceConfig};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::client::{
    MASK, OTHER, Running, UID, WebSocket, beat, exchange, post, report, run, soon, uid,
};
use crate::support::{full_report, remote_config};

pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

pub(crate) struct Issued {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        // Authorities of one name would be told apart by their signatures alone.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        let name = format!("authority {}", COUNT.fetch_add(1, Ordering::Relaxed));
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    #[cfg(feature = "ca")]
    pub(crate) fn key_pem(&self) -> String {
        self.0.key().serialize_pem()
    }

    pub(crate) fn issue(&self, name: &str) -> Issued {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap().pem();
        Issued { certificate, key: key.serialize_pem() }
    }
}

async fn connect<I>(
    server: &Running<I>,
    authority: &Authority,
    own: Option<&Issued>,
) -> std::io::Result<TlsStream<TcpStream>> {
    connect_speaking(server, authority, own, &[]).await
}

async fn connect_speaking<I>(
    server: &Running<I>,
    authority: &Authority,
    own: Option<&Issued>,
    protocols: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let certificate = CertificateDer::from_pem_slice(own.certificate.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![certificate], key).unwrap()
        }
    };
    config.alpn_protocols = protocols.iter().map(|name| (*name).into()).collect();
    let stream = TcpStream::connect(server.addr).await?;
    let name = ServerName::try_from("localhost").unwrap();
    soon(TlsConnector::from(Arc::new(config)).connect(name, stream)).await
}

#[tokio::test]
async fn both_transports_over_tls() {
    let _judged = opamp_spec::judges(&["NET-01"]);
    let authority = Authority::new();
    let own = authority.issue("localhost");
    let config = server_config(own.certificate.as_bytes(), own.key.as_bytes(), None).unwrap();
    let server = Server::bind("127.0.0.1:0").tls(config);
    let server = run(server.listen(AcceptAll).await.unwrap());
    let stream = connect(&server, &authority, None).await.expect("a handshake");
    let mut socket = WebSocket::open(stream, &[]).await.expect("an upgrade");
    socket.send(&report(1)).await;
    assert_eq!(socket.recv().await.instance_uid, &UID[..]);
    let stream = connect(&server, &authority, None).await.expect("a handshake");
    let answer = exchange(stream, post(beat(2).encode_to_vec())).await;
    assert_eq!(answer.message().instance_uid, &UID[..]);
    server.shutdown.shutdown();
    assert_eq!(socket.recv_close().await, 1001);
    drop(socket);
    soon(server.task).await.expect("no panic");
}

/// Remembers the certificates it saw.
#[derive(Clone, Default)]
struct Sees(Arc<Mutex<Vec<Vec<u8>>>>);

impl Handler for Sees {
    type Identity = ();

    async fn admit(&self, request: &request::Parts) -> Result<(), Rejection> {
        let certificates = request.extensions.get::<PeerCertificates>().expect("certificates");
        self.0.lock().unwrap().push(certificates.0[0].to_vec());
        Ok(())
    }
}

#[tokio::test]
async fn client_certificates_are_required_and_reach_admission() {
    let authority = Authority::new();
    let own = authority.issue("localhost");
    let clients = Authority::new();
    let config = server_config(
        own.certificate.as_bytes(),
        own.key.as_bytes(),
        Some(clients.pem().as_bytes()),
    )
    .unwrap();
    let sees = Sees::default();
    let server = Server::bind("127.0.0.1:0").tls(config);
    let server = run(server.listen(sees.clone()).await.unwrap());

    let agent = clients.issue("agent");
    let stream = connect(&server, &authority, Some(&agent)).await.expect("a handshake");
    let mut socket = WebSocket::open(stream, &[]).await.expect("an upgrade");
    socket.send(&report(1)).await;
    socket.recv().await;
    let presented = CertificateDer::from_pem_slice(agent.certificate.as_bytes()).unwrap();
    assert_eq!(*sees.0.lock().unwrap(), [presented.to_vec()]);

    let stranger = Authority::new().issue("agent");
    for own in [None, Some(&stranger)] {
        // In TLS 1.3 the client learns of it with its first read.
        let refused = match connect(&server, &authority, own).await {
            Err(_) => true,
            Ok(mut stream) => soon(stream.read_u8()).await.is_err(),
        };
        assert!(refused);
    }
    assert_eq!(sees.0.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_handshake_that_hangs_or_fails_hurts_nobody() {
    let authority = Authority::new();
    let own = authority.issue("localhost");
    let config = server_config(own.certificate.as_bytes(), own.key.as_bytes(), None).unwrap();
    let server =
        Server::bind("127.0.0.1:0").tls(config).tls_handshake_timeout(Duration::from_millis(100));
    let server = run(server.listen(AcceptAll).await.unwrap());
    let mut silent = TcpStream::connect(server.addr).await.unwrap();
    let mut rest = Vec::new();
    let _ = soon(silent.read_to_end(&mut rest)).await;
    assert_eq!(server.fleet.counters().timed_out, 1);
    let mut plain = TcpStream::connect(server.addr).await.unwrap();
    plain.write_all(b"GET /v1/opamp HTTP/1.1\r\n\r\n").await.unwrap();
    let _ = soon(plain.read_to_end(&mut rest)).await;
    assert!(connect(&server, &authority, None).await.is_ok());
}

#[tokio::test]
async fn a_client_that_does_not_read_its_response_is_dropped() {
    let authority = Authority::new();
    let own = authority.issue("localhost");
    let config = server_config(own.certificate.as_bytes(), own.key.as_bytes(), None).unwrap();
    let mut service = ServiceConfig::default();
    service.write_timeout = Duration::from_millis(300);
    let server = Server::bind("127.0.0.1:0").tls(config).max_connections(1).service_config(service);
    let server = run(server.listen(AcceptAll).await.unwrap());
    let stream = connect(&server, &authority, None).await.expect("a handshake");
    let _ = exchange(stream, post(report(1).encode_to_vec())).await;
    let large = remote_config(&"x".repeat(32 * 1024 * 1024));
    server.fleet.set_remote_config(uid(&UID), large).unwrap();

    server.until(|fleet| fleet.counters().listener_connections_open == 0).await;
    let mut deaf = connect(&server, &authority, None).await.expect("a handshake");
    let body = beat(2).encode_to_vec();
    let head = format!(
        "POST /v1/opamp HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    deaf.write_all(&[head.as_bytes(), &body].concat()).await.unwrap();
    deaf.flush().await.unwrap();
    // It is one connection at a time.
    server.until(|fleet| fleet.counters().timed_out == 1).await;
    server.until(|fleet| fleet.counters().listener_connections_open == 0).await;
    let stream = connect(&server, &authority, None).await.expect("a handshake");
    let other = full_report(&OTHER, 1, MASK).encode_to_vec();
    assert_eq!(exchange(stream, post(other)).await.message().instance_uid, &OTHER[..]);
    assert_eq!(server.fleet.counters().timed_out, 1);
}

#[test]
fn unusable_texts_are_errors_with_a_kind() {
    let authority = Authority::new();
    let (one, other) = (authority.issue("localhost"), authority.issue("localhost"));
    let (certificate, key) = (one.certificate.as_bytes(), one.key.as_bytes());
    for (certificate, key, clients) in [
        (&b""[..], key, None),
        (certificate, &b""[..], None),
        (certificate, other.key.as_bytes(), None),
        (certificate, key, Some(&b"nothing"[..])),
    ] {
        let error = server_config(certificate, key, clients).expect_err("unusable");
        assert_eq!(error.kind(), opamp_server::service::ErrorKind::Tls);
        let text = format!("{error:?} {error}");
        assert!(!text.contains("PRIVATE KEY"), "{text}");
    }
}

#[cfg(feature = "http2")]
#[tokio::test]
async fn http_2_is_spoken_with_those_who_offer_it() {
    use http::{Request, Version};
    use hyper_util::rt::{TokioExecutor, TokioIo};

    let authority = Authority::new();
    let own = authority.issue("localhost");
    let config = server_config(own.certificate.as_bytes(), own.key.as_bytes(), None).unwrap();
    let server = run(Server::bind("127.0.0.1:0").tls(config).listen(AcceptAll).await.unwrap());
    let protocols = ["h2", "http/1.1"];
    let stream = connect_speaking(&server, &authority, None, &protocols).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let connection =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut client, connection) = connection.unwrap();
    tokio::spawn(connection);
    let mut request: Request<_> = post(report(1).encode_to_vec());
    *request.uri_mut() = "https://localhost/v1/opamp".parse().unwrap();
    let response = soon(client.send_request(request)).await.unwrap();
    assert_eq!((response.version(), response.status().as_u16()), (Version::HTTP_2, 200));

    // A client that wants a WebSocket offers nothing, or HTTP/1.1 alone.
    for protocols in [&[][..], &["http/1.1"]] {
        let stream = connect_speaking(&server, &authority, None, protocols).await.unwrap();
        let mut socket = WebSocket::open(stream, &[]).await.expect("an upgrade");
        socket.send(&full_report(&OTHER, 1, MASK)).await;
        assert_eq!(socket.recv().await.error_response, None);
    }
}
