//! Instance uids: their form, how long they last, and how a server gives another one.

use bytes::Bytes;
use http::HeaderName;
use opamp_proto::v1::{AgentIdentification, AgentToServer, ServerToAgent};

use super::common::{ask, due};
use super::moves::{ask_full, break_off, provoke};
use crate::case::{Case, Observed, Script};
use crate::client::reported::messages;
use crate::client::{ClientStage, Host, Running, Start};
use crate::hook::Action;
use crate::judge::{Judge, Stop};
use crate::log::Event;
use crate::mask::flag::REQUEST_INSTANCE_UID;
use crate::report::{By, Transport};
use crate::wire::http_client::field;
use crate::wire::uid;

const UID_HEADER: HeaderName = HeaderName::from_static("opamp-instance-uid");

pub(super) const CASES: &[Case] = &[
    Case {
        name: "client/instance-uid/form",
        judges: &["ID-01", "ID-05", "ID-06"],
        transports: &[],
        does: "looks at the id in every message of the run",
        expects: "16 bytes that are a UUID of version 7, unless the tester gave another id",
        alone: false,
        broken_by: &[
            "heartbeats-lack-the-uid",
            "new-uid-of-any-length-is-taken",
            "uid-is-random",
            "uid-is-requested-without-temporary-one",
            "uid-is-text",
        ],
        script: Script::Observer(form),
    },
    Case {
        name: "client/instance-uid/own",
        judges: &["ID-02", "ID-03"],
        transports: Transport::BOTH,
        does: "starts the client three times at once, each with nothing left of an earlier run",
        expects: "each has an id of its own making from the start, and all differ",
        alone: false,
        broken_by: &["uid-is-requested-at-first", "uid-is-the-same-everywhere"],
        script: Script::Client(|stage| Box::pin(own(stage))),
    },
    Case {
        name: "client/instance-uid/reconnect",
        judges: &["ID-04"],
        transports: Transport::BOTH,
        does: "cuts the connection twice",
        expects: "the id stays the same",
        alone: false,
        broken_by: &["uid-changes-with-the-connection"],
        script: Script::Client(|stage| Box::pin(reconnect(stage))),
    },
    Case {
        name: "client/instance-uid/new",
        judges: &["ID-12", "ID-13"],
        transports: Transport::BOTH,
        does: "gives the client a new id, later cuts the connection",
        expects: "the new id in the next message and in all that follow, also after reconnecting",
        alone: false,
        broken_by: &[
            "new-uid-is-ignored",
            "new-uid-is-lost-with-the-connection",
            "uid-changes-with-the-connection",
        ],
        script: Script::Client(|stage| Box::pin(new(stage))),
    },
    Case {
        name: "client/instance-uid/wrong-length",
        judges: &["ID-16"],
        transports: Transport::BOTH,
        does: "gives the client a new id of 5 bytes",
        expects: "the client keeps the id it has",
        alone: false,
        broken_by: &["new-uid-of-any-length-is-taken"],
        script: Script::Client(|stage| Box::pin(wrong_length(stage))),
    },
    Case {
        name: "client/instance-uid/request",
        judges: &["ID-07", "ID-08"],
        transports: Transport::BOTH,
        does: "has the client ask for an id by a hook, and gives one",
        expects: "the flag that asks for it, beside a temporary id of 16 bytes",
        alone: false,
        broken_by: &[
            "uid-is-requested-without-flag",
            "uid-is-requested-without-temporary-one",
            "uid-is-text",
        ],
        script: Script::Client(|stage| Box::pin(request(stage))),
    },
];

fn form(observed: &Observed, judge: &mut Judge) {
    for conversation in &observed.conversations {
        // What the tester gave may be of any version.
        let given: Vec<Bytes> = conversation
            .entries
            .iter()
            .filter(|entry| entry.by == By::Tester)
            .filter_map(|entry| entry.server_to_agent()?.agent_identification)
            .map(|identification| identification.new_instance_uid)
            .collect();
        for (entry, message) in messages(conversation) {
            let id = &message.instance_uid;
            let plausible = uid::is_v7_plausible(id, uid::now_ms());
            let good = plausible.is_ok() || given.contains(id) && id.len() == 16;
            judge.quote(entry, !good);
            let actual = format!("{} ({} bytes)", uid::text(id), id.len());
            judge.expect("ID-01", !id.is_empty(), "an id in every message", actual.clone());
            judge.expect("ID-05", id.len() == 16, "16 bytes", actual.clone());
            if id.len() == 16 {
                let actual = plausible.err().unwrap_or(actual);
                judge.expect("ID-06", good, "a UUID of version 7", actual);
            }
        }
    }
}

async fn own(stage: &mut ClientStage) -> Result<(), Stop> {
    let mut hosts = Vec::new();
    let mut clients = Vec::new();
    for _ in 0..3 {
        let host = stage.host().await?;
        let (start, state) = fresh_start(stage, &host)?;
        clients.push((stage.start(start).await?, state));
        hosts.push(host);
    }
    let mut ids: Vec<Bytes> = Vec::new();
    for host in &mut hosts {
        let first = host.first(stage.pace.start()).await?;
        let asks = first.flags & REQUEST_INSTANCE_UID != 0;
        let actual = match (first.instance_uid.is_empty(), asks) {
            (true, _) => "the first message has no id",
            (_, true) => "the client asks the server for an id",
            _ => "an id of the client's own",
        };
        let good = !first.instance_uid.is_empty() && !asks;
        stage.judge.expect("ID-02", good, "an id of the client's own making", actual);
        ids.push(first.instance_uid);
    }
    let texts = ids.iter().map(|id| uid::text(id)).collect::<Vec<_>>().join(", ");
    ids.sort();
    ids.dedup();
    if ids.len() == hosts.len() || stage.subject.takes("state") {
        let differ = ids.len() == hosts.len();
        stage.judge.expect("ID-03", differ, "three different ids", texts);
    } else {
        let why = "the ids are the same, but the client cannot be told where to keep its state";
        stage.judge.untestable("ID-03", why);
    }
    Ok(())
}

/// What a client is told so that it finds nothing of an earlier run; the directory goes away with
/// what is given back.
pub(super) fn fresh_start(
    stage: &ClientStage,
    host: &Host,
) -> Result<(Start, Option<tempfile::TempDir>), Stop> {
    let mut start = stage.start_for(host);
    let mut state = None;
    if stage.subject.takes("state") {
        let dir = tempfile::tempdir()
            .map_err(|error| Stop::Harness(format!("no directory for the state: {error}")))?;
        start.state = Some(dir.path().to_owned());
        state = Some(dir);
    }
    Ok((start, state))
}

async fn reconnect(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, first) = stage.meet().await?;
    for _ in 0..2 {
        ask(stage, &mut host).await?;
        break_off(&mut host, stage.transport).await;
        let next = host.first(stage.pace.comeback() + stage.heartbeat()).await?;
        let same = next.instance_uid == first.instance_uid;
        let actual = uid::text(&next.instance_uid);
        stage.judge.expect("ID-04", same, uid::text(&first.instance_uid), actual);
    }
    Ok(())
}

async fn new(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, first) = stage.meet().await?;
    let given = uid::fresh(&mut stage.rng, uid::now_ms());
    host.send(identify(&host, &given)).await?;
    let mut next = provoke(stage, &mut host, &given).await?;
    // One that was on its way already may have the old id still.
    if next.instance_uid == first.instance_uid {
        next = provoke(stage, &mut host, &given).await?;
    }
    let adopted = next.instance_uid == given;
    let actual = uid::text(&next.instance_uid);
    stage.judge.expect("ID-12", adopted, uid::text(&given), actual.clone());
    if !adopted {
        stage.judge.expect("ID-13", false, uid::text(&given), actual);
        return Ok(());
    }
    let mut later = vec![ask(stage, &mut host).await?];
    break_off(&mut host, stage.transport).await;
    let requests = stage.log.len();
    later.push(host.first(stage.pace.comeback() + stage.heartbeat()).await?);
    later.push(ask(stage, &mut host).await?);
    let other = later.iter().find(|message| message.instance_uid != given);
    let actual = other.map_or_else(
        || "the new id in each message".to_owned(),
        |message| format!("{} in a later message", uid::text(&message.instance_uid)),
    );
    stage.judge.expect("ID-13", other.is_none(), uid::text(&given), actual);
    for entry in stage.log.entries().iter().skip(requests) {
        if let (By::Subject, Event::Request { headers, .. }) = (entry.by, &entry.event) {
            let said = field(headers, UID_HEADER);
            let good = said.is_empty() || uid::parse(&said).as_ref() == Some(&given);
            let actual = format!("the header field OpAMP-Instance-UID has {said:?}");
            stage.judge.expect("ID-13", good, uid::text(&given), actual);
        }
    }
    Ok(())
}

fn identify(host: &Host, given: &Bytes) -> ServerToAgent {
    let identification = AgentIdentification { new_instance_uid: given.clone() };
    ServerToAgent { agent_identification: Some(identification), ..host.message() }
}

async fn wrong_length(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, first) = stage.meet().await?;
    host.send(identify(&host, &Bytes::from_static(b"short"))).await?;
    let next = provoke(stage, &mut host, &first.instance_uid).await?;
    let judge_by = |message: &AgentToServer| message.instance_uid == first.instance_uid;
    let mut kept = judge_by(&next);
    let mut actual = uid::text(&next.instance_uid);
    if kept && let Some(full) = ask_full(stage, &mut host).await? {
        kept = judge_by(&full);
        actual = uid::text(&full.instance_uid);
    }
    stage.judge.expect("ID-16", kept, uid::text(&first.instance_uid), actual);
    Ok(())
}

async fn request(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, mut client, _) = stage.meet().await?;
    host.answer().await;
    let client: &mut dyn Running = client.as_mut();
    stage.hook(client, Action::RequestInstanceUid).await?;
    let asks = |message: &AgentToServer| message.flags & REQUEST_INSTANCE_UID != 0;
    let asking = host.hear(due(stage), asks).await;
    let actual = if asking.is_some() { "it is set" } else { "no message has it" };
    stage.judge.expect("ID-08", asking.is_some(), "the flag RequestInstanceUid", actual);
    if let Some(message) = asking {
        let length = message.instance_uid.len();
        let actual = format!("{length} bytes");
        stage.judge.expect("ID-07", length == 16, "a temporary id of 16 bytes", actual);
    }
    Ok(())
}
