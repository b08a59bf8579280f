//! Attribute values: making them, reading them, comparing them by meaning, showing them.
//!
//! Derived equality of the messages goes by the form: it tells two attribute lists apart that
//! differ in order only, finds NaN unequal to itself, and 0 equal to -0. What decides whether an
//! Agent has something new to report is [`AnyValue::equivalent`] and [`attributes_equivalent`].
//!
//! Values received over the wire are nested to a limited depth, values built in memory need not be.
//! Everything here therefore stops at [`MAX_VALUE_NESTING`] levels.

use std::fmt::{self, Write as _};

use bytes::Bytes;

use crate::v1::any_value::Value;
use crate::v1::{AgentDescription, AnyValue, ArrayValue, KeyValue, KeyValueList};

/// How deep a value is looked into: levels of lists within lists.
///
/// It is more than what decoding lets pass, where one level takes up to three nested messages of
/// the hundred allowed.
pub const MAX_VALUE_NESTING: usize = 100;

/// How many bytes of a bytes value are shown.
const SHOWN_BYTES: usize = 32;

macro_rules! any_value_from {
    ($($from:ty => |$value:ident| $variant:expr;)*) => {
        $(impl From<$from> for AnyValue {
            fn from($value: $from) -> Self {
                Self { value: Some($variant) }
            }
        })*
    };
}

any_value_from! {
    &str => |value| Value::StringValue(value.to_owned());
    String => |value| Value::StringValue(value);
    bool => |value| Value::BoolValue(value);
    i32 => |value| Value::IntValue(value.into());
    u32 => |value| Value::IntValue(value.into());
    i64 => |value| Value::IntValue(value);
    f64 => |value| Value::DoubleValue(value);
    Bytes => |value| Value::BytesValue(value);
    Vec<u8> => |value| Value::BytesValue(value.into());
    Vec<AnyValue> => |values| Value::ArrayValue(ArrayValue { values });
    Vec<KeyValue> => |values| Value::KvlistValue(KeyValueList { values });
}

impl AnyValue {
    /// The text, if it is a string.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            Some(Value::StringValue(value)) => Some(value),
            _ => None,
        }
    }

    /// The truth value, if it is one.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match self.value {
            Some(Value::BoolValue(value)) => Some(value),
            _ => None,
        }
    }

    /// The number, if it is an integer.
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        match self.value {
            Some(Value::IntValue(value)) => Some(value),
            _ => None,
        }
    }

    /// The number, if it is a floating-point one.
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        match self.value {
            Some(Value::DoubleValue(value)) => Some(value),
            _ => None,
        }
    }

    /// The bytes, if it is a bytes value.
    #[must_use]
    pub fn as_bytes(&self) -> Option<&Bytes> {
        match &self.value {
            Some(Value::BytesValue(value)) => Some(value),
            _ => None,
        }
    }

    /// The elements, if it is an array.
    #[must_use]
    pub fn as_array(&self) -> Option<&[AnyValue]> {
        match &self.value {
            Some(Value::ArrayValue(array)) => Some(&array.values),
            _ => None,
        }
    }

    /// The pairs, if it is a list of key/value pairs.
    #[must_use]
    pub fn as_kvlist(&self) -> Option<&[KeyValue]> {
        match &self.value {
            Some(Value::KvlistValue(list)) => Some(&list.values),
            _ => None,
        }
    }

    /// Whether both mean the same.
    ///
    /// Floating-point numbers are the same if their bits are, and all NaN are the same. The order
    /// of an array counts; the order of key/value pairs does not, but how often a pair occurs does.
    /// Values nested deeper than [`MAX_VALUE_NESTING`] are equivalent to none, not even to
    /// themselves.
    ///
    /// ```
    /// use opamp_proto::v1::{AnyValue, KeyValue};
    ///
    /// let one = AnyValue::from(vec![KeyValue::new("a", 1), KeyValue::new("b", f64::NAN)]);
    /// let two = AnyValue::from(vec![KeyValue::new("b", f64::NAN), KeyValue::new("a", 1)]);
    /// assert!(one != two);
    /// assert!(one.equivalent(&two));
    /// ```
    #[must_use]
    pub fn equivalent(&self, other: &Self) -> bool {
        let form = |value: &Self| {
            let mut out = Vec::new();
            write_value(value, 0, &mut out).map(|()| out)
        };
        matches!((form(self), form(other)), (Some(one), Some(two)) if one == two)
    }
}

impl KeyValue {
    /// Makes an attribute.
    ///
    /// ```
    /// use opamp_proto::v1::KeyValue;
    ///
    /// let attribute = KeyValue::new("service.name", "io.opentelemetry.collector");
    /// assert_eq!(attribute.to_string(), r#""service.name": "io.opentelemetry.collector""#);
    /// ```
    #[must_use]
    pub fn new(key: impl Into<String>, value: impl Into<AnyValue>) -> Self {
        Self { key: key.into(), value: Some(value.into()) }
    }
}

impl AgentDescription {
    /// Whether both mean the same: each list is compared by [`attributes_equivalent`].
    #[must_use]
    pub fn equivalent(&self, other: &Self) -> bool {
        attributes_equivalent(&self.identifying_attributes, &other.identifying_attributes)
            && attributes_equivalent(
                &self.non_identifying_attributes,
                &other.non_identifying_attributes,
            )
    }
}

/// Whether two lists of attributes mean the same: the same pairs equally often, in any order.
///
/// Values compare as in [`AnyValue::equivalent`]; no value is the same as an empty one.
#[must_use]
pub fn attributes_equivalent(one: &[KeyValue], two: &[KeyValue]) -> bool {
    if one.len() != two.len() {
        return false;
    }
    let form = |pairs| {
        let mut out = Vec::new();
        write_pairs(pairs, 0, &mut out).map(|()| out)
    };
    matches!((form(one), form(two)), (Some(one), Some(two)) if one == two)
}

// Two values are equivalent if they are written alike in the form below. Every part has a fixed
// length or is preceded by its length, and pairs are sorted. Going through such a form takes time
// about proportional to the size; matching pairs of equal keys against each other would take its
// square.

/// `None` if the value is nested too deep.
fn write_value(value: &AnyValue, level: usize, out: &mut Vec<u8>) -> Option<()> {
    if level > MAX_VALUE_NESTING {
        return None;
    }
    match &value.value {
        None => out.push(0),
        Some(Value::StringValue(text)) => {
            out.push(1);
            write_sized(text.as_bytes(), out);
        }
        Some(Value::BoolValue(value)) => out.extend([2, u8::from(*value)]),
        Some(Value::IntValue(value)) => {
            out.push(3);
            out.extend(value.to_be_bytes());
        }
        Some(Value::DoubleValue(value)) => {
            out.push(4);
            let value = if value.is_nan() { f64::NAN } else { *value };
            out.extend(value.to_bits().to_be_bytes());
        }
        Some(Value::ArrayValue(array)) => {
            out.push(5);
            out.extend((array.values.len() as u64).to_be_bytes());
            for value in &array.values {
                write_value(value, level + 1, out)?;
            }
        }
        Some(Value::KvlistValue(list)) => {
            out.push(6);
            write_pairs(&list.values, level + 1, out)?;
        }
        Some(Value::BytesValue(bytes)) => {
            out.push(7);
            write_sized(bytes, out);
        }
    }
    Some(())
}

/// `None` if a value is nested too deep.
pub(crate) fn write_pairs(pairs: &[KeyValue], level: usize, out: &mut Vec<u8>) -> Option<()> {
    let mut written = Vec::with_capacity(pairs.len());
    for pair in pairs {
        let mut form = Vec::new();
        write_sized(pair.key.as_bytes(), &mut form);
        match &pair.value {
            Some(value) => write_value(value, level, &mut form)?,
            None => form.push(0),
        }
        written.push(form);
    }
    written.sort_unstable();
    out.extend((pairs.len() as u64).to_be_bytes());
    for form in written {
        out.extend(form);
    }
    Some(())
}

pub(crate) fn write_sized(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend((bytes.len() as u64).to_be_bytes());
    out.extend(bytes);
}

/// Writes the value for an operator to read, much like JSON: bytes in hexadecimal, cut off after a
/// few; an empty value as `null`; what is nested deeper than [`MAX_VALUE_NESTING`] as an ellipsis.
///
/// ```
/// use opamp_proto::v1::{AnyValue, KeyValue};
///
/// let value = AnyValue::from(vec![
///     KeyValue::new("ports", vec![AnyValue::from(4317), AnyValue::from(4318)]),
///     KeyValue::new("key", vec![0xab_u8, 0x01]),
/// ]);
/// assert_eq!(value.to_string(), r#"{"ports": [4317, 4318], "key": 0xab01}"#);
/// ```
impl fmt::Display for AnyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show_value(self, 0, f)
    }
}

/// Writes `"key": value`, the value as [`AnyValue`] does.
impl fmt::Display for KeyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show_pair(self, 0, f)
    }
}

fn show_value(value: &AnyValue, level: usize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if level > MAX_VALUE_NESTING {
        return f.write_char('…');
    }
    match &value.value {
        None => f.write_str("null"),
        Some(Value::StringValue(text)) => write!(f, "{text:?}"),
        Some(Value::BoolValue(value)) => write!(f, "{value}"),
        Some(Value::IntValue(value)) => write!(f, "{value}"),
        Some(Value::DoubleValue(value)) => write!(f, "{value:?}"),
        Some(Value::BytesValue(bytes)) => show_bytes(bytes, f),
        Some(Value::ArrayValue(array)) => {
            f.write_char('[')?;
            for (index, value) in array.values.iter().enumerate() {
                f.write_str(if index == 0 { "" } else { ", " })?;
                show_value(value, level + 1, f)?;
            }
            f.write_char(']')
        }
        Some(Value::KvlistValue(list)) => {
            f.write_char('{')?;
            for (index, pair) in list.values.iter().enumerate() {
                f.write_str(if index == 0 { "" } else { ", " })?;
                show_pair(pair, level + 1, f)?;
            }
            f.write_char('}')
        }
    }
}

fn show_pair(pair: &KeyValue, level: usize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "{:?}: ", pair.key)?;
    match &pair.value {
        Some(value) => show_value(value, level, f),
        None => f.write_str("null"),
    }
}

fn show_bytes(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("0x")?;
    for byte in bytes.iter().take(SHOWN_BYTES) {
        write!(f, "{byte:02x}")?;
    }
    if bytes.len() > SHOWN_BYTES {
        write!(f, "… ({} bytes)", bytes.len())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(levels: usize) -> AnyValue {
        (0..levels).fold(AnyValue::from(1), |inner, level| {
            if level % 2 == 0 { vec![inner].into() } else { vec![KeyValue::new("k", inner)].into() }
        })
    }

    #[test]
    fn accessors_give_back_what_was_put_in() {
        assert_eq!(AnyValue::from("text").as_str(), Some("text"));
        assert_eq!(AnyValue::from(true).as_bool(), Some(true));
        assert_eq!(AnyValue::from(-7).as_i64(), Some(-7));
        assert_eq!(AnyValue::from(0.5).as_f64(), Some(0.5));
        assert_eq!(AnyValue::from(vec![1_u8]).as_bytes(), Some(&Bytes::from_static(&[1])));
        assert_eq!(AnyValue::from(vec![AnyValue::from(1)]).as_array().map(<[_]>::len), Some(1));
        let list = AnyValue::from(vec![KeyValue::new("k", "v")]);
        assert_eq!(list.as_kvlist().map(<[_]>::len), Some(1));
        assert_eq!(list.as_str(), None);
        assert_eq!(AnyValue::default().as_bool(), None);
    }

    #[test]
    fn numbers_compare_by_bits_and_nan_by_being_one() {
        let other_nan = f64::from_bits(f64::NAN.to_bits() | 1);
        assert!(AnyValue::from(f64::NAN).equivalent(&other_nan.into()));
        assert!(!AnyValue::from(0.0).equivalent(&(-0.0).into()));
        assert!(!AnyValue::from(1).equivalent(&1.0.into()));
    }

    /// W-41 of the reference: equal arrays were not equal, and different ones were.
    #[test]
    fn arrays_are_ordered_and_pairs_are_not() {
        let array = |items: &[i32]| {
            AnyValue::from(items.iter().copied().map(AnyValue::from).collect::<Vec<_>>())
        };
        assert!(array(&[1, 2]).equivalent(&array(&[1, 2])));
        assert!(!array(&[1, 2]).equivalent(&array(&[2, 1])));
        let pairs = |items: &[(&str, i32)]| {
            items.iter().map(|&(key, value)| KeyValue::new(key, value)).collect::<Vec<_>>()
        };
        let same = |one: &[_], two: &[_]| attributes_equivalent(&pairs(one), &pairs(two));
        assert!(same(&[("a", 1), ("b", 2)], &[("b", 2), ("a", 1)]));
        assert!(same(&[("a", 1), ("a", 2)], &[("a", 2), ("a", 1)]));
        assert!(!same(&[("a", 1), ("a", 1), ("a", 2)], &[("a", 1), ("a", 2), ("a", 2)]));
        assert!(!same(&[("a", 1)], &[("a", 1), ("a", 1)]));
    }

    #[test]
    fn what_belongs_to_what_counts() {
        let list = |items: Vec<AnyValue>| AnyValue::from(items);
        let (one, two) = (|| list(vec![1.into()]), || list(vec![2.into()]));
        let flat = list(vec![one(), two()]);
        assert!(!flat.equivalent(&list(vec![list(vec![1.into(), two()])])));
        // In the form the values are compared by, false begins with a 2.
        let longer_key = KeyValue { key: "k\u{2}".to_owned(), value: None };
        assert!(!attributes_equivalent(&[KeyValue::new("k", false)], &[longer_key]));
    }

    #[test]
    fn no_value_is_the_same_as_an_empty_one() {
        let unset = KeyValue { key: "k".to_owned(), value: None };
        assert!(attributes_equivalent(
            std::slice::from_ref(&unset),
            &[KeyValue::new("k", AnyValue::default())]
        ));
        assert!(!attributes_equivalent(&[unset], &[KeyValue::new("k", "")]));
    }

    #[test]
    fn the_lists_of_a_description_are_not_interchangeable() {
        let attributes = vec![KeyValue::new("k", 1)];
        let one = AgentDescription {
            identifying_attributes: attributes.clone(),
            non_identifying_attributes: Vec::new(),
        };
        let two = AgentDescription {
            identifying_attributes: Vec::new(),
            non_identifying_attributes: attributes,
        };
        assert!(one.equivalent(&one));
        assert!(!one.equivalent(&two));
    }

    #[test]
    fn nesting_is_followed_to_the_limit_and_no_further() {
        assert!(nested(MAX_VALUE_NESTING).equivalent(&nested(MAX_VALUE_NESTING)));
        assert!(!nested(MAX_VALUE_NESTING + 1).equivalent(&nested(MAX_VALUE_NESTING + 1)));
        assert!(!nested(MAX_VALUE_NESTING).to_string().contains('…'));
        assert!(nested(MAX_VALUE_NESTING + 1).to_string().contains('…'));
        assert!(!nested(1000).equivalent(&nested(1000)));
    }

    #[test]
    fn long_bytes_are_cut_off_when_shown() {
        let shown = |len| AnyValue::from(vec![0xee_u8; len]).to_string();
        let digits = "ee".repeat(SHOWN_BYTES);
        assert_eq!(shown(SHOWN_BYTES), format!("0x{digits}"));
        assert_eq!(shown(SHOWN_BYTES + 1), format!("0x{digits}… (33 bytes)"));
        assert_eq!(AnyValue::default().to_string(), "null");
        assert_eq!(AnyValue::from("a\"b\n").to_string(), r#""a\"b\n""#);
    }
}
