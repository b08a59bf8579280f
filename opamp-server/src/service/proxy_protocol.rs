//! The PROXY protocol, versions 1 and 2: a load balancer that passes bytes through says at the
//! start of a connection whom it comes from.
//!
//! ```text
//!   12 bytes ──▶ the signature of version 2 ──▶ 4 bytes ──▶ addresses, and what else there is
//!           └──▶ "PROXY " ──▶ byte by byte to the end of the line
//! ```
//!
//! No byte behind the header is taken: it is TLS or HTTP, and the stream's next reader has to find
//! it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt as _};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// The longest line of version 1, its end included.
const MAX_LINE: usize = 107;

/// The most bytes version 2 may have after its first 16: addresses, and what a balancer adds, such
/// as what it knows of a TLS session.
const MAX_REST: usize = 4096;

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Reads the header. `None` if the connection is the balancer's own, as for a health check, or it
/// does not know whose it is.
///
/// Not cancel safe: a connection on which it was cancelled is of no use any more.
pub(super) async fn read<S>(stream: &mut S) -> io::Result<Option<SocketAddr>>
where
    S: AsyncRead + Unpin,
{
    let mut start = [0; SIGNATURE.len()];
    stream.read_exact(&mut start).await?;
    match start {
        SIGNATURE => binary(stream).await,
        _ if start.starts_with(b"PROXY ") => {
            let mut line = start.to_vec();
            while !line.ends_with(b"\r\n") {
                if line.len() == MAX_LINE {
                    return Err(invalid("the line of the PROXY protocol is too long"));
                }
                line.push(stream.read_u8().await?);
            }
            text(&line)
        }
        _ => Err(invalid("the connection does not begin with the PROXY protocol")),
    }
}

fn text(line: &[u8]) -> io::Result<Option<SocketAddr>> {
    let malformed = || invalid("the line of the PROXY protocol is malformed");
    let line = std::str::from_utf8(line).map_err(|_| malformed())?;
    let mut words = line.trim_end_matches("\r\n").split(' ').skip(1);
    let mut next = || words.next().ok_or_else(malformed);
    let family = next()?;
    if family == "UNKNOWN" {
        return Ok(None);
    }
    let (source, destination, port) = (next()?, next()?, next()?);
    let (source, destination): (IpAddr, IpAddr) = match (source.parse(), destination.parse()) {
        (Ok(source), Ok(destination)) => (source, destination),
        _ => return Err(malformed()),
    };
    let port: u16 = port.parse().map_err(|_| malformed())?;
    let _destination_port: u16 = next()?.parse().map_err(|_| malformed())?;
    let is_of_family = |address: IpAddr| match family {
        "TCP4" => address.is_ipv4(),
        "TCP6" => address.is_ipv6(),
        _ => false,
    };
    if !is_of_family(source) || !is_of_family(destination) || words.next().is_some() {
        return Err(malformed());
    }
    Ok(Some(SocketAddr::new(source, port)))
}

async fn binary<S>(stream: &mut S) -> io::Result<Option<SocketAddr>>
where
    S: AsyncRead + Unpin,
{
    let mut head = [0; 4];
    stream.read_exact(&mut head).await?;
    let [version_and_command, family, len @ ..] = head;
    let len = usize::from(u16::from_be_bytes(len));
    if len > MAX_REST {
        return Err(invalid("the header of the PROXY protocol is too long"));
    }
    let mut rest = vec![0; len];
    stream.read_exact(&mut rest).await?;
    match version_and_command {
        // A connection of the balancer itself.
        0x20 => return Ok(None),
        0x21 => {}
        _ => return Err(invalid("no version or command of the PROXY protocol that is known")),
    }
    let truncated = || invalid("the header of the PROXY protocol is too short");
    match family >> 4 {
        1 => {
            let addresses = rest.first_chunk::<12>().ok_or_else(truncated)?;
            let [a, b, c, d, _, _, _, _, high, low, ..] = *addresses;
            let port = u16::from_be_bytes([high, low]);
            Ok(Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), port)))
        }
        2 => {
            let addresses = rest.first_chunk::<36>().ok_or_else(truncated)?;
            let mut source = [0; 16];
            source.copy_from_slice(&addresses[..16]);
            let port = u16::from_be_bytes([addresses[32], addresses[33]]);
            Ok(Some(SocketAddr::new(IpAddr::V6(Ipv6Addr::from(source)), port)))
        }
        // Not known, or a socket of the balancer's host.
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What is read of the header, and what is left behind it.
    fn parse(mut bytes: &[u8]) -> (io::Result<Option<SocketAddr>>, &[u8]) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let read = runtime.block_on(read(&mut bytes));
        (read, bytes)
    }

    fn addr(text: &str) -> Option<SocketAddr> {
        Some(text.parse().unwrap())
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let len = (rest.len() as u16).to_be_bytes();
        [&SIGNATURE[..], &[command, family], &len, rest].concat()
    }

    #[test]
    fn both_versions_name_the_client_and_nothing_behind_is_taken() {
        let v4 = [&[203, 0, 113, 9, 10, 0, 0, 1, 0x12, 0x67, 1, 187][..], &[3, 0, 1, 0]].concat();
        let mut v6 = [0; 36];
        (v6[0], v6[1], v6[15], v6[33]) = (0x20, 1, 7, 80);
        for (header, expected) in [
            (b"PROXY TCP4 203.0.113.9 10.0.0.1 4711 443\r\n".to_vec(), addr("203.0.113.9:4711")),
            (b"PROXY TCP6 2001:db8::1 fd00::1 1 2\r\n".to_vec(), addr("[2001:db8::1]:1")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), None),
            (v2(0x21, 0x11, &v4), addr("203.0.113.9:4711")),
            (v2(0x21, 0x21, &v6), addr("[2001::7]:80")),
            (v2(0x20, 0x00, &[]), None),
            (v2(0x20, 0x11, &v4), None),
            (v2(0x21, 0x00, &[]), None),
            (v2(0x21, 0x31, &[0; 216]), None),
        ] {
            let sent = [&header[..], b"GET / "].concat();
            let (read, rest) = parse(&sent);
            assert_eq!(read.unwrap(), expected, "{header:?}");
            assert_eq!(rest, b"GET / ", "{header:?}");
        }
    }

    #[test]
    fn anything_else_is_an_error() {
        let long = format!("PROXY UNKNOWN {}", "x".repeat(200));
        for header in [
            b"GET /v1/opamp HTTP/1.1\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.9\r\n    ".to_vec(),
            b"PROXY TCP4 203.0.113.9 10.0.0.1 4711 443 1\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.9 10.0.0.1 65536 443\r\n".to_vec(),
            b"PROXY TCP4 2001:db8::1 fd00::1 1 2\r\n".to_vec(),
            b"PROXY UDP4 203.0.113.9 10.0.0.1 1 2\r\n".to_vec(),
            b"PROXY TCP4 host 10.0.0.1 1 2\r\n".to_vec(),
            long.into_bytes(),
            v2(0x31, 0x11, &[0; 12]),
            v2(0x22, 0x11, &[0; 12]),
            v2(0x21, 0x11, &[0; 11]),
            v2(0x21, 0x21, &[0; 35]),
            v2(0x21, 0x11, &vec![0; MAX_REST + 1]),
            SIGNATURE.to_vec(),
            Vec::new(),
        ] {
            assert!(parse(&header).0.is_err(), "{}", String::from_utf8_lossy(&header));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_read_on(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            kind in 0..3_u8,
        ) {
            let start: &[u8] = match kind {
                0 => &SIGNATURE,
                1 => b"PROXY TCP4 ",
                _ => b"",
            };
            let bytes = [start, &bytes].concat();
            let (_, rest) = parse(&bytes);
            prop_assert!(bytes.ends_with(rest));
        }
    }
}
