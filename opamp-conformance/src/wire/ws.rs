//! WebSocket framing (RFC 6455) for a tester: it sends any frame, right or wrong, and tells
//! everything it receives, control frames and broken rules included. A library would correct or
//! hide what a case has to send or see, and the crates under test share one with each other.

use std::io;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use rand::RngExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::log::{Event, Log};
use crate::net::BoxStream;
use crate::report::By;
use crate::wire::body;

/// The largest message taken from a subject.
pub const MAX_MESSAGE: usize = 160 << 20;

/// How much of a long message is written at a time.
const PIECE: usize = 64 << 10;

/// Which end of a WebSocket this is; a client masks what it sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The end that sent the handshake.
    Client,
    /// The end that accepted it.
    Server,
}

/// A frame's kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    /// More of a message.
    Continuation,
    /// A message of text, or its first part.
    Text,
    /// A binary message, or its first part.
    Binary,
    /// Close.
    Close,
    /// Ping.
    Ping,
    /// Pong.
    Pong,
    /// One the standard does not define.
    Other(u8),
}

impl Opcode {
    fn of(bits: u8) -> Self {
        match bits {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            other => Self::Other(other),
        }
    }

    fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0,
            Self::Text => 1,
            Self::Binary => 2,
            Self::Close => 8,
            Self::Ping => 9,
            Self::Pong => 10,
            Self::Other(bits) => bits & 0x0f,
        }
    }
}

/// A frame to send, right or wrong.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Whether it ends its message.
    pub fin: bool,
    /// Whether the bit that marks compression is set.
    pub rsv1: bool,
    /// Its kind.
    pub opcode: Opcode,
    /// Its payload.
    pub payload: Bytes,
}

impl Frame {
    /// A whole binary message.
    #[must_use]
    pub fn binary(payload: Bytes) -> Self {
        Self { fin: true, rsv1: false, opcode: Opcode::Binary, payload }
    }

    /// A Close frame.
    #[must_use]
    pub fn close(code: u16, reason: &str) -> Self {
        let mut payload = BytesMut::from(&code.to_be_bytes()[..]);
        payload.extend_from_slice(reason.as_bytes());
        Self { fin: true, rsv1: false, opcode: Opcode::Close, payload: payload.freeze() }
    }

    /// The bytes that go over the wire.
    #[must_use]
    pub fn encode(&self, role: Role) -> Bytes {
        let mut bytes = BytesMut::with_capacity(self.payload.len() + 14);
        let first = u8::from(self.fin) << 7 | u8::from(self.rsv1) << 6 | self.opcode.bits();
        put_head(&mut bytes, first, self.payload.len(), role);
        if role == Role::Client {
            let key: [u8; 4] = rand::rng().random();
            bytes.put_slice(&key);
            let start = bytes.len();
            bytes.put_slice(&self.payload);
            unmask(&mut bytes[start..], key);
        } else {
            bytes.put_slice(&self.payload);
        }
        bytes.freeze()
    }
}

/// The head of a frame, up to the key of its mask.
fn put_head(bytes: &mut BytesMut, first: u8, length: usize, role: Role) {
    let mask = if role == Role::Client { 0x80 } else { 0 };
    bytes.put_u8(first);
    match length {
        short @ 0..=125 => bytes.put_u8(mask | short as u8),
        medium @ 126..=0xffff => {
            bytes.put_u8(mask | 126);
            bytes.put_u16(medium as u16);
        }
        long => {
            bytes.put_u8(mask | 127);
            bytes.put_u64(long as u64);
        }
    }
}

fn unmask(payload: &mut [u8], key: [u8; 4]) {
    for (byte, key) in payload.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

/// What came over a WebSocket.
#[derive(Debug, Clone)]
pub enum Incoming {
    /// A message of data, whole and decompressed.
    Message {
        /// Whether it was of type text.
        is_text: bool,
        /// In how many frames it came.
        frames: usize,
        /// Its payload.
        payload: Bytes,
    },
    /// A ping; it has been answered.
    Ping,
    /// A pong.
    Pong(Bytes),
    /// A Close frame: code and reason.
    Close(Option<u16>, String),
    /// The connection is over.
    Ended(Ended),
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The peer closed TCP.
    Eof,
    /// Reading or writing failed.
    Error(String),
    /// The peer broke the rules of RFC 6455.
    BrokeFraming(String),
    /// The peer sent a message of more than this many bytes.
    TooLarge(usize),
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Eof => f.write_str("the peer closed the connection"),
            Self::Error(error) => write!(f, "the connection broke: {error}"),
            Self::BrokeFraming(rule) => write!(f, "the peer broke WebSocket framing: {rule}"),
            Self::TooLarge(limit) => {
                write!(f, "the peer sent a message of more than {limit} bytes")
            }
        }
    }
}

/// One end of a WebSocket. Dropping it ends the TCP connection without a Close.
pub struct WebSocket {
    stream: BoxStream,
    role: Role,
    log: Log,
    connection: u32,
    deflate: bool,
    limit: usize,
    inflated_limit: usize,
    takes_unmasked: bool,
    read: BytesMut,
    partial: Option<Partial>,
    ended: Option<Ended>,
}

struct Partial {
    is_text: bool,
    compressed: bool,
    frames: usize,
    payload: BytesMut,
}

struct Received {
    fin: bool,
    rsv1: bool,
    opcode: Opcode,
    payload: BytesMut,
}

impl WebSocket {
    /// Takes over a connection after its handshake. `deflate` says whether permessage-deflate
    /// without context takeover was agreed on.
    #[must_use]
    pub fn new(stream: BoxStream, role: Role, deflate: bool, log: Log, connection: u32) -> Self {
        Self {
            stream,
            role,
            log,
            connection,
            deflate,
            limit: MAX_MESSAGE,
            inflated_limit: MAX_MESSAGE,
            takes_unmasked: false,
            read: BytesMut::new(),
            partial: None,
            ended: None,
        }
    }

    /// The number of the connection in the record.
    #[must_use]
    pub fn connection(&self) -> u32 {
        self.connection
    }

    /// Whether permessage-deflate was agreed on.
    #[must_use]
    pub fn is_deflate(&self) -> bool {
        self.deflate
    }

    /// Takes messages of at most this many bytes, as sent and when decompressed.
    pub fn limit(&mut self, sent: usize, inflated: usize) {
        (self.limit, self.inflated_limit) = (sent, inflated);
    }

    /// Takes frames without mask that have to have one.
    pub fn take_unmasked(&mut self) {
        self.takes_unmasked = true;
    }

    /// Sends a binary message in one frame.
    ///
    /// # Errors
    ///
    /// How the connection ended.
    pub async fn send(&mut self, payload: Bytes) -> Result<(), Ended> {
        self.send_frame(Frame::binary(payload)).await
    }

    /// Sends one frame.
    ///
    /// # Errors
    ///
    /// How the connection ended.
    pub async fn send_frame(&mut self, frame: Frame) -> Result<(), Ended> {
        let event = match frame.opcode {
            Opcode::Close => {
                let (code, reason) = close_payload(&frame.payload);
                Event::Close(code, reason)
            }
            Opcode::Ping => Event::Ping(frame.payload.clone()),
            Opcode::Pong => Event::Pong(frame.payload.clone()),
            Opcode::Binary | Opcode::Text if frame.fin && !frame.rsv1 => Event::Message {
                is_text: frame.opcode == Opcode::Text,
                frames: 1,
                payload: frame.payload.clone(),
            },
            _ => Event::Raw(frame.payload.clone()),
        };
        self.log.push(self.connection, By::Tester, event);
        self.write(&frame.encode(self.role)).await
    }

    /// Sends a binary message in as many frames as there are parts.
    ///
    /// # Errors
    ///
    /// How the connection ended.
    pub async fn send_fragmented(&mut self, parts: &[Bytes]) -> Result<(), Ended> {
        let payload = Bytes::from(parts.concat());
        let event = Event::Message { is_text: false, frames: parts.len(), payload };
        self.log.push(self.connection, By::Tester, event);
        for (index, part) in parts.iter().enumerate() {
            let frame = Frame {
                fin: index + 1 == parts.len(),
                rsv1: false,
                opcode: if index == 0 { Opcode::Binary } else { Opcode::Continuation },
                payload: part.clone(),
            };
            self.write(&frame.encode(self.role)).await?;
        }
        Ok(())
    }

    /// Sends, as a server, a binary message of these bytes and as many zeros after them. The zeros
    /// are neither held in memory nor recorded.
    ///
    /// # Errors
    ///
    /// How the connection ended.
    pub async fn send_filled(&mut self, start: &[u8], zeros: usize) -> Result<(), Ended> {
        let mut head = BytesMut::with_capacity(start.len() + 14);
        put_head(&mut head, 0x80 | Opcode::Binary.bits(), start.len() + zeros, Role::Server);
        head.extend_from_slice(start);
        self.log
            .remark(format!("a message of {} bytes, the last {zeros} zero", start.len() + zeros));
        self.log.push(self.connection, By::Tester, Event::Raw(head.clone().freeze()));
        self.write(&head).await?;
        let piece = vec![0; zeros.min(PIECE)];
        let mut left = zeros;
        while left > 0 {
            let length = left.min(piece.len());
            self.write(&piece[..length]).await?;
            left -= length;
        }
        Ok(())
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    ///
    /// How the connection ended.
    pub async fn send_raw(&mut self, bytes: Bytes) -> Result<(), Ended> {
        self.log.push(self.connection, By::Tester, Event::Raw(bytes.clone()));
        self.write(&bytes).await
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Ended> {
        let written = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        // What the peer said before it stopped reading can still be received.
        written.await.map_err(|error| ended(&error))
    }

    /// What comes next. Pings are answered. After [`Incoming::Ended`] it gives that again. Cancel
    /// safe, but for the answer to a ping.
    pub async fn receive(&mut self) -> Incoming {
        loop {
            if let Some(ended) = &self.ended {
                return Incoming::Ended(ended.clone());
            }
            match self.take_frame() {
                Ok(Some(frame)) => {
                    if let Some(incoming) = self.accept(frame).await {
                        return incoming;
                    }
                    continue;
                }
                Ok(None) => {}
                Err(ended) => return Incoming::Ended(self.end(ended)),
            }
            match self.stream.read_buf(&mut self.read).await {
                Ok(0) => return Incoming::Ended(self.end(Ended::Eof)),
                Ok(_) => {}
                Err(error) => return Incoming::Ended(self.end(ended(&error))),
            }
        }
    }

    /// Ends the TCP connection, after what was written.
    pub async fn shutdown(mut self) {
        self.log.push(self.connection, By::Tester, Event::Ended("by the tester".to_owned()));
        // Where it is broken already there is nothing left to do.
        let _ = self.stream.shutdown().await;
    }

    fn end(&mut self, ended: Ended) -> Ended {
        if self.ended.is_none() {
            self.log.push(self.connection, By::Subject, Event::Ended(ended.to_string()));
        }
        self.ended.get_or_insert(ended).clone()
    }

    /// A whole frame from what was read, with its payload unmasked.
    fn take_frame(&mut self) -> Result<Option<Received>, Ended> {
        let broke = |rule: &str| Err(Ended::BrokeFraming(rule.to_owned()));
        let buffer = &self.read;
        if buffer.len() < 2 {
            return Ok(None);
        }
        let (first, second) = (buffer[0], buffer[1]);
        if first & 0x30 != 0 {
            return broke("a reserved bit is set");
        }
        let is_masked = second & 0x80 != 0;
        if is_masked && self.role == Role::Client {
            return broke("a frame is masked");
        }
        if !is_masked && self.role == Role::Server && !self.takes_unmasked {
            return broke("a frame is unmasked");
        }
        let (length, mut head) = match second & 0x7f {
            126 if buffer.len() < 4 => return Ok(None),
            126 => (u64::from(u16::from_be_bytes([buffer[2], buffer[3]])), 4),
            127 if buffer.len() < 10 => return Ok(None),
            127 => ((&buffer[2..10]).get_u64(), 10),
            short => (u64::from(short), 2),
        };
        if length > self.limit as u64 {
            return Err(Ended::TooLarge(self.limit));
        }
        let mask = head;
        if is_masked {
            head += 4;
        }
        let length = length as usize;
        if buffer.len() < head + length {
            let missing = head + length - buffer.len();
            self.read.reserve(missing.min(1 << 20));
            return Ok(None);
        }
        let mut frame = self.read.split_to(head + length);
        let header = frame.split_to(head);
        if let Some(key) = header[mask..].first_chunk::<4>() {
            unmask(&mut frame, *key);
        }
        Ok(Some(Received {
            fin: first & 0x80 != 0,
            rsv1: first & 0x40 != 0,
            opcode: Opcode::of(first & 0x0f),
            payload: frame,
        }))
    }

    async fn accept(&mut self, frame: Received) -> Option<Incoming> {
        let control = matches!(frame.opcode, Opcode::Close | Opcode::Ping | Opcode::Pong);
        if control && (!frame.fin || frame.payload.len() > 125) {
            return self.broke("a control frame is fragmented or too long");
        }
        if frame.rsv1 && (!self.deflate || control || frame.opcode == Opcode::Continuation) {
            return self.broke("a frame is marked as compressed that must not be");
        }
        match frame.opcode {
            Opcode::Close => {
                let (code, reason) = close_payload(&frame.payload);
                self.record(Event::Close(code, reason.clone()));
                Some(Incoming::Close(code, reason))
            }
            Opcode::Ping => {
                let payload = frame.payload.freeze();
                self.record(Event::Ping(payload.clone()));
                let pong = Frame { fin: true, rsv1: false, opcode: Opcode::Pong, payload };
                // A connection that has just broken says so at the next read.
                let _ = self.send_frame(pong).await;
                Some(Incoming::Ping)
            }
            Opcode::Pong => {
                let payload = frame.payload.freeze();
                self.record(Event::Pong(payload.clone()));
                Some(Incoming::Pong(payload))
            }
            Opcode::Text | Opcode::Binary => {
                if self.partial.is_some() {
                    return self.broke("a message begins within another");
                }
                let partial = Partial {
                    is_text: frame.opcode == Opcode::Text,
                    compressed: frame.rsv1,
                    frames: 1,
                    payload: frame.payload,
                };
                self.append(partial, frame.fin)
            }
            Opcode::Continuation => {
                let Some(mut partial) = self.partial.take() else {
                    return self.broke("a continuation without a beginning");
                };
                if partial.payload.len() + frame.payload.len() > self.limit {
                    return Some(Incoming::Ended(self.end(Ended::TooLarge(self.limit))));
                }
                partial.payload.unsplit(frame.payload);
                partial.frames += 1;
                self.append(partial, frame.fin)
            }
            Opcode::Other(bits) => self.broke(&format!("opcode {bits} is not defined")),
        }
    }

    fn append(&mut self, partial: Partial, fin: bool) -> Option<Incoming> {
        if !fin {
            self.partial = Some(partial);
            return None;
        }
        let Partial { is_text, compressed, frames, payload } = partial;
        let mut payload = payload.freeze();
        if compressed {
            payload = match body::inflate(&payload, self.inflated_limit) {
                Ok(payload) => payload,
                Err(body::Error::TooLarge(limit)) => {
                    return Some(Incoming::Ended(self.end(Ended::TooLarge(limit))));
                }
                Err(error) => {
                    return self.broke(&format!("a message cannot be decompressed: {error}"));
                }
            };
        }
        self.record(Event::Message { is_text, frames, payload: payload.clone() });
        Some(Incoming::Message { is_text, frames, payload })
    }

    fn broke(&mut self, rule: &str) -> Option<Incoming> {
        Some(Incoming::Ended(self.end(Ended::BrokeFraming(rule.to_owned()))))
    }

    fn record(&self, event: Event) {
        self.log.push(self.connection, By::Subject, event);
    }
}

fn ended(error: &io::Error) -> Ended {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Ended::Eof,
        _ => Ended::Error(error.to_string()),
    }
}

fn close_payload(payload: &[u8]) -> (Option<u16>, String) {
    match payload.split_first_chunk::<2>() {
        Some((code, reason)) => {
            (Some(u16::from_be_bytes(*code)), String::from_utf8_lossy(reason).into_owned())
        }
        None => (None, String::new()),
    }
}
