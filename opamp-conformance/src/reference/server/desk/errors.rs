//! Error replies.

use bytes::Bytes;
use opamp_proto::v1::any_value::Value;
use opamp_proto::v1::server_error_response::Details;
use opamp_proto::v1::{
    AgentToServer, RetryInfo, ServerErrorResponse, ServerErrorResponseType, ServerToAgent,
};

use prost::Message as _;

use super::Reply;
use crate::mask::server;
use crate::reference::Faults;

/// The answer to a message that is malformed.
pub(in super::super) fn malformed(instance_uid: Bytes, why: &str, faults: &Faults) -> Reply {
    if faults.has("malformed-is-ignored") {
        return Reply::default();
    }
    if faults.has("malformed-is-acknowledged") {
        let message = ServerToAgent { instance_uid, ..Default::default() };
        return Reply { message: Some(message), close: None };
    }
    let kind = if faults.has("malformed-is-of-unknown-type") {
        ServerErrorResponseType::Unknown
    } else {
        ServerErrorResponseType::BadRequest
    };
    let error_message = match () {
        () if faults.has("bad-request-without-text") => String::new(),
        () if faults.has("error-text-is-binary") => "\u{0}\u{1}".to_owned(),
        () => why.to_owned(),
    };
    let retry = Details::RetryInfo(RetryInfo { retry_after_nanoseconds: 1_000_000_000 });
    let details = Some(retry).filter(|_| faults.has("bad-request-with-retry-info"));
    let error = ServerErrorResponse { r#type: kind as i32, error_message, details };
    let capabilities = if faults.has("errors-come-with-the-mask") { server::ALL } else { 0 };
    let message = ServerToAgent {
        instance_uid,
        error_response: Some(error),
        capabilities,
        ..Default::default()
    };
    Reply { message: Some(message), close: None }
}

/// What is sent instead of a message that is too large (A10).
pub(in super::super) fn not_sent(instance_uid: Bytes) -> ServerToAgent {
    let error = ServerErrorResponse {
        r#type: ServerErrorResponseType::Unknown as i32,
        error_message: "the reply is too large to be sent".to_owned(),
        details: None,
    };
    ServerToAgent { instance_uid, error_response: Some(error), ..Default::default() }
}

/// The answer of a server that is overloaded.
pub(in super::super) fn unavailable(message: &Bytes, faults: &Faults) -> Reply {
    let report = AgentToServer::decode(message.clone()).unwrap_or_default();
    if faults.has("overload-is-bad-request") {
        return malformed(report.instance_uid, "overloaded", faults);
    }
    let retry = Details::RetryInfo(RetryInfo { retry_after_nanoseconds: 1_000_000_000 });
    let error = ServerErrorResponse {
        r#type: ServerErrorResponseType::Unavailable as i32,
        error_message: "overloaded".to_owned(),
        details: Some(retry),
    };
    let message = ServerToAgent {
        instance_uid: report.instance_uid,
        error_response: Some(error),
        ..Default::default()
    };
    Reply { message: Some(message), close: None }
}

/// What is wrong with the id of a report.
pub(super) fn objection_to_uid(report: &AgentToServer, faults: &Faults) -> Option<&'static str> {
    match report.instance_uid.len() {
        16 => None,
        0 if faults.has("uid-may-be-missing") => None,
        0 => Some("instance_uid is missing"),
        _ if faults.has("uids-may-be-of-any-length") => None,
        _ => Some("instance_uid is not 16 bytes"),
    }
}

/// What a fault makes the server object to.
pub(super) fn wrong_objection(report: &AgentToServer, faults: &Faults) -> Option<&'static str> {
    let has_array = report.agent_description.iter().any(|description| {
        description.non_identifying_attributes.iter().any(|attribute| {
            let value = attribute.value.as_ref().and_then(|value| value.value.as_ref());
            matches!(value, Some(Value::ArrayValue(_)))
        })
    });
    (has_array && faults.has("arrays-are-refused")).then_some("an attribute is an array")
}
