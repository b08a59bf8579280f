//! Headers that change while the agent runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ::http::{HeaderMap, HeaderValue, header};
use opamp_client::core::FailureKind;
use opamp_client::{Builder, HeaderError, HeaderProvider};

use crate::support::{Agent, agent, http, quick, websocket};

/// A token that is another one each time.
#[derive(Clone, Default)]
struct Tokens(Arc<AtomicU32>);

#[async_trait::async_trait]
impl HeaderProvider for Tokens {
    async fn headers(&self) -> Result<HeaderMap, HeaderError> {
        let token = format!("Bearer {}", self.0.fetch_add(1, Ordering::Relaxed));
        Ok(HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::try_from(token)?)]))
    }
}

fn with_tokens(url: String) -> Builder {
    let builder = agent(url).header("Authorization", "Bearer stale").header("X-Tenant", "blue");
    builder.header_provider(Tokens::default()).configure(quick)
}

/// W-9 of the reference: retries had the headers of the first attempt.
#[tokio::test]
async fn every_request_and_every_retry_has_a_fresh_token() {
    let _judged = opamp_spec::judges(&["AUTH-01"]);
    let server = http::Server::start().await;
    let _agent = Agent::start(with_tokens(server.url()));
    for (count, status) in [500, 401, 200, 200].into_iter().enumerate() {
        let request = server.request().await;
        assert_eq!(request.header("authorization"), Some(&*format!("Bearer {count}")));
        assert_eq!(request.header("x-tenant"), Some("blue"));
        assert_eq!(request.headers.get_all("authorization").iter().count(), 1);
        let reply = crate::support::reply_to(&request.report());
        match status {
            200 => request.reply(&reply).await,
            status => request.answer(status, &[], b"").await,
        }
    }
}

#[tokio::test]
async fn every_handshake_has_a_fresh_token() {
    let _judged = opamp_spec::judges(&["AUTH-01"]);
    let server = http::Server::start().await;
    let url = server.url().replace("http://", "ws://");
    let _agent = Agent::start(with_tokens(url));
    for count in 0..3 {
        let request = server.request().await;
        assert_eq!(request.header("authorization"), Some(&*format!("Bearer {count}")));
        assert_eq!(request.headers.get_all("authorization").iter().count(), 1);
        request.answer(401, &[], b"").await;
    }
}

/// The first answers are errors; what comes of it is an event, and another try.
#[tokio::test]
async fn a_provider_that_fails_is_asked_again() {
    for scheme in ["ws", "http"] {
        let (websocket, http) = (websocket::Server::start().await, http::Server::start().await);
        let port = if scheme == "ws" { websocket.port() } else { http.port() };
        let asked = Arc::new(AtomicU32::new(0));
        let builder = agent(format!("{scheme}://127.0.0.1:{port}")).header_provider(move || {
            let asked = asked.fetch_add(1, Ordering::Relaxed);
            async move {
                match asked {
                    0 => Err(HeaderError::from("the vault is sealed")),
                    1 => Ok(HeaderMap::from_iter([(header::HOST, "other".parse()?)])),
                    2 => std::future::pending().await,
                    _ => Ok(HeaderMap::new()),
                }
            }
        });
        let builder =
            builder.configure(|config| config.connect_timeout = Duration::from_millis(500));
        let mut agent = Agent::start(builder);
        for hint in ["vault is sealed", "header host", "in time"] {
            let (failure, _) = agent.failure().await;
            assert_eq!(failure.kind, FailureKind::Configuration, "{}", failure.message);
            assert!(failure.message.contains(hint), "{}", failure.message);
        }
        match scheme {
            "ws" => drop(websocket.welcome().await),
            _ => drop(http.welcome().await),
        }
    }
}

#[test]
fn headers_that_the_client_sets_itself_cannot_be_given() {
    for name in ["Host", "Sec-WebSocket-Key", "content-length", "OpAMP-Instance-UID", "Upgrade"] {
        let error = agent("ws://127.0.0.1").header(name, "x").build().unwrap_err();
        assert_eq!(error.kind(), opamp_client::ErrorKind::Header, "{error}");
    }
}
