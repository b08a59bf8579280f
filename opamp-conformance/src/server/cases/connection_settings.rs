//! Offers of connection settings: to whom, what is in them, their hash, and what becomes of
//! credentials that were replaced.

use std::time::Duration;

use http::HeaderValue;
use http::header::AUTHORIZATION;
use opamp_proto::v1::{
    AgentToServer, ConnectionSettingsOffers, ConnectionSettingsStatus, ConnectionSettingsStatuses,
    OpAmpConnectionSettings,
};
use serde_json::{Value, json};

use crate::case::{Case, Observed, Script};
use crate::judge::{Judge, Stop};
use crate::mask::{agent as mask, server};
use crate::report::Transport;
use crate::server::provision::{self, leave, mentions};
use crate::server::{Agent, Heard, ServerStage};
use crate::wire::hex;
use crate::wire::url::Url;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "server/connection-settings/every-offer",
        judges: &[
            "CONN-02", "CONN-03", "CONN-04", "CONN-05", "CONN-06", "CONN-28", "CONN-29", "PROXY-04",
        ],
        transports: &[],
        does: "looks at every offer of connection settings of the run",
        expects: "each class only for agents that announce it, a usable endpoint in opamp, and no \
                  proxy without a URL",
        alone: false,
        broken_by: &[
            "logs-settings-are-offered-to-all",
            "metrics-settings-are-offered-to-all",
            "opamp-settings-are-offered-to-all",
            "other-settings-are-offered-to-all",
            "proxy-url-is-dropped",
            "settings-endpoint-has-another-scheme",
            "settings-endpoint-is-left-out",
            "traces-settings-are-offered-to-all",
        ],
        script: Script::Observer(every_offer),
    },
    Case {
        name: "server/connection-settings/hash",
        judges: &["CONN-21"],
        transports: Transport::BOTH,
        does: "has settings of two classes offered, changes one class, and comes back later",
        expects: "another hash after the change, and the same hash as long as nothing changes",
        alone: false,
        broken_by: &["settings-hash-is-constant"],
        script: Script::Server(|stage| Box::pin(hash(stage))),
    },
    Case {
        name: "server/connection-settings/interval-only",
        judges: &["CONN-28", "CONN-29"],
        transports: Transport::BOTH,
        does: "has an offer made of which only the heartbeat interval is new",
        expects: "the endpoint in use in it, as a ws, wss, http or https URL",
        alone: false,
        broken_by: &["settings-endpoint-has-another-scheme", "settings-endpoint-is-left-out"],
        script: Script::Server(|stage| Box::pin(interval_only(stage))),
    },
    Case {
        name: "server/connection-settings/offer",
        judges: &["CONN-01", "CONN-10", "CONN-41", "CONN-42"],
        transports: Transport::BOTH,
        does: "has another endpoint and two headers of the same name offered",
        expects: "an offer whose opamp part has them all",
        alone: false,
        broken_by: &["repeated-header-is-dropped", "opamp-settings-are-kept-back"],
        script: Script::Server(|stage| Box::pin(offer(stage))),
    },
    Case {
        name: "server/connection-settings/other-endpoint",
        judges: &["OTHER-03"],
        transports: Transport::BOTH,
        does: "has another connection offered whose destination is host:port",
        expects: "the destination as it was given",
        alone: false,
        broken_by: &["other-endpoint-has-to-be-a-url"],
        script: Script::Server(|stage| Box::pin(other_endpoint(stage))),
    },
    Case {
        name: "server/connection-settings/proxy",
        judges: &["PROXY-04"],
        transports: Transport::BOTH,
        does: "has a proxy offered",
        expects: "its URL in the offer",
        alone: false,
        broken_by: &["proxy-url-is-dropped"],
        script: Script::Server(|stage| Box::pin(proxy(stage))),
    },
    Case {
        name: "server/connection-settings/replaced-credentials",
        judges: &["CONN-15", "CONN-37"],
        transports: Transport::BOTH,
        does: "has credentials offered twice, connects with the second ones, then tries the first",
        expects: "the first ones are good until the second ones are used, and refused afterwards",
        alone: false,
        broken_by: &["replaced-credentials-stay-good"],
        script: Script::Server(|stage| Box::pin(replaced_credentials(stage))),
    },
    Case {
        name: "server/connection-settings/reported-hash",
        judges: &["CONN-32", "CONN-33"],
        transports: Transport::BOTH,
        does: "reports the hash of the offer it got, then another one",
        expects: "no offer after the first, an offer after the second",
        alone: false,
        broken_by: &["known-settings-are-offered-again", "other-settings-hash-is-ignored"],
        script: Script::Server(|stage| Box::pin(reported_hash(stage))),
    },
    Case {
        name: "server/connection-settings/unannounced-class",
        judges: &["CONN-02", "CONN-03", "CONN-04", "CONN-05", "CONN-06"],
        transports: Transport::BOTH,
        does: "has settings of every class offered to agents that lack the capability for one",
        expects: "the class the agent did not announce is in no offer",
        alone: false,
        broken_by: &[
            "logs-settings-are-offered-to-all",
            "metrics-settings-are-offered-to-all",
            "opamp-settings-are-offered-to-all",
            "other-settings-are-offered-to-all",
            "traces-settings-are-offered-to-all",
        ],
        script: Script::Server(|stage| Box::pin(unannounced_class(stage))),
    },
];

/// A class of settings: its row about capabilities, its name, and the capability it takes.
struct Class {
    row: &'static str,
    name: &'static str,
    bit: u64,
    is_in: fn(&ConnectionSettingsOffers) -> bool,
}

const CLASSES: [Class; 5] = [
    Class {
        row: "CONN-02",
        name: "opamp",
        bit: mask::ACCEPTS_OPAMP_CONNECTION_SETTINGS,
        is_in: |offer| offer.opamp.is_some(),
    },
    Class {
        row: "CONN-03",
        name: "own_traces",
        bit: mask::REPORTS_OWN_TRACES,
        is_in: |offer| offer.own_traces.is_some(),
    },
    Class {
        row: "CONN-04",
        name: "own_metrics",
        bit: mask::REPORTS_OWN_METRICS,
        is_in: |offer| offer.own_metrics.is_some(),
    },
    Class {
        row: "CONN-05",
        name: "own_logs",
        bit: mask::REPORTS_OWN_LOGS,
        is_in: |offer| offer.own_logs.is_some(),
    },
    Class {
        row: "CONN-06",
        name: "other_connections",
        bit: mask::ACCEPTS_OTHER_CONNECTION_SETTINGS,
        is_in: |offer| !offer.other_connections.is_empty(),
    },
];

fn every_offer(observed: &Observed, judge: &mut Judge) {
    for offer in provision::all(observed) {
        let Some(settings) = &offer.message.connection_settings else { continue };
        for class in CLASSES.iter().filter(|class| (class.is_in)(settings)) {
            let announced = offer.capabilities & class.bit != 0;
            judge.quote(offer.entry, !announced);
            judge.expect(
                class.row,
                announced,
                format!("{} only for agents with the capability {:#x}", class.name, class.bit),
                format!("{} for an agent with the mask {:#x}", class.name, offer.capabilities),
            );
        }
        if let Some(opamp) = &settings.opamp {
            let is_wrong = opamp.destination_endpoint.is_empty() || !is_opamp_url(opamp);
            judge.quote(offer.entry, is_wrong);
            judge_endpoint(judge, opamp);
        }
        let proxies = (settings.opamp.iter().map(|opamp| &opamp.proxy))
            .chain(settings.own_metrics.iter().map(|own| &own.proxy))
            .chain(settings.own_traces.iter().map(|own| &own.proxy))
            .chain(settings.own_logs.iter().map(|own| &own.proxy))
            .chain(settings.other_connections.values().map(|other| &other.proxy));
        for proxy in proxies.flatten() {
            judge.quote(offer.entry, proxy.url.is_empty());
            judge_proxy(judge, &proxy.url);
        }
    }
}

fn judge_endpoint(judge: &mut Judge, opamp: &OpAmpConnectionSettings) {
    let endpoint = &opamp.destination_endpoint;
    let actual = format!("the endpoint is {endpoint:?}");
    let is_there = judge.expect(
        "CONN-29",
        !endpoint.is_empty(),
        "an endpoint in every opamp offer, whatever it changes",
        actual.clone(),
    );
    if is_there {
        let expected = "a ws, wss, http or https URL";
        judge.expect("CONN-28", is_opamp_url(opamp), expected, actual);
    }
}

fn is_opamp_url(opamp: &OpAmpConnectionSettings) -> bool {
    // Schemes are compared without regard to case.
    opamp.destination_endpoint.to_ascii_lowercase().parse::<Url>().is_ok()
}

fn judge_proxy(judge: &mut Judge, url: &str) {
    let actual = format!("the URL of the proxy is {url:?}");
    judge.expect("PROXY-04", !url.is_empty(), "a proxy with its URL", actual);
}

async fn offer(stage: &mut ServerStage) -> Result<(), Stop> {
    let mut agent = able_to_take(stage, mask::ACCEPTS_OPAMP_CONNECTION_SETTINGS).await?;
    let marker = stage.marker();
    let endpoint = format!("wss://{marker}.example:4320/v1/opamp");
    let (first, second) = (format!("{marker}-1"), format!("{marker}-2"));
    let headers = [("X-Tenant", &first), ("X-Tenant", &second)]
        .map(|(key, value)| json!({ "key": key, "value": value }));
    let opamp = json!({
        "destination_endpoint": endpoint,
        "headers": { "headers": headers },
        "heartbeat_interval_seconds": 45,
    });
    stage.offer_settings(&mut agent, json!({ "opamp": opamp })).await?;
    let wanted = |offer: &ConnectionSettingsOffers| mentions(offer, &marker);
    let offer = provision::settings(&mut agent, stage.pace.work(), wanted).await?;
    let opamp = offer.as_ref().and_then(|offer| offer.opamp.as_ref());
    let actual = match (&offer, opamp) {
        (None, _) => "no offer came".to_owned(),
        (Some(_), None) => "an offer without it came".to_owned(),
        (Some(_), Some(_)) => "it came".to_owned(),
    };
    let expected = "an offer in connection_settings.opamp";
    stage.judge.expect("CONN-10", opamp.is_some(), expected, actual);
    let (Some(offer), Some(opamp)) = (&offer, opamp) else { return Ok(()) };
    let place = &opamp.destination_endpoint;
    stage
        .judge
        .note("CONN-01", format!("the endpoint asked for is {endpoint}, offered is {place}"));
    let filled: Vec<_> =
        CLASSES.iter().filter(|class| (class.is_in)(offer)).map(|class| class.name).collect();
    stage.judge.note("CONN-42", format!("filled for a change of opamp: {}", filled.join(", ")));
    // HTTP lets several fields of a name be written as one with commas.
    let values: Vec<_> = opamp
        .headers
        .iter()
        .flat_map(|headers| &headers.headers)
        .filter(|header| header.key.eq_ignore_ascii_case("x-tenant"))
        .flat_map(|header| header.value.split(','))
        .map(str::trim)
        .collect();
    stage.judge.expect(
        "CONN-41",
        values.contains(&first.as_str()) && values.contains(&second.as_str()),
        format!("X-Tenant with {first} and with {second}"),
        format!("X-Tenant with {values:?}"),
    );
    Ok(())
}

async fn interval_only(stage: &mut ServerStage) -> Result<(), Stop> {
    let mut agent = able_to_take(stage, mask::ACCEPTS_OPAMP_CONNECTION_SETTINGS).await?;
    let opamp = json!({ "heartbeat_interval_seconds": 37 });
    stage.offer_settings(&mut agent, json!({ "opamp": opamp })).await?;
    let within = stage.pace.work();
    let offer = provision::settings(&mut agent, within, |offer| offer.opamp.is_some()).await?;
    match offer.and_then(|offer| offer.opamp) {
        Some(opamp) => judge_endpoint(&mut stage.judge, &opamp),
        None => return Err(no_offer()),
    }
    Ok(())
}

async fn proxy(stage: &mut ServerStage) -> Result<(), Stop> {
    let mut agent = able_to_take(stage, mask::REPORTS_OWN_METRICS).await?;
    let marker = stage.marker();
    let own_metrics = json!({
        "destination_endpoint": format!("https://{marker}.example/v1/metrics"),
        "proxy": { "url": format!("http://proxy-{marker}.example:3128") },
    });
    stage.offer_settings(&mut agent, json!({ "own_metrics": own_metrics })).await?;
    let wanted = |offer: &ConnectionSettingsOffers| mentions(offer, &marker);
    let offer = provision::settings(&mut agent, stage.pace.work(), wanted).await?;
    let own_metrics = offer.and_then(|offer| offer.own_metrics).ok_or_else(no_offer)?;
    match own_metrics.proxy {
        Some(proxy) => judge_proxy(&mut stage.judge, &proxy.url),
        None => stage.judge.not_applicable("PROXY-04", "the server offers no proxies"),
    }
    Ok(())
}

async fn other_endpoint(stage: &mut ServerStage) -> Result<(), Stop> {
    let mut agent = able_to_take(stage, mask::ACCEPTS_OTHER_CONNECTION_SETTINGS).await?;
    let marker = stage.marker();
    let endpoint = format!("{marker}.example:4317");
    let other = json!({ "upstream": { "destination_endpoint": endpoint } });
    stage.offer_settings(&mut agent, json!({ "other_connections": other })).await?;
    let wanted = |offer: &ConnectionSettingsOffers| mentions(offer, &marker);
    let offer = provision::settings(&mut agent, stage.pace.work(), wanted).await?;
    let offer = offer.ok_or_else(no_offer)?;
    let offered: Vec<_> =
        offer.other_connections.values().map(|other| &other.destination_endpoint).collect();
    stage.judge.expect(
        "OTHER-03",
        offered.contains(&&endpoint),
        format!("the destination {endpoint:?}"),
        format!("the destinations {offered:?}"),
    );
    Ok(())
}

async fn hash(stage: &mut ServerStage) -> Result<(), Stop> {
    let bits = mask::REPORTS_OWN_METRICS | mask::REPORTS_OWN_LOGS;
    let mut agent = able_to_take(stage, bits).await?;
    let marker = stage.marker();
    let place =
        |what: &str| json!({ "destination_endpoint": format!("https://{what}.example/v1/x") });
    let mut hashes = Vec::new();
    for metrics in [format!("{marker}-1"), format!("{marker}-2")] {
        let settings = json!({ "own_metrics": place(&metrics), "own_logs": place(&marker) });
        stage.offer_settings(&mut agent, settings).await?;
        let wanted = |offer: &ConnectionSettingsOffers| mentions(offer, &metrics);
        let offer = provision::settings(&mut agent, stage.pace.work(), wanted).await?;
        hashes.push(offer.ok_or_else(no_offer)?.hash);
    }
    stage.judge.expect(
        "CONN-21",
        hashes[0] != hashes[1] && hashes.iter().all(|hash| !hash.is_empty()),
        "another hash after a change",
        format!("{} before, {} after it", hex(&hashes[0]), hex(&hashes[1])),
    );
    // An agent that reports no hash is offered the settings again when it comes back (A35).
    leave(&mut agent).await?;
    agent.connect().await?;
    let report = agent.full_report();
    let reply = agent.exchange(report).await?;
    if let Some(offer) = reply.connection_settings.filter(|offer| mentions(offer, &marker)) {
        stage.judge.expect(
            "CONN-21",
            offer.hash == hashes[1],
            "the same hash as long as nothing changes",
            format!("{} first, {} when the agent is back", hex(&hashes[1]), hex(&offer.hash)),
        );
    }
    Ok(())
}

async fn reported_hash(stage: &mut ServerStage) -> Result<(), Stop> {
    let bits = mask::REPORTS_OWN_METRICS | mask::REPORTS_CONNECTION_SETTINGS_STATUS;
    let mut agent = able_to_take(stage, bits).await?;
    let marker = stage.marker();
    let endpoint = format!("https://{marker}.example/v1/metrics");
    let own_metrics = json!({ "destination_endpoint": endpoint });
    stage.offer_settings(&mut agent, json!({ "own_metrics": own_metrics })).await?;
    let wanted = |offer: &ConnectionSettingsOffers| mentions(offer, &marker);
    let offer = provision::settings(&mut agent, stage.pace.work(), wanted).await?;
    let hash = offer.ok_or_else(no_offer)?.hash;
    if hash.is_empty() {
        return Err(Stop::Unreached("the offer has no hash to report".to_owned()));
    }
    let report = |agent: &mut Agent, hash: &[u8]| AgentToServer {
        connection_settings_status: Some(ConnectionSettingsStatus {
            last_connection_settings_hash: hash.to_vec().into(),
            status: ConnectionSettingsStatuses::Applied as i32,
            error_message: String::new(),
        }),
        ..agent.message()
    };
    // What comes next may have been on its way before the report was read; it is not judged.
    let known = report(&mut agent, &hash);
    agent.exchange(known).await?;
    let known = report(&mut agent, &hash);
    let reply = agent.exchange(known).await?;
    let is_repeated = reply.connection_settings.is_some();
    stage.judge.expect(
        "CONN-32",
        !is_repeated,
        "no offer to an agent that reports the hash of the settings held for it",
        if is_repeated { "an offer in the reply" } else { "none" },
    );
    let other = report(&mut agent, b"not the hash of anything offered");
    let is_it = |message: &opamp_proto::v1::ServerToAgent| message.connection_settings.is_some();
    let reply = if stage.transport == Transport::Http {
        Some(agent.exchange(other).await?).filter(is_it)
    } else {
        agent.send(other).await?;
        agent.hear(stage.pace.reply(), is_it).await?
    };
    for row in ["CONN-32", "CONN-33"] {
        stage.judge.expect(
            row,
            reply.is_some(),
            "an offer to an agent that reports another hash",
            if reply.is_some() { "it came" } else { "none came" },
        );
    }
    Ok(())
}

async fn replaced_credentials(stage: &mut ServerStage) -> Result<(), Stop> {
    let mut agent = able_to_take(stage, mask::ACCEPTS_OPAMP_CONNECTION_SETTINGS).await?;
    let marker = stage.marker();
    let [unknown, first, second] = ["0", "1", "2"].map(|n| format!("Bearer {marker}-{n}"));
    let mut stranger = stage.agent(mask::REPORTS_STATUS);
    if is_admitted(&mut stranger, &unknown).await? {
        return Err(Stop::NotApplicable(
            "the server takes any credentials in the Authorization header".to_owned(),
        ));
    }
    for credentials in [&first, &second] {
        let header = json!({ "key": "Authorization", "value": credentials });
        let opamp = json!({ "headers": { "headers": [header] } });
        stage.offer_settings(&mut agent, json!({ "opamp": opamp })).await?;
        let wanted = |offer: &ConnectionSettingsOffers| mentions(offer, credentials);
        let offer = provision::settings(&mut agent, stage.pace.work(), wanted).await?;
        offer.ok_or_else(no_offer)?;
        leave(&mut agent).await?;
        if !is_admitted(&mut agent, credentials).await? {
            return Err(Stop::Unreached(
                "the server does not take the credentials it was made to offer".to_owned(),
            ));
        }
    }
    leave(&mut agent).await?;
    let is_admitted = is_admitted(&mut agent, &first).await?;
    let actual = if is_admitted { "they are still good" } else { "they are refused" };
    let expected = "the credentials before are refused once the new ones are in use";
    stage.judge.expect("CONN-15", !is_admitted, expected, actual);
    stage.judge.note("CONN-37", format!("replaced credentials: {actual}"));
    Ok(())
}

/// Whether the server takes a full report of an agent with these credentials.
async fn is_admitted(agent: &mut Agent, credentials: &str) -> Result<bool, Stop> {
    let value = HeaderValue::from_str(credentials)
        .map_err(|error| Stop::Harness(format!("no header value: {error}")))?;
    agent.dialer.headers.insert(AUTHORIZATION, value);
    match agent.connect().await {
        Ok(()) => {}
        Err(Stop::Unreached(_)) => return Ok(false),
        Err(other) => return Err(other),
    }
    let report = agent.full_report();
    Ok(match agent.ask(report).await? {
        Heard::Message(reply) => reply.error_response.is_none(),
        Heard::Malformed(_) | Heard::Closed(..) | Heard::Silence => false,
    })
}

async fn unannounced_class(stage: &mut ServerStage) -> Result<(), Stop> {
    let all = CLASSES.iter().fold(0, |all, class| all | class.bit);
    // What an agent that takes everything is offered, to see that there is something to leave out.
    let (mut agent, reply) = stage.reported(mask::REPORTS_STATUS | all).await?;
    stage.requires(&reply, server::OFFERS_CONNECTION_SETTINGS)?;
    let unasked = classes(reply.connection_settings.as_ref());
    for class in &CLASSES {
        let (_, reply) = stage.reported(mask::REPORTS_STATUS | all & !class.bit).await?;
        let seen = classes(reply.connection_settings.as_ref());
        if unasked & class.bit != 0 || seen & class.bit != 0 {
            judge_class(&mut stage.judge, class, seen);
        }
    }
    let settings = everything(&stage.marker());
    stage.offer_settings(&mut agent, settings.clone()).await?;
    let offered = collect(&mut agent, stage, all, stage.pace.work()).await?;
    for class in &CLASSES {
        if offered & class.bit == 0 {
            let why = format!("the server offers no {}", class.name);
            stage.judge.untestable(class.row, why);
            continue;
        }
        let (mut agent, _) = stage.reported(mask::REPORTS_STATUS | all & !class.bit).await?;
        let seen = match stage.offer_settings(&mut agent, settings.clone()).await {
            Ok(()) => collect(&mut agent, stage, class.bit, stage.pace.quiet()).await?,
            // A server may say at once that the agent does not take all of it.
            Err(Stop::Unreached(_)) => 0,
            Err(other) => return Err(other),
        };
        judge_class(&mut stage.judge, class, seen);
    }
    Ok(())
}

fn judge_class(judge: &mut Judge, class: &Class, seen: u64) {
    let is_there = seen & class.bit != 0;
    judge.expect(
        class.row,
        !is_there,
        format!("no {} for an agent without the capability {:#x}", class.name, class.bit),
        format!("{} is {}", class.name, if is_there { "offered" } else { "not offered" }),
    );
}

/// The classes that are offered until all that are `wanted` were seen or nothing new comes.
async fn collect(
    agent: &mut Agent,
    stage: &ServerStage,
    wanted: u64,
    first: Duration,
) -> Result<u64, Stop> {
    let (mut seen, mut within) = (0, first);
    while seen & wanted != wanted {
        let is_new = |offer: &ConnectionSettingsOffers| classes(Some(offer)) & !seen != 0;
        match provision::settings(agent, within, is_new).await? {
            Some(offer) => seen |= classes(Some(&offer)),
            None => break,
        }
        within = stage.pace.quiet();
    }
    Ok(seen)
}

/// The capabilities that the classes in an offer take.
fn classes(offer: Option<&ConnectionSettingsOffers>) -> u64 {
    let Some(offer) = offer else { return 0 };
    CLASSES.iter().filter(|class| (class.is_in)(offer)).fold(0, |bits, class| bits | class.bit)
}

fn everything(marker: &str) -> Value {
    let telemetry =
        |signal| json!({ "destination_endpoint": format!("https://{marker}.example/v1/{signal}") });
    json!({
        "opamp": { "destination_endpoint": format!("wss://{marker}.example/v1/opamp") },
        "own_metrics": telemetry("metrics"),
        "own_traces": telemetry("traces"),
        "own_logs": telemetry("logs"),
        "other_connections": { "upstream": telemetry("upstream") },
    })
}

/// An agent with these capabilities that has reported to a server that offers settings.
async fn able_to_take(stage: &mut ServerStage, capabilities: u64) -> Result<Agent, Stop> {
    let (agent, reply) = stage.reported(mask::REPORTS_STATUS | capabilities).await?;
    stage.requires(&reply, server::OFFERS_CONNECTION_SETTINGS)?;
    Ok(agent)
}

fn no_offer() -> Stop {
    Stop::Unreached("the offer asked for did not come".to_owned())
}
