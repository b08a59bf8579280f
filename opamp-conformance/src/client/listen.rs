//! Clients that a person starts by hand, told where to connect.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use super::{ClientUnderTest, Running, Start};
use crate::hook::{Action, HookError, Hooks};
use crate::judge::Stop;
use crate::net::Network;

/// A client that a person starts. What to start is written to `out`, and the case then waits for
/// the client to connect.
pub struct ListenClient {
    network: Network,
    out: Arc<Mutex<dyn Write + Send>>,
    hooks: Arc<dyn Hooks>,
    heartbeat: Duration,
    max_message_size: u64,
}

impl ListenClient {
    /// A client that reaches this network; `heartbeat` is its interval of heartbeats and polls.
    pub fn new(
        network: Network,
        out: impl Write + Send + 'static,
        hooks: Arc<dyn Hooks>,
        heartbeat: Duration,
        max_message_size: u64,
    ) -> Self {
        let out = Arc::new(Mutex::new(out));
        Self { network, out, hooks, heartbeat, max_message_size }
    }
}

#[async_trait]
impl ClientUnderTest for ListenClient {
    fn network(&self) -> Network {
        self.network.clone()
    }

    fn takes(&self, part: &str) -> bool {
        part == "headers"
    }

    fn heartbeat(&self) -> Duration {
        self.heartbeat
    }

    fn max_message_size(&self) -> u64 {
        self.max_message_size
    }

    async fn start(&self, start: Start) -> Result<Box<dyn Running>, Stop> {
        let headers: String = { start.headers.iter() }
            .map(|(name, value)| format!(", with the header field {name}: {value}"))
            .collect();
        say(&self.out, &format!("start the client for {}{headers}", start.url));
        Ok(Box::new(ByHand { out: Arc::clone(&self.out), hooks: Arc::clone(&self.hooks) }))
    }
}

/// Writes a line for the person. Where nobody can read it, nobody starts a client either.
fn say(out: &Mutex<dyn Write + Send>, line: &str) {
    let mut out = out.lock().unwrap_or_else(PoisonError::into_inner);
    let _ = writeln!(out, ">>> {line}").and_then(|()| out.flush());
}

/// A client that a person was asked to start.
struct ByHand {
    out: Arc<Mutex<dyn Write + Send>>,
    hooks: Arc<dyn Hooks>,
}

#[async_trait]
impl Running for ByHand {
    async fn call(&mut self, action: &Action) -> Result<Value, HookError> {
        self.hooks.call(action).await
    }

    async fn stop(&mut self) -> Result<(), HookError> {
        say(&self.out, "stop the client in an orderly way");
        Ok(())
    }

    async fn kill(&mut self) {
        say(&self.out, "kill the client");
    }

    fn ended(&mut self) -> Option<String> {
        None
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        say(&self.out, "this client is no longer needed");
    }
}
