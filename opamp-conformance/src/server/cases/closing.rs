//! Closing connections, and agents that say that they leave.

use opamp_proto::v1::{AgentDisconnect, AgentToServer, ServerToAgent};
use tokio::time::{Instant, sleep, timeout};

use crate::case::{Case, Script};
use crate::hook::Action;
use crate::judge::Stop;
use crate::mask::{agent as mask, server};
use crate::report::Transport;
use crate::server::offer::{CONFIGURABLE, one_file};
use crate::server::{Agent, ServerStage};
use crate::wire::uid;
use crate::wire::ws::{Ended, Frame, Incoming};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "server/closing/close-handshake",
        judges: &["CLOSE-04"],
        transports: &[Transport::WebSocket],
        does: "has the hook close the agent's connection, answers the Close frame",
        expects: "a Close frame, and the end of the connection after the answer",
        alone: false,
        broken_by: &["connections-end-without-close", "connections-stay-open-after-close"],
        script: Script::Server(|stage| Box::pin(close_handshake(stage))),
    },
    Case {
        name: "server/closing/agent-leaves",
        judges: &["CLOSE-07"],
        transports: Transport::BOTH,
        does: "sends agent_disconnect and keeps the connection; has the hook show the agent",
        expects: "the agent is shown as not connected",
        alone: false,
        broken_by: &["agent-disconnect-is-ignored"],
        script: Script::Server(|stage| Box::pin(agent_leaves(stage))),
    },
    Case {
        name: "server/closing/one-of-two-leaves",
        judges: &["CLOSE-10"],
        transports: &[Transport::WebSocket],
        does: "sends agent_disconnect for one of two agents on a WebSocket; has the hook assign both \
               a configuration",
        expects: "the other agent still gets replies and its offer, the one that left gets no offer",
        alone: false,
        broken_by: &[
            "agent-disconnect-is-ignored",
            "agent-disconnect-closes",
            "pushes-have-another-uid",
            "pushes-have-no-uid",
        ],
        script: Script::Server(|stage| Box::pin(one_of_two_leaves(stage))),
    },
    Case {
        name: "server/closing/connection-per-request",
        judges: &["CLOSE-09"],
        transports: &[Transport::Http],
        does: "takes part over one HTTP connection, then with a connection for each request",
        expects: "the same replies",
        alone: false,
        broken_by: &["http-sessions-need-keep-alive"],
        script: Script::Server(|stage| Box::pin(connection_per_request(stage))),
    },
];

fn leaving(agent: &mut Agent) -> AgentToServer {
    AgentToServer { agent_disconnect: Some(AgentDisconnect {}), ..agent.message() }
}

async fn close_handshake(stage: &mut ServerStage) -> Result<(), Stop> {
    let (mut agent, _) = stage.reported(mask::REPORTS_STATUS | mask::REPORTS_HEALTH).await?;
    stage.hook(Action::Disconnect { instance_uid: agent.uid_text() }).await?;
    let (work, reply) = (stage.pace.work(), stage.pace.reply());
    let websocket = agent.websocket()?;
    let end = async {
        loop {
            match websocket.receive().await {
                Incoming::Close(code, _) => return Ok(code),
                Incoming::Ended(ended) => return Err(ended),
                _ => {}
            }
        }
    };
    let expected = "a Close frame before the connection ends";
    let code = match timeout(work, end).await {
        Err(_) => {
            let what = "the hook closes the connection, and it stays open";
            return Err(Stop::Unreached(what.to_owned()));
        }
        Ok(Err(ended)) => {
            stage.judge.expect("CLOSE-04", false, expected, ended.to_string());
            return Ok(());
        }
        Ok(Ok(code)) => code,
    };
    let actual = format!("a Close frame with code {code:?}");
    stage.judge.expect("CLOSE-04", true, expected, actual);
    // A server that has gone already is told by the next receive.
    let _ = websocket.send_frame(Frame::close(code.unwrap_or(1000), "")).await;
    let ended = async {
        loop {
            if let Incoming::Ended(ended) = websocket.receive().await {
                return ended;
            }
        }
    };
    let ended = timeout(reply, ended).await;
    let broke = matches!(ended, Ok(Ended::BrokeFraming(_)));
    let actual = match &ended {
        Ok(ended) => ended.to_string(),
        Err(_) => "it stays open".to_owned(),
    };
    let expected = "the end of the connection after the Close frame is answered";
    stage.judge.expect("CLOSE-04", ended.is_ok() && !broke, expected, actual);
    Ok(())
}

async fn agent_leaves(stage: &mut ServerStage) -> Result<(), Stop> {
    let (mut agent, _) = stage.reported(mask::REPORTS_STATUS | mask::REPORTS_HEALTH).await?;
    let shown = stage.shown(&agent.uid).await?;
    if shown["connected"] != true {
        let what = "the hook does not show a connected agent as `connected`".to_owned();
        return Err(Stop::Unreached(what));
    }
    let message = leaving(&mut agent);
    // Over a WebSocket a reply is optional (A12).
    match agent.dialer.url.transport {
        Transport::Http => drop(agent.ask(message).await?),
        Transport::WebSocket => agent.send(message).await?,
    }
    let until = Instant::now() + stage.pace.reply();
    let connected = loop {
        let shown = stage.shown(&agent.uid).await?;
        let connected = shown["connected"] == true;
        if !connected || Instant::now() >= until {
            break connected;
        }
        sleep(stage.pace.poll()).await;
    };
    let actual = if connected { "it is shown as connected" } else { "it is not" };
    stage.judge.expect("CLOSE-07", !connected, "the agent is shown as disconnected", actual);
    Ok(())
}

async fn one_of_two_leaves(stage: &mut ServerStage) -> Result<(), Stop> {
    let (mut agent, reply) = stage.reported(CONFIGURABLE).await?;
    let mut other = stage.agent(CONFIGURABLE);
    let report = other.full_report();
    let both = |uid: &bytes::Bytes| {
        let uid = uid.clone();
        move |message: &ServerToAgent| message.instance_uid == uid
    };
    agent.send(report).await?;
    if agent.hear(stage.pace.reply(), both(&other.uid)).await?.is_none() {
        return Err(Stop::Unreached("a second agent on a WebSocket gets no reply".to_owned()));
    }
    let message = leaving(&mut other);
    agent.send(message).await?;
    // A reply is optional (A12).
    if let Err(Stop::Unreached(how)) = agent.hear(stage.pace.poll(), both(&other.uid)).await {
        let expected = "the connection stays for the other agent";
        stage.judge.expect("CLOSE-10", false, expected, how);
        return Ok(());
    }
    let report = agent.full_report();
    let uid = agent.uid.clone();
    agent.send(report).await?;
    let answer = match agent.hear(stage.pace.reply(), both(&uid)).await {
        Ok(Some(reply)) => Ok(super::parts(&reply)),
        Ok(None) => Err("no reply".to_owned()),
        Err(Stop::Unreached(how)) => Err(how),
        Err(stop) => return Err(stop),
    };
    let expected = "the agent that stays gets replies";
    let answered = answer.is_ok();
    let actual = answer.unwrap_or_else(|what| what);
    if !stage.judge.expect("CLOSE-10", answered, expected, actual) {
        return Ok(());
    }
    stage.requires(&reply, server::OFFERS_REMOTE_CONFIG)?;
    for (uid, body) in [(&other.uid, "conformance: left\n"), (&uid, "conformance: stays\n")] {
        let instance_uid = uid::text(uid);
        let files = one_file(body);
        // For one that has left a server may refuse.
        let done = stage.try_hook(Action::OfferConfig { instance_uid, files }).await?;
        if *uid == agent.uid {
            done.map_err(Stop::Unreached)?;
        }
    }
    let offered = |message: &ServerToAgent, body: &str| {
        let config = message.remote_config.as_ref().and_then(|offer| offer.config.as_ref());
        config.is_some_and(|config| config.config_map.values().any(|file| file.body == body))
    };
    let (mut to_left, mut to_stayed) = (false, None);
    // The offer to the agent that left would come first.
    let heard = agent.deliver(stage.pace.work(), |message| {
        to_left |= message.remote_config.is_some() && message.instance_uid == other.uid;
        offered(message, "conformance: stays\n")
    });
    if let Some(message) = heard.await? {
        to_stayed = Some(message.instance_uid);
    }
    let late = agent.hear(stage.pace.quiet(), |message| message.instance_uid == other.uid).await?;
    to_left |= late.is_some_and(|message| message.remote_config.is_some());
    let actual = if to_left { "an offer for it" } else { "none" };
    stage.judge.expect("CLOSE-10", !to_left, "no offer for the agent that left", actual);
    let actual =
        to_stayed.as_ref().map_or("none".to_owned(), |of| format!("one to {}", uid::text(of)));
    let right = to_stayed.as_ref() == Some(&uid);
    stage.judge.expect("CLOSE-10", right, "an offer for the agent that stays", actual);
    Ok(())
}

async fn connection_per_request(stage: &mut ServerStage) -> Result<(), Stop> {
    let (mut agent, _) = stage.reported(mask::REPORTS_STATUS | mask::REPORTS_HEALTH).await?;
    let mut asked = false;
    for _ in 0..2 {
        let message = agent.message();
        asked |= super::asks_for_all(&agent.exchange(message).await?);
    }
    for _ in 0..3 {
        agent.vanish();
        let message = agent.message();
        let heard = super::readable(agent.ask(message).await?)?;
        let fine = matches!(&heard, crate::server::Heard::Message(reply)
            if reply.error_response.is_none() && (asked || !super::asks_for_all(reply)));
        let expected = "the reply a request on the same connection gets";
        stage.judge.expect("CLOSE-09", fine, expected, super::told(&heard));
    }
    Ok(())
}
