//! What a scenario has at hand: the programs, a directory of its own, certificates.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tempfile::TempDir;

use crate::Peer;
use crate::check::{Failed, Needed as _};
use crate::log::Log;
use crate::other_agents::Client;
use crate::process::Process;
use crate::tls::Certificates;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    WebSocket,
    Http,
}

impl Transport {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::Http => "http",
        }
    }

    pub(crate) fn url(self, secure: bool, addr: &str) -> String {
        let scheme = match (self, secure) {
            (Self::WebSocket, false) => "ws",
            (Self::WebSocket, true) => "wss",
            (Self::Http, false) => "http",
            (Self::Http, true) => "https",
        };
        format!("{scheme}://{addr}/v1/opamp")
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What all scenarios share.
#[derive(Debug)]
pub(crate) struct Equipment {
    server: PathBuf,
    agent: PathBuf,
}

const GO_SERVER: &str = "interop/go/bin/opamp-go-server";
const GO_AGENT: &str = "interop/go/bin/opamp-go-agent";

impl Equipment {
    pub(crate) fn new(examples: &Path, peers: &[Peer]) -> Result<Self, Failed> {
        let program = |path: PathBuf| match path.is_file() {
            true => Ok(path),
            false => Err(Failed::new(format_args!("a program {}", path.display()), "none")),
        };
        if peers.contains(&Peer::Go) {
            program(GO_SERVER.into())?;
            program(GO_AGENT.into())?;
        }
        Ok(Self {
            server: program(examples.join("server"))?,
            agent: program(examples.join("agent"))?,
        })
    }
}

/// The stderr of every process of a scenario, for when it fails.
pub(crate) type Logs = Arc<Mutex<Vec<(&'static str, Log)>>>;

/// Where one scenario plays.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) transport: Transport,
    equipment: Arc<Equipment>,
    dir: TempDir,
    logs: Logs,
}

impl Stage {
    pub(crate) fn new(
        transport: Transport,
        equipment: Arc<Equipment>,
        logs: Logs,
    ) -> Result<Self, Failed> {
        let dir = tempfile::tempdir().needed("a temporary directory")?;
        Ok(Self { transport, equipment, dir, logs })
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn certificates(&self) -> Result<Certificates, Failed> {
        Certificates::make(self.dir())
    }

    pub(crate) fn server(&self, args: &[&str]) -> Result<Process, Failed> {
        self.listed("server", Process::start("server", &self.equipment.server, args))
    }

    pub(crate) fn agent(&self, args: &[&str]) -> Result<Process, Failed> {
        self.listed("agent", Process::start("agent", &self.equipment.agent, args))
    }

    pub(crate) fn go_server(&self, args: &[&str]) -> Result<Process, Failed> {
        let name = "opamp-go-server";
        self.listed(name, Process::start(name, Path::new(GO_SERVER), args))
    }

    pub(crate) fn go_agent(&self, args: &[&str]) -> Result<Process, Failed> {
        let name = "opamp-go-agent";
        self.listed(name, Process::start(name, Path::new(GO_AGENT), args))
    }

    pub(crate) fn other_agent(&self, client: Client, args: &[&str]) -> Result<Process, Failed> {
        let [program, first @ ..] = client.command() else {
            return Err(Failed::new("a command", "none"));
        };
        let args = first.iter().chain(args);
        self.listed(client.name(), Process::start(client.name(), Path::new(program), args))
    }

    fn listed(
        &self,
        name: &'static str,
        started: Result<Process, Failed>,
    ) -> Result<Process, Failed> {
        let process = started?;
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        logs.push((name, process.err.clone()));
        Ok(process)
    }
}

pub(crate) fn new_uid() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// A YAML file of about that size.
pub(crate) fn big_yaml(size: usize) -> String {
    let line = "  one more line of a text that is long on purpose, for it has to be cut up\n";
    format!("text: |\n{}", line.repeat(size.div_ceil(line.len())))
}
