//! What is around a message: the header of WebSocket messages, compression, content hashes. With
//! it come bodies that are wrong on purpose: padded headers and compression bombs.

use std::io::{Read as _, Write as _};

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use flate2::write::{DeflateEncoder, GzEncoder};
use flate2::{Compression, Crc, Decompress, FlushDecompress, Status};
use sha2::{Digest as _, Sha256};

use super::record;

/// What a flush ends with; permessage-deflate leaves it out.
const FLUSH_END: [u8; 4] = [0, 0, 0xff, 0xff];

/// Why something could not be decompressed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is larger than the limit given, in bytes.
    #[error("more than {0} bytes when decompressed")]
    TooLarge(usize),
    /// It is not of its format, or cut short.
    #[error("cannot be decompressed: {0}")]
    Damaged(String),
}

/// A message with the header of WebSocket messages before it.
#[must_use]
pub fn frame(body: &[u8]) -> Bytes {
    frame_with_header(&[0], body)
}

/// A message with any header before it.
#[must_use]
pub fn frame_with_header(header: &[u8], body: &[u8]) -> Bytes {
    [header, body].concat().into()
}

/// Zero as a varint of `n` bytes. One of more than 10 bytes is malformed.
#[must_use]
pub fn padded_zero(n: usize) -> Vec<u8> {
    let mut varint = vec![0x80; n];
    if let Some(last) = varint.last_mut() {
        *last = 0;
    }
    varint
}

/// Takes the header off a WebSocket message: its value, how many bytes it has, and the message.
///
/// # Errors
///
/// Says why it does not start with a varint.
pub fn unframe(message: &[u8]) -> Result<(u64, usize, &[u8]), String> {
    match record::varint(message) {
        _ if message.is_empty() => Err("there is no header".to_owned()),
        Ok((header, length)) => Ok((header, length, &message[length..])),
        Err(problem) => Err(format!("the header is {problem}")),
    }
}

/// These bytes as gzip.
#[must_use]
pub fn gzip(bytes: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("a Vec takes everything").into()
}

/// What these bytes of gzip hold, of at most `limit` bytes.
///
/// # Errors
///
/// When it is larger, not gzip, or not whole.
pub fn gunzip(bytes: &[u8], limit: usize) -> Result<Bytes, Error> {
    if bytes.is_empty() {
        // The decoder takes it for a sequence of no members.
        return Err(Error::Damaged("there is nothing".to_owned()));
    }
    let mut out = Vec::new();
    MultiGzDecoder::new(bytes)
        .take((limit as u64).saturating_add(1))
        .read_to_end(&mut out)
        .map_err(|error| Error::Damaged(error.to_string()))?;
    if out.len() > limit { Err(Error::TooLarge(limit)) } else { Ok(out.into()) }
}

/// The data of a permessage-deflate message, made without the context of earlier ones.
#[must_use]
pub fn deflate(bytes: &[u8]) -> Bytes {
    let mut blocks = flushed(bytes);
    blocks.truncate(blocks.len() - FLUSH_END.len());
    blocks.into()
}

/// What the data of a permessage-deflate message holds, of at most `limit` bytes, read without the
/// context of earlier ones. Data that is cut short is not always told from whole data.
///
/// # Errors
///
/// When it is larger or not deflate.
pub fn inflate(bytes: &[u8], limit: usize) -> Result<Bytes, Error> {
    let damaged = |why: &str| Error::Damaged(why.to_owned());
    let input = [bytes, &FLUSH_END].concat();
    let mut rest = &input[..];
    let mut decoder = Decompress::new(false);
    let mut out = Vec::new();
    loop {
        // One byte more than may be, to see that there is more.
        let room = limit.saturating_add(1) - out.len();
        out.reserve(room.min(32 << 10));
        let (before_in, before_out) = (decoder.total_in(), out.len());
        let status = decoder
            .decompress_vec(rest, &mut out, FlushDecompress::Sync)
            .map_err(|error| Error::Damaged(error.to_string()))?;
        let taken = usize::try_from(decoder.total_in() - before_in).unwrap_or(rest.len());
        rest = &rest[taken..];
        if out.len() > limit {
            return Err(Error::TooLarge(limit));
        }
        match status {
            Status::StreamEnd if rest.is_empty() => return Ok(out.into()),
            // A final block within a message: what follows is a stream of its own.
            Status::StreamEnd => decoder.reset(false),
            _ if rest.is_empty() && out.len() < out.capacity() => return Ok(out.into()),
            _ if taken == 0 && out.len() == before_out => return Err(damaged("it does not go on")),
            _ => {}
        }
    }
}

/// A gzip member of `size` zeros. It is about a thousandth of that, and so is what making it takes.
#[must_use]
pub fn bomb(size: usize) -> Bytes {
    bomb_after(b"", size)
}

/// A gzip member of these bytes and `size` zeros after them.
#[must_use]
pub fn bomb_after(start: &[u8], size: usize) -> Bytes {
    let (zeros, zeros_crc) = zeros(size);
    let mut crc = Crc::new();
    crc.update(start);
    crc.combine(&zeros_crc);
    let (blocks, crc) = ([flushed(start), zeros].concat(), crc.sum());
    let size = start.len() + size;
    // No name, no time, unknown system; at the end an empty final block, checksum and size.
    let mut gzip = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    gzip.extend(blocks);
    gzip.extend([3, 0]);
    gzip.extend(crc.to_le_bytes());
    gzip.extend((size as u32).to_le_bytes());
    gzip.into()
}

/// The data of a permessage-deflate message of `size` zeros, made like [`bomb`].
#[must_use]
pub fn deflate_bomb(size: usize) -> Bytes {
    deflate_bomb_after(b"", size)
}

/// The data of a permessage-deflate message of these bytes and `size` zeros after them.
#[must_use]
pub fn deflate_bomb_after(start: &[u8], size: usize) -> Bytes {
    let (zeros, _) = zeros(size);
    let mut blocks = [flushed(start), zeros].concat();
    blocks.truncate(blocks.len() - FLUSH_END.len());
    blocks.into()
}

/// The start of a field that no schema has, for which zeros follow until a message of `taken` bytes
/// has `total`; and how many zeros. Receivers pass over it.
#[must_use]
pub fn filler(taken: usize, total: usize) -> (Bytes, usize) {
    // Field 9999 with a length.
    let mut head = vec![0xfa, 0xf0, 0x04];
    let room = total.saturating_sub(taken + head.len());
    let zeros = (1..=5).map(|length| room.saturating_sub(length)).find(|zeros| {
        let bits = (usize::BITS - zeros.leading_zeros()).max(1);
        zeros + bits.div_ceil(7) as usize <= room
    });
    let zeros = zeros.unwrap_or_default();
    let mut rest = zeros;
    while head.len() + 1 + zeros + taken < total || rest > 0x7f {
        head.push(0x80 | (rest & 0x7f) as u8);
        rest >>= 7;
    }
    head.push(rest as u8);
    (head.into(), zeros)
}

/// The SHA-256 of these bytes.
#[must_use]
pub fn sha256(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(&Sha256::digest(bytes))
}

/// Blocks of deflate without a final one, up to a whole byte by a flush.
fn flushed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).and_then(|()| encoder.flush()).expect("a Vec takes everything");
    std::mem::take(encoder.get_mut())
}

/// Blocks of deflate for `size` zeros, and their checksum. Flushed blocks stand alone, so those for
/// the first mebibyte do for all.
fn zeros(size: usize) -> (Vec<u8>, Crc) {
    const PIECE: usize = 1 << 20;
    let piece = vec![0; PIECE.min(size)];
    let last = &piece[..size % PIECE];
    let mut crc = Crc::new();
    let mut blocks = Vec::new();
    if size >= PIECE {
        let mut piece_crc = Crc::new();
        piece_crc.update(&piece);
        let piece_blocks = flushed(&piece);
        for _ in 0..size / PIECE {
            blocks.extend_from_slice(&piece_blocks);
            crc.combine(&piece_crc);
        }
    }
    let mut last_crc = Crc::new();
    last_crc.update(last);
    crc.combine(&last_crc);
    blocks.extend(flushed(last));
    (blocks, crc)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_of_any_length_comes_off() {
        assert_eq!(&frame(b"hi")[..], b"\0hi");
        assert_eq!(unframe(b"\0hi"), Ok((0, 1, &b"hi"[..])));
        assert_eq!(unframe(b"\0"), Ok((0, 1, &b""[..])));
        assert_eq!(unframe(b"\x0a\x10hi"), Ok((10, 1, &b"\x10hi"[..])), "no header");
        assert!(padded_zero(0).is_empty());
        assert_eq!(padded_zero(3), [0x80, 0x80, 0]);
        for n in 1..=10 {
            let framed = frame_with_header(&padded_zero(n), b"hi");
            assert_eq!(unframe(&framed), Ok((0, n, &b"hi"[..])));
        }
        let long = frame_with_header(&padded_zero(11), b"hi");
        assert_eq!(unframe(&long), Err("the header is a varint of more than 10 bytes".to_owned()));
        assert_eq!(unframe(b""), Err("there is no header".to_owned()));
        assert_eq!(unframe(b"\x80"), Err("the header is a varint without end".to_owned()));
    }

    #[test]
    fn gzip_is_read_whole_and_within_the_limit() {
        // Made by hand: a stored block that is the final one.
        let hi = b"\x1f\x8b\x08\0\0\0\0\0\0\xff\x01\x02\0\xfd\xffhi\xac\x2a\x93\xd8\x02\0\0\0";
        assert_eq!(gunzip(hi, 2), Ok(Bytes::from_static(b"hi")));
        assert_eq!(gunzip(hi, 1), Err(Error::TooLarge(1)));
        assert_eq!(gunzip(&[&hi[..], hi].concat(), 4), Ok(Bytes::from_static(b"hihi")));
        for length in 0..hi.len() {
            assert!(matches!(gunzip(&hi[..length], 2), Err(Error::Damaged(_))), "{length} bytes");
        }
        assert!(matches!(gunzip(b"plain", 9), Err(Error::Damaged(_))));
        let bytes = b"some bytes".repeat(1_000);
        assert!(gzip(&bytes).len() < 200);
        assert_eq!(gunzip(&gzip(&bytes), bytes.len()).unwrap(), bytes);
        assert_eq!(gunzip(&gzip(b""), 0).unwrap(), b""[..]);
    }

    #[test]
    fn permessage_deflate_is_that_of_its_rfc() {
        // The examples of RFC 7692, section 7.2.3; the third is a stored block, the fourth has a
        // final block, the fifth two blocks.
        for data in [
            &b"\xf2\x48\xcd\xc9\xc9\x07\x00"[..],
            b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00",
            b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00",
            b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00",
        ] {
            assert_eq!(inflate(data, 5), Ok(Bytes::from_static(b"Hello")), "{data:02x?}");
            assert_eq!(inflate(data, 4), Err(Error::TooLarge(4)));
        }
        assert_eq!(&deflate(b"Hello")[..], b"\xf2\x48\xcd\xc9\xc9\x07\x00");
        assert_eq!(inflate(b"\0", 0).unwrap(), b""[..]);
        assert_eq!(inflate(&deflate(b""), 0).unwrap(), b""[..]);
        assert!(matches!(inflate(b"\xff\xff", 9), Err(Error::Damaged(_))));
        let bytes = b"some bytes".repeat(100_000);
        assert_eq!(inflate(&deflate(&bytes), bytes.len()).unwrap(), bytes);
    }

    #[test]
    fn a_bomb_is_small_and_whole() {
        for size in [0, 1, 1 << 20, (3 << 20) + 12_345] {
            assert_eq!(gunzip(&bomb(size), size).unwrap(), vec![0; size]);
            assert_eq!(inflate(&deflate_bomb(size), size).unwrap(), vec![0; size]);
            let whole = [b"hi".to_vec(), vec![0; size]].concat();
            assert_eq!(gunzip(&bomb_after(b"hi", size), size + 2).unwrap(), whole);
            assert_eq!(inflate(&deflate_bomb_after(b"hi", size), size + 2).unwrap(), whole);
        }
        let large = bomb(256 << 20);
        assert!(large.len() < 300 << 10, "{} bytes", large.len());
        assert_eq!(gunzip(&large, 1 << 20), Err(Error::TooLarge(1 << 20)));
        let large = deflate_bomb(256 << 20);
        assert_eq!(inflate(&large, 1 << 20), Err(Error::TooLarge(1 << 20)));
    }

    #[test]
    fn a_filler_fills_a_message_to_the_byte() {
        for total in [10, 100, 131, 132, 133, 134, 135, 1 << 14, 1 << 20, (64 << 20) + 1] {
            let (head, zeros) = filler(5, total);
            assert_eq!(5 + head.len() + zeros, total);
            let filled = [&head[..], &vec![0; zeros]].concat();
            let mut rest = &filled[..];
            let (number, _) = record::take(&mut rest).unwrap();
            assert_eq!((number, rest.len()), (9999, 0), "{total} bytes");
        }
    }

    #[test]
    fn a_content_hash_is_sha_256() {
        let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(super::super::hex(&sha256(b"abc")), known);
    }
}
