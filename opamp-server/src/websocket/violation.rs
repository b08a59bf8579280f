//! What a peer may do wrong.

use super::CloseCode;

/// Why a connection has to be closed: what the peer sent is not RFC 6455, or more than is taken.
///
/// Nothing that follows can be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// A reserved bit is set, and no extension was negotiated that would define it.
    #[error("a reserved bit is set")]
    ReservedBits,
    /// The opcode is not defined.
    #[error("opcode {0} is reserved")]
    ReservedOpcode(u8),
    /// A client has to mask what it sends.
    #[error("the frame is not masked")]
    Unmasked,
    /// A control frame has to be a single frame.
    #[error("a control frame is fragmented")]
    FragmentedControl,
    /// A control frame has at most 125 bytes of payload.
    #[error("a control frame has more than 125 bytes")]
    LongControl,
    /// The length of the payload is not given in the fewest bytes possible, or has its first bit
    /// set.
    #[error("the length of a payload is not encoded in the shortest form")]
    Length,
    /// A continuation without a message to continue.
    #[error("there is no message to continue")]
    UnexpectedContinuation,
    /// A message begins while another is not complete.
    #[error("a message begins within another")]
    InterruptedMessage,
    /// A text message where only binary ones are welcome.
    #[error("text messages are not accepted")]
    Text,
    /// A text message, or the reason of a Close frame, is not UTF-8.
    #[error("a text is not UTF-8")]
    InvalidUtf8,
    /// The payload of a Close frame is a single byte.
    #[error("a Close frame has half a code")]
    TruncatedCloseCode,
    /// The code of a Close frame is not one that may be sent.
    #[error("code {0} is not for Close frames")]
    InvalidCloseCode(u16),
    /// A message is above the limit of what is received.
    #[error("a message is above the limit of {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
}

impl Violation {
    /// The code to close the connection with.
    #[must_use]
    pub const fn close_code(&self) -> CloseCode {
        match self {
            Self::Text => CloseCode::UNSUPPORTED,
            Self::InvalidUtf8 => CloseCode::INVALID_DATA,
            Self::TooLarge { .. } => CloseCode::TOO_LARGE,
            Self::ReservedBits
            | Self::ReservedOpcode(_)
            | Self::Unmasked
            | Self::FragmentedControl
            | Self::LongControl
            | Self::Length
            | Self::UnexpectedContinuation
            | Self::InterruptedMessage
            | Self::TruncatedCloseCode
            | Self::InvalidCloseCode(_) => CloseCode::PROTOCOL,
        }
    }
}
