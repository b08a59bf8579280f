//! A server of one's own in an axum application: teams with a token each, a page with their agents, and
//! a configuration for everything of one service.
//!
//! ```sh
//! cargo run -p opamp-server --example axum
//! cargo run --release --bin agent -- --server ws://127.0.0.1:4320/v1/opamp --header 'Authorization=Bearer green'
//! curl -s http://127.0.0.1:4320/teams/1
//! curl -s -X PUT --data-binary 'receivers: {}' http://127.0.0.1:4320/teams/1/services/opamp-example-agent/config
//! ```

#![allow(clippy::print_stdout, reason = "it is a program for a terminal")]

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, Path, Request, State};
use axum::http::{StatusCode, request};
use axum::middleware::map_request;
use axum::routing::{get, put};
use opamp_proto::v1::{AgentConfigFile, AgentConfigMap, KeyValue};
use opamp_server::{
    AgentChange, BearerTokens, Changes, Fleet, Handler, OpampService, PeerAddr, Rejection,
    RemoteConfig, ServerConfig, ServiceConfig, Tenant,
};

/// What the application knows of its teams; with a database behind it in real life.
struct Teams {
    green: BearerTokens,
    blue: BearerTokens,
}

/// The number of a team.
type Team = u32;

impl Handler for Teams {
    type Identity = Team;

    // Before anything else: who is it?
    async fn admit(&self, request: &request::Parts) -> Result<Team, Rejection> {
        match (self.green.check(request), self.blue.check(request)) {
            (Ok(()), _) => Ok(1),
            (_, Ok(())) => Ok(2),
            (Err(rejection), Err(_)) => Err(rejection),
        }
    }

    // Agents of different teams never meet, whatever instance uids they send.
    fn tenant(&self, team: &Team) -> Tenant {
        Tenant::from(u128::from(*team))
    }

    // What came together since the last call for this agent. No connection waits for this.
    async fn agent_changed(&self, change: AgentChange<Team>) {
        let AgentChange { agent, changes, identity: team, .. } = change;
        if changes.contains(Changes::CONNECTED) {
            println!("team {team}: {} is there", agent.uid());
        }
        if changes.contains(Changes::REMOTE_CONFIG_STATUS)
            && let Some(offer) = agent.remote_config()
        {
            println!("team {team}: {} and its configuration: {:?}", agent.uid(), offer.outcome());
        }
    }
}

async fn agents_of(State(fleet): State<Fleet<Team>>, Path(team): Path<Team>) -> String {
    let mut lines = Vec::new();
    for agent in fleet.agents() {
        if agent.tenant() == Tenant::from(u128::from(team)) {
            let health = agent.state().health().unwrap_or_default();
            let there = if agent.is_connected() { "connected" } else { "gone" };
            lines.push(format!("{} {there} healthy={}\n", agent.uid(), health.healthy));
        }
    }
    lines.concat()
}

async fn configure(
    State(fleet): State<Fleet<Team>>,
    Path((team, service)): Path<(Team, String)>,
    body: Bytes,
) -> Result<String, (StatusCode, String)> {
    let file = AgentConfigFile { body, content_type: "text/yaml".to_owned() };
    let config = RemoteConfig::new(AgentConfigMap { config_map: [(String::new(), file)].into() });
    let mut told = 0;
    for agent in fleet.find(&[KeyValue::new("service.name", service.as_str())]) {
        if agent.tenant() == Tenant::from(u128::from(team)) {
            let refused = |error| (StatusCode::CONFLICT, format!("{}: {error}\n", agent.uid()));
            fleet.set_remote_config(agent.key(), config.clone()).map_err(refused)?;
            told += 1;
        }
    }
    Ok(format!("{told} agents\n"))
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let teams = Teams { green: BearerTokens::new(["green"]), blue: BearerTokens::new(["blue"]) };
    let opamp = OpampService::new(teams, ServerConfig::default(), ServiceConfig::default());
    // axum knows the peer's address; the service finds it in the request.
    let with_peer = map_request(
        |ConnectInfo(peer): ConnectInfo<SocketAddr>, mut request: Request| async move {
            request.extensions_mut().insert(PeerAddr(peer));
            request
        },
    );
    let app = Router::new()
        .route("/teams/{team}", get(agents_of))
        .route("/teams/{team}/services/{service}/config", put(configure))
        .with_state(opamp.fleet().clone())
        .route_service("/v1/opamp", opamp.clone())
        .layer(with_peer)
        .into_make_service_with_connect_info::<SocketAddr>();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:4320").await?;
    println!("agents connect to ws://{}/v1/opamp", listener.local_addr()?);
    let stop = async move {
        let _ = tokio::signal::ctrl_c().await;
        // Agents are sent away in good order, and come back to whoever takes over.
        opamp.shutdown(Duration::from_secs(10)).await;
    };
    axum::serve(listener, app).with_graceful_shutdown(stop).await
}
