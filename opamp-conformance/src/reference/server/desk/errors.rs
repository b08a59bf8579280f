//! Error replies.

use bytes::Bytes;
use opamp_proto::v1::{ServerErrorResponse, ServerErrorResponseType, ServerToAgent};

use super::Reply;
use crate::reference::Faults;

/// The answer to a message that is malformed.
pub(in super::super) fn malformed(instance_uid: Bytes, why: &str, faults: &Faults) -> Reply {
    if faults.has("malformed-is-ignored") {
        return Reply::default();
    }
    let error = ServerErrorResponse {
        r#type: ServerErrorResponseType::BadRequest as i32,
        error_message: why.to_owned(),
        details: None,
    };
    let message = ServerToAgent { instance_uid, error_response: Some(error), ..Default::default() };
    Reply { message: Some(message), close: None }
}
