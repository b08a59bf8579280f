//! Custom capabilities and custom messages.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use bytes::Bytes;
use opamp_proto::v1::{AgentToServer, CustomCapabilities, CustomMessage, ServerToAgent};

use crate::case::{Case, Conversation, Observed, Script};
use crate::hook::Action;
use crate::judge::{Judge, Stop};
use crate::log::Event;
use crate::mask::agent as mask;
use crate::report::{By, Transport};
use crate::server::{Agent, ServerStage};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "server/custom/every-message",
        judges: &["CUST-02", "CUST-04", "CUST-05", "CUST-09", "CUST-10"],
        transports: &[],
        does: "looks at every custom capability and custom message of the run",
        expects: "names are reverse domain names; a list is not repeated on a WebSocket; messages are \
                  of capabilities that the server announced, and go to agents that announced any",
        alone: false,
        broken_by: &[
            "custom-capabilities-are-repeated",
            "shared-connections-are-one-agent",
            "custom-capabilities-are-not-domains",
            "custom-messages-are-sent-to-all",
            "custom-messages-are-of-any-capability",
        ],
        script: Script::Observer(every_message),
    },
    Case {
        name: "server/custom/announcement",
        judges: &["CUST-01"],
        transports: Transport::BOTH,
        does: "reports with custom capabilities of its own, sends further messages",
        expects: "a server that has custom capabilities announces them in its first reply",
        alone: false,
        broken_by: &["custom-capabilities-come-late"],
        script: Script::Server(|stage| Box::pin(announcement(stage))),
    },
    Case {
        name: "server/custom/unknown",
        judges: &["CUST-06", "CUST-07"],
        transports: Transport::BOTH,
        does: "sends a custom message of a capability the server does not have, then one of an \
               unknown type of a capability it has",
        expects: "replies without errors",
        alone: false,
        broken_by: &["unknown-custom-messages-are-refused"],
        script: Script::Server(|stage| Box::pin(unknown(stage))),
    },
    Case {
        name: "server/custom/delivery",
        judges: &["CUST-11", "CUST-12", "CUST-13"],
        transports: Transport::BOTH,
        does: "has the hook send custom messages of the same type and of arbitrary bytes, one for \
               each capability the server announces",
        expects: "each arrives unchanged",
        alone: false,
        broken_by: &[
            "custom-data-becomes-text",
            "custom-messages-are-known-by-type",
            "custom-messages-are-of-any-capability",
        ],
        script: Script::Server(|stage| Box::pin(delivery(stage))),
    },
    Case {
        name: "server/custom/replaced",
        judges: &["CUST-03"],
        transports: Transport::BOTH,
        does: "replaces its custom capabilities by others; has the hook send a message of one it no \
               longer has",
        expects: "no such message",
        alone: false,
        broken_by: &["custom-capabilities-add-up", "custom-messages-are-sent-to-all"],
        script: Script::Server(|stage| Box::pin(replaced(stage))),
    },
    Case {
        name: "server/custom/never-announced",
        judges: &["CUST-04"],
        transports: Transport::BOTH,
        does: "has the hook send a custom message to an agent that announced no capability",
        expects: "no such message",
        alone: false,
        broken_by: &["custom-messages-are-sent-to-all"],
        script: Script::Server(|stage| Box::pin(never_announced(stage))),
    },
];

/// A capability no server has.
const OURS: &str = "org.example.conformance.probe";

fn announcing(names: &[&str]) -> Option<CustomCapabilities> {
    Some(CustomCapabilities { capabilities: names.iter().map(|name| (*name).to_owned()).collect() })
}

/// A connected agent that announces what the server does, and the server's list.
async fn kindred(stage: &mut ServerStage) -> Result<(Agent, Vec<String>), Stop> {
    let (mut agent, reply) = stage.reported(mask::REPORTS_STATUS | mask::REPORTS_HEALTH).await?;
    let Some(list) = reply.custom_capabilities.filter(|list| !list.capabilities.is_empty()) else {
        let why = "the server announces no custom capabilities in its first reply";
        return Err(Stop::NotApplicable(why.to_owned()));
    };
    let message = AgentToServer { custom_capabilities: Some(list.clone()), ..agent.message() };
    let reply = agent.exchange(message).await?;
    if reply.error_response.is_some() {
        return Err(Stop::Unreached("custom_capabilities lead to an error".to_owned()));
    }
    Ok((agent, list.capabilities))
}

fn sending(agent: &Agent, capability: &str, r#type: &str, data: &[u8]) -> Action {
    Action::SendCustomMessage {
        instance_uid: Some(agent.uid_text()),
        capability: capability.to_owned(),
        r#type: r#type.to_owned(),
        data: base64::engine::general_purpose::STANDARD.encode(data),
    }
}

fn is_custom(message: &ServerToAgent) -> bool {
    message.custom_message.is_some()
}

/// What was sent, in words.
fn told(message: Option<&ServerToAgent>) -> String {
    match message.and_then(|message| message.custom_message.as_ref()) {
        Some(CustomMessage { capability, r#type, data }) => {
            format!("a custom message of {capability:?}, type {type:?}, {} bytes", data.len())
        }
        None => "no custom message".to_owned(),
    }
}

/// Whether this is a reverse domain name, a short name and perhaps a version.
fn is_name(name: &str) -> bool {
    let (domain, version) = name.split_once('/').map_or((name, None), |(d, v)| (d, Some(v)));
    let label = |label: &str| {
        !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
    };
    domain.split('.').count() >= 3 && domain.split('.').all(label) && version != Some("")
}

fn every_message(observed: &Observed, judge: &mut Judge) {
    for conversation in &observed.conversations {
        look(conversation, judge);
    }
}

fn look(conversation: &Conversation, judge: &mut Judge) {
    // Whether an agent announced any, and where it was heard last.
    let mut agents: BTreeMap<Bytes, (bool, u32)> = BTreeMap::new();
    let mut announced = BTreeSet::new();
    let mut last: BTreeMap<(u32, Bytes), CustomCapabilities> = BTreeMap::new();
    for entry in &conversation.entries {
        if let Some(message) = entry.agent_to_server().filter(|_| entry.by == By::Tester) {
            let uid = message.instance_uid;
            let (announces, place) = agents.entry(uid.clone()).or_default();
            *announces |= message.custom_capabilities.is_some();
            let moves = std::mem::replace(place, entry.connection) != entry.connection;
            if moves || message.agent_disconnect.is_some() {
                last.retain(|(_, of), _| *of != uid);
            }
            continue;
        }
        let Some(message) = entry.server_to_agent().filter(|_| entry.by == By::Subject) else {
            continue;
        };
        if let Some(list) = message.custom_capabilities {
            let wrong: Vec<_> = list.capabilities.iter().filter(|name| !is_name(name)).collect();
            judge.quote(entry, !wrong.is_empty());
            let actual = format!("not of this form: {wrong:?}");
            let expected =
                "a reverse domain name, a dot, a short name, perhaps a slash and a version";
            judge.expect("CUST-05", wrong.is_empty(), expected, actual);
            announced.extend(list.capabilities.iter().cloned());
            // Over HTTP a response belongs to no connection, so the list may be repeated (A31).
            if matches!(entry.event, Event::Message { .. }) {
                let key = (entry.connection, message.instance_uid.clone());
                let same = last.insert(key, list.clone()).as_ref() == Some(&list);
                judge.quote(entry, same);
                let actual = if same { "the same list again" } else { "a new list" };
                judge.expect("CUST-02", !same, "custom_capabilities only on a change", actual);
            }
        }
        if let Some(custom) = &message.custom_message {
            let name = &custom.capability;
            let known = announced.contains(name);
            let wanted = agents.get(&message.instance_uid).is_none_or(|(announces, _)| *announces);
            judge.quote(entry, !known || !wanted);
            for row in ["CUST-09", "CUST-10"] {
                let expected = "a capability the server announced before";
                judge.expect(row, known, expected, format!("a custom message of {name:?}"));
            }
            let expected = "custom messages only for agents that announced capabilities";
            let actual =
                format!("one for an agent that announced {}", if wanted { "some" } else { "none" });
            judge.expect("CUST-04", wanted, expected, actual);
        }
    }
}

async fn announcement(stage: &mut ServerStage) -> Result<(), Stop> {
    let mut agent = stage.agent(mask::REPORTS_STATUS | mask::REPORTS_HEALTH);
    agent.connect().await?;
    let custom_capabilities = announcing(&[OURS]);
    let report = AgentToServer { custom_capabilities, ..agent.full_report() };
    let first = agent.exchange(report).await?;
    if let Some(list) = first.custom_capabilities {
        let actual = format!("{:?} in the first reply", list.capabilities);
        stage.judge.expect("CUST-01", true, "custom_capabilities in the first reply", actual);
        return Ok(());
    }
    let message = agent.message();
    let late = agent.provoke(message, |message| message.custom_capabilities.is_some()).await?;
    match late.and_then(|message| message.custom_capabilities) {
        Some(list) => {
            let actual = format!("{:?} in a later message", list.capabilities);
            stage.judge.expect("CUST-01", false, "custom_capabilities in the first reply", actual);
        }
        // One that never sends the list has none (CUST-04).
        None => {
            stage.judge.not_applicable("CUST-01", "the server announces no custom capabilities")
        }
    }
    Ok(())
}

async fn unknown(stage: &mut ServerStage) -> Result<(), Stop> {
    let (mut agent, reply) = stage.reported(mask::REPORTS_STATUS | mask::REPORTS_HEALTH).await?;
    let list = reply.custom_capabilities.unwrap_or_default().capabilities;
    let theirs = list.first().map(String::as_str);
    let names: Vec<_> = [OURS].into_iter().chain(theirs).collect();
    let message = AgentToServer { custom_capabilities: announcing(&names), ..agent.message() };
    agent.exchange(message).await?;
    for (row, capability) in [("CUST-06", Some(OURS)), ("CUST-07", theirs)] {
        let Some(capability) = capability else {
            stage.judge.not_applicable(row, "the server announces no custom capabilities");
            continue;
        };
        let custom_message = Some(CustomMessage {
            capability: capability.to_owned(),
            r#type: "conformance".to_owned(),
            data: Bytes::from_static(b"\xff\0conformance"),
        });
        let message = AgentToServer { custom_message, ..agent.message() };
        let heard = super::readable(agent.ask(message).await?)?;
        let expected = format!("a reply without an error to a message of {capability}");
        let good = super::is_good(&heard);
        stage.judge.expect(row, good, &expected, super::told(&heard));
    }
    Ok(())
}

async fn delivery(stage: &mut ServerStage) -> Result<(), Stop> {
    let (mut agent, list) = kindred(stage).await?;
    // Over a WebSocket a push may come before the reply to a message; so each is asked for by
    // turns.
    for (index, capability) in list.iter().take(4).enumerate() {
        let data = [b"\xff\0\xfe conformance ".as_slice(), &[index as u8]].concat();
        stage.hook(sending(&agent, capability, "conformance", &data)).await?;
        let Some(message) = agent.deliver(stage.pace.work(), is_custom).await? else {
            let what = "the hook sends a custom message, and none came".to_owned();
            return Err(Stop::Unreached(what));
        };
        let actual = told(Some(&message));
        let custom = message.custom_message.unwrap_or_default();
        let right = custom.capability == *capability && custom.r#type == "conformance";
        let expected = format!("a custom message of {capability:?}");
        if list.len() > 1 {
            stage.judge.expect("CUST-11", right, expected, actual.clone());
        } else {
            stage.judge.not_applicable("CUST-11", "the server announces one capability only");
        }
        stage.judge.expect("CUST-12", custom.data == data, "the data is unchanged", actual.clone());
        stage.judge.expect("CUST-13", true, "the server can send custom messages", actual);
    }
    Ok(())
}

async fn replaced(stage: &mut ServerStage) -> Result<(), Stop> {
    let (mut agent, list) = kindred(stage).await?;
    let capability = &list[0];
    stage.hook(sending(&agent, capability, "conformance", b"before")).await?;
    if agent.deliver(stage.pace.work(), is_custom).await?.is_none() {
        let what = "the hook sends a custom message, and none came".to_owned();
        return Err(Stop::Unreached(what));
    }
    let message = AgentToServer { custom_capabilities: announcing(&[OURS]), ..agent.message() };
    agent.exchange(message).await?;
    // Refusing is as good as not sending.
    let _ = stage.try_hook(sending(&agent, capability, "conformance", b"after")).await?;
    let message = agent.message();
    let after = agent.provoke(message, is_custom).await?;
    let expected = "no message of a capability that is no longer announced";
    stage.judge.expect("CUST-03", after.is_none(), expected, told(after.as_ref()));
    Ok(())
}

async fn never_announced(stage: &mut ServerStage) -> Result<(), Stop> {
    // That the hook does send messages is shown with an agent that announces the capability.
    let (mut kindred, list) = kindred(stage).await?;
    let capability = &list[0];
    stage.hook(sending(&kindred, capability, "conformance", b"to one that has it")).await?;
    if kindred.deliver(stage.pace.work(), is_custom).await?.is_none() {
        let what = "the hook sends a custom message, and none came".to_owned();
        return Err(Stop::Unreached(what));
    }
    let (mut agent, _) = stage.reported(mask::REPORTS_STATUS | mask::REPORTS_HEALTH).await?;
    let _ = stage.try_hook(sending(&agent, capability, "conformance", b"to one without")).await?;
    let message = agent.message();
    let sent = agent.provoke(message, is_custom).await?;
    let expected = "no custom message for an agent that announced no capability";
    stage.judge.expect("CUST-04", sent.is_none(), expected, told(sent.as_ref()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{OURS, is_name};

    #[test]
    fn names_are_reverse_domains_with_a_short_name() {
        for name in ["io.opentelemetry.pause", "org.example.a-b.c_d/v1.2", OURS] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "pause", "io.pause", "io..pause", "io.example.pause/", "io.example.a b"] {
            assert!(!is_name(name), "{name}");
        }
    }
}
