//! A program under test: started, listened to, told things, and ended.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, ChildStdin, Command};

use crate::check::{Failed, Needed as _};
use crate::log::{Log, PATIENCE};

/// A running process. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    stdin: ChildStdin,
    pub(crate) out: Log,
    pub(crate) err: Log,
}

impl Process {
    pub(crate) fn start(
        name: &'static str,
        program: &Path,
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Result<Self, Failed> {
        let what = || format!("{} starts", program.display());
        let mut child = Command::new(program)
            .args(args)
            .env_remove("RUST_LOG")
            // They take the place of the authority that Python is told to trust.
            .env_remove("REQUESTS_CA_BUNDLE")
            .env_remove("CURL_CA_BUNDLE")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .needed(&what())?;
        let (Some(stdin), Some(out), Some(err)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(Failed::new(what(), "it has no pipes"));
        };
        Ok(Self { name, child, stdin, out: Log::of(out), err: Log::of(err) })
    }

    /// Writes a line to its stdin.
    pub(crate) async fn tell(&mut self, line: &Value) -> Result<(), Failed> {
        let line = format!("{line}\n");
        self.stdin
            .write_all(line.as_bytes())
            .await
            .needed(&format!("{} takes a command", self.name))
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) async fn terminate(&mut self) -> Result<ExitStatus, Failed> {
        if let Some(pid) = self.child.id() {
            let kill = Command::new("kill").arg("-TERM").arg(pid.to_string()).status().await;
            kill.needed("kill sends SIGTERM")?;
        }
        self.ended().await
    }

    pub(crate) async fn ended(&mut self) -> Result<ExitStatus, Failed> {
        let what = format!("{} ends", self.name);
        let waited = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        waited.needed(&what)?.needed(&what)
    }

    pub(crate) async fn kill(&mut self) -> Result<(), Failed> {
        self.child.kill().await.needed(&format!("{} is killed", self.name))
    }
}
