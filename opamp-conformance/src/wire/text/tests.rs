use opamp_proto::v1;
use prost::Message as _;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;

/// A record of wire type 2, with two bytes of length.
fn record(number: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap();
    let length = [length as u8 | 0x80, u8::try_from(length >> 7).unwrap()];
    [&[number << 3 | 2][..], &length, content].concat()
}

fn attribute(key: &[u8], value: &[u8]) -> Vec<u8> {
    [record(1, key), record(2, value)].concat()
}

#[track_caller]
fn is(root: &str, bytes: &[u8], text: &str) -> Reading {
    let reading = read(root, bytes);
    assert_eq!(reading.text, text);
    reading
}

#[track_caller]
fn is_clean(root: &str, bytes: &[u8], text: &str) {
    let reading = is(root, bytes, text);
    assert_eq!(reading, Reading { text: reading.text.clone(), ..Reading::default() });
}

/// What is wrong with an AgentToServer.
fn problems(bytes: &[u8]) -> Vec<String> {
    read("AgentToServer", bytes).problems
}

#[test]
fn a_report_reads_as_text() {
    let uid = [1, 0x7f, 0x22, 0xe2, 0x79, 0xb0, 0x7c, 0xc3, 0x98, 0xc4, 0xdc, 0xc, 0xc, 7, 0x39, 2];
    let description = [
        record(1, &attribute(b"service.name", &record(1, b"say \"hi\""))),
        record(2, &attribute(b"on", b"\x10\x01")),
        record(2, &attribute(b"less", b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")),
        record(2, &attribute(b"load", b"\x21\0\0\0\0\0\0\xe0\x3f")),
        record(2, &attribute(b"id", &record(7, b"x"))),
        record(2, &attribute(b"two words", b"")),
        record(2, &record(1, b"none")),
        record(
            2,
            &attribute(b"list", &record(5, &[record(1, b"\x18\x01"), record(1, b"")].concat())),
        ),
        record(2, &attribute(b"map", &record(6, &record(1, &attribute(b"k", &record(1, b"v")))))),
    ]
    .concat();
    let status = [record(1, &[0xab; 4]), b"\x10\x03".to_vec(), record(3, b"no\nsuch")].concat();
    let message = [
        record(1, &uid),
        b"\x10\x2a".to_vec(),
        record(3, &description),
        b"\x20\x03".to_vec(),
        record(5, b"\x08\x01\x11\x01\0\0\0\0\0\0\0"),
        record(7, &status),
        record(9, b""),
    ]
    .concat();
    is_clean(
        "AgentToServer",
        &message,
        r#"instance_uid: 017f22e2-79b0-7cc3-98c4-dc0c0c073902 (017f22e279b07cc398c4dc0c0c073902)
sequence_num: 42
agent_description {
  identifying_attributes: service.name = "say \"hi\""
  non_identifying_attributes: on = true
  non_identifying_attributes: less = -1
  non_identifying_attributes: load = 0.5
  non_identifying_attributes: id = bytes "x"
  non_identifying_attributes: "two words" = (empty)
  non_identifying_attributes: none = (no value)
  non_identifying_attributes: list = [1, (empty)]
  non_identifying_attributes: map = {k = "v"}
}
capabilities: ReportsStatus | AcceptsRemoteConfig (0x3)
health {
  healthy: true
  start_time_unix_nano: 1
}
remote_config_status {
  last_remote_config_hash: 0xabababab (4 bytes)
  status: FAILED
  error_message: "no\nsuch"
}
agent_disconnect {}"#,
    );
}

#[test]
fn an_offer_reads_as_text() {
    let file = [record(1, b"key: value\n"), record(2, b"text/yaml")].concat();
    let files = [record(1, &attribute(b"a.yaml", &file)), record(1, &attribute(b"", b""))].concat();
    let offer = [record(1, &files), record(2, b"hash")].concat();
    let other = record(6, &attribute(b"db", &record(4, &attribute(b"user", b"me"))));
    let message = [record(3, &offer), record(4, &other), b"\x30\0\x38\0".to_vec()].concat();
    is_clean(
        "ServerToAgent",
        &message,
        r#"remote_config {
  config {
    config_map["a.yaml"] {
      body: "key: value\n"
      content_type: "text/yaml"
    }
    config_map[""] {}
  }
  config_hash: "hash"
}
connection_settings {
  other_connections["db"] {
    other_settings["user"]: "me"
  }
}
flags: Unspecified (0x0)
capabilities: Unspecified (0x0)"#,
    );
}

#[test]
fn what_the_schema_does_not_have_is_listed_with_its_path() {
    let health = [
        record(6, &attribute(b"db", b"\x9d\x06\x01\0\0\0")),
        record(7, &attribute(b"k", b"\x90\x06\x05")),
        record(13, b"new"),
        record(14, &[0xff]),
    ]
    .concat();
    let message = [record(5, &health), b"\x98\x06\x07\x20\x81\x80\x04".to_vec()].concat();
    let reading = is(
        "AgentToServer",
        &message,
        r#"health {
  component_health_map["db"] {
    99: 1 (unknown)
  }
  attributes: k = 98: 5 (unknown)
  13: "new" (unknown)
  14: 0xff (1 bytes) (unknown)
}
99: 7 (unknown)
capabilities: ReportsStatus | 0x10000 (0x10001)"#,
    );
    assert_eq!(
        reading.unknown_fields,
        [
            "health.component_health_map[\"db\"].99",
            "health.attributes[0].value.98",
            "health.13",
            "health.14",
            "99",
        ]
    );
    assert_eq!(reading.unknown_values, ["capabilities: 0x10000"]);
    assert!(reading.problems.is_empty(), "{:?}", reading.problems);

    let reading = is(
        "ServerToAgent",
        &[record(2, b"\x08\x07"), record(9, b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")]
            .concat(),
        "error_response {\n  type: 7 (unknown)\n}\ncommand {\n  type: -1 (unknown)\n}",
    );
    assert_eq!(reading.unknown_values, ["error_response.type: 7", "command.type: -1"]);
}

#[test]
fn what_no_correct_encoder_writes_is_a_problem() {
    let is = |bytes: &[u8], expected: &[&str]| assert_eq!(problems(bytes), expected, "{bytes:x?}");
    is(b"", &[]);
    is(b"\x10\x80\x00", &[]); // padding is legal
    is(b"\x10", &["a varint without end"]);
    is(b"\x10\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00", &["a varint of more than 10 bytes"]);
    is(b"\x0a\x05abc", &["truncated: a length past the end"]);
    is(b"\x00\x01", &["field number 0"]);
    is(b"\x0b\x0c", &["a group"]);
    is(b"\x12\x01a", &["sequence_num: is bytes with a length"]);
    is(b"\x08\x01", &["instance_uid: is a varint"]);
    is(b"\x10\x01\x10\x02", &["sequence_num: more than once"]);
    is(b"\x4a\x00\x4a\x00", &["agent_disconnect: more than once"]);
    is(&record(5, b"\x08"), &["health: a varint without end"]);
    is(&record(5, b"\x1a\x01\xff"), &["health.last_error: is not UTF-8"]);
    is(&record(5, b"\x0d\0\0\0\0"), &["health.healthy: is 4 bytes of fixed size"]);
    is(&record(5, b"\x10\x01"), &["health.start_time_unix_nano: is a varint"]);
    let twice = record(6, &attribute(b"a", b"")).repeat(2);
    is(&record(5, &twice), &["health.component_health_map: key [\"a\"] more than once"]);
    let key = record(6, &attribute(b"\xff", b""));
    is(&record(5, &key), &["health.component_health_map.key: is not UTF-8"]);
    let both = record(2, &attribute(b"k", b"\x10\x01\x18\x01"));
    is(
        &record(3, &both),
        &["agent_description.non_identifying_attributes[0].value.int_value: \
           beside another of the oneof value"],
    );
    assert_eq!(read("Nonsense", b"").problems, ["the schema has no message Nonsense"]);
}

#[test]
fn what_cannot_be_read_is_shown_all_the_same() {
    let reading = read("AgentToServer", b"\x10\x01\x12\x01a\x0a\x03abc\x0a\x05ab");
    assert_eq!(
        reading.text,
        "sequence_num: 1\n2: \"a\" (unknown)\ninstance_uid: \"abc\" (no UUID: 3 bytes)\n\
         … not read: 0x0a056162 (4 bytes)"
    );
}

#[test]
fn long_values_deep_nesting_and_many_fields_are_cut() {
    let long = "é".repeat(1_500);
    let reading = read("AgentToServer", &record(5, &record(3, long.as_bytes())));
    let shown = format!("  last_error: \"{}\"… (952 more bytes)\n", "é".repeat(1_024));
    assert_eq!(reading.text, format!("health {{\n{shown}}}"));
    let reading = read("AgentToServer", &record(5, &record(9, &[0xff; 1_025])));
    let shown = format!("0x{}… (1025 bytes, 1 more)", "ff".repeat(1_024));
    assert!(reading.text.contains(&shown), "{}", reading.text);

    // Each level of the map is an entry and its value, below the message and its health.
    let nested = |levels| {
        let health = (0..levels).fold(Vec::new(), |inner, _| record(6, &attribute(b"", &inner)));
        problems(&record(5, &health))
    };
    assert!(nested(31).is_empty());
    let path = format!("health{}", ".component_health_map[\"\"]".repeat(31));
    assert_eq!(nested(32), [format!("{path}.component_health_map: nested deeper than 64 levels")]);

    let reading = read("AgentToServer", &b"\x78\x01\x98\x06\x01".repeat(20_000));
    assert_eq!(reading.text.len(), MAX_TEXT);
    assert!(reading.text.ends_with(CUT));
    assert_eq!(reading.unknown_fields.len(), MAX_LISTED + 1);
    assert_eq!(reading.problems.len(), MAX_LISTED + 1);
    assert_eq!(reading.problems[MAX_LISTED], "… and more");
}

/// A message with most that an agent can say, from the other encoder.
fn full_report() -> Vec<u8> {
    let health = v1::ComponentHealth {
        healthy: true,
        start_time_unix_nano: u64::MAX,
        last_error: "none".to_owned(),
        ..Default::default()
    };
    let package = v1::PackageStatus {
        name: "p".to_owned(),
        agent_has_hash: vec![0; 32].into(),
        status: v1::PackageStatusEnum::Downloading.into(),
        download_details: Some(v1::PackageDownloadDetails {
            download_percent: 12.5,
            download_bytes_per_second: 1e9,
        }),
        ..Default::default()
    };
    v1::AgentToServer {
        instance_uid: vec![7; 16].into(),
        sequence_num: 300,
        capabilities: 0xffff,
        health: Some(v1::ComponentHealth {
            component_health_map: [("a".to_owned(), health.clone()), ("b".to_owned(), health)]
                .into(),
            ..Default::default()
        }),
        package_statuses: Some(v1::PackageStatuses {
            packages: [("p".to_owned(), package)].into(),
            ..Default::default()
        }),
        custom_capabilities: Some(v1::CustomCapabilities {
            capabilities: vec!["x".to_owned(), "y".to_owned()],
        }),
        flags: 1,
        ..Default::default()
    }
    .encode_to_vec()
}

#[test]
fn it_agrees_with_the_generated_messages() {
    let reading = read("AgentToServer", &full_report());
    for part in [
        "sequence_num: 300\n",
        "ReportsHealth | ReportsRemoteConfig | ReportsHeartbeat",
        "component_health_map[\"b\"] {\n    healthy: true\n",
        "    start_time_unix_nano: 18446744073709551615\n",
        "    status: Downloading\n",
        "      download_percent: 12.5\n",
        "  capabilities: \"x\"\n  capabilities: \"y\"\n",
        "flags: RequestInstanceUid (0x1)",
    ] {
        assert!(reading.text.contains(part), "{part} in\n{}", reading.text);
    }
    assert_eq!(reading, Reading { text: reading.text.clone(), ..Reading::default() });
}

#[test]
fn no_bytes_make_it_panic() {
    let mut rng = SmallRng::seed_from_u64(7);
    let report = full_report();
    for _ in 0..20_000 {
        let mut bytes = report.clone();
        for _ in 0..rng.next_u32() % 8 {
            let place = rng.next_u32() as usize % bytes.len();
            bytes[place] = rng.next_u32() as u8;
        }
        bytes.truncate(rng.next_u32() as usize % (2 * bytes.len()));
        let reading = read("AgentToServer", &bytes);
        assert!(reading.text.len() <= MAX_TEXT);
        // What reads without a problem is what other decoders take, too.
        if reading.problems.is_empty() {
            assert!(v1::AgentToServer::decode(&bytes[..]).is_ok(), "{bytes:x?}\n{}", reading.text);
        }
        rng.fill_bytes(&mut bytes);
        let _ = read("ServerToAgent", &bytes);
    }
}
