//! Protobuf's encoding below any schema: varints, and the numbered records a message is made of.

/// The longest a varint of 64 bits can be.
const MAX_VARINT: usize = 10;

/// The content of a record, by its wire type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 1.
    Fixed64(u64),
    /// Wire type 2.
    Bytes(&'a [u8]),
    /// Wire type 5.
    Fixed32(u32),
}

impl Value<'_> {
    /// The name of its wire type.
    pub(super) fn wire_type(&self) -> &'static str {
        match self {
            Self::Varint(_) => "a varint",
            Self::Fixed64(_) => "8 bytes of fixed size",
            Self::Bytes(_) => "bytes with a length",
            Self::Fixed32(_) => "4 bytes of fixed size",
        }
    }
}

/// Reads the varint at the start: its value and how many bytes it takes. Padding is legal.
pub(super) fn varint(bytes: &[u8]) -> Result<(u64, usize), &'static str> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(MAX_VARINT).enumerate() {
        if index == MAX_VARINT - 1 && *byte > 1 {
            let long = byte & 0x80 != 0;
            return Err(if long {
                "a varint of more than 10 bytes"
            } else {
                "a varint past 64 bits"
            });
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok((value, index + 1));
        }
    }
    Err("a varint without end")
}

/// Takes the first record off `bytes`, which are left alone when that fails.
pub(super) fn take<'a>(bytes: &mut &'a [u8]) -> Result<(u32, Value<'a>), &'static str> {
    let (tag, length) = varint(bytes)?;
    let tag = u32::try_from(tag).map_err(|_| "a field number past 29 bits")?;
    let rest = &bytes[length..];
    let number = tag >> 3;
    if number == 0 {
        return Err("field number 0");
    }
    let (value, rest) = match tag & 7 {
        0 => {
            let (value, length) = varint(rest)?;
            (Value::Varint(value), &rest[length..])
        }
        1 => {
            let (value, rest) = rest.split_first_chunk().ok_or("truncated in a fixed64")?;
            (Value::Fixed64(u64::from_le_bytes(*value)), rest)
        }
        2 => {
            let (length, taken) = varint(rest)?;
            let rest = &rest[taken..];
            let (value, rest) = usize::try_from(length)
                .ok()
                .and_then(|length| rest.split_at_checked(length))
                .ok_or("truncated: a length past the end")?;
            (Value::Bytes(value), rest)
        }
        3 | 4 => return Err("a group"),
        5 => {
            let (value, rest) = rest.split_first_chunk().ok_or("truncated in a fixed32")?;
            (Value::Fixed32(u32::from_le_bytes(*value)), rest)
        }
        _ => return Err("a wire type that does not exist"),
    };
    *bytes = rest;
    Ok((number, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_varint_has_one_to_ten_bytes() {
        assert_eq!(varint(&[0]), Ok((0, 1)));
        assert_eq!(varint(&[0xac, 0x02, 0xff]), Ok((300, 2)));
        assert_eq!(varint(&[0x80, 0x80, 0x00]), Ok((0, 3)), "padded");
        let mut most = [0xff; 10];
        most[9] = 1;
        assert_eq!(varint(&most), Ok((u64::MAX, 10)));
        most[9] = 2;
        assert_eq!(varint(&most), Err("a varint past 64 bits"));
        assert_eq!(varint(&[0x80; 11]), Err("a varint of more than 10 bytes"));
        assert_eq!(varint(&[0x80; 9]), Err("a varint without end"));
        assert_eq!(varint(&[]), Err("a varint without end"));
    }

    #[test]
    fn records_come_off_one_by_one_until_one_is_broken() {
        let bytes: &[u8] = b"\x08\x05\x12\x02hi\x19\x01\0\0\0\0\0\0\x80\x25\x02\0\0\0\x2a\x05hi";
        let mut rest = bytes;
        assert_eq!(take(&mut rest), Ok((1, Value::Varint(5))));
        assert_eq!(take(&mut rest), Ok((2, Value::Bytes(b"hi"))));
        assert_eq!(take(&mut rest), Ok((3, Value::Fixed64(1 | 1 << 63))));
        assert_eq!(take(&mut rest), Ok((4, Value::Fixed32(2))));
        assert_eq!(take(&mut rest), Err("truncated: a length past the end"));
        assert_eq!(rest, b"\x2a\x05hi");
        for (bytes, fault) in [
            (&b"\x00\x01"[..], "field number 0"),
            (b"\x0b", "a group"),
            (b"\x0c", "a group"),
            (b"\x0e", "a wire type that does not exist"),
            (b"\x09\0\0", "truncated in a fixed64"),
            (b"\x0d\0\0", "truncated in a fixed32"),
            (b"\x80\x80\x80\x80\x10\0", "a field number past 29 bits"),
            (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "truncated: a length past the end"),
        ] {
            assert_eq!(take(&mut &bytes[..]), Err(fault));
        }
    }
}
