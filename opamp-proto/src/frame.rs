//! The framing of OpAMP messages in WebSocket messages.
//!
//! One binary WebSocket message carries one OpAMP message behind a header, a base-128 varint that
//! has to be 0 (WS-02, WS-06). There is no length field: the rest of the WebSocket message is the
//! Protobuf message (WS-09), which may be empty (WS-10). Plain HTTP bodies carry no header.
//!
//! ```text
//! 0x00                    | Protobuf message ...    as it is sent
//! 0x80 ... 0x80 0x00      | Protobuf message ...    zero in up to 10 bytes, accepted too
//! ```

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message;

/// The header as it is sent: zero in one byte (WS-06).
pub const HEADER: u8 = 0;

/// The most bytes a varint of 64 bits can have.
const MAX_HEADER_LEN: usize = 10;

/// The number of bytes [`encode`] makes of a message, header included.
///
/// This is what the size limits for WebSocket messages count (SIZE-01).
#[must_use]
pub fn encoded_len(message: &impl Message) -> usize {
    message.encoded_len().saturating_add(1)
}

/// Encodes a message as the content of a binary WebSocket message.
///
/// ```
/// use opamp_proto::{Message as _, frame, v1::ServerToAgent};
///
/// let message = ServerToAgent { capabilities: 1, ..Default::default() };
/// let encoded = frame::encode(&message);
/// assert_eq!(encoded[0], frame::HEADER);
///
/// let frame = frame::decode(encoded, frame::HeaderPolicy::Required)?;
/// assert_eq!(ServerToAgent::decode(frame.body)?, message);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub fn encode(message: &impl Message) -> Bytes {
    let mut buffer = BytesMut::with_capacity(encoded_len(message));
    encode_into(message, &mut buffer);
    buffer.freeze()
}

/// Appends what [`encode`] makes of a message to a buffer, which grows as needed.
pub fn encode_into(message: &impl Message, buffer: &mut BytesMut) {
    buffer.reserve(encoded_len(message));
    buffer.put_u8(HEADER);
    // The only error is a buffer without enough room, and there is room.
    message.encode(buffer).expect("the buffer has room for the message");
}

/// What to make of a WebSocket message without a header.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HeaderPolicy {
    /// It is malformed (WS-07, WS-08). This is the default.
    #[default]
    Required,
    /// It is taken as a bare Protobuf message, as some implementations send. There is no ambiguity:
    /// a Protobuf message never begins with a zero.
    Optional,
}

/// The content of a received WebSocket message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Frame<B = Bytes> {
    /// The Protobuf message, a slice of what was received. It may be empty.
    pub body: B,
    /// Whether the header was missing, which only [`HeaderPolicy::Optional`] lets pass.
    pub headerless: bool,
}

/// Takes the header off the content of a binary WebSocket message, without copying it.
///
/// A zero header of several bytes is accepted (WS-05); see [`HeaderPolicy`] for none.
///
/// # Errors
///
/// If the header is not zero, or is no varint of at most 10 bytes and 64 bits. The message is then
/// to be handled as malformed (WS-08).
pub fn decode(content: Bytes, policy: HeaderPolicy) -> Result<Frame, FrameError> {
    let Frame { body, headerless } = decode_slice(&content, policy)?;
    let header_len = content.len() - body.len();
    Ok(Frame { body: content.slice(header_len..), headerless })
}

/// As [`decode`], for content that is borrowed.
///
/// ```
/// use opamp_proto::frame::{self, HeaderPolicy};
///
/// let frame = frame::decode_slice(&[0, 0x20, 1], HeaderPolicy::Required)?;
/// assert_eq!(frame.body, [0x20, 1]);
/// # Ok::<(), frame::FrameError>(())
/// ```
///
/// # Errors
///
/// As those of [`decode`].
pub fn decode_slice(content: &[u8], policy: HeaderPolicy) -> Result<Frame<&[u8]>, FrameError> {
    match read_header(content)? {
        (0, len) => Ok(Frame { body: &content[len..], headerless: false }),
        _ if policy == HeaderPolicy::Optional => Ok(Frame { body: content, headerless: true }),
        (header, _) => Err(FrameError::NonZeroHeader(header)),
    }
}

/// Reads a varint; gives its value and its length in bytes.
fn read_header(content: &[u8]) -> Result<(u64, usize), FrameError> {
    if content.is_empty() {
        return Err(FrameError::Empty);
    }
    let mut value = 0;
    for (index, &byte) in content.iter().take(MAX_HEADER_LEN).enumerate() {
        // The tenth byte holds the 64th bit alone, and nothing can follow it.
        if index == MAX_HEADER_LEN - 1 && byte > 1 {
            return Err(FrameError::HeaderTooLong);
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok((value, index + 1));
        }
    }
    Err(FrameError::UnterminatedHeader)
}

/// Why the content of a WebSocket message is malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// There is nothing, not even a header.
    #[error("the WebSocket message is empty")]
    Empty,
    /// The header is this number instead of zero.
    #[error("the header is {0} instead of zero")]
    NonZeroHeader(u64),
    /// The WebSocket message ends within the header.
    #[error("the WebSocket message ends within its header")]
    UnterminatedHeader,
    /// The header has more than 10 bytes or more than 64 bits.
    #[error("the header is longer than a 64-bit varint")]
    HeaderTooLong,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn required(content: &[u8]) -> Result<Frame, FrameError> {
        decode(Bytes::copy_from_slice(content), HeaderPolicy::Required)
    }

    fn padded_zero(len: usize) -> Vec<u8> {
        let mut header = vec![0x80; len - 1];
        header.push(0);
        header
    }

    #[test]
    fn a_zero_header_of_any_length_is_taken_off() {
        let _judged = opamp_spec::judges(&["WS-02", "WS-05", "WS-09"]);
        for len in 1..=MAX_HEADER_LEN {
            let mut content = padded_zero(len);
            content.extend(b"\x20\x01");
            for policy in [HeaderPolicy::Required, HeaderPolicy::Optional] {
                let frame = decode(content.clone().into(), policy);
                let body = Bytes::from_static(b"\x20\x01");
                assert_eq!(frame, Ok(Frame { body, headerless: false }), "{len} bytes");
            }
        }
    }

    #[test]
    fn an_empty_body_is_legal() {
        let _judged = opamp_spec::judges(&["WS-10"]);
        let frame = required(&[HEADER]);
        assert_eq!(frame, Ok(Frame { body: Bytes::new(), headerless: false }));
    }

    #[test]
    fn any_other_header_is_malformed() {
        let _judged = opamp_spec::judges(&["WS-07", "WS-08"]);
        assert_eq!(required(&[0x01, 0x20, 0x01]), Err(FrameError::NonZeroHeader(1)));
        assert_eq!(required(&[0x80, 0x01]), Err(FrameError::NonZeroHeader(128)));
        let mut largest = [0xff; 10];
        largest[9] = 1;
        assert_eq!(required(&largest), Err(FrameError::NonZeroHeader(u64::MAX)));
    }

    #[test]
    fn a_header_that_is_no_varint_is_malformed() {
        let _judged = opamp_spec::judges(&["WS-05"]);
        assert_eq!(required(&[]), Err(FrameError::Empty));
        assert_eq!(required(&[0x80]), Err(FrameError::UnterminatedHeader));
        assert_eq!(required(&[0x80; 9]), Err(FrameError::UnterminatedHeader));
        assert_eq!(required(&[0x80; 10]), Err(FrameError::HeaderTooLong));
        assert_eq!(required(&padded_zero(11)), Err(FrameError::HeaderTooLong));
        let mut overflow = [0x80; 10];
        overflow[9] = 2;
        assert_eq!(required(&overflow), Err(FrameError::HeaderTooLong));
    }

    #[test]
    fn a_missing_header_passes_if_it_is_optional() {
        let bare = Bytes::from_static(b"\x20\x01");
        assert_eq!(required(&bare), Err(FrameError::NonZeroHeader(32)));
        let frame = decode(bare.clone(), HeaderPolicy::Optional);
        assert_eq!(frame, Ok(Frame { body: bare, headerless: true }));
        assert_eq!(decode(Bytes::new(), HeaderPolicy::Optional), Err(FrameError::Empty));
    }

    #[test]
    fn the_body_is_not_copied() {
        let content = Bytes::from(vec![0, 1, 2, 3]);
        let body_at = content[1..].as_ptr();
        let frame = decode(content, HeaderPolicy::Required).expect("a zero header");
        assert_eq!(frame.body.as_ptr(), body_at);
    }

    #[test]
    fn encoding_appends_one_zero_byte_and_the_message() {
        let _judged = opamp_spec::judges(&["WS-02", "WS-06", "SIZE-01"]);
        let message = crate::v1::ServerToAgent { capabilities: 7, ..Default::default() };
        let mut buffer = BytesMut::from(&b"before"[..]);
        encode_into(&message, &mut buffer);
        assert_eq!(&buffer[..], b"before\x00\x38\x07");
        assert_eq!(&encode(&message)[..], b"\x00\x38\x07");
        assert_eq!(encoded_len(&message), 3);
    }
}
