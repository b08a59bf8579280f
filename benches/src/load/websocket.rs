//! The client's side of RFC 6455, as far as a load generator needs it: the opening handshake, masked
//! frames out, frames in where they lie.

use http::HeaderMap;

use super::target::Target;

/// Opcodes of frames.
pub(crate) mod opcode {
    pub(crate) const CONTINUATION: u8 = 0;
    pub(crate) const BINARY: u8 = 2;
    pub(crate) const CLOSE: u8 = 8;
    pub(crate) const PING: u8 = 9;
    pub(crate) const PONG: u8 = 10;
}

/// The key of every handshake. It is there to tell caches apart, and there are none.
const KEY: &str = "b3BhbXAtbG9hZC0wMDAwMA==";
const ACCEPT: &str = "Ks/ybOY0CSbINEPzTy/sXZTYh2E=";

/// The opening handshake.
pub(crate) fn request(target: &Target, headers: &HeaderMap) -> Vec<u8> {
    let mut request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n",
        target.path, target.authority
    )
    .into_bytes();
    super::http::write_headers(headers, &mut request);
    request.extend_from_slice(b"\r\n");
    request
}

/// Whether the Server has answered the handshake as it has to.
pub(crate) fn is_accepted(headers: &[httparse::Header<'_>]) -> bool {
    headers.iter().any(|header| {
        header.name.eq_ignore_ascii_case("sec-websocket-accept")
            && header.value == ACCEPT.as_bytes()
    })
}

/// Appends the beginning of a frame with a payload of this length, which has to follow and then to
/// be masked by [`mask`] with the same key.
pub(crate) fn write_header(opcode: u8, len: usize, key: [u8; 4], out: &mut Vec<u8>) {
    out.push(0x80 | opcode);
    match len {
        0..126 => out.push(0x80 | len as u8),
        126..0x10000 => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&key);
}

/// Masks a whole payload.
pub(crate) fn mask(payload: &mut [u8], key: [u8; 4]) {
    let wide = u64::from_ne_bytes([key, key].concat().try_into().expect("twice four bytes"));
    let (chunks, rest) = payload.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key) {
        *byte ^= key;
    }
    if let Some(tail) = rest.get_mut(4..) {
        for (byte, key) in tail.iter_mut().zip(key) {
            *byte ^= key;
        }
    }
}

/// Appends a whole frame.
pub(crate) fn write_frame(opcode: u8, payload: &[u8], key: [u8; 4], out: &mut Vec<u8>) {
    write_header(opcode, payload.len(), key, out);
    let start = out.len();
    out.extend_from_slice(payload);
    mask(&mut out[start..], key);
}

/// A frame that has arrived as a whole.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) fin: bool,
    pub(crate) opcode: u8,
    pub(crate) payload: &'a [u8],
    /// What it takes with its header.
    pub(crate) len: usize,
}

/// What a Server must not send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Violation;

/// The frame at the beginning of what has arrived, once it is there as a whole.
pub(crate) fn frame(data: &[u8], max: usize) -> Result<Option<Frame<'_>>, Violation> {
    let [first, second, after @ ..] = data else { return Ok(None) };
    // Reserved bits, and a mask, which only clients set.
    if first & 0x70 != 0 || second & 0x80 != 0 {
        return Err(Violation);
    }
    let (extended, len) = match (second & 0x7f, after) {
        (126, [a, b, ..]) => (2, u64::from(u16::from_be_bytes([*a, *b]))),
        (127, [a, b, c, d, e, f, g, h, ..]) => {
            (8, u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]))
        }
        (126 | 127, _) => return Ok(None),
        (len, _) => (0, u64::from(len)),
    };
    let len = usize::try_from(len).ok().filter(|len| *len <= max).ok_or(Violation)?;
    let payload = after[extended..].get(..len);
    Ok(payload.map(|payload| Frame {
        fin: first & 0x80 != 0,
        opcode: first & 0x0f,
        payload,
        len: 2 + extended + len,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accepted_key_is_the_one_of_the_key() {
        use base64::Engine as _;
        use sha1::Digest as _;

        let digest =
            sha1::Sha1::digest(format!("{KEY}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes());
        assert_eq!(base64::engine::general_purpose::STANDARD.encode(digest), ACCEPT);
    }

    #[test]
    fn masking_is_byte_by_byte() {
        for len in 0..40 {
            let key = [1, 20, 33, 4];
            let payload: Vec<u8> = (0..len).collect();
            let mut out = Vec::new();
            write_frame(opcode::BINARY, &payload, key, &mut out);
            let expected = payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key);
            assert_eq!(out[..6], [0x82, 0x80 | len, 1, 20, 33, 4]);
            assert_eq!(out[6..], expected.collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_frame_is_there_when_all_of_it_is() {
        for len in [0, 1, 125, 126, 65535, 65536] {
            let mut bytes = Vec::new();
            write_header(opcode::BINARY, len, [0; 4], &mut bytes);
            bytes.truncate(bytes.len() - 4);
            bytes[1] &= 0x7f;
            let header = bytes.len();
            bytes.resize(header + len, 7);
            for cut in [0, 1, header - 1, (header + len).saturating_sub(1)] {
                assert_eq!(frame(&bytes[..cut], 1 << 20), Ok(None));
            }
            bytes.push(0x88);
            let found = frame(&bytes, 1 << 20).unwrap().unwrap();
            assert_eq!((found.fin, found.opcode), (true, opcode::BINARY));
            assert_eq!((found.payload.len(), found.len), (len, header + len));
        }
    }

    #[test]
    fn what_a_server_must_not_send_is_refused() {
        assert_eq!(frame(&[0xc2, 0], 100), Err(Violation));
        assert_eq!(frame(&[0x82, 0x80], 100), Err(Violation));
        assert_eq!(frame(&[0x82, 101], 100), Err(Violation));
        assert_eq!(frame(&[0x82, 127, 255, 0, 0, 0, 0, 0, 0, 0], 100), Err(Violation));
    }
}
