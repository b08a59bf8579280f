//! Close frames (RFC 6455, sections 5.5.1 and 7.4).

use std::fmt;

use super::Violation;

/// The most bytes a reason can have: a control frame's payload without the code.
pub const MAX_REASON: usize = 123;

/// Why a connection is closed, as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CloseCode(u16);

impl CloseCode {
    /// 1000: what the connection was for is done.
    pub const NORMAL: Self = Self(1000);
    /// 1001: the server shuts down, or the client leaves.
    pub const GOING_AWAY: Self = Self(1001);
    /// 1002: a violation of RFC 6455.
    pub const PROTOCOL: Self = Self(1002);
    /// 1003: a type of data that is not accepted, such as text.
    pub const UNSUPPORTED: Self = Self(1003);
    /// 1007: data that is not what its type promises, such as text that is not UTF-8.
    pub const INVALID_DATA: Self = Self(1007);
    /// 1008: a rule of the server's own was broken.
    pub const POLICY: Self = Self(1008);
    /// 1009: a message above the limit of what is received.
    pub const TOO_LARGE: Self = Self(1009);

    /// 1013: the server cannot serve this now; it may be tried again later.
    pub const TRY_AGAIN_LATER: Self = Self(1013);

    /// A code that may stand in a Close frame: those of RFC 6455 and the IANA registry up to 1014
    /// without the ones that only stand for the absence of a frame, and all from 3000 to 4999.
    #[must_use]
    pub const fn new(code: u16) -> Option<Self> {
        match code {
            1000..=1003 | 1007..=1014 | 3000..=4999 => Some(Self(code)),
            _ => None,
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The content of a Close frame, if it is not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloseFrame {
    /// The code.
    pub code: CloseCode,
    /// A text for people, up to [`MAX_REASON`] bytes.
    pub reason: String,
}

impl CloseFrame {
    pub(super) fn parse(payload: &[u8]) -> Result<Option<Self>, Violation> {
        let Some((code, reason)) = payload.split_first_chunk() else {
            return match payload {
                [] => Ok(None),
                _ => Err(Violation::TruncatedCloseCode),
            };
        };
        let code = u16::from_be_bytes(*code);
        let code = CloseCode::new(code).ok_or(Violation::InvalidCloseCode(code))?;
        let reason = str::from_utf8(reason).map_err(|_| Violation::InvalidUtf8)?;
        Ok(Some(Self { code, reason: reason.to_owned() }))
    }
}

/// A reason cut to what a Close frame can hold, at a character's end.
pub(super) fn cut(reason: &str) -> &str {
    let end = (0..=reason.len().min(MAX_REASON)).rev().find(|&end| reason.is_char_boundary(end));
    &reason[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(code: u16, reason: &[u8]) -> Result<Option<CloseFrame>, Violation> {
        CloseFrame::parse(&[&code.to_be_bytes(), reason].concat())
    }

    #[test]
    fn a_close_frame_is_empty_or_begins_with_a_code_that_may_be_sent() {
        assert_eq!(CloseFrame::parse(&[]), Ok(None));
        assert_eq!(CloseFrame::parse(&[3]), Err(Violation::TruncatedCloseCode));
        for code in 0..=u16::MAX {
            let valid = match code {
                1004..=1006 => false,
                1000..=1014 | 3000..=4999 => true,
                _ => false,
            };
            let expected = match CloseCode::new(code) {
                Some(code) => Ok(Some(CloseFrame { code, reason: "bye".to_owned() })),
                None => Err(Violation::InvalidCloseCode(code)),
            };
            assert_eq!(parse(code, b"bye"), expected);
            assert_eq!(expected.is_ok(), valid, "{code}");
        }
    }

    #[test]
    fn a_reason_is_utf_8() {
        assert_eq!(parse(1000, b"\xff"), Err(Violation::InvalidUtf8));
        let frame = parse(1000, "κόσμε".as_bytes()).expect("valid").expect("a code");
        assert_eq!(frame.reason, "κόσμε");
    }

    #[test]
    fn a_reason_is_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        assert_eq!(cut(&"x".repeat(124)).len(), 123);
        assert_eq!(cut(&"é".repeat(100)).len(), 122);
    }
}
