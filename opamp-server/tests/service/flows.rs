//! What flows besides configurations, over real sockets: connection settings, packages and their
//! files, custom messages; and connections that the operator closes.

use http::request;
use opamp_proto::{AgentCapabilities as Does, content_hash, v1};
use opamp_server::{
    AcceptAll, AgentChange, ConnectionSettings, CustomCapabilities, Handler, OperationError,
    Outcome, PackageFiles, Packages, Rejection, Server,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::client::{MASK, UID, beat, report, soon, start, start_with, uid};
use crate::support::{full_report, heartbeat};

const CHAT: &str = "org.example.chat";

/// Sends every custom message back.
struct Echoes;

impl Handler for Echoes {
    type Identity = ();

    async fn admit(&self, _request: &request::Parts) -> Result<(), Rejection> {
        Ok(())
    }

    async fn agent_changed(&self, change: AgentChange<()>) {
        for message in change.custom_messages {
            let now = tokio::time::Instant::now().into_std();
            let sent = change.fleet.send_custom_message(change.agent.uid(), message, now);
            sent.expect("there is room, and both have the capability");
        }
    }
}

fn saying(uid: &[u8], data: &'static [u8]) -> v1::AgentToServer {
    v1::AgentToServer {
        custom_capabilities: Some(v1::CustomCapabilities { capabilities: vec![CHAT.to_owned()] }),
        custom_message: Some(v1::CustomMessage {
            capability: CHAT.to_owned(),
            r#type: "hello".to_owned(),
            data: data.into(),
        }),
        ..full_report(uid, 1, MASK)
    }
}

#[tokio::test]
async fn custom_messages_reach_the_handler_and_its_answers_the_agent() {
    let _judged = opamp_spec::judges(&["CUST-01", "CUST-12", "CUST-13"]);
    let server = start_with(Echoes, |config, _| {
        config.custom_capabilities = CustomCapabilities::new([CHAT]).unwrap();
    })
    .await;
    // Over HTTP the response waits for the handler.
    let reply = server.post(&saying(&UID, b"over \xff HTTP")).await;
    assert_eq!(reply.custom_capabilities.unwrap().capabilities, [CHAT]);
    assert_eq!(&reply.custom_message.unwrap().data[..], b"over \xff HTTP");
    let mut socket = server.websocket().await;
    socket.send(&saying(&[8; 16], b"over a WebSocket")).await;
    let echoed = soon(async {
        loop {
            if let Some(message) = socket.recv().await.custom_message {
                break message;
            }
        }
    });
    assert_eq!(&echoed.await.data[..], b"over a WebSocket");
}

#[tokio::test]
async fn settings_are_pushed_and_packages_wait_for_the_next_request() {
    let _judged = opamp_spec::judges(&["CONN-10", "PKG-02", "TEL-04", "HTTP-10"]);
    let server = start().await;
    let able = MASK | Does::REPORTS_OWN_LOGS | Does::ACCEPTS_PACKAGES;
    let mut socket = server.websocket().await;
    socket.send(&full_report(&UID, 1, able)).await;
    socket.recv().await;
    let own_logs = v1::TelemetryConnectionSettings {
        destination_endpoint: "https://logs.example/v1/logs".to_owned(),
        ..Default::default()
    };
    let settings = ConnectionSettings::new(v1::ConnectionSettingsOffers {
        own_logs: Some(own_logs.clone()),
        ..Default::default()
    });
    server.fleet.set_connection_settings(uid(&UID), settings.unwrap()).unwrap();
    assert_eq!(socket.recv().await.connection_settings.unwrap().own_logs, Some(own_logs));
    let state = server.fleet.agent(uid(&UID)).unwrap().connection_settings().unwrap();
    assert_eq!(state.outcome(), Outcome::Sent);

    let other = [8; 16];
    let _ = server.post(&full_report(&other, 1, able)).await;
    let packages = Packages::new(v1::PackagesAvailable::default()).unwrap();
    server.fleet.set_packages(uid(&other), packages.clone()).unwrap();
    let reply = server.post(&heartbeat(&other, 2, able)).await;
    assert_eq!(reply.packages_available, Some(packages.to_message()));
}

#[tokio::test]
async fn files_of_packages_are_served_beside_the_endpoint() {
    let _judged = opamp_spec::judges(&["PKG-69", "PKG-70"]);
    let files = PackageFiles::default();
    let file = files.add("the whole content").unwrap();
    let server =
        Server::bind("127.0.0.1:0").package_files("/packages/", files).listen(AcceptAll).await;
    let server = server.unwrap();
    let (addr, stop) = (server.local_addr(), server.shutdown_handle());
    let task = tokio::task::spawn(server.run());
    let get = async |path: String, more: &str| {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{more}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        soon(stream.read_to_string(&mut response)).await.unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        (head["HTTP/1.1 ".len()..][..3].to_owned(), body.to_owned())
    };
    let (status, content) = get(file.url("/packages"), "").await;
    assert_eq!((status.as_str(), content.as_str()), ("200", "the whole content"));
    assert_eq!(content_hash(content.as_bytes()), file.content_hash());
    let (status, content) = get(file.url("/packages"), "range: bytes=10-\r\n").await;
    assert_eq!((status.as_str(), content.as_str()), ("206", "content"));
    assert_eq!(get("/packages/none".to_owned(), "").await.0, "404");
    assert_eq!(get(file.url("/packagesX"), "").await.0, "404");
    stop.shutdown();
    soon(task).await.unwrap();
}

#[tokio::test]
async fn the_operator_closes_a_connection_in_good_order() {
    let _judged = opamp_spec::judges(&["CLOSE-04"]);
    let server = start().await;
    let mut socket = server.websocket().await;
    socket.send(&report(1)).await;
    socket.recv().await;
    server.fleet.disconnect(uid(&UID)).unwrap();
    assert_eq!(socket.recv_close().await, 1000);
    server.until(|fleet| !fleet.agent(uid(&UID)).unwrap().is_connected()).await;
    assert_eq!(server.fleet.disconnect(uid(&UID)), Err(OperationError::NotConnected));
    assert_eq!(server.fleet.disconnect(uid(&[1; 16])), Err(OperationError::UnknownAgent));
    // It may come back.
    let mut socket = server.websocket().await;
    socket.send(&beat(2)).await;
    assert_eq!(socket.recv().await.error_response, None);
}
