//! Bytes from a WebSocket client, in one piece and in several.

use arbitrary::{Arbitrary as _, Unstructured};
use bytes::Buf as _;
use opamp_server::websocket::{Decoder, Event, Outgoing, Violation};

const LIMIT: usize = 10_000;

/// What the bytes come to, echoed.
fn echo(
    text: bool,
    bytes: &[u8],
    mut pieces: impl Iterator<Item = usize>,
) -> (Vec<u8>, Option<Violation>) {
    let mut decoder = Decoder::new(LIMIT);
    if text {
        decoder = decoder.with_text();
    }
    let mut outgoing = Outgoing::default();
    let mut violation = None;
    let (mut bytes, mut arrived) = (bytes.to_vec(), 0);
    let mut rest = &mut bytes[..];
    while !rest.is_empty() && violation.is_none() {
        let size = pieces.next().unwrap_or(usize::MAX).clamp(1, rest.len());
        let (mut input, after) = rest.split_at_mut(size);
        rest = after;
        arrived += size;
        violation = loop {
            match decoder.decode(&mut input) {
                Ok(None) => break None,
                Ok(Some(event)) => send(&mut outgoing, event),
                Err(violation) => break Some(violation),
            }
        };
        assert!(violation.is_some() || input.is_empty());
        assert!(decoder.held() <= (2 * arrived.min(LIMIT)).max(16 * 1024) + 1024);
    }
    let mut written = Vec::new();
    while outgoing.has_remaining() {
        let chunk = outgoing.chunk();
        assert!(!chunk.is_empty());
        written.extend_from_slice(chunk);
        let len = chunk.len();
        outgoing.advance(len);
    }
    (written, violation)
}

fn send(outgoing: &mut Outgoing, event: Event<'_>) {
    let header = |len| match len {
        0..=125 => 2,
        126..=0xffff => 4,
        _ => 10,
    };
    let before = outgoing.len();
    let len = match event {
        Event::Binary(payload) => {
            outgoing.binary(&payload[..payload.len() / 2], None);
            payload.len() / 2
        }
        Event::Text(text) => {
            outgoing.text(&text);
            text.len()
        }
        Event::Ping(payload) => {
            outgoing.pong(&payload);
            payload.len()
        }
        Event::Pong(payload) => {
            outgoing.ping(&payload);
            payload.len()
        }
        Event::Close(close) => {
            outgoing.close(close.as_ref().map(|close| (close.code, &*close.reason)));
            close.map_or(0, |close| 2 + close.reason.len())
        }
    };
    assert_eq!(outgoing.len(), before + header(len) + len);
}

/// One input.
pub(crate) fn run(bytes: &[u8]) {
    let input = Unstructured::new(bytes);
    if let Ok(input) = <(bool, Vec<u8>, Vec<u8>)>::arbitrary_take_rest(input) {
        play(input);
    }
}

fn play(input: (bool, Vec<u8>, Vec<u8>)) {
    let (text, pieces, bytes) = input;
    let whole = echo(text, &bytes, std::iter::empty());
    let in_pieces = echo(text, &bytes, pieces.iter().map(|size| usize::from(*size)));
    assert_eq!(whole, in_pieces);
    assert_eq!(whole, echo(text, &bytes, std::iter::repeat(1)));
}
