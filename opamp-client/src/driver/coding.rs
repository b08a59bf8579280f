//! Whether requests are compressed.
//!
//! Servers have to take gzip (HTTP-20), and not all do. A client that compresses from the start
//! loses such a server for good, and one that never does wastes most of what it sends. So:
//!
//! ```text
//!             a compressed response came          a compressed request was taken
//!   Unknown ────────────────────────────► Likely ────────────────────────────► Certain
//!                                            │                                    │
//!                                            │ refused, but taken without gzip    │
//!                                            └──────────────► Off ◄───────────────┘
//! ```
//!
//! Whatever may mean that the server could not read it is answered with the same request without
//! compression, at once: behind one name there may be servers of several kinds. What was learned
//! goes with the connector: other settings, another server.

use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use opamp_proto::{Message as _, v1};

use crate::core::Response;

/// Smaller bodies fit a packet or two as they are.
const WORTH_IT: usize = 2 * 1024;

const UNKNOWN: u8 = 0;
const LIKELY: u8 = 1;
const CERTAIN: u8 = 2;
const OFF: u8 = 3;

/// What is known of how a server takes compressed requests. One request is under way at a time, so
/// the state is only read and written, never raced for.
#[derive(Debug)]
pub(super) struct Requests(AtomicU8);

impl Requests {
    pub(super) fn new(compress: bool) -> Self {
        Self(AtomicU8::new(if compress { UNKNOWN } else { OFF }))
    }

    /// Whether this body is to be compressed (HTTP-17).
    pub(super) fn compresses(&self, body: &Bytes) -> bool {
        matches!(self.get(), LIKELY | CERTAIN) && body.len() >= WORTH_IT
    }

    /// A server that writes gzip will read it.
    pub(super) fn server_compresses(&self) {
        if self.get() == UNKNOWN {
            self.set(LIKELY);
        }
    }

    /// Whether this is the answer to what a compressed request said; otherwise the server may not
    /// have been able to read it, and is to be told again without compression.
    pub(super) fn took(&self, response: &Response) -> bool {
        let certain = self.get() == CERTAIN;
        let doubtful = match response.status {
            400 | 415 => true,
            // It may have read gzip as protobuf. One that has read it before is just not well.
            500 | 501 => !certain,
            200 => is_bad_request(&response.body),
            // Of whether it can read gzip, other answers say nothing.
            _ => return true,
        };
        if !doubtful && response.status == 200 {
            self.set(CERTAIN);
        }
        !doubtful
    }

    /// What it said to the same request without compression: if it could read that, compression was
    /// what it could not read.
    pub(super) fn took_plain(&self, response: &Response) {
        if response.status == 200 && !is_bad_request(&response.body) {
            self.set(OFF);
        }
    }

    fn get(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, known: u8) {
        self.0.store(known, Ordering::Relaxed);
    }
}

/// A message that cannot be read is answered like this also with status 200 (A09).
fn is_bad_request(body: &Bytes) -> bool {
    let bad = v1::ServerErrorResponseType::BadRequest as i32;
    v1::ServerToAgent::decode(body.clone())
        .is_ok_and(|message| message.error_response.is_some_and(|error| error.r#type == bad))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, message: v1::ServerToAgent) -> Response {
        Response { status, retry_after: None, body: message.encode_to_vec().into() }
    }

    fn refusal() -> v1::ServerToAgent {
        let error = v1::ServerErrorResponse {
            r#type: v1::ServerErrorResponseType::BadRequest.into(),
            ..Default::default()
        };
        v1::ServerToAgent { error_response: Some(error), ..Default::default() }
    }

    #[test]
    fn nothing_is_compressed_until_the_server_does_it() {
        let requests = Requests::new(true);
        let large = Bytes::from(vec![0; WORTH_IT]);
        assert!(!requests.compresses(&large));
        requests.server_compresses();
        assert!(requests.compresses(&large));
        assert!(!requests.compresses(&large.slice(1..)));
        let never = Requests::new(false);
        never.server_compresses();
        assert!(!never.compresses(&large));
    }

    #[test]
    fn a_server_that_reads_it_only_without_is_not_asked_twice() {
        let large = Bytes::from(vec![0; WORTH_IT]);
        let nothing = v1::ServerToAgent::default();
        for refused in [
            response(415, nothing.clone()),
            response(400, nothing.clone()),
            response(500, nothing.clone()),
            response(200, refusal()),
        ] {
            for seen_before in [false, true] {
                let requests = Requests::new(true);
                requests.server_compresses();
                if seen_before {
                    assert!(requests.took(&response(200, nothing.clone())));
                }
                let took = requests.took(&refused);
                assert_eq!(took, seen_before && refused.status == 500, "{refused:?}");
                // It does not like what is said, with or without compression.
                requests.took_plain(&refused);
                assert!(requests.compresses(&large));
                requests.took_plain(&response(200, nothing.clone()));
                requests.server_compresses();
                assert!(!requests.compresses(&large));
            }
        }
    }

    #[test]
    fn what_says_nothing_of_compression_is_the_answer() {
        let nothing = v1::ServerToAgent::default();
        let large = Bytes::from(vec![0; WORTH_IT]);
        let requests = Requests::new(true);
        requests.server_compresses();
        for status in [401, 403, 404, 413, 429, 502, 503] {
            assert!(requests.took(&response(status, nothing.clone())), "{status}");
        }
        assert!(requests.compresses(&large));
    }
}
