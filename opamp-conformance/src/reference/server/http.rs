//! Plain HTTP with the reference server: one request, one response; and its files.

use bytes::Bytes;
use http::{HeaderMap, Method, header};
use opamp_proto::v1::AgentToServer;
use prost::Message as _;

use tokio::time::Duration;

use super::desk::Reply;
use super::{MAX_MESSAGE, Shared};
use crate::mask::agent;
use crate::wire::body;
use crate::wire::endpoint::Arrival;
use crate::wire::http_client::field;
use crate::wire::ws;

/// The least response that is worth compressing.
const WORTH_IT: usize = 256;

impl Shared {
    /// Answers a request for a file; gives anything else back.
    pub(super) fn hand_out(&self, arrival: Arrival) -> Option<Arrival> {
        if arrival.method != Method::GET {
            return Some(arrival);
        }
        let Some((status, fields, content)) =
            self.desk().download(&arrival.target, &arrival.headers)
        else {
            return Some(arrival);
        };
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        arrival.respond(status, &fields, content);
        None
    }

    /// Whether a request is one of plain HTTP.
    pub(super) fn is_plain(&self, arrival: &Arrival) -> bool {
        let faults = &self.faults;
        let content_type = field(&arrival.headers, header::CONTENT_TYPE);
        if arrival.is_handshake() && faults.has("upgrade-wins") {
            return false;
        }
        if arrival.method == Method::POST && faults.has("any-content-type-is-taken") {
            return true;
        }
        if faults.has("content-type-is-compared-exactly") {
            return content_type == "application/x-protobuf";
        }
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        media_type.eq_ignore_ascii_case("application/x-protobuf")
    }

    pub(super) fn exchange(&self, arrival: Arrival) {
        let faults = &self.faults;
        if arrival.method != Method::POST && !faults.has("any-method-is-taken") {
            return arrival.respond(405, &[("allow", "POST")], Bytes::new());
        }
        if arrival.took > Duration::from_millis(500) && faults.has("slow-bodies-time-out") {
            return arrival.respond(408, &[], Bytes::new());
        }
        let coding = field(&arrival.headers, header::CONTENT_ENCODING);
        let message = match self.decoded(&coding, &arrival.body) {
            Ok(message) => message,
            Err(status) => return arrival.respond(status, &[], Bytes::new()),
        };
        if faults.has("http-heartbeats-get-no-content") && is_heartbeat(&message) {
            return arrival.respond(204, &[], Bytes::new());
        }
        if self.desk().has_moved(arrival.connection, &message) {
            return arrival.respond(400, &[], Bytes::new());
        }
        let Reply { message: Some(message), .. } = self.desk().handle(None, &message) else {
            return arrival.respond(400, &[], Bytes::new());
        };
        let is_compressed = |length| self.compresses(length, &arrival.headers);
        let mut bytes = self.encoded(&message, is_compressed);
        if coding == "gzip" && faults.has("answers-to-gzip-have-a-header") {
            bytes.insert(0, 0);
        }
        let bytes = Bytes::from(bytes);
        let content_type = ("content-type", "application/x-protobuf");
        if is_compressed(bytes.len()) {
            let headers = [content_type, ("content-encoding", "gzip")];
            return arrival.respond(200, &headers, body::gzip(&bytes));
        }
        arrival.respond(200, &[content_type], bytes);
    }

    /// The message in a body of this coding, or the status that refuses it.
    fn decoded(&self, coding: &str, body: &Bytes) -> Result<Bytes, u16> {
        let faults = &self.faults;
        let (limit, inflated) = self.body_limits();
        let too_large = if faults.has("too-large-is-400") { 400 } else { 413 };
        if body.len() > limit {
            return Err(too_large);
        }
        let sniffed = faults.has("gzip-is-sniffed") && body.starts_with(&[0x1f, 0x8b]);
        match coding {
            "" | "identity" if sniffed => self.decoded("gzip", body),
            "" | "identity" if faults.has("uncompressed-bodies-are-refused") => Err(415),
            "" | "identity" => Ok(body.clone()),
            "gzip" if !faults.has("gzip-is-refused") => {
                body::gunzip(body, inflated).map_err(|error| match error {
                    body::Error::TooLarge(_) => too_large,
                    body::Error::Damaged(_) => 400,
                })
            }
            _ if faults.has("unknown-codings-are-ignored") => Ok(body.clone()),
            _ => Err(415),
        }
    }

    /// The largest body that is taken, as sent and when decompressed.
    fn body_limits(&self) -> (usize, usize) {
        let limit = match () {
            () if self.faults.has("http-limit-is-one-off") => MAX_MESSAGE + 1,
            () if self.faults.has("http-limit-is-half") => MAX_MESSAGE / 2,
            () if self.faults.has("http-limit-is-missing") => ws::MAX_MESSAGE,
            () => MAX_MESSAGE,
        };
        let is_limited = !self.faults.has("inflated-bodies-are-not-limited");
        (limit, if is_limited { limit } else { ws::MAX_MESSAGE })
    }

    fn compresses(&self, length: usize, request: &HeaderMap) -> bool {
        if self.faults.has("responses-are-never-compressed") {
            return false;
        }
        let is_accepted = self.faults.has("responses-are-always-compressed")
            || accepts_gzip(request, self.faults.has("weights-are-not-looked-at"));
        length > WORTH_IT && is_accepted
    }
}

/// Whether this is a heartbeat of an agent that says it sends them.
fn is_heartbeat(message: &Bytes) -> bool {
    AgentToServer::decode(message.clone()).is_ok_and(|message| {
        message.agent_description.is_none() && message.capabilities & agent::REPORTS_HEARTBEAT != 0
    })
}

fn accepts_gzip(headers: &HeaderMap, whatever_its_weight: bool) -> bool {
    field(headers, header::ACCEPT_ENCODING).split(',').any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let refused = parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"));
        name.eq_ignore_ascii_case("gzip") && (whatever_its_weight || !refused)
    })
}
