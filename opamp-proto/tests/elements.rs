//! The limit on the elements of a message.

use std::path::Path;

use opamp_proto::elements::{self, DEFAULT_MAX_ELEMENTS, MessageKind};
use opamp_proto::{Message, v1};
use proptest::prelude::*;
use prost::encoding::encode_varint;
use prost_reflect::{
    Cardinality, DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor,
    Value,
};

fn passes(kind: MessageKind, encoded: &[u8], max: usize) -> bool {
    elements::check(kind, encoded, max).is_ok()
}

/// How many elements there are, found by trying limits.
fn count(kind: MessageKind, encoded: &[u8]) -> usize {
    let (mut low, mut high) = (0, encoded.len() / 2);
    while low < high {
        let middle = low.midpoint(high);
        if passes(kind, encoded, middle) { high = middle } else { low = middle + 1 }
    }
    low
}

/// A length-delimited field.
fn field(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut encoded = vec![tag << 3 | 2];
    encode_varint(content.len() as u64, &mut encoded);
    encoded.extend_from_slice(content);
    encoded
}

#[test]
fn millions_of_empty_attributes_are_refused_at_once() {
    let attributes = [0x0a, 0x00].repeat(8_000_000);
    let refused = elements::check(MessageKind::AgentDescription, &attributes, DEFAULT_MAX_ELEMENTS);
    assert_eq!(refused.map_err(|error| error.limit), Err(DEFAULT_MAX_ELEMENTS));
    let report = field(3, &attributes);
    assert!(!passes(MessageKind::AgentToServer, &report, DEFAULT_MAX_ELEMENTS));
}

#[test]
fn the_limit_itself_passes() {
    let attributes = [0x0a, 0x00].repeat(1000);
    assert_eq!(count(MessageKind::AgentDescription, &attributes), 1000);
    assert_eq!(count(MessageKind::AgentToServer, &field(3, &attributes)), 1001);
}

fn component(name: &str, component_health_map: Vec<v1::ComponentHealth>) -> v1::ComponentHealth {
    let named = |(index, health)| (format!("{name}/{index}"), health);
    v1::ComponentHealth {
        healthy: true,
        status: "running".into(),
        last_error: "none so far".into(),
        attributes: vec![v1::KeyValue::new("pipeline", "traces")],
        component_health_map: component_health_map.into_iter().enumerate().map(named).collect(),
        ..Default::default()
    }
}

#[test]
fn sixteen_levels_pass() {
    let _judged = opamp_spec::judges(&["HEALTH-07", "COMP-14"]);
    let mut health = component("leaf", Vec::new());
    let mut details = v1::ComponentDetails::default();
    for _ in 1..16 {
        health = component("inner", vec![health]);
        let sub_component_map = [("inner".to_owned(), details)].into();
        details = v1::ComponentDetails { sub_component_map, ..Default::default() };
    }
    let available = v1::AvailableComponents {
        components: [("outer".to_owned(), details)].into(),
        ..Default::default()
    };
    // Per component: status, error, attribute with key, value and string; and with all but the
    // outermost the entry, the key and the value.
    let health = health.encode_to_vec();
    assert_eq!(count(MessageKind::ComponentHealth, &health), 16 * 6 + 15 * 3);
    let available = available.encode_to_vec();
    // An innermost component without details is not even encoded.
    assert_eq!(count(MessageKind::AvailableComponents, &available), 16 * 3 - 1);
}

#[test]
fn ten_thousand_components_pass() {
    let group = component("group", vec![component("receiver", Vec::new()); 99]);
    let health = component("root", vec![group; 100]).encode_to_vec();
    assert!(health.len() / 2 > DEFAULT_MAX_ELEMENTS, "or nothing would be counted");
    assert!(passes(MessageKind::ComponentHealth, &health, DEFAULT_MAX_ELEMENTS));
    assert_eq!(count(MessageKind::ComponentHealth, &health), 10_001 * 9 - 3);
}

#[test]
fn bodies_are_not_looked_into() {
    let file = v1::AgentConfigFile {
        body: [0x0a, 0x00].repeat(2_500_000).into(),
        content_type: "text/plain".into(),
    };
    let config_map = v1::AgentConfigMap { config_map: [("a".to_owned(), file)].into() };
    let config = v1::EffectiveConfig { config_map: Some(config_map) }.encode_to_vec();
    assert!(passes(MessageKind::EffectiveConfig, &config, DEFAULT_MAX_ELEMENTS));
    // The map, its entry, its key, its value, body and type.
    assert_eq!(count(MessageKind::EffectiveConfig, &config), 6);
}

#[test]
fn unknown_fields_are_not_looked_into() {
    let unknown = field(15, &[0x0a, 0x00].repeat(1000));
    assert_eq!(count(MessageKind::AgentDescription, &unknown), 1);
    // A group is no length-delimited field, nor are those in it elements.
    let group = [&[15 << 3 | 3][..], &field(1, b"in the group"), &[15 << 3 | 4]].concat();
    assert_eq!(count(MessageKind::AgentDescription, &group), 0);
}

/// The decoder reads a field to its end before it sees that it reaches beyond the message around
/// it.
#[test]
fn a_field_that_reaches_beyond_its_message_is_counted_to_its_end() {
    let attributes = [0x0a, 0x00].repeat(1000);
    let description = field(3, &attributes);
    // A health of six bytes, in which an entry starts that has all the rest.
    let entry = field(6, &field(2, &[0x3a, 0x00].repeat(1000)));
    let health = [&[5 << 3 | 2, 6][..], &entry].concat();
    assert!(v1::AgentToServer::decode(&health[..]).is_err());
    assert_eq!(count(MessageKind::AgentToServer, &health), 1003);
    // After the fault nothing counts.
    let both = [health, description].concat();
    assert_eq!(count(MessageKind::AgentToServer, &both), 1003);
}

#[test]
fn all_levels_that_are_decoded_are_counted() {
    let nested = |levels: usize| {
        let mut value = Vec::new();
        for _ in 0..levels {
            value = field(5, &field(1, &value));
        }
        value
    };
    let decodes = |levels: &usize| v1::AnyValue::decode(&nested(*levels)[..]).is_ok();
    let deepest = (1..100).take_while(decodes).last().expect("some levels decode");
    assert_eq!(count(MessageKind::AnyValue, &nested(deepest)), 2 * deepest);
    // And no stack is deep enough for this.
    assert!(count(MessageKind::AnyValue, &nested(3000)) < 2 * 3000);
}

fn descriptor(name: &str) -> MessageDescriptor {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let files = protox::compile(["opamp/v1/opamp.proto"], [proto]).expect("the schema compiles");
    let pool = DescriptorPool::from_file_descriptor_set(files).expect("the schema is complete");
    pool.get_message_by_name(&format!("opamp.proto.v1.{name}")).expect("the message exists")
}

/// A value for one field, the choices taken from `seed`.
fn generated_value(kind: &Kind, seed: &mut impl Iterator<Item = u8>, depth: usize) -> Value {
    let choice = seed.next().unwrap_or(0);
    match kind {
        Kind::Message(message) => Value::Message(generated(message, seed, depth)),
        Kind::String => Value::String("x".repeat(usize::from(choice % 3))),
        Kind::Bytes => Value::Bytes(vec![0x0a; usize::from(choice % 4)].into()),
        kind => Value::default_value(kind),
    }
}

fn generated(
    message: &MessageDescriptor,
    seed: &mut impl Iterator<Item = u8>,
    depth: usize,
) -> DynamicMessage {
    let mut built = DynamicMessage::new(message.clone());
    for field in message.fields().filter(|_| depth > 0) {
        let choice = usize::from(seed.next().unwrap_or(0));
        let values = |amount: usize, seed: &mut _| -> Vec<Value> {
            let value = |_| generated_value(&field.kind(), seed, depth - 1);
            (0..amount).map(value).collect()
        };
        if field.is_map() {
            let kind = map_value(&field).kind();
            let entry = |index: usize| {
                let key = MapKey::String("k".repeat(index));
                (key, generated_value(&kind, seed, depth - 1))
            };
            built.set_field(&field, Value::Map((0..choice % 3).map(entry).collect()));
        } else if field.cardinality() == Cardinality::Repeated {
            let values = values(choice % 3, seed);
            built.set_field(&field, Value::List(values));
        } else if choice % 3 > 0 {
            for value in values(1, seed) {
                built.set_field(&field, value);
            }
        }
    }
    built
}

fn map_value(field: &FieldDescriptor) -> FieldDescriptor {
    let Kind::Message(entry) = field.kind() else { panic!("a map has entries") };
    entry.map_entry_value_field()
}

/// The elements of a decoded message, by what it holds.
fn held(message: &DynamicMessage) -> usize {
    let one = |value: &Value| match value {
        Value::Message(inner) => 1 + held(inner),
        Value::String(_) | Value::Bytes(_) => 1,
        _ => 0,
    };
    let of_field = |value: &Value| match value {
        Value::List(values) => values.iter().map(one).sum(),
        Value::Map(entries) => entries.iter().map(|(key, value)| entry(key, value)).sum(),
        value => one(value),
    };
    message.fields().map(|(_, value)| of_field(value)).sum()
}

fn entry(key: &MapKey, value: &Value) -> usize {
    let key = usize::from(key.as_str() != Some(""));
    match value {
        // An empty value is not encoded.
        Value::Message(inner) if inner.encoded_len() == 0 => 1 + key,
        Value::Message(inner) => 1 + key + 1 + held(inner),
        _ => 1,
    }
}

/// Whether as many elements are counted as the message holds that these bytes decode to.
fn is_counted<M: Message + Default>(kind: MessageKind, seed: Vec<u8>) -> bool {
    thread_local! {
        static ROOTS: [MessageDescriptor; 2] = ["AgentToServer", "ServerToAgent"].map(descriptor);
    }
    let root = ROOTS.with(|roots| roots[usize::from(kind == MessageKind::ServerToAgent)].clone());
    let built = generated(&root, &mut seed.into_iter(), 8);
    let encoded = M::decode(&built.encode_to_vec()[..]).expect("it is well formed").encode_to_vec();
    let decoded = DynamicMessage::decode(root, &encoded[..]).expect("it is well formed");
    count(kind, &encoded) == held(&decoded)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..Default::default() })]

    #[test]
    fn what_a_message_holds_is_counted(seed in proptest::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(is_counted::<v1::AgentToServer>(MessageKind::AgentToServer, seed.clone()));
        prop_assert!(is_counted::<v1::ServerToAgent>(MessageKind::ServerToAgent, seed));
    }

    #[test]
    fn any_bytes_are_counted_or_refused(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        max in 0_usize..8,
    ) {
        for kind in [MessageKind::AgentToServer, MessageKind::ServerToAgent] {
            let elements = count(kind, &bytes);
            prop_assert_eq!(passes(kind, &bytes, max), elements <= max);
        }
    }
}
