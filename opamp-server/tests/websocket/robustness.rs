//! Any bytes in any pieces: no panic, the same events as in one piece, and no more memory than is
//! due.

use opamp_server::websocket::Decoder;
use proptest::prelude::*;

use crate::frames::{Frame, decode, encoded};

/// Frames of which most are good enough that something follows them.
pub(crate) fn frames(max_payload: usize) -> impl Strategy<Value = Vec<Frame>> {
    let first = prop_oneof![
        12 => prop::sample::select(vec![0x82, 0x02, 0x00, 0x80, 0x00, 0x80, 0x89, 0x8a]),
        2 => prop::sample::select(vec![0x81, 0x01]),
        1 => Just(0x88),
        1 => any::<u8>(),
    ];
    let mask = prop_oneof![30 => any::<[u8; 4]>().prop_map(Some), 1 => Just(None)];
    let payload = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..20),
        2 => prop::collection::vec(any::<u8>(), 100..200),
        1 => (any::<u8>(), 0..max_payload).prop_map(|(byte, len)| vec![byte; len]),
        2 => "[aé€𝄞]{0,10}".prop_map(String::into_bytes),
        1 => (1000_u16..1020, "[a-zé]{0,9}")
            .prop_map(|(code, reason)| [&code.to_be_bytes(), reason.as_bytes()].concat()),
    ];
    let length = prop_oneof![40 => Just(None), 1 => Just(Some(8))];
    let frame = (first, mask, payload, length).prop_map(|(first, mask, payload, length_bytes)| {
        Frame { first, mask, payload, length_bytes }
    });
    prop::collection::vec(frame, 0..12)
}

/// Bytes of frames, some of them changed.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let changed =
        (frames(70_000), prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4))
            .prop_map(|(frames, changes)| {
                let mut bytes = encoded(&frames);
                for (index, byte) in changes {
                    if !bytes.is_empty() {
                        let index = index.index(bytes.len());
                        bytes[index] = byte;
                    }
                }
                bytes
            });
    prop_oneof![3 => changed, 1 => prop::collection::vec(any::<u8>(), 0..200)]
}

proptest! {
    #[test]
    fn pieces_make_no_difference(
        bytes in bytes(),
        pieces in prop::collection::vec(1..5000_usize, 1..8),
        small in prop::collection::vec(1..20_usize, 1..8),
        text: bool,
    ) {
        let decoder = || match text {
            true => Decoder::new(50_000).with_text(),
            false => Decoder::new(50_000),
        };
        let whole = decode(&mut decoder(), &bytes, &[]);
        prop_assert_eq!(&decode(&mut decoder(), &bytes, &pieces), &whole);
        prop_assert_eq!(&decode(&mut decoder(), &bytes, &small), &whole);
    }

    #[test]
    fn memory_is_bounded_by_what_arrived(
        bytes in bytes(),
        limit in 0..100_000_usize,
        piece in 1..5000_usize,
    ) {
        let mut decoder = Decoder::new(limit);
        let mut arrived = 0;
        for piece in bytes.chunks(piece) {
            arrived += piece.len();
            if decode(&mut decoder, piece, &[]).1.is_some() {
                prop_assert_eq!(decoder.held(), 0);
                break;
            }
            let due = (2 * arrived.min(limit)).max(16 * 1024) + 1024;
            prop_assert!(decoder.held() <= due, "{} of {arrived}", decoder.held());
        }
    }
}
