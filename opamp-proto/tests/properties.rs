//! What has to hold for any input.

use bytes::Bytes;
use opamp_proto::frame::{self, HeaderPolicy};
use opamp_proto::v1::{
    AgentConfigFile, AgentConfigMap, AgentToServer, AnyValue, ComponentDetails, ComponentHealth,
    KeyValue, RemoteConfigStatuses, ServerToAgent,
};
use opamp_proto::{
    InstanceUid, LegacyUid, Message as _, WireUid, attributes_equivalent, config_hash,
};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

fn any_value() -> impl Strategy<Value = AnyValue> {
    let leaf = prop_oneof![
        Just(AnyValue::default()),
        ".{0,4}".prop_map(AnyValue::from),
        any::<bool>().prop_map(AnyValue::from),
        any::<i64>().prop_map(AnyValue::from),
        any::<u64>().prop_map(|bits| AnyValue::from(f64::from_bits(bits))),
        vec(any::<u8>(), 0..4).prop_map(AnyValue::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(AnyValue::from),
            vec(("[ab]", inner).prop_map(|(key, value)| KeyValue::new(key, value)), 0..4)
                .prop_map(AnyValue::from),
        ]
    })
}

fn config() -> impl Strategy<Value = AgentConfigMap> {
    // Few letters, so that parts that are alike and boundaries that differ are frequent.
    let file = ("[ab]{0,2}", "[ab]{0,2}")
        .prop_map(|(body, content_type)| AgentConfigFile { body: body.into(), content_type });
    btree_map("[ab]{0,2}", file, 0..3).prop_map(|config_map| AgentConfigMap { config_map })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_content_is_a_frame_or_an_error(content in vec(any::<u8>(), 0..32)) {
        let content = Bytes::from(content);
        if let Ok(frame) = frame::decode(content.clone(), HeaderPolicy::Required) {
            prop_assert!(!frame.headerless);
            prop_assert!(content.ends_with(&frame.body));
            let header = &content[..content.len() - frame.body.len()];
            prop_assert!(header.iter().all(|byte| byte & 0x7f == 0));
            // What passes the strict policy means the same under the tolerant one.
            prop_assert_eq!(Ok(frame), frame::decode(content, HeaderPolicy::Optional));
        } else if let Ok(frame) = frame::decode(content.clone(), HeaderPolicy::Optional) {
            prop_assert!(frame.headerless);
            prop_assert_eq!(frame.body, content);
        }
    }

    #[test]
    fn a_frame_gives_back_its_message(sequence_num: u64, uid in vec(any::<u8>(), 0..40)) {
        let message = AgentToServer { sequence_num, instance_uid: uid.into(), ..Default::default() };
        let content = frame::encode(&message);
        prop_assert_eq!(content.len(), frame::encoded_len(&message));
        let frame = frame::decode(content, HeaderPolicy::Required);
        let body = frame.map(|frame| frame.body).unwrap_or_default();
        prop_assert_eq!(AgentToServer::decode(body), Ok(message.clone()));
        // A message that is not empty is told apart without its header, too.
        let bare = Bytes::from(message.encode_to_vec());
        if !bare.is_empty() {
            let frame = frame::decode(bare.clone(), HeaderPolicy::Optional);
            prop_assert_eq!(frame.map(|frame| (frame.body, frame.headerless)), Ok((bare, true)));
        }
    }

    #[test]
    fn an_instance_uid_is_read_as_it_is_written(bytes: [u8; 16]) {
        let uid = InstanceUid::from(bytes);
        prop_assert_eq!(uid.to_string().parse(), Ok(uid));
        prop_assert_eq!(InstanceUid::try_from(&uid.to_bytes()[..]), Ok(uid));
        let legacy = LegacyUid::parse(uid.to_string().as_bytes());
        prop_assert_eq!(legacy.map(|legacy| legacy.uid()), Some(uid));
        prop_assert_eq!(WireUid::from(uid).instance_uid(), Some(uid));
    }

    #[test]
    fn parts_of_an_instance_uid_are_kept_in_order(
        one in 0_u64..1 << 48, two in 0_u64..1 << 48, random: [u8; 10],
    ) {
        let (older, newer) = (one.min(two), one.max(two) + 1);
        let uid = InstanceUid::from_parts(older, random);
        prop_assert!(uid.is_v7());
        if newer < 1 << 48 {
            prop_assert!(uid < InstanceUid::from_parts(newer, [0; 10]));
        }
    }

    #[test]
    fn any_bytes_are_a_uid_or_not(bytes in vec(any::<u8>(), 0..40)) {
        let _ = LegacyUid::parse(&bytes);
        prop_assert_eq!(InstanceUid::try_from(&bytes[..]).is_ok(), bytes.len() == 16);
        match WireUid::new(&bytes) {
            Ok(uid) => prop_assert_eq!(uid.as_bytes(), &bytes[..]),
            Err(_) => prop_assert!(bytes.is_empty() || bytes.len() > WireUid::MAX_LEN),
        }
    }

    #[test]
    fn decoding_survives_any_bytes(bytes in vec(any::<u8>(), 0..128)) {
        if let Ok(message) = AgentToServer::decode(&bytes[..]) {
            let _ = format!("{message:?}");
            prop_assert!(AgentToServer::decode(&message.encode_to_vec()[..]).is_ok());
        }
        if let Ok(message) = ServerToAgent::decode(&bytes[..]) {
            let _ = format!("{message:?}");
            prop_assert!(ServerToAgent::decode(&message.encode_to_vec()[..]).is_ok());
        }
        if let Ok(value) = AnyValue::decode(&bytes[..]) {
            let _ = value.to_string();
            prop_assert!(value.equivalent(&value));
        }
    }

    #[test]
    fn a_value_is_equivalent_to_what_is_decoded_of_it(value in any_value()) {
        let decoded = AnyValue::decode(&value.encode_to_vec()[..]).expect("its own encoding");
        prop_assert!(value.equivalent(&decoded));
        let _ = value.to_string();
    }

    #[test]
    fn pairs_are_equivalent_in_any_order_and_not_with_one_less(
        (pairs, shuffled) in vec(("[ab]", any_value()), 1..6)
            .prop_map(|pairs| {
                pairs.into_iter().map(|(key, value)| KeyValue::new(key, value)).collect::<Vec<_>>()
            })
            .prop_flat_map(|pairs| (Just(pairs.clone()), Just(pairs).prop_shuffle())),
    ) {
        prop_assert!(attributes_equivalent(&pairs, &shuffled));
        prop_assert!(!attributes_equivalent(&pairs, &shuffled[1..]));
        let (one, two) = (AnyValue::from(pairs), AnyValue::from(shuffled));
        prop_assert!(one.equivalent(&two));
    }

    #[test]
    fn of_files_with_the_same_name_the_last_counts(one in config(), two in config()) {
        let _judged = opamp_spec::judges(&["CFG-11"]);
        let joined = [one.encode_to_vec(), two.encode_to_vec()].concat();
        let merged = AgentConfigMap::decode(&joined[..]).unwrap();
        let mut expected = one.clone();
        expected.config_map.extend(two.config_map.clone());
        prop_assert_eq!(merged, expected);
    }

    #[test]
    fn configs_that_differ_have_hashes_that_differ(one in config(), two in config()) {
        prop_assert_eq!(config_hash(&one) == config_hash(&two), one == two);
    }
}

#[cfg(feature = "gzip")]
proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn gzip_gives_back_the_body(body in vec(any::<u8>(), 0..4096), repeat in 1_usize..20) {
        use opamp_proto::gzip;
        let body = body.repeat(repeat);
        let compressed = gzip::compress(&body);
        let output = gzip::decompress(&compressed, body.len());
        prop_assert_eq!(output.as_deref(), Ok(&body[..]));
        if let Some(limit) = body.len().checked_sub(1) {
            let result = gzip::decompress(&compressed, limit);
            prop_assert_eq!(result, Err(gzip::GzipError::TooLarge { limit }));
        }
    }

    #[test]
    fn gzip_survives_any_damage(
        body in vec(any::<u8>(), 0..256), at: prop::sample::Index, bit in 0..8,
    ) {
        use opamp_proto::gzip;
        let mut compressed = gzip::compress(&body);
        let at = at.index(compressed.len());
        compressed[at] ^= 1_u8 << bit;
        if let Ok(output) = gzip::decompress(&compressed, 1024) {
            prop_assert!(output.len() <= 1024);
        }
    }
}

/// Encodes a field that holds bytes, a text or a message.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    prost::encode_length_delimiter(content.len(), &mut bytes).expect("a vector grows");
    bytes.extend(content);
    bytes
}

/// Encodes a component with this many levels of components below it, which are in the map field of
/// this number. It is done by hand, as a message of many levels could not even be dropped safely.
fn nested(levels: usize, map_field: u8) -> Vec<u8> {
    (0..levels)
        .fold(Vec::new(), |inner, _| field(map_field, &[field(1, b"c"), field(2, &inner)].concat()))
}

#[test]
fn health_nested_16_levels_deep_is_kept_and_1000_levels_are_an_error() {
    let _judged = opamp_spec::judges(&["HEALTH-07"]);
    let message = AgentToServer::decode(&field(5, &nested(16, 6))[..]).expect("16 levels pass");
    let health = message.health.expect("health is set");
    let mut component: &ComponentHealth = &health;
    for level in 0..16 {
        let below = component.component_health_map.get("c");
        component = below.unwrap_or_else(|| panic!("level {level} is missing"));
    }
    assert!(component.component_health_map.is_empty());
    assert!(AgentToServer::decode(&field(5, &nested(1000, 6))[..]).is_err());
}

#[test]
fn components_nested_16_levels_deep_are_kept_and_1000_levels_are_an_error() {
    let _judged = opamp_spec::judges(&["COMP-14"]);
    // The map of the top level is a field of another number.
    let wrap =
        |levels| field(14, &field(1, &[field(1, b"c"), field(2, &nested(levels, 2))].concat()));
    let message = AgentToServer::decode(&wrap(16)[..]).expect("16 levels pass");
    let components = message.available_components.expect("components are set").components;
    let mut component: &ComponentDetails = components.get("c").expect("the top level");
    for level in 0..16 {
        let below = component.sub_component_map.get("c");
        component = below.unwrap_or_else(|| panic!("level {level} is missing"));
    }
    assert!(component.sub_component_map.is_empty());
    assert!(AgentToServer::decode(&wrap(1000)[..]).is_err());
}

#[test]
fn unknown_fields_and_enum_values_are_survived() {
    let _judged = opamp_spec::judges(&["INTEROP-06", "INTEROP-11"]);
    // sequence_num 5, an unknown field 100, a status of 77.
    let message = AgentToServer::decode(&b"\x10\x05\xa2\x06\x01x\x3a\x02\x10\x4d"[..])
        .expect("what is not known is not malformed");
    assert_eq!(message.sequence_num, 5);
    let status = message.remote_config_status.expect("a status is set");
    assert_eq!(status.status, 77);
    assert_eq!(status.status(), RemoteConfigStatuses::Unset);
}
