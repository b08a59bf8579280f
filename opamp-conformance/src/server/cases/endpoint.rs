//! Where a server is, and how a conversation with it begins.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use tokio::time::timeout;

use crate::case::{Case, Script};
use crate::judge::Stop;
use crate::log::Event;
use crate::mask::agent::REPORTS_STATUS;
use crate::report::{By, Transport};
use crate::server::{Agent, Heard, ServerStage};
use crate::wire::http_client::{Handshake, field};

/// The path of an OpAMP server that is not configured otherwise (NET-03).
const DEFAULT_PATH: &str = "/v1/opamp";

pub(super) const CASES: &[Case] = &[
    Case {
        name: "server/endpoint/served",
        judges: &["NET-01"],
        transports: Transport::BOTH,
        does: "reports as an agent does",
        expects: "the report is answered, over either transport at the same address",
        alone: false,
        broken_by: &[
            "uncompressed-bodies-are-refused",
            "websocket-is-not-served",
            "http-is-not-served",
            "accept-key-is-wrong",
        ],
        script: Script::Server(|stage| Box::pin(served(stage))),
    },
    Case {
        name: "server/endpoint/default-path",
        judges: &["NET-03"],
        transports: Transport::BOTH,
        does: "reports to the path that servers have by default",
        expects: "the report is answered, unless the server is configured to be elsewhere",
        alone: false,
        broken_by: &[
            "uncompressed-bodies-are-refused",
            "websocket-is-not-served",
            "http-is-not-served",
            "accept-key-is-wrong",
        ],
        script: Script::Server(|stage| Box::pin(default_path(stage))),
    },
    Case {
        name: "server/endpoint/handshake",
        judges: &["NET-08"],
        transports: &[Transport::WebSocket],
        does: "opens WebSockets by correct handshakes of several forms",
        expects: "each is accepted as RFC 6455 says, and nothing is agreed on that was not offered",
        alone: false,
        broken_by: &[
            "accept-key-is-wrong",
            "handshake-needs-exact-fields",
            "handshake-agrees-to-more",
            "websocket-is-not-served",
        ],
        script: Script::Server(|stage| Box::pin(handshake(stage))),
    },
];

/// What comes of a first report.
async fn report(agent: &mut Agent) -> Result<Heard, Stop> {
    match agent.connect().await {
        Ok(()) => {
            let report = agent.full_report();
            agent.ask(report).await
        }
        Err(Stop::Unreached(why)) => Ok(Heard::Closed(None, why)),
        Err(stop) => Err(stop),
    }
}

async fn served(stage: &mut ServerStage) -> Result<(), Stop> {
    let mut agent = stage.agent(REPORTS_STATUS);
    let heard = report(&mut agent).await?;
    let expected = format!("a reply over {}", stage.transport.name());
    stage.judge.expect("NET-01", heard.good().is_some(), expected, heard.to_string());
    Ok(())
}

async fn default_path(stage: &mut ServerStage) -> Result<(), Stop> {
    let path = stage.target.url.target.clone();
    let mut agent = stage.agent(REPORTS_STATUS);
    agent.dialer.url.target = DEFAULT_PATH.to_owned();
    let heard = report(&mut agent).await?;
    if heard.good().is_none() && path != DEFAULT_PATH {
        return Err(Stop::NotApplicable(format!("the server is configured to be at {path}")));
    }
    let expected = format!("a reply at {DEFAULT_PATH}");
    stage.judge.expect("NET-03", heard.good().is_some(), expected, heard.to_string());
    Ok(())
}

async fn handshake(stage: &mut ServerStage) -> Result<(), Stop> {
    let forms: [(&str, &[(HeaderName, &str)]); 4] = [
        ("plain", &[]),
        ("with other tokens in Connection", &[(header::CONNECTION, "keep-alive, Upgrade")]),
        ("with Upgrade in capitals", &[(header::UPGRADE, "WebSocket")]),
        (
            "with an extension nobody knows",
            &[(header::SEC_WEBSOCKET_EXTENSIONS, "x-conformance; level=1")],
        ),
    ];
    for (form, fields) in forms {
        let headers: HeaderMap = fields
            .iter()
            .map(|(name, value)| (name.clone(), HeaderValue::from_static(value)))
            .collect();
        let dialer = stage.dialer();
        let problem = match timeout(stage.pace.reply(), dialer.websocket(&headers)).await {
            Ok(Ok(Handshake::Accepted(_))) => problem(&stage.log.entries()),
            Ok(Ok(Handshake::Refused(response))) => Some(format!("status {}", response.status())),
            Ok(Err(lost)) => Some(lost.to_string()),
            Err(_) => Some("no answer".to_owned()),
        };
        let expected = format!("the handshake {form} is accepted with a correct 101");
        let actual = problem.clone().unwrap_or_else(|| "that".to_owned());
        stage.judge.expect("NET-08", problem.is_none(), expected, actual);
    }
    Ok(())
}

/// What is wrong with the last 101; the key has been checked.
fn problem(entries: &[crate::log::Entry]) -> Option<String> {
    let headers = entries.iter().rev().find_map(|entry| match (&entry.by, &entry.event) {
        (By::Subject, Event::Response { status: 101, headers, .. }) => Some(headers),
        _ => None,
    })?;
    let upgrade = field(headers, header::UPGRADE);
    if !upgrade.eq_ignore_ascii_case("websocket") {
        return Some(format!("Upgrade is {upgrade:?}"));
    }
    let connection = field(headers, header::CONNECTION);
    if !connection.split(',').any(|token| token.trim().eq_ignore_ascii_case("upgrade")) {
        return Some(format!("Connection is {connection:?}"));
    }
    let extensions = field(headers, header::SEC_WEBSOCKET_EXTENSIONS);
    if !extensions.is_empty() {
        return Some(format!("the extension {extensions:?}, which was not offered"));
    }
    let protocol = field(headers, header::SEC_WEBSOCKET_PROTOCOL);
    (!protocol.is_empty()).then(|| format!("the subprotocol {protocol:?}, which was not offered"))
}
