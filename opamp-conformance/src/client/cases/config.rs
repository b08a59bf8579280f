//! Remote configuration: offers and what becomes of them.
//!
//! What an agent makes of a configuration is its own business. So the cases offer something that
//! most agents can read and judge how the client tells what became of it, not that it is taken.

use std::collections::BTreeMap;

use bytes::Bytes;
use opamp_proto::v1::{
    AgentConfigFile, AgentConfigMap, AgentRemoteConfig, AgentToServer, EffectiveConfig,
    RemoteConfigStatus, RemoteConfigStatuses, ServerToAgent,
};
use rand::Rng as _;

use super::common::{due, request};
use super::moves::without;
use crate::case::{Case, Script};
use crate::client::reported::{Part, Reported};
use crate::client::{ClientStage, Host};
use crate::hook::Action;
use crate::judge::Stop;
use crate::mask::agent::{ACCEPTS_REMOTE_CONFIG, REPORTS_EFFECTIVE_CONFIG, REPORTS_REMOTE_CONFIG};
use crate::report::Transport;
use crate::wire::hex;

const fn case(
    name: &'static str,
    judges: &'static [&'static str],
    words: (&'static str, &'static str),
    broken_by: &'static [&'static str],
    script: crate::case::ClientScript,
) -> Case {
    Case {
        name,
        judges,
        transports: Transport::BOTH,
        does: words.0,
        expects: words.1,
        alone: false,
        broken_by,
        script: Script::Client(script),
    }
}

pub(super) const CASES: &[Case] = &[
    case(
        "client/config/status",
        &["CFG-20", "CFG-21", "CFG-22", "CFG-23", "STATUS-11"],
        ("offers a configuration", "a status with its hash that ends as APPLIED or FAILED"),
        &[
            "config-hash-is-not-echoed",
            "config-is-not-answered",
            "config-stays-applying",
            "config-success-has-an-error",
        ],
        |stage| Box::pin(status(stage)),
    ),
    case(
        "client/config/broken",
        &["CFG-21", "CFG-22"],
        (
            "offers what is neither YAML nor JSON, then a configuration",
            "a final status for each, with an error only where it is FAILED",
        ),
        &[
            "config-error-outlives-it",
            "config-is-not-answered",
            "config-stays-applying",
            "config-success-has-an-error",
            "second-config-is-dropped",
        ],
        |stage| Box::pin(broken(stage)),
    ),
    case(
        "client/config/repeated",
        &["CFG-08", "STATUS-14"],
        ("offers the same configuration again", "no new report"),
        &["config-hash-is-not-echoed", "same-config-is-reported-again"],
        |stage| Box::pin(repeated(stage)),
    ),
    case(
        "client/config/second-offer",
        &["STATUS-13"],
        ("offers a second configuration right after the first", "the status of the second"),
        &[
            "config-hash-is-not-echoed",
            "config-is-not-answered",
            "config-stays-applying",
            "second-config-is-dropped",
            "second-of-two-messages-is-dropped",
        ],
        |stage| Box::pin(second_offer(stage)),
    ),
    case(
        "client/config/effective",
        &["CFG-07", "STATUS-16", "CFG-12"],
        (
            "offers a configuration, and later asks for a full report",
            "nothing in it that changed without being reported at once",
        ),
        &["effective-config-change-is-not-told"],
        |stage| Box::pin(effective(stage)),
    ),
    case(
        "client/config/local",
        &["CFG-04"],
        ("changes the configuration by a hook", "the new content as the effective configuration"),
        &["change-is-not-told", "effective-config-is-that-of-the-start"],
        |stage| Box::pin(local(stage)),
    ),
    case(
        "client/config/nameless",
        &["CFG-13", "CFG-14", "CFG-15"],
        ("offers one file without a name", "that it is taken as any other"),
        &["nameless-config-is-refused"],
        |stage| Box::pin(nameless(stage)),
    ),
    case(
        "client/config/content-type",
        &["CFG-17"],
        (
            "offers a configuration with a content type, then one like it without",
            "the same outcome",
        ),
        &["config-needs-a-content-type"],
        |stage| Box::pin(content_type(stage)),
    ),
    case(
        "client/config/bytes",
        &["CFG-16"],
        (
            "offers a file that is not UTF-8",
            "a final status, and where it is applied the same bytes in what is effective",
        ),
        &["config-is-made-text", "config-is-not-answered", "config-stays-applying"],
        |stage| Box::pin(bytes(stage)),
    ),
    case(
        "client/config/not-accepted",
        &["CAP-05", "CFG-02", "CFG-10"],
        (
            "offers a configuration to a client without AcceptsRemoteConfig, and asks for a full \
             report in the same message",
            "the report, and no trace of the offer",
        ),
        &[
            "config-is-taken-without-capability",
            "full-state-flag-is-ignored",
            "only-one-field-is-processed",
            "capabilities-come-late",
        ],
        |stage| Box::pin(not_accepted(stage)),
    ),
];

/// A configuration made for one case.
#[derive(Clone)]
pub(super) struct Offer {
    pub(super) hash: Bytes,
    name: String,
    body: Vec<u8>,
    content_type: &'static str,
    /// Text that is found in no other configuration.
    marker: String,
}

impl Offer {
    /// Something that the agent most likely can read: what it runs, with a comment more, or else a
    /// line of YAML.
    pub(super) fn new(stage: &mut ClientStage, first: &AgentToServer) -> Self {
        let mut random = [0; 16];
        stage.rng.fill_bytes(&mut random);
        let marker = format!("opamp-conformance-{}", hex(&random[..6]));
        let running = first.effective_config.as_ref().and_then(|effective| {
            let (name, file) = effective.config_map.as_ref()?.config_map.first_key_value()?;
            let text = std::str::from_utf8(&file.body).ok()?.trim_end();
            let is_yaml = !text.is_empty() && !text.starts_with(['{', '[']);
            Some((name.clone(), is_yaml.then(|| format!("{text}\n# {marker}\n"))))
        });
        let (name, text) = running.unwrap_or_default();
        Self {
            hash: Bytes::copy_from_slice(&random),
            name,
            body: text.unwrap_or_else(|| format!("greeting: {marker}\n")).into(),
            content_type: "text/yaml",
            marker,
        }
    }

    /// In a message.
    pub(super) fn on(&self, message: ServerToAgent) -> ServerToAgent {
        let file = AgentConfigFile {
            body: self.body.clone().into(),
            content_type: self.content_type.to_owned(),
        };
        let config_map = BTreeMap::from([(self.name.clone(), file)]);
        let offer = AgentRemoteConfig {
            config: Some(AgentConfigMap { config_map }),
            config_hash: self.hash.clone(),
        };
        ServerToAgent { remote_config: Some(offer), ..message }
    }
}

fn is_final(status: &RemoteConfigStatus) -> bool {
    let finals = [RemoteConfigStatuses::Applied, RemoteConfigStatuses::Failed];
    finals.iter().any(|ends| *ends as i32 == status.status)
}

fn is_applied(status: &RemoteConfigStatus) -> bool {
    status.status == RemoteConfigStatuses::Applied as i32
}

fn told(status: Option<&RemoteConfigStatus>) -> String {
    status.map_or_else(
        || "no status".to_owned(),
        |status| {
            let name = RemoteConfigStatuses::try_from(status.status)
                .map_or_else(|_| status.status.to_string(), |of| of.as_str_name().to_owned());
            let hash = hex(&status.last_remote_config_hash);
            format!("{name} of {hash} with error {:?}", status.error_message)
        },
    )
}

/// What the client said after an offer until the status was final.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) heard: Vec<AgentToServer>,
    /// The last status that is of this offer, or else the last at all.
    pub(super) status: Option<RemoteConfigStatus>,
}

/// Waits until the status of an offer is final.
pub(super) async fn outcome(stage: &ClientStage, host: &mut Host, hash: &Bytes) -> Outcome {
    let mut outcome = Outcome::default();
    let within = 2 * stage.pace.work() + stage.heartbeat();
    host.hear(within, |message| {
        outcome.heard.push(message.clone());
        let Some(status) = &message.remote_config_status else { return false };
        let ours = status.last_remote_config_hash == *hash;
        let had_ours =
            outcome.status.as_ref().is_some_and(|status| status.last_remote_config_hash == *hash);
        if ours || !had_ours {
            outcome.status = Some(status.clone());
        }
        ours && is_final(status)
    })
    .await;
    outcome
}

/// The beginning of most cases: a client that takes configurations and tells what becomes of them.
async fn meet(
    stage: &ClientStage,
) -> Result<(Host, Box<dyn crate::client::Running>, AgentToServer), Stop> {
    let (host, client, first) = stage.meet().await?;
    stage.requires(&first, ACCEPTS_REMOTE_CONFIG | REPORTS_REMOTE_CONFIG)?;
    Ok((host, client, first))
}

/// As [`outcome`], for cases that need one.
async fn ended(
    stage: &ClientStage,
    host: &mut Host,
    hash: &Bytes,
) -> Result<RemoteConfigStatus, Stop> {
    let outcome = outcome(stage, host, hash).await;
    match outcome.status {
        Some(status) if status.last_remote_config_hash == *hash && is_final(&status) => Ok(status),
        other => Err(Stop::Unreached(format!("no final status, but {}", told(other.as_ref())))),
    }
}

async fn status(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, first) = meet(stage).await?;
    let offer = Offer::new(stage, &first);
    host.send(offer.on(host.message())).await?;
    let outcome = outcome(stage, &mut host, &offer.hash).await;
    let status = outcome.status.as_ref();
    let actual = told(status);
    if !stage.judge.expect("CFG-23", status.is_some(), "a remote_config_status", actual.clone()) {
        return Ok(());
    }
    let echoed = status.is_some_and(|status| status.last_remote_config_hash == offer.hash);
    stage.judge.expect("CFG-20", echoed, format!("hash {}", hex(&offer.hash)), actual.clone());
    let ends = status.is_some_and(is_final);
    stage.judge.expect("CFG-21", ends, "APPLIED or FAILED in the end", actual);
    judge_error(stage, status);
    let statuses = outcome.heard.iter().filter_map(|message| message.remote_config_status.as_ref());
    let statuses: Vec<_> = statuses.map(|status| told(Some(status))).collect();
    stage.judge.note("STATUS-11", statuses.join("; then "));
    Ok(())
}

/// An error goes with FAILED only, and is optional there.
fn judge_error(stage: &mut ClientStage, status: Option<&RemoteConfigStatus>) {
    if let Some(status) = status.filter(|status| is_final(status)) {
        let good = !is_applied(status) || status.error_message.is_empty();
        stage.judge.expect("CFG-22", good, "no error with APPLIED", told(Some(status)));
    }
}

async fn broken(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, first) = meet(stage).await?;
    for is_broken in [true, false] {
        let mut offer = Offer::new(stage, &first);
        if is_broken {
            offer.body = b"{ unbalanced: [ \"\n\t: }: ]\n".to_vec();
        }
        host.send(offer.on(host.message())).await?;
        let outcome = outcome(stage, &mut host, &offer.hash).await;
        let status = outcome.status.as_ref();
        let ends = status.is_some_and(is_final);
        // One to which the content means nothing may well apply it.
        stage.judge.expect("CFG-21", ends, "APPLIED or FAILED in the end", told(status));
        judge_error(stage, status);
    }
    Ok(())
}

async fn repeated(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, first) = meet(stage).await?;
    let mut reported = Reported::from_first(&first);
    let offer = Offer::new(stage, &first);
    host.send(offer.on(host.message())).await?;
    let outcome = outcome(stage, &mut host, &offer.hash).await;
    if !outcome.status.as_ref().is_some_and(is_final) {
        return Err(Stop::Unreached(format!("no final status: {}", told(outcome.status.as_ref()))));
    }
    for message in outcome.heard.iter().chain(&host.collect(2 * stage.pace.quiet()).await) {
        reported.take(message);
    }
    let mut reports = 0;
    for _ in 0..3 {
        if stage.transport == Transport::Http && !host.is_connected() {
            match host.hear(due(stage), |_| true).await {
                Some(message) => reported.take(&message),
                None => return Err(Stop::Unreached("no further poll".to_owned())),
            };
        }
        host.send(offer.on(host.message())).await?;
        for message in host.collect(stage.pace.quiet().min(stage.heartbeat() / 2)).await {
            reports +=
                usize::from(reported.is_stale(&message) || message.remote_config_status.is_some());
        }
    }
    let actual = format!("{reports} reports for 3 offers of what is known");
    for row in ["CFG-08", "STATUS-14"] {
        stage.judge.expect(row, reports == 0, "no report", actual.clone());
    }
    Ok(())
}

async fn second_offer(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, first) = meet(stage).await?;
    let offers = [Offer::new(stage, &first), Offer::new(stage, &first)];
    for (index, offer) in offers.iter().enumerate() {
        if index > 0 && stage.transport == Transport::Http {
            let next = host.hear(due(stage), |_| true).await;
            next.ok_or_else(|| Stop::Unreached("no further poll".to_owned()))?;
        }
        host.send(offer.on(host.message())).await?;
    }
    let outcome = outcome(stage, &mut host, &offers[1].hash).await;
    let of_second = outcome
        .status
        .as_ref()
        .is_some_and(|status| status.last_remote_config_hash == offers[1].hash && is_final(status));
    let expected = format!("a final status of {}", hex(&offers[1].hash));
    stage.judge.expect("STATUS-13", of_second, expected, told(outcome.status.as_ref()));
    Ok(())
}

/// All content of an effective configuration.
fn content(effective: Option<&EffectiveConfig>) -> Vec<u8> {
    let files = effective.and_then(|effective| effective.config_map.as_ref());
    files
        .iter()
        .flat_map(|files| files.config_map.values())
        .flat_map(|file| file.body.clone())
        .collect()
}

fn contains(content: &[u8], part: &[u8]) -> bool {
    content.windows(part.len()).any(|window| window == part)
}

async fn effective(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, first) = meet(stage).await?;
    stage.requires(&first, REPORTS_EFFECTIVE_CONFIG)?;
    let mut reported = Reported::from_first(&first);
    let offer = Offer::new(stage, &first);
    host.send(offer.on(host.message())).await?;
    let outcome = outcome(stage, &mut host, &offer.hash).await;
    for message in outcome.heard.iter().chain(&host.collect(2 * stage.pace.quiet()).await) {
        reported.take(message);
    }
    host.send(request(&host)).await?;
    let mut heard = Vec::new();
    let full = host
        .hear(due(stage), |message| {
            heard.push(message.clone());
            message.agent_description.is_some()
        })
        .await
        .ok_or_else(|| Stop::Unreached("no full report when one was asked for".to_owned()))?;
    // What came before it is a report of its own.
    heard.pop();
    for message in &heard {
        reported.take(message);
    }
    let late: Vec<_> = [Part::EffectiveConfig, Part::RemoteConfigStatus]
        .into_iter()
        .filter(|part| reported.is_news(*part, &full))
        .map(Part::name)
        .collect();
    let actual = if late.is_empty() {
        "what it says was reported before".to_owned()
    } else {
        format!("{} changed and was reported only when asked for", late.join(" and "))
    };
    for row in ["CFG-07", "STATUS-16"] {
        stage.judge.expect(row, late.is_empty(), "no news", actual.clone());
    }
    let merged = contains(&content(full.effective_config.as_ref()), offer.marker.as_bytes());
    let seen = if merged { "shows" } else { "does not show" };
    let name = &offer.name;
    stage.judge.note("CFG-12", format!("the agent's own file {name:?} {seen} what was offered"));
    Ok(())
}

async fn local(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, mut client, first) = stage.meet().await?;
    stage.requires(&first, REPORTS_EFFECTIVE_CONFIG)?;
    host.answer().await;
    let offer = Offer::new(stage, &first);
    let body = String::from_utf8_lossy(&offer.body).into_owned();
    stage.hook(client.as_mut(), Action::SetEffectiveConfig { body }).await?;
    let has = |message: &AgentToServer| {
        contains(&content(message.effective_config.as_ref()), offer.marker.as_bytes())
    };
    let mut last = None;
    let heard = host
        .hear(due(stage), |message| {
            last = message.effective_config.clone().or(last.take());
            has(message)
        })
        .await;
    let actual = match &last {
        Some(_) if heard.is_some() => "the new content".to_owned(),
        Some(effective) => String::from_utf8_lossy(&content(Some(effective))).into_owned(),
        None => "no effective configuration".to_owned(),
    };
    let expected = format!("content with {}", offer.marker);
    stage.judge.expect("CFG-04", heard.is_some(), expected, actual);
    Ok(())
}

async fn nameless(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, first) = meet(stage).await?;
    let mut offer = Offer::new(stage, &first);
    host.send(offer.on(host.message())).await?;
    let named = ended(stage, &mut host, &offer.hash).await?;
    if !is_applied(&named) {
        return Err(Stop::Unreached(format!("with a name it is {}", told(Some(&named)))));
    }
    offer = Offer { name: String::new(), ..Offer::new(stage, &first) };
    host.send(offer.on(host.message())).await?;
    let nameless = ended(stage, &mut host, &offer.hash).await?;
    for row in ["CFG-13", "CFG-15"] {
        let taken = is_applied(&nameless);
        stage.judge.expect(row, taken, "APPLIED, as with a name", told(Some(&nameless)));
    }
    let files = first.effective_config.and_then(|effective| effective.config_map);
    match files.map(|files| files.config_map.len()) {
        Some(1) => {
            stage.judge.expect("CFG-14", true, "one entry", "one entry");
        }
        Some(count) => stage.judge.not_applicable("CFG-14", format!("the agent has {count} files")),
        None => stage.judge.not_applicable("CFG-14", "the client does not show its files"),
    }
    Ok(())
}

async fn content_type(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, first) = meet(stage).await?;
    let mut statuses = Vec::new();
    for content_type in ["text/yaml", ""] {
        let offer = Offer { content_type, ..Offer::new(stage, &first) };
        host.send(offer.on(host.message())).await?;
        statuses.push(ended(stage, &mut host, &offer.hash).await?);
    }
    let good = !is_applied(&statuses[0]) || is_applied(&statuses[1]);
    let actual = statuses.iter().map(|status| told(Some(status))).collect::<Vec<_>>();
    stage.judge.expect("CFG-17", good, "the same with and without", actual.join("; then "));
    Ok(())
}

async fn bytes(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, first) = meet(stage).await?;
    let mut offer = Offer::new(stage, &first);
    let odd = b"# \xff\xfe\x80 not UTF-8\n";
    offer.body.extend_from_slice(odd);
    host.send(offer.on(host.message())).await?;
    let outcome = outcome(stage, &mut host, &offer.hash).await;
    let status = outcome.status.as_ref();
    let ends = status.is_some_and(is_final);
    if !stage.judge.expect("CFG-16", ends, "a final status", told(status)) {
        return Ok(());
    }
    let mut shown = outcome.heard;
    shown.extend(host.collect(stage.pace.quiet()).await);
    let shown: Vec<_> =
        shown.iter().map(|message| content(message.effective_config.as_ref())).collect();
    // It may leave out what it cannot use, but not change it on the way.
    let changed = shown.iter().any(|content| contains(content, " not UTF-8".as_bytes()))
        && !shown.iter().any(|content| contains(content, odd.trim_ascii_end()));
    let actual =
        if changed { "changed bytes in the effective configuration" } else { "as offered" };
    stage.judge.expect("CFG-16", !changed, "the bytes unchanged where they are used", actual);
    Ok(())
}

async fn not_accepted(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, mut client, first) = stage.meet().await?;
    host.answer().await;
    let announced = first.capabilities & ACCEPTS_REMOTE_CONFIG != 0;
    if announced {
        stage.judge.expect("CFG-02", true, "the bit where offers are taken", "it is set");
    }
    without(stage, &mut host, client.as_mut(), &first, ACCEPTS_REMOTE_CONFIG).await?;
    let offer = Offer::new(stage, &first);
    host.send(offer.on(request(&host))).await?;
    let mut heard = Vec::new();
    let full = host
        .hear(due(stage), |message| {
            heard.push(message.clone());
            message.agent_description.is_some()
        })
        .await;
    heard.extend(host.collect(stage.pace.quiet()).await);
    let trace = heard.iter().any(|message| {
        let status = message.remote_config_status.as_ref();
        status.is_some_and(|status| status.last_remote_config_hash == offer.hash)
            || contains(&content(message.effective_config.as_ref()), offer.marker.as_bytes())
    });
    let actual = match (full.is_some(), trace) {
        (false, _) => "the rest of the message was not processed",
        (_, true) => "the offer was taken",
        _ => "the rest of the message was processed, and nothing of the offer shows",
    };
    let good = full.is_some() && !trace;
    stage.judge.expect("CAP-05", good, "the offer ignored, the rest processed", actual);
    stage.judge.expect("CFG-10", !trace, "the offer ignored", actual);
    if !announced {
        stage.judge.expect("CFG-02", !trace, "the bit where offers are taken", actual);
    }
    Ok(())
}
