//! Instance uids: whom a message is about, and new ones made by the server.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use http::Method;
use opamp_proto::v1::{AgentToServer, ServerToAgent};

use crate::case::{Case, Conversation, Observed, Script};
use crate::judge::{Judge, Stop};
use crate::log::Event;
use crate::mask::agent as mask;
use crate::mask::flag::REQUEST_INSTANCE_UID;
use crate::report::{By, Transport};
use crate::server::ServerStage;
use crate::server::offer::{CONFIGURABLE, one_file};
use crate::wire::uid;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "server/instance-uid/every-message",
        judges: &["ID-01", "ID-10"],
        transports: &[],
        does: "looks at every message of the run",
        expects: "each has the instance_uid of the agent it is for, byte for byte",
        alone: false,
        broken_by: &[
            "pushes-have-no-uid",
            "pushes-have-another-uid",
            "renaming-is-for-the-new-uid",
            "header-is-one-byte",
        ],
        script: Script::Observer(every_message),
    },
    Case {
        name: "server/instance-uid/requested",
        judges: &["ID-09", "ID-14", "ID-15"],
        transports: Transport::BOTH,
        does: "reports with RequestInstanceUid, then with the id it is given",
        expects: "a new id that is a UUID of version 7, in a message addressed to the temporary one; \
                  the report with the new id is accepted",
        alone: false,
        broken_by: &[
            "requested-uid-is-not-made",
            "new-uid-is-short",
            "new-uid-is-not-v7",
            "renaming-is-for-the-new-uid",
        ],
        script: Script::Server(|stage| Box::pin(requested(stage))),
    },
    Case {
        name: "server/instance-uid/shared-connection",
        judges: &["ID-11"],
        transports: &[Transport::WebSocket],
        does: "reports as two agents over one WebSocket; has the hook assign each a configuration",
        expects: "replies and offers with the id of the agent they are for",
        alone: false,
        broken_by: &[
            "shared-connections-are-one-agent",
            "pushes-have-no-uid",
            "pushes-have-another-uid",
        ],
        script: Script::Server(|stage| Box::pin(shared_connection(stage))),
    },
];

/// Whose ids were heard on a connection.
#[derive(Default)]
struct Spoken {
    /// Those in messages of the tester, and those the server gave.
    uids: BTreeSet<Bytes>,
    /// Whether something was sent from which no id can be read, so that a reply may have none
    /// (A33) or one that only the server found.
    unreadable: bool,
    /// Over plain HTTP, the id in the request that is to be answered.
    asked_by: Option<Bytes>,
}

fn every_message(observed: &Observed, judge: &mut Judge) {
    for conversation in &observed.conversations {
        look(conversation, judge);
    }
}

fn look(conversation: &Conversation, judge: &mut Judge) {
    let mut connections: BTreeMap<u32, Spoken> = BTreeMap::new();
    for entry in &conversation.entries {
        let spoken = connections.entry(entry.connection).or_default();
        if entry.by == By::Tester {
            let is_message = match &entry.event {
                Event::Message { .. } | Event::Raw(_) => true,
                Event::Request { method, .. } => *method == Method::POST,
                _ => false,
            };
            if !is_message {
                continue;
            }
            let uid = entry.agent_to_server().map(|message| message.instance_uid);
            let uid = uid.unwrap_or_default();
            spoken.unreadable |= uid.len() != 16;
            spoken.asked_by = matches!(entry.event, Event::Request { .. }).then(|| uid.clone());
            spoken.uids.insert(uid);
            continue;
        }
        let is_reply = matches!(entry.event, Event::Response { .. });
        if entry.by != By::Subject || (is_reply && spoken.asked_by.is_none()) {
            continue;
        }
        let Some(message) = entry.server_to_agent() else { continue };
        if spoken.unreadable {
            continue;
        }
        let of = &message.instance_uid;
        let text = uid::text(of);
        let there = !of.is_empty();
        let right = match &spoken.asked_by {
            Some(asked_by) if is_reply => of == asked_by,
            _ => spoken.uids.contains(of),
        };
        judge.quote(entry, !there || !right);
        judge.expect("ID-01", there, "instance_uid is present", format!("it is {text:?}"));
        if there {
            let expected = "the id the server received on that connection";
            judge.expect("ID-10", right, expected, format!("a message for {text}"));
        }
        if let Some(identification) = message.agent_identification {
            spoken.uids.insert(identification.new_instance_uid);
        }
    }
}

fn renames(message: &ServerToAgent) -> bool {
    message.agent_identification.is_some()
}

async fn requested(stage: &mut ServerStage) -> Result<(), Stop> {
    let mut agent = stage.agent(mask::REPORTS_STATUS | mask::REPORTS_HEALTH);
    agent.connect().await?;
    let report = AgentToServer { flags: REQUEST_INSTANCE_UID, ..agent.full_report() };
    let renaming = agent.provoke(report, renames).await?;
    let expected = "agent_identification with a new id, addressed to the temporary one";
    let Some(renaming) = renaming else {
        stage.judge.expect("ID-09", false, expected, "no agent_identification");
        return Ok(());
    };
    let new = renaming.agent_identification.unwrap_or_default().new_instance_uid;
    let is_new = !new.is_empty() && new != agent.uid && renaming.instance_uid == agent.uid;
    let actual =
        format!("{:?} in a message to {:?}", uid::text(&new), uid::text(&renaming.instance_uid));
    stage.judge.expect("ID-09", is_new, expected, actual);
    let actual = format!("{} bytes", new.len());
    if !stage.judge.expect("ID-14", new.len() == 16, "16 bytes", actual) {
        return Ok(());
    }
    let plausible = uid::is_v7_plausible(&new, uid::now_ms());
    let actual = plausible.clone().err().unwrap_or_else(|| uid::text(&new));
    stage.judge.expect("ID-15", plausible.is_ok(), "a UUID of version 7", actual);
    agent.uid = new.clone();
    let report = agent.full_report();
    let heard = super::readable(agent.ask(report).await?)?;
    let actual = format!("the report with the new id gets {}", super::told(&heard));
    let expected = "the agent goes on under its new id";
    stage.judge.expect("ID-09", super::is_good(&heard), expected, actual);
    Ok(())
}

async fn shared_connection(stage: &mut ServerStage) -> Result<(), Stop> {
    let (mut agent, reply) = stage.reported(CONFIGURABLE).await?;
    let mut other = stage.agent(CONFIGURABLE);
    // Each message of either agent, and whom the reply has to be for.
    for _ in 0..3 {
        for message in [other.full_report(), agent.full_report()] {
            let uid = message.instance_uid.clone();
            agent.send(message).await?;
            let reply = agent.hear(stage.pace.reply(), |m| m.instance_uid == uid).await?;
            let good = reply.as_ref().is_some_and(|reply| reply.error_response.is_none());
            let expected = format!("a reply for {}", uid::text(&uid));
            let actual = reply.map_or("none".to_owned(), |reply| super::parts(&reply));
            stage.judge.expect("ID-11", good, expected, actual);
        }
    }
    stage.requires(&reply, crate::mask::server::OFFERS_REMOTE_CONFIG)?;
    let uids = [other.uid.clone(), agent.uid.clone()];
    for (uid, body) in uids.into_iter().zip(["conformance: other\n", "conformance: one\n"]) {
        let instance_uid = uid::text(&uid);
        let files = one_file(body);
        stage.hook(crate::hook::Action::OfferConfig { instance_uid, files }).await?;
        let is_it = |message: &ServerToAgent| {
            let config = message.remote_config.as_ref().and_then(|offer| offer.config.as_ref());
            config.is_some_and(|config| config.config_map.values().any(|file| file.body == body))
        };
        let Some(offer) = agent.hear(stage.pace.reply(), is_it).await? else {
            return Err(Stop::Unreached("no offer comes on a connection of two agents".to_owned()));
        };
        let expected = format!("an offer for {}", uid::text(&uid));
        let actual = format!("an offer for {}", uid::text(&offer.instance_uid));
        stage.judge.expect("ID-11", offer.instance_uid == uid, expected, actual);
    }
    Ok(())
}
