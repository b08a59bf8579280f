//! Opening a tunnel through a proxy: `CONNECT` of HTTP/1.1, and SOCKS version 5 (RFC 1928, 1929).

use std::io;
use std::net::IpAddr;

use http::header::HeaderMap;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::proxy::{Route, Scheme};
use crate::core::{Failure, FailureKind};

/// The longest answer to `CONNECT`.
const MAX_HEAD: usize = 16 * 1024;

/// Asks the proxy at the other end of `io` for a way to a server.
pub(super) async fn open(
    io: &mut (impl AsyncRead + AsyncWrite + Unpin),
    route: &Route,
    host: &str,
    port: u16,
) -> Result<(), Failure> {
    let opened = match route.scheme {
        Scheme::Http | Scheme::Https => connect(io, &route.headers, host, port).await,
        Scheme::Socks5 | Scheme::Socks5h => socks(io, route, host, port).await,
    };
    opened.map_err(|refusal| {
        let (kind, why) = match refusal {
            Refusal::Credentials(why) => (FailureKind::Unauthorized, why),
            Refusal::Other(why) => (FailureKind::Unreachable, why),
            Refusal::Broken(error) => {
                let Failure { kind, message } = super::dial::broken(&error);
                (kind, message)
            }
        };
        Failure {
            kind,
            message: format!("no way to {host}:{port} through the proxy {route}: {why}"),
        }
    })
}

enum Refusal {
    /// The proxy wants to know who asks, or does not like the answer.
    Credentials(String),
    Other(String),
    Broken(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

fn other(why: impl Into<String>) -> Refusal {
    Refusal::Other(why.into())
}

async fn connect(
    io: &mut (impl AsyncRead + AsyncWrite + Unpin),
    headers: &HeaderMap,
    host: &str,
    port: u16,
) -> Result<(), Refusal> {
    let authority =
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let mut request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n").into_bytes();
    for (name, value) in headers {
        request.extend_from_slice(name.as_str().as_bytes());
        request.extend_from_slice(b": ");
        request.extend_from_slice(value.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    io.write_all(&request).await?;
    io.flush().await?;

    let mut head = Vec::new();
    let end = loop {
        if let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if head.len() > MAX_HEAD {
            return Err(other("its answer is endless"));
        }
        if io.read_buf(&mut head).await? == 0 {
            return Err(other("it closed the connection without an answer"));
        }
    };
    let status = std::str::from_utf8(&head[..end]).ok().and_then(|head| {
        let (version, rest) = head.split_once(' ')?;
        let status = rest.get(..3)?.parse::<u16>().ok()?;
        version.starts_with("HTTP/1.").then_some(status)
    });
    match status {
        // In both TLS and WebSocket the client speaks first.
        Some(200..=299) if head.len() > end => Err(other("it says more than it should")),
        Some(200..=299) => Ok(()),
        Some(status @ (401 | 407)) => {
            Err(Refusal::Credentials(format!("it refuses the credentials (status {status})")))
        }
        Some(status) => Err(other(format!("it answers with status {status}"))),
        None => Err(other("it does not speak HTTP/1.1")),
    }
}

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const PASSWORD: u8 = 2;
const NONE_ACCEPTABLE: u8 = 0xff;

async fn socks(
    io: &mut (impl AsyncRead + AsyncWrite + Unpin),
    route: &Route,
    host: &str,
    port: u16,
) -> Result<(), Refusal> {
    let methods: &[u8] = match route.user {
        Some(_) => &[VERSION, 2, NO_AUTHENTICATION, PASSWORD],
        None => &[VERSION, 1, NO_AUTHENTICATION],
    };
    io.write_all(methods).await?;
    io.flush().await?;
    let [version, method] = read(io).await?;
    if version != VERSION {
        return Err(other("it does not speak SOCKS version 5"));
    }
    match (method, &route.user) {
        (NO_AUTHENTICATION, _) => {}
        (PASSWORD, Some((name, password))) => log_in(io, name, password).await?,
        (NONE_ACCEPTABLE, Some(_)) => {
            return Err(Refusal::Credentials("it takes no user and password".to_owned()));
        }
        (NONE_ACCEPTABLE, None) => {
            return Err(Refusal::Credentials("it wants to know who asks".to_owned()));
        }
        _ => return Err(other("it chooses an authentication that was not offered")),
    }

    let mut request = vec![VERSION, 1, 0];
    let address = match host.parse::<IpAddr>() {
        Ok(address) => Some(address),
        Err(_) if route.scheme == Scheme::Socks5 => {
            let found = tokio::net::lookup_host((host, port)).await?.next();
            Some(found.ok_or_else(|| other("the server's name has no address"))?.ip())
        }
        Err(_) => None,
    };
    match address {
        Some(IpAddr::V4(address)) => {
            request.push(1);
            request.extend(address.octets());
        }
        Some(IpAddr::V6(address)) => {
            request.push(4);
            request.extend(address.octets());
        }
        None => {
            let length = u8::try_from(host.len());
            request.extend([3, length.map_err(|_| other("the server's name is too long"))?]);
            request.extend_from_slice(host.as_bytes());
        }
    }
    request.extend(port.to_be_bytes());
    io.write_all(&request).await?;
    io.flush().await?;

    let [version, reply, _, kind] = read(io).await?;
    if version != VERSION {
        return Err(other("its answer is not of SOCKS version 5"));
    }
    if reply != 0 {
        return Err(other(match reply {
            1 => "it failed",
            2 => "its rules forbid it",
            3 => "it cannot reach the network",
            4 => "it cannot reach the host",
            5 => "the server refuses the connection",
            6 => "the time to live expired",
            7 => "it does not know the command",
            8 => "it does not know this kind of address",
            _ => "it refuses for a reason of its own",
        }));
    }
    // Where the proxy connects from is of no interest, but has to be out of the way.
    match kind {
        1 => drop(read::<6>(io).await?),
        4 => drop(read::<18>(io).await?),
        3 => {
            let [length] = read(io).await?;
            let mut rest = vec![0; usize::from(length) + 2];
            io.read_exact(&mut rest).await?;
        }
        _ => return Err(other("its answer has an unknown kind of address")),
    }
    Ok(())
}

/// A user and a password of at most 255 bytes each, as [`Route`] has them.
async fn log_in(
    io: &mut (impl AsyncRead + AsyncWrite + Unpin),
    name: &str,
    password: &str,
) -> Result<(), Refusal> {
    let mut request = vec![1];
    for text in [name, password] {
        let length = u8::try_from(text.len());
        request.push(length.map_err(|_| other("the user or password is too long"))?);
        request.extend_from_slice(text.as_bytes());
    }
    io.write_all(&request).await?;
    io.flush().await?;
    match read(io).await? {
        [_, 0] => Ok(()),
        _ => Err(Refusal::Credentials("it refuses the user or password".to_owned())),
    }
}

async fn read<const N: usize>(io: &mut (impl AsyncRead + Unpin)) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    io.read_exact(&mut bytes).await?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::driver::Proxy;

    /// What a proxy may answer: bytes that are nearly right, and any others.
    fn answers() -> impl Strategy<Value = Vec<u8>> {
        let right = prop_oneof![
            Just(b"HTTP/1.1 200 OK\r\n\r\n".to_vec()),
            Just(vec![5, 0, 5, 0, 0, 1, 127, 0, 0, 1, 0, 80]),
            Just(vec![5, 2, 1, 0, 5, 0, 0, 3, 2, b'a', b'b', 0, 80]),
            Just(vec![5, 0, 5, 0, 0, 4]),
            any::<Vec<u8>>(),
        ];
        (right, any::<prop::sample::Index>(), any::<u8>()).prop_map(|(mut bytes, at, byte)| {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes
        })
    }

    proptest! {
        #[test]
        fn whatever_a_proxy_answers_the_attempt_ends(
            answer in answers(),
            url in prop_oneof!["http://u:p@h", "https://h", "socks5h://h", "socks5h://u:p@h"],
        ) {
            let route = Proxy::url(&url).unwrap().fixed().unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let (mut here, mut there) = tokio::io::duplex(1 << 16);
                there.write_all(&answer).await.unwrap();
                there.shutdown().await.unwrap();
                if let Err(failure) = open(&mut here, &route, "host", 4320).await {
                    assert!(failure.message.contains("through the proxy"), "{failure:?}");
                }
            });
        }
    }
}
