//! A proxy that does what a test says: HTTP, with or without TLS, and SOCKS version 5.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::http::{Parts, read_request};
use super::{Io, soon};

pub(crate) struct Gateway {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
}

/// What a client asked a proxy for, and the connection it did it on.
pub(crate) struct Passage {
    /// Host and port.
    pub(crate) target: String,
    pub(crate) headers: http::HeaderMap,
    /// User and password for SOCKS.
    pub(crate) login: Option<(String, String)>,
    granted: &'static [u8],
    io: Box<dyn Io>,
}

impl Gateway {
    pub(crate) async fn start() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap(), tls: None }
    }

    pub(crate) async fn start_tls(tls: TlsAcceptor) -> Self {
        Self { tls: Some(tls), ..Self::start().await }
    }

    pub(crate) fn url(&self, scheme: &str) -> String {
        self.url_of(scheme, "")
    }

    /// With the part that ends in `@`.
    pub(crate) fn url_of(&self, scheme: &str, user: &str) -> String {
        format!("{scheme}://{user}127.0.0.1:{}", self.listener.local_addr().unwrap().port())
    }

    pub(crate) async fn accept(&self) -> Box<dyn Io> {
        let tcp = soon(self.listener.accept()).await.unwrap().0;
        match &self.tls {
            None => Box::new(tcp),
            Some(tls) => Box::new(soon(tls.accept(tcp)).await.unwrap()),
        }
    }

    /// The next `CONNECT` request.
    pub(crate) async fn connect(&self) -> Passage {
        let mut io = self.accept().await;
        let Parts { method, path_and_query, headers, .. } = soon(read_request(&mut *io)).await;
        assert_eq!(method, "CONNECT");
        let granted = b"HTTP/1.1 200 Connection established\r\n\r\n";
        Passage { target: path_and_query, headers, login: None, granted, io }
    }

    /// The next SOCKS request; whoever comes has to log in if `login` says so.
    pub(crate) async fn socks(&self, login: bool) -> Passage {
        let mut io = self.accept().await;
        let [version, methods] = read(&mut io).await;
        assert_eq!(version, 5);
        let mut offered = vec![0; usize::from(methods)];
        soon(io.read_exact(&mut offered)).await.unwrap();
        let method = if login { 2 } else { 0 };
        assert!(offered.contains(&method), "{offered:?}");
        io.write_all(&[5, method]).await.unwrap();
        let login = match login {
            false => None,
            true => {
                assert_eq!(read(&mut io).await, [1]);
                let name = text(&mut io).await;
                let password = text(&mut io).await;
                io.write_all(&[1, u8::from(password != "right")]).await.unwrap();
                Some((name, password))
            }
        };
        if login.as_ref().is_some_and(|(_, password)| password != "right") {
            let target = String::new();
            return Passage { target, headers: Default::default(), login, granted: b"", io };
        }
        let [5, 1, 0, kind] = read(&mut io).await else { panic!("no request to connect") };
        let host = match kind {
            1 => std::net::Ipv4Addr::from(read::<4>(&mut io).await).to_string(),
            3 => text(&mut io).await,
            4 => format!("[{}]", std::net::Ipv6Addr::from(read::<16>(&mut io).await)),
            _ => panic!("an unknown kind of address: {kind}"),
        };
        let target = format!("{host}:{}", u16::from_be_bytes(read(&mut io).await));
        let granted = &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        Passage { target, headers: Default::default(), login, granted, io }
    }
}

impl Passage {
    /// Lets the client through, to this port here whatever it asked for.
    pub(crate) async fn grant(mut self, port: u16) {
        let mut server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        self.io.write_all(self.granted).await.unwrap();
        tokio::spawn(async move { copy_bidirectional(&mut self.io, &mut server).await });
    }

    /// Answers with bytes of the test's own.
    pub(crate) async fn answer(mut self, bytes: &[u8]) {
        soon(self.io.write_all(bytes)).await.unwrap();
        soon(self.io.flush()).await.unwrap();
        let mut rest = [0; 256];
        while soon(self.io.read(&mut rest)).await.is_ok_and(|read| read > 0) {}
    }
}

async fn read<const N: usize>(io: &mut Box<dyn Io>) -> [u8; N] {
    let mut bytes = [0; N];
    soon(io.read_exact(&mut bytes)).await.unwrap();
    bytes
}

async fn text(io: &mut Box<dyn Io>) -> String {
    let [length] = read(io).await;
    let mut bytes = vec![0; usize::from(length)];
    soon(io.read_exact(&mut bytes)).await.unwrap();
    String::from_utf8(bytes).unwrap()
}
