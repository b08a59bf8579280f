//! The example program `agent`: a line for each change of its state.

use std::process::ExitStatus;

use crate::check::Failed;
use crate::log::Line;
use crate::process::Process;
use crate::stage::Stage;

/// How often the agents of both ends give a sign of life, in seconds.
pub(crate) const HEARTBEAT: &str = "0.5";

#[derive(Debug)]
pub(crate) struct Agent {
    process: Process,
    cursor: usize,
}

impl Agent {
    pub(crate) fn start(stage: &Stage, url: &str, args: &[&str]) -> Result<Self, Failed> {
        let mut all = vec!["--server", url, "--heartbeat-interval", HEARTBEAT];
        all.extend(args);
        Ok(Self { process: stage.agent(&all)?, cursor: 0 })
    }

    /// Waits for the next line that begins with the word, and returns it.
    pub(crate) async fn says(&mut self, word: &str) -> Result<String, Failed> {
        let what = format!("the agent says {word}");
        let pick = |line: &Line| line.text.starts_with(word).then(|| line.text.clone());
        self.process.out.next(&mut self.cursor, &what, pick).await
    }

    /// How often it has said that.
    pub(crate) fn has_said(&self, word: &str) -> usize {
        self.process.out.since(0).iter().filter(|line| line.text.starts_with(word)).count()
    }

    pub(crate) async fn terminate(&mut self) -> Result<ExitStatus, Failed> {
        self.process.terminate().await
    }
}
