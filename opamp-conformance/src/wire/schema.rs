//! The wire schema as the catalogue has it, arranged for looking up fields by message and number.

use std::collections::HashMap;
use std::sync::LazyLock;

/// A field of a message.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) number: u32,
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) label: Label,
}

/// How often a field may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Label {
    Singular,
    /// At most one of those with the same name of the oneof.
    OneOf(&'static str),
    Repeated,
}

/// What a field holds.
#[derive(Debug)]
pub(super) enum Kind {
    Bool,
    Uint64,
    Int64,
    Fixed64,
    Double,
    Text,
    Bytes,
    /// An instance uid.
    Uid,
    /// One value of the enum of this name.
    Enum(&'static str),
    /// Bits of the enum of this name.
    Mask(&'static str),
    /// The message of this name.
    Message(&'static str),
    /// The fields of an entry: key and value.
    Map(Box<[Field; 2]>),
}

#[derive(Debug, Default)]
struct Schema {
    messages: HashMap<&'static str, Vec<Field>>,
    enums: HashMap<&'static str, Vec<(u64, &'static str)>>,
}

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    let rows = opamp_spec::schema();
    let mut schema = Schema::default();
    for row in rows.iter().filter(|row| row.kind == "enum") {
        let name = row.message_or_enum.as_str();
        let value = row.name.strip_prefix(name).unwrap_or(&row.name).trim_start_matches('_');
        schema.enums.entry(name).or_default().extend(row.number.map(|number| (number, value)));
    }
    for row in rows.iter().filter(|row| row.kind == "message") {
        let field = row.number.and_then(|number| u32::try_from(number).ok()).map(|number| Field {
            number,
            name: &row.name,
            kind: kind(&schema, row),
            label: match row.label.as_str() {
                "repeated" | "map" => Label::Repeated,
                label => label.strip_prefix("oneof:").map_or(Label::Singular, Label::OneOf),
            },
        });
        schema.messages.entry(&row.message_or_enum).or_default().extend(field);
    }
    schema
});

fn kind(schema: &Schema, row: &'static opamp_spec::SchemaRow) -> Kind {
    // Masks are plain integers to the schema; only the comments in it say whose bits they hold.
    match (row.message_or_enum.as_str(), row.name.as_str()) {
        ("AgentToServer", "capabilities") => return Kind::Mask("AgentCapabilities"),
        ("AgentToServer", "flags") => return Kind::Mask("AgentToServerFlags"),
        ("ServerToAgent", "capabilities") => return Kind::Mask("ServerCapabilities"),
        ("ServerToAgent", "flags") => return Kind::Mask("ServerToAgentFlags"),
        (_, "instance_uid" | "new_instance_uid") => return Kind::Uid,
        _ => {}
    }
    let named = |name: &'static str| match name {
        "bool" => Kind::Bool,
        "uint64" => Kind::Uint64,
        "int64" => Kind::Int64,
        "fixed64" => Kind::Fixed64,
        "double" => Kind::Double,
        "string" => Kind::Text,
        "bytes" => Kind::Bytes,
        name if schema.enums.contains_key(name) => Kind::Enum(name),
        name => Kind::Message(name),
    };
    let map = row.kind_of_value.strip_prefix("map<").and_then(|rest| rest.strip_suffix('>'));
    match map.and_then(|types| types.split_once(", ")) {
        Some((key, value)) => Kind::Map(Box::new([
            Field { number: 1, name: "key", kind: named(key), label: Label::Singular },
            Field { number: 2, name: "value", kind: named(value), label: Label::Singular },
        ])),
        None => named(&row.kind_of_value),
    }
}

/// The fields of the message of this name; `None` when there is no such message.
pub(super) fn message(name: &str) -> Option<&'static [Field]> {
    SCHEMA.messages.get(name).map(Vec::as_slice)
}

/// The values of the enum of this name, without the prefix they share.
pub(super) fn values(name: &str) -> &'static [(u64, &'static str)] {
    SCHEMA.enums.get(name).map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(field: &Field) {
        match &field.kind {
            Kind::Message(name) => assert!(message(name).is_some(), "type {name} is known"),
            Kind::Mask(name) => assert!(!values(name).is_empty(), "enum {name} is known"),
            Kind::Map(entry) => {
                assert!(matches!(entry[0].kind, Kind::Text));
                assert!(matches!(entry[1].kind, Kind::Text | Kind::Message(_)));
                check(&entry[1]);
            }
            // What could be packed when repeated would need reading that nothing needs so far.
            kind => assert!(
                field.label != Label::Repeated || matches!(kind, Kind::Text | Kind::Bytes),
                "{} is not packed",
                field.name
            ),
        }
    }

    #[test]
    fn everything_the_schema_uses_is_known() {
        let rows = opamp_spec::schema().iter();
        assert_eq!(
            SCHEMA.messages.values().map(Vec::len).sum::<usize>(),
            rows.filter(|row| row.kind == "message" && row.number.is_some()).count()
        );
        SCHEMA.messages.values().flatten().for_each(check);
        assert_eq!(values("CommandType"), [(0, "Restart")]);
        assert_eq!(message("AgentDisconnect").map(<[_]>::len), Some(0));
        assert!(message("Nonsense").is_none());
    }
}
