//! The connections to the server: each is opened, served, and opened again.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::RETRY_AFTER;
use opamp_client::tls::Tls;
use opamp_proto::MessageLimits;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::error::Error;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::hub::{End, Hub};
use super::{GatewayArgs, socket};
use crate::program::Failure;

/// How long a handshake may take, TCP and TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The first pause before another attempt, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A connection that has lasted so long was a good one.
const GOOD: Duration = Duration::from_secs(30);

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Where the server is, and how to get there.
pub(super) struct Upstream {
    url: String,
    host: String,
    port: u16,
    tls: Option<(Tls, ServerName<'static>)>,
    headers: HeaderMap,
    limits: MessageLimits,
}

/// Why there is no connection, and what the server said of when to come back.
struct Refused {
    why: String,
    retry_after: Option<Duration>,
}

impl From<String> for Refused {
    fn from(why: String) -> Self {
        Self { why, retry_after: None }
    }
}

impl Upstream {
    pub(super) fn new(args: &GatewayArgs) -> Result<Self, Failure> {
        let unusable = |what: &str| Failure::new(format!("{}: {what}", args.upstream)).of_usage();
        let secure = match args.upstream.scheme_str() {
            Some("ws" | "http") => false,
            Some("wss" | "https") => true,
            _ => return Err(unusable("the upstream is a ws or wss URL")),
        };
        let host = args.upstream.host().ok_or_else(|| unusable("there is no host"))?;
        let authority = args.upstream.authority().map_or(host, |it| it.as_str());
        if authority.contains('@') {
            return Err(unusable("credentials go into headers"));
        }
        let path = match args.upstream.path_and_query().map(|path| path.as_str()) {
            None | Some("/") => "/v1/opamp",
            Some(path) => path,
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let tls = if secure {
            let name = ServerName::try_from(host.clone())
                .map_err(|_| unusable("the host is not usable for TLS"))?;
            Some((args.upstream_tls()?, name))
        } else if args.ca.is_some() || args.cert.is_some() {
            return Err(unusable("--ca and --cert are for a wss URL"));
        } else {
            None
        };
        let scheme = if secure { "wss" } else { "ws" };
        Ok(Self {
            url: format!("{scheme}://{authority}{path}"),
            port: args.upstream.port_u16().unwrap_or(if secure { 443 } else { 80 }),
            host,
            tls,
            headers: args.headers()?,
            limits: args.server_limits(),
        })
    }

    /// Keeps a connection to the server until the gateway leaves it.
    pub(super) async fn keep(self: Arc<Self>, hub: Arc<Hub>, slot: usize) {
        let Some(wakers) = hub.upstream(slot) else { return };
        let mut pause = FIRST_PAUSE;
        while !hub.is_leaving() {
            let dialled = timeout(CONNECT_TIMEOUT, self.dial()).await;
            let dialled =
                dialled.unwrap_or_else(|_| Err("the server takes too long".to_owned().into()));
            let retry_after = match dialled {
                Ok(socket) => {
                    tracing::info!(slot, "connected to the server");
                    let opened = Instant::now();
                    hub.with(|gateway, now| gateway.upstream_opened(slot, now));
                    let why = socket::serve(&hub, End::Server(slot), &wakers, socket).await;
                    tracing::info!(slot, why, "the connection to the server is over");
                    if opened.elapsed() >= GOOD {
                        pause = FIRST_PAUSE;
                    }
                    None
                }
                Err(Refused { why, retry_after }) => {
                    tracing::warn!(slot, why, "cannot connect to the server");
                    retry_after
                }
            };
            if hub.is_leaving() {
                break;
            }
            // Jitter, so that gateways that lost the same server do not return to it at once.
            let wait =
                retry_after.unwrap_or_default().max(pause).mul_f64(rand::random_range(1.0..1.5));
            hub.with(|gateway, now| gateway.upstream_lost(slot, Some(wait), now));
            let again = Instant::now() + wait;
            // Nobody wakes it meanwhile but who wants to leave.
            while !hub.is_leaving() && timeout_at(again, wakers.write.notified()).await.is_ok() {}
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn dial(&self) -> Result<WebSocketStream<Box<dyn Io>>, Refused> {
        let failed = |what: &str, error: &dyn std::fmt::Display| format!("{what}: {error}");
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await;
        let tcp = tcp.map_err(|error| failed("TCP", &error))?;
        // A small message must not wait for the acknowledgement of an earlier one.
        let _ = tcp.set_nodelay(true);
        let io: Box<dyn Io> = match &self.tls {
            None => Box::new(tcp),
            Some((tls, name)) => {
                // The files may have been renewed since the last time.
                let tls = tls.clone();
                let config = tokio::task::spawn_blocking(move || tls.config()).await;
                let config = config.map_err(|error| failed("TLS", &error))?;
                let connector = TlsConnector::from(config.map_err(|error| failed("TLS", &error))?);
                let secured = connector.connect(name.clone(), tcp).await;
                Box::new(secured.map_err(|error| failed("TLS", &error))?)
            }
        };
        let request = self.url.as_str().into_client_request();
        let mut request = request.map_err(|error| failed("the URL", &error))?;
        for (name, value) in &self.headers {
            request.headers_mut().append(name, value.clone());
        }
        let config = socket::config(self.limits);
        match client_async_with_config(request, io, Some(config)).await {
            Ok((socket, _response)) => Ok(socket),
            Err(Error::Http(response)) => Err(Refused {
                why: format!("the handshake was answered with status {}", response.status()),
                retry_after: retry_after(response.headers()),
            }),
            Err(error) => Err(failed("the handshake", &error).into()),
        }
    }
}

/// What `Retry-After` says, in seconds or as a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}
