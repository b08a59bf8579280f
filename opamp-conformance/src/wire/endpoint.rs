//! The tester as a server: an address where a client arrives. What it does with a connection before
//! there is HTTP on it, and with each request, is the script's choice; everything is recorded.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use hyper::body::Frame;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::CertificateDer;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::log::{Event, Log};
use crate::net::{BoxStream, Held, Network};
use crate::report::{By, Transport};
use crate::wire::http_client::{accept_key, field};
use crate::wire::url::Url;
use crate::wire::ws::{MAX_MESSAGE, Role, WebSocket};

/// How many arrivals wait for the script.
const WAITING: usize = 4_096;
/// How much of a long body is sent at a time.
const PIECE: usize = 64 << 10;
/// The pause between two parts of what is sent for ever.
const DRIP: Duration = Duration::from_millis(10);

/// What a new connection meets.
#[derive(Debug, Clone, Default)]
pub enum Welcome {
    /// HTTP; requests go to the script.
    #[default]
    Serve,
    /// HTTP; each request gets this status and these header fields, and is counted only.
    Answer(u16, Vec<(String, String)>),
    /// The connection is closed as soon as it is there.
    CloseAtOnce,
    /// Nothing is ever read or written.
    Silence,
    /// These bytes, then the end.
    Garbage(Bytes),
    /// These bytes, and after them the others over and over, for as long as the client reads.
    Endless(Bytes, Bytes),
}

/// An address where clients arrive. Dropping it closes it and every connection to it that is still
/// with HTTP.
pub struct Endpoint {
    network: Network,
    url: Url,
    tls: Option<Arc<rustls::ServerConfig>>,
    log: Log,
    welcome: Arc<Mutex<Welcome>>,
    arrivals: mpsc::Receiver<Arrival>,
    sender: mpsc::Sender<Arrival>,
    attempts: Arc<Mutex<Vec<Instant>>>,
    listening: JoinSet<()>,
    held: Option<Held>,
}

/// How the body of a response is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// At once, with its length.
    Whole,
    /// In chunks of this many bytes, without its length.
    Chunked(usize),
    /// With its length, but the connection ends halfway.
    CutShort,
    /// With its length, in so many parts with this pause before each.
    Slow(usize, Duration),
    /// With its length, as many zeros after it included; they are not recorded.
    Filled(usize),
    /// In chunks, with zeros after it until the client stops reading, at most this many.
    Overflowing(usize),
}

type ResponseBody = BoxBody<Bytes, std::io::Error>;

/// A request that waits for what the script makes of it. Dropping it ends its connection without a
/// response.
pub struct Arrival {
    /// Number of its connection in the record.
    pub connection: u32,
    /// When it was complete.
    pub at: Instant,
    /// How long its body took to come.
    pub took: Duration,
    /// Its method.
    pub method: Method,
    /// Path and query.
    pub target: String,
    /// Its header fields.
    pub headers: HeaderMap,
    /// Its body as sent.
    pub body: Bytes,
    /// The certificates the client presented in TLS, its own first.
    pub client_certificates: Vec<CertificateDer<'static>>,
    /// What its TLS handshake agreed on; `None` without TLS.
    pub negotiated: Option<Negotiated>,
    handed_on: Arc<AtomicBool>,
    upgrade: Option<hyper::upgrade::OnUpgrade>,
    reply: oneshot::Sender<Response<ResponseBody>>,
    log: Log,
}

/// What a TLS handshake agreed on.
#[derive(Debug, Clone)]
pub struct Negotiated {
    /// For example `TLSv1_3`.
    pub version: String,
    /// For example `TLS13_AES_128_GCM_SHA256`.
    pub cipher_suite: String,
}

impl Endpoint {
    /// Opens an address for this transport on a free port.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub async fn open(
        network: &Network,
        transport: Transport,
        tls: Option<Arc<rustls::ServerConfig>>,
        log: &Log,
    ) -> std::io::Result<Self> {
        let (sender, arrivals) = mpsc::channel(WAITING);
        let url = Url {
            transport,
            tls: tls.is_some(),
            host: network.host(),
            port: 0,
            target: "/v1/opamp".to_owned(),
        };
        let mut endpoint = Self {
            network: network.clone(),
            url,
            tls,
            log: log.clone(),
            welcome: Arc::default(),
            arrivals,
            sender,
            attempts: Arc::default(),
            listening: JoinSet::new(),
            held: None,
        };
        endpoint.listen().await?;
        Ok(endpoint)
    }

    /// Where clients find it.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// What connections meet from now on.
    pub fn welcome(&self, welcome: Welcome) {
        *self.welcome.lock().unwrap_or_else(PoisonError::into_inner) = welcome;
    }

    /// When each attempt to be served came, in their order: each request that was answered by
    /// [`Welcome::Answer`], and each connection without one.
    #[must_use]
    pub fn attempts(&self) -> Vec<Instant> {
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        attempts.sort_unstable();
        attempts
    }

    /// Stops listening: connecting is refused, and connections with HTTP on them are cut.
    pub async fn refuse(&mut self) {
        self.log.remark(format!("{} is closed", self.url));
        self.listening.shutdown().await;
        // Where the port cannot be kept, it is most likely free when it is needed again.
        self.held = self.network.hold(self.url.port).ok();
        while self.arrivals.try_recv().is_ok() {}
    }

    /// Listens again at the same address, or for the first time.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub async fn listen(&mut self) -> std::io::Result<()> {
        let listener = match self.held.take() {
            Some(held) => held.listen(&self.network).await?,
            None => self.network.listen(self.url.port).await?,
        };
        self.url.port = listener.port();
        self.log.remark(format!("{} is open", self.url));
        let door = Door {
            tls: self.tls.clone(),
            log: self.log.clone(),
            welcome: Arc::clone(&self.welcome),
            sender: self.sender.clone(),
            attempts: Arc::clone(&self.attempts),
        };
        self.listening.spawn(listener.serve(move |stream| door.clone().enter(stream)));
        Ok(())
    }

    /// The next request, if one comes within this time. Cancel safe.
    pub async fn next(&mut self, within: Duration) -> Option<Arrival> {
        timeout(within, self.arrivals.recv()).await.ok().flatten()
    }
}

/// What is known of a connection when a request comes over it.
#[derive(Clone)]
struct Met {
    connection: u32,
    certificates: Vec<CertificateDer<'static>>,
    negotiated: Option<Negotiated>,
    handed_on: Arc<AtomicBool>,
    /// Which attempt it is. Its first request is the same one, further ones are their own.
    attempt: usize,
    asked: Arc<AtomicBool>,
}

#[derive(Clone)]
struct Door {
    tls: Option<Arc<rustls::ServerConfig>>,
    log: Log,
    welcome: Arc<Mutex<Welcome>>,
    sender: mpsc::Sender<Arrival>,
    attempts: Arc<Mutex<Vec<Instant>>>,
}

impl Door {
    fn policy(&self) -> Welcome {
        self.welcome.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes an attempt; gives its index.
    fn attempt(&self) -> usize {
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        attempts.push(Instant::now());
        attempts.len() - 1
    }

    /// Notes that a connection's first request came: pauses are those after an answer.
    fn delay(&self, attempt: usize) {
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        attempts[attempt] = Instant::now();
    }

    async fn enter(self, mut stream: BoxStream) {
        let connection = self.log.new_connection();
        self.log.push(connection, By::Subject, Event::Opened);
        let attempt = self.attempt();
        match self.policy() {
            Welcome::Serve | Welcome::Answer(..) => {}
            Welcome::CloseAtOnce => return,
            Welcome::Silence => return std::future::pending().await,
            Welcome::Garbage(bytes) => {
                self.log.push(connection, By::Tester, Event::Raw(bytes.clone()));
                // The client may have gone already, which is as good.
                let _ = stream.write_all(&bytes).await;
                let _ = stream.shutdown().await;
                return;
            }
            Welcome::Endless(start, again) => {
                self.log.push(connection, By::Tester, Event::Raw(start.clone()));
                let written = write_endlessly(&mut stream, &start, &again).await;
                let ended = format!("{written} bytes were sent");
                self.log.push(connection, By::Subject, Event::Ended(ended));
                return;
            }
        }
        let (stream, certificates, negotiated): (BoxStream, _, _) = match &self.tls {
            None => (stream, Vec::new(), None),
            Some(tls) => match TlsAcceptor::from(Arc::clone(tls)).accept(stream).await {
                Ok(stream) => {
                    let session = stream.get_ref().1;
                    let certificates = session.peer_certificates().unwrap_or_default().to_vec();
                    let negotiated = Negotiated {
                        version: format!("{:?}", session.protocol_version()),
                        cipher_suite: format!(
                            "{:?}",
                            session.negotiated_cipher_suite().map(|suite| suite.suite())
                        ),
                    };
                    let certificates =
                        certificates.into_iter().map(CertificateDer::into_owned).collect();
                    (Box::new(stream), certificates, Some(negotiated))
                }
                Err(error) => {
                    let ended = Event::Ended(format!("the TLS handshake failed: {error}"));
                    self.log.push(connection, By::Subject, ended);
                    return;
                }
            },
        };
        let log = self.log.clone();
        let handed_on = Arc::new(AtomicBool::new(false));
        let met = Met {
            connection,
            certificates,
            negotiated,
            handed_on: Arc::clone(&handed_on),
            attempt,
            asked: Arc::default(),
        };
        let service = service_fn(move |request| self.clone().request(met.clone(), request));
        let served = http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
            .await;
        let how = match served {
            Ok(()) if handed_on.load(Ordering::SeqCst) => return,
            Ok(()) => "the HTTP connection was closed".to_owned(),
            Err(error) => format!("the HTTP connection broke: {error}"),
        };
        log.push(connection, By::Subject, Event::Ended(how));
    }

    async fn request(
        self,
        met: Met,
        mut request: http::Request<hyper::body::Incoming>,
    ) -> Result<Response<ResponseBody>, &'static str> {
        let connection = met.connection;
        let first = !met.asked.swap(true, Ordering::SeqCst);
        let upgrade = request
            .headers()
            .contains_key(header::UPGRADE)
            .then(|| hyper::upgrade::on(&mut request));
        let began = Instant::now();
        let (parts, body) = request.into_parts();
        let body = match Limited::new(body, MAX_MESSAGE).collect().await {
            Ok(body) => body.to_bytes(),
            Err(_) => return Err("the request's body could not be read"),
        };
        self.log.push(
            connection,
            By::Subject,
            Event::Request {
                method: parts.method.clone(),
                target: parts.uri.to_string(),
                headers: parts.headers.clone(),
                body: body.clone(),
            },
        );
        if let Welcome::Answer(status, headers) = self.policy() {
            if first {
                self.delay(met.attempt);
            } else {
                self.attempt();
            }
            return Ok(recorded(&self.log, connection, status, &headers, Bytes::new()));
        }
        let (reply, answer) = oneshot::channel();
        let arrival = Arrival {
            connection,
            at: Instant::now(),
            took: began.elapsed(),
            method: parts.method,
            target: parts.uri.to_string(),
            headers: parts.headers,
            body,
            client_certificates: met.certificates,
            negotiated: met.negotiated,
            handed_on: met.handed_on,
            upgrade,
            reply,
            log: self.log.clone(),
        };
        self.sender.send(arrival).await.map_err(|_| "the case is over")?;
        answer.await.map_err(|_| "the script closes the connection")
    }
}

/// Writes until the client goes away or has got more than anybody should read; gives how much.
async fn write_endlessly(stream: &mut BoxStream, start: &[u8], again: &[u8]) -> usize {
    let mut written = 0;
    let mut next = start;
    while written < MAX_MESSAGE && stream.write_all(next).await.is_ok() {
        written += next.len();
        next = again;
        // A client that reads whatever comes does not keep the tester from everything else.
        sleep(DRIP).await;
    }
    written
}

fn recorded(
    log: &Log,
    connection: u32,
    status: u16,
    headers: &[(String, String)],
    body: Bytes,
) -> Response<ResponseBody> {
    delivered(log, connection, status, headers, body, Delivery::Whole)
}

fn delivered(
    log: &Log,
    connection: u32,
    status: u16,
    headers: &[(String, String)],
    body: Bytes,
    delivery: Delivery,
) -> Response<ResponseBody> {
    let mut response = Response::new(streamed(body.clone(), delivery));
    let length = match delivery {
        Delivery::CutShort | Delivery::Slow(..) => Some(body.len()),
        Delivery::Filled(zeros) => Some(body.len() + zeros),
        _ => None,
    };
    if let Some(length) = length {
        log.remark(format!("{delivery:?}: the body is announced with {length} bytes"));
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) =
            (HeaderName::try_from(name.as_str()), HeaderValue::try_from(value.as_str()))
        {
            response.headers_mut().append(name, value);
        }
    }
    let headers = response.headers().clone();
    log.push(connection, By::Tester, Event::Response { status, headers, body });
    response
}

fn streamed(body: Bytes, delivery: Delivery) -> ResponseBody {
    let zeros = |mut left: usize| {
        let piece = Bytes::from(vec![0; left.min(PIECE)]);
        std::iter::from_fn(move || {
            let length = left.min(piece.len());
            left -= length;
            (length > 0).then(|| Ok(Frame::data(piece.slice(..length))))
        })
    };
    match delivery {
        Delivery::Whole => Full::new(body).map_err(|never| match never {}).boxed(),
        Delivery::Chunked(size) => StreamBody::new(stream::iter(chunks(body, size))).boxed(),
        Delivery::Slow(parts, pause) => {
            let size = body.len().div_ceil(parts.max(1));
            let chunks = futures_util::StreamExt::then(
                stream::iter(chunks(body, size)),
                move |chunk| async move {
                    sleep(pause).await;
                    chunk
                },
            );
            StreamBody::new(chunks).boxed()
        }
        Delivery::CutShort => {
            let half = body.slice(..body.len() / 2);
            // What was sent gets through before the end does.
            let end = stream::once(async {
                sleep(DRIP).await;
                Err(std::io::ErrorKind::ConnectionAborted.into())
            });
            let half = stream::once(async { Ok(Frame::data(half)) });
            StreamBody::new(futures_util::StreamExt::chain(half, end)).boxed()
        }
        Delivery::Filled(size) | Delivery::Overflowing(size) => {
            let first = std::iter::once(Ok(Frame::data(body)));
            StreamBody::new(stream::iter(first.chain(zeros(size)))).boxed()
        }
    }
}

fn chunks(
    body: Bytes,
    size: usize,
) -> impl Iterator<Item = Result<Frame<Bytes>, std::io::Error>> + Send + Sync {
    let size = size.max(1);
    (0..body.len().div_ceil(size)).map(move |index| {
        let end = body.len().min((index + 1) * size);
        Ok(Frame::data(body.slice(index * size..end)))
    })
}

impl Arrival {
    /// Completes when the client has closed the connection without waiting for the answer.
    pub async fn given_up(&mut self) {
        self.reply.closed().await;
    }

    /// Whether it asks for a WebSocket.
    #[must_use]
    pub fn is_handshake(&self) -> bool {
        self.upgrade.is_some()
            && field(&self.headers, header::UPGRADE).eq_ignore_ascii_case("websocket")
    }

    /// Answers it.
    pub fn respond(self, status: u16, headers: &[(&str, &str)], body: Bytes) {
        self.respond_as(status, headers, body, Delivery::Whole);
    }

    /// Answers it with a body that is sent in this way.
    pub fn respond_as(
        self,
        status: u16,
        headers: &[(&str, &str)],
        body: Bytes,
        delivery: Delivery,
    ) {
        let headers: Vec<_> =
            headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let response = delivered(&self.log, self.connection, status, &headers, body, delivery);
        // A client that went away meanwhile gets nothing.
        let _ = self.reply.send(response);
    }

    /// Accepts it as a WebSocket, with permessage-deflate where `deflate` is set and the client
    /// offers it. `None` when it is no handshake or the client went away.
    pub async fn upgrade(self, deflate: bool) -> Option<WebSocket> {
        let upgrade = self.upgrade?;
        let key = field(&self.headers, header::SEC_WEBSOCKET_KEY);
        let offered = field(&self.headers, header::SEC_WEBSOCKET_EXTENSIONS);
        let deflate = deflate && offered.contains("permessage-deflate");
        let mut headers = vec![
            ("connection".to_owned(), "Upgrade".to_owned()),
            ("upgrade".to_owned(), "websocket".to_owned()),
            ("sec-websocket-accept".to_owned(), accept_key(&key)),
        ];
        if deflate {
            let agreed =
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
            headers.push(("sec-websocket-extensions".to_owned(), agreed.to_owned()));
        }
        let response = recorded(&self.log, self.connection, 101, &headers, Bytes::new());
        self.handed_on.store(true, Ordering::SeqCst);
        self.reply.send(response).ok()?;
        let stream = Box::new(TokioIo::new(upgrade.await.ok()?));
        Some(WebSocket::new(stream, Role::Server, deflate, self.log, self.connection))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Side;

    #[tokio::test(start_paused = true)]
    async fn an_exchange_that_the_client_gives_up_is_told_from_one_it_waits_for() {
        let network = Network::in_memory();
        let log = Log::new(Side::Client);
        let mut endpoint = Endpoint::open(&network, Transport::Http, None, &log).await.unwrap();
        let Url { host, port, .. } = endpoint.url().clone();
        let mut stream = network.connect(&host, port).await.unwrap();
        stream.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        let mut arrival = endpoint.next(Duration::from_secs(1)).await.unwrap();
        let second = Duration::from_secs(1);
        assert!(tokio::time::timeout(second, arrival.given_up()).await.is_err());
        drop(stream);
        assert!(tokio::time::timeout(second, arrival.given_up()).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_and_its_first_request_are_one_attempt_however_late_it_comes() {
        let network = Network::in_memory();
        let log = Log::new(Side::Client);
        let endpoint = Endpoint::open(&network, Transport::Http, None, &log).await.unwrap();
        endpoint.welcome(Welcome::Answer(401, Vec::new()));
        let Url { host, port, .. } = endpoint.url().clone();
        let mut stream = network.connect(&host, port).await.unwrap();
        for pause in [8, 3] {
            sleep(Duration::from_secs(pause)).await;
            let request = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(request).await.unwrap();
            let mut answer = [0; 12];
            tokio::io::AsyncReadExt::read_exact(&mut stream, &mut answer).await.unwrap();
            assert_eq!(&answer, b"HTTP/1.1 401");
            // The rest of the response.
            let mut rest = [0; 1024];
            let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut rest).await.unwrap();
        }
        let attempts = endpoint.attempts();
        assert_eq!(attempts.len(), 2);
        assert_eq!((attempts[1] - attempts[0]).as_secs(), 3);
    }
}
