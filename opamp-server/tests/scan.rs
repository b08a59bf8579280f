//! The scan of an encoded message equals its decoding, on any bytes, but that it refuses too many
//! elements. None of the generated messages comes near that limit.

use opamp_proto::elements::DEFAULT_MAX_ELEMENTS;
use opamp_proto::{Message, v1};
use opamp_server::core::{Part, Scan};
use proptest::prelude::*;

/// The message as the scan sees it, or `None` if the scan refuses it.
fn scanned(bytes: &[u8]) -> Option<v1::AgentToServer> {
    let scan = Scan::new(bytes).ok()?;
    scan.validate().ok()?;
    fn part<M: Message + Default>(scan: &Scan<'_>, part: Part) -> Option<M> {
        let content = scan.part(part)?;
        Some(M::decode(content).expect("a valid part decodes"))
    }
    Some(v1::AgentToServer {
        instance_uid: scan.instance_uid().to_vec().into(),
        sequence_num: scan.sequence_num(),
        capabilities: scan.capabilities(),
        flags: scan.flags(),
        agent_description: part(&scan, Part::AgentDescription),
        health: part(&scan, Part::Health),
        effective_config: part(&scan, Part::EffectiveConfig),
        remote_config_status: part(&scan, Part::RemoteConfigStatus),
        package_statuses: part(&scan, Part::PackageStatuses),
        agent_disconnect: part(&scan, Part::AgentDisconnect),
        connection_settings_request: part(&scan, Part::ConnectionSettingsRequest),
        custom_capabilities: part(&scan, Part::CustomCapabilities),
        custom_message: part(&scan, Part::CustomMessage),
        available_components: part(&scan, Part::AvailableComponents),
        connection_settings_status: part(&scan, Part::ConnectionSettingsStatus),
    })
}

fn decoded(bytes: &[u8]) -> Option<v1::AgentToServer> {
    v1::AgentToServer::decode(bytes).ok()
}

/// NaN is not equal to itself, so equality is that of the encodings.
fn same(left: Option<v1::AgentToServer>, right: Option<v1::AgentToServer>) -> bool {
    left.map(|message| message.encode_to_vec()) == right.map(|message| message.encode_to_vec())
}

fn text() -> impl Strategy<Value = String> {
    "[a-z.é]{0,6}"
}

fn any_value() -> impl Strategy<Value = v1::AnyValue> {
    use v1::any_value::Value;
    let leaf = prop_oneof![
        text().prop_map(Value::StringValue),
        any::<bool>().prop_map(Value::BoolValue),
        any::<i64>().prop_map(Value::IntValue),
        any::<f64>().prop_map(Value::DoubleValue),
        proptest::collection::vec(any::<u8>(), 0..6)
            .prop_map(|bytes| Value::BytesValue(bytes.into())),
    ];
    let value = leaf.prop_recursive(3, 12, 3, |inner| {
        proptest::collection::vec(inner, 0..3).prop_map(|values| {
            let values =
                values.into_iter().map(|value| v1::AnyValue { value: Some(value) }).collect();
            Value::ArrayValue(v1::ArrayValue { values })
        })
    });
    proptest::option::of(value).prop_map(|value| v1::AnyValue { value })
}

fn attributes() -> impl Strategy<Value = Vec<v1::KeyValue>> {
    let pair = (text(), proptest::option::of(any_value()))
        .prop_map(|(key, value)| v1::KeyValue { key, value });
    proptest::collection::vec(pair, 0..3)
}

fn health() -> impl Strategy<Value = v1::ComponentHealth> {
    let leaf = (any::<bool>(), any::<u64>(), text(), attributes()).prop_map(
        |(healthy, start_time_unix_nano, status, attributes)| v1::ComponentHealth {
            healthy,
            start_time_unix_nano,
            status,
            attributes,
            ..Default::default()
        },
    );
    leaf.prop_recursive(3, 8, 2, |inner| {
        (proptest::collection::btree_map(text(), inner, 0..3)).prop_map(|component_health_map| {
            v1::ComponentHealth { component_health_map, ..Default::default() }
        })
    })
}

fn config() -> impl Strategy<Value = v1::EffectiveConfig> {
    let file = (proptest::collection::vec(any::<u8>(), 0..8), text())
        .prop_map(|(body, content_type)| v1::AgentConfigFile { body: body.into(), content_type });
    proptest::collection::btree_map(text(), file, 0..3).prop_map(|config_map| v1::EffectiveConfig {
        config_map: Some(v1::AgentConfigMap { config_map }),
    })
}

prop_compose! {
    fn message()(
        uid in proptest::collection::vec(any::<u8>(), 0..20),
        sequence_num in any::<u64>(),
        capabilities in any::<u64>(),
        flags in 0_u64..3,
        description in proptest::option::of((attributes(), attributes())),
        health in proptest::option::of(health()),
        effective_config in proptest::option::of(config()),
        status in proptest::option::of((any::<[u8; 4]>(), -1_i32..5, text())),
        custom in proptest::option::of((text(), text(), any::<[u8; 3]>())),
        names in proptest::option::of(proptest::collection::vec(text(), 0..3)),
        disconnect in any::<bool>(),
    ) -> v1::AgentToServer {
        v1::AgentToServer {
            instance_uid: uid.into(),
            sequence_num,
            capabilities,
            flags,
            agent_description: description.map(|(identifying, other)| v1::AgentDescription {
                identifying_attributes: identifying,
                non_identifying_attributes: other,
            }),
            health,
            effective_config,
            remote_config_status: status.map(|(hash, status, error_message)| {
                v1::RemoteConfigStatus {
                    last_remote_config_hash: hash.to_vec().into(),
                    status,
                    error_message,
                }
            }),
            custom_message: custom.map(|(capability, r#type, data)| v1::CustomMessage {
                capability,
                r#type,
                data: data.to_vec().into(),
            }),
            custom_capabilities: names.map(|capabilities| v1::CustomCapabilities { capabilities }),
            agent_disconnect: disconnect.then(v1::AgentDisconnect::default),
            ..Default::default()
        }
    }
}

/// A field as it may stand on the wire: any number, any wire type, groups included.
fn wire_field() -> impl Strategy<Value = Vec<u8>> {
    let content = proptest::collection::vec(any::<u8>(), 0..6);
    (0_u32..19, 0_u32..8, content, any::<u64>()).prop_map(|(tag, wire_type, content, number)| {
        use prost::encoding::encode_varint;
        let mut out = Vec::new();
        encode_varint(u64::from(tag << 3 | wire_type), &mut out);
        match wire_type {
            0 => encode_varint(number, &mut out),
            1 => out.extend(number.to_le_bytes()),
            2 => {
                encode_varint(content.len() as u64, &mut out);
                out.extend(content);
            }
            3 => {
                // An inner varint field of another number, and the group's end.
                out.extend([0x08, 0x01]);
                encode_varint(u64::from(tag << 3 | 4), &mut out);
            }
            5 => out.extend(&number.to_le_bytes()[..4]),
            _ => out.extend(content),
        }
        out
    })
}

/// Encodings of one or two messages and stray fields, one after the other, with a bit of damage.
fn wire() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        3 => message().prop_map(|message| message.encode_to_vec()),
        2 => wire_field(),
    ];
    let damage = prop_oneof![
        3 => Just(None),
        1 => any::<(prop::sample::Index, u8)>().prop_map(Some),
    ];
    let cut = prop_oneof![3 => Just(None), 1 => any::<prop::sample::Index>().prop_map(Some)];
    (proptest::collection::vec(piece, 0..4), damage, cut).prop_map(|(pieces, damage, cut)| {
        let mut bytes = pieces.concat();
        if let Some((at, value)) = damage.filter(|_| !bytes.is_empty()) {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut.filter(|_| !bytes.is_empty()) {
            bytes.truncate(cut.index(bytes.len()));
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_scan_of_messages_equals_their_decoding(bytes in wire()) {
        prop_assert!(same(scanned(&bytes), decoded(&bytes)), "{:?} {:?}", scanned(&bytes), decoded(&bytes));
    }

    #[test]
    fn a_scan_of_random_bytes_equals_their_decoding(
        bytes in proptest::collection::vec(any::<u8>(), 0..64)
    ) {
        prop_assert!(same(scanned(&bytes), decoded(&bytes)));
    }

    #[test]
    fn an_encoded_message_is_accepted(message in message()) {
        let bytes = message.encode_to_vec();
        prop_assert!(same(scanned(&bytes), Some(message)));
    }
}

fn nested_health(levels: usize) -> v1::AgentToServer {
    let mut health = v1::ComponentHealth::default();
    for _ in 1..levels {
        let component_health_map = [(String::from("inner"), health)].into();
        health = v1::ComponentHealth { component_health_map, ..Default::default() };
    }
    v1::AgentToServer { health: Some(health), ..Default::default() }
}

/// The encoding of a deeply nested health, built inside out, since the encoder would recurse.
fn encoded_nested_health(levels: usize) -> Vec<u8> {
    use prost::encoding::encode_varint;
    let mut health = Vec::new();
    for _ in 1..levels {
        let mut entry = vec![0x0a, 0x00, 0x12];
        encode_varint(health.len() as u64, &mut entry);
        entry.append(&mut health);
        let key_of_map = 6 << 3 | 2;
        health.push(key_of_map);
        encode_varint(entry.len() as u64, &mut health);
        health.append(&mut entry);
    }
    let mut message = vec![5 << 3 | 2];
    encode_varint(health.len() as u64, &mut message);
    message.append(&mut health);
    message
}

#[test]
fn sixteen_levels_of_health_pass_and_a_thousand_are_refused() {
    let _judged = opamp_spec::judges(&["HEALTH-07"]);
    let deep = nested_health(16);
    assert!(same(scanned(&deep.encode_to_vec()), Some(deep)));
    let abyss = encoded_nested_health(1000);
    let fault = Scan::new(&abyss).expect("the top level is fine").validate();
    assert!(fault.is_err_and(|fault| fault.to_string().contains("health")));
}

#[test]
fn the_depth_that_is_left_is_that_of_the_whole_message() {
    // Around the decoder's own limit, wherever that is.
    let accepted = |levels: usize| {
        let bytes = encoded_nested_health(levels);
        assert_eq!(scanned(&bytes).is_some(), decoded(&bytes).is_some(), "{levels} levels");
        decoded(&bytes).is_some()
    };
    let deepest = (1..200).take_while(|levels| accepted(*levels)).count();
    assert!((16..199).contains(&deepest), "{deepest}");
    (deepest..deepest + 8).for_each(|levels| {
        accepted(levels);
    });
}

#[test]
fn a_sub_message_that_occurs_twice_is_merged() {
    let first = v1::AgentToServer {
        health: Some(v1::ComponentHealth { healthy: true, ..Default::default() }),
        ..Default::default()
    };
    let second = v1::AgentToServer {
        health: Some(v1::ComponentHealth { status: "fine".into(), ..Default::default() }),
        ..Default::default()
    };
    let bytes = [first.encode_to_vec(), second.encode_to_vec()].concat();
    let merged = scanned(&bytes).and_then(|message| message.health).expect("a health");
    assert!(merged.healthy);
    assert_eq!(merged.status, "fine");
}

#[test]
fn two_broken_halves_do_not_make_a_whole() {
    // A string of five bytes of which the first field has one, and the second the other four.
    let bytes = [&[5 << 3 | 2, 3, 0x22, 5, b'a'][..], &[5 << 3 | 2, 4, b'b', b'c', b'd', b'e'][..]];
    let bytes = bytes.concat();
    assert!(decoded(&bytes).is_none());
    assert!(scanned(&bytes).is_none());
}

/// An encoded `agent_description` of so many empty attributes.
fn empty_attributes(number: usize) -> Vec<u8> {
    let content = [0x0a, 0x00].repeat(number);
    let mut message = vec![3 << 3 | 2];
    prost::encoding::encode_varint(content.len() as u64, &mut message);
    message.extend(content);
    message
}

fn fault(bytes: &[u8]) -> String {
    let fault = Scan::new(bytes).and_then(|scan| scan.validate());
    fault.expect_err("too many elements").to_string()
}

#[test]
fn a_part_of_too_many_elements_is_refused() {
    let _judged = opamp_spec::judges(&["ERR-13"]);
    let most = empty_attributes(DEFAULT_MAX_ELEMENTS);
    assert!(same(scanned(&most), decoded(&most)));
    for number in [DEFAULT_MAX_ELEMENTS + 1, 8_000_000] {
        let text = fault(&empty_attributes(number));
        assert_eq!(text, "AgentToServer.agent_description: more than 100000 elements");
    }
    let mut long = empty_attributes(DEFAULT_MAX_ELEMENTS + 1);
    long.extend([1 << 3 | 2, 16]);
    long.extend([7; 16]);
    let mut scan = Scan::new(&long).expect("the top level is fine");
    let fault = scan.validate_longer_than(1000).expect_err("it is longer");
    assert_eq!(fault.uid().map(|uid| uid.as_bytes()), Some(&[7; 16][..]));
}

#[test]
fn the_elements_of_a_part_in_pieces_are_added_up() {
    let half = empty_attributes(DEFAULT_MAX_ELEMENTS / 2);
    let whole = [&half[..], &half].concat();
    assert!(same(scanned(&whole), decoded(&whole)));
    let beyond = [whole, empty_attributes(1)].concat();
    assert_eq!(fault(&beyond), "AgentToServer.agent_description: more than 100000 elements");
    let too_many = empty_attributes(DEFAULT_MAX_ELEMENTS + 1);
    for pieces in [[&half[..], &too_many], [&too_many, &half]] {
        let text = fault(&pieces.concat());
        let offset = pieces[0].len();
        let place = format!("AgentToServer.agent_description, field at byte {offset}");
        assert_eq!(text, format!("{place}: more than 100000 elements"));
    }
}

/// Were the large piece looked at again for each of the small ones, this would take hours.
#[test]
fn many_small_pieces_after_a_large_one_are_read_at_once() {
    let mut bytes = empty_attributes(DEFAULT_MAX_ELEMENTS);
    bytes.extend([3 << 3 | 2, 0].repeat(200_000));
    assert!(same(scanned(&bytes), decoded(&bytes)));
}

#[test]
fn a_fault_says_what_and_where() {
    let _judged = opamp_spec::judges(&["ERR-13"]);
    let mut bytes = v1::AgentToServer { instance_uid: vec![7; 16].into(), ..Default::default() }
        .encode_to_vec();
    bytes.extend([3 << 3 | 2, 200]);
    let fault = Scan::new(&bytes).expect_err("the description is cut off");
    assert_eq!(fault.uid().map(|uid| uid.as_bytes()), Some(&[7; 16][..]));
    let text = fault.to_string();
    assert!(text.contains("agent_description") || text.contains("byte 18"), "{text}");

    let bytes = [5 << 3 | 2, 2, 0xff, 0xff];
    let fault = Scan::new(&bytes).expect("the top level is fine").validate();
    let text = fault.expect_err("the health is no message").to_string();
    assert!(text.contains("AgentToServer.health"), "{text}");
}
