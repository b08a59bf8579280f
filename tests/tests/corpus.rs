//! What fuzzing found worth keeping, played again: each file below `fuzz/seeds` is an input of the
//! target its directory is named after.

#![expect(clippy::print_stderr, reason = "shown where an input fails")]

use std::fs;
use std::path::Path;

#[path = "../../fuzz/inputs/client.rs"]
mod client;
#[path = "../../fuzz/inputs/conversation.rs"]
mod conversation;
#[path = "../../fuzz/inputs/frame.rs"]
mod frame;
#[path = "../../fuzz/inputs/http_body.rs"]
mod http_body;
#[path = "../../fuzz/inputs/server.rs"]
mod server;
#[path = "../../fuzz/inputs/stores.rs"]
mod stores;
#[path = "../../fuzz/inputs/values.rs"]
mod values;
#[path = "../../fuzz/inputs/websocket.rs"]
mod websocket;

fn replay(target: &str, run: impl Fn(&[u8])) {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(target);
    let mut inputs = 0;
    for entry in fs::read_dir(&seeds).expect("there are seeds for each target") {
        let path = entry.expect("a readable directory").path();
        eprintln!("{}", path.display());
        run(&fs::read(&path).expect("a readable file"));
        inputs += 1;
    }
    assert!(inputs > 0, "{} is empty", seeds.display());
}

#[test]
fn client() {
    replay("client", client::run);
}

#[test]
fn conversation() {
    replay("conversation", conversation::run);
}

#[test]
fn frame() {
    replay("frame", frame::run);
}

#[test]
fn http_body() {
    replay("http_body", http_body::run);
}

#[test]
fn server() {
    replay("server", server::run);
}

#[test]
fn stores() {
    replay("stores", stores::run);
}

#[test]
fn values() {
    replay("values", values::run);
}

#[test]
fn websocket() {
    replay("websocket", websocket::run);
}
