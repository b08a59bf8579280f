//! Servers that are gone, silent, overloaded or noisy, and networks that fail.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{FULL, Pair, apply, pair, pair_at};
use crate::Outcome;
use crate::check::{equal, holds};
use crate::example_agent::Agent;
use crate::go_server::{GoServer, consecutive};
use crate::relay::Relay;
use crate::stage::{Stage, Transport, new_uid};

pub(super) async fn server_replaced(stage: Stage) -> Outcome {
    let Pair { mut server, agent: _agent, uid, .. } = pair(&stage).await?;
    apply(&mut server, "greeting: good evening\n").await?;
    server.nothing_but_heartbeats(1).await?;
    server.replace(&stage).await?;
    let mut missing = FULL.to_vec();
    let mut seen = Vec::new();
    while !missing.is_empty() {
        let report = server.content("what the new server does not know").await?;
        equal("instance uid", report.uid(), uid.as_str())?;
        missing.retain(|part| !report.fields().contains(part));
        seen.push(report.fields().join(" "));
        holds(seen.len() <= 2, "at most two reports with content", format_args!("{seen:?}"))?;
    }
    server.nothing_but_heartbeats(3).await?;
    Ok(format!("complete again after {} report(s) with content", seen.len()))
}

pub(super) async fn late_server(stage: Stage) -> Outcome {
    let mut server = GoServer::start(&stage).await?;
    server.kill().await?;
    let mut agent = Agent::start(&stage, &server.url(), &[])?;
    agent.says("connect-failed").await?;
    server.replace(&stage).await?;
    let first = server.report("the first report", |_| true).await?;
    equal("sub-messages", &first.fields(), &FULL)?;
    agent.says("connected").await?;
    server.kill().await?;
    agent
        .says(if stage.transport == Transport::Http { "connect-failed" } else { "disconnected" })
        .await?;
    let started = Instant::now();
    let status = agent.terminate().await?;
    let took = started.elapsed();
    holds(status.success(), "exit status 0", status)?;
    holds(took < Duration::from_secs(7), "an end in time", format_args!("{took:?}"))?;
    Ok(format!("full report; stopped in {:.1} s without a server", took.as_secs_f64()))
}

pub(super) async fn silent(stage: Stage) -> Outcome {
    let mut server = GoServer::start(&stage).await?;
    server.reply_mode("silent").await?;
    let mut agent = Agent::start(&stage, &server.url(), &["--instance-uid", &new_uid()])?;
    let first = server.report("the first report", |_| true).await?;
    equal("sub-messages", &first.fields(), &FULL)?;
    server.nothing_but_heartbeats(6).await?;
    server.reply_mode("normal").await?;
    server.nothing_but_heartbeats(3).await?;
    apply(&mut server, "greeting: good evening\n").await?;
    server.nothing_but_heartbeats(1).await?;
    server.reply_mode("silent").await?;
    let started = Instant::now();
    let status = agent.terminate().await?;
    holds(status.success(), "exit status 0", status)?;
    let took = started.elapsed();
    holds(took < Duration::from_secs(7), "an end in time", format_args!("{took:?}"))?;
    Ok(format!("no repetition, config applied, stopped in {:.1} s", took.as_secs_f64()))
}

pub(super) async fn unavailable(stage: Stage) -> Outcome {
    const RETRY_AFTER: Duration = Duration::from_secs(3);
    let mut server = GoServer::start(&stage).await?;
    let mode = json!({"cmd": "reply_mode", "mode": "unavailable", "retry_after_seconds": 3});
    server.command(mode).await?;
    let mut agent = Agent::start(&stage, &server.url(), &["--instance-uid", &new_uid()])?;
    let refused = server.report("the first report", |_| true).await?;
    equal("sub-messages", &refused.fields(), &FULL)?;
    agent.says("throttled").await?;
    server.reply_mode("normal").await?;
    let next = server.report("what comes next", |r| r.fields() != ["agent_disconnect"]).await?;
    let pause = next.at() - refused.at();
    // The clock of the lines is that of their reader.
    let slack = Duration::from_millis(100);
    holds(pause + slack >= RETRY_AFTER, "nothing for 3 s", format_args!("after {pause:?}"))?;
    holds(pause < 2 * RETRY_AFTER, "an end of the pause", format_args!("after {pause:?}"))?;
    if stage.transport == Transport::WebSocket {
        let connected = server.last("connected").map(|at| at + slack >= refused.at() + RETRY_AFTER);
        equal("the next connection is after that, too", &connected, &Some(true))?;
    }
    equal("sub-messages", &next.fields(), &FULL)?;
    server.nothing_but_heartbeats(2).await?;
    Ok(format!("the whole report again after {:.1} s", pause.as_secs_f64()))
}

pub(super) async fn bad_request(stage: Stage) -> Outcome {
    let mut server = GoServer::start(&stage).await?;
    server.reply_mode("bad_request").await?;
    let mut agent = Agent::start(&stage, &server.url(), &["--instance-uid", &new_uid()])?;
    let refused = server.report("the first report", |_| true).await?;
    equal("sub-messages", &refused.fields(), &FULL)?;
    agent.says("refused").await?;
    let reports = server.nothing_but_heartbeats(6).await?;
    let took = reports[5].at() - refused.at();
    let least = Duration::from_millis(2500);
    holds(took >= least, "no more than the heartbeats", format_args!("6 in {took:?}"))?;
    server.reply_mode("normal").await?;
    let full = server.content("the full report it now asks for").await?;
    equal("sub-messages", &full.fields(), &FULL)?;
    server.nothing_but_heartbeats(2).await?;
    Ok(format!("6 heartbeats in {:.1} s, then full state when asked", took.as_secs_f64()))
}

pub(super) async fn pushes(stage: Stage) -> Outcome {
    let Pair { mut server, agent, .. } = pair(&stage).await?;
    server.reply_mode("push_random").await?;
    apply(&mut server, "greeting: good evening\n").await?;
    let reports = server.nothing_but_heartbeats(10).await?;
    consecutive(&reports)?;
    let took = reports[9].at() - reports[0].at();
    let least = Duration::from_millis(4000);
    holds(took >= least, "no more than the heartbeats", format_args!("10 in {took:?}"))?;
    equal("configs the agent applied", &agent.has_said("config-applied"), &1)?;
    equal("connections", &agent.has_said("connected"), &1)?;
    Ok(format!("10 heartbeats in {:.1} s and nothing else", took.as_secs_f64()))
}

pub(super) async fn closed(stage: Stage) -> Outcome {
    let Pair { mut server, mut agent, uid, first } = pair(&stage).await?;
    let mut seen = Vec::new();
    for how in [
        json!({"how": "ws", "code": 1001}),
        json!({"how": "ws", "code": 1012}),
        json!({"how": "tcp"}),
    ] {
        let mut command = json!({"cmd": "close", "uid": uid});
        let members = command.as_object_mut().into_iter().zip(how.as_object());
        members.for_each(|(command, how)| command.extend(how.clone()));
        let before = Instant::now();
        server.command(command).await?;
        agent.says("disconnected").await?;
        server.event("connected", |_| true).await?;
        agent.says("connected").await?;
        let report = server.report("the first message", |_| true).await?;
        holds(report.is_bare(), "nothing that was told before", report.text())?;
        holds(report.seq() > first.seq(), "numbers that go on", report.text())?;
        seen.push(format!("{how} back in {:.2} s", (report.at() - before).as_secs_f64()));
        server.nothing_but_heartbeats(1).await?;
    }
    Ok(seen.join(", "))
}

pub(super) async fn cut_off(stage: Stage) -> Outcome {
    let server = GoServer::start(&stage).await?;
    let relay = Relay::to(&server.addr).await?;
    let url = stage.transport.url(false, &relay.addr());
    let Pair { mut server, agent: _agent, .. } = pair_at(&stage, server, &url, &[]).await?;
    relay.cut();
    server.nothing_but_heartbeats(2).await?;
    apply(&mut server, "greeting: good evening\n").await?;
    // What is cut off before its reply came is told again, and rightly so.
    server.nothing_but_heartbeats(1).await?;
    relay.cut();
    server.nothing_but_heartbeats(3).await?;
    Ok("nothing but heartbeats after either cut, a config in between is applied".to_owned())
}

pub(super) async fn unwanted(stage: Stage) -> Outcome {
    let Pair { mut server, agent, uid, .. } = pair(&stage).await?;
    for command in [
        json!({"cmd": "send", "uid": uid, "message": {"packagesAvailable": {"packages": {"p":
            {"version": "1", "hash": "AA==", "file": {"downloadUrl": "http://127.0.0.1:1/p",
            "contentHash": "AA=="}}}, "allPackagesHash": "AA=="}}}),
        json!({"cmd": "send_custom", "uid": uid, "capability": "com.example", "type": "t",
            "data": "AAEC"}),
    ] {
        server.command(command).await?;
    }
    server.nothing_but_heartbeats(5).await?;
    apply(&mut server, "greeting: good evening\n").await?;
    equal("connections", &agent.has_said("connected"), &1)?;
    Ok("only heartbeats, and the agent still takes a config".to_owned())
}
