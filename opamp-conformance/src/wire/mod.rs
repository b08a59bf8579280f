//! What goes over the wire, as the tester writes and reads it: its own framing, ids and
//! compression, so that an error of the crates it may be testing cannot hide in it.

pub mod authority;
pub mod body;
pub mod certificate;
pub mod encode;
pub mod endpoint;
pub mod http_client;
pub mod mutate;
pub mod otlp;
pub mod proxy;
mod record;
mod schema;
pub mod text;
pub mod uid;
pub mod url;
pub mod ws;

use opamp_proto::v1::any_value::Value;
use opamp_proto::v1::{AnyValue, KeyValue};

/// An attribute with a text.
pub(crate) fn attribute(key: &str, value: &str) -> KeyValue {
    let value = Some(Value::StringValue(value.to_owned()));
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value }) }
}

/// These bytes in hexadecimal, lower case.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |four: u8| char::from(if four < 10 { b'0' + four } else { b'a' + four - 10 });
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}
