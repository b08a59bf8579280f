//! Frames as clients send them, right and wrong ones, and what a decoder makes of them.

use opamp_server::websocket::{CloseFrame, Decoder, Event, Violation};

/// A client's frame in every detail, so that each can be wrong.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    /// FIN, the reserved bits and the opcode.
    pub(crate) first: u8,
    pub(crate) mask: Option<[u8; 4]>,
    pub(crate) payload: Vec<u8>,
    /// The number of bytes the length takes: 0, 2 or 8. `None` for as few as possible.
    pub(crate) length_bytes: Option<usize>,
}

pub(crate) const FIN: u8 = 0x80;
pub(crate) const CONTINUATION: u8 = 0x0;
pub(crate) const TEXT: u8 = 0x1;
pub(crate) const BINARY: u8 = 0x2;
pub(crate) const CLOSE: u8 = 0x8;
pub(crate) const PING: u8 = 0x9;
pub(crate) const PONG: u8 = 0xa;

pub(crate) fn frame(first: u8, payload: impl Into<Vec<u8>>) -> Frame {
    Frame {
        first,
        mask: Some([0x37, 0xfa, 0x21, 0x3d]),
        payload: payload.into(),
        length_bytes: None,
    }
}

impl Frame {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let masked = if self.mask.is_some() { 0x80 } else { 0 };
        let len = self.payload.len();
        out.push(self.first);
        match self.length_bytes.unwrap_or(match len {
            0..=125 => 0,
            126..=0xffff => 2,
            _ => 8,
        }) {
            0 => out.push(masked | u8::try_from(len).expect("a short length")),
            2 => {
                out.push(masked | 126);
                out.extend(u16::try_from(len).expect("a length of 16 bits").to_be_bytes());
            }
            _ => {
                out.push(masked | 127);
                out.extend((len as u64).to_be_bytes());
            }
        }
        let mask = self.mask.unwrap_or_default();
        out.extend(self.mask.iter().flatten());
        out.extend(self.payload.iter().enumerate().map(|(index, byte)| byte ^ mask[index % 4]));
    }
}

pub(crate) fn encoded(frames: &[Frame]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frames.iter().for_each(|frame| frame.encode(&mut bytes));
    bytes
}

/// An event without borrows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    Binary(Vec<u8>),
    Text(String),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<CloseFrame>),
}

impl From<Event<'_>> for Seen {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Binary(payload) => Self::Binary(payload.into_owned()),
            Event::Text(text) => Self::Text(text.into_owned()),
            Event::Ping(payload) => Self::Ping(payload.into_owned()),
            Event::Pong(payload) => Self::Pong(payload.into_owned()),
            Event::Close(frame) => Self::Close(frame),
        }
    }
}

/// All events of the bytes in pieces of these sizes, in turn, and what ends them.
pub(crate) fn decode(
    decoder: &mut Decoder,
    bytes: &[u8],
    pieces: &[usize],
) -> (Vec<Seen>, Option<Violation>) {
    let mut seen = Vec::new();
    let mut rest = bytes.to_vec();
    let mut rest = &mut rest[..];
    let mut pieces = pieces.iter().cycle();
    while !rest.is_empty() {
        let size = pieces.next().map_or(rest.len(), |size| rest.len().min(*size));
        let (piece, after) = rest.split_at_mut(size);
        rest = after;
        let mut input = piece;
        loop {
            match decoder.decode(&mut input) {
                Ok(Some(event)) => seen.push(event.into()),
                Ok(None) => break,
                Err(violation) => return (seen, Some(violation)),
            }
        }
        assert!(input.is_empty(), "without an event all input is taken");
    }
    (seen, None)
}
