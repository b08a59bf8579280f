//! Bytes as a WebSocket message.

use opamp_proto::{Message as _, frame, gzip, v1};

/// One input.
pub(crate) fn run(bytes: &[u8]) {
    // What inflates to more than the limit is refused, whatever it is.
    if let Ok(inflated) = gzip::decompress(bytes, 4096) {
        assert!(inflated.len() <= 4096);
    }
    for policy in [frame::HeaderPolicy::Required, frame::HeaderPolicy::Optional] {
        let Ok(frame) = frame::decode(bytes.to_vec().into(), policy) else { continue };
        if let Ok(message) = v1::AgentToServer::decode(frame.body.clone()) {
            let again = frame::decode(frame::encode(&message), policy).expect("it has a header");
            let again = v1::AgentToServer::decode(again.body).expect("it was encoded just now");
            // Compared as bytes: a NaN is not equal to itself.
            assert_eq!(message.encode_to_vec(), again.encode_to_vec());
        }
        let _ = v1::ServerToAgent::decode(frame.body);
    }
}
