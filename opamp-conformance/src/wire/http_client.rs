//! The tester as a client: plain HTTP requests and WebSocket handshakes, recorded.

use std::io;
use std::sync::Arc;

use base64::Engine as _;
use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rand::RngExt as _;
use rustls::pki_types::ServerName;
use sha1::Digest as _;
use tokio_rustls::TlsConnector;

use crate::log::{Event, Log};
use crate::net::{BoxStream, Network, Undeterred};
use crate::report::By;
use crate::wire::proxy::Via;
use crate::wire::url::Url;
use crate::wire::ws::{MAX_MESSAGE, Role, WebSocket};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// Connecting failed.
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    /// The TLS handshake failed.
    #[error("the TLS handshake failed: {0}")]
    Tls(#[source] io::Error),
    /// The connection ended or what came is no HTTP.
    #[error("no HTTP response: {0}")]
    Http(String),
    /// The URL or the request is none.
    #[error("{0}")]
    Unusable(String),
}

/// How to reach a server.
#[derive(Clone)]
pub struct Dialer {
    /// The network it is in.
    pub network: Network,
    /// Where it is.
    pub url: Url,
    /// The proxy to go through, if any.
    pub via: Option<Via>,
    /// TLS settings for wss and https.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Header fields for every request and handshake, for example credentials.
    pub headers: HeaderMap,
    /// Where everything is recorded.
    pub log: Log,
}

/// What a handshake came to.
pub enum Handshake {
    /// 101: the WebSocket.
    Accepted(WebSocket),
    /// Any other answer.
    Refused(Response<Bytes>),
}

/// A connection for plain HTTP requests, kept open between them.
pub struct HttpConnection {
    sender: SendRequest<Full<Bytes>>,
    connection: u32,
    log: Log,
}

impl Dialer {
    /// A bare connection, TLS included where the URL asks for it. Writing to it does not fail; how
    /// it ended is told by reading.
    ///
    /// # Errors
    ///
    /// When connecting or the TLS handshake fails.
    pub async fn stream(&self) -> Result<(BoxStream, u32), Lost> {
        let connection = self.log.new_connection();
        let (host, port) = (&self.url.host, self.url.port);
        let connected = match &self.via {
            None => self.network.connect(host, port).await,
            Some(via) => via.connect(&self.network, self.tls.as_ref(), host, port).await,
        };
        let stream = connected.map_err(|error| {
            self.log.push(
                connection,
                By::Subject,
                Event::Ended(format!("cannot connect: {error}")),
            );
            Lost::Connect(error)
        })?;
        self.log.push(connection, By::Tester, Event::Opened);
        if !self.url.tls {
            return Ok((Box::new(Undeterred::new(stream)), connection));
        }
        let tls = self.tls.clone().ok_or_else(|| {
            Lost::Unusable("the URL asks for TLS, and no authority to trust is given".to_owned())
        })?;
        let host = self.url.host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| Lost::Unusable(format!("{host:?} is no host name for TLS")))?;
        let stream = TlsConnector::from(tls).connect(name, stream).await.map_err(|error| {
            self.log.push(connection, By::Subject, Event::Ended(format!("TLS: {error}")));
            Lost::Tls(error)
        })?;
        Ok((Box::new(Undeterred::new(Box::new(stream))), connection))
    }

    /// A connection for requests.
    ///
    /// # Errors
    ///
    /// When connecting fails.
    pub async fn http(&self) -> Result<HttpConnection, Lost> {
        let (stream, connection) = self.stream().await?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Lost::Http(error.to_string()))?;
        tokio::spawn(driver.with_upgrades());
        Ok(HttpConnection { sender, connection, log: self.log.clone() })
    }

    /// The request for this URL with this method, the usual header fields and `headers`, which
    /// replace others of the same name.
    ///
    /// # Errors
    ///
    /// When that makes no request.
    pub fn request(
        &self,
        method: Method,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, Lost> {
        let unusable = |error: http::Error| Lost::Unusable(error.to_string());
        let mut request = Request::builder()
            .method(method)
            .uri(self.url.target.as_str())
            .header(header::HOST, self.url.authority())
            .body(Full::new(body))
            .map_err(unusable)?;
        // A name may come several times.
        for all in [&self.headers, headers] {
            for name in all.keys() {
                request.headers_mut().remove(name);
            }
            for (name, value) in all {
                request.headers_mut().append(name, value.clone());
            }
        }
        Ok(request)
    }

    /// Opens a WebSocket by a correct handshake with these additional header fields.
    ///
    /// # Errors
    ///
    /// When there is no answer at all, or a 101 that accepts something else.
    pub async fn websocket(&self, headers: &HeaderMap) -> Result<Handshake, Lost> {
        let key =
            base64::engine::general_purpose::STANDARD.encode(rand::rng().random::<[u8; 16]>());
        let mut all = HeaderMap::new();
        let usual = [
            (header::CONNECTION, "Upgrade"),
            (header::UPGRADE, "websocket"),
            (header::SEC_WEBSOCKET_VERSION, "13"),
            (header::SEC_WEBSOCKET_KEY, key.as_str()),
        ];
        for (name, value) in usual {
            all.insert(name, value_of(value)?);
        }
        for (name, value) in headers {
            all.insert(name, value.clone());
        }
        let mut http = self.http().await?;
        let request = self.request(Method::GET, &all, Bytes::new())?;
        let response = http.send_any(request).await?;
        if response.status() != http::StatusCode::SWITCHING_PROTOCOLS {
            let response = http.collect(response).await?;
            return Ok(Handshake::Refused(response));
        }
        http.log.push(
            http.connection,
            By::Subject,
            Event::Response {
                status: 101,
                headers: response.headers().clone(),
                body: Bytes::new(),
            },
        );
        let accept = field(response.headers(), header::SEC_WEBSOCKET_ACCEPT);
        if accept != accept_key(&key) {
            return Err(Lost::Http(format!(
                "a 101 whose Sec-WebSocket-Accept is {accept:?} and not {:?}",
                accept_key(&key)
            )));
        }
        let deflate = field(response.headers(), header::SEC_WEBSOCKET_EXTENSIONS)
            .contains("permessage-deflate");
        let upgraded = hyper::upgrade::on(response)
            .await
            .map_err(|error| Lost::Http(format!("no WebSocket after a 101: {error}")))?;
        let stream = Box::new(TokioIo::new(upgraded));
        let (log, connection) = (http.log, http.connection);
        Ok(Handshake::Accepted(WebSocket::new(stream, Role::Client, deflate, log, connection)))
    }
}

impl HttpConnection {
    /// Sends a request and collects its response.
    ///
    /// # Errors
    ///
    /// When there is no response, or its body is larger than the tester takes.
    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, Lost> {
        let response = self.send_any(request).await?;
        self.collect(response).await
    }

    /// Whether another request can be sent on this connection.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    async fn send_any(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<hyper::body::Incoming>, Lost> {
        let body = request.body().clone().collect().await.map(|body| body.to_bytes());
        self.log.push(
            self.connection,
            By::Tester,
            Event::Request {
                method: request.method().clone(),
                target: request.uri().to_string(),
                headers: request.headers().clone(),
                body: body.unwrap_or_default(),
            },
        );
        // Between two requests the connection may need a moment before it is ready again.
        let answered = match self.sender.ready().await {
            Ok(()) => self.sender.send_request(request).await,
            Err(error) => Err(error),
        };
        answered.map_err(|error| self.lost(&error.to_string()))
    }

    async fn collect(
        &self,
        response: Response<hyper::body::Incoming>,
    ) -> Result<Response<Bytes>, Lost> {
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, MAX_MESSAGE).collect().await;
        let body = body.map_err(|error| self.lost(&error.to_string()))?.to_bytes();
        self.log.push(
            self.connection,
            By::Subject,
            Event::Response {
                status: parts.status.as_u16(),
                headers: parts.headers.clone(),
                body: body.clone(),
            },
        );
        Ok(Response::from_parts(parts, body))
    }

    fn lost(&self, error: &str) -> Lost {
        self.log.push(self.connection, By::Subject, Event::Ended(error.to_owned()));
        Lost::Http(error.to_owned())
    }
}

/// The Sec-WebSocket-Accept that answers a Sec-WebSocket-Key.
#[must_use]
pub fn accept_key(key: &str) -> String {
    let digest = sha1::Sha1::digest(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11"));
    base64::engine::general_purpose::STANDARD.encode(digest)
}

/// The text of a header field; empty where it is missing.
#[must_use]
pub fn field(headers: &HeaderMap, name: HeaderName) -> String {
    headers
        .get_all(name)
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        .collect::<Vec<_>>()
        .join(", ")
}

fn value_of(text: &str) -> Result<HeaderValue, Lost> {
    HeaderValue::from_str(text).map_err(|error| Lost::Unusable(error.to_string()))
}
