//! What nobody may find in a log: header values, configuration bodies, tokens in the URL.

use std::cell::RefCell;
use std::io;
use std::sync::Once;

use opamp_client::core::Event;
use opamp_client::{HeaderError, Proxy};
use tracing_subscriber::fmt::MakeWriter;

use crate::support::gateway::Gateway;
use crate::support::{Agent, agent, effective, http, offer_to, reply_to, soon, websocket};

const HEADER: &str = "secret-of-the-header";
const TOKEN: &str = "secret-of-the-query";
const OFFERED: &str = "secret-of-the-offer";
const RUNNING: &str = "secret-of-the-agent";

thread_local! {
    /// What was logged on this thread; each test has its own, and its driver runs on it.
    static LOG: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// Takes what `tracing` and `log` say on this thread while a test captures.
#[derive(Clone, Copy)]
struct Capture;

impl io::Write for Capture {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A thread that ends may still have something to say.
        let _ = LOG.try_with(|log| {
            if let Some(log) = &mut *log.borrow_mut() {
                log.extend_from_slice(bytes);
            }
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Capture {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        *self
    }
}

impl log::Log for Capture {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Debug && LOG.with_borrow(Option::is_some)
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = format!("{} {}\n", record.target(), record.args());
            let _ = io::Write::write(&mut Self, line.as_bytes());
        }
    }

    fn flush(&self) {}
}

/// Captures all that `tracing` says at any level, and what dependencies say through `log` down to
/// DEBUG. (At TRACE the WebSocket library logs whole frames, which nothing here can prevent.)
fn capture() {
    // For all threads: places in the code that others come by first would stay silent for one.
    static CAPTURE: Once = Once::new();
    CAPTURE.call_once(|| {
        log::set_boxed_logger(Box::new(Capture)).unwrap();
        log::set_max_level(log::LevelFilter::Debug);
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_writer(Capture)
            .with_ansi(false)
            .finish();
        tracing::subscriber::set_global_default(subscriber).unwrap();
    });
    LOG.set(Some(Vec::new()));
}

fn captured() -> String {
    String::from_utf8(LOG.take().unwrap()).unwrap()
}

fn assert_secret(what: &str, text: &str) {
    for secret in [HEADER, TOKEN, OFFERED, RUNNING] {
        assert!(!text.contains(secret), "{secret} in {what}:\n{text}");
    }
}

/// Shows every value the application holds.
fn show(agent: &Agent, event: &Event) -> String {
    format!("{:?} {:?} {:?}", agent.client, agent.client.status(), event)
}

#[tokio::test]
async fn no_secret_is_logged_or_shown_over_websocket() {
    capture();
    let server = websocket::Server::start().await;
    let builder = agent(format!("{}/v1/opamp?token={TOKEN}", server.url()))
        .header("Authorization", HEADER)
        .effective_config(effective(RUNNING))
        .accept_remote_config();
    assert_secret("the builder", &format!("{builder:?}"));
    let (client, events, driver) = builder.build().unwrap();
    assert_secret("the driver", &format!("{driver:?} {events:?} {client:?}"));
    drop((client, events, driver));

    let builder = agent(format!("{}/v1/opamp?token={TOKEN}", server.url()))
        .header("Authorization", HEADER)
        .effective_config(effective(RUNNING))
        .accept_remote_config();
    let mut agent = Agent::start(builder);
    // Failures first: their messages quote what went wrong.
    drop(server.accept_tcp().await);
    let (failure, _) = agent.failure().await;
    assert_secret("a failure", &failure.message);
    let (mut peer, report) = server.welcome().await;
    assert_eq!(peer.headers["authorization"], HEADER);
    assert!(peer.path_and_query.contains(TOKEN));
    peer.send(&offer_to(&report, OFFERED, "h1")).await;
    let offer = agent.offer().await;
    let event = Event::RemoteConfig(offer.clone());
    assert_secret("what the application holds", &show(&agent, &event));
    agent.client.resolve(offer.applied_with(effective(RUNNING)));
    peer.report().await;
    peer.send(&reply_to(&report)).await;
    let stopping = tokio::spawn({
        let client = agent.client.clone();
        async move { client.stop().await }
    });
    peer.goodbye().await;
    soon(stopping).await.unwrap();
    agent.ended().await;
    let log = captured();
    assert!(log.contains("connected to the OpAMP server"), "the log is captured:\n{log}");
    assert!(log.contains("tungstenite"), "that of dependencies too:\n{log}");
    assert_secret("the log", &log);
}

#[tokio::test]
async fn no_secret_is_logged_or_shown_over_http() {
    capture();
    let server = http::Server::start().await;
    let builder = agent(format!("{}/v1/opamp?token={TOKEN}", server.url()))
        .header("Authorization", HEADER)
        .effective_config(effective(RUNNING))
        .accept_remote_config();
    let mut agent = Agent::start(builder);
    drop(server.request().await);
    let (failure, _) = agent.failure().await;
    assert_secret("a failure", &failure.message);
    server.request().await.answer(500, &[], HEADER.as_bytes()).await;
    let (failure, _) = agent.failure().await;
    assert_secret("a failure", &failure.message);
    let request = server.request().await;
    assert_eq!(request.header("authorization"), Some(HEADER));
    assert!(request.path_and_query.contains(TOKEN));
    let report = request.report();
    request.reply(&offer_to(&report, OFFERED, "h1")).await;
    let offer = agent.offer().await;
    let event = Event::RemoteConfig(offer.clone());
    assert_secret("what the application holds", &show(&agent, &event));
    agent.client.resolve(offer.failed("not today"));
    server.welcome().await;
    agent.abort_driver().await;
    let log = captured();
    assert!(log.contains("connected to the OpAMP server"), "the log is captured:\n{log}");
    assert!(log.contains("reqwest"), "that of dependencies too:\n{log}");
    assert_secret("the log", &log);
}

/// Users and passwords of proxies, headers for them, and what a redirect says.
#[tokio::test]
async fn no_secret_is_logged_on_the_way_to_a_server() {
    capture();
    for (scheme, kind) in
        [("ws", "http"), ("wss", "http"), ("https", "http"), ("ws", "socks5h"), ("http", "socks5h")]
    {
        let gateway = Gateway::start().await;
        let proxy = Proxy::url(&gateway.url_of(kind, &format!("{RUNNING}:{HEADER}@"))).unwrap();
        let proxy = proxy.connect_header("X-Token", TOKEN).unwrap();
        let provider = || async {
            let value = ::http::HeaderValue::from_static(OFFERED);
            Ok::<_, HeaderError>([(::http::header::AUTHORIZATION, value)].into_iter().collect())
        };
        let url = format!("{scheme}://opamp.invalid/v1/opamp?token={TOKEN}");
        let builder = agent(url).proxy(proxy).header_provider(provider);
        assert_secret("the builder", &format!("{builder:?}"));
        let mut agent = Agent::start(builder);
        match kind {
            "http" => drop(gateway.connect().await),
            // The password is not the right one.
            _ => drop(gateway.socks(true).await),
        }
        let (failure, _) = agent.failure().await;
        assert_secret("a failure", &failure.message);
        agent.abort_driver().await;
    }
    for scheme in ["ws", "http"] {
        let server = http::Server::start().await;
        let url = server.url().replace("http", scheme);
        let mut agent = Agent::start(agent(url).header("Authorization", HEADER));
        let location = format!("/elsewhere?token={TOKEN}");
        server.request().await.answer(307, &[("Location", &location)], b"").await;
        server.request().await.answer(307, &[("Location", &location)], b"").await;
        let (failure, _) = agent.failure().await;
        assert!(failure.message.contains("circle"), "{}", failure.message);
        assert_secret("a failure", &failure.message);
        agent.abort_driver().await;
    }
    let log = captured();
    assert!(log.contains("following a redirect"), "the log is captured:\n{log}");
    assert!(log.contains("reqwest"), "that of dependencies too:\n{log}");
    assert_secret("the log", &log);
}

#[tokio::test]
async fn no_secret_of_offered_connection_settings_is_logged_or_shown() {
    use opamp_proto::{ServerCapabilities, v1};

    capture();
    let server = websocket::Server::start().await;
    let settings = |endpoint: String, key: &str| v1::OpAmpConnectionSettings {
        destination_endpoint: endpoint,
        headers: Some(v1::Headers {
            headers: vec![v1::Header { key: "Authorization".into(), value: OFFERED.into() }],
        }),
        certificate: (!key.is_empty()).then(|| v1::TlsCertificate {
            cert: format!("-----BEGIN CERTIFICATE-----\n{OFFERED}").into(),
            private_key: key.to_owned().into(),
            ca_cert: Default::default(),
        }),
        ..Default::default()
    };
    let offer = |report: &v1::AgentToServer, hash: &'static str, opamp| v1::ServerToAgent {
        capabilities: ServerCapabilities::all().to_wire(),
        connection_settings: Some(v1::ConnectionSettingsOffers {
            hash: hash.into(),
            opamp: Some(opamp),
            ..Default::default()
        }),
        ..reply_to(report)
    };
    let builder = agent(server.url()).accept_connection_settings().configure(|config| {
        config.storage = opamp_client::core::Storage::Application;
    });
    let mut agent = Agent::start(builder);
    let (mut peer, report) = server.welcome().await;
    // One that cannot be used, whose reason is told, and one that can.
    let elsewhere = format!("{}/elsewhere?token={TOKEN}", server.url());
    peer.send(&offer(&report, "h1", settings(elsewhere.clone(), OFFERED))).await;
    let reason = agent
        .until(|event| match event {
            Event::OpampSettingsFailed { reason } => Some(reason),
            _ => None,
        })
        .await;
    assert_secret("the reason", &reason);
    assert_secret("what the application holds", &show(&agent, &Event::StateChanged));
    peer.send(&offer(&report, "h2", settings(elsewhere, ""))).await;
    while peer.report().await.agent_disconnect.is_none() {}
    peer.close_frame().await;
    drop(peer);
    let (peer, _) = server.welcome().await;
    assert_eq!(peer.headers["authorization"], OFFERED);
    assert!(peer.path_and_query.contains(TOKEN));
    agent.until(|event| (event == Event::OpampSettingsApplied).then_some(())).await;
    assert_secret("what the application holds", &show(&agent, &Event::OpampSettingsApplied));
    agent.abort_driver().await;
    let log = captured();
    assert!(log.contains("settings work"), "the log is captured:\n{log}");
    assert_secret("the log", &log);
}

/// Whoever takes no events still finds them in the log.
#[tokio::test]
async fn events_are_logged_when_nobody_takes_them() {
    capture();
    let server = websocket::Server::start().await;
    let Agent { client, events, .. } = Agent::start(agent(server.url()));
    drop(events);
    let (mut peer, _) = server.welcome().await;
    client.set_health(crate::support::healthy("fine"));
    peer.report().await;
    let log = captured();
    assert!(log.contains("connected to the OpAMP server"), "{log}");
}

#[test]
fn no_secret_is_in_an_error() {
    for builder in [
        agent("ws://127.0.0.1").header("Authorization", format!("{HEADER}\n")),
        agent(format!("ws://user:{TOKEN}@127.0.0.1")),
        agent(format!("ws://127.0.0.1/ ?token={TOKEN}")),
        agent(format!("gopher://127.0.0.1/?token={TOKEN}")),
        agent(format!("127.0.0.1/?token={TOKEN}")),
    ] {
        let error = builder.build().unwrap_err();
        assert_secret("an error", &format!("{error} {error:?}"));
    }
}

#[tokio::test]
async fn the_effective_config_is_redacted_wherever_it_comes_from() {
    let _judged = opamp_spec::judges(&["CFG-04", "CFG-05"]);
    let redact = |config: &mut opamp_proto::v1::EffectiveConfig| {
        let files = config.config_map.iter_mut().flat_map(|map| map.config_map.values_mut());
        for file in files {
            file.body = String::from_utf8_lossy(&file.body).replace("hush", "***").into();
        }
    };
    let server = websocket::Server::start().await;
    let builder = agent(server.url()).accept_remote_config().effective_config(effective("a: hush"));
    let mut agent = Agent::start(builder.redact_effective_config(redact));
    let (mut peer, first) = server.welcome().await;
    assert_eq!(first.effective_config, Some(effective("a: ***")));
    agent.client.set_effective_config(effective("b: hush"));
    let report = peer.report().await;
    assert_eq!(report.effective_config, Some(effective("b: ***")));
    peer.send(&offer_to(&report, "c: hush", "h1")).await;
    let offer = agent.offer().await;
    agent.client.resolve(offer.applied_with(effective("c: hush")));
    assert_eq!(peer.report().await.effective_config, Some(effective("c: ***")));
}
