//! Messages as text, read from their bytes by the schema catalogue alone. It shares nothing with
//! the generated messages, so it also sees what those pass over: unknown fields and values, and
//! what no correct encoder writes.

use std::collections::HashSet;
use std::fmt;

use super::record::{self, Value};
use super::schema::{self, Field, Kind, Label};
use super::{hex, uid};

/// How deep messages may nest; deeper ones are not read.
const MAX_DEPTH: usize = 64;
/// How many bytes of text a message becomes.
const MAX_TEXT: usize = 64 << 10;
/// How many bytes of text or digits of hexadecimal are shown of a value.
const MAX_VALUE: usize = 2 << 10;
/// How many bytes are shown of a key in the name of a map's entry.
const MAX_KEY: usize = 64;
/// How many keys a message's maps are checked for repetition.
const MAX_KEYS: usize = 10_000;
/// How many unknown fields, unknown values and problems are listed each.
const MAX_LISTED: usize = 100;

/// The end of a text that was too long.
const CUT: &str = "\n… more text not shown";

/// What was read from the bytes of a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    /// The message as text, one field per line, in the order of the wire; at most 64 KiB.
    pub text: String,
    /// Paths of the fields that the schema does not have, for example `health.99`.
    pub unknown_fields: Vec<String>,
    /// Values that the schema does not have, with their paths, for example
    /// `error_response.type: 7` or, for the bits of a mask, `capabilities: 0x10000`.
    pub unknown_values: Vec<String>,
    /// What no correct encoder writes, with its path: what cannot be decoded, a field of the wrong
    /// wire type, text that is not UTF-8, and what came more than once but may come only once. Also
    /// what is nested deeper than 64 levels, as that is not read.
    pub problems: Vec<String>,
}

/// Reads a message of the schema, such as `AgentToServer`. Never fails: what cannot be read is in
/// the text as hexadecimal, and among the problems.
///
/// The three lists end after 100 entries each, with one more that says so.
#[must_use]
pub fn read(root: &str, bytes: &[u8]) -> Reading {
    let mut reader = Reader::default();
    match schema::message(root) {
        Some(fields) => reader.message(Parts::new(fields, bytes, 0)),
        None => reader.problem("", format_args!("the schema has no message {root}")),
    }
    let Reader { mut reading, cut, .. } = reader;
    reading.text.truncate(reading.text.trim_end().len());
    if cut {
        reading.text.push_str(CUT);
    }
    reading
}

/// A part of a message.
enum Part<'a> {
    /// A field of the right wire type; its place among those of the same number, from 0.
    Known(&'static Field, usize, Value<'a>),
    /// A field the schema does not have, or not with this wire type.
    Unknown(u32, Value<'a>),
    /// What cannot be taken apart.
    Rest(&'a [u8]),
}

/// A message that is being taken apart.
struct Parts<'a> {
    fields: &'static [Field],
    /// What is left of it.
    bytes: &'a [u8],
    /// How often each field came so far.
    counts: Vec<usize>,
    depth: usize,
}

impl<'a> Parts<'a> {
    fn new(fields: &'static [Field], bytes: &'a [u8], depth: usize) -> Self {
        Self { fields, bytes, counts: vec![0; fields.len()], depth }
    }

    fn of(message: &str, bytes: &'a [u8], depth: usize) -> Self {
        Self::new(schema::message(message).unwrap_or_default(), bytes, depth)
    }
}

#[derive(Default)]
struct Reader {
    reading: Reading,
    /// Whether there was more text than may be.
    cut: bool,
    /// How far the line is indented.
    level: usize,
    /// Where reading is, for example `health.component_health_map["x"]`.
    path: String,
}

impl Reader {
    /// The next part of a message, noting what is unknown or wrong with it on this level.
    fn next<'a>(&mut self, parts: &mut Parts<'a>) -> Option<Part<'a>> {
        if parts.bytes.is_empty() {
            return None;
        }
        if parts.depth >= MAX_DEPTH {
            self.problem("", format_args!("nested deeper than {MAX_DEPTH} levels"));
            return Some(Part::Rest(std::mem::take(&mut parts.bytes)));
        }
        let (number, value) = match record::take(&mut parts.bytes) {
            Ok(record) => record,
            Err(problem) => {
                self.problem("", format_args!("{problem}"));
                return Some(Part::Rest(std::mem::take(&mut parts.bytes)));
            }
        };
        let Some(index) = parts.fields.iter().position(|field| field.number == number) else {
            let path = &self.path;
            list(&mut self.reading.unknown_fields, || at(path, &number.to_string()));
            return Some(Part::Unknown(number, value));
        };
        let field = &parts.fields[index];
        if !fits(&field.kind, value) {
            self.problem(field.name, format_args!("is {}", value.wire_type()));
            return Some(Part::Unknown(number, value));
        }
        let place = parts.counts[index];
        parts.counts[index] += 1;
        if field.label != Label::Repeated && place > 0 {
            self.problem(field.name, format_args!("more than once"));
        }
        let rival = |(other, count): (&Field, &usize)| {
            *count > 0 && other.number != number && other.label == field.label
        };
        if let Label::OneOf(name) = field.label
            && parts.fields.iter().zip(&parts.counts).any(rival)
        {
            self.problem(field.name, format_args!("beside another of the oneof {name}"));
        }
        Some(Part::Known(field, place, value))
    }

    /// Writes the fields of a message, each on its own line or lines.
    fn message(&mut self, mut parts: Parts<'_>) {
        // The keys of maps seen so far, with the number of their map.
        let mut keys = HashSet::new();
        while let Some(part) = self.next(&mut parts) {
            self.indent();
            match part {
                Part::Known(field, place, value) => {
                    let mark = self.enter(field, place);
                    self.write(field.name);
                    if let (Kind::Map(entry), Value::Bytes(bytes)) = (&field.kind, value) {
                        let (key, value) =
                            self.entry(Parts::new(&entry[..], bytes, parts.depth + 1));
                        let shown = format!("[{}]", quoted(key, MAX_KEY));
                        if keys.contains(&(field.number, key)) {
                            self.problem("", format_args!("key {shown} more than once"));
                        } else if keys.len() < MAX_KEYS {
                            keys.insert((field.number, key));
                        }
                        self.write(&shown);
                        self.path.push_str(&shown);
                        self.value(&entry[1].kind, value, parts.depth + 1);
                    } else {
                        self.value(&field.kind, value, parts.depth);
                    }
                    self.path.truncate(mark);
                }
                part => {
                    self.unread(part);
                    self.write("\n");
                }
            }
        }
    }

    /// The key and the value of a map's entry. What an entry leaves out is the default, which for
    /// the types of this schema's maps is no bytes.
    fn entry<'a>(&mut self, mut parts: Parts<'a>) -> (&'a [u8], Value<'a>) {
        let (mut key, mut value) = (&b""[..], Value::Bytes(b""));
        while let Some(part) = self.next(&mut parts) {
            match part {
                Part::Known(Field { number: 1, .. }, _, Value::Bytes(bytes)) => key = bytes,
                Part::Known(_, _, found) => value = found,
                // Listed with their path; an entry has no lines of its own to show them on.
                Part::Unknown(..) | Part::Rest(_) => {}
            }
        }
        self.check_utf8("key", key);
        (key, value)
    }

    /// Writes what follows the name of a field in a message of this depth, and ends the line.
    fn value(&mut self, kind: &Kind, value: Value<'_>, depth: usize) {
        match (kind, value) {
            (Kind::Message("KeyValue"), Value::Bytes(bytes)) => {
                self.write(": ");
                self.attribute(bytes, depth + 1);
            }
            (Kind::Message(_), Value::Bytes(b"")) => self.write(" {}"),
            (Kind::Message(name), Value::Bytes(bytes)) => {
                self.write(" {\n");
                self.level += 1;
                self.message(Parts::of(name, bytes, depth + 1));
                self.level -= 1;
                self.indent();
                self.write("}");
            }
            _ => {
                self.write(": ");
                self.scalar(kind, value);
            }
        }
        self.write("\n");
    }

    /// Writes a KeyValue within the line: `service.name = "x"`.
    fn attribute(&mut self, bytes: &[u8], depth: usize) {
        // The key comes first in the text, wherever it is on the wire.
        let (mut key, mut alone, mut rest) = (&b""[..], true, bytes);
        while let Ok((number, value)) = record::take(&mut rest) {
            match (number, value) {
                (1, Value::Bytes(bytes)) => key = bytes,
                _ => alone = false,
            }
        }
        self.check_utf8("key", key);
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-/".contains(byte);
        match std::str::from_utf8(key) {
            Ok(name) if !key.is_empty() && key.len() <= MAX_VALUE && key.iter().all(plain) => {
                self.write(name);
            }
            _ => self.write(&quoted(key, MAX_VALUE)),
        }
        self.write(" = ");
        if alone && rest.is_empty() {
            self.write("(no value)");
        }
        self.inline(Parts::of("KeyValue", bytes, depth));
    }

    /// Writes the parts of an AnyValue, or of what it consists of, within the line. The key of a
    /// KeyValue is left out.
    fn inline(&mut self, mut parts: Parts<'_>) {
        let mut separator = "";
        while let Some(part) = self.next(&mut parts) {
            if matches!(part, Part::Known(Field { name: "key", .. }, ..)) {
                continue;
            }
            self.write(separator);
            separator = ", ";
            let (field, place, value) = match part {
                Part::Known(field, place, value) => (field, place, value),
                part => {
                    self.unread(part);
                    continue;
                }
            };
            let mark = self.enter(field, place);
            match (&field.kind, value) {
                (Kind::Message("KeyValue"), Value::Bytes(bytes)) => {
                    self.attribute(bytes, parts.depth + 1);
                }
                (Kind::Message(name), Value::Bytes(bytes)) => {
                    let (open, close) = match *name {
                        "ArrayValue" => ("[", "]"),
                        "KeyValueList" => ("{", "}"),
                        _ if bytes.is_empty() => ("(empty)", ""),
                        _ => ("", ""),
                    };
                    self.write(open);
                    self.inline(Parts::of(name, bytes, parts.depth + 1));
                    self.write(close);
                }
                (kind, value) => {
                    self.write(if matches!(kind, Kind::Bytes) { "bytes " } else { "" });
                    self.scalar(kind, value);
                }
            }
            self.path.truncate(mark);
        }
    }

    /// Writes a value without fields of its own.
    fn scalar(&mut self, kind: &Kind, value: Value<'_>) {
        let text = match (kind, value) {
            (Kind::Bool, Value::Varint(value @ 0..=1)) => (value == 1).to_string(),
            (Kind::Bool, Value::Varint(value)) => format!("true ({value})"),
            (Kind::Int64, Value::Varint(value)) => value.cast_signed().to_string(),
            (Kind::Double, Value::Fixed64(value)) => format!("{:?}", f64::from_bits(value)),
            (Kind::Enum(name), Value::Varint(value)) => {
                match schema::values(name).iter().find(|(number, _)| *number == value) {
                    Some((_, name)) => (*name).to_owned(),
                    None => {
                        let value = value.cast_signed();
                        self.unknown_value(format_args!("{value}"));
                        format!("{value} (unknown)")
                    }
                }
            }
            (Kind::Mask(name), Value::Varint(mask)) => self.mask(schema::values(name), mask),
            (Kind::Uid, Value::Bytes(bytes)) if bytes.len() == 16 => {
                format!("{} ({})", uid::text(bytes), hex(bytes))
            }
            (Kind::Uid, Value::Bytes(bytes)) => {
                format!("{} (no UUID: {} bytes)", data(bytes), bytes.len())
            }
            (Kind::Text, Value::Bytes(bytes)) => {
                self.check_utf8("", bytes);
                quoted(bytes, MAX_VALUE)
            }
            (_, value) => raw(value),
        };
        self.write(&text);
    }

    /// The names of the bits of a mask.
    fn mask(&mut self, bits: &[(u64, &str)], mask: u64) -> String {
        let set = bits.iter().filter(|(bit, _)| bit & mask != 0 || *bit == mask);
        let mut names: Vec<_> = set.map(|(_, name)| (*name).to_owned()).collect();
        let undefined = bits.iter().fold(mask, |left, (bit, _)| left & !bit);
        if undefined != 0 {
            self.unknown_value(format_args!("{undefined:#x}"));
            names.push(format!("{undefined:#x}"));
        }
        format!("{} ({mask:#x})", names.join(" | "))
    }

    /// Writes what is no field of the schema.
    fn unread(&mut self, part: Part<'_>) {
        match part {
            Part::Known(..) => {}
            Part::Unknown(number, value) => {
                self.write(&format!("{number}: {} (unknown)", raw(value)));
            }
            Part::Rest(rest) => {
                self.write(&format!("… not read: {}", hexadecimal(rest, MAX_VALUE)))
            }
        }
    }

    fn indent(&mut self) {
        for _ in 0..self.level {
            self.write("  ");
        }
    }

    fn write(&mut self, text: &str) {
        if self.cut {
            return;
        }
        let shown = head(text, MAX_TEXT - CUT.len() - self.reading.text.len());
        self.reading.text.push_str(shown);
        self.cut = shown.len() < text.len();
    }

    /// Appends a field to the path; gives the length to cut it back to.
    fn enter(&mut self, field: &Field, place: usize) -> usize {
        let mark = self.path.len();
        if mark > 0 {
            self.path.push('.');
        }
        self.path.push_str(field.name);
        if field.label == Label::Repeated && !matches!(field.kind, Kind::Map(_)) {
            self.path.push_str(&format!("[{place}]"));
        }
        mark
    }

    fn check_utf8(&mut self, name: &str, bytes: &[u8]) {
        if std::str::from_utf8(bytes).is_err() {
            self.problem(name, format_args!("is not UTF-8"));
        }
    }

    /// Notes a problem of the message being read, or of the field of this name in it.
    fn problem(&mut self, name: &str, what: fmt::Arguments<'_>) {
        let path = &self.path;
        list(&mut self.reading.problems, || match at(path, name) {
            path if path.is_empty() => what.to_string(),
            path => format!("{path}: {what}"),
        });
    }

    fn unknown_value(&mut self, value: fmt::Arguments<'_>) {
        let path = &self.path;
        list(&mut self.reading.unknown_values, || format!("{path}: {value}"));
    }
}

/// Whether a field of this kind has the wire type of this value.
fn fits(kind: &Kind, value: Value<'_>) -> bool {
    match kind {
        Kind::Bool | Kind::Uint64 | Kind::Int64 | Kind::Enum(_) | Kind::Mask(_) => {
            matches!(value, Value::Varint(_))
        }
        Kind::Fixed64 | Kind::Double => matches!(value, Value::Fixed64(_)),
        Kind::Text | Kind::Bytes | Kind::Uid | Kind::Message(_) | Kind::Map(_) => {
            matches!(value, Value::Bytes(_))
        }
    }
}

/// Appends to a list of bounded length. The entry is only made when it has a place.
fn list(entries: &mut Vec<String>, entry: impl FnOnce() -> String) {
    match entries.len() {
        0..MAX_LISTED => entries.push(entry()),
        MAX_LISTED => entries.push("… and more".to_owned()),
        _ => {}
    }
}

fn at(path: &str, name: &str) -> String {
    let dot = if path.is_empty() || name.is_empty() { "" } else { "." };
    format!("{path}{dot}{name}")
}

/// A value of no known type.
fn raw(value: Value<'_>) -> String {
    match value {
        Value::Varint(value) | Value::Fixed64(value) => value.to_string(),
        Value::Fixed32(value) => value.to_string(),
        Value::Bytes(bytes) => data(bytes),
    }
}

/// Bytes as text in quotes where they are printable, otherwise in hexadecimal.
fn data(bytes: &[u8]) -> String {
    let printable = |c: char| !c.is_control() || "\n\r\t".contains(c);
    match std::str::from_utf8(bytes) {
        Ok(text) if text.chars().all(printable) => quoted(bytes, MAX_VALUE),
        _ => hexadecimal(bytes, MAX_VALUE),
    }
}

/// Text in quotes and escaped; hexadecimal if it is not UTF-8.
fn quoted(bytes: &[u8], limit: usize) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.len() <= limit => format!("{text:?}"),
        Ok(text) => {
            let shown = head(text, limit);
            format!("{shown:?}… ({} more bytes)", text.len() - shown.len())
        }
        Err(_) => hexadecimal(bytes, limit),
    }
}

/// Bytes in hexadecimal, of at most this many digits.
fn hexadecimal(bytes: &[u8], limit: usize) -> String {
    match bytes.split_at_checked(limit / 2) {
        Some((shown, rest)) if !rest.is_empty() => {
            format!("0x{}… ({} bytes, {} more)", hex(shown), bytes.len(), rest.len())
        }
        _ => format!("0x{} ({} bytes)", hex(bytes), bytes.len()),
    }
}

/// The start of a text that is at most this many bytes long.
fn head(text: &str, limit: usize) -> &str {
    let mut end = limit.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests;
