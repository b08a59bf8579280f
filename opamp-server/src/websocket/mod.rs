//! WebSocket framing, the server's side of RFC 6455 from the opening handshake on, without I/O.
//!
//! [`Decoder`] takes bytes as they were read, in whatever pieces, and yields messages and control
//! frames; [`Outgoing`] takes messages and control frames and yields bytes to write. Neither owns a
//! buffer to read into: a thread that serves many connections lends the same one to all of them,
//! and a connection on which nothing is under way holds no memory.
//!
//! ```text
//!   bytes read ──▶ Decoder ──▶ Event: Binary, Text, Ping, Pong, Close
//!                     └──────▶ Violation ──▶ the code to close with
//!   head, shared tail ──▶ Outgoing ──▶ slices to write in one call
//! ```
//!
//! - A message that is in the piece as a whole is unmasked where it is and borrowed. Only what
//!   comes in several pieces or fragments is copied together, in a buffer that grows with what
//!   arrived and not with what was announced, and goes when the message is complete.
//! - The size limit is held against what the headers announce, before the payload is there
//!   (SIZE-04, SIZE-06). There are no extensions, so nothing is unpacked after that (SIZE-05).
//! - What many Agents are sent is not copied for each: [`Outgoing`] keeps a reference to it.
//!
//! # What is refused, and with which code
//!
//! | code | what |
//! | --- | --- |
//! | 1002 | reserved bits or opcodes, no mask, a length that is not in its shortest form, a control frame in fragments or above 125 bytes, a continuation of nothing, a message within another, a Close frame with one byte or a code that is not to be sent |
//! | 1003 | a text message, unless it is [welcome](Decoder::with_text): OpAMP messages are binary (WS-01) |
//! | 1007 | a text message or the reason of a Close frame that is not UTF-8 |
//! | 1009 | a message above the limit (SIZE-07) |
//!
//! ```
//! use opamp_server::websocket::{CloseCode, Decoder, Event, Outgoing};
//!
//! let mut decoder = Decoder::new(64 * 1024 * 1024);
//! // A binary message "abc" behind the mask 1, 2, 3, 4; then a frame without a mask.
//! let mut read = [0x82, 0x83, 1, 2, 3, 4, b'a' ^ 1, b'b' ^ 2, b'c' ^ 3, 0x82, 0x00];
//! let mut input = &mut read[..];
//! let event = decoder.decode(&mut input)?;
//! assert_eq!(event, Some(Event::Binary(b"abc".into())));
//! let violation = decoder.decode(&mut input).unwrap_err();
//! assert_eq!(violation.close_code(), CloseCode::PROTOCOL);
//!
//! let mut outgoing = Outgoing::default();
//! outgoing.close(Some((violation.close_code(), "no mask")));
//! assert_eq!(outgoing.len(), 2 + 2 + 7);
//! # Ok::<(), opamp_server::websocket::Violation>(())
//! ```

mod close;
mod decoder;
mod header;
mod mask;
mod outgoing;
mod violation;

pub use self::close::{CloseCode, CloseFrame, MAX_REASON};
pub use self::decoder::{Decoder, Event};
pub use self::outgoing::{MIN_SHARED, Outgoing};
pub use self::violation::Violation;
