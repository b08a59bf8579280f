//! What goes into a `ServerToAgent`, written field by field into the caller's buffer.
//!
//! A message is a *head*, which names the one Agent, and at most one *tail*, which is the same for
//! every Agent that is offered the same. The fields of protobuf messages may stand in any order, so
//! the two are simply written one after the other.

use std::time::Duration;

use opamp_proto::{InstanceUid, ServerCapabilities, WireUid, v1};
use prost::encoding::{self, WireType};

use super::scan::Malformed;

/// The most bytes a head can have beside custom capabilities: the instance uid, flags, mask and new
/// instance uid, or a command.
pub const MAX_HEAD: usize = 128;

/// The longest text of an error.
const MAX_ERROR_TEXT: usize = 256;

/// Why a message was refused; becomes the `error_response` of its reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    kind: RefusalKind,
    text: String,
    retry_after: Option<Duration>,
}

/// The kinds of refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefusalKind {
    /// The message is malformed: type BAD_REQUEST (ERR-12).
    Malformed,
    /// The message is well formed and asks for more than the Server grants: type BAD_REQUEST, which
    /// says that it is not to be sent again.
    OverLimit,
    /// The peer may not speak for the Agent: type BAD_REQUEST, and over HTTP status 403.
    Denied,
    /// The Server cannot serve the Agent at the moment: type UNAVAILABLE (ERR-08).
    Unavailable,
    /// The Server failed: type UNKNOWN (ERR-05).
    Unknown,
}

impl Refusal {
    pub(crate) fn malformed(text: impl Into<String>) -> Self {
        Self { kind: RefusalKind::Malformed, text: text.into(), retry_after: None }
    }

    pub(crate) fn over_limit(text: impl Into<String>) -> Self {
        Self { kind: RefusalKind::OverLimit, text: text.into(), retry_after: None }
    }

    pub(crate) fn denied(text: impl Into<String>) -> Self {
        Self { kind: RefusalKind::Denied, text: text.into(), retry_after: None }
    }

    pub(crate) fn unavailable(text: impl Into<String>, retry_after: Option<Duration>) -> Self {
        // A pause of 0 counts as absent (reading A11), so it is not sent.
        let retry_after = retry_after.filter(|pause| !pause.is_zero());
        Self { kind: RefusalKind::Unavailable, text: text.into(), retry_after }
    }

    #[cfg(feature = "service")]
    pub(crate) fn unknown(text: impl Into<String>) -> Self {
        Self { kind: RefusalKind::Unknown, text: text.into(), retry_after: None }
    }

    pub(super) fn state_too_large(size: usize, limit: usize) -> Self {
        Self::over_limit(format!(
            "the Agent's state would have {size} bytes, more than the {limit} kept for one Agent"
        ))
    }

    /// The kind of refusal.
    #[must_use]
    pub const fn kind(&self) -> RefusalKind {
        self.kind
    }

    /// What the Agent's operator is told.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// How long the Agent is to stay away, if it is told.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Appends the reply that tells the Agent: its instance uid, if it could be read, and the
    /// error, nothing else (ERR-03, ID-10; readings A08, A33).
    pub fn encode(&self, uid: Option<&WireUid>, out: &mut Vec<u8>) {
        let kind = match self.kind {
            RefusalKind::Malformed | RefusalKind::OverLimit | RefusalKind::Denied => {
                v1::ServerErrorResponseType::BadRequest
            }
            RefusalKind::Unavailable => v1::ServerErrorResponseType::Unavailable,
            RefusalKind::Unknown => v1::ServerErrorResponseType::Unknown,
        };
        let details = self.retry_after.map(|pause| {
            v1::server_error_response::Details::RetryInfo(v1::RetryInfo {
                retry_after_nanoseconds: u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX),
            })
        });
        let error = v1::ServerErrorResponse {
            r#type: kind.into(),
            error_message: shortened(&self.text),
            details,
        };
        if let Some(uid) = uid {
            instance_uid(uid, out);
        }
        encoding::message::encode(2, &error, out);
    }
}

impl From<Malformed> for Refusal {
    fn from(malformed: Malformed) -> Self {
        Self::malformed(malformed.to_string())
    }
}

pub(super) fn shortened(text: &str) -> String {
    let end = (0..=text.len().min(MAX_ERROR_TEXT)).rev().find(|&end| text.is_char_boundary(end));
    text[..end.unwrap_or(0)].to_owned()
}

pub(super) fn instance_uid(uid: &WireUid, out: &mut Vec<u8>) {
    bytes(1, uid.as_bytes(), out);
}

pub(super) const REPORT_FULL_STATE: u64 = v1::ServerToAgentFlags::ReportFullState as u64;
pub(super) const REPORT_AVAILABLE_COMPONENTS: u64 =
    v1::ServerToAgentFlags::ReportAvailableComponents as u64;

pub(super) fn flags(flags: u64, out: &mut Vec<u8>) {
    encoding::encode_key(6, WireType::Varint, out);
    encoding::encode_varint(flags, out);
}

pub(super) fn capabilities(capabilities: ServerCapabilities, out: &mut Vec<u8>) {
    encoding::uint64::encode(7, &capabilities.to_wire(), out);
}

pub(super) fn new_instance_uid(uid: InstanceUid, out: &mut Vec<u8>) {
    let identification = v1::AgentIdentification { new_instance_uid: uid.to_bytes() };
    encoding::message::encode(8, &identification, out);
}

pub(super) fn restart(out: &mut Vec<u8>) {
    let command = v1::ServerToAgentCommand { r#type: v1::CommandType::Restart.into() };
    encoding::message::encode(9, &command, out);
}

fn bytes(tag: u32, value: &[u8], out: &mut Vec<u8>) {
    encoding::encode_key(tag, WireType::LengthDelimited, out);
    encoding::encode_varint(value.len() as u64, out);
    out.extend_from_slice(value);
}
