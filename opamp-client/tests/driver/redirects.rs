//! Redirects of handshakes and requests: where they are followed to, and what goes along.

use ::http::{HeaderMap, HeaderValue, header};
use opamp_client::core::FailureKind;
use opamp_client::tls::Tls;
use opamp_client::{Builder, HeaderError};

use crate::support::certificates::Authority;
use crate::support::{Agent, agent, healthy, http, websocket};

const FOLLOWED: [u16; 4] = [301, 302, 307, 308];

/// A client that shows a server all it has, and tries again after a long time only.
fn talkative(url: String) -> Builder {
    let builder = agent(url).header("Authorization", "Bearer secret").header("User-Agent", "me/1");
    builder.header("X-Api-Key", "secret").configure(|config| {
        config.backoff.initial = std::time::Duration::from_secs(600);
        config.backoff.max = std::time::Duration::from_secs(600);
    })
}

fn websocket_url(server: &http::Server) -> String {
    server.url().replace("http://", "ws://")
}

#[tokio::test]
async fn a_redirect_within_the_origin_is_followed_with_everything() {
    for status in FOLLOWED {
        let server = http::Server::start().await;
        let _agent = Agent::start(talkative(server.url()).health(healthy("fine")));
        let first = server.request().await;
        let said = first.report();
        first.answer(status, &[("Location", "/other?x=y")], b"").await;
        let second = server.request().await;
        assert_eq!((second.method.as_str(), &*second.path_and_query), ("POST", "/other?x=y"));
        assert_eq!(second.header("authorization"), Some("Bearer secret"));
        assert_eq!(second.header("content-type"), Some("application/x-protobuf"));
        assert_eq!(second.report(), said, "{status}");
    }
    for status in FOLLOWED.into_iter().chain([303]) {
        let server = http::Server::start().await;
        let _agent = Agent::start(talkative(websocket_url(&server)));
        let first = server.request().await;
        let key = first.header("sec-websocket-key").unwrap().to_owned();
        first.answer(status, &[("Location", "../other")], b"").await;
        let second = server.request().await;
        assert_eq!((second.method.as_str(), &*second.path_and_query), ("GET", "/other"));
        assert_eq!(second.header("authorization"), Some("Bearer secret"));
        assert_ne!(second.header("sec-websocket-key"), Some(&*key), "{status}");
    }
}

/// W-6 of the reference: they went wherever a redirect led.
#[tokio::test]
async fn credentials_never_reach_another_origin() {
    let token = || async {
        let headers = [(header::COOKIE, HeaderValue::from_static("secret"))];
        Ok::<_, HeaderError>(HeaderMap::from_iter(headers))
    };
    let bare = |headers: &HeaderMap| {
        assert_eq!(headers["user-agent"], "me/1");
        for name in ["authorization", "x-api-key", "cookie"] {
            assert!(!headers.contains_key(name), "{headers:?}");
        }
    };
    for status in FOLLOWED {
        let (home, elsewhere) = (http::Server::start().await, http::Server::start().await);
        let builder = talkative(home.url()).header_provider(token);
        let _agent = Agent::start(builder);
        let first = home.request().await;
        assert_eq!(first.header("cookie"), Some("secret"));
        let said = first.report();
        let location = format!("{}/v1/opamp", elsewhere.url());
        first.answer(status, &[("Location", &location)], b"").await;
        let second = elsewhere.request().await;
        bare(&second.headers);
        assert!(second.header("opamp-instance-uid").is_some());
        assert_eq!(second.report(), said, "{status}");
        // Nor do they return to where another origin sends it.
        let location = format!("{}/again", home.url());
        second.answer(status, &[("Location", &location)], b"").await;
        bare(&home.request().await.headers);

        let (home, elsewhere) = (http::Server::start().await, websocket::Server::start().await);
        let _agent = Agent::start(talkative(websocket_url(&home)).header_provider(token));
        let first = home.request().await;
        assert_eq!(first.header("cookie"), Some("secret"));
        let location = elsewhere.url().replace("ws://", "http://");
        first.answer(status, &[("Location", &location)], b"").await;
        let (peer, _) = elsewhere.welcome().await;
        bare(&peer.headers);
    }
}

#[tokio::test]
async fn the_client_certificate_never_reaches_another_origin() {
    let authority = Authority::new();
    let identity = authority.client("agent-7");
    let tls = Tls::new()
        .trust_pem(authority.pem().as_bytes())
        .and_then(|tls| tls.identity_pem(identity.certificate.as_bytes(), identity.key.as_bytes()))
        .unwrap();
    let acceptor = authority.mutual_acceptor(&authority.server("127.0.0.1"));
    for scheme in ["wss", "https"] {
        let home = http::Server::start_tls(acceptor.clone()).await;
        let elsewhere = websocket::Server::start().await;
        let url = format!("{scheme}://127.0.0.1:{}", home.port());
        let mut agent = Agent::start(talkative(url).tls(tls.clone()));
        // The home server takes nobody without the certificate.
        let first = home.request().await;
        let location = format!("https://127.0.0.1:{}/v1/opamp", elsewhere.port());
        first.answer(307, &[("Location", &location)], b"").await;
        // Nor does the other one, which is why it refuses.
        assert!(acceptor.accept(elsewhere.accept_tcp().await).await.is_err());
        let (failure, _) = agent.failure().await;
        assert_eq!(failure.kind, FailureKind::Tls, "{}", failure.message);
        assert!(failure.message.contains("client certificate"), "{}", failure.message);
    }
}

/// W-6 of the reference: it did.
#[tokio::test]
async fn no_redirect_leads_from_tls_to_plain_text() {
    let authority = Authority::new();
    let acceptor = Authority::acceptor(&authority.server("127.0.0.1"));
    let tls = Tls::new().trust_pem(authority.pem().as_bytes()).unwrap();
    for scheme in ["wss", "https"] {
        let home = http::Server::start_tls(acceptor.clone()).await;
        let url = format!("{scheme}://127.0.0.1:{}", home.port());
        let mut agent = Agent::start(talkative(url).tls(tls.clone()));
        let plain = format!("http://127.0.0.1:{}/v1/opamp", home.port());
        home.request().await.answer(302, &[("Location", &plain)], b"").await;
        let (failure, _) = agent.failure().await;
        assert_eq!(failure.kind, FailureKind::UnexpectedStatus(302));
        assert!(failure.message.contains("plain text"), "{}", failure.message);
    }
}

/// Answers with redirects until the client gives the attempt up; returns how many there were.
async fn lead_on(server: &http::Server, agent: &mut Agent, location: fn(usize) -> String) -> usize {
    let mut asked = 0;
    loop {
        tokio::select! {
            request = server.request() => {
                asked += 1;
                request.answer(307, &[("Location", &location(asked))], b"").await;
            }
            (failure, _) = agent.failure() => {
                assert_eq!(failure.kind, FailureKind::UnexpectedStatus(307));
                return asked;
            }
        }
    }
}

/// However many redirects there are, it is one attempt and one event.
#[tokio::test]
async fn redirects_end_after_a_few_and_in_a_circle_at_once() {
    for transport in ["ws", "http"] {
        let server = http::Server::start().await;
        let url = server.url().replace("http://", &format!("{transport}://"));
        let on = |hop| format!("/{hop}");
        let mut agent = Agent::start(talkative(url.clone()));
        assert_eq!(lead_on(&server, &mut agent, on).await, 6, "{transport}");
        let mut agent = Agent::start(talkative(url.clone()).max_redirects(1));
        assert_eq!(lead_on(&server, &mut agent, on).await, 2);
        let mut agent = Agent::start(talkative(url.clone()).max_redirects(0));
        assert_eq!(lead_on(&server, &mut agent, on).await, 1);
        let mut agent = Agent::start(talkative(format!("{url}/0")));
        let back = |hop: usize| format!("/{}", hop % 2);
        assert_eq!(lead_on(&server, &mut agent, back).await, 2);
    }
}

#[tokio::test]
async fn a_redirect_that_says_nothing_useful_is_a_failure() {
    for (status, headers) in [
        (307, &[][..]),
        (308, &[("Location", "gopher://127.0.0.1/")]),
        (302, &[("Location", "http://user:secret@127.0.0.1/")]),
        (300, &[("Location", "/other")]),
        (303, &[("Location", "/other")]),
        (304, &[]),
    ] {
        let server = http::Server::start().await;
        let mut agent = Agent::start(talkative(server.url()));
        server.request().await.answer(status, headers, b"").await;
        let (failure, _) = agent.failure().await;
        assert_eq!(failure.kind, FailureKind::UnexpectedStatus(status), "{}", failure.message);
        assert!(!failure.message.contains("secret"), "{}", failure.message);
    }
}

/// Where the way led once may be gone the next time.
/// W-6 of the reference: the original was never tried again.
#[tokio::test]
async fn no_redirect_is_remembered() {
    for status in FOLLOWED {
        let home = http::Server::start().await;
        let elsewhere = websocket::Server::start().await;
        let mut agent = Agent::start(agent(websocket_url(&home)));
        let location = elsewhere.url();
        home.request().await.answer(status, &[("Location", &location)], b"").await;
        let (peer, _) = elsewhere.welcome().await;
        drop(peer);
        agent.disconnected().await;
        assert_eq!(home.request().await.path_and_query, "/v1/opamp", "{status}");

        let (home, elsewhere) = (http::Server::start().await, http::Server::start().await);
        let agent = Agent::start(crate::support::agent(home.url()));
        let location = elsewhere.url();
        home.request().await.answer(status, &[("Location", &location)], b"").await;
        elsewhere.welcome().await;
        agent.client.set_health(healthy("changed"));
        assert_eq!(home.request().await.report().health, Some(healthy("changed")));
    }
}
