//! Bytes in, messages out.
//!
//! ```text
//!              a frame that is there as a whole          the rest of the message
//!             ┌───────────┐                             ┌────────────────────────┐
//!             ▼           │   part of a frame, or       ▼                        │
//!   ──▶ between messages ─┴── a fragment ──▶ within a message ── control frames ─┘
//!             │                                         │
//!             └───────── Close, or a violation ─────────┴──▶ closed: nothing is decoded any more
//! ```

use std::borrow::Cow;
use std::mem;

use super::header::{Header, MAX_HEADER, Opcode};
use super::{CloseFrame, Violation, mask};

/// Up to this size a buffer for a message is made as large as its frame announces. Beyond, it grows
/// with what arrives, or a few bytes of header would be all it takes to fill the memory.
const TRUSTED: usize = 16 * 1024;

/// What a client sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// A binary message. Borrowed if it was in the input as a whole.
    Binary(Cow<'a, [u8]>),
    /// A text message; only from a decoder [with text](Decoder::with_text).
    Text(Cow<'a, str>),
    /// A Ping, to be answered with a Pong with the same payload.
    Ping(Cow<'a, [u8]>),
    /// A Pong, whether it was asked for or not.
    Pong(Cow<'a, [u8]>),
    /// A Close frame, to be answered with one unless one was sent. What follows it is not decoded.
    Close(Option<CloseFrame>),
}

/// Decodes the frames of one client.
///
/// It holds what a message or a frame needs that has arrived in part, and nothing in between: 32
/// bytes.
#[derive(Debug)]
pub struct Decoder {
    max_message: usize,
    text: bool,
    /// Since they were asked for.
    frames: u32,
    state: State,
}

#[derive(Debug)]
enum State {
    Between,
    Within(Box<Partial>),
    Closed,
}

/// What arrived in part.
#[derive(Debug, Default)]
struct Partial {
    /// The bytes of a header that is not complete.
    header: [u8; MAX_HEADER],
    header_len: usize,
    /// The frame whose payload is arriving.
    frame: Option<Frame>,
    /// The payload of a control frame.
    control: Vec<u8>,
    message: Option<Message>,
}

#[derive(Debug)]
struct Frame {
    header: Header,
    /// The bytes of its payload so far, and still to come.
    received: usize,
    missing: usize,
}

/// A message that arrives in fragments, or in one in several pieces.
#[derive(Debug)]
struct Message {
    /// Up to here it is known to be UTF-8. `None` if it need not be.
    valid: Option<usize>,
    payload: Vec<u8>,
}

impl Decoder {
    /// A decoder for messages of up to `max_message` bytes, which refuses text.
    #[must_use]
    pub const fn new(max_message: usize) -> Self {
        Self { max_message, text: false, frames: 0, state: State::Between }
    }

    /// Accepts text messages as well.
    #[must_use]
    pub const fn with_text(mut self) -> Self {
        self.text = true;
        self
    }

    /// Whether a Close frame or a violation was decoded, so that nothing more is.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// The bytes of memory it holds beyond its own size.
    #[must_use]
    pub fn held(&self) -> usize {
        match &self.state {
            State::Between | State::Closed => 0,
            State::Within(partial) => {
                let message = partial.message.as_ref().map_or(0, |open| open.payload.capacity());
                size_of::<Partial>() + partial.control.capacity() + message
            }
        }
    }

    /// The frames that have begun since the last call, fragments and control frames included: there
    /// may be many without an event.
    pub const fn take_frames(&mut self) -> u32 {
        mem::replace(&mut self.frames, 0)
    }

    /// Decodes nothing any more, and lets go of what arrived in part.
    pub fn close(&mut self) {
        self.state = State::Closed;
    }

    /// Takes the next event from the front of the input; call it until there is none.
    ///
    /// The input is unmasked where it stands and shortened by what was taken. Without an event all
    /// of it was taken.
    ///
    /// # Errors
    ///
    /// The first [`Violation`], as soon as its bytes are there. From then on nothing is decoded:
    /// all input is dropped.
    pub fn decode<'a>(&mut self, input: &mut &'a mut [u8]) -> Result<Option<Event<'a>>, Violation> {
        let decoded = self.next(input);
        if matches!(decoded, Err(_) | Ok(Some(Event::Close(_)))) {
            self.state = State::Closed;
        }
        decoded
    }

    fn next<'a>(&mut self, input: &mut &'a mut [u8]) -> Result<Option<Event<'a>>, Violation> {
        loop {
            if matches!(self.state, State::Closed) {
                *input = &mut [];
            }
            if input.is_empty() {
                return Ok(None);
            }
            let mut partial = match mem::replace(&mut self.state, State::Between) {
                State::Within(partial) => partial,
                State::Between | State::Closed => {
                    match Header::parse(input)? {
                        Some((header, len)) => {
                            self.check(&header, None)?;
                            self.frames = self.frames.saturating_add(1);
                            take(input, len);
                            if header.last && header.len <= input.len() as u64 {
                                // The length is at most that of the input, which is a usize.
                                let payload = take(input, header.len as usize);
                                mask::remove(payload, header.mask, 0);
                                return complete(header.opcode, Cow::Borrowed(payload)).map(Some);
                            }
                            let mut partial = Box::<Partial>::default();
                            partial.begin(header);
                            partial
                        }
                        None => Box::default(),
                    }
                }
            };
            if partial.frame.is_none()
                && let Some(header) = partial.header(input)?
            {
                self.check(&header, partial.message.as_ref())?;
                self.frames = self.frames.saturating_add(1);
                partial.begin(header);
            }
            let event = partial.payload(input)?;
            if !partial.is_empty() {
                self.state = State::Within(partial);
            }
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    /// Whether a frame may come at this point.
    fn check(&self, header: &Header, message: Option<&Message>) -> Result<(), Violation> {
        match (header.opcode, message) {
            (Opcode::Close | Opcode::Ping | Opcode::Pong, _) => return Ok(()),
            (Opcode::Continuation, None) => return Err(Violation::UnexpectedContinuation),
            (Opcode::Text | Opcode::Binary, Some(_)) => return Err(Violation::InterruptedMessage),
            (Opcode::Text, None) if !self.text => return Err(Violation::Text),
            (Opcode::Continuation, Some(_)) | (Opcode::Text | Opcode::Binary, None) => {}
        }
        let before = message.map_or(0, |message| message.payload.len());
        // A length is less than 2^63.
        if header.len + before as u64 > self.max_message as u64 {
            return Err(Violation::TooLarge { limit: self.max_message });
        }
        Ok(())
    }
}

impl Partial {
    const fn is_empty(&self) -> bool {
        self.header_len == 0 && self.frame.is_none() && self.message.is_none()
    }

    /// The next header, if the input completes it.
    fn header(&mut self, input: &mut &mut [u8]) -> Result<Option<Header>, Violation> {
        let before = self.header_len;
        let added = input.len().min(MAX_HEADER - before);
        self.header[before..before + added].copy_from_slice(&input[..added]);
        let Some((header, len)) = Header::parse(&self.header[..before + added])? else {
            // No header is longer than what there is room for, so the input is used up.
            self.header_len += added;
            take(input, added);
            return Ok(None);
        };
        self.header_len = 0;
        take(input, len - before);
        Ok(Some(header))
    }

    fn begin(&mut self, header: Header) {
        // A control frame is short, and a message within the limit, which is a usize.
        let missing = header.len as usize;
        if !header.opcode.is_control() && self.message.is_none() {
            let valid = (header.opcode == Opcode::Text).then_some(0);
            self.message = Some(Message { valid, payload: Vec::new() });
        }
        self.frame = Some(Frame { header, received: 0, missing });
    }

    /// Takes what the input has of the payload of the frame. Gives what it completes.
    fn payload<'a>(&mut self, input: &mut &'a mut [u8]) -> Result<Option<Event<'a>>, Violation> {
        let Some(frame) = &mut self.frame else { return Ok(None) };
        let piece = take(input, input.len().min(frame.missing));
        mask::remove(piece, frame.header.mask, frame.received);
        frame.received += piece.len();
        frame.missing -= piece.len();
        let Header { opcode, last, .. } = frame.header;
        let (received, missing) = (frame.received, frame.missing);
        if missing == 0 {
            self.frame = None;
        }

        if opcode.is_control() {
            if missing == 0 && received == piece.len() {
                return complete(opcode, Cow::Borrowed(piece)).map(Some);
            }
            self.control.extend_from_slice(piece);
            return match missing {
                0 => complete(opcode, Cow::Owned(mem::take(&mut self.control))).map(Some),
                _ => Ok(None),
            };
        }

        let Some(message) = &mut self.message else { return Ok(None) };
        message.append(piece, missing, last)?;
        if missing > 0 || !last {
            return Ok(None);
        }
        let Some(Message { valid, payload }) = self.message.take() else { return Ok(None) };
        match valid {
            Some(_) => complete(Opcode::Text, Cow::Owned(payload)).map(Some),
            None => complete(Opcode::Binary, Cow::Owned(payload)).map(Some),
        }
    }
}

impl Message {
    /// Adds a piece of a frame, of which so much is missing still.
    fn append(&mut self, piece: &[u8], missing: usize, last: bool) -> Result<(), Violation> {
        let Self { valid, payload } = self;
        let len = payload.len() + piece.len();
        if payload.capacity() < len {
            let announced = (len + missing).min((len * 2).max(TRUSTED));
            // Of fragments it is not known how many there will be.
            let room = if last { announced } else { announced.max(payload.capacity() * 2) };
            payload.reserve_exact(room - payload.len());
        }
        payload.extend_from_slice(piece);
        if let Some(valid) = valid {
            match str::from_utf8(&payload[*valid..]) {
                Ok(_) => *valid = payload.len(),
                // The last character may be completed by the next piece.
                Err(error) if error.error_len().is_none() => *valid += error.valid_up_to(),
                Err(_) => return Err(Violation::InvalidUtf8),
            }
        }
        Ok(())
    }
}

fn complete(opcode: Opcode, payload: Cow<'_, [u8]>) -> Result<Event<'_>, Violation> {
    Ok(match opcode {
        // Only messages are completed, under the opcode they began with.
        Opcode::Continuation | Opcode::Binary => Event::Binary(payload),
        Opcode::Text => Event::Text(match payload {
            Cow::Borrowed(bytes) => {
                Cow::Borrowed(str::from_utf8(bytes).map_err(|_| Violation::InvalidUtf8)?)
            }
            Cow::Owned(bytes) => {
                Cow::Owned(String::from_utf8(bytes).map_err(|_| Violation::InvalidUtf8)?)
            }
        }),
        Opcode::Ping => Event::Ping(payload),
        Opcode::Pong => Event::Pong(payload),
        Opcode::Close => Event::Close(CloseFrame::parse(&payload)?),
    })
}

/// Takes so many bytes from the front; no more than there are.
fn take<'a>(input: &mut &'a mut [u8], len: usize) -> &'a mut [u8] {
    let (taken, rest) = mem::take(input).split_at_mut(len);
    *input = rest;
    taken
}
