//! What the types and the features of the crate promise.

use std::process::Command;

use opamp_client::{Builder, Client, Driver, ErrorKind, Events, Status};

use crate::support::agent;

#[test]
fn everything_can_be_sent_to_another_task() {
    fn send<T: Send + 'static>() {}
    fn sync<T: Sync>() {}
    send::<Builder>();
    send::<Client>();
    send::<Events>();
    send::<Driver>();
    send::<Status>();
    sync::<Client>();
    fn future_is_send<F: Future + Send>(_: impl FnOnce(Driver) -> F) {}
    future_is_send(Driver::run);
}

#[test]
fn what_cannot_work_is_refused_when_it_is_built() {
    let kind = |builder: Builder| builder.build().unwrap_err().kind();
    assert_eq!(kind(agent("localhost:4320")), ErrorKind::Url);
    assert_eq!(kind(agent("ws://127.0.0.1").header("no name", "x")), ErrorKind::Header);
    assert_eq!(kind(agent("ws://127.0.0.1").header("name", "a\r\nb: c")), ErrorKind::Header);
    assert_eq!(kind(Client::builder("ws://127.0.0.1")), ErrorKind::Config);
    let hasty =
        agent("ws://127.0.0.1").configure(|config| config.polling_interval = Default::default());
    assert_eq!(kind(hasty), ErrorKind::Config);
    let without_store =
        agent("ws://127.0.0.1").configure(|config| config.packages = Some(Default::default()));
    assert_eq!(kind(without_store), ErrorKind::Config);
}

/// The names of the packages that the crate itself needs with these features.
fn dependencies(features: &str) -> Vec<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--package", "opamp-client", "--edges", "normal"])
        .args(["--prefix", "none", "--no-default-features", "--features", features])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let names = String::from_utf8(output.stdout).unwrap();
    names.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[test]
fn the_core_alone_brings_no_runtime_and_no_cryptography() {
    let core = dependencies("");
    assert!(core.iter().any(|name| name == "prost"), "{core:?}");
    for unwanted in ["tokio", "tracing", "rustls", "hyper", "reqwest", "tungstenite", "uuid"] {
        assert!(!core.iter().any(|name| name == unwanted), "{unwanted} in {core:?}");
    }
}

#[test]
fn packages_bring_requests_and_hashes_and_minisign_one_crate() {
    let packages = dependencies("ws,packages");
    for wanted in ["reqwest", "sha2"] {
        assert!(packages.iter().any(|name| name == wanted), "{wanted} in {packages:?}");
    }
    for unwanted in ["rustls", "flate2", "tempfile", "minisign-verify"] {
        assert!(!packages.iter().any(|name| name == unwanted), "{unwanted} in {packages:?}");
    }
    let with_minisign = dependencies("ws,packages,minisign");
    let mut added: Vec<_> = with_minisign.iter().filter(|name| !packages.contains(name)).collect();
    added.dedup();
    assert_eq!(added, ["minisign-verify"]);
}

#[test]
fn each_transport_brings_only_its_own_library() {
    let websocket = dependencies("ws");
    assert!(websocket.iter().any(|name| name == "tungstenite"));
    // Of hyper it has the types that come with reading the environment's proxies.
    for unwanted in ["reqwest", "h2", "rustls", "flate2"] {
        assert!(!websocket.iter().any(|name| name == unwanted), "{unwanted} in {websocket:?}");
    }
    let http = dependencies("http");
    assert!(http.iter().any(|name| name == "reqwest"));
    for unwanted in ["tungstenite", "rustls"] {
        assert!(!http.iter().any(|name| name == unwanted), "{unwanted} in {http:?}");
    }
}
