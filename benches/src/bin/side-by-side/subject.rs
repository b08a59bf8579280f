//! What is measured: servers as processes of their own, each started for one measurement, alone on its
//! core.

use std::fmt;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long a server may take to listen.
const START: Duration = Duration::from_secs(20);
/// How long a run of the load generator may take.
const RUN: Duration = Duration::from_secs(300);

/// Where agents come from: with one address for all of them the kernel would need longer to find a
/// free port than the server for the handshake.
pub(crate) const SOURCES: &str =
    "127.0.0.2,127.0.0.3,127.0.0.4,127.0.0.5,127.0.0.6,127.0.0.7,127.0.0.8,127.0.0.9";

/// A server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    /// The example program `server`.
    Ours,
    /// `opamp-floor websocket`.
    Socket,
    /// `opamp-floor http`.
    Hyper,
    /// `opamp-go-bare`.
    Go,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ours => "server",
            Self::Socket => "raw socket",
            Self::Hyper => "bare hyper",
            Self::Go => "opamp-go",
        })
    }
}

/// Where the programs are and where they run.
#[derive(Debug)]
pub(crate) struct Stage {
    /// The directory of our programs.
    pub(crate) programs: PathBuf,
    /// The bare server on opamp-go, if it could be built.
    pub(crate) go: Option<PathBuf>,
    pub(crate) server_core: usize,
    pub(crate) load_core: usize,
    /// A certificate for 127.0.0.1 and its key.
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

/// A running server; it ends with the value.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    tls: bool,
    agents: String,
    admin: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its URL for agents.
    pub(crate) fn url(&self, websocket: bool) -> String {
        let scheme = match (websocket, self.tls) {
            (true, false) => "ws",
            (true, true) => "wss",
            (false, false) => "http",
            (false, true) => "https",
        };
        format!("{scheme}://{}/v1/opamp", self.agents)
    }

    /// Where a configuration for all can be put.
    pub(crate) fn push_url(&self) -> String {
        format!("http://{}/v1/config", self.admin)
    }
}

impl Server {
    /// The number of the last message of the only agent, if that is connected. Our server tells.
    pub(crate) fn last_number(&self) -> Result<Option<u64>, String> {
        let ask = || {
            let mut stream = TcpStream::connect(&self.admin)?;
            stream.set_read_timeout(Some(START))?;
            stream.write_all(b"GET /v1/agents HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).map(|_| answer)
        };
        let answer = ask().map_err(|error| format!("{}: {error}", self.admin))?;
        let agents = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let agents: Value = serde_json::from_str(agents)
            .map_err(|error| format!("{}: the agents cannot be read: {error}", self.admin))?;
        let agent = &agents["agents"][0];
        Ok(agent["sequence_num"].as_u64().filter(|_| agent["connected"] == true))
    }
}

impl Stage {
    /// Whether this one can be started here.
    pub(crate) fn has(&self, subject: Subject) -> bool {
        subject != Subject::Go || self.go.is_some()
    }

    /// A program bound to a core.
    pub(crate) fn bound(core: usize, program: &Path) -> Command {
        let mut command = Command::new("taskset");
        command.arg("-c").arg(core.to_string()).arg(program);
        command
    }

    /// Starts a server on free ports and waits until it listens.
    pub(crate) fn start(&self, subject: Subject, tls: bool) -> Result<Server, String> {
        let program = match subject {
            Subject::Ours => self.programs.join("server"),
            Subject::Socket | Subject::Hyper => self.programs.join("opamp-floor"),
            Subject::Go => self.go.clone().ok_or("there is no opamp-go server")?,
        };
        let mut command = Self::bound(self.server_core, &program);
        let (listen, admin, cert, key) = match subject {
            Subject::Go => ("-listen", "-admin", "-cert", "-key"),
            _ => ("--listen", "--admin", "--tls-cert", "--tls-key"),
        };
        match subject {
            Subject::Socket => command.arg("websocket"),
            Subject::Hyper => command.arg("http"),
            // The load comes from one address.
            Subject::Ours => command.arg("--unlimited"),
            Subject::Go => &mut command,
        };
        command.args([listen, "127.0.0.1:0", admin, "127.0.0.1:0"]);
        if tls {
            command.arg(cert).arg(&self.cert).arg(key).arg(&self.key);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let name = program.display();
        let mut child =
            command.spawn().map_err(|error| format!("{name} cannot be started: {error}"))?;
        let output = child.stdout.take();
        let mut server = Server { child, tls, agents: String::new(), admin: String::new() };
        let (sender, line) = channel();
        std::thread::spawn(move || {
            let Some(output) = output else { return };
            let mut output = BufReader::new(output);
            let mut line = String::new();
            if output.read_line(&mut line).is_ok() {
                // Nobody waits any more when it took too long.
                let _ = sender.send(line);
            }
            // What is not read would stop the server some day.
            let _ = std::io::copy(&mut output, &mut std::io::sink());
        });
        let line = line.recv_timeout(START).unwrap_or_default();
        let address = |key: &str| {
            let word = line.split_whitespace().find_map(|word| word.strip_prefix(key));
            word.map(str::to_owned).ok_or_else(|| format!("{name} does not listen"))
        };
        server.agents = address("opamp=")?;
        server.admin = address("admin=")?;
        Ok(server)
    }

    /// Drives a server and gives the load generator's report.
    pub(crate) fn load(
        &self,
        server: &Server,
        websocket: bool,
        args: &[String],
    ) -> Result<Value, String> {
        let mut command = Self::bound(self.load_core, &self.programs.join("opamp-load"));
        command
            .args([
                "--quiet",
                "--json",
                "-",
                "--leave",
                "drop",
                "--source",
                SOURCES,
                "--server",
                &server.url(websocket),
            ])
            .args(["--pid", &server.pid().to_string()])
            .args(args);
        if server.tls {
            command.arg("--ca").arg(&self.cert);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child =
            command.spawn().map_err(|error| format!("opamp-load cannot be started: {error}"))?;
        let mut output = child.stdout.take().ok_or("opamp-load has no output")?;
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            output.read_to_string(&mut text).map(|_| text)
        });
        let until = Instant::now() + RUN;
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                _ => {
                    // It is given up in any case.
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err("the load generator took too long".to_owned());
                }
            }
        };
        let text = reader.join().ok().and_then(Result::ok).unwrap_or_default();
        let report: Value = serde_json::from_str(&text)
            .map_err(|_| format!("the load generator failed ({status})"))?;
        match report["troubles"].as_object() {
            Some(troubles) if !troubles.is_empty() => {
                let troubles =
                    troubles.iter().map(|(trouble, times)| format!("{times} × {trouble}"));
                Err(troubles.collect::<Vec<_>>().join(", "))
            }
            _ => Ok(report),
        }
    }
}
