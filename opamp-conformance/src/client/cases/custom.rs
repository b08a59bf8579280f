//! Custom capabilities and custom messages.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use opamp_proto::v1::{AgentToServer, CustomCapabilities, CustomMessage, ServerToAgent};

use super::common::due;
use super::moves::{connections, provoke};
use crate::case::{Case, Conversation, Observed, Script};
use crate::client::reported::messages;
use crate::client::{ClientStage, Host, Running};
use crate::hook::{Action, HookError};
use crate::judge::{Judge, Stop};
use crate::report::Transport;

/// Two capabilities of the tester's making that the client announces too.
const FIRST: &str = "io.opamp.conformance.first";
const SECOND: &str = "io.opamp.conformance.second";
/// One the client does not announce.
const THIRD: &str = "io.opamp.conformance.third";

pub(super) const CASES: &[Case] = &[
    Case {
        name: "client/custom/names",
        judges: &["CUST-05"],
        transports: &[],
        does: "looks at every custom capability the client announces in the run",
        expects: "a reverse domain name, a short name, and a version after a slash if any",
        alone: false,
        broken_by: &["custom-capability-has-a-plain-name"],
        script: Script::Observer(custom_names),
    },
    Case {
        name: "client/custom/every-message",
        judges: &["CUST-09"],
        transports: &[],
        does: "looks at every custom message of the run",
        expects: "its capability is one of those the client has announced",
        alone: false,
        broken_by: &["custom-message-without-own-capability"],
        script: Script::Observer(every_message),
    },
    Case {
        name: "client/custom/announced",
        judges: &["CUST-01"],
        transports: Transport::BOTH,
        does: "has the client announce two capabilities by a hook",
        expects: "the next message has both",
        alone: false,
        broken_by: &["custom-capabilities-are-not-told"],
        script: Script::Client(|stage| Box::pin(announced(stage))),
    },
    Case {
        name: "client/custom/message",
        judges: &["CUST-12", "CUST-13"],
        transports: Transport::BOTH,
        does: "announces a capability both ends have, and has the client send a message by a hook",
        expects: "the message with its data unchanged",
        alone: false,
        broken_by: &["custom-data-is-read-as-text", "custom-messages-are-never-sent"],
        script: Script::Client(|stage| Box::pin(message(stage))),
    },
    Case {
        name: "client/custom/not-announced",
        judges: &["CUST-04", "CUST-09"],
        transports: Transport::BOTH,
        does: "has the client send messages by a hook: of a capability the tester does not announce, \
               then of one the client does not announce",
        expects: "no custom message",
        alone: false,
        broken_by: &[
            "custom-message-without-own-capability",
            "custom-message-without-the-servers-capability",
        ],
        script: Script::Client(|stage| Box::pin(not_announced(stage))),
    },
    Case {
        name: "client/custom/replaced",
        judges: &["CUST-03"],
        transports: Transport::BOTH,
        does: "announces one capability, then another, and has the client send a message of each",
        expects: "only that of the second",
        alone: false,
        broken_by: &[
            "custom-capabilities-add-up",
            "custom-messages-are-never-sent",
            "custom-message-without-the-servers-capability",
        ],
        script: Script::Client(|stage| Box::pin(replaced(stage))),
    },
    Case {
        name: "client/custom/unknown",
        judges: &["CUST-06", "CUST-07"],
        transports: Transport::BOTH,
        does: "sends messages of a capability and of a type the client cannot know",
        expects: "the session goes on",
        alone: false,
        broken_by: &["unknown-custom-message-ends-the-session", "never-polls"],
        script: Script::Client(|stage| Box::pin(unknown(stage))),
    },
];

fn custom_names(observed: &Observed, judge: &mut Judge) {
    let mut seen = BTreeSet::new();
    for conversation in &observed.conversations {
        for (entry, message) in messages(conversation) {
            let announced = message.custom_capabilities.unwrap_or_default();
            for name in announced.capabilities {
                let good = is_name(&name);
                judge.quote(entry, !good && !seen.contains(&name));
                judge.expect("CUST-05", good, "for example com.example.feature/1", name.clone());
                seen.insert(name);
            }
        }
    }
    if seen.is_empty() {
        judge.not_applicable("CUST-05", "the client announces no custom capability");
    }
}

/// A domain of two parts at least, a short name, and maybe a version.
fn is_name(name: &str) -> bool {
    let (name, version) = name.split_once('/').unwrap_or((name, "1"));
    let is_word = |word: &str| !word.is_empty() && !word.contains(char::is_whitespace);
    is_word(version) && name.split('.').count() >= 3 && name.split('.').all(is_word)
}

fn every_message(observed: &Observed, judge: &mut Judge) {
    let mut any = false;
    for conversation in &observed.conversations {
        any |= every_message_of(conversation, judge);
    }
    if !any {
        judge.not_applicable("CUST-09", "the client sent no custom message");
    }
}

fn every_message_of(conversation: &Conversation, judge: &mut Judge) -> bool {
    let mut own = Vec::new();
    let mut any = false;
    for (entry, message) in messages(conversation) {
        if let Some(announced) = message.custom_capabilities {
            own = announced.capabilities;
        }
        if let Some(custom) = message.custom_message {
            any = true;
            let good = own.contains(&custom.capability);
            judge.quote(entry, !good);
            let actual = format!("a message of {}", custom.capability);
            judge.expect("CUST-09", good, format!("one of {own:?}"), actual);
        }
    }
    any
}

fn announcement(host: &Host, name: &str) -> ServerToAgent {
    let announced = CustomCapabilities { capabilities: vec![name.to_owned()] };
    ServerToAgent { custom_capabilities: Some(announced), ..host.message() }
}

/// Has the client announce both capabilities of the tester.
async fn have_announced(
    stage: &ClientStage,
    host: &mut Host,
    client: &mut dyn Running,
) -> Result<Option<AgentToServer>, Stop> {
    let capabilities = vec![FIRST.to_owned(), SECOND.to_owned()];
    stage.hook(client, Action::SetCustomCapabilities { capabilities }).await?;
    let has = |message: &AgentToServer| {
        let announced = message.custom_capabilities.as_ref();
        announced.is_some_and(|announced| announced.capabilities.iter().any(|name| name == SECOND))
    };
    Ok(host.hear(due(stage), has).await)
}

/// As [`have_announced`], for cases that cannot go on without.
async fn set_up(stage: &ClientStage) -> Result<(Host, Box<dyn Running>), Stop> {
    let (mut host, mut client, _) = stage.meet().await?;
    host.answer().await;
    if have_announced(stage, &mut host, client.as_mut()).await?.is_none() {
        return Err(Stop::Unreached("the client does not announce what the hook said".to_owned()));
    }
    Ok((host, client))
}

/// Has the client send a message, and waits for it. A client that refuses to is as good as one that
/// does nothing.
async fn have_sent(
    stage: &ClientStage,
    host: &mut Host,
    client: &mut dyn Running,
    capability: &str,
    data: &[u8],
) -> Result<Option<CustomMessage>, Stop> {
    let action = Action::SendCustomMessage {
        instance_uid: None,
        capability: capability.to_owned(),
        r#type: "probe".to_owned(),
        data: BASE64_STANDARD.encode(data),
    };
    stage.log.remark(format!("hook {} for {capability}", action.name()));
    match client.call(&action).await {
        Err(HookError::Unsupported) => {
            return Err(Stop::Missing(format!("the hook `{}`", action.name())));
        }
        Err(HookError::Failed(why)) => {
            stage.log.remark(format!("the client refuses: {why}"));
            return Ok(None);
        }
        Ok(_) => {}
    }
    let is_it = |message: &AgentToServer| {
        message.custom_message.as_ref().is_some_and(|custom| custom.capability == capability)
    };
    let heard = host.hear(due(stage), is_it).await;
    Ok(heard.and_then(|message| message.custom_message))
}

async fn announced(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, mut client, _) = stage.meet().await?;
    host.answer().await;
    let heard = have_announced(stage, &mut host, client.as_mut()).await?;
    let list = heard.and_then(|message| message.custom_capabilities).unwrap_or_default();
    let has = |name: &str| list.capabilities.iter().any(|own| own == name);
    let actual = format!("{:?}", list.capabilities);
    stage.judge.expect("CUST-01", has(FIRST) && has(SECOND), format!("{FIRST}, {SECOND}"), actual);
    Ok(())
}

async fn message(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, mut client) = set_up(stage).await?;
    host.send(announcement(&host, FIRST)).await?;
    host.collect(stage.pace.of(0.3)).await;
    let data = [0, 0xff, 0xfe, b'\n', 0x80];
    let sent = have_sent(stage, &mut host, client.as_mut(), FIRST, &data).await?;
    let actual = match &sent {
        Some(_) => "it came",
        None => "no such message",
    };
    if stage.judge.expect("CUST-13", sent.is_some(), "the message", actual) {
        let got = sent.map(|custom| custom.data).unwrap_or_default();
        stage.judge.expect("CUST-12", got[..] == data, format!("{data:02x?}"), format!("{got:?}"));
    }
    Ok(())
}

async fn not_announced(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, mut client) = set_up(stage).await?;
    let uid = host.uid().clone();
    for (row, capability) in [("CUST-04", FIRST), ("CUST-09", THIRD)] {
        if capability == THIRD {
            host.send(announcement(&host, THIRD)).await?;
            provoke(stage, &mut host, &uid).await?;
        }
        let sent = have_sent(stage, &mut host, client.as_mut(), capability, b"data").await?;
        let actual = if sent.is_some() { "a custom message" } else { "none" };
        stage.judge.expect(row, sent.is_none(), "no custom message", actual);
    }
    Ok(())
}

async fn replaced(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, mut client) = set_up(stage).await?;
    let uid = host.uid().clone();
    for name in [FIRST, SECOND] {
        host.send(announcement(&host, name)).await?;
        // Whatever comes next, the announcement has arrived before.
        provoke(stage, &mut host, &uid).await?;
    }
    let of_first = have_sent(stage, &mut host, client.as_mut(), FIRST, b"data").await?;
    let of_second = have_sent(stage, &mut host, client.as_mut(), SECOND, b"data").await?;
    let told = |sent: &Option<_>| if sent.is_some() { "one" } else { "none" };
    let actual = format!("{} of the first, {} of the second", told(&of_first), told(&of_second));
    let good = of_first.is_none() && of_second.is_some();
    stage.judge.expect("CUST-03", good, "none of the first, one of the second", actual);
    Ok(())
}

async fn unknown(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, mut client, first) = stage.meet().await?;
    let own = first.custom_capabilities.unwrap_or_default().capabilities;
    let known = own.first().cloned().unwrap_or_else(|| SECOND.to_owned());
    for (row, capability) in [("CUST-06", FIRST), ("CUST-07", known.as_str())] {
        let custom = CustomMessage {
            capability: capability.to_owned(),
            r#type: "io.opamp.conformance.unknown".to_owned(),
            data: vec![0xff; 16].into(),
        };
        let before = connections(stage);
        let message = ServerToAgent { custom_message: Some(custom), ..host.message() };
        host.send(message).await?;
        let ws = stage.transport == Transport::WebSocket;
        let alive = (ws || host.hear(due(stage), |_| true).await.is_some())
            && provoke(stage, &mut host, &first.instance_uid).await.is_ok();
        let stayed = !ws || connections(stage) == before;
        let actual = match (alive, stayed, client.ended()) {
            (_, _, Some(how)) => format!("the program {how}"),
            (false, ..) => "no further message".to_owned(),
            (_, false, _) => "the client left".to_owned(),
            _ => "the session goes on".to_owned(),
        };
        if !stage.judge.expect(row, alive && stayed, "the session goes on", actual) {
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_capabilities() {
        for good in ["com.example.feature", "org.example.team.feature/v2", FIRST] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "feature", "example.feature", "com..feature", "com.example.a b", "a.b.c/"] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
