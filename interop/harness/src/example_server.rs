//! The example program `server`, and its admin API.

use std::process::ExitStatus;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::check::{Failed, Needed as _, equal};
use crate::log::{Line, PATIENCE};
use crate::process::Process;
use crate::stage::{Stage, Transport};

/// How often the admin API is asked while something is waited for.
const PACE: Duration = Duration::from_millis(25);

#[derive(Debug)]
pub(crate) struct Server {
    process: Process,
    transport: Transport,
    secure: bool,
    pub(crate) addr: String,
    admin: String,
    http: reqwest::Client,
}

impl Server {
    pub(crate) async fn start(stage: &Stage) -> Result<Self, Failed> {
        Self::start_with(stage, &[]).await
    }

    pub(crate) async fn start_with(stage: &Stage, args: &[&str]) -> Result<Self, Failed> {
        let mut all = args.to_vec();
        if !args.contains(&"--listen") {
            all.extend(["--listen", "127.0.0.1:0"]);
        }
        all.extend(["--admin", "127.0.0.1:0"]);
        let process = stage.server(&all)?;
        let listening = |line: &Line| {
            let (opamp, admin) =
                line.text.strip_prefix("listening opamp=")?.split_once(" admin=")?;
            Some((opamp.to_owned(), admin.to_owned()))
        };
        let (addr, admin) = process.out.next(&mut 0, "the server listens", listening).await?;
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build();
        Ok(Self {
            process,
            transport: stage.transport,
            secure: args.contains(&"--tls-cert"),
            addr,
            admin,
            http: http.needed("an HTTP client for the admin API")?,
        })
    }

    pub(crate) fn url(&self) -> String {
        self.transport.url(self.secure, &self.addr)
    }

    /// Starts another server, which knows nothing, at the address of this one, which has ended.
    pub(crate) async fn replace(&mut self, stage: &Stage) -> Result<(), Failed> {
        let addr = self.addr.clone();
        *self = Self::start_with(stage, &["--listen", &addr]).await?;
        Ok(())
    }

    pub(crate) async fn terminate(&mut self) -> Result<ExitStatus, Failed> {
        self.process.terminate().await
    }

    pub(crate) async fn kill(&mut self) -> Result<(), Failed> {
        self.process.kill().await
    }

    async fn ask(&self, method: &str, path: &str, body: Vec<u8>) -> Result<(u16, Value), Failed> {
        let what = format!("the admin API answers {method} {path}");
        let method = reqwest::Method::from_bytes(method.as_bytes()).needed(&what)?;
        let request = self.http.request(method, format!("http://{}{path}", self.admin)).body(body);
        let response = request.send().await.needed(&what)?;
        let status = response.status().as_u16();
        let body = response.bytes().await.needed(&what)?;
        Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
    }

    /// Makes a request, expects the status and returns the body.
    pub(crate) async fn call(
        &self,
        method: &str,
        path: &str,
        body: impl AsRef<[u8]>,
        expected: u16,
    ) -> Result<Value, Failed> {
        let (status, body) = self.ask(method, path, body.as_ref().to_vec()).await?;
        equal(&format!("the status of {method} {path} ({body})"), &status, &expected)?;
        Ok(body)
    }

    /// Sets a config and returns its hash. The path says for whom.
    pub(crate) async fn put_config(
        &self,
        path: &str,
        body: impl AsRef<[u8]>,
    ) -> Result<String, Failed> {
        let path = format!("{path}?name={CONFIG_NAME}&content_type=text/yaml");
        let reply = self.call("PUT", &path, body, 200).await?;
        Ok(reply["config_hash"].as_str().unwrap_or_default().to_owned())
    }

    pub(crate) async fn agents(&self) -> Result<Vec<Value>, Failed> {
        let body = self.call("GET", "/v1/agents", "", 200).await?;
        Ok(body["agents"].as_array().cloned().unwrap_or_default())
    }

    /// Waits until the agent is as described.
    pub(crate) async fn agent(
        &self,
        uid: &str,
        what: &str,
        mut is_so: impl FnMut(&Value) -> bool,
    ) -> Result<Value, Failed> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (status, agent) = self.ask("GET", &format!("/v1/agents/{uid}"), Vec::new()).await?;
            if status == 200 && is_so(&agent) {
                return Ok(agent);
            }
            if Instant::now() > deadline {
                let seen = format_args!("status {status}, {agent}");
                return Err(Failed::new(format_args!("the admin API shows: {what}"), seen));
            }
            tokio::time::sleep(PACE).await;
        }
    }

    /// Waits until there is an agent as described, and gives it.
    pub(crate) async fn only_agent(
        &self,
        what: &str,
        mut is_so: impl FnMut(&Value) -> bool,
    ) -> Result<Value, Failed> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let agents = self.agents().await?;
            if let [agent] = &agents[..]
                && is_so(agent)
            {
                return Ok(agent.clone());
            }
            if Instant::now() > deadline {
                let expected = format_args!("the admin API shows: {what}, and no other");
                return Err(Failed::new(expected, Value::from(agents)));
            }
            tokio::time::sleep(PACE).await;
        }
    }

    /// Waits until the agent has given that many more signs of life.
    pub(crate) async fn heartbeats(&self, uid: &str, count: u64) -> Result<Value, Failed> {
        let number = |agent: &Value| agent["sequence_num"].as_u64().unwrap_or_default();
        let start = number(&self.agent(uid, "the agent", |_| true).await?);
        self.agent(uid, "more heartbeats", |agent| number(agent) >= start + count).await
    }
}

/// The name of the only file of an offered config.
pub(crate) const CONFIG_NAME: &str = "main.yaml";

/// What has to be there, whatever was left out of the last messages.
pub(crate) fn is_complete(agent: &Value) -> bool {
    ["agent_description", "health", "effective_config", "remote_config_status", "capabilities"]
        .iter()
        .all(|part| !agent[*part].is_null())
}

pub(crate) fn effective<'a>(agent: &'a Value, name: &str) -> Option<&'a str> {
    agent["effective_config"][name]["body"].as_str()
}
