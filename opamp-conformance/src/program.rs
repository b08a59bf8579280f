//! Programs of the implementer. Each runs in a process group of its own, so that whatever it starts
//! ends with it; what it prints is read all the time and the last of it kept.

use std::collections::VecDeque;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// How much of what a program prints is kept.
const KEPT: usize = 8 << 10;
/// How many lines of it are shown.
const SHOWN: usize = 12;

/// A command line, split into words as a shell would. No shell runs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine(Vec<String>);

impl CommandLine {
    /// Splits a command line.
    ///
    /// # Errors
    ///
    /// When it has no words, or a quote is not closed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let words =
            shlex::split(text).ok_or_else(|| format!("a quote in {text:?} is not closed"))?;
        if words.is_empty() { Err("the command is empty".to_owned()) } else { Ok(Self(words)) }
    }

    /// Its words; there is at least one.
    #[must_use]
    pub fn words(&self) -> &[String] {
        &self.0
    }

    /// The same with each word changed.
    #[must_use]
    pub fn map(&self, change: impl Fn(&str) -> String) -> Self {
        Self(self.0.iter().map(|word| change(word)).collect())
    }

    /// The same with more words at its end.
    #[must_use]
    pub fn with(mut self, more: impl IntoIterator<Item = String>) -> Self {
        self.0.extend(more);
        self
    }

    /// Whether its program can be found.
    ///
    /// # Errors
    ///
    /// When it cannot.
    pub fn check(&self) -> Result<(), String> {
        let name = &self.0[0];
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = if name.contains('/') {
            std::path::Path::new(name).is_file()
        } else {
            std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
        };
        if found || !cfg!(unix) { Ok(()) } else { Err(format!("there is no program {name:?}")) }
    }

    /// Starts it with no input and its output drained.
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub fn start(&self) -> Result<Program, String> {
        let mut command = self.command();
        command.stdin(Stdio::null());
        let mut program = Program::spawn(command, &self.0[0])?;
        if let Some(stdout) = program.child.stdout.take() {
            program.drain(stdout);
        }
        Ok(program)
    }

    /// Starts it with its input and output in the caller's hands.
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub fn start_piped(&self) -> Result<(Program, ChildStdin, ChildStdout), String> {
        let mut command = self.command();
        command.stdin(Stdio::piped());
        let mut program = Program::spawn(command, &self.0[0])?;
        match (program.child.stdin.take(), program.child.stdout.take()) {
            (Some(stdin), Some(stdout)) => Ok((program, stdin, stdout)),
            _ => Err("it has no input or no output".to_owned()),
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.0[0]);
        command.args(&self.0[1..]).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(true);
        #[cfg(unix)]
        command.process_group(0);
        command
    }
}

/// A program that was started. Dropping it kills it and whatever it started.
#[derive(Debug)]
pub struct Program {
    child: Child,
    pid: Option<u32>,
    /// Its process group, as long as that is known to be its own.
    group: Option<u32>,
    printed: Arc<Mutex<VecDeque<u8>>>,
}

impl Program {
    fn spawn(mut command: Command, name: &str) -> Result<Self, String> {
        let mut child =
            command.spawn().map_err(|error| format!("{name:?} does not start: {error}"))?;
        let (pid, stderr) = (child.id(), child.stderr.take());
        let program = Self { child, pid, group: pid, printed: Arc::default() };
        if let Some(stderr) = stderr {
            program.drain(stderr);
        }
        Ok(program)
    }

    fn drain(&self, mut from: impl AsyncRead + Send + Unpin + 'static) {
        let printed = Arc::clone(&self.printed);
        tokio::spawn(async move {
            let mut buffer = vec![0; 4 << 10];
            while let Ok(length @ 1..) = from.read(&mut buffer).await {
                let mut printed = printed.lock().unwrap_or_else(PoisonError::into_inner);
                printed.extend(&buffer[..length]);
                let excess = printed.len().saturating_sub(KEPT);
                printed.drain(..excess);
            }
        });
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// Asks it and what it started to end in an orderly way.
    pub fn terminate(&self) {
        #[cfg(unix)]
        self.signal(rustix::process::Signal::TERM);
    }

    /// Ends it and what it started without warning, and waits until it has.
    pub async fn kill(&mut self) {
        self.kill_group();
        // One that has ended already is fine.
        let _ = self.child.kill().await;
    }

    /// Waits until it ends; what it started may go on.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub async fn wait(&mut self) -> std::io::Result<ExitStatus> {
        let status = self.child.wait().await?;
        self.group = None;
        Ok(status)
    }

    /// How it ended, if it did, with the last it printed. What it started ends, too.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok().flatten()?;
        self.kill_group();
        Some(format!("ended with {status}{}", self.last_words()))
    }

    /// The last it printed, introduced, or nothing.
    #[must_use]
    pub fn last_words(&self) -> String {
        let mut printed = self.printed.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(printed.make_contiguous()).into_owned();
        let lines: Vec<_> = text.lines().rev().take(SHOWN).collect();
        if lines.is_empty() {
            return String::new();
        }
        let lines: Vec<_> = lines.into_iter().rev().collect();
        format!("; the last it printed:\n{}", lines.join("\n"))
    }

    /// Kills the group, once: later its number may be another's.
    fn kill_group(&mut self) {
        #[cfg(unix)]
        self.signal(rustix::process::Signal::KILL);
        self.group = None;
    }

    #[cfg(unix)]
    fn signal(&self, signal: rustix::process::Signal) {
        let group = self.group.and_then(|group| i32::try_from(group).ok());
        if let Some(group) = group.and_then(rustix::process::Pid::from_raw) {
            // A group without members is what is wanted.
            let _ = rustix::process::kill_process_group(group, signal);
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill_group();
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_ends_with_what_it_started_and_leaves_its_last_words() {
        let line = CommandLine::parse("sh -c 'echo \"to out\"; echo to err >&2; exit 3'").unwrap();
        line.check().unwrap();
        let mut program = line.start().unwrap();
        program.wait().await.unwrap();
        while program.last_words().lines().count() < 3 {
            tokio::task::yield_now().await;
        }
        let ended = program.ended().unwrap();
        assert!(ended.contains("3") && ended.contains("to out") && ended.contains("to err"));

        let line = CommandLine::parse("sh -c 'sleep 600 & echo $!; wait'").unwrap();
        let (program, _stdin, mut stdout) = line.start_piped().unwrap();
        let mut pid = [0; 16];
        let length = stdout.read(&mut pid).await.unwrap();
        drop(program);
        // The pipe ends when the last process that holds it does.
        assert_eq!(stdout.read(&mut pid[length..]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn what_cannot_be_started_is_told() {
        assert!(CommandLine::parse("").is_err());
        assert!(CommandLine::parse("a 'b").is_err());
        let missing = CommandLine::parse("/nowhere/program").unwrap();
        assert!(missing.check().unwrap_err().contains("/nowhere/program"));
        assert!(missing.start().unwrap_err().contains("does not start"));
    }
}
