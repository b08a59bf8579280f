//! What an operator reads in the log: which peer, which Agent, and no secrets.

use std::io;
use std::sync::{Arc, Mutex};

use http::request;
use opamp_proto::{Message as _, v1};
use opamp_server::{AgentChange, BearerTokens, Handler, Rejection};
use tracing_subscriber::fmt::MakeWriter;

use crate::client::{UID, beat, post, report, start_with, uid};
use crate::support::remote_config;

const TOKEN: &str = "a-token-of-great-value";
const CONTENT: &str = "a-config-of-great-value";

/// A log that is kept.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Says something about each change, without saying about whom.
struct Talking(BearerTokens);

impl Handler for Talking {
    type Identity = ();

    async fn admit(&self, request: &request::Parts) -> Result<(), Rejection> {
        self.0.check(request)
    }

    async fn agent_changed(&self, _change: AgentChange<()>) {
        tracing::info!("the application saw it");
    }
}

#[tokio::test]
async fn spans_name_the_agent_and_the_peer_and_nothing_names_secrets() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(log.clone())
        .finish();
    let _current = tracing::subscriber::set_default(subscriber);
    let server = start_with(Talking(BearerTokens::new([TOKEN])), |_, _| {}).await;
    let authorization = format!("Bearer {TOKEN}");
    let headers = [("authorization", authorization.as_str())];

    let mut socket = server.websocket_with(&headers).await.expect("an upgrade");
    socket.send(&report(1)).await;
    socket.recv().await;
    server.fleet.set_remote_config(uid(&UID), remote_config(CONTENT)).unwrap();
    socket.recv().await;
    server.until(|_| log.text().contains("the application saw it")).await;
    let agent = "agent=07070707-0707-0707-0707-070707070707";
    let text = log.text();
    let line = |needle: &str| {
        let line = text.lines().find(|line| line.contains(needle));
        line.unwrap_or_else(|| panic!("{needle} is not in {text}"))
    };
    assert!(line("the application saw it").contains(&format!("agent_changed{{{agent}")));
    let began = line("a session began");
    assert!(began.contains("websocket{peer=") && began.contains(agent), "{began}");

    // A part that is no message: the refusal is about an Agent and a peer.
    let broken = [&beat(2).encode_to_vec()[..], &[0x1a, 1, 0xff]].concat();
    for authorized in [true, false] {
        let mut request = post(broken.clone());
        if authorized {
            request.headers_mut().insert("authorization", authorization.parse().unwrap());
        }
        server.request(request).await;
    }
    let health = v1::ComponentHealth { status: CONTENT.to_owned(), ..Default::default() };
    socket.send(&v1::AgentToServer { health: Some(health), ..beat(3) }).await;
    socket.recv().await;
    let text = log.text();
    let refused = text.lines().find(|line| line.contains("refused") && line.contains(agent));
    assert!(refused.is_some_and(|line| line.contains("request{peer=")), "{text}");
    assert!(text.contains("status=401"), "{text}");
    assert!(!text.contains(TOKEN) && !text.contains(CONTENT), "{text}");
}
