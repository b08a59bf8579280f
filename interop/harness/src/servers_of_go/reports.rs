//! What the agent reports, and what it makes of what it is told, when all goes well.

use std::time::Duration;

use serde_json::json;

use super::{CAPABILITIES, FULL, Pair, apply, pair, pair_at};
use crate::Outcome;
use crate::check::{equal, holds};
use crate::example_agent::Agent;
use crate::go_server::{CONFIG_NAME, GoServer, Report, consecutive, effective};
use crate::relay::Relay;
use crate::stage::{Stage, Transport, big_yaml, new_uid};

pub(super) async fn first_message(stage: Stage) -> Outcome {
    let mut server = GoServer::start(&stage).await?;
    let uid = new_uid();
    let args = ["--instance-uid", &uid, "--attribute", "service.name=under-test"];
    let _agent = Agent::start(&stage, &server.url(), &args)?;
    if stage.transport == Transport::WebSocket {
        let opened = server.event("connected", |_| true).await?;
        let extensions = &opened["headers"]["Sec-WebSocket-Extensions"];
        holds(extensions.is_null(), "no extension is asked for", extensions)?;
    }
    let first = server.report("the first report", |_| true).await?;
    equal("transport", first.transport(), stage.transport.name())?;
    equal("instance uid", first.uid(), uid.as_str())?;
    equal("sub-messages", &first.fields(), &FULL)?;
    equal("capabilities", &first.capabilities(), &CAPABILITIES)?;
    equal("flags", &first.flags(), &0)?;
    let identifying = |key| first.attribute("identifyingAttributes", key);
    equal("service.name", &identifying("service.name"), &Some("under-test"))?;
    equal("service.instance.id", &identifying("service.instance.id"), &Some(uid.as_str()))?;
    holds(identifying("service.version").is_some(), "a service.version", first.text())?;
    let others = |key| first.attribute("nonIdentifyingAttributes", key);
    holds(others("os.type").is_some() && others("host.name").is_some(), "a host", first.text())?;
    let health = &first.msg()["health"];
    holds(health["healthy"] == true, "a healthy agent", health)?;
    holds(!health["startTimeUnixNano"].is_null(), "a start time", health)?;
    holds(first.effective("").is_some(), "an effective config", first.text())?;
    if stage.transport == Transport::Http {
        equal("OpAMP-Instance-UID", &first.header("OpAMP-Instance-UID"), &Some(uid.as_str()))?;
        let content_type = first.header("Content-Type");
        equal("Content-Type", &content_type, &Some("application/x-protobuf"))?;
    }
    Ok(format!("number {} with {}", first.seq(), FULL.join(", ")))
}

pub(super) async fn heartbeats(stage: Stage) -> Outcome {
    let Pair { mut server, agent: _agent, uid, first } = pair(&stage).await?;
    let reports = server.nothing_but_heartbeats(6).await?;
    consecutive(&reports)?;
    holds(reports[0].seq() > first.seq(), "numbers that go on", reports[0].text())?;
    for report in &reports {
        equal("instance uid", report.uid(), uid.as_str())?;
        equal("capabilities", &report.capabilities(), &CAPABILITIES)?;
        if stage.transport == Transport::Http {
            equal("OpAMP-Instance-UID", &report.header("OpAMP-Instance-UID"), &Some(uid.as_str()))?;
        }
    }
    let took = reports[5].at() - reports[0].at();
    let right = Duration::from_millis(2200)..Duration::from_millis(4000);
    holds(right.contains(&took), "5 intervals of 0.5 s", format_args!("{took:?}"))?;
    let gaps = server.count_since(0, "sequence_gap");
    equal("gaps in the sequence numbers", &gaps, &0)?;
    Ok(format!("6 bare messages in {:.2} s, numbers {}…", took.as_secs_f64(), reports[0].seq()))
}

pub(super) async fn config_applied(stage: Stage) -> Outcome {
    let Pair { mut server, agent, .. } = pair(&stage).await?;
    let report = apply(&mut server, "greeting: good evening\n").await?;
    equal("sub-messages", &report.fields(), &["effective_config", "remote_config_status"])?;
    server.nothing_but_heartbeats(3).await?;
    equal("configs the agent applied", &agent.has_said("config-applied"), &1)?;
    Ok("effective_config and remote_config_status APPLIED, then only heartbeats".to_owned())
}

pub(super) async fn config_refused(stage: Stage) -> Outcome {
    let Pair { mut server, agent, uid, .. } = pair(&stage).await?;
    let good = "greeting: good evening\n";
    apply(&mut server, good).await?;
    let bad = server.offer_config("greeting: hello\nlist: [1, 2\nmore: 3\n").await?;
    let report = server.content("the outcome of the bad offer").await?;
    equal("sub-messages", &report.fields(), &["remote_config_status"])?;
    let (status, why) = report.config_status();
    equal("status", status, "FAILED")?;
    equal("the hash in the status", &report.config_hash(), &bad)?;
    holds(why.contains("line 3 column"), "the position of the error", why)?;
    server.nothing_but_heartbeats(4).await?;
    equal("configs the agent refused", &agent.has_said("config-failed"), &1)?;
    let state = server.state(&uid).await?;
    equal("the old config", &effective(&state["msg"], CONFIG_NAME).as_deref(), &Some(good))?;
    let seen = format!("FAILED {why:?}, the old config stays");
    apply(&mut server, "greeting: good night\n").await?;
    Ok(format!("{seen}, a better one is applied"))
}

pub(super) async fn config_after_config(stage: Stage) -> Outcome {
    let Pair { mut server, agent, uid, .. } = pair(&stage).await?;
    let mut last = (String::new(), String::new());
    for number in 0..20 {
        let body = format!("number: {number}\n");
        last = (server.offer_config(&body).await?, body);
    }
    let in_force = |report: &Report| {
        report.config_hash() == last.0 && report.config_status() == ("APPLIED", "")
    };
    server.report("the last config applied", in_force).await?;
    server.nothing_but_heartbeats(4).await?;
    let state = server.state(&uid).await?;
    equal("the config", &effective(&state["msg"], CONFIG_NAME), &Some(last.1))?;
    let applied = agent.has_said("config-applied");
    holds(applied <= 20, "each config applied at most once", applied)?;
    Ok(format!("{applied} of 20 configs were applied, the last one is effective"))
}

pub(super) async fn health(stage: Stage) -> Outcome {
    let Pair { mut server, agent: _agent, .. } = pair(&stage).await?;
    let mut seen = Vec::new();
    for (body, error) in [("fail_with: disk is full\n", Some("disk is full")), ("a: 1\n", None)] {
        server.offer_config(body).await?;
        // Health may be told before the outcome of the offer, or with it.
        let mut parts = Vec::new();
        while !parts.contains(&"remote_config_status".to_owned()) {
            let report = server.content("health and the outcome of the offer").await?;
            if report.fields().contains(&"health") {
                let health = &report.msg()["health"];
                equal("last_error", &health["lastError"].as_str(), &error)?;
                equal("healthy", &(health["healthy"] == true), &error.is_none())?;
            }
            parts.extend(report.fields().into_iter().map(str::to_owned));
        }
        parts.sort_unstable();
        equal("parts", &parts, &["effective_config", "health", "remote_config_status"])?;
        server.nothing_but_heartbeats(2).await?;
        seen.push(format!("last_error {error:?}"));
    }
    Ok(format!("{}, no part twice", seen.join(", then ")))
}

pub(super) async fn full_state(stage: Stage) -> Outcome {
    let Pair { mut server, agent: _agent, uid, first } = pair(&stage).await?;
    let applied = apply(&mut server, "greeting: good evening\n").await?;
    server.nothing_but_heartbeats(1).await?;
    server.command(json!({"cmd": "report_full_state", "uid": uid})).await?;
    let report = server.content("a full report").await?;
    equal("sub-messages", &report.fields(), &FULL)?;
    for (part, earlier) in [
        ("agentDescription", &first),
        ("health", &first),
        ("effectiveConfig", &applied),
        ("remoteConfigStatus", &applied),
    ] {
        equal(part, &report.msg()[part], &earlier.msg()[part])?;
    }
    server.nothing_but_heartbeats(4).await?;
    Ok(format!("one report with {}", FULL.join(", ")))
}

pub(super) async fn forgotten(stage: Stage) -> Outcome {
    let Pair { mut server, agent: _agent, uid, .. } = pair(&stage).await?;
    apply(&mut server, "greeting: good evening\n").await?;
    let before = server.nothing_but_heartbeats(1).await?;
    server.command(json!({"cmd": "forget", "uid": uid})).await?;
    let report = server.content("a full report").await?;
    equal("sub-messages", &report.fields(), &FULL)?;
    holds(report.seq() > before[0].seq(), "numbers that go on", report.text())?;
    equal("the status of the config", &report.config_status(), &("APPLIED", ""))?;
    server.nothing_but_heartbeats(4).await?;
    Ok(format!("full report number {}, then only heartbeats", report.seq()))
}

pub(super) async fn new_process(stage: Stage) -> Outcome {
    let mut server = GoServer::start(&stage).await?;
    let dir = stage.dir().join("state").display().to_string();
    let args = ["--state", dir.as_str()];
    let mut agent = Agent::start(&stage, &server.url(), &args)?;
    let first = server.report("the first report", |_| true).await?;
    server.nothing_but_heartbeats(1).await?;
    let applied = apply(&mut server, "greeting: good evening\n").await?;
    agent.terminate().await?;
    server.report("the goodbye", |report| report.fields() == ["agent_disconnect"]).await?;

    let mut again = Agent::start(&stage, &server.url(), &args)?;
    let report = server.report("the first report of the new process", |_| true).await?;
    equal("instance uid", report.uid(), first.uid())?;
    equal("sub-messages", &report.fields(), &FULL)?;
    let part = "remoteConfigStatus";
    equal(part, &report.msg()[part], &applied.msg()[part])?;
    equal("the effective config", &report.effective(CONFIG_NAME), &applied.effective(CONFIG_NAME))?;
    again.says("connected").await?;
    server.nothing_but_heartbeats(3).await?;
    equal("offers to the new process", &again.has_said("config-"), &0)?;
    let gaps = server.count_since(0, "sequence_gap");
    Ok(format!("same uid, number {} ({gaps} gap), config kept and not offered again", report.seq()))
}

pub(super) async fn renamed(stage: Stage) -> Outcome {
    let server = GoServer::start(&stage).await?;
    let relay = Relay::to(&server.addr).await?;
    let url = stage.transport.url(false, &relay.addr());
    let Pair { mut server, mut agent, uid, .. } = pair_at(&stage, server, &url, &[]).await?;
    let new = new_uid();
    server.command(json!({"cmd": "rename", "uid": uid, "new_uid": new})).await?;
    agent.says("instance-uid-changed").await?;
    let report = server.report("a message under the new uid", |report| report.uid() == new).await?;
    let described = if report.is_bare() { server.content("a description").await? } else { report };
    equal("sub-messages", &described.fields(), &["agent_description"])?;
    let id = described.attribute("identifyingAttributes", "service.instance.id");
    equal("service.instance.id", &id, &Some(new.as_str()))?;
    let reports = server.nothing_but_heartbeats(2).await?;
    relay.cut();
    let later = server.nothing_but_heartbeats(3).await?;
    for report in reports.iter().chain(&later) {
        equal("instance uid", report.uid(), new.as_str())?;
        if stage.transport == Transport::Http {
            equal("OpAMP-Instance-UID", &report.header("OpAMP-Instance-UID"), &Some(new.as_str()))?;
        }
    }
    equal("renames", &agent.has_said("instance-uid-changed"), &1)?;
    Ok("the new uid in messages, description and header, kept over a reconnect".to_owned())
}

pub(super) async fn restart(stage: Stage) -> Outcome {
    let Pair { mut server, mut agent, uid, first } = pair(&stage).await?;
    server.command(json!({"cmd": "restart_agent", "uid": uid})).await?;
    agent.says("restarted").await?;
    let report = server.content("the new health").await?;
    equal("sub-messages", &report.fields(), &["health"])?;
    let start = |report: &Report| {
        let nanos = report.msg()["health"]["startTimeUnixNano"].as_str();
        nanos.and_then(|nanos| nanos.parse::<u64>().ok()).unwrap_or_default()
    };
    holds(start(&report) > start(&first), "a later start time", report.text())?;
    server.nothing_but_heartbeats(3).await?;
    equal("restarts", &agent.has_said("restarted"), &1)?;
    Ok("health with a later start time, once".to_owned())
}

pub(super) async fn goodbye(stage: Stage) -> Outcome {
    let Pair { mut server, mut agent, uid, .. } = pair(&stage).await?;
    let mark = server.mark();
    let status = agent.terminate().await?;
    let last = server.report("agent_disconnect", |r| !r.is_bare()).await?;
    equal("sub-messages", &last.fields(), &["agent_disconnect"])?;
    equal("capabilities", &last.capabilities(), &CAPABILITIES)?;
    if stage.transport == Transport::WebSocket {
        server.event("closed", |event| event["uids"] == json!([uid])).await?;
        equal("unclean ends", &server.count_since(mark, "read_error"), &0)?;
    }
    equal("connected", &server.state(&uid).await?["connected"], &json!(false))?;
    let reports = server.reports_since(mark);
    equal("the last message", &reports.last().map(Report::seq), &Some(last.seq()))?;
    equal("gaps", &server.count_since(0, "sequence_gap"), &0)?;
    equal("the last line", &agent.has_said("stopped"), &1)?;
    holds(status.success(), "exit status 0", status)?;
    Ok(format!("agent_disconnect as number {}, {status}", last.seq()))
}

pub(super) async fn tls(stage: Stage) -> Outcome {
    let certificates = stage.certificates()?;
    let (cert, key) = (certificates.cert(), certificates.key());
    let server = GoServer::start_with(&stage, &["-cert", &cert, "-key", &key]).await?;
    let url = server.url();
    let mut stranger = Agent::start(&stage, &url, &["--ca", &certificates.other_ca()])?;
    let refused = stranger.says("connect-failed").await?;
    equal("messages so far", &server.reports_since(0).len(), &0)?;
    let ca = certificates.ca();
    let Pair { mut server, agent: _agent, .. } =
        pair_at(&stage, server, &url, &["--ca", &ca]).await?;
    apply(&mut server, "greeting: good evening\n").await?;
    Ok(format!("config applied over {url}; without trust: {refused}"))
}

pub(super) async fn big_config(stage: Stage) -> Outcome {
    let Pair { mut server, agent: _agent, .. } = pair(&stage).await?;
    let body = big_yaml(1 << 20);
    apply(&mut server, &body).await?;
    server.nothing_but_heartbeats(2).await?;
    Ok(format!("{} bytes there and back", body.len()))
}

pub(super) async fn compression(stage: Stage) -> Outcome {
    let server = GoServer::start_with(&stage, &["-compression"]).await?;
    let url = server.url();
    let Pair { mut server, agent: _agent, .. } = pair_at(&stage, server, &url, &[]).await?;
    let body = big_yaml(1 << 16);
    apply(&mut server, &body).await?;
    server.nothing_but_heartbeats(2).await?;
    Ok(format!("a config of {} bytes is applied", body.len()))
}

pub(super) async fn early_goodbye(stage: Stage) -> Outcome {
    const TIMES: usize = 10;
    let mut server = GoServer::start(&stage).await?;
    for _ in 0..TIMES {
        let mut agent = Agent::start(&stage, &server.url(), &[])?;
        let first = server.report("the first report", |_| true).await?;
        let status = agent.terminate().await?;
        holds(status.success(), "exit status 0", status)?;
        let is_goodbye = |report: &Report| report.fields() == ["agent_disconnect"];
        let last = server.report("the goodbye", is_goodbye).await?;
        equal("instance uid", last.uid(), first.uid())?;
    }
    Ok(format!("{TIMES} agents stopped as soon as they had reported, {TIMES} goodbyes"))
}

pub(super) async fn transport_chosen(stage: Stage) -> Outcome {
    let mut server = GoServer::start(&stage).await?;
    for (scheme, transport) in [("ws", "http"), ("http", "websocket")] {
        let url = format!("{scheme}://{}", server.addr);
        let mut agent = Agent::start(&stage, &url, &["--transport", transport])?;
        let first = server.report("the first report", |report| !report.is_bare()).await?;
        equal("transport", first.transport(), transport)?;
        server.nothing_but_heartbeats(1).await?;
        agent.terminate().await?;
        server.report("the goodbye", |report| report.fields() == ["agent_disconnect"]).await?;
    }
    Ok("http for a ws URL, websocket for an http URL, at /v1/opamp".to_owned())
}
