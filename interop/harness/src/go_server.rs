//! The server built on opamp-go: JSON lines out, JSON commands in.

use std::sync::Arc;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::check::{Failed, Needed as _, cut, equal, holds};
use crate::log::{Line, PATIENCE};
use crate::process::Process;
use crate::stage::{Stage, Transport};

/// A message of an agent, as the server saw it.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    line: Arc<Line>,
}

impl Report {
    fn of(line: &Arc<Line>) -> Option<Self> {
        (line.json["event"] == "agent_to_server").then(|| Self { line: Arc::clone(line) })
    }

    pub(crate) fn at(&self) -> Instant {
        self.line.at
    }

    pub(crate) fn uid(&self) -> &str {
        self.line.json["uid"].as_str().unwrap_or_default()
    }

    pub(crate) fn seq(&self) -> u64 {
        self.line.json["seq"].as_u64().unwrap_or_default()
    }

    pub(crate) fn capabilities(&self) -> u64 {
        self.line.json["capabilities"].as_u64().unwrap_or_default()
    }

    pub(crate) fn flags(&self) -> u64 {
        self.line.json["flags"].as_u64().unwrap_or_default()
    }

    pub(crate) fn transport(&self) -> &str {
        self.line.json["transport"].as_str().unwrap_or_default()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.line.json["headers"][name].as_str()
    }

    /// The names of the sub-messages.
    pub(crate) fn fields(&self) -> Vec<&str> {
        self.line.json["fields"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect()
    }

    pub(crate) fn is_bare(&self) -> bool {
        self.fields().is_empty()
    }

    pub(crate) fn msg(&self) -> &Value {
        &self.line.json["msg"]
    }

    /// The body of a file of the effective config.
    pub(crate) fn effective(&self, name: &str) -> Option<String> {
        effective(self.msg(), name)
    }

    pub(crate) fn config_status(&self) -> (&str, &str) {
        let status = &self.msg()["remoteConfigStatus"];
        let name = status["status"].as_str().unwrap_or_default();
        let message = status["errorMessage"].as_str().unwrap_or_default();
        (name.strip_prefix("RemoteConfigStatuses_").unwrap_or(name), message)
    }

    /// The hash in the remote config status, in hexadecimal.
    pub(crate) fn config_hash(&self) -> String {
        let hash = self.msg()["remoteConfigStatus"]["lastRemoteConfigHash"].as_str();
        let hash = hash.and_then(|hash| BASE64.decode(hash).ok()).unwrap_or_default();
        hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub(crate) fn attribute(&self, list: &str, key: &str) -> Option<&str> {
        let list = self.msg()["agentDescription"][list].as_array()?;
        list.iter().find(|attribute| attribute["key"] == key)?["value"]["stringValue"].as_str()
    }

    pub(crate) fn text(&self) -> String {
        cut(&self.line.text)
    }
}

pub(crate) fn effective(msg: &Value, name: &str) -> Option<String> {
    let file = &msg["effectiveConfig"]["configMap"]["configMap"][name];
    let body = BASE64.decode(file["body"].as_str()?).ok()?;
    String::from_utf8(body).ok()
}

#[derive(Debug)]
pub(crate) struct GoServer {
    process: Process,
    transport: Transport,
    secure: bool,
    pub(crate) addr: String,
    cursor: usize,
}

impl GoServer {
    pub(crate) async fn start(stage: &Stage) -> Result<Self, Failed> {
        Self::start_with(stage, &[]).await
    }

    pub(crate) async fn start_with(stage: &Stage, args: &[&str]) -> Result<Self, Failed> {
        let process = stage.go_server(args)?;
        let mut server = Self {
            process,
            transport: stage.transport,
            secure: args.contains(&"-cert"),
            addr: String::new(),
            cursor: 0,
        };
        let listening = server.event("listening", |_| true).await?;
        listening["addr"].as_str().unwrap_or_default().clone_into(&mut server.addr);
        Ok(server)
    }

    pub(crate) async fn kill(&mut self) -> Result<(), Failed> {
        self.process.kill().await
    }

    /// Kills the server and starts another one, which knows nothing, at its address.
    pub(crate) async fn replace(&mut self, stage: &Stage) -> Result<(), Failed> {
        self.kill().await?;
        let addr = self.addr.clone();
        *self = Self::start_with(stage, &["-listen", &addr]).await?;
        Ok(())
    }

    pub(crate) fn url(&self) -> String {
        self.transport.url(self.secure, &self.addr)
    }

    /// Executes a command; when this returns it has been executed.
    pub(crate) async fn command(&mut self, command: Value) -> Result<(), Failed> {
        self.execute(&command).await?;
        Ok(())
    }

    /// What the server knows of the agent.
    pub(crate) async fn state(&mut self, uid: &str) -> Result<Value, Failed> {
        let state = self.execute(&json!({"cmd": "state"})).await?;
        Ok(state["agents"][uid].clone())
    }

    /// Commands are executed in order, so the state that is printed last comes after all else.
    async fn execute(&mut self, command: &Value) -> Result<Value, Failed> {
        let mut cursor = self.process.out.len();
        if command["cmd"] != "state" {
            self.process.tell(command).await?;
        }
        self.process.tell(&json!({"cmd": "state"})).await?;
        let done = |line: &Line| match line.json["event"].as_str() {
            Some("state" | "command_error") => Some(line.json.clone()),
            _ => None,
        };
        let done = self.process.out.next(&mut cursor, "the command is executed", done).await?;
        let what = format!("opamp-go-server executes {}", cut(&command.to_string()));
        holds(done["event"] == "state", &what, &done)?;
        Ok(done)
    }

    /// Waits for the next event of that name.
    pub(crate) async fn event(
        &mut self,
        name: &str,
        mut is_it: impl FnMut(&Value) -> bool,
    ) -> Result<Value, Failed> {
        let what = format!("opamp-go-server says {name}");
        let pick = |line: &Line| {
            (line.json["event"] == *name && is_it(&line.json)).then(|| line.json.clone())
        };
        self.process.out.next(&mut self.cursor, &what, pick).await
    }

    /// Waits for the next report that is as described.
    pub(crate) async fn report(
        &mut self,
        what: &str,
        mut is_it: impl FnMut(&Report) -> bool,
    ) -> Result<Report, Failed> {
        let log = self.process.out.clone();
        let mut start = self.cursor;
        loop {
            let is_report = |line: &Line| (line.json["event"] == "agent_to_server").then_some(());
            let what = format!("the server receives: {what}");
            log.next(&mut start, &what, is_report).await?;
            let found = log.since(start - 1).first().and_then(Report::of);
            if let Some(report) = found.filter(&mut is_it) {
                self.cursor = start;
                return Ok(report);
            }
        }
    }

    /// Waits for the next report with content.
    pub(crate) async fn content(&mut self, what: &str) -> Result<Report, Failed> {
        let waited = tokio::time::timeout(PATIENCE, self.report(what, |report| !report.is_bare()));
        waited.await.needed(&format!("the server receives: {what}"))?
    }

    /// Waits for the next `count` reports and expects each to be a mere sign of life.
    pub(crate) async fn nothing_but_heartbeats(
        &mut self,
        count: usize,
    ) -> Result<Vec<Report>, Failed> {
        let mut reports = Vec::new();
        for _ in 0..count {
            let report = self.report("a heartbeat or poll", |_| true).await?;
            holds(report.is_bare(), "nothing but heartbeats", report.text())?;
            reports.push(report);
        }
        Ok(reports)
    }

    pub(crate) async fn offer_config(&mut self, body: &str) -> Result<String, Failed> {
        let command = json!({"cmd": "offer_config", "name": CONFIG_NAME, "body": body,
            "content_type": "text/yaml"});
        self.command(command).await?;
        let config = self.event("config", |_| true).await?;
        Ok(config["hash"].as_str().unwrap_or_default().to_owned())
    }

    pub(crate) async fn reply_mode(&mut self, mode: &str) -> Result<(), Failed> {
        self.command(json!({"cmd": "reply_mode", "mode": mode})).await
    }

    /// Everything said so far.
    pub(crate) fn mark(&self) -> usize {
        self.process.out.len()
    }

    pub(crate) fn reports_since(&self, mark: usize) -> Vec<Report> {
        self.process.out.since(mark).iter().filter_map(Report::of).collect()
    }

    /// When the last event of that name came.
    pub(crate) fn last(&self, event: &str) -> Option<Instant> {
        let lines = self.process.out.since(0);
        lines.iter().rev().find(|line| line.json["event"] == *event).map(|line| line.at)
    }

    pub(crate) fn count_since(&self, mark: usize, event: &str) -> usize {
        self.process.out.since(mark).iter().filter(|line| line.json["event"] == *event).count()
    }
}

/// The name of the only file of an offered config.
pub(crate) const CONFIG_NAME: &str = "main.yaml";

/// The sequence numbers follow each other.
pub(crate) fn consecutive(reports: &[Report]) -> Result<(), Failed> {
    for pair in reports.windows(2) {
        equal("the next sequence number", &pair[1].seq(), &(pair[0].seq() + 1))?;
    }
    Ok(())
}
