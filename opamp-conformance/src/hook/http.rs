//! Hooks that are an HTTP endpoint: each action is posted to it.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, header};
use serde_json::{Map, Value};
use tokio::time::{Instant, sleep, timeout};

use super::{Action, HookError, Hooks, MAX_ANSWER, answer, request};
use crate::log::Log;
use crate::net::Network;
use crate::report::Side;
use crate::wire::http_client::{Dialer, Lost};
use crate::wire::url::Url;

/// How long an endpoint may take to listen after its program was started.
const START: Duration = Duration::from_secs(5);

/// An endpoint that does what actions say.
#[derive(Clone)]
pub struct HttpHook {
    url: Url,
    limit: Duration,
}

impl HttpHook {
    /// Posts to this URL, and gives it up after `limit`.
    ///
    /// # Errors
    ///
    /// When it is no http URL.
    pub fn new(url: &str, limit: Duration) -> Result<Self, String> {
        if !url.starts_with("http://") {
            return Err(format!("{url:?} is no http URL"));
        }
        // Without a path the root is meant.
        let rooted = if url[7..].contains('/') { url.to_owned() } else { format!("{url}/") };
        Ok(Self { url: rooted.parse()?, limit })
    }

    /// Whether something listens there.
    ///
    /// # Errors
    ///
    /// When nothing does.
    pub async fn check(&self) -> Result<(), String> {
        let connect = Network::Sockets.connect(&self.url.host, self.url.port);
        match timeout(self.limit, connect).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(format!("cannot connect to {}: {error}", self.url)),
            Err(_) => Err(format!("connecting to {} takes too long", self.url)),
        }
    }

    async fn post(&self, body: &Bytes) -> Result<Response<Bytes>, Lost> {
        let dialer = Dialer {
            network: Network::Sockets,
            url: self.url.clone(),
            via: None,
            tls: None,
            headers: HeaderMap::new(),
            log: Log::new(Side::Server),
        };
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let request = dialer.request(Method::POST, &headers, body.clone())?;
        dialer.http().await?.send(request).await
    }

    async fn run(&self, action: &Action) -> Result<Value, HookError> {
        let body = Bytes::from(request(action, &Map::new()));
        let until = Instant::now() + START.min(self.limit);
        let response = loop {
            match self.post(&body).await {
                Ok(response) => break response,
                Err(Lost::Connect(_)) if Instant::now() < until => {
                    sleep(Duration::from_millis(50)).await;
                }
                Err(lost) => return Err(HookError::Failed(lost.to_string())),
            }
        };
        match response.status().as_u16() {
            _ if response.body().len() > MAX_ANSWER => {
                Err(HookError::Failed("the answer is too long".to_owned()))
            }
            200..=299 => answer(response.body()),
            501 => Err(HookError::Unsupported),
            status => {
                let said: String =
                    String::from_utf8_lossy(response.body()).chars().take(500).collect();
                Err(HookError::Failed(format!("HTTP status {status}: {}", said.trim())))
            }
        }
    }
}

#[async_trait]
impl Hooks for HttpHook {
    async fn call(&self, action: &Action) -> Result<Value, HookError> {
        timeout(self.limit, self.run(action)).await.unwrap_or_else(|_| {
            let limit = self.limit.as_secs_f64();
            Err(HookError::Failed(format!("it did not answer within {limit:.0} s")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Transport;
    use crate::wire::endpoint::Endpoint;

    async fn call(status: u16, body: &'static str) -> (Value, Result<Value, HookError>) {
        let log = Log::new(Side::Client);
        let opened = Endpoint::open(&Network::Sockets, Transport::Http, None, &log).await;
        let mut endpoint = opened.unwrap();
        let authority = endpoint.url().authority();
        let hook = HttpHook::new(&format!("http://{authority}"), Duration::from_secs(20)).unwrap();
        hook.check().await.unwrap();
        let serve = async {
            let arrival = endpoint.next(Duration::from_secs(20)).await.unwrap();
            assert_eq!((arrival.method.as_str(), arrival.target.as_str()), ("POST", "/"));
            let got = serde_json::from_slice(&arrival.body).unwrap();
            arrival.respond(status, &[], Bytes::from_static(body.as_bytes()));
            got
        };
        tokio::join!(serve, hook.call(&Action::RestartServer))
    }

    #[tokio::test]
    async fn an_action_is_posted_and_the_status_tells_what_became_of_it() {
        let (got, answer) = call(200, "{\"a\": 1}").await;
        assert_eq!(got, serde_json::json!({"hook": "restart_server"}));
        assert_eq!(answer, Ok(serde_json::json!({"a": 1})));
        assert_eq!(call(204, "").await.1, Ok(serde_json::json!({})));
        assert_eq!(call(501, "").await.1, Err(HookError::Unsupported));
        assert!(
            matches!(call(500, "boom").await.1, Err(HookError::Failed(why)) if why.contains("boom"))
        );
        assert!(matches!(call(200, "no json").await.1, Err(HookError::Failed(_))));
    }

    #[test]
    fn only_http_will_do() {
        for wrong in ["", "https://x/", "localhost:1", "http://"] {
            assert!(HttpHook::new(wrong, Duration::ZERO).is_err(), "{wrong}");
        }
    }
}
