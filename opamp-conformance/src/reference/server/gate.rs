//! What keeps a request out of the reference server: wrong credentials, and overload.

use bytes::Bytes;
use http::{HeaderValue, Method, header};

use super::Shared;
use crate::wire::endpoint::Arrival;
use crate::wire::http_client::field;

/// The credentials that every agent may use.
pub(super) const CREDENTIALS: HeaderValue = HeaderValue::from_static("Bearer reference");

impl Shared {
    /// Refuses a request that may not come in; gives any other back.
    pub(super) fn admit(&self, arrival: Arrival) -> Option<Arrival> {
        let faults = &self.faults;
        if !self.has_credentials(&arrival) {
            let status = if faults.has("refusal-is-403") { 403 } else { 401 };
            let challenge = [("www-authenticate", "Bearer")];
            let is_named = !faults.has("refusal-names-no-scheme");
            arrival.respond(status, if is_named { &challenge } else { &[] }, Bytes::new());
            return None;
        }
        if self.is_overloaded() {
            let status = if faults.has("overload-is-status-500") { 500 } else { 503 };
            let after = if faults.has("retry-after-is-no-time") { "soon" } else { "1" };
            arrival.respond(status, &[("retry-after", after)], Bytes::new());
            return None;
        }
        Some(arrival)
    }

    fn has_credentials(&self, arrival: &Arrival) -> bool {
        let authorization = field(&arrival.headers, header::AUTHORIZATION);
        let is_handshake = arrival.is_handshake();
        if authorization.is_empty() {
            // Files are for everybody.
            let is_for_all = !is_handshake && arrival.method != Method::POST;
            return is_for_all || is_handshake && self.faults.has("handshakes-need-no-credentials");
        }
        authorization.as_bytes() == CREDENTIALS.as_bytes()
            || self.desk().admits(&authorization)
            || self.faults.has("wrong-credentials-are-taken")
    }
}
