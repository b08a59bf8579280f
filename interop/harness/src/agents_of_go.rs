//! An agent built on opamp-go under the example program `server`.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Outcome;
use crate::check::{Failed, Needed as _, equal, holds};
use crate::example_server::{CONFIG_NAME, Server, effective, is_complete};
use crate::go_agent::GoAgent;
use crate::relay::Relay;
use crate::scenario::{BOTH, HTTP, Scenario, WEBSOCKET};
use crate::stage::{Stage, Transport, big_yaml};

pub(crate) const ALL: &[Scenario] = &[
    Scenario {
        expects: "what the agent reports first is what the admin API shows",
        transports: BOTH,
        play: |stage| Box::pin(first_report(stage)),
    },
    Scenario {
        expects: "what is left out of later messages stays known, also over a reconnect",
        transports: BOTH,
        play: |stage| Box::pin(status_compression(stage)),
    },
    Scenario {
        expects: "a config for all is APPLIED, one for a single agent goes before it",
        transports: BOTH,
        play: |stage| Box::pin(config_applied(stage)),
    },
    Scenario {
        expects: "a config the server starts with is offered in its first reply",
        transports: BOTH,
        play: |stage| Box::pin(config_from_start(stage)),
    },
    Scenario {
        expects: "a refused config shows as FAILED with its reason and is not offered again",
        transports: BOTH,
        play: |stage| Box::pin(config_refused(stage)),
    },
    Scenario {
        expects: "of many configs in a row the last one is in force in the end",
        transports: BOTH,
        play: |stage| Box::pin(config_after_config(stage)),
    },
    Scenario {
        expects: "an agent that accepts no config is offered none",
        transports: BOTH,
        play: |stage| Box::pin(config_not_accepted(stage)),
    },
    Scenario {
        expects: "changes of health and description show",
        transports: BOTH,
        play: |stage| Box::pin(changes(stage)),
    },
    Scenario {
        expects: "report-full-state makes the agent report everything, once",
        transports: BOTH,
        play: |stage| Box::pin(full_state(stage)),
    },
    Scenario {
        expects: "when nothing happens there are heartbeats and nothing else",
        transports: BOTH,
        play: |stage| Box::pin(idle(stage)),
    },
    Scenario {
        expects: "an agent that was there first reports when the server comes",
        transports: BOTH,
        play: |stage| Box::pin(late_server(stage)),
    },
    Scenario {
        expects: "after a server was killed the next one has everything again",
        transports: BOTH,
        play: |stage| Box::pin(server_killed(stage)),
    },
    Scenario {
        expects: "a server told to stop ends in time, and the next one has everything again",
        transports: BOTH,
        play: |stage| Box::pin(server_stopped(stage)),
    },
    Scenario {
        expects: "a renamed agent is the same agent under its new uid, also after a reconnect",
        transports: BOTH,
        play: |stage| Box::pin(renamed(stage)),
    },
    Scenario {
        expects: "an agent that asks for an instance uid gets one",
        transports: BOTH,
        play: |stage| Box::pin(uid_asked_for(stage)),
    },
    Scenario {
        expects: "a restart command arrives once, and is refused for agents that take none",
        transports: BOTH,
        play: |stage| Box::pin(restart(stage)),
    },
    Scenario {
        expects: "an agent that says goodbye is disconnected at once",
        transports: WEBSOCKET,
        play: |stage| Box::pin(goodbye(stage)),
    },
    Scenario {
        expects: "an agent that leaves without a goodbye, as opamp-go's do over HTTP, stays listed",
        transports: HTTP,
        play: |stage| Box::pin(gone(stage)),
    },
    Scenario {
        expects: "an agent that was killed is disconnected at once",
        transports: WEBSOCKET,
        play: |stage| Box::pin(killed(stage)),
    },
    Scenario {
        expects: "TLS with a trusted authority works, with another one it is refused",
        transports: BOTH,
        play: |stage| Box::pin(tls(stage)),
    },
    Scenario {
        expects: "an agent that compresses, or offers to, is understood",
        transports: BOTH,
        play: |stage| Box::pin(compression(stage)),
    },
    Scenario {
        expects: "a config of 1 MiB arrives and comes back as effective config",
        transports: BOTH,
        play: |stage| Box::pin(big_config(stage)),
    },
    Scenario {
        expects: "without the right token nobody gets in",
        transports: BOTH,
        play: |stage| Box::pin(tokens(stage)),
    },
];

/// A server and an agent it knows everything of.
async fn pair(stage: &Stage) -> Result<(Server, GoAgent), Failed> {
    let server = Server::start(stage).await?;
    let url = server.url();
    let agent = joined(stage, &server, &url, &[]).await?;
    Ok((server, agent))
}

/// Starts an agent and waits until the server knows everything of it.
async fn joined(
    stage: &Stage,
    server: &Server,
    url: &str,
    args: &[&str],
) -> Result<GoAgent, Failed> {
    let mut agent = GoAgent::start(stage, url, args)?;
    agent.event("connected").await?;
    server.agent(&agent.uid, "a complete agent", is_connected_and_complete).await?;
    Ok(agent)
}

fn is_connected_and_complete(agent: &Value) -> bool {
    agent["connected"] == true && is_complete(agent)
}

fn has_config(hash: &str, body: &str) -> impl FnMut(&Value) -> bool {
    move |agent| {
        let status = &agent["remote_config_status"];
        status["status"] == "APPLIED"
            && status["last_remote_config_hash"] == *hash
            && effective(agent, CONFIG_NAME) == Some(body)
    }
}

/// Offers a config to all and waits until the agent has it.
async fn apply(server: &Server, uid: &str, body: &str) -> Result<(), Failed> {
    let hash = server.put_config("/v1/config", body).await?;
    server.agent(uid, "the config applied", has_config(&hash, body)).await?;
    Ok(())
}

async fn first_report(stage: Stage) -> Outcome {
    let server = Server::start(&stage).await?;
    let url = server.url();
    let args = ["-name", "under-test", "-custom", "com.example.one"];
    let agent = joined(&stage, &server, &url, &args).await?;
    let shown = server.agent(&agent.uid, "the agent", |_| true).await?;
    equal("instance_uid", &shown["instance_uid"], &json!(agent.uid))?;
    equal("transport", &shown["transport"], &json!(stage.transport.name()))?;
    let remote = shown["remote_addr"].as_str().unwrap_or_default();
    holds(remote.starts_with("127.0.0.1:"), "a remote address", &shown["remote_addr"])?;
    let seen = shown["last_seen"].as_str().unwrap_or_default();
    holds(seen.len() >= 20 && seen.ends_with('Z'), "last_seen as RFC 3339", seen)?;
    let names = shown["capabilities"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let expected = [
        "AcceptsRemoteConfig",
        "AcceptsRestartCommand",
        "ReportsEffectiveConfig",
        "ReportsHealth",
        "ReportsHeartbeat",
        "ReportsRemoteConfig",
        "ReportsStatus",
    ];
    equal("capabilities", &names.collect::<BTreeSet<_>>(), &BTreeSet::from(expected))?;
    let description = &shown["agent_description"];
    let identifying = json!({"service.name": "under-test", "service.version": "1.0.0",
        "service.instance.id": agent.uid});
    equal("identifying_attributes", &description["identifying_attributes"], &identifying)?;
    let os = &description["non_identifying_attributes"]["os.type"];
    equal("os.type", os, &json!(std::env::consts::OS))?;
    equal("healthy", &shown["health"]["healthy"], &json!(true))?;
    let file = json!({"content_type": "text/yaml", "body": "origin: local\n"});
    equal("effective_config", &shown["effective_config"], &json!({"local.yaml": file}))?;
    equal("custom_capabilities", &shown["custom_capabilities"], &json!(["com.example.one"]))?;
    equal("agents", &server.agents().await?.len(), &1)?;
    Ok(format!("{} capabilities, description, health, effective config", expected.len()))
}

async fn status_compression(stage: Stage) -> Outcome {
    let server = Server::start(&stage).await?;
    let relay = Relay::to(&server.addr).await?;
    let url = stage.transport.url(false, &relay.addr());
    let mut agent = joined(&stage, &server, &url, &[]).await?;
    let uid = agent.uid.clone();
    let first = server.agent(&uid, "the agent", |_| true).await?;
    for (round, error) in ["disk is full", "disk is broken"].iter().enumerate() {
        if round > 0 {
            relay.cut();
            // Over HTTP every answered request is one.
            agent.event("connected").await?;
            server.agent(&uid, "the agent again", |agent| agent["connected"] == true).await?;
        }
        let ill = json!({"cmd": "set_health", "healthy": false, "last_error": error});
        agent.command(ill).await?;
        let is_ill = |agent: &Value| agent["health"]["last_error"] == *error;
        let shown = server.agent(&uid, "the new health", is_ill).await?;
        for part in ["agent_description", "effective_config", "capabilities"] {
            equal(part, &shown[part], &first[part])?;
        }
    }
    server.heartbeats(&uid, 3).await?;
    equal("full reports", &agent.count("effective_config_read"), &1)?;
    Ok("complete after a change and after a reconnect, with one full report in all".to_owned())
}

async fn config_applied(stage: Stage) -> Outcome {
    let (server, mut agent) = pair(&stage).await?;
    let other = joined(&stage, &server, &server.url(), &[]).await?;
    let (uid, body) = (agent.uid.clone(), "greeting: good evening\n");
    let hash = server.put_config("/v1/config", body).await?;
    server.agent(&uid, "the config applied", has_config(&hash, body)).await?;
    server.agent(&other.uid, "the config applied", has_config(&hash, body)).await?;
    equal("the offered hash", &agent.event("remote_config").await?["hash"], &json!(hash))?;

    let (path, own) = (format!("/v1/agents/{uid}/config"), "greeting: to you alone\n");
    let own_hash = server.put_config(&path, own).await?;
    server.agent(&uid, "its own config applied", has_config(&own_hash, own)).await?;
    server.call("DELETE", &path, "", 204).await?;
    server.agent(&uid, "the config for all again", has_config(&hash, body)).await?;
    for agent in [&uid, &other.uid] {
        server.heartbeats(agent, 3).await?;
    }
    equal("offers to the agent", &agent.count("remote_config"), &3)?;
    equal("offers to the other agent", &other.count("remote_config"), &1)?;
    Ok("for all, for one, for all again: 3 offers; the other agent had 1".to_owned())
}

async fn config_from_start(stage: Stage) -> Outcome {
    let (path, body) = (stage.dir().join("first.yaml"), "greeting: from the start\n");
    std::fs::write(&path, body).needed("a config file is written")?;
    let path = path.display().to_string();
    let server = Server::start_with(&stage, &["--config", &path]).await?;
    let agent = joined(&stage, &server, &server.url(), &[]).await?;
    let is_applied = |agent: &Value| {
        agent["remote_config_status"]["status"] == "APPLIED" && effective(agent, "") == Some(body)
    };
    server.agent(&agent.uid, "the config applied", is_applied).await?;
    server.heartbeats(&agent.uid, 3).await?;
    equal("offers", &agent.count("remote_config"), &1)?;
    Ok("one offer of a file without a name, APPLIED".to_owned())
}

async fn config_refused(stage: Stage) -> Outcome {
    let (server, agent) = pair(&stage).await?;
    let (uid, good) = (agent.uid.as_str(), "greeting: good evening\n");
    apply(&server, uid, good).await?;
    let hash = server.put_config("/v1/config", "invalid: indeed\n").await?;
    let is_failed = |agent: &Value| agent["remote_config_status"]["status"] == "FAILED";
    let shown = server.agent(uid, "a failed config", is_failed).await?;
    let status = &shown["remote_config_status"];
    equal("hash", &status["last_remote_config_hash"], &json!(hash))?;
    let why = status["error_message"].as_str().unwrap_or_default().to_owned();
    holds(why.starts_with("config refused: "), "the agent's reason", &why)?;
    let shown = server.heartbeats(uid, 5).await?;
    equal("the old config", &effective(&shown, CONFIG_NAME), &Some(good))?;
    equal("offers", &agent.count("remote_config"), &2)?;
    apply(&server, uid, "greeting: good night\n").await?;
    Ok(format!("FAILED {why:?}, the old config stays, no second offer in 5 heartbeats"))
}

async fn config_after_config(stage: Stage) -> Outcome {
    let (server, agent) = pair(&stage).await?;
    let mut last = (String::new(), String::new());
    for number in 0..20 {
        let body = format!("number: {number}\n");
        last = (server.put_config("/v1/config", &body).await?, body);
    }
    server.agent(&agent.uid, "the last config applied", has_config(&last.0, &last.1)).await?;
    let offers = agent.count("remote_config");
    let shown = server.heartbeats(&agent.uid, 4).await?;
    equal("the config", &effective(&shown, CONFIG_NAME), &Some(last.1.as_str()))?;
    equal("offers", &agent.count("remote_config"), &offers)?;
    // A status of the config before makes the server repeat the offer it crossed (reading A32).
    holds(offers <= 40, "no config offered more than twice", offers)?;
    Ok(format!("{offers} offers of 20 configs, the last one is effective"))
}

async fn config_not_accepted(stage: Stage) -> Outcome {
    let server = Server::start(&stage).await?;
    server.put_config("/v1/config", "greeting: good evening\n").await?;
    // All but AcceptsRemoteConfig and ReportsRemoteConfig.
    let mut agent =
        GoAgent::start(&stage, &server.url(), &["-capabilities", "0x2c05", "-verbose"])?;
    agent.event("connected").await?;
    let shown = server.heartbeats(&agent.uid, 5).await?;
    let names = &shown["capabilities"];
    holds(!names.to_string().contains("RemoteConfig"), "no such capability", names)?;
    let ignored = agent.has_logged("Ignoring RemoteConfig");
    holds(!ignored, "no offer for opamp-go to ignore", "one")?;
    Ok("no offer in 5 heartbeats".to_owned())
}

async fn changes(stage: Stage) -> Outcome {
    let (server, mut agent) = pair(&stage).await?;
    let ill = json!({"cmd": "set_health", "healthy": false, "status": "ill",
        "last_error": "disk is full"});
    agent.command(ill).await?;
    let is_ill = |agent: &Value| agent["health"]["healthy"] == false;
    let shown = server.agent(&agent.uid, "an agent that is not healthy", is_ill).await?;
    equal("status", &shown["health"]["status"], &json!("ill"))?;
    equal("last_error", &shown["health"]["last_error"], &json!("disk is full"))?;
    agent.command(json!({"cmd": "set_health", "healthy": true})).await?;
    let is_well = |agent: &Value| agent["health"]["healthy"] == true;
    let shown = server.agent(&agent.uid, "a healthy agent", is_well).await?;
    equal("last_error", &shown["health"]["last_error"], &json!(""))?;
    agent.command(json!({"cmd": "set_description", "name": "another-name"})).await?;
    let name = |agent: &Value| {
        let attributes = &agent["agent_description"]["identifying_attributes"];
        attributes["service.name"] == "another-name"
    };
    server.agent(&agent.uid, "the new name", name).await?;
    Ok("unhealthy with last_error, healthy, another service.name".to_owned())
}

async fn full_state(stage: Stage) -> Outcome {
    let (server, agent) = pair(&stage).await?;
    let uid = agent.uid.as_str();
    let body = "greeting: good evening\n";
    apply(&server, uid, body).await?;
    let before = server.heartbeats(uid, 2).await?;
    let reads = agent.count("effective_config_read");
    server.call("POST", &format!("/v1/agents/{uid}/report-full-state"), "", 202).await?;
    let after = server.heartbeats(uid, 5).await?;
    equal("full reports", &(agent.count("effective_config_read") - reads), &1)?;
    for part in ["agent_description", "health", "effective_config", "remote_config_status"] {
        equal(part, &after[part], &before[part])?;
    }
    Ok("the agent read its whole state once, and it is the same".to_owned())
}

async fn idle(stage: Stage) -> Outcome {
    let (server, agent) = pair(&stage).await?;
    server.heartbeats(&agent.uid, 2).await?;
    let before = Instant::now();
    server.heartbeats(&agent.uid, 6).await?;
    let took = before.elapsed();
    let least = Duration::from_millis(2400);
    holds(took >= least, "6 heartbeats of 0.5 s", format_args!("6 messages in {took:?}"))?;
    equal("full reports", &agent.count("effective_config_read"), &1)?;
    Ok(format!("6 messages in {:.1} s", took.as_secs_f64()))
}

async fn late_server(stage: Stage) -> Outcome {
    let mut server = Server::start(&stage).await?;
    server.kill().await?;
    let mut agent = GoAgent::start(&stage, &server.url(), &[])?;
    agent.event("connect_failed").await?;
    server.replace(&stage).await?;
    server.agent(&agent.uid, "the agent", is_connected_and_complete).await?;
    apply(&server, &agent.uid, "greeting: good evening\n").await?;
    Ok("refused at first, then complete, and it takes a config".to_owned())
}

/// The server is gone: another one starts at its address, and has everything.
async fn recovered(stage: &Stage, server: &mut Server, agent: &GoAgent) -> Result<(), Failed> {
    let body = "greeting: good evening\n";
    server.replace(stage).await?;
    let is_back = |agent: &Value| {
        is_connected_and_complete(agent)
            && effective(agent, CONFIG_NAME) == Some(body)
            && agent["remote_config_status"]["status"] == "APPLIED"
    };
    server.agent(&agent.uid, "the agent with its config", is_back).await?;
    server.heartbeats(&agent.uid, 3).await?;
    equal("agents", &server.agents().await?.len(), &1)
}

async fn server_killed(stage: Stage) -> Outcome {
    let (mut server, agent) = pair(&stage).await?;
    apply(&server, &agent.uid, "greeting: good evening\n").await?;
    server.kill().await?;
    let before = Instant::now();
    recovered(&stage, &mut server, &agent).await?;
    Ok(format!("complete, config status included, after {:.1} s", before.elapsed().as_secs_f64()))
}

async fn server_stopped(stage: Stage) -> Outcome {
    let (mut server, agent) = pair(&stage).await?;
    apply(&server, &agent.uid, "greeting: good evening\n").await?;
    let before = Instant::now();
    let status = server.terminate().await?;
    let took = before.elapsed();
    holds(status.success(), "exit status 0", status)?;
    holds(took < Duration::from_secs(7), "an end in time", format_args!("{took:?}"))?;
    recovered(&stage, &mut server, &agent).await?;
    Ok(format!("stopped in {:.2} s, then complete again", took.as_secs_f64()))
}

async fn renamed(stage: Stage) -> Outcome {
    let server = Server::start(&stage).await?;
    let relay = Relay::to(&server.addr).await?;
    let url = stage.transport.url(false, &relay.addr());
    let mut agent = joined(&stage, &server, &url, &[]).await?;
    let path = format!("/v1/agents/{}/new-instance-uid", agent.uid);
    let reply = server.call("POST", &path, "", 200).await?;
    let new = reply["new_instance_uid"].as_str().unwrap_or_default().to_owned();
    equal("the uid the agent got", &agent.event("instance_uid").await?["uid"], &json!(new))?;
    server.agent(&new, "the agent under its new uid", is_connected_and_complete).await?;
    server.heartbeats(&new, 2).await?;
    relay.cut();
    agent.event("connected").await?;
    server.heartbeats(&new, 3).await?;
    server.agent(&new, "the agent under its new uid", is_connected_and_complete).await?;
    let known = server.agents().await?;
    equal("agents", &known.len(), &1)?;
    equal("full reports", &agent.count("effective_config_read"), &1)?;
    equal("renames", &agent.count("instance_uid"), &1)?;
    Ok("one agent, complete under the new uid without another full report".to_owned())
}

async fn uid_asked_for(stage: Stage) -> Outcome {
    let server = Server::start(&stage).await?;
    let mut agent = GoAgent::start(&stage, &server.url(), &["-request-uid"])?;
    let given = agent.event("instance_uid").await?;
    let given = given["uid"].as_str().unwrap_or_default().to_owned();
    holds(given != agent.uid, "another uid than it had", &given)?;
    equal("the version of the UUID", &given.chars().nth(14), &Some('7'))?;
    server.agent(&given, "the agent under its uid", is_connected_and_complete).await?;
    server.heartbeats(&given, 3).await?;
    equal("uids given", &agent.count("instance_uid"), &1)?;
    equal("agents", &server.agents().await?.len(), &1)?;
    Ok("one uid of version 7, used from then on; the first one is not listed".to_owned())
}

async fn restart(stage: Stage) -> Outcome {
    let (server, mut agent) = pair(&stage).await?;
    server.call("POST", &format!("/v1/agents/{}/restart", agent.uid), "", 202).await?;
    let command = agent.event("command").await?;
    equal("type", &command["type"], &json!("CommandType_Restart"))?;
    server.heartbeats(&agent.uid, 4).await?;
    equal("commands", &agent.count("command"), &1)?;
    let args = ["-capabilities", "0x3807"];
    let other = joined(&stage, &server, &server.url(), &args).await?;
    server.call("POST", &format!("/v1/agents/{}/restart", other.uid), "", 409).await?;
    Ok("one command; 409 for an agent without AcceptsRestartCommand".to_owned())
}

/// Waits until the agent counts as disconnected and expects that to be soon.
async fn disconnected(server: &Server, uid: &str) -> Result<Duration, Failed> {
    let before = Instant::now();
    let is_gone = |agent: &Value| agent["connected"] == false;
    let shown = server.agent(uid, "a disconnected agent", is_gone).await?;
    let took = before.elapsed();
    holds(took < Duration::from_secs(1), "at once", format_args!("after {took:?}"))?;
    holds(is_complete(&shown), "what it last reported", &shown)?;
    Ok(took)
}

async fn goodbye(stage: Stage) -> Outcome {
    let (server, mut agent) = pair(&stage).await?;
    agent.stop().await?;
    let took = disconnected(&server, &agent.uid).await?;
    Ok(format!("connected=false {took:.0?} after it stopped, its state still there"))
}

async fn gone(stage: Stage) -> Outcome {
    let (server, mut agent) = pair(&stage).await?;
    agent.stop().await?;
    let shown = server.agent(&agent.uid, "the agent", is_complete).await?;
    equal("agents", &server.agents().await?.len(), &1)?;
    Ok(format!("listed, connected={}", shown["connected"]))
}

async fn killed(stage: Stage) -> Outcome {
    let (server, mut agent) = pair(&stage).await?;
    agent.kill().await?;
    let took = disconnected(&server, &agent.uid).await?;
    Ok(format!("connected=false {took:.0?} after it was killed"))
}

async fn tls(stage: Stage) -> Outcome {
    let certificates = stage.certificates()?;
    let (cert, key) = (certificates.cert(), certificates.key());
    let server = Server::start_with(&stage, &["--tls-cert", &cert, "--tls-key", &key]).await?;
    let url = server.url();
    let other_ca = certificates.other_ca();
    let mut stranger = GoAgent::start(&stage, &url, &["-ca", &other_ca])?;
    let refused = stranger.event("connect_failed").await?;
    equal("agents so far", &server.agents().await?.len(), &0)?;
    let ca = certificates.ca();
    let agent = joined(&stage, &server, &url, &["-ca", &ca]).await?;
    apply(&server, &agent.uid, "greeting: good evening\n").await?;
    Ok(format!("config applied over {url}; without trust: {}", refused["error"]))
}

async fn compression(stage: Stage) -> Outcome {
    let server = Server::start(&stage).await?;
    let agent = joined(&stage, &server, &server.url(), &["-compression"]).await?;
    apply(&server, &agent.uid, "greeting: good evening\n").await?;
    let body = big_yaml(1 << 16);
    apply(&server, &agent.uid, &body).await?;
    server.heartbeats(&agent.uid, 2).await?;
    let how = match stage.transport {
        Transport::WebSocket => "permessage-deflate offered",
        Transport::Http => "gzip request bodies",
    };
    Ok(format!("{how}: a config of {} bytes there and back", body.len()))
}

async fn big_config(stage: Stage) -> Outcome {
    let (server, agent) = pair(&stage).await?;
    let body = big_yaml(1 << 20);
    apply(&server, &agent.uid, &body).await?;
    server.heartbeats(&agent.uid, 2).await?;
    equal("offers", &agent.count("remote_config"), &1)?;
    Ok(format!("{} bytes there and back", body.len()))
}

async fn tokens(stage: Stage) -> Outcome {
    let server = Server::start_with(&stage, &["--token", "right"]).await?;
    let url = server.url();
    let wrong = ["-header", "Authorization=Bearer wrong"];
    let mut refused = Vec::new();
    for args in [&[][..], &wrong[..]] {
        let mut agent = GoAgent::start(&stage, &url, args)?;
        refused.push(match stage.transport {
            Transport::WebSocket => agent.event("connect_failed").await?["error"].to_string(),
            // opamp-go's HTTP client tells its user nothing of a 401.
            Transport::Http => agent.logs("401").await?,
        });
        equal("connections", &agent.count("connected"), &0)?;
    }
    equal("agents so far", &server.agents().await?.len(), &0)?;
    joined(&stage, &server, &url, &["-header", "Authorization=Bearer right"]).await?;
    Ok(format!("refused twice ({}), then let in", refused[1]))
}
