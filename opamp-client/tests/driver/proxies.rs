//! Proxies between the agent and its server, of every kind, on both transports.

use std::time::Duration;

use opamp_client::core::FailureKind;
use opamp_client::tls::Tls;
use opamp_client::{Client, Proxy};
use tokio::net::TcpListener;

use crate::support::certificates::Authority;
use crate::support::gateway::Gateway;
use crate::support::{Agent, agent, http, run_in_environment, soon, websocket};

/// A name that only a proxy could know.
const HOST: &str = "opamp.invalid";

fn through(proxy: &str) -> Proxy {
    Proxy::url(proxy).unwrap().connect_header("X-Tenant", "blue").unwrap()
}

fn trusting(authority: &Authority) -> Tls {
    Tls::new().trust_pem(authority.pem().as_bytes()).unwrap()
}

#[tokio::test]
async fn an_http_proxy_opens_the_way_for_every_kind_of_url_but_plain_http() {
    let _judged = opamp_spec::judges(&["PROXY-05"]);
    let authority = Authority::new();
    let acceptor = Authority::acceptor(&authority.server(HOST));
    for scheme in ["ws", "wss", "https"] {
        let gateway = Gateway::start().await;
        let proxy = through(&gateway.url_of("http", "us%40er:pass@"));
        let builder = agent(format!("{scheme}://{HOST}:4320"))
            .header("Authorization", "Bearer for the server")
            .proxy(proxy.clone())
            .tls(trusting(&authority));
        let _agent = Agent::start(builder);
        let passage = gateway.connect().await;
        assert_eq!(passage.target, format!("{HOST}:4320"), "{scheme}");
        assert_eq!(passage.headers["host"], format!("{HOST}:4320"));
        assert_eq!(passage.headers["x-tenant"], "blue");
        assert_eq!(passage.headers["proxy-authorization"], "Basic dXNAZXI6cGFzcw==");
        assert!(!passage.headers.contains_key("authorization"), "{:?}", passage.headers);
        match scheme {
            "https" => {
                let server = http::Server::start_tls(acceptor.clone()).await;
                passage.grant(server.port()).await;
                let request = server.request().await;
                assert_eq!(request.header("authorization"), Some("Bearer for the server"));
                assert_eq!(request.header("proxy-authorization"), None);
                assert_eq!(request.header("x-tenant"), None);
            }
            _ => {
                let server = match scheme {
                    "ws" => websocket::Server::start().await,
                    _ => websocket::Server::start_tls(acceptor.clone()).await,
                };
                passage.grant(server.port()).await;
                let (peer, _) = server.welcome().await;
                assert_eq!(peer.headers["authorization"], "Bearer for the server");
                assert!(!peer.headers.contains_key("x-tenant"));
            }
        }
    }
}

#[tokio::test]
async fn a_plain_request_is_forwarded_by_an_http_proxy() {
    let proxy = http::Server::start().await;
    let address = format!("http://user:pass@127.0.0.1:{}", proxy.port());
    let builder = agent(format!("http://{HOST}:4320/v1/opamp")).proxy(through(&address));
    let _agent = Agent::start(builder);
    let request = proxy.request().await;
    assert_eq!(request.method, "POST");
    assert_eq!(request.path_and_query, format!("http://{HOST}:4320/v1/opamp"));
    assert_eq!(request.header("proxy-authorization"), Some("Basic dXNlcjpwYXNz"));
}

#[tokio::test]
async fn a_proxy_with_tls_is_shown_the_certificate_of_the_connection() {
    let _judged = opamp_spec::judges(&["PROXY-03"]);
    let authority = Authority::new();
    let identity = authority.client("agent-7");
    let acceptor = authority.mutual_acceptor(&authority.server("127.0.0.1"));
    let tls = trusting(&authority)
        .identity_pem(identity.certificate.as_bytes(), identity.key.as_bytes())
        .unwrap();
    for scheme in ["ws", "wss", "https"] {
        let gateway = Gateway::start_tls(acceptor.clone()).await;
        let builder = agent(format!("{scheme}://{HOST}:4320"))
            .proxy(through(&gateway.url("https")))
            .tls(tls.clone());
        let _agent = Agent::start(builder);
        // The proxy's handshake asks for the certificate.
        let passage = gateway.connect().await;
        assert_eq!(passage.headers["x-tenant"], "blue");
        let inner = Authority::acceptor(&authority.server(HOST));
        match scheme {
            "https" => {
                let server = http::Server::start_tls(inner).await;
                passage.grant(server.port()).await;
                server.welcome().await;
            }
            "wss" => {
                let server = websocket::Server::start_tls(inner).await;
                passage.grant(server.port()).await;
                server.welcome().await;
            }
            _ => {
                let server = websocket::Server::start().await;
                passage.grant(server.port()).await;
                server.welcome().await;
            }
        }
    }
}

/// The proxy stays the same wherever the server sends the agent, and so does who the agent is to
/// it.
#[tokio::test]
async fn after_a_redirect_the_proxy_is_shown_the_certificate_and_the_server_is_not() {
    let authority = Authority::new();
    let identity = authority.client("agent-7");
    let tls = trusting(&authority)
        .identity_pem(identity.certificate.as_bytes(), identity.key.as_bytes())
        .unwrap();
    let gateway =
        Gateway::start_tls(authority.mutual_acceptor(&authority.server("127.0.0.1"))).await;
    let builder = agent(format!("ws://{HOST}:4320")).proxy(through(&gateway.url("https"))).tls(tls);
    let _agent = Agent::start(builder);
    let home = http::Server::start().await;
    gateway.connect().await.grant(home.port()).await;
    let request = home.request().await;
    request.answer(307, &[("Location", "https://elsewhere.invalid/v1/opamp")], b"").await;
    let passage = gateway.connect().await;
    assert_eq!(passage.target, "elsewhere.invalid:443");
    let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
    passage.grant(elsewhere.local_addr().unwrap().port()).await;
    let tcp = soon(elsewhere.accept()).await.unwrap().0;
    // It asks for a certificate, and takes whoever has none.
    let acceptor = authority.asking_acceptor(&authority.server("elsewhere.invalid"));
    let stream = soon(acceptor.accept(tcp)).await.unwrap();
    assert!(stream.get_ref().1.peer_certificates().is_none());
}

#[tokio::test]
async fn a_socks_proxy_is_asked_for_the_name_or_the_address() {
    let _judged = opamp_spec::judges(&["PROXY-06"]);
    for (scheme, host, login) in [
        ("socks5h", HOST, true),
        ("socks5h", "127.0.0.1", false),
        ("socks5", "127.0.0.1", true),
        ("socks5", "localhost", false),
    ] {
        for transport in ["ws", "http"] {
            let gateway = Gateway::start().await;
            let user = if login { "us%40er:right@" } else { "" };
            let proxy = through(&gateway.url_of(scheme, user));
            let websocket = websocket::Server::start().await;
            let http = http::Server::start().await;
            let port = if transport == "ws" { websocket.port() } else { http.port() };
            let _agent = Agent::start(agent(format!("{transport}://{host}:{port}")).proxy(proxy));
            let passage = gateway.socks(login).await;
            let asked = passage.target.strip_suffix(&format!(":{port}")).unwrap();
            match (scheme, host) {
                // Whichever family the resolver prefers.
                ("socks5", "localhost") => assert!(["127.0.0.1", "[::1]"].contains(&asked)),
                _ => assert_eq!(asked, host, "{scheme} {transport}"),
            }
            let name = passage.login.as_ref().map(|(name, _)| name.as_str());
            assert_eq!(name, login.then_some("us@er"));
            passage.grant(port).await;
            match transport {
                "ws" => drop(websocket.welcome().await),
                _ => drop(http.welcome().await),
            }
        }
    }
}

#[tokio::test]
async fn a_proxy_that_refuses_is_a_failure_that_says_so() {
    let refusals: [(&[u8], FailureKind, &str); 6] = [
        (b"HTTP/1.1 407 Who\r\n\r\n", FailureKind::Unauthorized, "credentials"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", FailureKind::Unreachable, "502"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", FailureKind::Unreachable, "HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\n\r\nand more", FailureKind::Unreachable, "more than"),
        (&[b'x'; 100_000], FailureKind::Unreachable, "endless"),
        (b"", FailureKind::Unreachable, "without an answer"),
    ];
    for (answer, kind, hint) in refusals {
        let gateway = Gateway::start().await;
        let proxy = through(&gateway.url_of("http", "user:secret@"));
        let mut agent = Agent::start(agent(format!("ws://{HOST}:4320")).proxy(proxy));
        let passage = gateway.connect().await;
        match answer.is_empty() {
            true => drop(passage),
            false => drop(tokio::spawn(async move { passage.answer(answer).await })),
        }
        let (failure, _) = agent.failure().await;
        assert_eq!(failure.kind, kind, "{}", failure.message);
        assert!(failure.message.contains(hint), "{}", failure.message);
        assert!(failure.message.contains("proxy http://127.0.0.1:"), "{}", failure.message);
        assert!(!failure.message.contains("secret"), "{}", failure.message);
    }
}

#[tokio::test]
async fn a_request_that_a_proxy_refuses_is_a_failure_too() {
    for (scheme, answer, kind) in [
        ("https", "HTTP/1.1 407 Who\r\nContent-Length: 0\r\n\r\n", FailureKind::Unauthorized),
        (
            "https",
            "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
            FailureKind::Unreachable,
        ),
    ] {
        let gateway = Gateway::start().await;
        let proxy = through(&gateway.url_of("http", "user:secret@"));
        let mut agent = Agent::start(agent(format!("{scheme}://{HOST}:4320")).proxy(proxy));
        let passage = gateway.connect().await;
        tokio::spawn(async move { passage.answer(answer.as_bytes()).await });
        let (failure, _) = agent.failure().await;
        assert_eq!(failure.kind, kind, "{}", failure.message);
        assert!(!failure.message.contains("secret"), "{}", failure.message);
    }
}

#[tokio::test]
async fn a_socks_proxy_that_refuses_is_a_failure_that_says_so() {
    for (login, answer, kind, hint) in [
        (Some("wrong"), &b""[..], FailureKind::Unauthorized, "user or password"),
        (None, &[5, 2, 0, 1, 0, 0, 0, 0, 0, 0], FailureKind::Unreachable, "rules"),
        (None, &[5, 5, 0, 1, 0, 0, 0, 0, 0, 0], FailureKind::Unreachable, "refuses"),
        (None, &[4, 0, 0, 1], FailureKind::Unreachable, "version 5"),
        (None, &[5, 0, 0, 9], FailureKind::Unreachable, "kind of address"),
    ] {
        let gateway = Gateway::start().await;
        let user = login.map_or(String::new(), |password| format!("user:{password}@"));
        let proxy = through(&gateway.url_of("socks5h", &user));
        let mut agent = Agent::start(agent(format!("ws://{HOST}:4320")).proxy(proxy));
        let passage = gateway.socks(login.is_some()).await;
        tokio::spawn(async move { passage.answer(answer).await });
        let (failure, _) = agent.failure().await;
        assert_eq!(failure.kind, kind, "{}", failure.message);
        assert!(failure.message.contains(hint), "{}", failure.message);
    }
}

#[tokio::test]
async fn a_proxy_that_never_answers_is_given_up() {
    for scheme in ["http", "socks5h"] {
        let gateway = Gateway::start().await;
        let builder = agent(format!("ws://{HOST}:4320"))
            .proxy(through(&gateway.url(scheme)))
            .configure(|config| config.connect_timeout = Duration::from_millis(100));
        let mut agent = Agent::start(builder);
        let silent = gateway.accept().await;
        assert_eq!(agent.failure().await.0.kind, FailureKind::Unreachable);
        gateway.accept().await;
        drop(silent);
    }
}

#[tokio::test]
async fn the_environment_names_the_proxy_of_both_transports() {
    let gateway = Gateway::start().await;
    let url = gateway.url_of("http", "user:pass@");
    let inner = tokio::task::spawn_blocking(move || {
        let variables =
            [("HTTP_PROXY", url.as_str()), ("https_proxy", &url), ("NO_PROXY", "localhost")];
        run_in_environment("proxies::agents_in_an_environment_with_a_proxy", &variables);
    });
    let server = websocket::Server::start().await;
    let passage = gateway.connect().await;
    assert_eq!(passage.target, format!("{HOST}:1"));
    assert_eq!(passage.headers["proxy-authorization"], "Basic dXNlcjpwYXNz");
    passage.grant(server.port()).await;
    let _open = server.welcome().await;
    for port in [2, 3] {
        let passage = gateway.connect().await;
        assert_eq!(passage.target, format!("{HOST}:{port}"));
        assert_eq!(passage.headers["proxy-authorization"], "Basic dXNlcjpwYXNz");
        // That the client asks is enough.
        passage.answer(b"HTTP/1.1 503 Enough\r\nContent-Length: 0\r\n\r\n").await;
    }
    soon(inner).await.unwrap();
}

#[tokio::test]
#[ignore = "needs an environment of its own"]
async fn agents_in_an_environment_with_a_proxy() {
    let start = |url: String| {
        let builder = Client::builder(url).identifying_attribute("service.name", "scripted");
        Agent::start(builder.configure(|config| {
            config.backoff.initial = Duration::from_secs(60);
            config.backoff.max = Duration::from_secs(60);
        }))
    };
    let mut first = start(format!("ws://{HOST}:1"));
    first.until(|event| matches!(event, opamp_client::core::Event::Connected).then_some(())).await;
    for url in [format!("wss://{HOST}:2"), format!("https://{HOST}:3")] {
        let mut agent = start(url);
        agent.failure().await;
    }
    // What NO_PROXY names is reached without it, and so is all when the user says so.
    let server = websocket::Server::start().await;
    let _agent = start(format!("ws://localhost:{}", server.port()));
    server.welcome().await;
    let server = http::Server::start().await;
    let _agent = start(format!("http://localhost:{}", server.port()));
    server.welcome().await;
    let server = websocket::Server::start().await;
    let direct = Client::builder(server.url())
        .identifying_attribute("service.name", "scripted")
        .proxy(Proxy::none());
    let _agent = Agent::start(direct);
    server.welcome().await;
}
