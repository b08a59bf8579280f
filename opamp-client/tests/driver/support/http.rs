//! An HTTP/1.1 server that reads one request per connection and answers what a test says.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use opamp_proto::{Message as _, v1};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::{Io, reply_to, soon};

pub(crate) struct Server {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap(), tls: None }
    }

    pub(crate) async fn start_tls(tls: TlsAcceptor) -> Self {
        Self { tls: Some(tls), ..Self::start().await }
    }

    pub(crate) fn on(listener: TcpListener) -> Self {
        Self { listener, tls: None }
    }

    pub(crate) fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }

    /// The next TCP connection, on which nothing has happened yet.
    pub(crate) async fn accept_tcp(&self) -> TcpStream {
        soon(self.listener.accept()).await.unwrap().0
    }

    /// The next request, whole.
    pub(crate) async fn request(&self) -> Request {
        let tcp = self.accept_tcp().await;
        let io: Box<dyn Io> = match &self.tls {
            None => Box::new(tcp),
            Some(tls) => Box::new(soon(tls.accept(tcp)).await.unwrap()),
        };
        soon(Request::read(io)).await
    }

    /// The next request, answered with a bare acknowledgement.
    pub(crate) async fn welcome(&self) -> v1::AgentToServer {
        let request = self.request().await;
        let report = request.report();
        request.reply(&reply_to(&report)).await;
        report
    }
}

/// A request, and the connection to answer it on.
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path_and_query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    io: Box<dyn Io>,
}

/// What a request says, read from a connection that may bring more.
pub(crate) struct Parts {
    pub(crate) method: String,
    pub(crate) path_and_query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Reads one request, and not a byte of what follows it.
pub(crate) async fn read_request(io: &mut (impl Io + ?Sized)) -> Parts {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(io.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let mut start = lines.next().unwrap().split(' ');
    let method = start.next().unwrap().to_owned();
    let path_and_query = start.next().unwrap().to_owned();
    let mut headers = HeaderMap::new();
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ").unwrap();
        let name: HeaderName = name.parse().unwrap();
        headers.append(name, HeaderValue::from_str(value).unwrap());
    }
    let length = headers
        .get(http::header::CONTENT_LENGTH)
        .map_or(0, |value| value.to_str().unwrap().parse().unwrap());
    let mut body = vec![0; length];
    io.read_exact(&mut body).await.unwrap();
    Parts { method, path_and_query, headers, body: body.into() }
}

impl Request {
    pub(crate) async fn read(mut io: Box<dyn Io>) -> Self {
        let Parts { method, path_and_query, headers, body } = read_request(&mut *io).await;
        Self { method, path_and_query, headers, body, io }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn report(&self) -> v1::AgentToServer {
        v1::AgentToServer::decode(self.body.clone()).unwrap()
    }

    pub(crate) async fn reply(self, message: &v1::ServerToAgent) {
        self.answer(200, &[], &message.encode_to_vec()).await;
    }

    pub(crate) async fn answer(mut self, status: u16, headers: &[(&str, &str)], body: &[u8]) {
        let head = head(status, headers, body.len());
        self.write(head.as_bytes()).await;
        self.write(body).await;
    }

    /// Writes bytes of the test's own. What the client does not take any more is lost.
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        let _ = soon(self.io.write_all(bytes)).await;
        let _ = soon(self.io.flush()).await;
    }

    /// Waits until the client drops the connection.
    pub(crate) async fn dropped(mut self) {
        let mut rest = [0; 256];
        while soon(self.io.read(&mut rest)).await.is_ok_and(|read| read > 0) {}
    }
}

/// The head of a response on a connection that ends with it.
pub(crate) fn head(status: u16, headers: &[(&str, &str)], length: usize) -> String {
    let mut head = format!("HTTP/1.1 {status} Scripted\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("Content-Length: {length}\r\nConnection: close\r\n\r\n"));
    head
}
