//! Masking (RFC 6455, section 5.3): an exclusive or with four bytes, over and over.

/// Takes the mask off a piece of a payload, in place. `offset`: how much of the payload came
/// before.
pub(super) fn remove(piece: &mut [u8], mask: [u8; 4], offset: usize) {
    let mut key = mask;
    key.rotate_left(offset % 4);
    // Eight bytes at a time, in a form the compiler turns into wider registers.
    let [a, b, c, d] = key;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = piece.as_chunks_mut();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_what_the_definition_says_at_any_offset(
            bytes: Vec<u8>, mask: [u8; 4], split: prop::sample::Index,
        ) {
            let expected: Vec<u8> =
                bytes.iter().enumerate().map(|(index, byte)| byte ^ mask[index % 4]).collect();
            let mut unmasked = bytes;
            let at = split.index(unmasked.len() + 1);
            let (before, after) = unmasked.split_at_mut(at);
            remove(before, mask, 0);
            remove(after, mask, at);
            prop_assert_eq!(unmasked, expected);
        }
    }
}
