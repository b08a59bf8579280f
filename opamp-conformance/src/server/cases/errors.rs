//! Error replies: that they come when they should, and say what they should.

use std::collections::BTreeMap;

use bytes::Bytes;
use opamp_proto::v1::any_value::Value;
use opamp_proto::v1::{
    AgentToServer, AnyValue, ArrayValue, ComponentHealth, KeyValue, KeyValueList,
    ServerErrorResponseType,
};
use prost::Message as _;
use tokio::time::Instant;

use crate::case::{Case, Script};
use crate::judge::Stop;
use crate::mask::agent as mask;
use crate::report::Transport;
use crate::server::{Heard, ServerStage};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "server/errors/good-report",
        judges: &["ERR-02"],
        transports: Transport::BOTH,
        does: "reports in full, with attributes of every kind and health of components",
        expects: "the reply has no error",
        alone: false,
        broken_by: &["arrays-are-refused"],
        script: Script::Server(|stage| Box::pin(good_report(stage))),
    },
    Case {
        name: "server/errors/not-protobuf",
        judges: &["ERR-01", "ERR-07", "ERR-11", "ERR-12", "ERR-13"],
        transports: Transport::BOTH,
        does: "sends what is no AgentToServer: text, a message that is cut short, a field number 0, a \
               length of 2^63",
        expects: "each is answered once with an error of type BAD_REQUEST that says why",
        alone: false,
        broken_by: &[
            "errors-are-text-messages",
            "malformed-is-ignored",
            "malformed-is-acknowledged",
            "malformed-is-of-unknown-type",
            "bad-request-without-text",
            "bad-request-is-repeated",
        ],
        script: Script::Server(|stage| Box::pin(not_protobuf(stage))),
    },
    Case {
        name: "server/errors/uid-of-wrong-length",
        judges: &["ERR-11"],
        transports: Transport::BOTH,
        does: "reports with ids of 15, 17 and 36 bytes",
        expects: "each report is answered with an error",
        alone: false,
        broken_by: &[
            "errors-are-text-messages",
            "uids-may-be-of-any-length",
            "malformed-is-ignored",
            "malformed-is-acknowledged",
        ],
        script: Script::Server(|stage| Box::pin(uid_of_wrong_length(stage))),
    },
    Case {
        name: "server/errors/no-uid",
        judges: &["ERR-11"],
        transports: Transport::BOTH,
        does: "reports without an id",
        expects: "the report is answered with an error",
        alone: false,
        broken_by: &[
            "errors-are-text-messages",
            "uid-may-be-missing",
            "malformed-is-ignored",
            "malformed-is-acknowledged",
        ],
        script: Script::Server(|stage| Box::pin(no_uid(stage))),
    },
];

fn any(value: Value) -> AnyValue {
    AnyValue { value: Some(value) }
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(any(value)) }
}

async fn good_report(stage: &mut ServerStage) -> Result<(), Stop> {
    let mut agent = stage.connected(mask::REPORTS_STATUS | mask::REPORTS_HEALTH).await?;
    let mut report = agent.full_report();
    let list = [any(Value::StringValue("a".to_owned())), any(Value::IntValue(-1))];
    let attributes = vec![
        attribute("text", Value::StringValue("å".to_owned())),
        attribute("bool", Value::BoolValue(true)),
        attribute("int", Value::IntValue(i64::MIN)),
        attribute("double", Value::DoubleValue(0.5)),
        attribute("bytes", Value::BytesValue(Bytes::from_static(&[0, 0xff]))),
        attribute("array", Value::ArrayValue(ArrayValue { values: list.to_vec() })),
        attribute(
            "map",
            Value::KvlistValue(KeyValueList {
                values: vec![attribute("inner", Value::BoolValue(false))],
            }),
        ),
    ];
    if let Some(description) = &mut report.agent_description {
        description.non_identifying_attributes.extend(attributes);
    }
    if let Some(health) = &mut report.health {
        let part = ComponentHealth { healthy: true, ..Default::default() };
        health.component_health_map = BTreeMap::from([("part".to_owned(), part)]);
    }
    let heard = agent.ask(report).await?;
    stage.judge.expect(
        "ERR-02",
        heard.good().is_some(),
        "a reply without error",
        heard.to_string(),
    );
    Ok(())
}

async fn not_protobuf(stage: &mut ServerStage) -> Result<(), Stop> {
    let mut agent = stage.agent(mask::REPORTS_STATUS);
    let report = agent.full_report().encode_to_vec();
    let cut = report.len() - 3;
    let messages: [(&str, Bytes); 4] = [
        ("text", Bytes::from_static(b"this is no protobuf message")),
        ("a message cut short", Bytes::copy_from_slice(&report[..cut])),
        ("a field number 0", Bytes::from_static(&[0x02, 0x01, 0x00])),
        (
            "a length of 2^63",
            Bytes::from_static(&[
                0x0a, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01, 0x00,
            ]),
        ),
    ];
    for (what, message) in messages {
        let mut agent = stage.connected(mask::REPORTS_STATUS).await?;
        let heard = agent.ask_bytes(message).await?;
        let judge = &mut stage.judge;
        let actual = format!("after {what}: {heard}");
        judge.expect("ERR-11", heard.error().is_some(), "an error in reply", actual.as_str());
        if let Some(error) = heard.error() {
            let is_bad_request = error.r#type == ServerErrorResponseType::BadRequest as i32;
            judge.expect("ERR-01", true, "an error", actual.as_str());
            judge.expect("ERR-12", is_bad_request, "the type BAD_REQUEST", actual.as_str());
            let is_told = !error.error_message.trim().is_empty();
            judge.expect("ERR-13", is_told, "a text that says what is wrong", actual);
        } else if heard.good().is_some() {
            judge.expect("ERR-01", false, "an error", actual.as_str());
            judge.expect("ERR-12", false, "an error of type BAD_REQUEST", actual);
        }
        if matches!(heard, Heard::Silence) {
            // It would be the same with the others, after the same wait.
            break;
        }
        if heard.error().is_some() {
            let until = Instant::now() + stage.pace.of(0.3);
            let mut errors = 1;
            while stage.transport == Transport::WebSocket
                && let more @ Heard::Message(_) =
                    agent.next(until.saturating_duration_since(Instant::now())).await
            {
                errors += usize::from(more.error().is_some());
            }
            let actual = format!("{errors} errors");
            stage.judge.expect("ERR-07", errors == 1, "one error in answer to one message", actual);
        }
    }
    Ok(())
}

/// Sends a report that is malformed because of its id.
async fn wrong_uid(stage: &mut ServerStage, uid: &'static [u8]) -> Result<(), Stop> {
    let mut agent = stage.connected(mask::REPORTS_STATUS).await?;
    let instance_uid = Bytes::from_static(uid);
    let report = AgentToServer { instance_uid, ..agent.full_report() };
    let heard = agent.ask(report).await?;
    let actual = format!("after an id of {} bytes: {heard}", uid.len());
    stage.judge.expect("ERR-11", heard.error().is_some(), "an error in reply", actual);
    Ok(())
}

async fn uid_of_wrong_length(stage: &mut ServerStage) -> Result<(), Stop> {
    for uid in [
        &b"\x01\x90\x00\x00\x00\x00\x70\x00\x80\x00\x00\x00\x00\x00\x01"[..],
        b"\x01\x90\x00\x00\x00\x00\x70\x00\x80\x00\x00\x00\x00\x00\x00\x00\x01",
        b"01900000-0000-7000-8000-000000000001",
    ] {
        wrong_uid(stage, uid).await?;
    }
    Ok(())
}

async fn no_uid(stage: &mut ServerStage) -> Result<(), Stop> {
    wrong_uid(stage, b"").await
}
