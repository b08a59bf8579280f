//! TLS on both transports: whom the client trusts, and who it is.

use std::time::Duration;

use opamp_client::core::FailureKind;
use opamp_client::tls::{Tls, TlsVersion};
use opamp_client::{Builder, ErrorKind};
use tokio_rustls::TlsAcceptor;

use crate::support::certificates::{Authority, Identity};
use crate::support::{Agent, agent, http, soon, websocket};

/// A client that trusts `authority` and shows `identity`.
fn trusting(url: &str, authority: &Authority, identity: Option<&Identity>) -> Builder {
    let mut tls = Tls::new().trust_pem(authority.pem().as_bytes()).unwrap();
    if let Some(Identity { certificate, key }) = identity {
        tls = tls.identity_pem(certificate.as_bytes(), key.as_bytes()).unwrap();
    }
    agent(url).tls(tls)
}

fn secure(url: &str) -> String {
    url.replace("ws://", "wss://").replace("http://", "https://")
}

/// A client that is refused, or refuses, on both transports: it is a failure of TLS, and this is
/// what an operator reads.
async fn fails(acceptor: TlsAcceptor, tls: &Tls, hint: &str) {
    for scheme in ["wss", "https"] {
        let server = websocket::Server::start().await;
        let url = format!("{scheme}://127.0.0.1:{}", server.port());
        let mut agent = Agent::start(agent(url).tls(tls.clone()));
        let acceptor = acceptor.clone();
        let serving = tokio::spawn(async move {
            loop {
                // The handshake fails on one side or the other; if on the client's, this one may
                // see a connection that says nothing.
                let _ = acceptor.accept(server.accept_tcp().await).await;
            }
        });
        let (failure, _) = agent.failure().await;
        assert_eq!(failure.kind, FailureKind::Tls, "{}", failure.message);
        assert!(failure.message.contains(hint), "{scheme}: {}", failure.message);
        serving.abort();
    }
}

fn trust(authority: &Authority) -> Tls {
    Tls::new().trust_pem(authority.pem().as_bytes()).unwrap()
}

#[tokio::test]
async fn a_trusted_server_is_reached_over_both_transports() {
    let _judged = opamp_spec::judges(&["NET-07"]);
    let authority = Authority::new();
    for host in ["127.0.0.1", "localhost"] {
        let acceptor = Authority::acceptor(&authority.server(host));
        let server = websocket::Server::start_tls(acceptor.clone()).await;
        let url = format!("wss://{host}:{}", server.port());
        let _agent = Agent::start(trusting(&url, &authority, None));
        server.welcome().await;

        let server = http::Server::start_tls(acceptor).await;
        let url = format!("https://{host}:{}", server.port());
        let _agent = Agent::start(trusting(&url, &authority, None));
        server.welcome().await;
    }
}

#[tokio::test]
async fn a_server_of_another_authority_is_refused() {
    let _judged = opamp_spec::judges(&["TOFU-01"]);
    let acceptor = Authority::acceptor(&Authority::new().server("127.0.0.1"));
    fails(acceptor, &trust(&Authority::new()), "authority that is not trusted").await;
}

#[tokio::test]
async fn a_certificate_for_another_host_is_refused() {
    let authority = Authority::new();
    let acceptor = Authority::acceptor(&authority.server("opamp.example.com"));
    fails(acceptor, &trust(&authority), "another name than the URL's").await;
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let authority = Authority::new();
    let acceptor = Authority::acceptor(&authority.expired_server("127.0.0.1"));
    fails(acceptor, &trust(&authority), "has expired").await;
}

#[tokio::test]
async fn a_server_with_no_version_in_common_is_refused() {
    let _judged = opamp_spec::judges(&["TLS-06"]);
    let authority = Authority::new();
    let identity = authority.server("127.0.0.1");
    let old = Authority::acceptor_of(&rustls::version::TLS12, &identity);
    fails(old, &trust(&authority).min_version(TlsVersion::Tls13), "none of the TLS versions").await;
    let new = Authority::acceptor_of(&rustls::version::TLS13, &identity);
    fails(new, &trust(&authority).max_version(TlsVersion::Tls12), "none of the TLS versions").await;
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_it_is_asked_for() {
    let authority = Authority::new();
    let acceptor = authority.mutual_acceptor(&authority.server("127.0.0.1"));
    let identity = authority.client("agent-7");
    let server = websocket::Server::start_tls(acceptor.clone()).await;
    let url = secure(&server.url());
    let _agent = Agent::start(trusting(&url, &authority, Some(&identity)));
    server.welcome().await;

    let server = http::Server::start_tls(acceptor).await;
    let url = secure(&server.url());
    let _agent = Agent::start(trusting(&url, &authority, Some(&identity)));
    server.welcome().await;
}

#[tokio::test]
async fn a_missing_or_foreign_client_certificate_is_a_failure_of_tls() {
    let authority = Authority::new();
    let acceptor = authority.mutual_acceptor(&authority.server("127.0.0.1"));
    fails(acceptor.clone(), &trust(&authority), "wants a client certificate").await;
    let Identity { certificate, key } = Authority::new().client("agent-7");
    let foreign = trust(&authority).identity_pem(certificate.as_bytes(), key.as_bytes()).unwrap();
    fails(acceptor, &foreign, "refuses the client certificate").await;
}

#[tokio::test]
async fn a_server_without_tls_is_a_failure_of_tls() {
    let authority = Authority::new();
    for scheme in ["wss", "https"] {
        let server = websocket::Server::start().await;
        let url = format!("{scheme}://127.0.0.1:{}", server.port());
        let mut agent = Agent::start(trusting(&url, &authority, None));
        let mut tcp = server.accept_tcp().await;
        let answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut tcp, answer).await.unwrap();
        let (failure, _) = agent.failure().await;
        assert_eq!(failure.kind, FailureKind::Tls, "{}", failure.message);
    }
}

#[tokio::test]
async fn a_tls_handshake_that_is_never_answered_is_given_up() {
    let authority = Authority::new();
    for scheme in ["wss", "https"] {
        let server = websocket::Server::start().await;
        let url = format!("{scheme}://127.0.0.1:{}", server.port());
        let builder = trusting(&url, &authority, None)
            .configure(|config| config.connect_timeout = Duration::from_millis(100));
        let mut agent = Agent::start(builder);
        let silent = server.accept_tcp().await;
        assert_eq!(agent.failure().await.0.kind, FailureKind::Unreachable);
        soon(server.accept_tcp()).await;
        drop(silent);
    }
}

#[test]
fn what_cannot_be_read_or_does_not_fit_is_refused_at_once() {
    let authority = Authority::new();
    let one = authority.client("one");
    let two = authority.client("two");
    let errors = [
        Tls::new().trust_pem(b"").unwrap_err(),
        Tls::new().trust_pem(one.key.as_bytes()).unwrap_err(),
        Tls::new()
            .trust_pem(b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n")
            .unwrap_err(),
        Tls::new()
            .trust_pem(b"-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n")
            .unwrap_err(),
        Tls::new().identity_pem(one.certificate.as_bytes(), b"").unwrap_err(),
        Tls::new().identity_pem(b"", one.key.as_bytes()).unwrap_err(),
        Tls::new()
            .trust_pem(authority.pem().as_bytes())
            .and_then(|tls| tls.identity_pem(one.certificate.as_bytes(), two.key.as_bytes()))
            .unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Tls, "{error}");
        assert!(!error.is_retryable());
    }
}
