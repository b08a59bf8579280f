//! The server under test, in a process of its own: it does what it reads, and says how it is.

use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use opamp_proto::v1;
use opamp_server::{AcceptAll, Fleet, Rate, RemoteConfig, Server, ServerConfig, ServiceConfig};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::runtime::Handle;

/// What the server tells of itself.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct State {
    /// Tasks of its runtime.
    pub(crate) tasks: usize,
    /// Agents it knows.
    pub(crate) agents: usize,
    /// Bytes of what they reported.
    pub(crate) retained: usize,
}

/// How long an agent is known after it has gone: not long, so that nothing is left in the end.
const RETAINED: Duration = Duration::from_secs(2);

/// How long an agent on plain HTTP counts as there after a request: each sends some per second.
const OFFLINE: Duration = Duration::from_secs(5);

/// Serves until its input ends. Lines are `offer BYTES`, `single BYTES` and `state`.
pub(crate) fn serve(directory: Option<&Path>) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let mut config = ServerConfig::default();
        config.retain_disconnected = RETAINED;
        config.http_offline_after = OFFLINE;
        // All of them come from one address.
        config.arrivals = Rate::UNLIMITED;
        let mut service = ServiceConfig::default();
        service.max_connections_per_address = usize::MAX;
        service.requests_per_address = Rate::UNLIMITED;
        let mut builder = Server::bind("127.0.0.1:0").config(config).service_config(service);
        if let Some(directory) = directory {
            let read = |name| {
                std::fs::read(directory.join(name)).map_err(|error| format!("{name}: {error}"))
            };
            let (cert, key) = (read("cert.pem")?, read("key.pem")?);
            let tls = opamp_server::service::tls::server_config(&cert, &key, None);
            builder = builder.tls(tls.map_err(|error| error.to_string())?);
        }
        let server = builder.listen(AcceptAll).await.map_err(|error| error.to_string())?;
        say(&server.local_addr().to_string());
        let fleet = server.fleet().clone();
        tokio::spawn(server.run());

        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        let mut number = 0;
        while let Ok(Some(line)) = lines.next_line().await {
            number += 1;
            match line.split_once(' ') {
                Some(("offer", size)) => {
                    let config = configuration(number, size.parse().unwrap_or_default());
                    fleet.set_default_remote_config(config).map_err(|error| error.to_string())?;
                }
                Some(("single", size)) => {
                    let config = configuration(number, size.parse().unwrap_or_default());
                    to_some(&fleet, number, &config);
                }
                _ => {
                    let state = State {
                        tasks: Handle::current().metrics().num_alive_tasks(),
                        agents: fleet.len(),
                        retained: fleet.retained_bytes(),
                    };
                    say(&serde_json::to_string(&state).map_err(|error| error.to_string())?);
                }
            }
        }
        Ok(())
    })
}

/// When nobody reads, the end of the input is next.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

fn configuration(number: u64, size: usize) -> RemoteConfig {
    let body: String =
        format!("# {number}\nreceivers: {{otlp: {{}}}}\n").chars().cycle().take(size).collect();
    let file = v1::AgentConfigFile { body: body.into(), content_type: "text/yaml".to_owned() };
    RemoteConfig::new(v1::AgentConfigMap { config_map: [(String::new(), file)].into() })
}

/// Gives some agents a configuration of their own, takes others theirs, asks others for everything.
fn to_some(fleet: &Fleet, number: u64, config: &RemoteConfig) {
    for (index, agent) in fleet.agents().iter().enumerate() {
        // They may have gone in the meantime, which is what is tried here.
        match (index as u64 + number) % 16 {
            0 => drop(fleet.set_remote_config(agent.key(), config.clone())),
            1 => drop(fleet.clear_remote_config(agent.key())),
            2 => drop(fleet.request_full_state(agent.key())),
            3 if number.is_multiple_of(8) => drop(fleet.disconnect(agent.key())),
            _ => {}
        }
    }
}
