//! Messages encoded by other implementations.
//!
//! Each file below `tests/golden` holds a message in its encoded form and in the JSON form of
//! Protobuf. The generated code has to read the one so that what it writes again means the other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use opamp_proto::Message as _;
use opamp_proto::v1::{
    AgentConfigMap, AgentToServer, AnyValue, ComponentHealth, KeyValue, ServerToAgent,
};
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::{Map, Value, json};

struct Vector {
    name: String,
    message: String,
    deterministic: bool,
    encoded: Bytes,
    json: Value,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn unhex(text: &str) -> Bytes {
    let digit = |index: usize| text.get(index..index + 2).map(|pair| u8::from_str_radix(pair, 16));
    let bytes = (0..text.len()).step_by(2).map(|index| digit(index).expect("an even length"));
    bytes.collect::<Result<Vec<_>, _>>().expect("hexadecimal digits").into()
}

fn vectors() -> Vec<Vector> {
    let mut vectors = Vec::new();
    let folders = [folder(), folder().join("opamp-go")];
    let entries = folders.iter().flat_map(|folder| std::fs::read_dir(folder).expect("it exists"));
    for entry in entries {
        let path = entry.expect("the folder is readable").path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("the file is readable");
        let value: Value = serde_json::from_str(&text).expect("the file is JSON");
        vectors.push(Vector {
            name: path.file_stem().map(|stem| stem.to_string_lossy().into()).unwrap_or_default(),
            message: value["message"].as_str().expect("message is a name").to_owned(),
            deterministic: value["deterministic"].as_bool().unwrap_or(false),
            encoded: unhex(value["hex"].as_str().expect("hex is text")),
            json: value["json"].clone(),
        });
    }
    assert!(vectors.len() > 40, "only {} vectors in {}", vectors.len(), folder().display());
    vectors.sort_by(|one, two| one.name.cmp(&two.name));
    vectors
}

fn pool() -> DescriptorPool {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let mut compiler = protox::Compiler::new([&proto]).expect("the folder exists");
    compiler.include_imports(true);
    compiler.open_file(proto.join("opamp/v1/opamp.proto")).expect("the schema compiles");
    compiler.descriptor_pool()
}

/// Writes numbers alike that JSON writers write differently, such as 1 and 1.0.
fn normal(value: &Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_f64()),
        Value::Array(values) => values.iter().map(normal).collect(),
        Value::Object(members) => {
            members.iter().map(|(name, value)| (name.clone(), normal(value))).collect()
        }
        other => other.clone(),
    }
}

/// Decodes and encodes again by the generated code.
fn again(vector: &Vector, encoded: Bytes) -> Vec<u8> {
    match vector.message.as_str() {
        "AgentToServer" => AgentToServer::decode(encoded).expect(&vector.name).encode_to_vec(),
        "ServerToAgent" => ServerToAgent::decode(encoded).expect(&vector.name).encode_to_vec(),
        other => panic!("{}: there is no message {other}", vector.name),
    }
}

#[test]
fn what_is_written_again_means_the_same() {
    let pool = pool();
    for vector in vectors() {
        let first = again(&vector, vector.encoded.clone());
        assert_eq!(first, again(&vector, first.clone().into()), "{}", vector.name);
        if vector.deterministic {
            assert_eq!(first, vector.encoded, "{}", vector.name);
        }
        let descriptor = pool
            .get_message_by_name(&format!("opamp.proto.v1.{}", vector.message))
            .expect("the message is in the schema");
        let message = DynamicMessage::decode(descriptor, &first[..]).expect(&vector.name);
        let json = serde_json::to_value(&message).expect("the message has a JSON form");
        assert_eq!(normal(&json), normal(&vector.json), "{}", vector.name);
    }
}

// Below, some fields are read the way a user of the messages does.

fn base64(bytes: &[u8]) -> Value {
    BASE64_STANDARD.encode(bytes).into()
}

/// An object of the members that have a value other than the default, as JSON leaves the others
/// out.
fn object(members: Vec<(&str, Value)>) -> Value {
    let is_set = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty() && text != "0",
        Value::Array(values) => !values.is_empty(),
        _ => true,
    };
    let set = members.into_iter().filter(|(_, value)| is_set(value));
    set.map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>().into()
}

fn map<T>(entries: &BTreeMap<String, T>, to_json: impl Fn(&T) -> Value) -> Value {
    if entries.is_empty() {
        return Value::Null;
    }
    entries.iter().map(|(name, value)| (name.clone(), to_json(value))).collect::<Map<_, _>>().into()
}

fn any_value(value: &AnyValue) -> Value {
    if let Some(text) = value.as_str() {
        json!({ "stringValue": text })
    } else if let Some(truth) = value.as_bool() {
        json!({ "boolValue": truth })
    } else if let Some(number) = value.as_i64() {
        json!({ "intValue": number.to_string() })
    } else if let Some(number) = value.as_f64() {
        let special = if number.is_nan() {
            Some("NaN")
        } else if number.is_infinite() {
            Some(if number > 0.0 { "Infinity" } else { "-Infinity" })
        } else {
            None
        };
        json!({ "doubleValue": special.map_or(json!(number), Value::from) })
    } else if let Some(values) = value.as_array() {
        json!({ "arrayValue": object(vec![("values", values.iter().map(any_value).collect())]) })
    } else if let Some(pairs) = value.as_kvlist() {
        json!({ "kvlistValue": object(vec![("values", attributes(pairs))]) })
    } else if let Some(bytes) = value.as_bytes() {
        json!({ "bytesValue": base64(bytes) })
    } else {
        json!({})
    }
}

fn attributes(pairs: &[KeyValue]) -> Value {
    let pair = |pair: &KeyValue| {
        let value = pair.value.as_ref().map_or(Value::Null, any_value);
        object(vec![("key", pair.key.clone().into()), ("value", value)])
    };
    pairs.iter().map(pair).collect()
}

fn health(health: &ComponentHealth) -> Value {
    object(vec![
        ("healthy", health.healthy.into()),
        ("startTimeUnixNano", health.start_time_unix_nano.to_string().into()),
        ("lastError", health.last_error.clone().into()),
        ("status", health.status.clone().into()),
        ("statusTimeUnixNano", health.status_time_unix_nano.to_string().into()),
        ("componentHealthMap", map(&health.component_health_map, self::health)),
        ("attributes", attributes(&health.attributes)),
    ])
}

fn config_map(config: &AgentConfigMap) -> Value {
    let files = map(&config.config_map, |file| {
        object(vec![
            ("body", base64(&file.body)),
            ("contentType", file.content_type.clone().into()),
        ])
    });
    object(vec![("configMap", files)])
}

fn agent_members(message: &AgentToServer) -> Vec<(&'static str, Value)> {
    let description = message.agent_description.as_ref().map(|description| {
        object(vec![
            ("identifyingAttributes", attributes(&description.identifying_attributes)),
            ("nonIdentifyingAttributes", attributes(&description.non_identifying_attributes)),
        ])
    });
    let config = message.effective_config.as_ref().map(|effective| {
        object(vec![("configMap", effective.config_map.as_ref().map(config_map).into())])
    });
    vec![
        ("instanceUid", base64(&message.instance_uid)),
        ("sequenceNum", message.sequence_num.to_string().into()),
        ("agentDescription", description.into()),
        ("capabilities", message.capabilities.to_string().into()),
        ("health", message.health.as_ref().map(health).into()),
        ("effectiveConfig", config.into()),
        ("flags", message.flags.to_string().into()),
    ]
}

fn server_members(message: &ServerToAgent) -> Vec<(&'static str, Value)> {
    let config = message.remote_config.as_ref().map(|remote| {
        object(vec![
            ("config", remote.config.as_ref().map(config_map).into()),
            ("configHash", base64(&remote.config_hash)),
        ])
    });
    vec![
        ("instanceUid", base64(&message.instance_uid)),
        ("remoteConfig", config.into()),
        ("flags", message.flags.to_string().into()),
        ("capabilities", message.capabilities.to_string().into()),
    ]
}

#[test]
fn fields_have_the_values_the_json_form_gives() {
    for vector in vectors() {
        let members = match vector.message.as_str() {
            "AgentToServer" => {
                agent_members(&AgentToServer::decode(vector.encoded).expect(&vector.name))
            }
            _ => server_members(&ServerToAgent::decode(vector.encoded).expect(&vector.name)),
        };
        let expected = members
            .iter()
            .map(|(member, _)| (*member, vector.json.get(member).cloned().unwrap_or_default()))
            .collect();
        assert_eq!(normal(&object(members)), normal(&object(expected)), "{}", vector.name);
    }
}
