//! What the client library costs an agent: the size of a program that holds nothing else, what it
//! stands on, and what it needs while it does nothing but stay connected.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use opamp_benches::process::{self, Memory};

use super::subject::{Server, Stage, Subject};
use super::table::number;

/// A build that `benches/run` makes.
struct Build {
    name: &'static str,
    title: &'static str,
    tls: bool,
}

const BUILDS: [Build; 4] = [
    Build { name: "plain", title: "WebSocket", tls: false },
    Build { name: "tls", title: "WebSocket and TLS", tls: true },
    Build { name: "plain-small", title: "WebSocket, profile `small`", tls: false },
    Build { name: "tls-small", title: "WebSocket and TLS, profile `small`", tls: true },
];

/// Milliseconds between heartbeats where their cost is measured.
const INTERVAL: u64 = 20;

/// How long an agent may take to connect.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where systems keep the authorities they trust.
const AUTHORITIES: [&str; 2] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// An agent that runs; it ends with the value.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What is measured of the builds that there are: for so long at rest, and for so long with a heartbeat
/// every 20 ms.
pub(crate) struct Measurement<'a> {
    pub(crate) stage: &'a Stage,
    pub(crate) builds: &'a Path,
    pub(crate) idle: Duration,
    pub(crate) busy: Duration,
}

impl Measurement<'_> {
    pub(crate) fn run(&self) -> Result<String, String> {
        let mut text =
            "| the smallest agent | bytes | crates in it | kB resident | kB of its own | \
            CPU at rest, ms in an hour | CPU of a heartbeat, µs |\n\
            | --- | --- | --- | --- | --- | --- | --- |\n"
                .to_owned();
        let trusted = self.trust()?;
        let builds: Vec<_> =
            BUILDS.iter().filter(|build| self.builds.join(build.name).exists()).collect();
        if builds.is_empty() {
            return Err(format!("there is no agent in {}", self.builds.display()));
        }
        for build in builds {
            let size = fs::metadata(self.builds.join(build.name));
            let size = size.map_err(|error| format!("{}: {error}", build.name))?.len();
            let (memory, at_rest) = self.idle(build, &trusted)?;
            let heartbeat = self.busy(build, &trusted)?;
            // Writing to a text does not fail.
            let _ = writeln!(
                text,
                "| {} | {size} | {} | {} | {} | {} | {} |",
                build.title,
                self.crates(build)?,
                memory.resident / 1024,
                memory.anonymous / 1024,
                number(at_rest),
                number(heartbeat),
            );
        }
        let _ = write!(
            text,
            "\nBytes are those of the program as it was linked; only the profile `small` leaves symbols out. \
             At rest is connected, with a heartbeat and a ping every 30 s, watched for {} s. The cost of \
             a heartbeat is measured with one every {INTERVAL} ms, its answer included.\n",
            self.idle.as_secs(),
        );
        Ok(text)
    }

    /// The server's certificate beside the authorities of the system, since an agent holds these, too.
    fn trust(&self) -> Result<PathBuf, String> {
        let wrong = |error| format!("the certificates cannot be copied: {error}");
        let mut bundle = fs::read_to_string(&self.stage.cert).map_err(wrong)?;
        if let Some(system) = AUTHORITIES.iter().find_map(|file| fs::read_to_string(file).ok()) {
            bundle.push_str(&system);
        }
        let file = self.stage.cert.with_file_name("trusted.pem");
        fs::write(&file, bundle).map_err(wrong)?;
        Ok(file)
    }

    fn crates(&self, build: &Build) -> Result<usize, String> {
        let file = self.builds.join(if build.tls { "tls.tree" } else { "plain.tree" });
        let tree = fs::read_to_string(&file);
        let tree = tree.map_err(|error| format!("{}: {error}", file.display()))?;
        // The first line is the program itself.
        let crates = tree.lines().skip(1);
        let crates: BTreeSet<_> =
            crates.map(|line| line.strip_suffix(" (*)").unwrap_or(line)).collect();
        Ok(crates.len())
    }

    /// Starts an agent and waits until the server knows it.
    fn start(
        &self,
        build: &Build,
        trusted: &Path,
        interval: Option<u64>,
    ) -> Result<(Server, Agent), String> {
        let server = self.stage.start(Subject::Ours, build.tls)?;
        let mut command = Stage::bound(self.stage.load_core, &self.builds.join(build.name));
        command.arg(server.url(true)).args(interval.map(|interval| interval.to_string()));
        command.env("SSL_CERT_FILE", trusted).env_remove("SSL_CERT_DIR");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let agent = command.spawn();
        let agent = Agent(agent.map_err(|error| format!("{}: {error}", build.name))?);
        let until = Instant::now() + PATIENCE;
        while server.last_number()?.is_none() {
            if Instant::now() > until {
                return Err(format!("the agent {} does not connect", build.name));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok((server, agent))
    }

    /// Memory, and milliseconds of CPU in an hour.
    fn idle(&self, build: &Build, trusted: &Path) -> Result<(Memory, f64), String> {
        let (server, agent) = self.start(build, trusted, None)?;
        let (cpu, _) = watch(&server, &agent, self.idle)?;
        let memory = process::memory(agent.0.id()).ok_or("the agent's memory is not known")?;
        Ok((memory, cpu.as_secs_f64() / self.idle.as_secs_f64() * 3600.0 * 1e3))
    }

    /// Microseconds of CPU for a heartbeat.
    fn busy(&self, build: &Build, trusted: &Path) -> Result<f64, String> {
        let (server, agent) = self.start(build, trusted, Some(INTERVAL))?;
        let (cpu, messages) = watch(&server, &agent, self.busy)?;
        if messages == 0 {
            return Err(format!("the agent {} sends nothing", build.name));
        }
        Ok(cpu.as_secs_f64() * 1e6 / messages as f64)
    }
}

/// What an agent that is connected uses in this time, and how many messages it sends.
fn watch(server: &Server, agent: &Agent, time: Duration) -> Result<(Duration, u64), String> {
    // What comes with the first connection is over by then.
    std::thread::sleep(Duration::from_secs(1));
    let look = || {
        let cpu = process::cpu(agent.0.id()).ok_or("the agent's CPU time is not known")?;
        let number = server.last_number()?.ok_or("the agent did not stay")?;
        Ok::<_, String>((cpu, number))
    };
    let (before, first) = look()?;
    std::thread::sleep(time);
    let (after, last) = look()?;
    Ok((after.since(&before), last.saturating_sub(first)))
}
