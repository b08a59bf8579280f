//! The codec and tungstenite, each other's judges: what one decodes of random frames, or of random
//! changes to them, the other decodes as well; and what the codec encodes tungstenite understands.

use std::collections::VecDeque;
use std::io::{self, Read, Write};

use bytes::{Buf as _, Bytes};
use opamp_server::websocket::{CloseCode, CloseFrame, Decoder, Outgoing, Violation};
use proptest::prelude::*;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, WebSocket};

use crate::frames::{Seen, decode, encoded};
use crate::robustness::frames;

const LIMIT: usize = 1000;

/// How the bytes end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// In order, as far as they go.
    Good,
    Protocol,
    TooLarge,
    InvalidUtf8,
}

impl From<Option<Violation>> for Verdict {
    fn from(violation: Option<Violation>) -> Self {
        match violation.map(|violation| violation.close_code()) {
            None => Self::Good,
            Some(CloseCode::TOO_LARGE) => Self::TooLarge,
            Some(CloseCode::INVALID_DATA) => Self::InvalidUtf8,
            Some(_) => Self::Protocol,
        }
    }
}

/// A stream that has these pieces to read, and takes all that is written.
struct Pieces(VecDeque<Vec<u8>>);

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(mut piece) = self.0.pop_front() else { return Ok(0) };
        let len = piece.len().min(buffer.len());
        buffer[..len].copy_from_slice(&piece[..len]);
        if len < piece.len() {
            self.0.push_front(piece.split_off(len));
        }
        Ok(len)
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What tungstenite makes of the bytes, up to the first Close frame.
fn oracle(role: Role, pieces: VecDeque<Vec<u8>>, limit: usize) -> (Vec<Seen>, Verdict) {
    let config =
        WebSocketConfig::default().max_message_size(Some(limit)).max_frame_size(Some(limit));
    let mut socket = WebSocket::from_raw_socket(Pieces(pieces), role, Some(config));
    let mut seen = Vec::new();
    let verdict = loop {
        seen.push(match socket.read() {
            Ok(Message::Binary(payload)) => Seen::Binary(payload.into()),
            Ok(Message::Text(text)) => Seen::Text(text.as_str().to_owned()),
            Ok(Message::Ping(payload)) => Seen::Ping(payload.into()),
            Ok(Message::Pong(payload)) => Seen::Pong(payload.into()),
            // It reports a code that may not be sent in this way.
            Ok(Message::Close(Some(frame))) if frame.reason.as_str() == "Protocol violation" => {
                break Verdict::Protocol;
            }
            Ok(Message::Close(frame)) => {
                seen.push(Seen::Close(frame.map(|frame| CloseFrame {
                    code: CloseCode::new(frame.code.into()).expect("it is allowed"),
                    reason: frame.reason.as_str().to_owned(),
                })));
                break Verdict::Good;
            }
            Ok(Message::Frame(_)) => unreachable!("it is never read"),
            Err(Error::Protocol(error)) => {
                break match error {
                    ProtocolError::ResetWithoutClosingHandshake => Verdict::Good,
                    _ => Verdict::Protocol,
                };
            }
            Err(Error::Capacity(_)) => break Verdict::TooLarge,
            Err(Error::Utf8(_)) => break Verdict::InvalidUtf8,
            Err(error) => panic!("{error}"),
        });
    };
    (seen, verdict)
}

fn ours(bytes: &[u8], pieces: &[usize]) -> (Vec<Seen>, Option<Violation>) {
    decode(&mut Decoder::new(LIMIT).with_text(), bytes, pieces)
}

/// Tungstenite accepts a length that is not in its shortest form, in control frames too, and does
/// not know 1014 as a code.
fn is_stricter(violation: Option<Violation>, seen: &[Seen]) -> bool {
    let is_1014 =
        |seen: &Seen| matches!(seen, Seen::Close(Some(frame)) if frame.code.get() == 1014);
    matches!(violation, Some(Violation::Length | Violation::LongControl))
        || seen.last().is_some_and(is_1014)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.max(500)))]

    #[test]
    fn whole_frames_are_judged_alike(
        frames in frames(3 * LIMIT),
        pieces in prop::collection::vec(1..3000_usize, 1..8),
    ) {
        let bytes = encoded(&frames);
        let (seen, violation) = ours(&bytes, &pieces);
        let (expected, verdict) = oracle(Role::Server, [bytes].into(), LIMIT);
        if is_stricter(violation, &seen) {
            let common = expected.len().min(seen.len());
            let common = common.saturating_sub(usize::from(violation.is_none()));
            prop_assert_eq!(&seen[..common], &expected[..common]);
            return Ok(());
        }
        prop_assert_eq!(&seen, &expected);
        let found = Verdict::from(violation);
        // Of several faults of one frame, tungstenite looks at the length first, and at the reason
        // before the code.
        let many = match verdict {
            Verdict::TooLarge => frames.iter().any(|frame| frame.payload.len() > LIMIT),
            Verdict::InvalidUtf8 => matches!(violation, Some(Violation::InvalidCloseCode(_))),
            Verdict::Good | Verdict::Protocol => false,
        };
        if !(many && found == Verdict::Protocol) {
            prop_assert_eq!(found, verdict, "{:?}", violation);
        }
    }

    /// Tungstenite judges most of a frame when it is complete, the codec as soon as it can.
    #[test]
    fn changed_bytes_are_judged_alike(
        frames in frames(300),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
        pieces in prop::collection::vec(1..300_usize, 1..8),
    ) {
        let mut bytes = encoded(&frames);
        if bytes.is_empty() {
            return Ok(());
        }
        for (index, byte) in changes {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        bytes.truncate(cut.index(2 * bytes.len()));
        let (seen, violation) = ours(&bytes, &pieces);
        let (expected, verdict) = oracle(Role::Server, [bytes].into(), LIMIT);
        if is_stricter(violation, &seen) {
            return Ok(());
        }
        prop_assert_eq!(&seen, &expected);
        if verdict != Verdict::Good {
            prop_assert!(violation.is_some(), "{verdict:?}");
        }
    }

    #[test]
    fn what_is_encoded_is_understood(
        sent in prop::collection::vec(message(), 0..10),
        pieces in prop::collection::vec(1..3000_usize, 1..8),
        close in prop::option::of((3000..5000_u16, "[a-zé]{0,60}")),
    ) {
        let mut outgoing = Outgoing::default();
        let mut expected = Vec::new();
        for message in sent {
            match &message {
                Seen::Binary(payload) => {
                    let (head, tail) = payload.split_at(payload.len() / 10);
                    outgoing.binary(head, Some(Bytes::copy_from_slice(tail)));
                }
                Seen::Text(text) => outgoing.text(text),
                Seen::Ping(payload) => outgoing.ping(payload),
                Seen::Pong(payload) => outgoing.pong(payload),
                Seen::Close(_) => unreachable!("it comes last"),
            }
            expected.push(message);
        }
        let close = close.map(|(code, reason)| CloseFrame {
            code: CloseCode::new(code).expect("a code"), reason,
        });
        outgoing.close(close.as_ref().map(|close| (close.code, &*close.reason)));
        expected.push(Seen::Close(close));

        let mut pieces = pieces.iter().cycle();
        let mut sent = VecDeque::new();
        while outgoing.has_remaining() {
            let piece = outgoing.chunk();
            let piece = piece[..piece.len().min(*pieces.next().expect("a cycle"))].to_vec();
            outgoing.advance(piece.len());
            sent.push_back(piece);
        }
        prop_assert_eq!(oracle(Role::Client, sent, 1 << 20), (expected, Verdict::Good));
    }
}

fn message() -> impl Strategy<Value = Seen> {
    let control = || prop::collection::vec(any::<u8>(), 0..=125);
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..300).prop_map(Seen::Binary),
        (any::<u8>(), 60_000..70_000_usize).prop_map(|(byte, len)| Seen::Binary(vec![byte; len])),
        "[aé€𝄞]{0,100}".prop_map(Seen::Text),
        control().prop_map(Seen::Ping),
        control().prop_map(Seen::Pong),
    ]
}
