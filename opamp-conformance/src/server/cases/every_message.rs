//! What has to hold of every message of the server, whatever the case was.

use std::collections::HashMap;

use bytes::Bytes;
use http::{Method, header};
use opamp_proto::v1::{ServerErrorResponse, ServerErrorResponseType, ServerToAgent};
use prost::Message as _;

use crate::case::{Case, Conversation, Observed, Script};
use crate::judge::Judge;
use crate::log::{Entry, Event};
use crate::mask::{agent, flag, names, server};
use crate::report::{By, Transport};
use crate::wire::http_client::field;
use crate::wire::{body, text};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "server/every-message/header",
        judges: &["WS-06"],
        transports: &[],
        does: "looks at every WebSocket message of the run",
        expects: "each begins with the byte 0",
        alone: false,
        broken_by: &["header-is-not-zero"],
        script: Script::Observer(header),
    },
    Case {
        name: "server/every-message/type",
        judges: &["WS-01"],
        transports: &[],
        does: "looks at every WebSocket message of the run",
        expects: "each is binary",
        alone: false,
        broken_by: &["errors-are-text-messages"],
        script: Script::Observer(kind),
    },
    Case {
        name: "server/every-message/content",
        judges: &["WS-02", "WS-04", "HTTP-03"],
        transports: &[],
        does: "reads every message of the run by the schema",
        expects: "each is one ServerToAgent with known fields only; over HTTP it is all of the body",
        alone: false,
        broken_by: &[
            "answers-to-gzip-have-a-header",
            "replies-have-unknown-fields",
            "replies-come-in-twos",
        ],
        script: Script::Observer(content),
    },
    Case {
        name: "server/every-message/errors",
        judges: &["ERR-03", "ERR-07", "ERR-09", "ERR-10"],
        transports: &[],
        does: "looks at every error reply of the run",
        expects: "each has nothing beside it but the id, a text people can read, no time to retry after \
                  unless it is of type UNAVAILABLE, and answers a message",
        alone: false,
        broken_by: &[
            "errors-come-with-the-mask",
            "error-text-is-binary",
            "bad-request-with-retry-info",
            "bad-request-is-repeated",
        ],
        script: Script::Observer(errors),
    },
    Case {
        name: "server/every-message/mask",
        judges: &["INTEROP-08"],
        transports: &[],
        does: "looks at every capability mask of the run",
        expects: "each has defined bits only",
        alone: false,
        broken_by: &["mask-has-reserved-bits"],
        script: Script::Observer(mask),
    },
    Case {
        name: "server/every-message/offers",
        judges: &["INTEROP-03", "INTEROP-05"],
        transports: &[],
        does: "compares everything the server offers or asks for with the masks of both ends",
        expects: "the agent announced that it takes it, and the server that it offers it",
        alone: false,
        broken_by: &[
            "configurations-are-offered-to-all",
            "logs-settings-are-offered-to-all",
            "mask-hides-configurations",
            "metrics-settings-are-offered-to-all",
            "opamp-settings-are-offered-to-all",
            "other-settings-are-offered-to-all",
            "packages-are-offered-to-all",
            "traces-settings-are-offered-to-all",
            "components-are-asked-of-all",
            "restart-is-sent-to-all",
        ],
        script: Script::Observer(offers),
    },
];

fn header(observed: &Observed, judge: &mut Judge) {
    for entry in observed.entries() {
        if let (By::Subject, Event::Message { payload, .. }) = (entry.by, &entry.event) {
            let first = payload.first().copied();
            let actual = format!("the first byte is {first:02x?}");
            judge.quote(entry, first != Some(0));
            judge.expect("WS-06", first == Some(0), "the first byte is 00", actual);
        }
    }
}

fn kind(observed: &Observed, judge: &mut Judge) {
    for entry in observed.entries() {
        if let (By::Subject, Event::Message { is_text, .. }) = (entry.by, &entry.event) {
            let actual = if *is_text { "a text message" } else { "a binary message" };
            judge.quote(entry, *is_text);
            judge.expect("WS-01", !is_text, "a binary message", actual);
        }
    }
}

fn content(observed: &Observed, judge: &mut Judge) {
    for conversation in &observed.conversations {
        for Said { entry, bytes, .. } in said(conversation) {
            let reading = text::read("ServerToAgent", &bytes);
            let wrong = [reading.problems, reading.unknown_fields].concat();
            let actual = if wrong.is_empty() { "that".to_owned() } else { wrong.join("; ") };
            judge.quote(entry, !wrong.is_empty());
            let rows: &[&str] = match conversation.transport {
                Transport::WebSocket => &["WS-02", "WS-04"],
                Transport::Http => &["HTTP-03"],
            };
            for row in rows {
                let expected = "one ServerToAgent, all of it known to the schema";
                judge.expect(row, wrong.is_empty(), expected, actual.as_str());
            }
        }
    }
}

fn errors(observed: &Observed, judge: &mut Judge) {
    for conversation in &observed.conversations {
        let mut answered: HashMap<u32, usize> = HashMap::new();
        for Said { entry, message, asked, .. } in said(conversation) {
            let Some(error) = message.as_ref().and_then(|message| message.error_response.as_ref())
            else {
                continue;
            };
            let kind = ServerErrorResponseType::try_from(error.r#type);
            let answers = answered.entry(entry.connection).or_default();
            *answers += usize::from(kind == Ok(ServerErrorResponseType::BadRequest));
            let findings = [
                ("ERR-03", stands_alone(message.as_ref(), error), "nothing beside it but the id"),
                ("ERR-07", *answers <= asked, "no more BAD_REQUEST than messages before it"),
                ("ERR-09", is_text(&error.error_message), "a text without control characters"),
                (
                    "ERR-10",
                    error.details.is_none() || kind == Ok(ServerErrorResponseType::Unavailable),
                    "no retry_info unless the type is UNAVAILABLE",
                ),
            ];
            judge.quote(entry, findings.iter().any(|(_, holds, _)| !holds));
            for (row, holds, expected) in findings {
                let actual = format!("{message:?}");
                judge.expect(row, holds, expected, actual.chars().take(400).collect::<String>());
            }
        }
    }
}

/// Whether a message has nothing but its id and this error (A08).
fn stands_alone(message: Option<&ServerToAgent>, error: &ServerErrorResponse) -> bool {
    message.is_some_and(|message| {
        *message
            == ServerToAgent {
                instance_uid: message.instance_uid.clone(),
                error_response: Some(error.clone()),
                ..Default::default()
            }
    })
}

fn is_text(text: &str) -> bool {
    text.chars().all(|c| !c.is_control() || c.is_whitespace())
}

fn mask(observed: &Observed, judge: &mut Judge) {
    for conversation in &observed.conversations {
        for Said { entry, message, .. } in said(conversation) {
            let Some(mask) = message.map(|message| message.capabilities).filter(|mask| *mask != 0)
            else {
                continue;
            };
            let reserved = mask & !server::ALL;
            judge.quote(entry, reserved != 0);
            let actual = format!("capabilities {mask:#x}");
            judge.expect("INTEROP-08", reserved == 0, "defined bits only", actual);
        }
    }
}

fn offers(observed: &Observed, judge: &mut Judge) {
    for conversation in &observed.conversations {
        let of_agents = agent_masks(conversation);
        let said = said(conversation);
        let of_server = said.iter().fold(0, |all, said| {
            all | said.message.as_ref().map_or(0, |message| message.capabilities)
        });
        for Said { entry, message, .. } in &said {
            let Some(message) = message else { continue };
            // An id the server has just given is not in any message of the agent yet.
            let all = of_agents.masks.values().fold(0, |all, mask| all | mask);
            let mask = of_agents.masks.get(&message.instance_uid).copied().unwrap_or(all);
            for (what, wants, needs) in used(message, of_agents.has_request) {
                let holds = mask == 0 || mask & wants == wants;
                let expected = format!("{what} only for an agent that announces it");
                let actual = format!("{what} for an agent with {:?}", names(AGENT, mask));
                judge.quote(entry, !holds);
                judge.expect("INTEROP-03", holds, expected, actual);
                if needs == 0 || of_server == 0 {
                    continue;
                }
                let holds = of_server & needs != 0;
                let expected = format!("{what} only from a server that announces it");
                let actual = format!("{what} from a server with {:?}", names(SERVER, of_server));
                judge.quote(entry, !holds);
                judge.expect("INTEROP-05", holds, expected, actual);
            }
        }
    }
}

const AGENT: &str = "AgentCapabilities";
const SERVER: &str = "ServerCapabilities";

/// What a message makes use of: its name, the bit the agent has to have announced, and those of
/// which the server has to have one, 0 for none.
fn used(message: &ServerToAgent, is_after_request: bool) -> Vec<(&'static str, u64, u64)> {
    let mut used = Vec::new();
    let mut add = |is_used: bool, what, wants, needs| {
        if is_used {
            used.push((what, wants, needs));
        }
    };
    add(
        message.remote_config.is_some(),
        "remote_config",
        agent::ACCEPTS_REMOTE_CONFIG,
        server::OFFERS_REMOTE_CONFIG,
    );
    add(
        message.packages_available.is_some(),
        "packages_available",
        agent::ACCEPTS_PACKAGES,
        server::OFFERS_PACKAGES,
    );
    let is_restart = message.command.is_some();
    add(is_restart, "a command", agent::ACCEPTS_RESTART_COMMAND, 0);
    let wants_components = message.flags & flag::REPORT_AVAILABLE_COMPONENTS != 0;
    let bit = agent::REPORTS_AVAILABLE_COMPONENTS;
    add(wants_components, "ReportAvailableComponents", bit, 0);
    let Some(settings) = &message.connection_settings else { return used };
    let mut needs = server::OFFERS_CONNECTION_SETTINGS;
    if is_after_request {
        needs |= server::ACCEPTS_CONNECTION_SETTINGS_REQUEST;
    }
    for (is_used, what, wants) in [
        // What an agent has asked for it takes.
        (
            settings.opamp.is_some() && !is_after_request,
            "settings for OpAMP",
            agent::ACCEPTS_OPAMP_CONNECTION_SETTINGS,
        ),
        (settings.own_metrics.is_some(), "settings for metrics", agent::REPORTS_OWN_METRICS),
        (settings.own_traces.is_some(), "settings for traces", agent::REPORTS_OWN_TRACES),
        (settings.own_logs.is_some(), "settings for logs", agent::REPORTS_OWN_LOGS),
        (
            !settings.other_connections.is_empty(),
            "settings for other connections",
            agent::ACCEPTS_OTHER_CONNECTION_SETTINGS,
        ),
    ] {
        add(is_used, what, wants, needs);
    }
    used
}

struct AgentMasks {
    /// Every bit each agent announced so far; an offer may cross a message that takes a bit back.
    masks: HashMap<Bytes, u64>,
    /// Whether any of them asked for connection settings.
    has_request: bool,
}

fn agent_masks(conversation: &Conversation) -> AgentMasks {
    let mut of_agents = AgentMasks { masks: HashMap::new(), has_request: false };
    for entry in conversation.entries.iter().filter(|entry| entry.by == By::Tester) {
        if let Some(message) = entry.agent_to_server() {
            *of_agents.masks.entry(message.instance_uid).or_default() |= message.capabilities;
            of_agents.has_request |= message.connection_settings_request.is_some();
        }
    }
    of_agents
}

/// Something the server said in OpAMP.
struct Said<'a> {
    entry: &'a Entry,
    bytes: Bytes,
    message: Option<ServerToAgent>,
    /// How many messages it got on this connection before.
    asked: usize,
}

/// Everything the server said in OpAMP. What it answers to HTTP requests of other kinds is none.
fn said(conversation: &Conversation) -> Vec<Said<'_>> {
    let mut asked: HashMap<u32, usize> = HashMap::new();
    let mut is_opamp: HashMap<u32, bool> = HashMap::new();
    let mut said = Vec::new();
    for entry in &conversation.entries {
        let connection = entry.connection;
        let bytes = match (entry.by, &entry.event) {
            (By::Tester, Event::Request { method, headers, .. }) => {
                let content_type = field(headers, header::CONTENT_TYPE);
                let posts = *method == Method::POST && content_type.contains("x-protobuf");
                is_opamp.insert(connection, posts);
                *asked.entry(connection).or_default() += usize::from(posts);
                continue;
            }
            (By::Tester, Event::Message { .. } | Event::Raw(_)) => {
                *asked.entry(connection).or_default() += 1;
                continue;
            }
            (By::Subject, Event::Message { payload, .. }) => match body::unframe(payload) {
                Ok((0, length, _)) => payload.slice(length..),
                _ => continue,
            },
            (By::Subject, Event::Response { status: 200, .. })
                if is_opamp.get(&connection) == Some(&true) =>
            {
                // One that cannot be decompressed has nothing that could be read.
                let Some(bytes) = entry.opamp() else { continue };
                bytes
            }
            _ => continue,
        };
        let message = ServerToAgent::decode(bytes.clone()).ok();
        let asked = asked.get(&connection).copied().unwrap_or_default();
        said.push(Said { entry, bytes, message, asked });
    }
    said
}
