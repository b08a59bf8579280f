//! The Agent's identifier.
//!
//! On the wire `instance_uid` is exactly 16 bytes, preferably a UUID of version 7 (ID-05, ID-06):
//! that is [`InstanceUid`]. Agents that predate this rule send text; [`LegacyUid`] recognises their
//! forms and is kept apart, so that a strict receiver cannot take them by accident.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

/// The identifier of a running Agent: 16 bytes (ID-05).
///
/// Any 16 bytes are accepted, since a version other than 7 is a deviation from advice only (ID-06).
/// The text form is that of a UUID: lower-case when written, of either case when read.
///
/// ```
/// use opamp_proto::InstanceUid;
///
/// let uid: InstanceUid = "01890a5d-ac96-774b-bcce-b302099a8057".parse()?;
/// assert!(uid.is_v7());
/// assert_eq!(InstanceUid::try_from(&uid.to_bytes()[..])?, uid);
/// # Ok::<(), opamp_proto::InstanceUidError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceUid([u8; 16]);

impl InstanceUid {
    /// Makes a new identifier, a UUID of version 7, from the system's clock and random source.
    ///
    /// # Panics
    ///
    /// If the system has no random source.
    #[cfg(feature = "generate")]
    #[must_use]
    pub fn generate() -> Self {
        Self(uuid::Uuid::now_v7().into_bytes())
    }

    /// Makes a UUID of version 7 from a time and random bits given by the caller.
    ///
    /// `unix_millis` is in milliseconds since the Unix epoch, of which the lower 48 bits are used
    /// (they last until the year 10889). Of `random`, the 6 bits that hold version and variant are
    /// overwritten, which leaves 74 random bits.
    #[must_use]
    pub const fn from_parts(unix_millis: u64, random: [u8; 10]) -> Self {
        let [_, _, t0, t1, t2, t3, t4, t5] = unix_millis.to_be_bytes();
        let [a0, a1, b0, b1, b2, b3, b4, b5, b6, b7] = random;
        Self([
            t0,
            t1,
            t2,
            t3,
            t4,
            t5,
            0x70 | (a0 & 0x0f),
            a1,
            0x80 | (b0 & 0x3f),
            b1,
            b2,
            b3,
            b4,
            b5,
            b6,
            b7,
        ])
    }

    /// Takes 16 bytes as they are.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The 16 bytes as a message field holds them.
    #[must_use]
    pub fn to_bytes(self) -> Bytes {
        Bytes::copy_from_slice(&self.0)
    }

    /// Whether this is a UUID of version 7 and of the standard variant (ID-06).
    #[must_use]
    pub const fn is_v7(&self) -> bool {
        self.0[6] >> 4 == 7 && self.0[8] >> 6 == 0b10
    }
}

impl fmt::Display for InstanceUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for InstanceUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<[u8; 16]> for InstanceUid {
    fn from(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl From<InstanceUid> for Bytes {
    fn from(uid: InstanceUid) -> Self {
        uid.to_bytes()
    }
}

impl AsRef<[u8]> for InstanceUid {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<&[u8]> for InstanceUid {
    type Error = InstanceUidError;

    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        match bytes.try_into() {
            Ok(bytes) => Ok(Self(bytes)),
            Err(_) => Err(InstanceUidError::Length(bytes.len())),
        }
    }
}

impl FromStr for InstanceUid {
    type Err = InstanceUidError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_uuid(text.as_bytes()).ok_or(InstanceUidError::Text)
    }
}

/// Why something is not an [`InstanceUid`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InstanceUidError {
    /// The field does not have 16 bytes but this many (ID-05, ID-16).
    #[error("an instance uid has 16 bytes, not {0}")]
    Length(usize),
    /// The text is not a UUID in its hyphenated form.
    #[error("an instance uid is written as a hyphenated UUID")]
    Text,
}

/// An identifier in a text form that Agents used before 16 bytes were required.
///
/// To accept these is a tolerance a receiver has to decide on: by ID-01 and ID-05 such a message is
/// malformed.
///
/// ```
/// use opamp_proto::{InstanceUid, LegacyForm, LegacyUid};
///
/// let text = b"01H455VB4PEX5VSKNK084SN02Q";
/// assert!(InstanceUid::try_from(&text[..]).is_err());
/// let legacy = LegacyUid::parse(text).ok_or("not a known form")?;
/// assert_eq!(legacy.form(), LegacyForm::Ulid);
/// assert_eq!(legacy.uid().to_string(), "01890a5d-ac96-774b-bcce-b302099a8057");
/// # Ok::<(), &'static str>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LegacyUid {
    uid: InstanceUid,
    form: LegacyForm,
}

/// The text forms of [`LegacyUid`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LegacyForm {
    /// A ULID: 26 characters of Crockford's base 32.
    Ulid,
    /// 32 hexadecimal digits.
    Hex,
    /// A hyphenated UUID: 36 characters.
    Uuid,
}

impl LegacyUid {
    /// Recognises a legacy form, of either letter case; `None` for anything else, 16 bytes
    /// included.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (uid, form) = match bytes.len() {
            26 => (parse_ulid(bytes)?, LegacyForm::Ulid),
            32 => (parse_hex(bytes)?, LegacyForm::Hex),
            36 => (parse_uuid(bytes)?, LegacyForm::Uuid),
            _ => return None,
        };
        Some(Self { uid, form })
    }

    /// The 16 bytes the text stands for.
    #[must_use]
    pub const fn uid(&self) -> InstanceUid {
        self.uid
    }

    /// The form the text had.
    #[must_use]
    pub const fn form(&self) -> LegacyForm {
        self.form
    }
}

fn parse_uuid(text: &[u8]) -> Option<InstanceUid> {
    if text.len() != 36 {
        return None;
    }
    let mut digits = [0; 32];
    let mut filled = 0;
    for (index, &byte) in text.iter().enumerate() {
        if matches!(index, 8 | 13 | 18 | 23) {
            if byte != b'-' {
                return None;
            }
        } else {
            digits[filled] = byte;
            filled += 1;
        }
    }
    parse_hex(&digits)
}

fn parse_hex(text: &[u8]) -> Option<InstanceUid> {
    parse_digits(text, 16, |byte| (byte as char).to_digit(16))
}

fn parse_ulid(text: &[u8]) -> Option<InstanceUid> {
    parse_digits(text, 32, crockford_digit)
}

/// Reads a number of the given base; `None` if it has more than 128 bits.
fn parse_digits(text: &[u8], base: u128, digit: impl Fn(u8) -> Option<u32>) -> Option<InstanceUid> {
    let mut value = 0u128;
    for &byte in text {
        // The base is a power of two, so adding a digit cannot carry.
        value = value.checked_mul(base)? | u128::from(digit(byte)?);
    }
    Some(InstanceUid(value.to_be_bytes()))
}

/// The letters I, L, O and U are not in the alphabet. Crockford reads the first three as digits for
/// people's sake; no program writes them, so they are refused.
fn crockford_digit(byte: u8) -> Option<u32> {
    const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let upper = byte.to_ascii_uppercase();
    (0u32..).zip(ALPHABET).find(|&(_, letter)| *letter == upper).map(|(value, _)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "01890a5d-ac96-774b-bcce-b302099a8057";
    const BYTES: [u8; 16] = [
        0x01, 0x89, 0x0a, 0x5d, 0xac, 0x96, 0x77, 0x4b, 0xbc, 0xce, 0xb3, 0x02, 0x09, 0x9a, 0x80,
        0x57,
    ];

    #[test]
    fn only_16_bytes_are_an_instance_uid() {
        let _judged = opamp_spec::judges(&["ID-05", "ID-16"]);
        for len in 0..64 {
            let result = InstanceUid::try_from(&vec![1; len][..]);
            let expected = match len {
                16 => Ok(InstanceUid([1; 16])),
                _ => Err(InstanceUidError::Length(len)),
            };
            assert_eq!(result, expected);
        }
    }

    #[test]
    fn text_is_read_in_either_case_and_written_in_lower_case() {
        let uid = InstanceUid(BYTES);
        assert_eq!(uid.to_string(), TEXT);
        assert_eq!(format!("{uid:?}"), TEXT);
        assert_eq!(TEXT.parse(), Ok(uid));
        assert_eq!(TEXT.to_uppercase().parse(), Ok(uid));
        for wrong in [
            "",
            "01890a5dac96774bbcceb302099a8057",
            "01890a5d-ac96-774b-bcceb302099a8057-",
            "01890a5d-ac96-774b-bcce-b302099a805",
            "01890a5d-ac96-774b-bcce-b302099a805g",
            "01890a5d-ac96-774b-bcce-b302099a80570",
            "+1890a5d-ac96-774b-bcce-b302099a8057",
            "{01890a5d-ac96-774b-bcce-b302099a805}",
        ] {
            assert_eq!(wrong.parse::<InstanceUid>(), Err(InstanceUidError::Text), "{wrong}");
        }
    }

    #[test]
    fn the_parts_are_where_version_7_has_them() {
        let _judged = opamp_spec::judges(&["ID-06"]);
        // The random bytes are those of the text above, without version and variant.
        let random = [0x07, 0x4b, 0x3c, 0xce, 0xb3, 0x02, 0x09, 0x9a, 0x80, 0x57];
        let uid = InstanceUid::from_parts(0x0189_0a5d_ac96, random);
        assert_eq!(uid, InstanceUid(BYTES));
        assert!(InstanceUid::from_parts(0, [0; 10]).is_v7());
        assert!(InstanceUid::from_parts(u64::MAX, [0xff; 10]).is_v7());
        assert!(!InstanceUid([0; 16]).is_v7());
        assert!(!InstanceUid([0x77; 16]).is_v7(), "the variant counts too");
    }

    #[cfg(feature = "generate")]
    #[test]
    fn generated_ones_are_version_7_of_now_and_differ() {
        let _judged = opamp_spec::judges(&["ID-03", "ID-06"]);
        let millis = || {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.expect("the clock is past 1970").as_millis() as u64
        };
        let before = InstanceUid::from_parts(millis(), [0; 10]);
        let uids: std::collections::BTreeSet<_> =
            (0..100).map(|_| InstanceUid::generate()).collect();
        // Many within a millisecond may be numbered into the next ones.
        let after = InstanceUid::from_parts(millis() + 1000, [0; 10]);
        assert_eq!(uids.len(), 100);
        assert!(uids.iter().all(|uid| uid.is_v7() && (before..after).contains(uid)));
    }

    #[test]
    fn legacy_forms_are_recognised() {
        for (text, form) in [
            ("01H455VB4PEX5VSKNK084SN02Q", LegacyForm::Ulid),
            ("01h455vb4pex5vsknk084sn02q", LegacyForm::Ulid),
            ("01890a5dac96774bbcceb302099a8057", LegacyForm::Hex),
            ("01890A5DAC96774BBCCEB302099A8057", LegacyForm::Hex),
            (TEXT, LegacyForm::Uuid),
        ] {
            let legacy = LegacyUid::parse(text.as_bytes()).expect(text);
            assert_eq!((legacy.uid(), legacy.form()), (InstanceUid(BYTES), form), "{text}");
        }
        let largest = LegacyUid::parse(b"7ZZZZZZZZZZZZZZZZZZZZZZZZZ");
        assert_eq!(largest.map(|legacy| legacy.uid()), Some(InstanceUid([0xff; 16])));
    }

    #[test]
    fn nothing_else_is_a_legacy_form() {
        for wrong in [
            &b"8ZZZZZZZZZZZZZZZZZZZZZZZZZ"[..],
            b"01H455VB4PEX5VSKNK084SN02U",
            b"01H455VB4PEX5VSKNK084SN02I",
            b"01H455VB4PEX5VSKNK084SN02\xff",
            b"01890a5dac96774bbcceb302099a805g",
            b"01890a5d-ac96-774b-bcce+b302099a8057",
            &BYTES,
            b"",
        ] {
            assert_eq!(LegacyUid::parse(wrong), None, "{wrong:?}");
        }
    }
}
