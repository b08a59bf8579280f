//! Proxies: one the tester plays and that remembers who came through it, and the way through one
//! for the tester's own connections. HTTP proxies know CONNECT alone; SOCKS5 goes without
//! authentication.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1 as client;
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::task::JoinSet;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::log::{Event, Log};
use crate::net::{BoxStream, Network};
use crate::report::By;

/// How many connections through a proxy are remembered.
const MAX_PASSAGES: usize = 256;

/// What a proxy speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// HTTP with CONNECT.
    Http,
    /// SOCKS version 5.
    Socks5,
}

/// A connection that went, or wanted to go, through a proxy.
#[derive(Debug, Clone)]
pub struct Passage {
    /// Where to: host and port.
    pub target: String,
    /// The header fields of the request to the proxy.
    pub headers: HeaderMap,
    /// Whether it presented a certificate to the proxy itself.
    pub with_certificate: bool,
}

/// A proxy the tester plays. Dropping it ends it and every connection through it.
pub struct Proxy {
    url: String,
    passages: Arc<Mutex<Vec<Passage>>>,
    attempts: Arc<AtomicUsize>,
    /// Held for its being dropped.
    _listening: JoinSet<()>,
}

#[derive(Clone)]
struct Door {
    network: Network,
    kind: Kind,
    tls: Option<TlsAcceptor>,
    log: Log,
    passages: Arc<Mutex<Vec<Passage>>>,
    attempts: Arc<AtomicUsize>,
}

impl Proxy {
    /// Opens a proxy on a free port, over TLS where settings are given.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub async fn open(
        network: &Network,
        kind: Kind,
        tls: Option<Arc<rustls::ServerConfig>>,
        log: &Log,
    ) -> io::Result<Self> {
        let listener = network.listen(0).await?;
        let scheme = match (kind, &tls) {
            (Kind::Socks5, _) => "socks5",
            (Kind::Http, None) => "http",
            (Kind::Http, Some(_)) => "https",
        };
        let url = format!("{scheme}://127.0.0.1:{}", listener.port());
        log.remark(format!("the proxy {url} is open"));
        let passages = Arc::new(Mutex::new(Vec::new()));
        let attempts = Arc::new(AtomicUsize::new(0));
        let door = Door {
            network: network.clone(),
            kind,
            tls: tls.map(TlsAcceptor::from),
            log: log.clone(),
            passages: Arc::clone(&passages),
            attempts: Arc::clone(&attempts),
        };
        let mut listening = JoinSet::new();
        listening.spawn(listener.serve(move |stream| door.clone().enter(stream)));
        Ok(Self { url, passages, attempts, _listening: listening })
    }

    /// Where clients find it.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// How many connections were opened to it.
    #[must_use]
    pub fn attempts(&self) -> usize {
        self.attempts.load(Ordering::SeqCst)
    }

    /// What came so far.
    #[must_use]
    pub fn passages(&self) -> Vec<Passage> {
        self.passages.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Door {
    fn note(&self, connection: u32, passage: Passage) {
        let mut passages = self.passages.lock().unwrap_or_else(PoisonError::into_inner);
        if passages.len() < MAX_PASSAGES {
            let text = format!("the proxy is asked to connect to {}", passage.target);
            self.log.push(connection, By::Remark, Event::Remark(text));
            passages.push(passage);
        }
    }

    async fn enter(self, stream: BoxStream) {
        let connection = self.log.new_connection();
        self.log.push(connection, By::Subject, Event::Opened);
        self.attempts.fetch_add(1, Ordering::SeqCst);
        let log = self.log.clone();
        let how = match self.serve(connection, stream).await {
            Ok(()) => "the connection to the proxy was closed".to_owned(),
            Err(error) => format!("the connection to the proxy broke: {error}"),
        };
        log.push(connection, By::Subject, Event::Ended(how));
    }

    async fn serve(self, connection: u32, stream: BoxStream) -> io::Result<()> {
        let (stream, with_certificate): (BoxStream, _) = match &self.tls {
            None => (stream, false),
            Some(tls) => {
                let stream = tls.accept(stream).await?;
                let with = stream.get_ref().1.peer_certificates().is_some();
                (Box::new(stream), with)
            }
        };
        match self.kind {
            Kind::Socks5 => self.socks5(connection, stream).await,
            Kind::Http => self.http(connection, stream, with_certificate).await,
        }
    }

    async fn http(
        self,
        connection: u32,
        stream: BoxStream,
        with_certificate: bool,
    ) -> io::Result<()> {
        let (passed, mut tunnel) = tokio::sync::mpsc::channel(1);
        let service = service_fn(move |mut request: Request<Incoming>| {
            let (door, passed) = (self.clone(), passed.clone());
            async move {
                door.log.push(
                    connection,
                    By::Subject,
                    Event::Request {
                        method: request.method().clone(),
                        target: request.uri().to_string(),
                        headers: request.headers().clone(),
                        body: Bytes::new(),
                    },
                );
                let target = request.uri().authority().map(ToString::to_string);
                if let Some(target) = &target {
                    let (target, headers) = (target.clone(), request.headers().clone());
                    door.note(connection, Passage { target, headers, with_certificate });
                }
                let status = match target.filter(|_| request.method() == Method::CONNECT) {
                    None => StatusCode::METHOD_NOT_ALLOWED,
                    Some(target) => match door.onward(&target).await {
                        Err(_) => StatusCode::BAD_GATEWAY,
                        Ok(onward) => {
                            let upgrade = hyper::upgrade::on(&mut request);
                            // The receiver lives as long as the connection.
                            let _ = passed.try_send((upgrade, onward));
                            StatusCode::OK
                        }
                    },
                };
                let headers = HeaderMap::new();
                let event =
                    Event::Response { status: status.as_u16(), headers, body: Bytes::new() };
                door.log.push(connection, By::Tester, event);
                let mut response = Response::new(Empty::<Bytes>::new());
                *response.status_mut() = status;
                Ok::<_, std::convert::Infallible>(response)
            }
        });
        let served = server::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
            .await;
        served.map_err(io::Error::other)?;
        if let Some((upgrade, mut onward)) = tunnel.recv().await {
            let mut stream = TokioIo::new(upgrade.await.map_err(io::Error::other)?);
            copy_bidirectional(&mut stream, &mut onward).await?;
        }
        Ok(())
    }

    async fn onward(&self, target: &str) -> io::Result<BoxStream> {
        let (host, port) = target.rsplit_once(':').ok_or(io::ErrorKind::InvalidInput)?;
        let port = port.parse().map_err(|_| io::ErrorKind::InvalidInput)?;
        self.network.connect(host, port).await
    }

    async fn socks5(self, connection: u32, mut stream: BoxStream) -> io::Result<()> {
        let mut head = [0; 2];
        stream.read_exact(&mut head).await?;
        let mut methods = vec![0; usize::from(head[1])];
        stream.read_exact(&mut methods).await?;
        if head[0] != 5 {
            return Err(io::Error::other(format!("SOCKS version {}", head[0])));
        }
        stream.write_all(&[5, 0]).await?;
        let mut request = [0; 4];
        stream.read_exact(&mut request).await?;
        let host = match request[3] {
            1 => {
                let mut address = [0; 4];
                stream.read_exact(&mut address).await?;
                Ipv4Addr::from(address).to_string()
            }
            4 => {
                let mut address = [0; 16];
                stream.read_exact(&mut address).await?;
                format!("[{}]", Ipv6Addr::from(address))
            }
            3 => {
                let mut name = vec![0; usize::from(stream.read_u8().await?)];
                stream.read_exact(&mut name).await?;
                String::from_utf8_lossy(&name).into_owned()
            }
            other => return Err(io::Error::other(format!("SOCKS address type {other}"))),
        };
        let port = stream.read_u16().await?;
        let target = format!("{host}:{port}");
        let headers = HeaderMap::new();
        let passage = Passage { target: target.clone(), headers, with_certificate: false };
        self.note(connection, passage);
        let onward = if request[1] == 1 {
            self.onward(&target).await
        } else {
            Err(io::ErrorKind::Unsupported.into())
        };
        let code = if onward.is_ok() { 0 } else { 5 };
        stream.write_all(&[5, code, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
        copy_bidirectional(&mut stream, &mut onward?).await?;
        Ok(())
    }
}

/// The way through a proxy.
#[derive(Debug, Clone, PartialEq)]
pub struct Via {
    kind: Kind,
    tls: bool,
    host: String,
    port: u16,
    /// Header fields for the CONNECT request.
    pub headers: HeaderMap,
}

impl FromStr for Via {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("{text:?} is no URL of a proxy");
        let uri: http::Uri = text.parse().map_err(|_| wrong())?;
        let (kind, tls) = match uri.scheme_str() {
            None | Some("http") => (Kind::Http, false),
            Some("https") => (Kind::Http, true),
            Some("socks5" | "socks5h") => (Kind::Socks5, false),
            Some(_) => return Err(wrong()),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(wrong)?.to_owned();
        let port = uri.port_u16().ok_or_else(wrong)?;
        Ok(Self { kind, tls, host, port, headers: HeaderMap::new() })
    }
}

impl Via {
    /// Adds a header field for the CONNECT request, unless it is none.
    pub fn header(&mut self, name: &str, value: &str) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            self.headers.append(name, value);
        }
    }

    /// Connects through the proxy; `tls` is for the proxy itself.
    ///
    /// # Errors
    ///
    /// When the proxy cannot be reached or does not let this pass.
    pub async fn connect(
        &self,
        network: &Network,
        tls: Option<&Arc<rustls::ClientConfig>>,
        host: &str,
        port: u16,
    ) -> io::Result<BoxStream> {
        let stream = network.connect(&self.host, self.port).await?;
        let stream: BoxStream = match (self.tls, tls) {
            (false, _) => stream,
            (true, None) => return Err(io::Error::other("no TLS settings for the proxy")),
            (true, Some(tls)) => {
                let name = ServerName::try_from(self.host.clone()).map_err(io::Error::other)?;
                Box::new(TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?)
            }
        };
        match self.kind {
            Kind::Http => self.by_connect(stream, host, port).await,
            Kind::Socks5 => by_socks5(stream, host, port).await,
        }
    }

    async fn by_connect(&self, stream: BoxStream, host: &str, port: u16) -> io::Result<BoxStream> {
        let (mut sender, driver) =
            client::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        tokio::spawn(driver.with_upgrades());
        let authority = format!("{host}:{port}");
        let mut request = Request::connect(&authority)
            .header(header::HOST, &authority)
            .body(Empty::<Bytes>::new())
            .map_err(io::Error::other)?;
        request.headers_mut().extend(self.headers.clone());
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        if !response.status().is_success() {
            return Err(io::Error::other(format!("the proxy answers {}", response.status())));
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(io::Error::other)?;
        Ok(Box::new(TokioIo::new(upgraded)))
    }
}

async fn by_socks5(mut stream: BoxStream, host: &str, port: u16) -> io::Result<BoxStream> {
    stream.write_all(&[5, 1, 0]).await?;
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).await?;
    if answer != [5, 0] {
        return Err(io::Error::other("the proxy wants authentication"));
    }
    let length = u8::try_from(host.len()).map_err(io::Error::other)?;
    let mut request = vec![5, 1, 0, 3, length];
    request.extend_from_slice(host.as_bytes());
    request.extend_from_slice(&port.to_be_bytes());
    stream.write_all(&request).await?;
    // The proxies here answer with an IPv4 address.
    let mut answer = [0; 10];
    stream.read_exact(&mut answer).await?;
    if answer[1] != 0 {
        return Err(io::Error::other(format!("the proxy answers {}", answer[1])));
    }
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Side;

    #[tokio::test(start_paused = true)]
    async fn bytes_go_through_both_kinds_of_proxy() {
        let network = Network::in_memory();
        let mut listener = network.listen(0).await.unwrap();
        let port = listener.port();
        tokio::spawn(async move {
            while let Ok(mut stream) = listener.accept().await {
                stream.write_all(b"hello").await.unwrap();
            }
        });
        let log = Log::new(Side::Client);
        for kind in [Kind::Http, Kind::Socks5] {
            let proxy = Proxy::open(&network, kind, None, &log).await.unwrap();
            let mut via: Via = proxy.url().parse().unwrap();
            via.header("x-pass", "yes");
            let mut stream = via.connect(&network, None, "example.com", port).await.unwrap();
            let mut bytes = [0; 5];
            stream.read_exact(&mut bytes).await.unwrap();
            assert_eq!(&bytes, b"hello");
            let passages = proxy.passages();
            assert_eq!(passages.len(), 1);
            assert_eq!(passages[0].target, format!("example.com:{port}"));
            assert_eq!(passages[0].headers.contains_key("x-pass"), kind == Kind::Http);
            assert!(via.connect(&network, None, "example.com", 999).await.is_err());
        }
    }

    #[test]
    fn what_is_no_proxy_is_refused() {
        assert!("127.0.0.1:8443".parse::<Via>().is_ok());
        for wrong in ["", "http://", "ftp://127.0.0.1:1", "http://127.0.0.1", "a b"] {
            assert!(wrong.parse::<Via>().is_err(), "{wrong}");
        }
    }
}
