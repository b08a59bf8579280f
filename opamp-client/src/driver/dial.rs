//! The byte stream to a server: TCP, a tunnel through the proxy, TLS.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
#[cfg(feature = "tls")]
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::connector::TlsConfig;
use super::endpoint::Endpoint;
use super::proxy::Route;
use super::tunnel;
use crate::core::{Failure, FailureKind};

/// How long an address may take before the next one is tried beside it (RFC 8305).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Opens the way to a server, through a proxy if there is one. Where either has TLS, it needs its
/// configuration. Takes as long as the network lets it: bounding it is the caller's.
pub(super) async fn dial(
    endpoint: &Endpoint,
    tls: Option<&TlsConfig>,
    route: Option<(&Route, Option<&TlsConfig>)>,
) -> Result<Box<dyn Io>, Failure> {
    let Endpoint { host, port, .. } = endpoint;
    let mut io: Box<dyn Io> =
        match route {
            None => Box::new(tcp(host, *port).await.map_err(|error| {
                unreachable(format!("cannot connect to {host}:{port}: {error}"))
            })?),
            Some((route, proxy_tls)) => {
                let tcp = tcp(&route.host, route.port).await.map_err(|error| {
                    unreachable(format!("cannot connect to the proxy {route}: {error}"))
                })?;
                let mut io: Box<dyn Io> = Box::new(tcp);
                if route.is_secure() {
                    io = secure(io, &route.host, proxy_tls, "the proxy").await?;
                }
                tunnel::open(&mut io, route, host, *port).await?;
                io
            }
        };
    if endpoint.secure {
        io = secure(io, host, tls, "the server").await?;
    }
    Ok(io)
}

fn unreachable(message: String) -> Failure {
    Failure { kind: FailureKind::Unreachable, message }
}

async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let addresses = alternating(tokio::net::lookup_host((host, port)).await?);
    let tcp = first_of(addresses, TcpStream::connect).await?;
    // Messages are small and wanted now. A socket that refuses the option works all the same.
    let _ = tcp.set_nodelay(true);
    Ok(tcp)
}

/// Connects to the first address that answers. One that swallows everything must not use up the
/// time for the others.
async fn first_of<T, Attempt: Future<Output = io::Result<T>>>(
    mut addresses: VecDeque<SocketAddr>,
    connect: impl Fn(SocketAddr) -> Attempt,
) -> io::Result<T> {
    let mut attempts = FuturesUnordered::new();
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    loop {
        match addresses.pop_front() {
            Some(address) => attempts.push(connect(address)),
            None if attempts.is_empty() => return Err(failed),
            None => {}
        }
        let patience = async {
            match addresses.is_empty() {
                false => tokio::time::sleep(ATTEMPT_DELAY).await,
                true => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(attempt) = attempts.next() => match attempt {
                Ok(connected) => return Ok(connected),
                Err(error) => failed = error,
            },
            () = patience => {}
        }
    }
}

/// The families take turns, beginning with the one the resolver prefers.
fn alternating(addresses: impl Iterator<Item = SocketAddr>) -> VecDeque<SocketAddr> {
    let mut preferred = addresses.peekable();
    let first_is_v6 = preferred.peek().is_some_and(SocketAddr::is_ipv6);
    let (mut one, mut other): (VecDeque<_>, VecDeque<_>) =
        preferred.partition(|address| address.is_ipv6() == first_is_v6);
    let mut turns = VecDeque::with_capacity(one.len() + other.len());
    while !one.is_empty() || !other.is_empty() {
        turns.extend(one.pop_front());
        turns.extend(other.pop_front());
    }
    turns
}

#[cfg(feature = "tls")]
async fn secure(
    io: Box<dyn Io>,
    host: &str,
    tls: Option<&TlsConfig>,
    whose: &str,
) -> Result<Box<dyn Io>, Failure> {
    let failure = |kind, message| Failure { kind, message };
    let Some(config) = tls else {
        let message = format!("there is no TLS configuration for {whose}");
        return Err(failure(FailureKind::Configuration, message));
    };
    let name = rustls::pki_types::ServerName::try_from(host.to_owned()).map_err(|error| {
        failure(FailureKind::Tls, format!("the host of {whose} is no name for TLS: {error}"))
    })?;
    let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
    match connector.connect(name, io).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) => {
            let Failure { kind, message } = broken(&error);
            Err(failure(kind, format!("no TLS connection to {whose}: {message}")))
        }
    }
}

#[cfg(not(feature = "tls"))]
async fn secure(
    _: Box<dyn Io>,
    _: &str,
    _: Option<&TlsConfig>,
    whose: &str,
) -> Result<Box<dyn Io>, Failure> {
    let message = format!("{whose} wants TLS: this needs the feature \"tls\" of opamp-client");
    Err(Failure { kind: FailureKind::Configuration, message })
}

/// What it means that a connection broke before it was established. A server that refuses the
/// client's certificate says so only after the client's end of the TLS handshake is complete.
pub(super) fn broken(error: &io::Error) -> Failure {
    #[cfg(feature = "tls")]
    if let Some(message) = crate::tls::explain(error) {
        return Failure { kind: FailureKind::Tls, message };
    }
    unreachable(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_families_take_turns() {
        let read = |list: &[&str]| {
            alternating(list.iter().map(|address| address.parse().unwrap()))
                .into_iter()
                .map(|address: SocketAddr| address.to_string())
                .collect::<Vec<_>>()
        };
        let mixed = ["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1"];
        assert_eq!(read(&mixed), ["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"]);
        assert_eq!(read(&["1.1.1.1:1", "[::1]:1"]), ["1.1.1.1:1", "[::1]:1"]);
        assert!(read(&[]).is_empty());
    }

    /// What becomes of each address, by its port, and after how long one of them is connected with.
    async fn race(ports: &[(u16, Option<bool>)]) -> (Result<u16, io::ErrorKind>, Duration) {
        let addresses = ports.iter().map(|(port, _)| ([127, 0, 0, 1], *port).into()).collect();
        let connect = |address: SocketAddr| {
            let answer = ports.iter().find(|(port, _)| *port == address.port());
            let answer = answer.and_then(|(_, answer)| *answer);
            async move {
                match answer {
                    Some(true) => Ok(address.port()),
                    Some(false) => Err(io::ErrorKind::ConnectionRefused.into()),
                    None => std::future::pending().await,
                }
            }
        };
        let started = tokio::time::Instant::now();
        let outcome = first_of(addresses, connect).await.map_err(|error| error.kind());
        (outcome, started.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_swallows_everything_delays_the_others_a_little() {
        let (refused, now) = (Err(io::ErrorKind::ConnectionRefused), Duration::ZERO);
        assert_eq!(race(&[(1, Some(true)), (2, Some(true))]).await, (Ok(1), now));
        assert_eq!(race(&[(1, Some(false)), (2, Some(true))]).await, (Ok(2), now));
        assert_eq!(race(&[(1, Some(false)), (2, Some(false))]).await, (refused, now));
        assert_eq!(race(&[]).await, (Err(io::ErrorKind::NotFound), now));
        let (outcome, after) = race(&[(1, None), (2, None), (3, Some(true))]).await;
        assert_eq!((outcome, after.as_millis() / 10), (Ok(3), 50));
    }
}
