//! Agents built on the clients in Python, JavaScript and Java under the example program `server`.
//!
//! Each is a small program that takes any configuration that is text. What a client cannot do, or
//! does in a way of its own, is named with its peer.

use serde_json::{Value, json};

use crate::Outcome;
use crate::check::{Failed, equal, holds};
use crate::example_server::Server;
use crate::process::Process;
use crate::scenario::{HTTP, Scenario, WEBSOCKET};
use crate::stage::{Stage, Transport};

/// Whose client an agent is built on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    /// `opentelemetry-opamp-client` of PyPI.
    Python,
    /// `@elastic/opamp-client-node` of npm.
    Node,
    /// `opentelemetry-opamp-client` of opentelemetry-java-contrib.
    Java,
}

impl Client {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Python => "python-agent",
            Self::Node => "node-agent",
            Self::Java => "java-agent",
        }
    }

    /// The program and its first arguments, from the root of the checkout.
    pub(crate) fn command(self) -> &'static [&'static str] {
        match self {
            Self::Python => &["interop/python/venv/bin/python", "interop/python/agent.py"],
            Self::Node => &["node", "interop/node/agent.mjs"],
            Self::Java => &[
                "java",
                "-cp",
                "interop/java/target/dependency/*:interop/java/target/opamp-java-agent-1.jar",
                "Agent",
            ],
        }
    }

    fn reports_effective_config(self) -> bool {
        self != Self::Node
    }

    fn takes_a_new_uid(self) -> bool {
        self != Self::Python
    }

    /// Whether it can be told which authority to trust.
    fn takes_an_authority(self) -> bool {
        self != Self::Java
    }
}

macro_rules! scenarios {
    ($client:expr, $transports:expr) => {
        &[
            Scenario {
                expects: "what the agent reports is what the admin API shows, poll after poll",
                transports: $transports,
                play: |stage| Box::pin(reports(stage, $client)),
            },
            Scenario {
                expects: "a config is APPLIED, one that is no text FAILED with the agent's reason",
                transports: $transports,
                play: |stage| Box::pin(configured(stage, $client)),
            },
            Scenario {
                expects: "of many configs in a row the last one is in force in the end",
                transports: $transports,
                play: |stage| Box::pin(config_after_config(stage, $client)),
            },
            Scenario {
                expects: "a server that comes instead of one that was killed knows the agent again",
                transports: $transports,
                play: |stage| Box::pin(server_killed(stage, $client)),
            },
            Scenario {
                expects: "a renamed agent is the same agent; one that keeps its uid is served on",
                transports: $transports,
                play: |stage| Box::pin(renamed(stage, $client)),
            },
            Scenario {
                expects: "an agent comes in by TLS, where it can be told whom to trust",
                transports: $transports,
                play: |stage| Box::pin(tls(stage, $client)),
            },
            Scenario {
                expects: "an agent told to stop ends",
                transports: $transports,
                play: |stage| Box::pin(stopped(stage, $client)),
            },
        ]
    };
}

pub(crate) const PYTHON: &[Scenario] = scenarios!(Client::Python, HTTP);
pub(crate) const NODE: &[Scenario] = scenarios!(Client::Node, HTTP);
pub(crate) const JAVA: &[Scenario] = scenarios!(Client::Java, HTTP);
pub(crate) const JAVA_ON_WEBSOCKET: &[Scenario] = &[
    Scenario {
        expects: "an agent that never describes itself gets its config, APPLIED or FAILED",
        transports: WEBSOCKET,
        play: |stage| Box::pin(configured(stage, Client::Java)),
    },
    Scenario {
        expects: "an agent told to stop ends",
        transports: WEBSOCKET,
        play: |stage| Box::pin(stopped(stage, Client::Java)),
    },
];

/// Not all of these clients take fractions of a second.
const HEARTBEAT: &str = "1";

fn start(stage: &Stage, client: Client, url: &str, args: &[&str]) -> Result<Process, Failed> {
    let mut all = vec!["--server", url, "--heartbeat", HEARTBEAT];
    all.extend(args);
    stage.other_agent(client, &all)
}

/// The only agent that has come, with its description. Java's never tells it on a WebSocket: its
/// first message there has none, and what it is asked for by flag does not come.
async fn joined(stage: &Stage, server: &Server, client: Client) -> Result<(String, Value), Failed> {
    let silent = client == Client::Java && stage.transport == Transport::WebSocket;
    let is_described = |agent: &Value| {
        let name = &agent["agent_description"]["identifying_attributes"]["service.name"];
        agent["connected"] == true && (silent || *name == *client.name())
    };
    let agent = server.only_agent("an agent with its description", is_described).await?;
    Ok((agent["instance_uid"].as_str().unwrap_or_default().to_owned(), agent))
}

async fn pair(stage: &Stage, client: Client) -> Result<(Server, Process, String), Failed> {
    let server = Server::start(stage).await?;
    let agent = start(stage, client, &server.url(), &[])?;
    let (uid, _) = joined(stage, &server, client).await?;
    Ok((server, agent, uid))
}

fn status_of(agent: &Value) -> &Value {
    &agent["remote_config_status"]
}

async fn reports(stage: Stage, client: Client) -> Outcome {
    let server = Server::start(&stage).await?;
    let _agent = start(&stage, client, &server.url(), &[])?;
    let (uid, shown) = joined(&stage, &server, client).await?;
    equal("transport", &shown["transport"], &json!(stage.transport.name()))?;
    if client.reports_effective_config() {
        let has_file = |agent: &Value| agent["effective_config"][""]["body"] == "greeting: hello\n";
        server.agent(&uid, "the effective configuration", has_file).await?;
    }
    let shown = server.heartbeats(&uid, 4).await?;
    equal("connected", &shown["connected"], &json!(true))?;
    equal("agents", &server.agents().await?.len(), &1)?;
    Ok(format!("{} with capabilities {}", client.name(), shown["capabilities"]))
}

async fn configured(stage: Stage, client: Client) -> Outcome {
    let (server, _agent, uid) = pair(&stage, client).await?;
    let body = "greeting: good evening\n";
    let hash = server.put_config("/v1/config", body).await?;
    let has_outcome = |agent: &Value, hash: &str, outcome: &str| {
        let status = status_of(agent);
        status["last_remote_config_hash"] == *hash && status["status"] == *outcome
    };
    server.agent(&uid, "APPLIED", |agent| has_outcome(agent, &hash, "APPLIED")).await?;
    if client.reports_effective_config() {
        let runs_it =
            |agent: &Value| agent["effective_config"].to_string().contains("good evening");
        server.agent(&uid, "the config as the effective one", runs_it).await?;
    }
    let bad = server.put_config("/v1/config", b"\xff\xfe").await?;
    let shown = server.agent(&uid, "FAILED", |agent| has_outcome(agent, &bad, "FAILED")).await?;
    let why = status_of(&shown)["error_message"].as_str().unwrap_or_default().to_owned();
    holds(!why.is_empty(), "the agent's reason", "none")?;
    Ok(format!("APPLIED, then FAILED {why:?}"))
}

async fn config_after_config(stage: Stage, client: Client) -> Outcome {
    let (server, _agent, uid) = pair(&stage, client).await?;
    let mut hash = String::new();
    for number in 0..10 {
        hash = server.put_config("/v1/config", format!("number: {number}\n")).await?;
    }
    let is_last = |agent: &Value| {
        let status = status_of(agent);
        status["last_remote_config_hash"] == *hash && status["status"] == "APPLIED"
    };
    server.agent(&uid, "the last config APPLIED", is_last).await?;
    server.heartbeats(&uid, 3).await?;
    server.agent(&uid, "the last config APPLIED still", is_last).await?;
    Ok("the last of 10 configs is APPLIED".to_owned())
}

async fn server_killed(stage: Stage, client: Client) -> Outcome {
    let (mut server, _agent, uid) = pair(&stage, client).await?;
    server.kill().await?;
    server.replace(&stage).await?;
    let (again, _) = joined(&stage, &server, client).await?;
    equal("the instance uid", &again, &uid)?;
    Ok("the same agent, with its description".to_owned())
}

async fn renamed(stage: Stage, client: Client) -> Outcome {
    let (server, _agent, uid) = pair(&stage, client).await?;
    let path = format!("/v1/agents/{uid}/new-instance-uid");
    let reply = server.call("POST", &path, "", 200).await?;
    let new = reply["new_instance_uid"].as_str().unwrap_or_default().to_owned();
    let (now, seen) = match client.takes_a_new_uid() {
        true => (&new, "it speaks under its new uid"),
        false => (&uid, "it keeps its uid, and is served on"),
    };
    server.agent(now, seen, |agent| agent["connected"] == true).await?;
    server.heartbeats(now, 3).await?;
    equal("agents", &server.agents().await?.len(), &1)?;
    Ok(seen.to_owned())
}

async fn tls(stage: Stage, client: Client) -> Outcome {
    if !client.takes_an_authority() {
        return Ok("not tried: it has no way to be told whom to trust".to_owned());
    }
    let certificates = stage.certificates()?;
    let (cert, key, ca) = (certificates.cert(), certificates.key(), certificates.ca());
    let server = Server::start_with(&stage, &["--tls-cert", &cert, "--tls-key", &key]).await?;
    let _agent = start(&stage, client, &server.url(), &["--ca", &ca])?;
    let (uid, _) = joined(&stage, &server, client).await?;
    server.heartbeats(&uid, 2).await?;
    Ok("it comes in, trusting the authority it was given".to_owned())
}

async fn stopped(stage: Stage, client: Client) -> Outcome {
    let (server, mut agent, uid) = pair(&stage, client).await?;
    agent.terminate().await?;
    let shown = server.agent(&uid, "the agent", |_| true).await?;
    let seen = match shown["connected"] == true {
        true => "it leaves without a goodbye",
        false => "it says goodbye",
    };
    Ok(seen.to_owned())
}
