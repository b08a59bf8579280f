//! Remote configuration: offering it to agents that take it, and only then.

use std::collections::BTreeSet;

use bytes::Bytes;
use opamp_proto::v1::{
    AgentConfigFile, AgentConfigMap, AgentToServer, EffectiveConfig, RemoteConfigStatuses,
    ServerToAgent,
};

use crate::case::{Case, Observed, Script};
use crate::hook::Action;
use crate::judge::{Judge, Stop};
use crate::mask::{agent as mask, server};
use crate::report::{By, Transport};
use crate::server::offer::{CONFIGURABLE, files, one_file};
use crate::server::{Agent, ServerStage};
use crate::wire::hex;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "server/config/pushed",
        judges: &["CFG-01", "CFG-09", "STATUS-09"],
        transports: &[Transport::WebSocket],
        does: "has the hook assign a configuration to an agent that is connected and silent",
        expects: "the offer comes in remote_config without a message of the agent before it",
        alone: false,
        broken_by: &["configurations-wait-for-a-report"],
        script: Script::Server(|stage| Box::pin(pushed(stage))),
    },
    Case {
        name: "server/config/hash-is-set",
        judges: &["CFG-25"],
        transports: &[],
        does: "looks at every remote_config of the run",
        expects: "each has a config_hash",
        alone: false,
        broken_by: &["configurations-have-no-hash"],
        script: Script::Observer(hash_is_set),
    },
    Case {
        name: "server/config/not-accepted",
        judges: &["CFG-03"],
        transports: Transport::BOTH,
        does: "reports as an agent without AcceptsRemoteConfig; has the hook assign it a \
               configuration",
        expects: "no remote_config, neither at first nor for the one that is assigned",
        alone: false,
        broken_by: &["configurations-are-offered-to-all"],
        script: Script::Server(|stage| Box::pin(not_accepted(stage))),
    },
    Case {
        name: "server/config/same-hash",
        judges: &["CFG-18", "CFG-24"],
        transports: Transport::BOTH,
        does: "reports the hash of the offer as APPLIED, comes back with it, reports it as FAILED",
        expects: "the configuration is not offered again",
        alone: false,
        broken_by: &[
            "known-configurations-are-offered-again",
            "omitted-parts-are-deleted",
            "omitted-status-is-forgotten",
        ],
        script: Script::Server(|stage| Box::pin(same_hash(stage))),
    },
    Case {
        name: "server/config/other-hash",
        judges: &["CFG-18", "CFG-19"],
        transports: Transport::BOTH,
        does: "comes back after an offer with another hash than the server's",
        expects: "the configuration is offered in the reply",
        alone: false,
        broken_by: &["reported-hashes-are-not-compared"],
        script: Script::Server(|stage| Box::pin(other_hash(stage))),
    },
    Case {
        name: "server/config/no-effective-config",
        judges: &["CFG-06"],
        transports: Transport::BOTH,
        does: "takes part as an agent that accepts configurations and never reports an effective one",
        expects: "good replies, and no lasting demand for a full report",
        alone: false,
        broken_by: &["effective-config-is-insisted-on", "full-reports-are-asked-for-always"],
        script: Script::Server(|stage| Box::pin(no_effective_config(stage))),
    },
    Case {
        name: "server/config/any-effective-config",
        judges: &["CFG-13", "CFG-15", "CFG-16", "CFG-17"],
        transports: Transport::BOTH,
        does: "reports effective configurations of one file without a name: bytes that are no text, \
               then text with a content type",
        expects: "both reports are accepted",
        alone: false,
        broken_by: &["configurations-have-to-be-text", "files-need-a-type"],
        script: Script::Server(|stage| Box::pin(any_effective_config(stage))),
    },
    Case {
        name: "server/config/files-arrive-unchanged",
        judges: &["CFG-13", "CFG-14", "CFG-15", "CFG-16", "CFG-17"],
        transports: Transport::BOTH,
        does: "has the hook assign one file without a name: bytes that are no text, without a \
               content type, then text with one",
        expects: "offers with exactly that one file, unchanged",
        alone: false,
        broken_by: &[
            "configurations-have-a-second-file",
            "content-types-are-dropped",
            "files-are-given-names",
            "offered-files-become-text",
        ],
        script: Script::Server(|stage| Box::pin(files_arrive_unchanged(stage))),
    },
    Case {
        name: "server/config/hashes-differ",
        judges: &["CFG-26"],
        transports: &[Transport::WebSocket],
        does: "has the hook assign configurations that differ in little: where a name ends, which \
               body belongs to which name, a content type",
        expects: "each offer has a hash of its own",
        alone: false,
        broken_by: &["config-hash-ignores-names"],
        script: Script::Server(|stage| Box::pin(hashes_differ(stage))),
    },
    Case {
        name: "server/config/newest-after-absence",
        judges: &["RETRY-09"],
        transports: Transport::BOTH,
        does: "has the hook change the configuration five times while the agent is away",
        expects: "on its return the agent is offered the last one and none of the others",
        alone: false,
        broken_by: &["missed-configurations-are-caught-up"],
        script: Script::Server(|stage| Box::pin(newest_after_absence(stage))),
    },
];

const YAML: &str = "text/yaml";

fn offers(message: &ServerToAgent) -> bool {
    message.remote_config.is_some()
}

fn hash_of(message: &ServerToAgent) -> Bytes {
    message.remote_config.as_ref().map(|config| config.config_hash.clone()).unwrap_or_default()
}

/// What was offered, in words.
fn told(message: Option<&ServerToAgent>) -> String {
    match message.and_then(|message| message.remote_config.as_ref()) {
        Some(config) => format!("remote_config with hash {}", hex(&config.config_hash)),
        None => "no remote_config".to_owned(),
    }
}

/// An agent that has been offered a configuration, of the server's own accord or by the hook, and
/// has applied it; and its hash.
async fn applied(stage: &mut ServerStage) -> Result<(Agent, Bytes), Stop> {
    let (mut agent, reply) = stage.configurable().await?;
    if offers(&reply) {
        return Ok((agent, hash_of(&reply)));
    }
    let config = stage.offer(&mut agent, one_file("conformance: 1\n")).await?;
    if config.config_hash.is_empty() {
        return Err(no_hash());
    }
    let report = agent.config_status(&config.config_hash, RemoteConfigStatuses::Applied);
    agent.exchange(report).await?;
    Ok((agent, config.config_hash))
}

/// Without a hash there is nothing to compare.
fn no_hash() -> Stop {
    Stop::Unreached("the offer has no config_hash".to_owned())
}

/// Ends the connection, opens a new one, and gives the full report to send over it.
async fn come_back(agent: &mut Agent) -> Result<AgentToServer, Stop> {
    agent.vanish();
    agent.connect().await?;
    Ok(agent.full_report())
}

async fn pushed(stage: &mut ServerStage) -> Result<(), Stop> {
    let (mut agent, _) = stage.configurable().await?;
    let instance_uid = agent.uid_text();
    let files = one_file("conformance: pushed\n");
    stage.hook(Action::OfferConfig { instance_uid, files }).await?;
    let push = agent.hear(stage.pace.reply(), offers).await?;
    for row in ["CFG-09", "STATUS-09"] {
        let expected = "an offer without a message of the agent before it";
        stage.judge.expect(row, push.is_some(), expected, told(push.as_ref()));
    }
    let offer = match push {
        Some(push) => Some(push),
        None => agent.deliver(stage.pace.work(), offers).await?,
    };
    let expected = "the offer comes in remote_config";
    stage.judge.expect("CFG-01", offer.is_some(), expected, told(offer.as_ref()));
    Ok(())
}

fn hash_is_set(observed: &Observed, judge: &mut Judge) {
    for entry in observed.entries().filter(|entry| entry.by == By::Subject) {
        let Some(config) = entry.server_to_agent().and_then(|message| message.remote_config) else {
            continue;
        };
        let hash = &config.config_hash;
        judge.quote(entry, hash.is_empty());
        let actual = format!("config_hash is {:?}", hex(hash));
        judge.expect("CFG-25", !hash.is_empty(), "config_hash is not empty", actual);
    }
}

async fn not_accepted(stage: &mut ServerStage) -> Result<(), Stop> {
    let capabilities = mask::REPORTS_STATUS | mask::REPORTS_EFFECTIVE_CONFIG;
    let mut agent = stage.agent(capabilities);
    agent.connect().await?;
    let report = agent.full_report();
    let offer = agent.provoke(report, offers).await?;
    let expected = "no remote_config for an agent without AcceptsRemoteConfig";
    stage.judge.expect("CFG-03", offer.is_none(), expected, told(offer.as_ref()));
    // That the hook does offer configurations is shown with an agent that takes them; only then
    // does silence tell something.
    let Ok((mut other, _)) = stage.configurable().await else { return Ok(()) };
    if stage.offer(&mut other, one_file("conformance: taken\n")).await.is_err() {
        return Ok(());
    }
    let instance_uid = agent.uid_text();
    let files = one_file("conformance: not taken\n");
    // Refusing is as good as not offering.
    let _ = stage.try_hook(Action::OfferConfig { instance_uid, files }).await?;
    let message = agent.message();
    let offer = agent.provoke(message, offers).await?;
    stage.judge.expect("CFG-03", offer.is_none(), expected, told(offer.as_ref()));
    Ok(())
}

async fn same_hash(stage: &mut ServerStage) -> Result<(), Stop> {
    let (mut agent, hash) = applied(stage).await?;
    // The status counts until it is replaced (A32), so messages without one change nothing.
    let mut offered = agent.hear(stage.pace.quiet(), |m| hash_of(m) == hash).await?;
    let report = come_back(&mut agent).await?;
    offered = offered.or(agent.provoke(report, |m| hash_of(m) == hash).await?);
    let message = agent.message();
    offered = offered.or(agent.provoke(message, |m| hash_of(m) == hash).await?);
    let report = agent.config_status(&hash, RemoteConfigStatuses::Failed);
    offered = offered.or(agent.provoke(report, |m| hash_of(m) == hash).await?);
    for row in ["CFG-18", "CFG-24"] {
        let expected = "no offer of the configuration whose hash the agent reports";
        stage.judge.expect(row, offered.is_none(), expected, told(offered.as_ref()));
    }
    Ok(())
}

async fn other_hash(stage: &mut ServerStage) -> Result<(), Stop> {
    let (mut agent, _) = applied(stage).await?;
    agent.config_hash = Bytes::from_static(b"of another configuration");
    let report = come_back(&mut agent).await?;
    let offer = agent.provoke(report, offers).await?;
    for row in ["CFG-18", "CFG-19"] {
        let expected = "remote_config when the agent reports another hash";
        stage.judge.expect(row, offer.is_some(), expected, told(offer.as_ref()));
    }
    Ok(())
}

async fn no_effective_config(stage: &mut ServerStage) -> Result<(), Stop> {
    let capabilities =
        mask::REPORTS_STATUS | mask::ACCEPTS_REMOTE_CONFIG | mask::REPORTS_REMOTE_CONFIG;
    let mut agent = stage.agent(capabilities);
    agent.connect().await?;
    let report = agent.full_report();
    let mut reply = agent.exchange(report).await?;
    // A server may ask for a full report at any time, but not for ever.
    for _ in 0..3 {
        let message =
            if super::asks_for_all(&reply) { agent.full_report() } else { agent.message() };
        reply = agent.exchange(message).await?;
    }
    let fine = reply.error_response.is_none() && !super::asks_for_all(&reply);
    let expected = "no error and no ReportFullState, though no effective_config ever comes";
    stage.judge.expect("CFG-06", fine, expected, super::parts(&reply));
    Ok(())
}

async fn any_effective_config(stage: &mut ServerStage) -> Result<(), Stop> {
    let (mut agent, first) = stage.reported(CONFIGURABLE).await?;
    stage.requires(&first, server::ACCEPTS_EFFECTIVE_CONFIG)?;
    let all: &[&str] = &["CFG-13", "CFG-15", "CFG-16", "CFG-17"];
    let reports: [(&[u8], &str, &[&str]); 2] =
        [(b"\xff\x00\xfe", "", all), (b"a: 1\n", "text/yaml", &["CFG-13", "CFG-15", "CFG-17"])];
    for (body, content_type, rows) in reports {
        let file = AgentConfigFile {
            body: Bytes::from_static(body),
            content_type: content_type.to_owned(),
        };
        let config_map = [(String::new(), file)].into();
        let config_map = Some(AgentConfigMap { config_map });
        let effective_config = Some(EffectiveConfig { config_map });
        let report = AgentToServer { effective_config, ..agent.message() };
        let heard = super::readable(agent.ask(report).await?)?;
        let fine = super::is_good(&heard);
        for row in rows {
            let expected =
                format!("a reply without an error to {body:x?} of type {content_type:?}");
            stage.judge.expect(row, fine, expected, super::told(&heard));
        }
    }
    Ok(())
}

async fn files_arrive_unchanged(stage: &mut ServerStage) -> Result<(), Stop> {
    let (mut agent, _) = stage.configurable().await?;
    let files_of_one: [(&[u8], &str); 2] =
        [(b"\xff\x00conformance\xfe", ""), (b"conformance: text\n", "text/yaml")];
    for (body, content_type) in files_of_one {
        let config = stage.offer(&mut agent, files(&[("", body, content_type)])).await?;
        let report = agent.config_status(&config.config_hash, RemoteConfigStatuses::Applied);
        agent.exchange(report).await?;
        let map = config.config.unwrap_or_default().config_map;
        let names: Vec<_> = map.keys().collect();
        let actual = format!("the names of the files are {names:?}");
        stage.judge.expect("CFG-14", map.len() == 1, "a map of one entry", actual.clone());
        let file = map.get("");
        for row in ["CFG-13", "CFG-15"] {
            stage.judge.expect(row, file.is_some(), "a file without a name", actual.clone());
        }
        let Some(file) = file.or(map.values().next()) else { continue };
        let actual = format!("a body of {:?}", hex(&file.body));
        stage.judge.expect("CFG-16", file.body == body, "the body is unchanged", actual);
        // What a server makes of no content type is its own affair.
        let same = content_type.is_empty() || file.content_type == content_type;
        let expected = format!("content_type {content_type:?}");
        stage.judge.expect("CFG-17", same, expected, format!("{:?}", file.content_type));
    }
    Ok(())
}

async fn hashes_differ(stage: &mut ServerStage) -> Result<(), Stop> {
    // To an agent that reports no hash the configuration is offered once per session (A32),
    // whatever its hash, so that two of the same hash can be seen.
    let (mut agent, reply) = stage.reported(CONFIGURABLE & !mask::REPORTS_REMOTE_CONFIG).await?;
    stage.requires(&reply, server::OFFERS_REMOTE_CONFIG)?;
    let configs: [&[(&str, &str, &str)]; 6] = [
        &[("ab", "cd", YAML)],
        &[("abc", "d", YAML)],
        &[("a", "bcd", YAML)],
        &[("ab", "cd", "text/plain")],
        &[("ab", "cd", YAML), ("ef", "gh", YAML)],
        &[("ab", "gh", YAML), ("ef", "cd", YAML)],
    ];
    let mut hashes = BTreeSet::new();
    for config in configs {
        let assigned: Vec<_> =
            config.iter().map(|(n, body, t)| (*n, body.as_bytes(), *t)).collect();
        let instance_uid = agent.uid_text();
        stage.hook(Action::OfferConfig { instance_uid, files: files(&assigned) }).await?;
        let report = come_back(&mut agent).await?;
        let is_it = |message: &ServerToAgent| {
            let map = message.remote_config.as_ref().and_then(|config| config.config.as_ref());
            let Some(map) = map.map(|map| &map.config_map) else { return false };
            map.len() == assigned.len()
                && assigned
                    .iter()
                    .all(|(name, body, _)| map.get(*name).is_some_and(|file| file.body == *body))
        };
        let Some(offer) = agent.provoke(report, is_it).await? else {
            return Err(Stop::Unreached(format!("no offer of {config:?} in a new session")));
        };
        let hash = hash_of(&offer);
        if hash.is_empty() {
            return Err(no_hash());
        }
        let actual = format!("the hash of {config:?} is {}", hex(&hash));
        stage.judge.expect("CFG-26", hashes.insert(hash), "another hash than those before", actual);
    }
    Ok(())
}

async fn newest_after_absence(stage: &mut ServerStage) -> Result<(), Stop> {
    let (mut agent, _) = applied(stage).await?;
    agent.vanish();
    let bodies = ["one", "two", "three", "four", "five"].map(|n| format!("conformance: {n}\n"));
    for body in &bodies {
        let instance_uid = agent.uid_text();
        let files = one_file(body);
        if stage.try_hook(Action::OfferConfig { instance_uid, files }).await?.is_err() {
            let what = "a hook `offer_config` that takes an agent that is away";
            return Err(Stop::Missing(what.to_owned()));
        }
    }
    agent.connect().await?;
    let report = agent.full_report();
    let mut seen = Vec::new();
    let body_of = |message: &ServerToAgent| {
        let config = message.remote_config.as_ref()?.config.as_ref()?;
        Some(config.config_map.values().next()?.body.clone())
    };
    agent
        .provoke(report, |message| {
            seen.extend(body_of(message));
            seen.len() >= bodies.len()
        })
        .await?;
    if seen.is_empty() {
        return Err(Stop::Unreached("no configuration is offered on the return".to_owned()));
    }
    let newest = seen.iter().all(|body| body == bodies[4].as_bytes());
    let actual = format!("offered are {seen:?}");
    stage.judge.expect("RETRY-09", newest, format!("only {:?}", bodies[4]), actual);
    Ok(())
}
