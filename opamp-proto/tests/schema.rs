//! The schema in `proto/` against the catalogue's list of fields and enum values.

use std::collections::BTreeMap;
use std::path::Path;

use opamp_spec::SchemaRow;
use prost_reflect::{Cardinality, DescriptorPool, EnumDescriptor, FieldDescriptor, Kind};

/// What the catalogue says of one field or value: number, type, label, maturity.
type Entry = (Option<u64>, String, String, String);
/// Entries by the name of the message or enum and of the field or value.
type Schema = BTreeMap<(String, String), Entry>;

fn pool() -> DescriptorPool {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let mut compiler = protox::Compiler::new([&proto]).expect("the folder exists");
    compiler.include_imports(true).include_source_info(true);
    compiler.open_file(proto.join("opamp/v1/opamp.proto")).expect("the schema compiles");
    compiler.descriptor_pool()
}

fn catalogue() -> Schema {
    let entry = |row: &SchemaRow| {
        // Whether an enum is a mask is not in a descriptor; see the test of its own.
        let kind = if row.kind == "enum" { String::new() } else { row.kind_of_value.clone() };
        (row.number, kind, row.label.clone(), row.maturity.clone())
    };
    opamp_spec::schema()
        .iter()
        .map(|row| ((row.message_or_enum.clone(), row.name.clone()), entry(row)))
        .collect()
}

/// The maturity that a comment states, at least as immature as that of the enclosing element.
fn maturity(comment: Option<&str>, enclosing: &str) -> String {
    let stated = ["development", "beta"]
        .into_iter()
        .find(|label| comment.is_some_and(|text| text.contains(&format!("Maturity: {label}."))));
    match (stated, enclosing) {
        (Some("development"), _) | (_, "development") => "development".to_owned(),
        (Some(label), _) => label.to_owned(),
        (None, _) => enclosing.to_owned(),
    }
}

/// The leading comment of the element at this path in the file's descriptor.
fn comment_at(file: &prost_reflect::FileDescriptor, path: &[i32]) -> Option<String> {
    let info = file.file_descriptor_proto().source_code_info.as_ref()?;
    let location = info.location.iter().find(|location| location.path == path)?;
    location.leading_comments.clone()
}

fn type_name(kind: &Kind) -> String {
    match kind {
        Kind::Message(message) => message.name().to_owned(),
        Kind::Enum(kind) => kind.name().to_owned(),
        scalar => format!("{scalar:?}").to_lowercase(),
    }
}

fn type_and_label(field: &FieldDescriptor) -> (String, String) {
    if field.is_map() {
        let Kind::Message(entry) = field.kind() else { panic!("a map is made of messages") };
        let key = type_name(&entry.map_entry_key_field().kind());
        let value = type_name(&entry.map_entry_value_field().kind());
        return (format!("map<{key}, {value}>"), "map".to_owned());
    }
    let label = match (field.containing_oneof(), field.cardinality()) {
        (Some(oneof), _) => format!("oneof:{}", oneof.name()),
        (None, Cardinality::Repeated) => "repeated".to_owned(),
        (None, _) => "singular".to_owned(),
    };
    (type_name(&field.kind()), label)
}

fn ours() -> Schema {
    let mut schema = Schema::new();
    for message in pool().all_messages().filter(|message| !message.is_map_entry()) {
        let name = message.name().to_owned();
        let (file, path) = (message.parent_file(), message.path());
        let of_message = maturity(comment_at(&file, path).as_deref(), "stable");
        if message.fields().len() == 0 {
            let entry = (None, String::new(), String::new(), of_message);
            schema.insert((name, String::new()), entry);
            continue;
        }
        for field in message.fields() {
            let (kind, label) = type_and_label(&field);
            let maturity = maturity(comment_at(&file, field.path()).as_deref(), &of_message);
            let entry = (Some(field.number().into()), kind, label, maturity);
            schema.insert((name.clone(), field.name().to_owned()), entry);
        }
    }
    for kind in pool().all_enums() {
        let (file, path) = (kind.parent_file(), kind.path());
        let of_enum = maturity(comment_at(&file, path).as_deref(), "stable");
        for value in kind.values() {
            let maturity = maturity(comment_at(&file, value.path()).as_deref(), &of_enum);
            let number = u64::try_from(value.number()).expect("no value is negative");
            let entry = (Some(number), String::new(), String::new(), maturity);
            schema.insert((kind.name().to_owned(), value.name().to_owned()), entry);
        }
    }
    schema
}

#[test]
fn the_schema_is_that_of_the_catalogue() {
    let _judged = opamp_spec::judges(&["INTEROP-10"]);
    let (ours, catalogue) = (ours(), catalogue());
    for (name, entry) in &catalogue {
        assert_eq!(ours.get(name), Some(entry), "{name:?} as the catalogue has it");
    }
    for name in ours.keys() {
        assert!(catalogue.contains_key(name), "{name:?} is not in the catalogue");
    }
}

#[test]
fn enums_are_masks_or_lists_as_the_catalogue_says() {
    let is_mask = |kind: &EnumDescriptor| {
        let rows = opamp_spec::schema().iter().filter(|row| row.message_or_enum == kind.name());
        let mut kinds: Vec<_> = rows.map(|row| row.kind_of_value.as_str()).collect();
        kinds.dedup();
        assert_eq!(kinds.len(), 1, "{}", kind.name());
        kinds == ["bit"]
    };
    let pool = pool();
    assert!(pool.all_enums().any(|kind| is_mask(&kind)));
    for kind in pool.all_enums() {
        let numbers: Vec<_> = kind.values().map(|value| value.number()).collect();
        let expected: Vec<_> = match is_mask(&kind) {
            true => {
                std::iter::once(0).chain((0..).map(|bit| 1 << bit)).take(numbers.len()).collect()
            }
            false => (0..).take(numbers.len()).collect(),
        };
        assert_eq!(numbers, expected, "{}", kind.name());
    }
}

#[test]
fn every_message_is_in_the_package_of_the_protocol() {
    for message in pool().all_messages() {
        assert_eq!(message.package_name(), "opamp.proto.v1", "{}", message.name());
    }
}
