//! A connection that never blocks, with or without TLS.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use mio::net::TcpStream;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore};
use socket2::{Domain, Protocol, Socket, Type};

use super::options::Options;

/// How to speak TLS with a Server.
#[derive(Debug, Clone)]
pub(crate) struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Tls {
    /// None for a Server without TLS.
    pub(crate) fn new(options: &Options) -> Result<Option<Self>, String> {
        if !options.server.tls {
            return Ok(None);
        }
        let unusable = |error| format!("TLS: {error}");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(unusable)?;
        let builder = if options.insecure {
            let anyone = Arc::new(Anyone(provider));
            builder.dangerous().with_custom_certificate_verifier(anyone)
        } else {
            builder.with_root_certificates(roots(options.ca.as_deref())?)
        };
        let mut config = match (&options.cert, &options.key) {
            (Some(cert), Some(key)) => {
                let chain = certificates(cert)?;
                let key = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| format!("{}: {error}", key.display()))?;
                builder.with_client_auth_cert(chain, key).map_err(unusable)?
            }
            _ => builder.with_no_client_auth(),
        };
        if !options.resume {
            config.resumption = Resumption::disabled();
        }
        let name = ServerName::try_from(options.server.host.clone())
            .map_err(|error| format!("{:?}: {error}", options.server.host))?;
        Ok(Some(Self { config: Arc::new(config), name }))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let unusable = |error| format!("{}: {error}", path.display());
    let certificates = CertificateDer::pem_file_iter(path).map_err(unusable)?;
    certificates.collect::<Result<_, _>>().map_err(unusable)
}

fn roots(file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    match file {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| format!("{}: {error}", path.display()))?;
            }
        }
        None => {
            // Some of the system's certificates may be of a kind nobody can use.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    match roots.is_empty() {
        true => Err("there is no certificate to trust".to_owned()),
        false => Ok(roots),
    }
}

/// Believes anyone to be the Server.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) socket: TcpStream,
    tls: Option<Box<ClientConnection>>,
}

impl Link {
    /// Begins to connect.
    pub(crate) fn begin(
        addr: SocketAddr,
        source: Option<IpAddr>,
        tls: Option<&Tls>,
    ) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if let Some(source) = source {
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        match socket.connect(&addr.into()) {
            Ok(()) => {}
            Err(error) if is_under_way(&error) => {}
            Err(error) => return Err(error),
        }
        let tls = match tls {
            None => None,
            Some(tls) => {
                let session = ClientConnection::new(Arc::clone(&tls.config), tls.name.clone());
                let mut session = session.map_err(io::Error::other)?;
                // What waits is bounded by what an Agent may have unanswered.
                session.set_buffer_limit(None);
                Some(Box::new(session))
            }
        };
        Ok(Self { socket: TcpStream::from_std(socket.into()), tls })
    }

    /// Whether the connection is there; fails when it could not be made.
    pub(crate) fn is_connected(&self) -> io::Result<bool> {
        if let Some(error) = self.socket.take_error()? {
            return Err(error);
        }
        match self.socket.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Goes on with the TLS handshake; says whether it is over.
    pub(crate) fn secure(&mut self) -> io::Result<bool> {
        let Some(tls) = &mut self.tls else { return Ok(true) };
        loop {
            flush(tls, &mut self.socket)?;
            if !tls.is_handshaking() {
                return Ok(true);
            }
            match tls.read_tls(&mut self.socket) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            tls.process_new_packets().map_err(io::Error::other)?;
        }
    }

    /// Reads what is there; 0 is the end, `WouldBlock` nothing yet.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.socket.read(buffer) };
        loop {
            match tls.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
            let read = tls.read_tls(&mut self.socket)?;
            tls.process_new_packets().map_err(io::Error::other)?;
            if tls.wants_write() {
                flush(tls, &mut self.socket)?;
            }
            if read == 0 {
                return Ok(0);
            }
        }
    }

    /// Whether so little was read that nothing is left.
    pub(crate) fn is_drained(&self, read: usize, asked: usize) -> bool {
        self.tls.is_none() && read < asked
    }

    /// Writes; with TLS everything is taken, and sent by [`flush`](Self::flush) if not now.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.socket.write(bytes) };
        let written = tls.writer().write(bytes)?;
        flush(tls, &mut self.socket)?;
        Ok(written)
    }

    /// Sends what TLS still holds.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.tls.as_mut().map_or(Ok(()), |tls| flush(tls, &mut self.socket))
    }
}

fn flush(tls: &mut ClientConnection, socket: &mut TcpStream) -> io::Result<()> {
    while tls.wants_write() {
        match tls.write_tls(socket) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A connection is begun without waiting for it; Unix has a code of its own for that.
fn is_under_way(error: &io::Error) -> bool {
    const EINPROGRESS: i32 = if cfg!(target_os = "linux") { 115 } else { 36 };
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(EINPROGRESS)
}
