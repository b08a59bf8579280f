//! The headers of frames (RFC 6455, section 5.2).
//!
//! ```text
//!   FIN RSV1-3 opcode | MASK length | 0, 2 or 8 bytes of length | 0 or 4 bytes of mask
//! ```

use super::Violation;

/// The most bytes the header of a masked frame can have.
pub(super) const MAX_HEADER: usize = 14;

/// The most bytes of payload a control frame can have.
pub(super) const MAX_CONTROL: usize = 125;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;
const TWO_BYTES: u8 = 126;
const EIGHT_BYTES: u8 = 127;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    const fn parse(code: u8) -> Result<Self, Violation> {
        Ok(match code {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xa => Self::Pong,
            _ => return Err(Violation::ReservedOpcode(code)),
        })
    }

    const fn code(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xa,
        }
    }

    pub(super) const fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// The header of a client's frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) last: bool,
    pub(super) opcode: Opcode,
    pub(super) len: u64,
    pub(super) mask: [u8; 4],
}

impl Header {
    /// The header at the start of these bytes, and its length. `None` if it is not complete; what
    /// is wrong with it is said as soon as it is seen.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, Violation> {
        let Some((&first, rest)) = bytes.split_first() else { return Ok(None) };
        if first & RESERVED != 0 {
            return Err(Violation::ReservedBits);
        }
        let last = first & FIN != 0;
        let opcode = Opcode::parse(first & 0x0f)?;
        if opcode.is_control() && !last {
            return Err(Violation::FragmentedControl);
        }

        let Some((&second, rest)) = rest.split_first() else { return Ok(None) };
        if second & MASKED == 0 {
            return Err(Violation::Unmasked);
        }
        let short = second & !MASKED;
        if opcode.is_control() && usize::from(short) > MAX_CONTROL {
            return Err(Violation::LongControl);
        }
        let (len, rest) = match short {
            TWO_BYTES => {
                let Some((len, rest)) = rest.split_first_chunk() else { return Ok(None) };
                let len = u16::from_be_bytes(*len);
                if len < u16::from(TWO_BYTES) {
                    return Err(Violation::Length);
                }
                (u64::from(len), rest)
            }
            EIGHT_BYTES => {
                let Some((len, rest)) = rest.split_first_chunk() else { return Ok(None) };
                let len = u64::from_be_bytes(*len);
                if len <= u64::from(u16::MAX) || len > i64::MAX.cast_unsigned() {
                    return Err(Violation::Length);
                }
                (len, rest)
            }
            len => (u64::from(len), rest),
        };
        let Some((&mask, rest)) = rest.split_first_chunk() else { return Ok(None) };
        Ok(Some((Self { last, opcode, len, mask }, bytes.len() - rest.len())))
    }
}

/// Appends the header of a server's frame, which is neither fragmented nor masked.
pub(super) fn encode(opcode: Opcode, len: usize, out: &mut Vec<u8>) {
    let (short, long) = match u16::try_from(len) {
        // The length is at most 125, which is a byte.
        Ok(len) if usize::from(len) <= MAX_CONTROL => (len as u8, None),
        Ok(len) => {
            out.extend_from_slice(&[FIN | opcode.code(), TWO_BYTES]);
            out.extend_from_slice(&len.to_be_bytes());
            return;
        }
        Err(_) => (EIGHT_BYTES, Some((len as u64).to_be_bytes())),
    };
    out.extend_from_slice(&[FIN | opcode.code(), short]);
    out.extend_from_slice(long.as_ref().map_or(&[], |len| &len[..]));
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: [u8; 4] = [1, 2, 3, 4];

    fn frame(first: u8, length: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first, MASKED | length[0]];
        bytes.extend_from_slice(&length[1..]);
        bytes.extend(MASK);
        bytes
    }

    fn length_of(length: &[u8]) -> Result<u64, Violation> {
        let bytes = frame(0x82, length);
        for end in 0..bytes.len() {
            if let Some(parsed) = Header::parse(&bytes[..end]).transpose() {
                return Err(parsed.expect_err("the header is not complete"));
            }
        }
        let (header, len) = Header::parse(&bytes)?.expect("the header is complete");
        assert_eq!((len, header.mask, header.opcode), (bytes.len(), MASK, Opcode::Binary));
        Ok(header.len)
    }

    #[test]
    fn a_length_has_one_form() {
        assert_eq!(length_of(&[0]), Ok(0));
        assert_eq!(length_of(&[125]), Ok(125));
        assert_eq!(length_of(&[126, 0, 125]), Err(Violation::Length));
        assert_eq!(length_of(&[126, 0, 126]), Ok(126));
        assert_eq!(length_of(&[126, 0xff, 0xff]), Ok(0xffff));
        assert_eq!(length_of(&[127, 0, 0, 0, 0, 0, 0, 0xff, 0xff]), Err(Violation::Length));
        assert_eq!(length_of(&[127, 0, 0, 0, 0, 0, 1, 0, 0]), Ok(0x10000));
        let largest = [127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(length_of(&largest), Ok(u64::MAX >> 1));
        assert_eq!(length_of(&[127, 0x80, 0, 0, 0, 0, 0, 0, 0]), Err(Violation::Length));
    }

    #[test]
    fn a_first_byte_is_judged_before_the_second_is_there() {
        for first in 0..=0xff_u8 {
            let verdict = match (first & RESERVED, first & 0x0f, first & FIN) {
                (1.., _, _) => Err(Violation::ReservedBits),
                (_, 0..=2, _) => Ok(None),
                (_, 8..=10, 0) => Err(Violation::FragmentedControl),
                (_, 8..=10, _) => Ok(None),
                (_, code, _) => Err(Violation::ReservedOpcode(code)),
            };
            assert_eq!(Header::parse(&[first]), verdict, "{first:#x}");
        }
    }

    #[test]
    fn a_second_byte_is_judged_before_the_length_is_there() {
        assert_eq!(Header::parse(&[0x82, 126]), Err(Violation::Unmasked));
        assert_eq!(Header::parse(&[0x89, MASKED | 126]), Err(Violation::LongControl));
        assert_eq!(Header::parse(&[0x89, MASKED | 125]), Ok(None));
    }

    #[test]
    fn a_server_writes_the_shortest_form_and_no_mask() {
        let encoded = |len| {
            let mut out = Vec::new();
            encode(Opcode::Binary, len, &mut out);
            out
        };
        assert_eq!(encoded(0), [0x82, 0]);
        assert_eq!(encoded(125), [0x82, 125]);
        assert_eq!(encoded(126), [0x82, 126, 0, 126]);
        assert_eq!(encoded(0xffff), [0x82, 126, 0xff, 0xff]);
        assert_eq!(encoded(0x10000), [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    }
}
