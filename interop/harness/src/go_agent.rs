//! The agent built on opamp-go: JSON lines out, JSON commands in.

use serde_json::Value;

use crate::check::Failed;
use crate::example_agent::HEARTBEAT;
use crate::log::Line;
use crate::process::Process;
use crate::stage::{Stage, new_uid};

#[derive(Debug)]
pub(crate) struct GoAgent {
    process: Process,
    /// The instance uid it started with.
    pub(crate) uid: String,
    cursor: usize,
}

impl GoAgent {
    pub(crate) fn start(stage: &Stage, url: &str, args: &[&str]) -> Result<Self, Failed> {
        let uid = new_uid();
        let mut all = vec!["-server", url, "-heartbeat", HEARTBEAT, "-uid", &uid];
        all.extend(args);
        let process = stage.go_agent(&all)?;
        Ok(Self { process, uid, cursor: 0 })
    }

    pub(crate) async fn command(&mut self, command: Value) -> Result<(), Failed> {
        self.process.tell(&command).await
    }

    /// Waits for the next event of that name.
    pub(crate) async fn event(&mut self, name: &str) -> Result<Value, Failed> {
        let what = format!("opamp-go-agent says {name}");
        let pick = |line: &Line| (line.json["event"] == *name).then(|| line.json.clone());
        self.process.out.next(&mut self.cursor, &what, pick).await
    }

    /// How often the event has come.
    pub(crate) fn count(&self, event: &str) -> usize {
        self.process.out.since(0).iter().filter(|line| line.json["event"] == *event).count()
    }

    /// Waits for a line of opamp-go's log that has the text.
    pub(crate) async fn logs(&self, text: &str) -> Result<String, Failed> {
        let what = format!("opamp-go-agent logs {text:?}");
        let pick = |line: &Line| line.text.contains(text).then(|| line.text.clone());
        self.process.err.next(&mut 0, &what, pick).await
    }

    pub(crate) fn has_logged(&self, text: &str) -> bool {
        self.process.err.since(0).iter().any(|line| line.text.contains(text))
    }

    /// Stops it in an orderly way.
    pub(crate) async fn stop(&mut self) -> Result<(), Failed> {
        self.command(serde_json::json!({"cmd": "stop"})).await?;
        self.process.ended().await?;
        Ok(())
    }

    pub(crate) async fn kill(&mut self) -> Result<(), Failed> {
        self.process.kill().await
    }
}
