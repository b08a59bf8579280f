//! The family's own server and agent, held to the specification by its conformance tester, in one
//! process. The tester shares no code with them but the message types.

use async_trait::async_trait;
use opamp_client::Client;
use opamp_conformance::client::{ClientUnderTest, Running, Start};
use opamp_conformance::hook::{Action, HookError};
use opamp_conformance::judge::Stop;
use opamp_conformance::net::Network;
use opamp_conformance::run::Subject;
use opamp_conformance::suite::Suite;
use opamp_examples::agent::{Agent, AgentArgs, Header};
use opamp_examples::server::{Server, ServerArgs};
use opamp_proto::v1;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// A part of the suite that is quick, with something of everything.
fn suite() -> Suite {
    let mut suite = Suite::default();
    let ids = ["WS", "HTTP", "ID", "SEQ", "CAP", "STATUS", "HEALTH", "ERR", "CFG", "CMD", "CLOSE"];
    suite.selection.ids = ids.map(str::to_owned).to_vec();
    suite
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_conforms() {
    let server = Server::start(&ServerArgs::on_free_ports()).await.unwrap();
    let subject = Subject::server(&format!("ws://{}", server.opamp_addr())).unwrap();
    suite().test(&subject, "example server").await.unwrap().assert_conformant();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_conforms() {
    suite().test(&Subject::client(Agents), "example agent").await.unwrap().assert_conformant();
}

/// Starts example agents.
struct Agents;

#[async_trait]
impl ClientUnderTest for Agents {
    fn network(&self) -> Network {
        Network::Sockets
    }

    fn takes(&self, part: &str) -> bool {
        ["heartbeat", "headers"].contains(&part)
    }

    async fn start(&self, start: Start) -> Result<Box<dyn Running>, Stop> {
        let mut args = AgentArgs::new(start.url);
        args.heartbeat_interval = start.heartbeat;
        args.headers = start.headers.into_iter().map(|(name, value)| Header(name, value)).collect();
        let agent = Agent::start(args).await.map_err(|error| Stop::Harness(error.to_string()))?;
        let client = agent.client().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let mut task = JoinSet::new();
        task.spawn(agent.run(async { drop(stopped.await) }, |_| {}));
        Ok(Box::new(Started { client, stop: Some(stop), task }))
    }
}

/// An agent in a task of its own, which ends with it.
struct Started<T> {
    client: Client,
    stop: Option<oneshot::Sender<()>>,
    task: JoinSet<T>,
}

#[async_trait]
impl<T: Send + 'static> Running for Started<T> {
    async fn call(&mut self, action: &Action) -> Result<Value, HookError> {
        match action {
            Action::SetHealth { healthy, last_error } => {
                self.client.set_health(v1::ComponentHealth {
                    healthy: *healthy,
                    last_error: last_error.clone(),
                    ..Default::default()
                });
            }
            Action::SetEffectiveConfig { body } => {
                let file = v1::AgentConfigFile {
                    body: body.clone().into(),
                    content_type: "text/yaml".to_owned(),
                };
                let config = v1::AgentConfigMap { config_map: [(String::new(), file)].into() };
                self.client.set_effective_config(v1::EffectiveConfig { config_map: Some(config) });
            }
            _ => return Err(HookError::Unsupported),
        }
        Ok(json!({}))
    }

    async fn stop(&mut self) -> Result<(), HookError> {
        // One that has ended is stopped.
        self.stop.take().map(|stop| stop.send(()));
        Ok(())
    }

    async fn kill(&mut self) {
        self.task.shutdown().await;
    }

    fn ended(&mut self) -> Option<String> {
        self.task.try_join_next().map(|_| "has ended".to_owned())
    }
}
