//! Files of certificates that are read while the agent runs, and cannot be read for a while.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use opamp_client::core::{Event, FailureKind, Storage};
use opamp_client::tls::Tls;
use opamp_proto::v1::OpAmpConnectionSettings;

use crate::support::certificates::Authority;
use crate::support::websocket::Server;
use crate::support::{Agent, agent, reply_to, soon};

/// Puts a file in the place of another at once.
fn put(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join("new"), text).unwrap();
    std::fs::rename(folder.join("new"), folder.join(name)).unwrap();
}

/// Puts a pipe there that nobody writes to: whoever reads it hangs, as with a disk that is gone.
#[cfg(unix)]
fn put_pipe(folder: &Path, name: &str) {
    let made = Command::new("mkfifo").arg(folder.join("new")).status().unwrap();
    assert!(made.success());
    std::fs::rename(folder.join("new"), folder.join(name)).unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn files_that_hang_hold_up_neither_the_runtime_nor_the_connection() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "ca.pem", &authority.pem());
    let tls = Tls::new().trust_file(folder.path().join("ca.pem")).unwrap();
    let server = Server::start_tls(Authority::acceptor(&authority.server("127.0.0.1"))).await;
    let url = format!("wss://127.0.0.1:{}/v1/opamp", server.port());
    let mut agent = Agent::start(agent(url).tls(tls).configure(|config| {
        config.connect_timeout = Duration::from_millis(600);
    }));
    let (mut peer, report) = server.welcome().await;
    peer.send(&reply_to(&report)).await;

    put_pipe(folder.path(), "ca.pem");
    std::fs::hard_link(folder.path().join("ca.pem"), folder.path().join("pipe")).unwrap();
    drop(peer);
    agent.disconnected().await;
    // What was read before still serves.
    let (mut peer, report) = server.welcome().await;
    peer.send(&reply_to(&report)).await;

    // Lets whoever reads go, or the runtime would wait for it.
    put(folder.path(), "ca.pem", &authority.pem());
    let pipe = folder.path().join("pipe");
    drop(std::fs::OpenOptions::new().read(true).write(true).open(pipe).unwrap());
}

/// The settings in force need the file, too: what the agent is started with serves no sooner than
/// somebody can have finished writing.
#[tokio::test]
async fn files_that_are_just_being_written_do_not_send_an_agent_back_to_where_it_began() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "ca.pem", &authority.pem());
    let tls = Tls::new().trust_file(folder.path().join("ca.pem")).unwrap();
    let server = Server::start_tls(Authority::acceptor(&authority.server("127.0.0.1"))).await;
    let first = Server::start().await;
    let (url, start) = (format!("wss://127.0.0.1:{}/v1/opamp", server.port()), first.url());
    let builder = agent(&start).tls(tls).accept_connection_settings().configure(move |config| {
        config.storage = Storage::Application;
        config.state.settings_endpoint = start.into();
        config.state.opamp_settings =
            Some(OpAmpConnectionSettings { destination_endpoint: url, ..Default::default() });
    });
    let (_client, mut events, driver) = builder.build().unwrap();
    put(folder.path(), "ca.pem", "-----BEGIN CERTIFICATE-----\nhalf of it");
    tokio::spawn(driver.run());
    let mut failures = 0;
    while failures < 5 {
        if let Some(Event::ConnectFailed { failure, .. }) = soon(events.next()).await {
            assert_eq!(failure.kind, FailureKind::UnusableSettings);
            failures += 1;
        }
    }
    put(folder.path(), "ca.pem", &authority.pem());
    tokio::select! {
        _ = server.welcome() => {}
        _ = first.accept_tcp() => panic!("the agent is back where it began"),
    }
}
