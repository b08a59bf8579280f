//! Clients that are a command of the implementer: started for each case, with what the case has to
//! tell filled into the command line.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tempfile::TempDir;

use super::{ClientUnderTest, Running, Start};
use crate::hook::{self, Action, CommandHook, HookError, Hooks, HttpHook, NoHooks};
use crate::judge::Stop;
use crate::net::Network;
use crate::program::{CommandLine, Program};
use crate::wire::authority::Authority;

/// A client that is started with a command.
///
/// In the command's words `{url}` becomes the server's URL, `{heartbeat}` the interval of
/// heartbeats and polls in seconds, `{state}` a directory for what has to outlive the client,
/// `{ca}` a PEM file with the authority to trust, `{max_message_size}` the largest message to send
/// and to take in bytes, and `{hook}` a port of 127.0.0.1 where the client may serve its hooks.
pub struct ExecClient {
    command: CommandLine,
    header: Option<CommandLine>,
    hooks: ClientHooks,
    heartbeat: Duration,
    max_message_size: u64,
    /// Where states and files are; removed in the end.
    home: TempDir,
    /// The authority that a client is told to trust where it does not matter which.
    authority: String,
    /// How many ports for hooks were tried, from a random one on.
    hooked: AtomicUsize,
}

/// How hooks of a client are called.
#[derive(Clone, Default)]
pub enum ClientHooks {
    /// There are none, or the client serves them at the port it is told.
    #[default]
    None,
    /// By a command, which also gets the `pid` and the `state` directory of the client.
    Command(CommandHook),
    /// At a fixed URL.
    Http(HttpHook),
}

impl ExecClient {
    /// A client that this command starts.
    ///
    /// # Errors
    ///
    /// When the command has no `{url}`, or its program cannot be found, or no directory for its
    /// state can be made.
    pub fn new(command: &str) -> Result<Self, String> {
        let command = CommandLine::parse(command)?;
        if !has(&command, "{url}") {
            return Err("the command has no {url}, so it cannot tell the client where to connect"
                .to_owned());
        }
        command.check()?;
        let home = TempDir::with_prefix("opamp-conformance-");
        let home = home.map_err(|error| format!("no directory for its state: {error}"))?;
        let authority = Authority::new("nobody").map_err(|error| error.to_string())?;
        Ok(Self {
            command,
            header: None,
            hooks: ClientHooks::None,
            heartbeat: Duration::from_secs(30),
            max_message_size: 64 << 20,
            home,
            authority: authority.pem().to_owned(),
            hooked: AtomicUsize::new(usize::from(rand::random::<u16>())),
        })
    }

    /// The program it starts, as the command has it.
    #[must_use]
    pub fn program(&self) -> &str {
        &self.command.words()[0]
    }

    /// Says how the client is given header fields: words with `{name}` and `{value}`, which are put
    /// at the end of the command, once for each field.
    ///
    /// # Errors
    ///
    /// When the words have no `{name}` or no `{value}`.
    pub fn header(mut self, words: &str) -> Result<Self, String> {
        let words = CommandLine::parse(words)?;
        if !has(&words, "{name}") || !has(&words, "{value}") {
            return Err("header arguments need {name} and {value}".to_owned());
        }
        self.header = Some(words);
        Ok(self)
    }

    /// Says how its hooks are called.
    #[must_use]
    pub fn hooks(mut self, hooks: ClientHooks) -> Self {
        self.hooks = hooks;
        self
    }

    /// Says what its interval of heartbeats and polls is where the command has no `{heartbeat}`.
    #[must_use]
    pub fn heartbeat(mut self, heartbeat: Duration) -> Self {
        self.heartbeat = heartbeat;
        self
    }

    /// Says what the largest message is that it takes.
    #[must_use]
    pub fn max_message_size(mut self, bytes: u64) -> Self {
        self.max_message_size = bytes;
        self
    }

    async fn prepare(&self, start: &Start) -> std::io::Result<Prepared> {
        let dir = TempDir::with_prefix_in("start-", self.home.path())?;
        let state = match &start.state {
            Some(name) => self.home.path().join("states").join(name),
            None => dir.path().join("state"),
        };
        std::fs::create_dir_all(&state)?;
        let ca = dir.path().join("ca.pem");
        std::fs::write(&ca, start.ca.as_ref().unwrap_or(&self.authority))?;
        let port = match has(&self.command, "{hook}") {
            true => Some(self.hook_port().await?),
            false => None,
        };
        Ok(Prepared { dir, state, ca, port })
    }

    /// A port that is free and stays so until the client listens there: below those that systems
    /// give to connections, and another one each time.
    async fn hook_port(&self) -> std::io::Result<u16> {
        for _ in 0..HOOK_PORTS.len() {
            let number = self.hooked.fetch_add(1, Ordering::Relaxed) % HOOK_PORTS.len();
            let port = HOOK_PORTS.start + number as u16;
            if Network::Sockets.listen(port).await.is_ok() {
                return Ok(port);
            }
        }
        Ok(Network::Sockets.listen(0).await?.port())
    }
}

/// Where clients may serve their hooks.
const HOOK_PORTS: Range<u16> = 20_000..32_000;

/// What a client is given.
struct Prepared {
    dir: TempDir,
    state: PathBuf,
    ca: PathBuf,
    port: Option<u16>,
}

fn has(command: &CommandLine, placeholder: &str) -> bool {
    command.words().iter().any(|word| word.contains(placeholder))
}

#[async_trait]
impl ClientUnderTest for ExecClient {
    fn network(&self) -> Network {
        Network::Sockets
    }

    fn takes(&self, part: &str) -> bool {
        match part {
            "headers" => self.header.is_some(),
            part => has(&self.command, &format!("{{{part}}}")),
        }
    }

    fn heartbeat(&self) -> Duration {
        self.heartbeat
    }

    fn max_message_size(&self) -> u64 {
        self.max_message_size
    }

    async fn start(&self, start: Start) -> Result<Box<dyn Running>, Stop> {
        let cannot = |error: std::io::Error| {
            Stop::Harness(format!("the client cannot be given what it needs: {error}"))
        };
        let prepared = self.prepare(&start).await.map_err(cannot)?;
        let heartbeat = start.heartbeat.unwrap_or(self.heartbeat).as_secs_f64().ceil();
        let max_message_size = start.max_message_size.unwrap_or(self.max_message_size);
        let port = prepared.port.map(|port| port.to_string()).unwrap_or_default();
        let filled = self.command.map(|word| {
            word.replace("{url}", &start.url)
                .replace("{heartbeat}", &heartbeat.to_string())
                .replace("{state}", &prepared.state.to_string_lossy())
                .replace("{ca}", &prepared.ca.to_string_lossy())
                .replace("{max_message_size}", &max_message_size.to_string())
                .replace("{hook}", &port)
        });
        let headers = start.headers.iter().flat_map(|(name, value)| {
            let words = self.header.iter().flat_map(CommandLine::words);
            words.map(|word| word.replace("{name}", name).replace("{value}", value))
        });
        let filled = filled.with(headers);
        let program = filled.start().map_err(Stop::Harness)?;
        let hooks: Box<dyn Hooks> = match (&self.hooks, prepared.port) {
            (ClientHooks::Command(command), _) => Box::new(
                { command.clone() }
                    .with("pid", program.pid())
                    .with("state", prepared.state.to_string_lossy()),
            ),
            (ClientHooks::Http(http), _) => Box::new(http.clone()),
            (ClientHooks::None, Some(port)) => Box::new(
                HttpHook::new(&format!("http://127.0.0.1:{port}/"), hook::LIMIT)
                    .map_err(Stop::Harness)?,
            ),
            (ClientHooks::None, None) => Box::new(NoHooks),
        };
        Ok(Box::new(Started { program, hooks, _dir: prepared.dir }))
    }
}

/// A client that was started with a command.
struct Started {
    program: Program,
    hooks: Box<dyn Hooks>,
    /// Removed after the program has ended.
    _dir: TempDir,
}

#[async_trait]
impl Running for Started {
    async fn call(&mut self, action: &Action) -> Result<Value, HookError> {
        self.hooks.call(action).await
    }

    async fn stop(&mut self) -> Result<(), HookError> {
        if cfg!(unix) {
            self.program.terminate();
            Ok(())
        } else {
            Err(HookError::Unsupported)
        }
    }

    async fn kill(&mut self) {
        self.program.kill().await;
    }

    fn ended(&mut self) -> Option<String> {
        self.program.ended()
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    async fn last_words(client: &ExecClient, start: Start) -> String {
        let mut running = client.start(start).await.unwrap();
        loop {
            if let Some(how) = running.ended().filter(|how| how.contains("DONE")) {
                return how;
            }
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_a_case_tells_is_filled_in() {
        let script = "sh -c 'cat $3; test -d $4 && echo state; echo $*; echo DONE' sh \
                      {url} {heartbeat} {ca} {state} {max_message_size} {hook}";
        let client = ExecClient::new(script).unwrap().header("-H '{name}: {value}'").unwrap();
        assert!(["heartbeat", "state", "ca", "headers"].iter().all(|part| client.takes(part)));
        let start = Start {
            url: "ws://127.0.0.1:1/v1/opamp".into(),
            heartbeat: Some(Duration::from_millis(1500)),
            state: Some("kept".into()),
            ca: None,
            headers: vec![("x".into(), "y z".into())],
            max_message_size: Some(4096),
        };
        let said = last_words(&client, start).await;
        assert!(said.contains("END CERTIFICATE") && said.contains("\nstate\n"), "{said}");
        assert!(said.contains("ws://127.0.0.1:1/v1/opamp 2 /"), "{said}");
        assert!(said.contains(" 4096 ") && said.contains(" -H x: y z\n"), "{said}");
        assert!(client.home.path().join("states/kept").is_dir());
    }

    #[tokio::test]
    async fn a_kept_state_outlives_the_client_and_any_other_does_not() {
        let client =
            ExecClient::new("sh -c 'ls $1; touch $1/was-here; echo DONE' sh {state} {url}");
        let client = client.unwrap();
        let start =
            |name: Option<&str>| Start { state: name.map(PathBuf::from), ..Start::default() };
        assert!(!last_words(&client, start(Some("a"))).await.contains("was-here"));
        assert!(last_words(&client, start(Some("a"))).await.contains("was-here"));
        assert!(!last_words(&client, start(None)).await.contains("was-here"));
        assert!(!last_words(&client, start(None)).await.contains("was-here"));
    }

    #[test]
    fn a_command_that_cannot_do_is_refused() {
        let wrong = |command: &str| ExecClient::new(command).err().unwrap();
        assert!(wrong("agent").contains("{url}"));
        assert!(wrong("/nowhere/agent {url}").contains("no program"));
        assert!(wrong("'agent {url}").contains("quote"));
    }
}
