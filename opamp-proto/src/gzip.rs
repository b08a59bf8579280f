//! Compression of plain HTTP bodies.
//!
//! A few bytes of gzip can stand for gigabytes, so decompression stops at a limit given by the
//! caller (SIZE-22, SIZE-26).

use std::io::{self, Read as _, Write as _};

use bytes::Bytes;
use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;

/// How much is decompressed at a time.
const CHUNK: usize = 16 * 1024;

/// Decompresses a gzip stream of one or more members to at most `max_output` bytes.
///
/// Memory is taken as output appears, never for more than `max_output` bytes of it.
///
/// ```
/// use opamp_proto::gzip;
///
/// let compressed = gzip::compress(b"a body");
/// assert_eq!(&gzip::decompress(&compressed, 6)?[..], b"a body");
/// assert_eq!(gzip::decompress(&compressed, 5), Err(gzip::GzipError::TooLarge { limit: 5 }));
/// # Ok::<(), gzip::GzipError>(())
/// ```
///
/// # Errors
///
/// [`GzipError::TooLarge`] if there is more output, [`GzipError::Corrupt`] if the stream is
/// damaged, ends early or has other bytes behind it. Of a stream that is both, either may be
/// reported.
pub fn decompress(compressed: &[u8], max_output: usize) -> Result<Bytes, GzipError> {
    let mut decoder = MultiGzDecoder::new(compressed);
    let mut output = Vec::new();
    let mut chunk = [0; CHUNK];
    loop {
        let read = match decoder.read(&mut chunk) {
            Ok(0) => return Ok(output.into()),
            Ok(read) => read,
            Err(error) => return Err(GzipError::Corrupt(error.kind())),
        };
        let room = max_output - output.len();
        if read > room {
            return Err(GzipError::TooLarge { limit: max_output });
        }
        if read > output.capacity() - output.len() {
            // Growing by doubling, but not beyond the limit.
            output.reserve_exact(output.len().max(read).min(room));
        }
        output.extend_from_slice(&chunk[..read]);
    }
}

/// Compresses a body into a gzip stream, rather fast than small.
#[must_use]
pub fn compress(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let compressed = encoder.write_all(body).and_then(|()| encoder.finish());
    // Errors are those of the writer, and a Vec has none.
    compressed.expect("writing to memory does not fail")
}

/// Why a body cannot be decompressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GzipError {
    /// There are more decompressed bytes than allowed; HTTP answers this with status 413 (SIZE-23).
    #[error("the decompressed body has more than {limit} bytes")]
    TooLarge {
        /// The limit that was given.
        limit: usize,
    },
    /// The stream is damaged or incomplete; HTTP answers this with status 400.
    #[error("the body is not a complete gzip stream: {0}")]
    Corrupt(io::ErrorKind),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_limit_passes_and_one_byte_more_does_not() {
        for size in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 100_000] {
            let body = vec![b'x'; size];
            let compressed = compress(&body);
            assert_eq!(decompress(&compressed, size).as_deref(), Ok(&body[..]));
            if let Some(limit) = size.checked_sub(1) {
                assert_eq!(decompress(&compressed, limit), Err(GzipError::TooLarge { limit }));
            }
        }
    }

    #[test]
    fn no_more_memory_is_kept_than_the_limit() {
        let body = vec![b'x'; 100_000];
        let output = decompress(&compress(&body), body.len()).expect("it is within the limit");
        assert_eq!(Vec::from(output).capacity(), body.len());
    }

    #[test]
    fn all_members_of_a_stream_are_read_and_count_together() {
        let stream = [compress(b"one "), compress(b""), compress(b"two")].concat();
        assert_eq!(decompress(&stream, 7).as_deref(), Ok(&b"one two"[..]));
        assert_eq!(decompress(&stream, 6), Err(GzipError::TooLarge { limit: 6 }));
    }

    #[test]
    fn a_stream_cut_off_anywhere_is_corrupt() {
        let stream = compress(b"some body of some length");
        for len in 0..stream.len() {
            let result = decompress(&stream[..len], 1000);
            assert!(matches!(result, Err(GzipError::Corrupt(_))), "{len}: {result:?}");
        }
    }

    #[test]
    fn damage_and_trailing_bytes_are_found() {
        let good = compress(b"some body of some length");
        for tail in [&b"\0"[..], b"\x1f", b"\x1f\x8b", b"garbage"] {
            let result = decompress(&[&good, tail].concat(), 1000);
            assert!(matches!(result, Err(GzipError::Corrupt(_))), "{tail:?}: {result:?}");
        }
        let mut wrong_checksum = good.clone();
        let at = wrong_checksum.len() - 8;
        wrong_checksum[at] ^= 1;
        assert!(matches!(decompress(&wrong_checksum, 1000), Err(GzipError::Corrupt(_))));
        assert!(matches!(decompress(b"not gzip at all", 1000), Err(GzipError::Corrupt(_))));
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        // A thousand members share the output of one, so that making the bomb is cheap.
        let member = compress(&vec![0; 1024 * 1024]);
        let bomb = member.repeat(1000);
        let limit = 100_000;
        assert_eq!(decompress(&bomb, limit), Err(GzipError::TooLarge { limit }));
    }
}
