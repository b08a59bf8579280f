//! Plain HTTP with the reference server: one request, one response; and its files.

use bytes::Bytes;
use http::{HeaderMap, Method, header};

use super::desk::Reply;
use super::{MAX_MESSAGE, Shared};
use crate::wire::body;
use crate::wire::endpoint::Arrival;
use crate::wire::http_client::field;

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

    pub(super) fn exchange(&self, arrival: Arrival) {
        if arrival.method != Method::POST {
            return arrival.respond(405, &[("allow", "POST")], Bytes::new());
        }
        let coding = field(&arrival.headers, header::CONTENT_ENCODING);
        let message = match coding.as_str() {
            _ if arrival.body.len() > MAX_MESSAGE => {
                return arrival.respond(413, &[], Bytes::new());
            }
            "" | "identity" => arrival.body.clone(),
            "gzip" => match body::gunzip(&arrival.body, MAX_MESSAGE) {
                Ok(message) => message,
                Err(body::Error::TooLarge(_)) => {
                    return arrival.respond(413, &[], Bytes::new());
                }
                Err(_) => return arrival.respond(400, &[], Bytes::new()),
            },
            _ => return arrival.respond(415, &[], Bytes::new()),
        };
        let Reply { message: Some(message), .. } = self.desk().handle(None, &message) else {
            return arrival.respond(400, &[], Bytes::new());
        };
        let bytes = self.encoded(&message);
        let bytes = Bytes::from(bytes);
        let content_type = ("content-type", "application/x-protobuf");
        if bytes.len() > 256 && accepts_gzip(&arrival.headers) {
            let headers = [content_type, ("content-encoding", "gzip")];
            return arrival.respond(200, &headers, body::gzip(&bytes));
        }
        arrival.respond(200, &[content_type], bytes);
    }
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    field(headers, header::ACCEPT_ENCODING).split(',').any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let refused = parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"));
        name.eq_ignore_ascii_case("gzip") && !refused
    })
}
