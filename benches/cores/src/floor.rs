//! What the generated messages and the scan take alone: a plain implementation takes at least that.

use std::hint::black_box;

use bytes::Bytes;
use opamp_proto::{Message as _, frame, v1};
use opamp_server::core::Scan;

use crate::messages::{full_report, heartbeat, uid};
use crate::{Operation, Repeat};

/// Each is about one message.
pub const OPERATIONS: [Operation; 7] = [
    Operation::new("encode a heartbeat", |_| encode(heartbeat(0))),
    Operation::new("encode a full report", |_| encode(full_report(0, 0))),
    Operation::new("scan a heartbeat", |_| scan(heartbeat(0))),
    Operation::new("scan a full report", |_| scan(full_report(0, 0))),
    Operation::new("decode a heartbeat, encode a reply", |_| decode_and_reply(heartbeat(0))),
    Operation::new("decode a full report, encode a reply", |_| decode_and_reply(full_report(0, 0))),
    Operation::new("decode a reply", |_| decode_reply()),
];

fn encode(message: v1::AgentToServer) -> Repeat {
    Box::new(move || {
        black_box(frame::encode(black_box(&message)));
    })
}

/// Finds and validates the parts.
fn scan(message: v1::AgentToServer) -> Repeat {
    let body = message.encode_to_vec();
    Box::new(move || {
        let scan = Scan::new(black_box(&body)).expect("it is well formed");
        scan.validate().expect("and so are its parts");
        black_box(scan.sequence_num());
    })
}

fn decode_and_reply(message: v1::AgentToServer) -> Repeat {
    let body = Bytes::from(message.encode_to_vec());
    Box::new(move || {
        let message = v1::AgentToServer::decode(body.clone()).expect("it is well formed");
        let reply = v1::ServerToAgent { instance_uid: message.instance_uid, ..Default::default() };
        black_box(frame::encode(&reply));
    })
}

fn decode_reply() -> Repeat {
    let reply = v1::ServerToAgent { instance_uid: uid(0).to_vec().into(), ..Default::default() };
    let body = Bytes::from(reply.encode_to_vec());
    Box::new(move || {
        black_box(v1::ServerToAgent::decode(body.clone()).expect("it is well formed"));
    })
}
