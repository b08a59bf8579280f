//! Messages that are small on the wire and are not for who takes them apart.

use std::time::Duration;

use opamp_proto::Message as _;
use opamp_server::{ServerConfig, ServiceConfig};

use crate::client::{BAD_REQUEST, MASK, WebSocket};
use crate::support::heartbeat;
use crate::witness::Stage;
use tokio::net::TcpStream;

const MIB: usize = 1024 * 1024;

fn varint(mut value: usize, out: &mut Vec<u8>) {
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A field of bytes.
fn field(number: usize, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    varint(number << 3 | 2, &mut out);
    varint(content.len(), &mut out);
    out.extend_from_slice(content);
    out
}

/// A message with one more field.
fn with(extra: Vec<u8>) -> Vec<u8> {
    [heartbeat(&[1; 16], 1, MASK).encode_to_vec(), extra].concat()
}

async fn is_refused(socket: &mut WebSocket<TcpStream>, message: &[u8], what: &str) {
    socket.send_raw(crate::client::framed(message)).await;
    let error = socket.recv().await.error_response;
    assert_eq!(error.expect(what).r#type, BAD_REQUEST, "{what}");
}

/// The messages take a while to make.
fn patient(_: &mut ServerConfig, service: &mut ServiceConfig) {
    service.first_message_timeout = Duration::from_secs(20);
    service.ping_interval = Duration::from_secs(20);
    service.body_deadline = Duration::from_secs(20);
}

/// The same message in itself, so many times: `wrap` makes one level.
fn nested(levels: usize, wrap: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    (0..levels).fold(Vec::new(), |inner, _| wrap(&inner))
}

#[tokio::test(flavor = "multi_thread")]
async fn deep_nesting_is_refused() {
    let stage = Stage::with(patient).await;
    let mut socket = stage.server.websocket().await;
    for levels in [200, 1_000, 4_000] {
        // ComponentHealth.component_health_map: the entry's value is a ComponentHealth again.
        let health = nested(levels, |inner| field(6, &[field(1, b"c"), field(2, inner)].concat()));
        is_refused(&mut socket, &with(field(5, &health)), "health").await;
        // AnyValue.array_value.values, and AnyValue.kvlist_value.values.value.
        let array = nested(levels, |inner| field(5, &field(1, inner)));
        let list = nested(levels, |inner| field(6, &field(1, &field(2, inner))));
        for value in [array, list] {
            let attribute = [field(1, b"k"), field(2, &value)].concat();
            is_refused(&mut socket, &with(field(3, &field(1, &attribute))), "value").await;
        }
        // A group within a group, which no message has.
        let groups = [0xfb, 0x07].repeat(levels);
        is_refused(&mut socket, &with(groups), "groups").await;
    }
    assert_eq!(stage.fleet().len(), 1);
    drop(socket);
    stage.assert_unharmed(16 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn huge_maps_and_lists_are_refused() {
    let stage = Stage::with(patient).await;
    let mut socket = stage.server.websocket().await;
    let entry = |number: u32| field(1, &number.to_be_bytes());
    let many = |entry: &dyn Fn(u32) -> Vec<u8>| (0..150_000).flat_map(entry).collect::<Vec<_>>();
    // Attributes; components with health; files of a configuration; names of capabilities.
    let attributes = field(3, &many(&|number| field(1, &entry(number))));
    let components = field(5, &many(&|number| field(6, &entry(number))));
    let files = field(6, &field(1, &many(&|number| field(1, &entry(number)))));
    let names = field(12, &many(&entry));
    for (message, what) in
        [(attributes, "attributes"), (components, "health"), (files, "files"), (names, "names")]
    {
        is_refused(&mut socket, &with(message), what).await;
    }
    assert_eq!(stage.fleet().len(), 1);
    drop(socket);
    stage.assert_unharmed(48 * MIB).await;
}
