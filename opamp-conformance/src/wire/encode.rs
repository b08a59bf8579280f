//! Writing protobuf records by hand, for messages no encoder of the schema would make.

/// A varint.
#[must_use]
pub fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 0x7f {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// A field of these bytes: text, bytes or a message.
#[must_use]
pub fn bytes(number: u32, content: &[u8]) -> Vec<u8> {
    let tag = varint(u64::from(number) << 3 | 2);
    [tag, varint(content.len() as u64), content.to_vec()].concat()
}

/// A field of a number.
#[must_use]
pub fn number(number: u32, value: u64) -> Vec<u8> {
    [varint(u64::from(number) << 3), varint(value)].concat()
}

/// A field of 8 bytes of fixed size.
#[must_use]
pub fn fixed64(number: u32, value: u64) -> Vec<u8> {
    [varint(u64::from(number) << 3 | 1), value.to_le_bytes().to_vec()].concat()
}

/// A field of 4 bytes of fixed size.
#[must_use]
pub fn fixed32(number: u32, value: u32) -> Vec<u8> {
    [varint(u64::from(number) << 3 | 5), value.to_le_bytes().to_vec()].concat()
}

/// A message that holds itself this many times, each in field `map` as the value of a map entry
/// with the key `k`.
#[must_use]
pub fn nested(map: u32, levels: usize) -> Vec<u8> {
    let mut message = Vec::new();
    for _ in 0..levels {
        message = bytes(map, &[bytes(1, b"k"), bytes(2, &message)].concat());
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::record::{Value, take};

    #[test]
    fn what_is_written_is_read() {
        let all = [number(1, 300), fixed64(2, 7), bytes(3, b"hi"), fixed32(400, 9)].concat();
        let mut rest = &all[..];
        assert_eq!(take(&mut rest), Ok((1, Value::Varint(300))));
        assert_eq!(take(&mut rest), Ok((2, Value::Fixed64(7))));
        assert_eq!(take(&mut rest), Ok((3, Value::Bytes(b"hi"))));
        assert_eq!(take(&mut rest), Ok((400, Value::Fixed32(9))));
        assert!(rest.is_empty());
        assert_eq!(nested(6, 2), b"\x32\x0c\x0a\x01k\x12\x07\x32\x05\x0a\x01k\x12\x00");
    }
}
